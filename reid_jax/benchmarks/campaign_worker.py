"""The process of a campaign that holds the device: measures the parts it is given, one after another.

    python -m reid_jax.benchmarks.campaign_worker FOLDER SECONDS PART,PART,... [quick] [torch] [evidence=PLAN]

It prints `begin NAME` and `end NAME`, by which `campaign` watches the time, and writes the record of each part.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable

from reid_jax import errors
from reid_jax.benchmarks import campaign, campaign_evidence, campaign_parts


def main(arguments: list[str]) -> int:
    """Measures parts until the time is over, and returns 0.

    Args:
        arguments: folder, seconds, names of the parts by commas, then "quick" and "torch" where they apply, and
            "evidence=PLAN" for the runs of an evidence plan.
    """
    path, seconds, names, *options = arguments
    deadline = time.monotonic() + float(seconds)
    folder = campaign.Folder(path)
    say = _only_speaker()
    limits, measure = _parts(folder, options)
    for name in names.split(","):
        if deadline - time.monotonic() < min(campaign.LEAST, limits[name]):
            break
        say(f"begin {name}")
        folder.write(name, campaign.RUNNING)
        began = time.monotonic()
        try:
            rows = measure(name)
        except Exception as error:  # a part may fail for any reason, and the next is measured all the same
            reason = f"{type(error).__name__}: {errors.reason(error, 600)}"
            folder.write(name, campaign.FAILED, error=reason, seconds=round(time.monotonic() - began, 1))
        else:
            folder.write(name, campaign.DONE, rows, seconds=round(time.monotonic() - began, 1))
        say(f"end {name}")
    return 0


def _parts(folder: campaign.Folder, options: list[str]) -> tuple[dict[str, float], Callable[[str], list[campaign.Row]]]:
    """Returns the seconds of every part of the campaign by its name, and what measures a part."""
    quick = "quick" in options
    plan = next((option.partition("=")[2] for option in options if option.startswith("evidence=")), "")
    if plan:
        tables = campaign_evidence.read(plan, quick)
        found = {part.name: part.seconds for part in campaign_evidence.parts(tables)}
        return found, lambda name: campaign_evidence.measure(name, folder, tables)
    task = campaign_parts.Task(folder, quick=quick, torch="torch" in options)
    found = {part.name: part.seconds for part in campaign.plan(quick)}
    return found, lambda name: campaign_parts.measure(name, task)


def _only_speaker() -> Callable[[str], None]:
    """Returns a function that prints to the output of this process; what libraries print goes to its errors."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(line, file=output, flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
