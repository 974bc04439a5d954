"""Conversion of configs to plain values: nested or flat dictionaries, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict


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
