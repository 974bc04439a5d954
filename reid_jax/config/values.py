"""Conversion of configs to plain values: nested or flat dictionaries, JSON, hash, and differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

# Keys that affect where or how often something is written or measured, not what is trained: a run may be resumed with
# other values of these keys.
PRESENTATION = (
    *("code", "data.root", "data.workers", "data.threads", "data.cache", "log.", "checkpoint.", "notes"),
    *("evals.every_epochs", "evals.batch_size", "evals.baselines", "evals.ranked_lists", "evals.rerank"),
    *("evals.verification", "evals.datasets", "evals.corruption_rounds"),
)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the config as a flat dictionary with dotted keys; an empty section is `{}`."""
    return dict(_walk(config, prefix))


def _walk(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key in config:
        value, path = config[key], f"{prefix}{key}"
        if isinstance(value, Mapping | ConfigDict) and value:
            yield from _walk(value, f"{path}.")
        else:
            yield path, {} if isinstance(value, Mapping | ConfigDict) else value


def to_dict(config: Any) -> Any:
    """Returns the config as nested plain dictionaries, with tuples in place of lists."""
    if isinstance(config, Mapping | ConfigDict):
        return {key: to_dict(config[key]) for key in config}
    if isinstance(config, list | tuple):
        return tuple(to_dict(value) for value in config)
    return config


def to_json(config: ConfigDict) -> str:
    """Returns the resolved config as JSON text with sorted keys, so that equal configs give equal bytes."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True)


def config_hash(config: ConfigDict | Mapping[str, Any]) -> str:
    """Returns a hash of the config, 12 hexadecimal digits, over all keys except those of `PRESENTATION`."""
    items = {key: to_dict(value) for key, value in flatten(config).items() if not key.startswith(PRESENTATION)}
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:12]


def differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Returns the differences of two configs as `key: old -> new`, without the keys of `PRESENTATION`."""
    after, before = (json.loads(json.dumps(flatten(to_dict(config)))) for config in (new, old))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(after.keys() | before.keys())
        if not key.startswith(PRESENTATION) and after.get(key) != before.get(key)
    ]
