"""A stand-in for a data set that is not prepared yet: gray images with as many identities as are known of it.

The train step is traced on it before the preparation, which takes minutes, so that a sampler, a loss or a list of
parameters that does not fit is found first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.config import phases
from reid_jax.data import builders, records
from reid_jax.data.synthped import dataset as synthped
from reid_jax.plugins import names

_HEIGHT, _WIDTH, _CAMERAS, _IMAGES = 64, 32, 6, 4


def dataset(settings: config_lib.Settings) -> records.ReIDDataset | None:
    """Returns the stand-in; `None` where the data is prepared already, or where some of it is the user's own code or a
    pool.

    With `data.sources` it has the training identities of all of them.
    """
    data = settings.data
    if any(names.is_path(name) or build.of_pool(name) for name in (data.name, *data.sources)):
        return None
    own: tuple[str, Mapping[str, Any]] = (data.name, data.options)
    trained_on = [build.of_source(name, data) for name in data.sources] or [own]
    if all(_is_prepared(name, data.root, options) for name, options in (own, *trained_on)):
        return None
    known = [_identities(name, options) for name, options in trained_on]
    identities = sum(each for each in known if each is not None)
    if None in known:
        identities = max(identities, _asked(settings))
    return _drawn(data.name, identities, data.maps)


def _is_prepared(name: str, root: str, options: Mapping[str, Any]) -> bool:
    return records.prepared_current(name, root, options) is not None


def _identities(name: str, options: Mapping[str, Any]) -> int | None:
    """Returns the number of training identities of a data set, `None` where it is unknown."""
    if name.startswith("synthped"):
        size = options.get("size", "demo")
        if size not in synthped.SIZES:
            raise errors.unknown("SynthPed size", str(size), synthped.SIZES)
        return synthped.SIZES[size].train_identities
    published = builders.published(name, builders.load(name), records.resolve_options(name, dict(options)))
    known = published.get("train", {}).get("identities")
    return None if known is None else int(known)


def _asked(settings: config_lib.Settings) -> int:
    """Returns as many identities as the samplers ask for."""
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
