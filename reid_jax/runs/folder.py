"""The run folder: paths of its files, its config, and its result.

A run folder contains:

    config.json          resolved config
    metrics.jsonl        one line for each log interval; TensorBoard events in files of their own
    checkpoints/         the two newest and the best
    result.json          final scores as fractions; it exists only if the run is complete
    devices.json         number of devices when the run began, for train.accumulate="auto"
    extended.json        when the run was given more epochs, see `runs.extension`
    ranked_lists.html    page of ranked lists
    report.html          curves, scores and config on a page
    reconstructions.png  for models that reconstruct hidden patches
    weights/             encoder and decoder of masked pretraining, see `runs.encoder_files`
    log.txt              log
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors, file_io
from reid_jax.plugins import record
from reid_jax.stores import mirror as mirror_lib
from reid_jax.stores import objects

if TYPE_CHECKING:
    from reid_jax.train import checkpoint_store


def default_path(config: ConfigDict) -> str:
    """Returns `runs/<system>-<preset>[-<variant>...]`, with the seed if it is not 0."""
    parts = [config.system, config.preset, *config.variants, *([f"seed{config.seed}"] if config.seed else [])]
    return str(pathlib.Path("runs") / "-".join(parts))


class RunFolder:
    """Paths and JSON files of a run folder.

    Args:
        path: the folder; it need not exist. For one in an object store ("gs://bucket/run") the paths are those of a
            copy on this machine, see `stores.mirror`.

    Attributes:
        mirror: brings the copy to the store; None for a folder of a file system.
        place: what the user calls the folder, for messages.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        self.mirror = mirror_lib.opened(path) if isinstance(path, str) and objects.is_remote(path) else None
        self.path = pathlib.Path(path) if self.mirror is None else self.mirror.path
        self.place = str(self.path) if self.mirror is None else self.mirror.url
        self.config = self.path / "config.json"
        self.result = self.path / "result.json"
        self.extended = self.path / "extended.json"
        self.devices = self.path / "devices.json"
        self.ranked_lists = self.path / "ranked_lists.html"
        self.report = self.path / "report.html"
        self.reconstructions = self.path / "reconstructions.png"

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the checkpoints; the newest and the best are fetched first where they are in a store."""
        path = self.path / "checkpoints"
        if self.mirror is not None and self.mirror.reads_checkpoints:
            self.mirror.reads_checkpoints = False
            if self.mirror.steps() or self.mirror.writes:
                found = self.remote_checkpoints
                assert found is not None
                found.fetch(file_io.make_folder(path), owner=self.mirror.writes)
        return path

    @property
    def remote_checkpoints(self) -> checkpoint_store.CheckpointStore | None:
        """Checkpoints in the store, None for a folder of a file system."""
        if self.mirror is None:
            return None
        # JAX is loaded with it.
        from reid_jax.train import checkpoint_store

        return checkpoint_store.CheckpointStore(self.mirror.store.below("checkpoints"), self.mirror.before_commit)

    def claim(self, config: ConfigDict) -> None:
        """Writes the resolved config to a new folder, or checks that an existing folder has the same config.

        Raises:
            UserError: the folder belongs to a run of another config (the message lists the differences), or cannot be
                written.
        """
        if not self.check(config):
            file_io.make_folder(self.path, "the run folder (--workdir)")
            file_io.remove_incomplete(self.path)
            file_io.write_text(self.config, config_lib.to_json(config), "the config of the run")

    def check(self, config: ConfigDict) -> bool:
        """Returns whether the folder has this config, False if it has none worth keeping; writes nothing.

        Raises:
            UserError: the folder belongs to a run of another config, or is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise errors.UserError(
                f"expected --workdir to be a folder, {self.place} is a file; give another --workdir."
            )
        if self.config.is_file():
            stored = self.read_config()
            changed = config_lib.differences(config, stored)
            if self.has_checkpoint():
                record.restore(stored.get("code", ()))
            # A folder without a checkpoint has nothing to protect: its run failed at the start.
            if changed and self.has_checkpoint():
                longer = all(_is_longer(text) for text in changed)
                more = ", or add --extend to continue that run for more epochs" if longer else ""
                raise errors.UserError(
                    f"{self.place} contains a run of another config ({'; '.join(changed[:4])}"
                    f"{'; ...' if len(changed) > 4 else ''}); give another --workdir, or the config of that run{more}."
                )
            return not changed
        return False

    def has_checkpoint(self) -> bool:
        """Returns whether the folder has a checkpoint."""
        return self.newest_step() > 0

    def newest_step(self) -> int:
        """Returns the step of the newest checkpoint by its name, 0 without one; it may be damaged."""
        names = [str(step) for step in self.mirror.steps()] if self.mirror is not None else []
        local = self.path / "checkpoints"
        names += [entry.name for entry in local.iterdir()] if local.is_dir() else []
        return max((int(name) for name in names if name.isdigit()), default=0)

    def check_trained(self) -> None:
        """Checks that this is a run folder with a checkpoint.

        Raises:
            UserError: it is not.
        """
        self.read_config()
        if not self.has_checkpoint():
            raise errors.UserError(
                f"expected a run with a checkpoint at {self.place}, it has none; train it first, or give another."
            )

    def discard_untrained(self, made: Sequence[pathlib.Path]) -> None:
        """Removes the folder if its run ended before the first step was logged.

        Args:
            made: the folders that this run has made, innermost first; the parents are removed if nothing else is there.
        """
        metrics = self.path / "metrics.jsonl"
        if self.has_checkpoint() or (metrics.is_file() and metrics.stat().st_size):
            return
        if self.mirror is not None:
            self.mirror.discard()
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in made[1:]:
                parent.rmdir()

    def read_config(self) -> ConfigDict:
        """Returns the config of the run.

        Raises:
            UserError: the folder is not a run folder, or its config cannot be read.
        """
        if not self.config.is_file():
            raise errors.UserError(
                f"expected a run folder (with config.json), found none at {self.place}; "
                "give the --workdir of a training run."
            )
        expected, remedy = "the config of a run (JSON)", "restore it from a copy, or start a new --workdir"
        values = file_io.read_json(self.config, expected, remedy)
        with file_io.reading(self.config, expected, remedy):
            return _as_config(values)

    def read_result(self) -> dict[str, Any] | None:
        """Returns the content of `result.json`, None if the run is not complete.

        Raises:
            UserError: the file is damaged.
        """
        if not self.result.is_file():
            return None
        expected, remedy = "the scores of a complete run (JSON)", "remove it and start the run again to evaluate anew"
        result = file_io.read_json(self.result, expected, remedy)
        with file_io.reading(self.result, expected, remedy):
            for key in ("dataset", "steps", f"{result['dataset']}/mAP"):
                result[key]
        return result

    def check_present(self) -> None:
        """Checks that the folder is still the one that `claim` wrote.

        Raises:
            UserError: it is not.
        """
        if not self.config.is_file():
            raise errors.UserError(
                f"expected the run folder {self.place}, it was removed or renamed during the run; put it back and "
                "start the same command again."
            )

    def first_devices(self, devices: int) -> int:
        """Returns the number of devices on which the run began; that of now, which is recorded, without a checkpoint.

        Args:
            devices: number of devices now.

        Raises:
            UserError: the record is damaged or cannot be written.
        """
        if not self.has_checkpoint():
            file_io.write_json(self.devices, {"devices": devices}, "the record of the devices")
            return devices
        if not self.devices.is_file():
            return devices
        expected = "the number of devices when the run began (JSON)"
        remedy = 'write {"devices": N}, or set train.device_batch'
        recorded = file_io.read_json(self.devices, expected, remedy)
        with file_io.reading(self.devices, expected, remedy):
            return max(1, int(recorded["devices"]))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json`, which marks the run as complete.

        Raises:
            UserError: it cannot be written.
        """
        file_io.write_json(self.result, dict(result), "the result")


def _as_config(values: Any) -> ConfigDict:
    """Returns the config of values from JSON, whose lists become tuples."""
    return ConfigDict(config_lib.to_dict(values))


def _is_longer(change: str) -> bool:
    """Returns whether a difference of configs, such as "train.epochs: 16.0 -> 20.0", is a longer training."""
    key, _, values = change.partition(": ")
    before, _, after = values.partition(" -> ")
    try:
        return key.endswith(("train.epochs", "fed.rounds")) and float(after) > float(before)
    except ValueError:
        return False
