"""The process that compiles programs of one config for one target, see `ahead_rows`.

    python -m reid_jax.benchmarks.ahead_worker '{"target": "gpu:h100x8", "config": "mfv", "options": {}, "programs": …}'

"programs" are pairs such as ["train", 64], a kind and the images on each chip; "quick" asks for the compiler's least
effort. It prints a row as JSON for each, in order. A compilation cannot be interrupted; whoever waits for it ends the
process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from reid_jax import errors
from reid_jax.benchmarks import ahead, targets
from reid_jax.ops import platforms


def main(arguments: list[str]) -> int:
    """Compiles the programs of a task, given as JSON, and returns 0."""
    task = json.loads(arguments[0])
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what compilers print
    target = targets.parse(task["target"])
    mesh = targets.create_mesh(target)
    known: dict[str, ahead.Abstract] = {}
    with platforms.tracing_for(target.platform):
        for kind, batch in task["programs"]:
            try:
                if kind not in known:
                    known[kind] = ahead.program(target, task["config"], kind, task["options"])
                row: dict[str, Any] = ahead.compile_for(target, known[kind], mesh, batch, quick=task["quick"])
            except (RuntimeError, ValueError, NotImplementedError) as error:  # what XLA raises
                row = {"note": f"does not compile: {errors.reason(error, 300)}"}
            print(json.dumps(row), file=output, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
