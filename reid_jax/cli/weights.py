"""Lists published weights and brings their files onto this machine.

    python scripts/weights.py list                              # names, sources, licenses, what is here
    python scripts/weights.py get resnet50_imagenet             # fetches the file and prints its path
    python scripts/weights.py get resnet50_imagenet --offline   # only looks on this machine

A name stands wherever a weights file does: --config.init.weights=NAME, --weights NAME. Files are kept in
~/.cache/reid_jax/weights, or where the environment variable REID_JAX_WEIGHTS says; those that torchvision and torchreid
keep are found as well. With REID_JAX_OFFLINE=1 nothing is fetched.
"""

from __future__ import annotations

import logging
import os
import sys

from reid_jax import errors
from reid_jax.cli import command_line
from reid_jax.weights import hub


def _listing() -> str:
    """Returns a block of lines for each name: file, source, license, and where it is on this machine."""
    lines = []
    for name, entry in hub.ENTRIES.items():
        try:
            path = hub.locate(name)
            here = f"here: {path}" if path else "not here"
        except errors.UserError as error:
            here = f"damaged: {error}"
        if path is None and not entry.url:
            here = f"not here; to be fetched by hand from {entry.page}"
        lines += [
            f"{name}: {entry.trained_on} ({entry.publisher}; {entry.license})",
            f"    {entry.file}",
            f"    {here}",
        ]
    return "\n".join([*lines, "", f"folder: {hub.folder()}"])


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = command_line.parser(__doc__)
    parser.add_argument("action", choices=("list", "get"), help="what to do")
    parser.add_argument("names", nargs="*", metavar="NAME", help="with get: one or more names of the list")
    parser.add_argument("--offline", action="store_true", help="with get: fetch nothing, look on this machine only")
    args = parser.parse_args(arguments)
    if args.action == "list":
        if args.names:
            raise errors.UserError(f"list takes no name, got {args.names[0][:80]!r}; leave it out.")
        print(_listing())
        return 0
    if not args.names:
        raise errors.UserError("expected a name after get, got none; list shows the names.")
    for name in args.names:
        if name not in hub.ENTRIES:
            raise errors.unknown("weights", name[:80], hub.ENTRIES)
    if args.offline:
        os.environ[hub.OFFLINE] = "1"
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    for name in args.names:
        print(hub.get(name))
    return 0
