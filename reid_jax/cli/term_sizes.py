"""Measures how large the loss terms of a run's phase are beside each other: values, and gradients at the class token.

    python scripts/term_sizes.py runs/cfat-demo --phase align              # with the newest checkpoint
    python scripts/term_sizes.py runs/cfat-started --phase align --at start
    python scripts/term_sizes.py runs/cfat-started --phase align --parameters "bfg/.*"  # its generator

A term whose gradient is a hundredth of the others' is inert. For ViTs.
"""

from __future__ import annotations

import json

from reid_jax import file_io
from reid_jax.cli import arguments, command_line
from reid_jax.runs import gradient_sizes


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = command_line.parser(__doc__)
    parser.add_argument("run", metavar="DIR", help="run folder")
    parser.add_argument("--phase", default="", help="a phase of the config (default: that of a run without phases)")
    parser.add_argument(
        "--at",
        default="end",
        choices=gradient_sizes.PLACES,
        help="before the first step, or newest checkpoint (default)",
    )
    parser.add_argument(
        "--batches", type=arguments.whole(1, 1000), default=4, help="training batches to average over (default: 4)"
    )
    parser.add_argument(
        "--parameters",
        default="",
        help="pattern of names of parameters, whose gradients are measured as well",
    )
    parser.add_argument("--output", default="", help="JSON file to write")
    args = parser.parse_args(argv)
    output = arguments.new_file("--output", args.output, (".json",)) if args.output else None
    folder = str(arguments.run_folder("DIR", args.run))
    sizes = gradient_sizes.of_run(folder, args.phase, args.at, args.batches, args.parameters)
    print(gradient_sizes.table(sizes))
    if output is not None:
        file_io.make_folder(output.parent, "the folder of --output")
        file_io.write_text(
            output, json.dumps({"phase": args.phase, "at": args.at, **sizes}, indent=2) + "\n", "the sizes"
        )
    return 0
