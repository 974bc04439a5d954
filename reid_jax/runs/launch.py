"""Entry point of a run: claims the run folder, logs a headline, runs the experiment, and prints the scores."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors, file_io
from reid_jax.config import files
from reid_jax.plugins import record
from reid_jax.runs import experiment, extension, report_page, results, start_checks
from reid_jax.runs import folder as folder_lib
from reid_jax.runtime import compilation, folder_lock, processes, start_agreement
from reid_jax.train import metrics, profiling

LOG = logging.getLogger(__name__)


def run(
    config: ConfigDict,
    *,
    workdir: str | None = None,
    mode: str = "train_and_eval",
    profile: tuple[int, int] | None = None,
    extend: bool = False,
) -> int:
    """Runs an experiment in a folder and returns the exit code 0; the same call resumes an interrupted run.

    A complete run is not repeated: its scores are printed.

    Args:
        config: resolved config.
        workdir: run folder; None names it after system, preset and variants.
        mode: "train" stops after training, "eval" evaluates the newest checkpoint, "train_and_eval" does both.
        profile: first and last step, from 1, that the profiler records into the folder; None records none.
        extend: whether the config may be longer than that of the run in the folder, which then continues, see
            `extension`.

    Raises:
        UserError: invalid config or data, or a folder that belongs to another run.
    """
    metrics.quiet_libraries()
    config = _with_code(config)
    folder = folder_lib.RunFolder(workdir or folder_lib.default_path(config))
    if mode == "eval":
        folder.read_config()
    start_agreement.check(
        the_config=config_lib.config_hash(config),
        own_code=" ".join(module["sha256"] for module in config.get("code", ())),
    )
    finished, warning = _finished(folder, config, extend) if processes.is_main() else (None, "")
    if mode != "eval" and processes.broadcast_text("complete" if finished else "open") == "complete":
        if finished:
            print(results.summary(finished))
            print(f"{folder.place} is complete ({finished['steps']} steps); for a new run give another --workdir.")
        return 0
    with _claimed(folder, config, extend), metrics.log_to(folder.path, active=processes.is_main()):
        LOG.info("%s", _headline(config, folder))
        if compilation.news():
            LOG.info("%s", compilation.news())
        if warning:
            LOG.warning("%s", warning)
        if mode != "eval" and not folder.has_checkpoint():
            start_checks.check(config)
        result = experiment.Experiment(config).run(
            folder,
            train=mode != "eval",
            evaluate=mode != "train",
            profile=None if profile is None else profiling.Steps(*profile),
        )
        if processes.is_main() and result is None:
            report_page.write(folder)
    if processes.is_main() and result is not None:
        print(results.summary(result))
        files = "result.json, " if folder.result.is_file() else ""
        print(f"written: {folder.place}/ ({files}ranked_lists.html, report.html, metrics.jsonl, checkpoints/, log.txt)")
    return 0


@contextlib.contextmanager
def _claimed(folder: folder_lib.RunFolder, config: ConfigDict, extend: bool = False) -> Iterator[None]:
    """Holds the folder's lock on the main process, and writes the config to a new folder. A collective.

    Folders that this run makes go again if it ends before it has trained a step.
    """
    made = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    if folder.mirror is not None:
        made = [folder.path] if folder.mirror.is_new() else []
        folder.mirror.reads_checkpoints = processes.is_main()
    with contextlib.ExitStack() as stack:
        if processes.is_main():
            file_io.make_folder(folder.path, "the run folder (--workdir)")
            stack.enter_context(folder.mirror.claimed() if folder.mirror else folder_lock.held(folder.path))
        try:
            if processes.is_main():
                if extend:
                    extension.begin(folder, config)
                folder.claim(config)
                if folder.mirror is not None:
                    folder.mirror.push()
            if folder.mirror is None:
                processes.agree_on_folder(folder.path)
            else:
                processes.agree("the run folder (--workdir)", folder.place)
            yield
        except BaseException:
            if made and processes.is_main():
                folder.discard_untrained(made)
            raise


def _finished(
    folder: folder_lib.RunFolder, config: ConfigDict, extend: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """Returns the result of a complete run, and a warning about a damaged one, which a new evaluation replaces.

    Raises:
        UserError: the folder belongs to a run of another config, or to one that cannot be extended.
    """
    if extend and extension.check(folder, config):
        return None, ""
    folder.check(config)
    try:
        return folder.read_result(), ""
    except errors.UserError as error:
        return None, f"{str(error).partition(';')[0]}; it is computed again."


def _with_code(config: ConfigDict) -> ConfigDict:
    """Returns the config with records of the user's modules that it names."""
    records = record.of(config_lib.to_dict(config))
    if not records:
        return config
    recorded = config.copy_and_resolve_references()
    recorded.unlock()
    recorded.code = records
    return recorded


def _headline(config: ConfigDict, folder: folder_lib.RunFolder) -> str:
    """Returns the first lines of the log: system, data set, folder, devices and config hash."""
    data = (
        f"{config.data.name} (trained on {', '.join(config.data.sources)})" if config.data.sources else config.data.name
    )
    lines = [
        f"{config.system}:{','.join([config.preset, *config.variants])} on {data} -> {folder.place} "
        f"({jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es), "
        f"config {config_lib.config_hash(config)})"
    ]
    if config.preset == "demo" and config.system in files.packaged():
        lines.append(
            "demo: a small version for drawn people, not the published system; the published recipe is "
            f"python scripts/main.py --config configs/{config.system}.py:market1501"
        )
    return "\n".join(lines)
