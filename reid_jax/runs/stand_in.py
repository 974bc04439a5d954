"""A stand-in for a data set that is not prepared yet: gray images with as many identities as are known of it.

The train step is traced on it before the preparation, which takes minutes, so that a sampler, a loss or a list of
parameters that does not fit is found first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.config import phases
from reid_jax.data import builders, records
from reid_jax.data.synthped import dataset as synthped
from reid_jax.federated import phase as federated_phase
from reid_jax.plugins import names

_HEIGHT, _WIDTH, _CAMERAS, _IMAGES = 64, 32, 6, 4


def dataset(settings: config_lib.Settings) -> records.ReIDDataset | None:
    """Returns the stand-in; `None` where the data set is prepared, is the user's own code, or is not there.

    Training on other data sets (`data.sources`) and federations, whose clients are cameras, have none.
    """
    data = settings.data
    if data.sources or names.is_path(data.name):
        return None
    if federated_phase.is_federated(settings):
        return None
    if records.prepared_version(records.prepared_folder(data.name, data.root, **data.options)) is not None:
        return None
    module = builders.load(data.name)
    return _drawn(data.name, _identities(settings, module), data.maps)


def _identities(settings: config_lib.Settings, module: Any) -> int:
    """Returns the number of training identities; where it is unknown, as many as the samplers ask for."""
    data = settings.data
    if data.name.startswith("synthped"):
        size = data.options.get("size", "demo")
        if size not in synthped.SIZES:
            raise errors.unknown("SynthPed size", str(size), synthped.SIZES)
        return synthped.SIZES[size].train_identities
    published = builders.published(data.name, module, records.resolve_options(data.name, dict(data.options)))
    if known := published.get("train", {}).get("identities"):
        return int(known)
    asked = [2]
    for _, phase in phases.resolve(settings):
        options = dict(phase.data.sampler)
        batch = options.get("identities") or -(-options.get("batch_size", 64) // _IMAGES)
        asked.append(int(batch))
    return max(asked)


def _drawn(name: str, identities: int, maps: tuple[str, ...]) -> records.ReIDDataset:
    image = np.full((_HEIGHT, _WIDTH, 3), 128, np.uint8)
    record = {"image": image, **dict.fromkeys(maps, np.zeros((_HEIGHT, _WIDTH), np.uint8))}

    def split(part: str, people: int, camera: int) -> records.Split:
        count = people * _IMAGES
        pids = (np.arange(count) // _IMAGES).astype(np.int32) + 1
        camids = ((np.arange(count) + camera) % _CAMERAS).astype(np.int32)
        files = tuple(f"{index:06d}.png" for index in range(count))
        return records.Split(f"{name}/{part}", [record] * count, pids, camids, files)

    return records.ReIDDataset(name, split("train", identities, 0), split("query", 2, 0), split("gallery", 2, 1))
