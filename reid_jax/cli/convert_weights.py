"""Converts published weights into this package's format, strictly, and reports every key.

    python scripts/convert_weights.py --model mfv --weights FILE.pth --output DIR
    python scripts/convert_weights.py --model bot --weights resnet50_imagenet --output DIR

A bare residual network's file fills the model's `backbone`; the report then lists the backbone alone.
Writes DIR/weights.npz (arrays by path, "params/..." and "batch_stats/...") and DIR/report.txt, a line for every key.
"""

from __future__ import annotations

import argparse
import collections
import pathlib

import jax
import numpy as np

from reid_jax import file_io, models, trees
from reid_jax.cli import arguments, command_line
from reid_jax.config import option_values, rules
from reid_jax.weights import convert, hub, torch_files, zoo


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the arguments of the command."""
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--model", required=True, help="a model (names: reid-jax extract --list), or package.module:Name"
    )
    parser.add_argument("--weights", required=True, help="a weights file, or a name of reid-jax weights list")
    parser.add_argument("--output", required=True, help="folder for weights.npz and report.txt")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="field of the model")
    parser.add_argument("--into", help="submodule that the file fills; detected for a bare residual network")
    parser.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="PATTERN",
        help="arrays that the file may lack",
    )
    parser.add_argument(
        "--height",
        type=arguments.whole(*arguments.PIXELS),
        help="rows of the model's images (default: the model's own, mostly 256)",
    )
    parser.add_argument(
        "--width", type=arguments.whole(*arguments.PIXELS), help="columns (default: the model's own, mostly 128)"
    )
    parser.add_argument("--verbose", action="store_true", help="print the line of every key, as in report.txt")
    return parser.parse_args(argv)


def _check(settings: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that can be refused before the file is read."""
    name = zoo.lookup(settings.model).model["name"]
    options = command_line.parse_options(settings.option)
    models.check_options(name, list(options))
    option_values.check("--option", models.constructor(name), options)
    arguments.path("--weights", settings.weights)
    arguments.new_folder("--output", settings.output)
    settings.weights = str(hub.resolve(settings.weights, key="--weights"))
    rules.PATTERNS.check("--allow-missing", settings.allow_missing, "repair the pattern")


def classes_in(path: str) -> int:
    """Returns the number of identities of a weights file: rows of its classifier, 1 where it has none."""
    rows = [
        array.shape[0]
        for name, array in torch_files.read_weights(path).items()
        if "classifier" in name and getattr(array, "ndim", 0) == 2
    ]
    return rows[0] if rows else 1


def _load(
    settings: argparse.Namespace,
) -> tuple[dict[str, np.ndarray], convert.Report, dict[str, object], int]:
    """Returns the loaded arrays by path, the report, the model's options, and the number of the model's arrays.

    Raises:
        UserError: weights of another model.
    """
    entry = zoo.lookup(settings.model)
    name, fixed = entry.model["name"], {key: value for key, value in entry.model.items() if key != "name"}
    height, width = settings.height or entry.height, settings.width or entry.width
    sizes = {"image_size": (height, width)} if "image_size" in models.fields(name) else {}
    found = models.options_of_weights(name, settings.weights)
    options = {**fixed, **sizes, **found, **command_line.parse_options(settings.option)}
    options.setdefault("num_classes", classes_in(settings.weights))
    model = models.build(name, **options)
    batch = {
        "image": jax.ShapeDtypeStruct((2, height, width, 3), np.float32),
        "camid": jax.ShapeDtypeStruct((2,), np.int32),
    }
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    shapes = jax.eval_shape(lambda keys, batch: model.init(keys, batch, train=False), keys, batch)
    variables, report = models.load_weights(
        name,
        shapes,
        settings.weights,
        model=model,
        into=settings.into or entry.submodule or None,
        allow_missing=settings.allow_missing,
    )
    flat = trees.flatten(variables)
    arrays = {path: leaf for path, leaf in flat.items() if not isinstance(leaf, jax.ShapeDtypeStruct)}
    return arrays, report, options, len(flat)


def _summary(report: convert.Report) -> str:
    """Returns a line for each outcome with its reason, and the number of keys that had it."""
    counts = collections.Counter(
        (entry.fate, entry.detail if entry.fate == "ignored" else "") for entry in report.entries
    )
    words = {"ignored": "left out", "missing": "not in the file, as allowed", "misfit": "of another shape, as allowed"}
    lines = [
        f"  {count:>6,} {words.get(fate, fate)}{f': {reason}' if reason else ''}"
        for (fate, reason), count in counts.items()
    ]
    return "\n".join([*lines, *(f"  {note}" for note in report.notes)])


def main(argv: list[str]) -> int:
    """Converts the file and returns the exit code; nothing is written for weights that do not fit."""
    settings = parse(argv)
    _check(settings)
    try:
        arrays, report, options, wanted = _load(settings)
    except convert.ConversionError as error:
        if settings.verbose:
            print(error.report.table())
        raise
    source = pathlib.Path(settings.weights).name
    print(f"{source} in {settings.model}:\n{_summary(report)}")
    if settings.verbose:
        print(report.table())
    output = pathlib.Path(settings.output)
    meta = {"model": settings.model, "options": options, "source": source}
    convert.save(output / "weights.npz", trees.unflatten(arrays), meta)
    file_io.write_text(output / "report.txt", report.table() + "\n", "the report")
    print(f"wrote {output / 'weights.npz'}: {len(arrays):,} of the model's {wanted:,} arrays")
    print(f"wrote {output / 'report.txt'}: a line for every key")
    return 0
