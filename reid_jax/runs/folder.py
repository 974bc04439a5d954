"""The folder of one run: what was asked for, what came out, and whether the two still belong together.

config.json      the resolved config
metrics.jsonl    one line a log, TensorBoard events beside it
checkpoints/     newest and best
result.json      final scores as fractions; its presence means the run is complete
ranked_lists.html, log.txt; of models that draw hidden patches also reconstructions.png
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.plugins import record


class RunFolder:
    """Paths and the small JSON files of a run."""

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)
        self.config = self.path / "config.json"
        self.result = self.path / "result.json"
        self.checkpoints = self.path / "checkpoints"
        self.ranked_lists = self.path / "ranked_lists.html"
        self.reconstructions = self.path / "reconstructions.png"

    def claim(self, config: ConfigDict) -> None:
        """Writes the resolved config into a new folder, or checks that an existing folder holds the same one.

        Raises:
            UserError: when the folder belongs to a run of another config; the message names what differs.
        """
        if self.config.is_file():
            stored = self.read_config()
            changed = config_lib.differences(config, stored)
            if self.has_checkpoint():
                record.restore(stored.get("code", ()))
            # A folder without a checkpoint holds nothing to protect: a mistake in its config was found at once.
            if changed and self.has_checkpoint():
                raise errors.UserError(
                    f"{self.path} holds a run of another config ({'; '.join(changed[:4])}"
                    f"{'; ...' if len(changed) > 4 else ''}); give another --workdir, or the config it was made with."
                )
            if not changed:
                return
        if self.path.exists() and not self.path.is_dir():
            raise errors.UserError(f"expected --workdir to be a folder, {self.path} is a file; give another --workdir.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, config_lib.to_json(config))
        except OSError as error:
            raise errors.UserError(
                f"cannot write the run folder {self.path} ({error.strerror}); give a --workdir that can be written."
            ) from error

    def has_checkpoint(self) -> bool:
        """Whether anything trained lies here."""
        return self.checkpoints.is_dir() and any(one.name.isdigit() for one in self.checkpoints.iterdir())

    def discard_untrained(self) -> None:
        """Removes the folder when the run in it ended before its first step was logged; for folders just made."""
        metrics = self.path / "metrics.jsonl"
        if not self.has_checkpoint() and not (metrics.is_file() and metrics.stat().st_size):
            shutil.rmtree(self.path, ignore_errors=True)

    def read_config(self) -> ConfigDict:
        """The config this run was made with.

        Raises:
            UserError: when this is no run folder.
        """
        if not self.config.is_file():
            raise errors.UserError(
                f"expected a run folder (with config.json), found none at {self.path}; "
                "give the --workdir of a training run."
            )
        try:
            return _as_config(json.loads(self.config.read_text()))
        except (json.JSONDecodeError, AttributeError) as error:
            raise errors.UserError(
                f"expected JSON in {self.config}, it cannot be read ({error}); restore it or start a new --workdir."
            ) from error

    def read_result(self) -> dict[str, Any] | None:
        """The final scores, None while the run is not complete."""
        return json.loads(self.result.read_text()) if self.result.is_file() else None

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Marks the run complete."""
        write_text(self.result, json.dumps(dict(result), indent=2) + "\n")


def _as_config(values: Any) -> ConfigDict:
    """JSON knows no tuples; configs know no lists."""
    return ConfigDict(config_lib.to_dict(values))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file at once: a reader finds the old text or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
