"""Converts published weights into this package's format, strictly, and reports every key.

    python scripts/convert_weights.py --model mfv --weights FILE.pth --output DIR

A bare residual network's file fills the model's `backbone`; the report then lists the backbone alone.
Writes DIR/weights.npz (arrays by path, "params/..." and "batch_stats/...") and DIR/report.txt.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import numpy as np

from reid_jax import file_io, models, trees
from reid_jax.cli import arguments, command_line
from reid_jax.config import option_values, rules
from reid_jax.plugins import names
from reid_jax.weights import convert, hub, torch_files


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the arguments of the command."""
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--model", required=True, help=f"one of {', '.join(sorted(models.MODELS))}, or package.module:Name"
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
        default=256,
        help="input height of the model (default: 256)",
    )
    parser.add_argument(
        "--width", type=arguments.whole(*arguments.PIXELS), default=128, help="input width (default: 128)"
    )
    return parser.parse_args(argv)


def _check(settings: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that can be refused before the file is read."""
    models.check_options(settings.model, [])
    options = command_line.parse_options(settings.option)
    models.check_options(settings.model, list(options))
    option_values.check("--option", names.find("model", settings.model, models.MODELS), options)
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


def main(argv: list[str]) -> int:
    """Converts the file and returns the exit code; nothing is written for weights that do not fit."""
    settings = parse(argv)
    _check(settings)
    sizes = {"image_size": (settings.height, settings.width)} if "image_size" in models.fields(settings.model) else {}
    found = models.options_of_weights(settings.model, settings.weights)
    options = {**sizes, **found, **command_line.parse_options(settings.option)}
    options.setdefault("num_classes", classes_in(settings.weights))
    model = models.build(settings.model, **options)
    batch = {
        "image": jax.ShapeDtypeStruct((2, settings.height, settings.width, 3), np.float32),
        "camid": jax.ShapeDtypeStruct((2,), np.int32),
    }
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    shapes = jax.eval_shape(lambda keys, batch: model.init(keys, batch, train=False), keys, batch)
    try:
        variables, report = models.load_weights(
            settings.model,
            shapes,
            settings.weights,
            model=model,
            into=settings.into,
            allow_missing=settings.allow_missing,
        )
    except convert.ConversionError as error:
        print(error.report.table())
        raise
    print(report.table())
    output = pathlib.Path(settings.output)
    flat = trees.flatten(variables)
    arrays = {path: leaf for path, leaf in flat.items() if not isinstance(leaf, jax.ShapeDtypeStruct)}
    meta = {"model": settings.model, "options": options, "source": pathlib.Path(settings.weights).name}
    convert.save_npz(output / "weights.npz", trees.unflatten(arrays), meta)
    file_io.write_text(output / "report.txt", report.table() + "\n", "the report")
    print(f"wrote {output / 'weights.npz'}: {len(arrays)} of the model's {len(flat)} arrays")
    return 0
