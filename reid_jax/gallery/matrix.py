"""The vectors of a gallery in memory, with the labels that filters read.

Readers hold a `Snapshot`, which never changes. The one writer appends rows behind those of all snapshots, marks removed
ones in a new mask, and publishes a new snapshot: a search is not disturbed by a change, and nobody waits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from reid_jax import errors, progress
from reid_jax.evaluation import distance_blocks, feature_scaling
from reid_jax.gallery import entries as entries_lib
from reid_jax.gallery import store

_LABELS = ("cameras", "identities", "tracks")
_GROWTH, _LEAST = 1.5, 4096
_AT_ONCE = 4096
_NONE = 0  # code of "no name"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Vectors and labels of a gallery at one moment.

    Attributes:
        side: [N] prepared rows in the order of addition, removed ones among them.
        alive: [N] bool, the rows that are still there.
        ids: [N] int64, ascending.
        cameras: [N] int32, codes in `names`.
        identities: [N] int32.
        tracks: [N] int32.
        times: [N] float64, NaN where unknown.
        expires: [N] float64, infinity for never.
        names: for each kind of label its names by code; code 0 is none.
        placement: how the rows were prepared, see `distance_blocks.prepare_placed`; None for an own metric.
        state: of the store.
    """

    side: distance_blocks.Side
    alive: np.ndarray
    ids: np.ndarray
    cameras: np.ndarray
    identities: np.ndarray
    tracks: np.ndarray
    times: np.ndarray
    expires: np.ndarray
    names: dict[str, Sequence[str]]
    placement: feature_scaling.Placement | None
    state: store.State

    @property
    def count(self) -> int:
        """Number of entries."""
        return int(self.alive.sum())

    def looked_at(self, chosen: entries_lib.Filter, now: float) -> np.ndarray:
        """Returns [N] bool, the rows that pass a filter and have not expired."""
        mask = self.alive & (self.expires > now)
        if chosen.cameras:
            mask &= np.isin(self.cameras, self._codes("cameras", chosen.cameras))
        if chosen.other_than:
            mask &= ~np.isin(self.cameras, self._codes("cameras", chosen.other_than))
        if chosen.identities:
            mask &= np.isin(self.identities, self._codes("identities", chosen.identities))
        if chosen.known is not None:
            mask &= (self.identities != _NONE) == chosen.known
        if chosen.since is not None:
            mask &= self.times >= chosen.since  # NaN is not
        if chosen.until is not None:
            mask &= self.times <= chosen.until
        if chosen.leave_out:
            mask &= ~np.isin(self.ids, np.asarray(chosen.leave_out, np.int64))
        return np.asarray(mask)

    def _codes(self, kind: str, names: Sequence[str]) -> np.ndarray:
        wanted = set(names)
        return np.asarray([code for code, name in enumerate(self.names[kind]) if code and name in wanted], np.int32)

    def prepared(self, features: np.ndarray, visibility: np.ndarray | None, metric: str) -> distance_blocks.Side:
        """Returns queries prepared like the rows."""
        return distance_blocks.prepare_placed(features, metric, visibility, self.placement)

    def readable(self, distances: np.ndarray, metric: str) -> np.ndarray:
        """Returns distances as usually reported, float64."""
        return distance_blocks.readable(distances, metric, self.side.features.ndim == 3, self.side.scale)


class Matrix:
    """Builds the snapshots of a store; used by one thread at a time."""

    def __init__(self, source: store.Store) -> None:
        self._source, self._metric = source, source.binding.metric
        self._own = distance_blocks.find_measure(self._metric)
        self._reset(0)

    def _reset(self, count: int) -> None:
        """Makes room for rows; memory is taken from the system as it is filled."""
        shape = self._source.binding.shape
        capacity = int(_GROWTH * count) + _LEAST
        kinds: dict[str, tuple[tuple[int, ...], type]] = {
            "features": (shape, np.float32),
            "squares": (shape[:-1], np.float32),
            "alive": ((), np.bool_),
            "ids": ((), np.int64),
            "times": ((), np.float64),
            "expires": ((), np.float64),
            **dict.fromkeys(_LABELS, ((), np.int32)),
        }
        if len(shape) == 2:
            kinds["visibility"] = (shape[:1], np.float32)
        self._arrays: dict[str, np.ndarray] = {
            name: np.empty((capacity, *size), dtype) for name, (size, dtype) in kinds.items()
        }
        self._codes: dict[str, dict[str | None, int]] = {kind: {None: _NONE} for kind in _LABELS}
        self._names: dict[str, list[str]] = {kind: [""] for kind in _LABELS}
        self._count, self._peak = 0, 0.0
        self._placement: feature_scaling.Placement | None = None

    def load(self) -> Snapshot:
        """Returns a snapshot after reading the whole store."""
        state = self._source.state()
        count = len(self._source.ids())
        self._reset(count)
        with progress.bar("reading the gallery", count, "entries") as advance:
            for block in self._source.read():
                self._append(block)
                advance(len(block.ids))
        if self._own is None:
            raw = self._arrays["features"][: self._count]
            unit = self._metric == "cosine"
            if self._count:
                self._placement = feature_scaling.placement(raw, raw, unit=unit)
            else:
                self._placement = feature_scaling.Placement(np.zeros(raw.shape[1:]), 1.0, unit)
        self._prepare(0)
        return self._snapshot(state)

    def of_rows(
        self, rows: store.Rows | None, placement: feature_scaling.Placement | None, state: store.State
    ) -> Snapshot:
        """Returns a snapshot of some entries alone, placed as the whole gallery is."""
        self._reset(0 if rows is None else len(rows.ids))
        if rows is not None:
            self._append(rows)
        self._placement = placement
        self._prepare(0)
        return self._snapshot(state)

    def placement(self) -> feature_scaling.Placement | None:
        """Returns how the store's rows have to be placed, from a sample of them alone; None for an own metric."""
        if self._own is not None:
            return None
        unit = self._metric == "cosine"
        count = self._source.count()
        shape = self._source.binding.shape
        if not count:
            return feature_scaling.Placement(np.zeros(shape), 1.0, unit)
        sample = self._source.vectors(self._source.at(feature_scaling.spread(count).tolist()).tolist(), partly=True)[0]
        return feature_scaling.placement(sample, sample, unit=unit)

    def update(self, before: Snapshot) -> Snapshot:
        """Returns a snapshot after reading what has changed since another, the newest so far."""
        state = self._source.state()
        if state == before.state:
            return before
        if state.removed != before.state.removed:
            there = _among(self._arrays["ids"][: self._count], self._source.ids())
            alive = self._arrays["alive"].copy()  # earlier snapshots keep theirs
            alive[: self._count] &= there
            self._arrays["alive"] = alive
        if state.added != before.state.added:
            first = self._count
            for block in self._source.read(int(self._arrays["ids"][first - 1]) if first else 0):
                self._append(block)
            self._prepare(first)
        after = self._snapshot(state)
        return self.load() if self._is_stale(after) else after

    def _is_stale(self, after: Snapshot) -> bool:
        """Returns whether to read everything again: most rows are gone, or the rows have to be placed otherwise.

        Rows that are far from the origin stay where they were placed, although the center has moved a little: that
        changes distances by rounding only.
        """
        if after.count < self._count // 2:
            return True
        if self._placement is None or not after.count:
            return False
        living = after.ids[after.alive]
        places = feature_scaling.spread(len(living))
        try:
            sample = self._source.vectors(living[places].tolist(), partly=True)[0]
        except errors.UserError:  # all of them have been removed since
            return True
        center = feature_scaling.center_of(sample, unit=self._placement.unit)
        if not np.array_equal(center.any(axis=-1), self._placement.center.any(axis=-1)):
            return True
        ordinary = self._placement.unit or feature_scaling.is_ordinary(self._peak, sample.shape[-1])
        return not ordinary and self._placement.scale == 1

    def _append(self, block: store.Rows) -> None:
        """Writes a block behind the last row, features as they are."""
        start, stop = self._count, self._count + len(block.ids)
        if stop > len(self._arrays["ids"]):
            self._grow(stop)
        values: dict[str, np.ndarray | bool] = {
            "features": block.features,
            "alive": True,
            "ids": block.ids,
            "times": block.times,
            "expires": block.expires,
            **{kind: self._coded(kind, getattr(block, kind)) for kind in _LABELS},
        }
        if "visibility" in self._arrays:
            values["visibility"] = True if block.visibility is None else block.visibility
        for name, value in values.items():
            self._arrays[name][start:stop] = value
        self._peak = max(self._peak, float(block.features.max()), -float(block.features.min()))
        self._count = stop

    def _grow(self, count: int) -> None:
        for name, array in self._arrays.items():
            larger = np.empty((int(_GROWTH * count) + _LEAST, *array.shape[1:]), array.dtype)
            larger[: self._count] = array[: self._count]
            self._arrays[name] = larger

    def _coded(self, kind: str, names: Sequence[str | None]) -> np.ndarray:
        codes, known = self._codes[kind], self._names[kind]
        for name in names:
            if name not in codes:
                codes[name] = len(known)
                known.append(str(name))
        return np.asarray([codes[name] for name in names], np.int32)

    def _prepare(self, first: int) -> None:
        """Brings rows to the form that distances are computed of, in place."""
        features, squares = self._arrays["features"], self._arrays["squares"]
        for start in range(first, self._count, _AT_ONCE):
            rows = slice(start, min(start + _AT_ONCE, self._count))
            side = distance_blocks.prepare_placed(features[rows], self._metric, None, self._placement)
            features[rows], squares[rows] = side.features, side.squares

    def _snapshot(self, state: store.State) -> Snapshot:
        view = {name: array[: self._count] for name, array in self._arrays.items()}
        scale = 1.0 if self._placement is None else self._placement.scale
        side = distance_blocks.Side(view["features"], view["squares"], view.get("visibility"), self._own, scale)
        labels = {kind: view[kind] for kind in _LABELS}
        names: dict[str, Sequence[str]] = dict(self._names)
        return Snapshot(
            side,
            view["alive"],
            view["ids"],
            **labels,
            times=view["times"],
            expires=view["expires"],
            names=names,
            placement=self._placement,
            state=state,
        )


def _among(some: np.ndarray, all_of_them: np.ndarray) -> np.ndarray:
    """Returns which numbers are among others, both ascending; sorts nothing, unlike `np.isin`."""
    places = np.minimum(np.searchsorted(all_of_them, some), max(len(all_of_them) - 1, 0))
    return np.asarray(all_of_them[places] == some) if len(all_of_them) else np.zeros(len(some), bool)
