"""Lists published weights, brings their files onto this machine, and writes those of a run to a file.

    python scripts/weights.py list                           # names, licenses, what is here
    python scripts/weights.py get resnet50_imagenet          # fetches the file, prints its path
    python scripts/weights.py get resnet50_imagenet --offline   # only looks on this machine
    python scripts/weights.py export runs/mfv-demo mfv.npz   # a trained model; or .safetensors

A name stands wherever a weights file does: --config.init.weights=NAME, --weights NAME. Files are kept in
~/.cache/reid_jax/weights, or where the environment variable REID_JAX_WEIGHTS says; those that torchvision and torchreid
keep are found as well. With REID_JAX_OFFLINE=1 nothing is fetched. Another run starts from an exported file, or from
the run folder itself, with --config.init.weights=FILE.
"""

from __future__ import annotations

import logging
import os
import sys

from reid_jax import errors
from reid_jax.cli import arguments, command_line, help_pages
from reid_jax.weights import hub, weight_tables


def _listing() -> str:
    """Returns a table: name, whether the file is on this machine, and what it is; licenses below it, once each."""
    rows, notes = [], []
    licenses: dict[str, list[str]] = {}
    conditions: dict[str, None] = {}
    for name, entry in hub.ENTRIES.items():
        try:
            place = "here" if hub.locate(name) else "to fetch" if entry.url else "by hand"
        except errors.UserError as error:
            place = "damaged"
            notes.append(f"{name}: {error}")
        size = f"{entry.megabytes:.0f}" if entry.parameters else "?"
        dimension = str(entry.dimension or "?")
        rows.append((name, place, size, dimension, f"{entry.trained_on} ({entry.publisher})"))
        license, _, terms = entry.license.partition("; ")
        publishers = licenses.setdefault(license, [])
        publishers += [entry.publisher] * (entry.publisher not in publishers)
        conditions |= dict.fromkeys([terms] if terms else [])
        if not entry.url:
            notes.append(f"by hand: {entry.file} from {entry.page}")
    titles = ("name", "file", "MB", "D", "trained on (source)")
    named = ", ".join(f"{license} ({', '.join(publishers)})" for license, publishers in licenses.items())
    legend = [
        help_pages.wrapped(f"licenses: {'; '.join([named, *conditions])}"),
        "MB: about, from the number of parameters; D: length of the model's feature",
        "to fetch: weights get NAME, or a run that names it; get NAME --offline says which file belongs where",
        f"folder: {hub.folder()}",
    ]
    return "\n".join([help_pages.table([titles, *rows]), "", *notes, *legend])


def _export(names: list[str], best: bool) -> None:
    """Writes the variables of a run to a file."""
    if len(names) != 2:
        raise errors.UserError(
            f"expected a run folder and a file after export, got {len(names) or 'nothing'}"
            f"{' names' if len(names) > 1 else ' name' if names else ''}; for example export runs/mfv-demo mfv.npz."
        )
    run, output = names
    arguments.run_folder("the run", run)
    arguments.new_file("the output", output, weight_tables.ENDINGS)
    from reid_jax.runs import weights_export  # loads JAX

    print(weights_export.write(run, output, best=best))
    print(output)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = command_line.parser(__doc__)
    parser.add_argument("action", choices=("list", "get", "export"), help="what to do")
    parser.add_argument("names", nargs="*", metavar="NAME", help="get: names of the list; export: run folder and file")
    parser.add_argument("--offline", action="store_true", help="with get: fetch nothing, look on this machine only")
    parser.add_argument("--best", action="store_true", help="with export: the checkpoint with the best mAP")
    args = parser.parse_args(argv)
    if args.best and args.action != "export":
        raise errors.UserError("--best is for export, which takes the newest checkpoint otherwise; leave it out.")
    if args.offline and args.action != "get":
        raise errors.UserError("--offline is for get; leave it out.")
    if args.action == "export":
        _export(args.names, args.best)
        return 0
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
