"""Extracts the features of images with a model and writes them to a file (.npz).

    python scripts/extract.py --weights osnet_x0_25_msmt17 --images photos --output features.npz
    python scripts/extract.py --model bot --weights resnet50.pth --images photos --output photos.npz
    python scripts/extract.py --run runs/mfv-demo --images data/market1501 --output market.npz
    python scripts/extract.py --run runs/mfv-demo --output features.npz  # the run's own data set
    python scripts/extract.py --list                                     # names of models

A folder of images, or one image, gives `features` and `names`. A data set (the layout of any builder in datasets/, a
folder with query/ and gallery/, a CSV file, or a prepared folder) gives query and gallery features, ready for
scripts/evaluate.py. Size, interpolation and normalization are the model's own and are written into `meta`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from reid_jax import errors
from reid_jax.cli import arguments, command_line, help_pages
from reid_jax.config import sections
from reid_jax.weights import hub, zoo

OF_MODEL = ("weights", "random_weights", "height", "width", "interpolation", "option")


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    parser.add_argument("--run", metavar="DIR", help="run folder: its newest checkpoint")
    parser.add_argument("--best", action="store_true", help="with --run: the checkpoint with the best mAP instead")
    parser.add_argument("--model", metavar="NAME", help="a model of --list, or package.module:Name; needs --weights")
    parser.add_argument(
        "--weights", metavar="FILE", help="with --model: a weights file, or a name of reid-jax weights list"
    )
    parser.add_argument("--random-weights", action="store_true", help="with --model: an untrained network, for trials")
    parser.add_argument(
        "--seed", type=arguments.whole(*arguments.SEED), default=0, help="with --random-weights (default: 0)"
    )
    parser.add_argument(
        "--height",
        type=arguments.whole(*arguments.PIXELS),
        help="with --model: rows of the images, in place of the model's own",
    )
    parser.add_argument("--width", type=arguments.whole(*arguments.PIXELS), help="with --model: columns")
    parser.add_argument("--interpolation", help="with --model: bilinear or bicubic")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="with --model: a field of it"
    )
    parser.add_argument(
        "--images", metavar="PATH", help="folder of images, one image, or data set; default: the run's data set"
    )
    parser.add_argument("--dataset", metavar="NAME", help="read --images as this data set; 'plain': as images alone")
    parser.add_argument("--on-bad-image", default="fail", help="fail: stop and name it (default); skip: leave it out")
    parser.add_argument("--output", metavar="FILE", help="the features file, ending in .npz")
    parser.add_argument("--metric", help="euclidean, cosine or package.module:Name; stored in place of the model's own")
    parser.add_argument("--batch-size", type=arguments.whole(1, 65_536), help="images per batch (default: 64)")
    parser.add_argument("--flip", action="store_true", default=None, help="average with the mirror image")
    parser.add_argument("--dtype", help="compute in auto (default), float32 or bfloat16")
    parser.add_argument("--list", action="store_true", help="print the models and exit")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that can be refused before JAX is loaded, which takes seconds."""
    if args.weights and not args.run and not args.model:
        args.model = zoo.of_weights(args.weights)
    if bool(args.run) == bool(args.model):
        raise errors.UserError("expected either --run DIR or --model NAME with --weights FILE; see --help.")
    if args.run:
        for name in OF_MODEL:
            if getattr(args, name):
                flag = name.replace("_", "-")
                raise errors.UserError(f"--{flag} needs --model; a run folder has its own, leave it out.")
    if args.model:
        zoo.lookup(args.model)
        if args.best:
            raise errors.UserError("--best needs --run; leave it out.")
        if bool(args.weights) == args.random_weights:
            raise errors.UserError(
                f"model {args.model!r} needs --weights FILE or NAME (reid-jax weights list), or --random-weights for "
                "an untrained network, one of the two."
            )
        if not args.images:
            raise errors.UserError("expected --images PATH, a folder of images, an image or a data set; see --help.")
    if args.dataset and not args.images:
        raise errors.UserError("--dataset says how to read --images PATH, which was not given; add it.")
    if not args.output:
        raise errors.UserError("expected --output FILE, such as features.npz.")
    if args.weights is not None:
        arguments.path("--weights", args.weights)
    arguments.new_file("--output", args.output, (".npz",))
    arguments.one_of("--on-bad-image", args.on_bad_image, ("fail", "skip"))
    arguments.one_of("--interpolation", args.interpolation, sections.INTERPOLATIONS)
    arguments.one_of("--dtype", args.dtype, ("auto", "float32", "bfloat16"))
    command_line.parse_options(args.option)
    if args.weights is not None:
        args.weights = str(hub.resolve(args.weights, key="--weights"))


def _overrides(args: argparse.Namespace) -> Mapping[str, Any]:
    return {
        "data.height": args.height,
        "data.width": args.width,
        "data.interpolation": args.interpolation,
        "evals.batch_size": args.batch_size,
        "evals.flip": args.flip,
        "dtype": args.dtype,
    }


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    if args.list:
        rows = [(name, f"{entry.height}x{entry.width}", entry.metric, entry.notes) for name, entry in zoo.ZOO.items()]
        print(help_pages.table([("model", "image", "distance", "which weights"), *rows]))
        return 0
    _check(args)

    from reid_jax import build
    from reid_jax.evaluation import distance_blocks
    from reid_jax.inference import features, published, sources
    from reid_jax.runs import trained

    if args.metric is not None:
        distance_blocks.check_metric(args.metric)
    output = features.check_output(args.output)
    source = None
    if args.images:
        source = sources.open_source(args.images, dataset=args.dataset, on_bad_image=args.on_bad_image)
    options, overrides = command_line.parse_options(args.option), _overrides(args)
    if args.run:
        extractor, variables = trained.from_run(args.run, best=args.best, overrides=overrides)
    elif args.random_weights:
        extractor, variables = published.from_seed(args.model, args.seed, options=options, overrides=overrides)
    else:
        extractor, variables = published.from_weights(args.model, args.weights, options=options, overrides=overrides)
    if source is None:
        source = sources.of_dataset(build.open_data(extractor.settings.data))
    counts = features.counts({name: len(split) for name, split in source.splits.items()})
    print(f"{source.kind}: {counts}")
    for note in source.notes:
        print(f"warning: {note.rstrip('.')}.")
    outcome = features.write_features(extractor, variables, source, output, metric=args.metric)
    print(outcome.text())
    print(output)
    return 0
