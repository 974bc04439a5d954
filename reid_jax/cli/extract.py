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

from reid_jax import errors
from reid_jax.cli import arguments, command_line, model_choice
from reid_jax.config import rules


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    model_choice.add(parser)
    parser.add_argument(
        "--images", metavar="PATH", help="folder of images, one image, or data set; default: the run's data set"
    )
    parser.add_argument("--dataset", metavar="NAME", help="read --images as this data set; 'plain': as images alone")
    parser.add_argument("--on-bad-image", default="fail", help="fail: stop and name it (default); skip: leave it out")
    parser.add_argument("--output", metavar="FILE", help="the features file, ending in .npz")
    parser.add_argument("--metric", help="euclidean, cosine or package.module:Name; stored in place of the model's own")
    parser.add_argument("--batch-size", type=arguments.whole(1, 65_536), help="images per batch (default: 64)")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that can be refused before JAX is loaded, which takes seconds."""
    model_choice.check(args)
    if args.model and not args.images:
        raise errors.UserError("expected --images PATH, a folder of images, an image or a data set; see --help.")
    if args.images and not arguments.path("--images", args.images).expanduser().exists():
        raise errors.UserError(
            f"expected an image or a folder of images, there is no {rules.plain(args.images)}; give --images PATH."
        )
    if args.dataset and not args.images:
        raise errors.UserError("--dataset says how to read --images PATH, which was not given; add it.")
    if not args.output:
        raise errors.UserError("expected --output FILE, such as features.npz.")
    arguments.new_file("--output", args.output, (".npz",))
    arguments.one_of("--on-bad-image", args.on_bad_image, ("fail", "skip"))
    model_choice.find_weights(args)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    if args.list:
        print(model_choice.listing())
        return 0
    _check(args)

    from reid_jax import build
    from reid_jax.evaluation import distance_blocks
    from reid_jax.inference import features, sources

    if args.metric is not None:
        distance_blocks.check_metric(args.metric)
    output = features.check_output(args.output)
    source = None
    if args.images:
        source = sources.open_source(args.images, dataset=args.dataset, on_bad_image=args.on_bad_image)
    extractor, variables = model_choice.load(args, evals__batch_size=args.batch_size)
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
