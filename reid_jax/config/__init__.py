"""Configs: shared defaults, presets and variants, and typed settings.

`sections` lists every config key with its default and meaning, `presets` composes presets and variants, `phases`
resolves phases, `fingerprint` hashes and compares configs, and `files` finds and loads config files. `configs/*.py`
import only this package.
"""

from reid_jax.config.defaults import defaults
from reid_jax.config.fingerprint import PRESENTATION, config_hash, differences
from reid_jax.config.presets import DATASETS, DEMO, FEDERATED, MIM128, HelpRequested, Overrides, compose, override
from reid_jax.config.sections import IMAGENET_MEAN, IMAGENET_STD, Settings
from reid_jax.config.values import flatten, to_dict, to_json

__all__ = [
    "DATASETS",
    "DEMO",
    "FEDERATED",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MIM128",
    "PRESENTATION",
    "HelpRequested",
    "Overrides",
    "Settings",
    "compose",
    "config_hash",
    "defaults",
    "differences",
    "flatten",
    "override",
    "to_dict",
    "to_json",
]
