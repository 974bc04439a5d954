"""Default settings of every experiment, as a `ConfigDict` that config files modify."""

from __future__ import annotations

from ml_collections import ConfigDict

from reid_jax.config import sections


def defaults() -> ConfigDict:
    """Returns the defaults of `reid_jax.config.sections`; a config file states only what differs."""
    config = ConfigDict(sections.plain(sections.Settings()))
    # `fed` is added by the systems that use it (`FEDERATED`), `code` by a run with the user's own modules.
    del config.fed, config.code
    return config
