"""The arguments by which a command takes a trained model: a run folder, or a model by name with its weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from reid_jax import errors
from reid_jax.cli import arguments, command_line, help_pages
from reid_jax.config import sections
from reid_jax.weights import hub, zoo

if TYPE_CHECKING:
    from reid_jax.inference import extractor as extractor_lib

_OF_MODEL = ("weights", "random_weights", "height", "width", "interpolation", "option")


def add(parser: argparse._ActionsContainer) -> None:
    """Adds the arguments to a command, or to a group of its arguments."""
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
    parser.add_argument("--flip", action="store_true", default=None, help="average with the mirror image")
    parser.add_argument("--dtype", help="compute in auto (default), float32 or bfloat16")
    parser.add_argument("--list", action="store_true", help="print the models and exit")


def check(args: argparse.Namespace) -> None:
    """Checks what can be refused before JAX is loaded, which takes seconds.

    Raises:
        UserError: arguments that contradict each other, an unknown name, or weights that are not there.
    """
    if args.weights and not args.run and not args.model:
        args.model = zoo.of_weights(args.weights)
    if bool(args.run) == bool(args.model):
        raise errors.UserError("expected either --run DIR or --model NAME with --weights FILE; see --help.")
    if args.run:
        for name in _OF_MODEL:
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
    if args.weights is not None:
        arguments.path("--weights", args.weights)
    arguments.one_of("--interpolation", args.interpolation, sections.INTERPOLATIONS)
    arguments.one_of("--dtype", args.dtype, ("auto", "float32", "bfloat16"))
    command_line.parse_options(args.option)


def find_weights(args: argparse.Namespace) -> None:
    """Puts the path of the weights in place of their name; fetches them where that is allowed."""
    if args.weights is not None:
        args.weights = str(hub.resolve(args.weights, key="--weights"))


def listing() -> str:
    """Returns a table of the models that can be named."""
    rows = [(name, f"{entry.height}x{entry.width}", entry.metric, entry.notes) for name, entry in zoo.ZOO.items()]
    return help_pages.table([("model", "image", "distance", "which weights"), *rows])


def load(args: argparse.Namespace, **overrides: Any) -> tuple[extractor_lib.Extractor, dict[str, Any]]:
    """Returns the extractor of the chosen model, and its variables.

    Args:
        args: the arguments, checked.
        **overrides: further keys of the config; the part in front of "__" is the section. None keeps a value.
    """
    from reid_jax.inference import published
    from reid_jax.runs import trained

    changes = {
        "data.height": args.height,
        "data.width": args.width,
        "data.interpolation": args.interpolation,
        "evals.flip": args.flip,
        "dtype": args.dtype,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    if args.run:
        return trained.from_run(args.run, best=args.best, overrides=changes)
    options = command_line.parse_options(args.option)
    if args.random_weights:
        return published.from_seed(args.model, args.seed, options=options, overrides=changes)
    return published.from_weights(args.model, args.weights, options=options, overrides=changes)
