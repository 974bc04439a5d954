"""A config as plain values: nested or flat dictionaries, JSON, its hash, and the differences of two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

# Keys that change where or how often something is written, not what is computed: a run may be resumed with others.
PRESENTATION = (
    *("code", "data.root", "data.workers", "data.threads", "data.cache", "log.", "checkpoint.", "notes"),
    *("evals.every_epochs", "evals.batch_size", "evals.baselines", "evals.ranked_lists", "evals.rerank"),
    *("evals.verification", "evals.datasets", "evals.corruption_rounds"),
)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config as one level of dotted keys; an empty section stands as `{}`."""
    return dict(_walk(config, prefix))


def _walk(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key in config:
        value, path = config[key], f"{prefix}{key}"
        if isinstance(value, Mapping | ConfigDict) and value:
            yield from _walk(value, f"{path}.")
        else:
            yield path, {} if isinstance(value, Mapping | ConfigDict) else value


def to_dict(config: Any) -> Any:
    """Plain nested dictionaries, lists as tuples: what constructors take as keyword arguments."""
    if isinstance(config, Mapping | ConfigDict):
        return {key: to_dict(config[key]) for key in config}
    if isinstance(config, list | tuple):
        return tuple(to_dict(value) for value in config)
    return config


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON text, in a fixed order: the same config gives the same bytes."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True)


def config_hash(config: ConfigDict | Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits over everything that can change a number (not over `PRESENTATION`)."""
    items = {key: to_dict(value) for key, value in flatten(config).items() if not key.startswith(PRESENTATION)}
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:12]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The keys, presentation aside, in which two configs differ, as `key: theirs -> ours`."""
    mine, other = (json.loads(json.dumps(flatten(to_dict(one)))) for one in (ours, theirs))
    return [
        f"{key}: {other.get(key)} -> {mine.get(key)}"
        for key in sorted(mine.keys() | other.keys())
        if not key.startswith(PRESENTATION) and mine.get(key) != other.get(key)
    ]
