"""The command `reid-jax`: every script as a subcommand, also without a checkout.

reid-jax train --config mfv:demo
reid-jax evaluate --run runs/mfv-demo
"""

from __future__ import annotations

import gc
import sys

from reid_jax import errors
from reid_jax.cli import pipes
from reid_jax.runtime import allocator, interruption

USER_MISTAKE = 2  # exit code

# Subcommand: its module in this folder, and what it does.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train", "trains and evaluates a system"),
    "prepare-dataset": ("prepare_dataset", "turns published files or your own images into a prepared data set"),
    "contact-sheet": ("contact_sheet", "draws images of a data set on one sheet"),
    "evaluate": ("evaluate", "computes CMC, mAP and mINP from a run or a features file"),
    "term-sizes": ("term_sizes", "measures how large the loss terms of a run are beside each other"),
    "training-report": ("training_report", "writes the report of a run from its folder"),
    "extract": ("extract", "writes the features of images to a file"),
    "search": ("search", "keeps a gallery of known images and asks it who is in an image"),
    "explain": ("explain", "draws what a model looks at, and why two images match"),
    "export": ("export", "writes a model as StableHLO or ONNX for other programs"),
    "weights": ("weights", "lists published weights, fetches their files, exports those of a run"),
    "convert-weights": ("convert_weights", "converts published weights"),
    "benchmark": ("benchmark", "measures speed and memory"),
    "ablate": ("ablate", "runs the rows of an ablation table"),
    "check-resume": ("check_resume", "kills and resumes a run and compares it with an undisturbed one"),
}

# These compile programs and keep them for the next start; `benchmark` does where asked, for it measures compilation.
KEEPING = ("train", "evaluate", "extract", "search", "explain", "export", "ablate", "check-resume")


def run(command: str) -> None:
    """Runs a subcommand with the arguments of this process and ends the process.

    Args:
        command: a key of `COMMANDS`.
    """
    allocator.restart_with_huge_pages()
    interruption.install()
    # Python looks for garbage in circles after 700 new objects: a sixth of the time of imports and tracing.
    gc.set_threshold(100_000)
    # Imported here, after the handlers are in place: loading the libraries takes a second.
    from reid_jax.cli import command_line

    # Before the command's module is loaded, for JAX reads its environment when it is imported.
    command_line.keep_programs(by_default=command in KEEPING)
    module = command_line.load(f"reid_jax.cli.{COMMANDS[command][0]}")
    if command == "train":
        command_line.run_with_config(module.main, module.__doc__)
    else:
        command_line.run(module.main)


def main() -> None:
    """Entry point of `reid-jax COMMAND [arguments]`; ends the process, with exit code 2 after a user's mistake."""
    interruption.install()
    pipes.forgive()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print("usage: reid-jax COMMAND [arguments]; see reid-jax COMMAND --help.\n")
        print("\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()))
        sys.exit(0 if arguments else USER_MISTAKE)
    if arguments[0] not in COMMANDS:
        print(f"error: {errors.unknown('command', arguments[0], COMMANDS)}", file=sys.stderr)
        sys.exit(USER_MISTAKE)
    sys.argv = [f"reid-jax {arguments[0]}", *arguments[1:]]
    run(arguments[0])
