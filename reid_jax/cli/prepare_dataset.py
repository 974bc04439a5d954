"""Prepares a data set: checks names, counts and every image, and writes `<root>/prepared/<name>`.

    python scripts/prepare_dataset.py market1501 --source data/market1501
    python scripts/prepare_dataset.py reid_folder --source my_images/list.csv --option title=shop
    python scripts/prepare_dataset.py synthped --option size=demo --option seed=0
    python scripts/prepare_dataset.py unlabelled --source DIR        # crops without identities, for configs/mim.py
    python scripts/prepare_dataset.py --list

Each data set's layout, license and protocol are in datasets/<name>/README.md.
"""

from __future__ import annotations

import argparse
import inspect

from reid_jax import errors
from reid_jax.cli import arguments, command_line, help_pages
from reid_jax.data import builders, catalog, pool, pool_preparation, prepare


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    parser.add_argument("name", nargs="?", help="name of the data set, see --list")
    parser.add_argument("--source", help="raw folder or CSV file (default: ROOT/NAME)")
    parser.add_argument("--root", default="data", help="the folder that holds prepared/ (default: data)")
    parser.add_argument(
        "--on-bad-image", default="fail", help="fail: stop and name the file (default); skip: leave it out and list it"
    )
    parser.add_argument("--strict-counts", action="store_true", help="stop where counts are not the published ones")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the data set")
    parser.add_argument("--force", action="store_true", help="prepare again")
    parser.add_argument("--check", action="store_true", help="check and report everything, write nothing")
    parser.add_argument(
        "--list", action="store_true", help="print the data sets with their license and status, and exit"
    )
    return parser


def _list() -> str:
    """Returns a block for each data set: what it needs, its license, its status."""
    blocks = []
    for name, entry in sorted(catalog.entries().items()):
        facts = [(f"{key}:", entry.about[key]) for key in ("needs", "license", "status")]
        blocks.append(f"{name}\n{help_pages.table(facts, indent='    ')}")
    facts = [("needs:", "a folder of crops, no labels; for masked pretraining (configs/mim.py)"), ("license:", "yours")]
    blocks.append(f"{pool.NAME}\n{help_pages.table(facts, indent='    ')}")
    return "\n".join(blocks)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    if args.list:
        print(_list())
        return 0
    if args.name is None:
        raise errors.UserError(f"expected the name of a data set; known: {', '.join(builders.available())}.")
    arguments.one_of("--on-bad-image", args.on_bad_image, ("fail", "skip"))
    for flag, given in (("--root", args.root), ("--source", args.source)):
        if given is not None:
            arguments.path(flag, given)
    if not args.check:
        arguments.new_folder("--root", args.root)
    options = command_line.parse_options(args.option)
    if reserved := sorted(set(options) & set(inspect.signature(prepare.prepare).parameters)):
        flag = reserved[0].replace("_", "-")
        raise errors.UserError(f"{reserved[0]!r} is no option of a data set; did you mean --{flag}?")
    if args.name == pool.NAME:
        if args.source is None:
            raise errors.UserError("expected --source DIR, the folder of the pool's crops.")
        print(pool_preparation.prepare(args.root, args.source, options))
        return 0
    report = prepare.prepare(
        args.name,
        args.root,
        args.source,
        on_bad_image=args.on_bad_image,
        strict_counts=args.strict_counts,
        force=args.force,
        check_only=args.check,
        **options,
    )
    print(report.text())
    return 0
