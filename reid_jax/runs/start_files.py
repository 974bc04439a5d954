"""What a run starts from, by key of its config: looked for within a second, before the libraries are loaded.

Nothing here imports JAX, and nothing is fetched: `initial_weights` does that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax.config import phases, sections
from reid_jax.runs import extension
from reid_jax.runs import folder as folder_lib
from reid_jax.stores import mirror, objects
from reid_jax.weights import hub

SCRATCH = ", or start from random weights with --config.init.weights=scratch"


def is_run(text: str) -> bool:
    """Returns whether a value of `init.weights` is a run folder."""
    if objects.is_remote(text):
        objects.check(text, "init.weights")
        return not text.endswith(hub.ENDINGS) and (mirror.opened(text).path / "config.json").is_file()
    return bool(text) and os.path.isfile(os.path.join(text, "config.json"))


def runs(init: sections.Init) -> list[str]:
    """Returns the run folders whose variables a run starts from, in the order in which they are loaded."""
    return [text for text in (init.weights, init.trained) if text and (text == init.trained or is_run(text))]


def named(settings: config_lib.Settings) -> Iterator[tuple[str, str, str]]:
    """Yields key, value and what else the user can do, for each weights file that a run starts from."""
    init = settings.init
    if not hub.is_scratch(init.weights) and not is_run(init.weights):
        yield "init.weights", init.weights, SCRATCH
    if init.text_weights:
        yield "init.text_weights", init.text_weights, ""
    for name, phase in phases.resolve(settings):
        for extra, options in phase.extras.items():
            text = (options or {}).get("weights", "")
            if isinstance(text, str) and text:
                yield f"phases.{name}.extras.{extra}.weights" if name else f"extras.{extra}.weights", text, ""


def look(settings: config_lib.Settings) -> None:
    """Checks that what a run starts from is here or can be fetched.

    Raises:
        UserError: a file or run folder is missing; the sentence says which file belongs where.
    """
    for run in runs(settings.init):
        folder_lib.RunFolder(run).check_trained()
    for key, text, otherwise in named(settings):
        hub.check(text, key=key, otherwise=otherwise)


def check(config: ConfigDict, workdir: str | None, mode: str, *, extend: bool = False) -> None:
    """Checks the typed keys of a config, the run folder, and what its run starts from unless it resumes.

    Args:
        config: resolved config.
        workdir: run folder; None names it after system, preset and variants.
        mode: as in `launch.run`.
        extend: as in `launch.run`.

    Raises:
        UserError: an invalid value, something that is missing, or a folder of another run.
    """
    settings = config_lib.Settings.of(config_lib.to_dict(config))
    folder = folder_lib.RunFolder(workdir or folder_lib.default_path(config))
    if mode == "eval":
        folder.read_config()
    elif extend:
        extension.check(folder, config)
    else:
        folder.check(config)
        if not folder.has_checkpoint():
            look(settings)
