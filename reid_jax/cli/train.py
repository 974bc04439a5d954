"""Trains and evaluates a system.

    python scripts/main.py --config configs/mfv.py              # demo on the embedded data set
    python scripts/main.py --config configs/mfv.py:market1501 --workdir runs/mfv-market
    python scripts/main.py --config configs/mfv.py:help         # presets and variants
    python scripts/main.py --config configs/mfv.py:market1501 --print_config     # resolved, as JSON
    python scripts/main.py --config configs/mfv.py --config.train.epochs=5 --config.seed=1

The same command again resumes; with --extend and a larger --config.train.epochs a complete run continues. On several
hosts, one process each: under SLURM, on a TPU pod slice or on GKE the cluster is detected; by hand add --coordinator
HOST:PORT --num_processes N --process_id I.
"""

from __future__ import annotations

from absl import flags
from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.cli import arguments, failures
from reid_jax.runs import start_files
from reid_jax.runtime import cluster, compilation, determinism

# The trace of a step has some megabytes, and a viewer opens few hundred.
MOST_PROFILED = 100

flags.DEFINE_string("workdir", None, "Run folder (default: runs/<system>-<preset>[-<variant>...]).")
flags.DEFINE_enum(
    "mode",
    "train_and_eval",
    ["train", "eval", "train_and_eval"],
    "Train, evaluate the newest checkpoint, or both (default).",
)
flags.DEFINE_bool(
    "extend", False, "Continue the run in --workdir for more epochs, with a larger --config.train.epochs."
)
flags.DEFINE_bool("print_config", False, "Print the resolved config as JSON and exit.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, for several processes started by hand.")
flags.DEFINE_integer("num_processes", None, "Number of processes, with --coordinator.")
flags.DEFINE_integer("process_id", None, "Number of this process, from 0, with --coordinator.")
flags.DEFINE_string(
    "preemption_notice", None, "gce, aws, azure or a file: saves and stops when it says that the machine is taken away."
)
flags.DEFINE_string(
    "profile", None, "FROM:TO, steps from 1: records them into the run folder, for TensorBoard or Perfetto."
)
flags.DEFINE_string("compilation_cache", None, compilation.HELP)  # read by `command_line.keep_programs`
flags.DEFINE_bool("deterministic", False, determinism.HELP)  # likewise


def main(config: ConfigDict) -> int:
    """Trains, evaluates or both, as the flags say, and returns the exit code.

    Args:
        config: the resolved config.
    """
    given = flags.FLAGS
    if given.print_config:
        print(config_lib.to_json(config))
        return 0
    profile = None if given.profile is None else _steps(given.profile, given.mode)
    if given.extend and given.mode == "eval":
        raise errors.UserError("expected --extend with training, got --mode=eval, which trains nothing; leave one out.")
    if cluster.detect(given.coordinator, given.num_processes, given.process_id) is None:
        start_files.check(config, given.workdir, given.mode, extend=given.extend)
    # Imported here because loading JAX takes seconds: a misspelled flag, a value out of range, missing weights and
    # `--print_config` are answered before.
    from reid_jax.runs import launch
    from reid_jax.runtime import processes, spot_notices

    with processes.session(given.coordinator, given.num_processes, given.process_id, explain=failures.explain):
        if given.preemption_notice is not None:
            spot_notices.watch(given.preemption_notice)
        return launch.run(config, workdir=given.workdir, mode=given.mode, profile=profile, extend=given.extend)


def _steps(text: str, mode: str) -> tuple[int, int]:
    """Returns the steps that `--profile` names; raises a `UserError` for others."""
    if mode == "eval":
        raise errors.UserError(
            "expected --profile with training steps, got --mode=eval, which has none; leave one out."
        )
    return arguments.steps("--profile", text, MOST_PROFILED)
