"""The settings that every experiment starts from, as the `ConfigDict` that config files change."""

from __future__ import annotations

from ml_collections import ConfigDict

from reid_jax.config import sections


def defaults() -> ConfigDict:
    """Returns the defaults of `reid_jax.config.sections`; a config file states only what differs."""
    config = ConfigDict(sections.plain(sections.Settings()))
    # Sections of single systems (`FEDERATED`) and records of a run join where they are used.
    del config.fed, config.code
    return config
