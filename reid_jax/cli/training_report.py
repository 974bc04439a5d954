"""Writes the report of a run, a page with curves, scores and config, from its folder alone.

    python scripts/training_report.py runs/mfv-demo           # writes runs/mfv-demo/report.html
    python scripts/training_report.py runs/*                  # of several runs

Every run writes it at its end; this command does it for a run that is still going, was interrupted, or was made by an
earlier version. The page of ranked lists needs the model: python scripts/evaluate.py --run DIR --html FILE.
"""

from __future__ import annotations

from reid_jax.cli import arguments, command_line
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import report_page


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = command_line.parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="DIR", help="run folders")
    args = parser.parse_args(argv)
    folders = []
    for given in args.runs:
        folder = folder_lib.RunFolder(arguments.run_folder("DIR", given))
        folder.read_config()  # all of them before the first page
        folders.append(folder)
    for folder in folders:
        written = report_page.write(folder)
        if folder.mirror is not None:
            folder.mirror.store.upload(written, written.name)
        print(written if folder.mirror is None else f"{folder.place}/{written.name}")
    return 0
