"""The identity of a config: its hash, and what distinguishes two configs.

Neither sees keys that only say where or how often something is written (`PRESENTATION`), nor typed keys at their
neutral value. A key that a later version adds, with a default under which nothing changes, therefore changes no hash,
and a run folder of an earlier version resumes. The neutral value of a key is the first default that it had: it stays
when the default changes, so that such a change is seen.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax.config import presets, sections, values

# Keys that affect where or how often something is written or measured, not what is trained: a run may be resumed with
# other values of these keys.
PRESENTATION = (
    *("code", "data.root", "data.workers", "data.threads", "data.cache", "log.", "checkpoint.", "notes"),
    *("evals.every_epochs", "evals.batch_size", "evals.baselines", "evals.ranked_lists", "evals.rerank"),
    *("evals.verification", "evals.datasets", "evals.corruption_rounds", "evals.networks"),
)

# First defaults of the typed keys. A new key is added here with its default; the value of a line never changes.
NEUTRAL: dict[str, Any] = {
    "system": "",
    "preset": "demo",
    "variants": (),
    "seed": 0,
    "dtype": "auto",
    "data.name": "synthped",
    "data.options": {},
    "data.sources": (),
    "data.height": 256,
    "data.width": 128,
    "data.interpolation": "bilinear",
    "data.test_interpolation": None,
    "data.maps": (),
    "data.views": {},
    "preprocess.mean": (0.485, 0.456, 0.406),
    "preprocess.std": (0.229, 0.224, 0.225),
    "preprocess.erase_fill": "mean_raw",
    "init.weights": "",
    "init.allow_missing": ("classifier",),
    "init.text_weights": "",
    "init.trained": "",
    "init.ignore": (),
    "init.extras": (),
    "init.network": "",
    "init.pixel_mean": None,
    "init.pixel_std": None,
    "losses": {},
    "monitors": {},
    "extras": {},
    "optimizer.name": "adam",
    "optimizer.learning_rate": 0.00035,
    "optimizer.learning_rate_multipliers": ((".*", 1.0),),
    "optimizer.weight_decays": ((".*", 0.0005),),
    "optimizer.frozen": (),
    "optimizer.clip_norm": None,
    "optimizer.b1": None,
    "optimizer.b2": None,
    "optimizer.epsilon": None,
    "optimizer.momentum": None,
    "optimizer.nesterov": None,
    "optimizer.decay": None,
    "train.epochs": 120.0,
    "train.accumulate": 1,
    "train.device_batch": 0,
    "train.ema_decay": 0.0,
    "train.mode": "joint",
    "train.turns": (),
    "train.batch_statistics": "global",
    "start_from": "",
    "fed": {},
    "fed.clients": "camera",
    "fed.client": "",
    "fed.num_clients": 8,
    "fed.fraction": 1.0,
    "fed.rounds": 300,
    "fed.local_epochs": 1,
    "fed.personal": "classifiers",
    "fed.weights": "samples",
    "fed.bn": "average",
    "fed.optimizer_state": "fresh",
    "fed.lr_drops": (0.8, 0.925),
    "fed.prox_mu": 0.0,
    "fed.side_by_side": 1,
    "corruption": {},
    "phase_order": (),
    "phases": {},
    "evals.metric": "euclidean",
    "evals.ap": "step",
    "evals.flip": False,
    "evals.same_camera_filter": True,
    "evals.scores": (),
    "evals.descriptors": {},
}


def config_hash(config: ConfigDict | Mapping[str, Any]) -> str:
    """Returns a hash of the config, 12 hexadecimal digits, over all keys that can change a number.

    Typed keys at their neutral value are left out, so that a key with a neutral default can be added.
    """
    items = {key: value for key, value in _flat(config).items() if key not in neutral() or value != neutral()[key]}
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:12]


def differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Returns the differences of two configs as `key: old -> new`; a missing typed key counts as neutral."""
    after, before = _flat(new), _flat(old)
    pairs = {
        key: (before.get(key, neutral().get(key)), after.get(key, neutral().get(key)))
        for key in sorted(after.keys() | before.keys())
    }
    return [f"{key}: {was} -> {now}" for key, (was, now) in pairs.items() if was != now]


def _flat(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns all keys but those of `PRESENTATION`, with values as JSON gives them back."""
    flat = json.loads(json.dumps(values.flatten(values.to_dict(config))))
    return {key: value for key, value in flat.items() if not key.startswith(PRESENTATION)}


@functools.cache
def neutral() -> dict[str, Any]:
    """Returns the neutral value of every typed key: of `NEUTRAL`, and the default of a key that is not listed."""
    listed: dict[str, Any] = json.loads(json.dumps(NEUTRAL))
    return {key: value for key, value in _defaults().items() if not key.startswith(PRESENTATION)} | listed


def _defaults() -> dict[str, Any]:
    """Returns the defaults of all typed keys, without those that are dictionaries of free keys."""
    typed = {f"fed.{key}": value for key, value in presets.FEDERATED["fed"].items()}
    for field in dataclasses.fields(sections.Settings):
        default = getattr(sections.Settings(), field.name)
        if isinstance(default, sections.Section):
            typed |= {f"{field.name}.{key}": value for key, value in default.as_dict().items()}
        else:
            typed[field.name] = default
    free = {key for key, value in typed.items() if isinstance(value, Mapping) and value}
    plain: dict[str, Any] = json.loads(json.dumps({key: value for key, value in typed.items() if key not in free}))
    return plain
