"""What is asked of a gallery, and what it answers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib

# What an answer lists: entries one by one, or the best entry of each track or person.
GROUPS = ("entry", "track", "identity")


@dataclasses.dataclass(frozen=True)
class Query:
    """Descriptors to search with.

    Attributes:
        features: [n, D] or [n, S, D] float32.
        binding: the model that made them.
        visibility: [n, S] float32, or None.
        names: n names for people ("frame.jpg, box 2"); numbered where none are given.
        references: n names for the audit log; hashes of the vectors where none are given.
        tracks: n names; images of one name vote together for one answer. Empty: an answer for each image.
    """

    features: np.ndarray
    binding: binding_lib.Binding
    visibility: np.ndarray | None = None
    names: Sequence[str] = ()
    references: Sequence[str] = ()
    tracks: Sequence[str] = ()

    def __post_init__(self) -> None:
        count = len(self.features)
        if not count:
            raise errors.UserError("expected at least one image to search with, got none; give one.")
        object.__setattr__(self, "names", tuple(self.names) or tuple(f"query {row + 1}" for row in range(count)))
        for name in ("names", "references", "tracks"):
            values = getattr(self, name)
            if values and len(values) != count:
                raise errors.UserError(f"expected {name} for {count} queries, got {len(values)}; give one for each.")


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The distance up to which two images are taken to show one person, see `open_set`.

    Attributes:
        distance: accept up to this distance, as reported.
        rate: the promised false-match rate, a fraction.
        per: "comparison": of two images of different people, how often they are accepted; "search": of searches for
            a person who is not in the gallery, how often anybody is accepted.
        miss_rate: share of same-person pairs, or of searches for people in the gallery, that are not accepted.
        impostors: number of comparisons or searches that the rate was measured on.
        entries: entries in the gallery of these searches; None per comparison.
        source: what it was measured on, in words.
    """

    distance: float
    rate: float
    per: str
    miss_rate: float
    impostors: int
    entries: int | None = None
    source: str = ""

    def as_json(self) -> str:
        """Returns JSON text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def text(self) -> str:
        """Returns the promise in a sentence."""
        share = f"1 in {1 / self.rate:,.4g}"
        if self.per == "comparison":
            promise = f"of comparisons of two different people, {share} is accepted at most"
        else:
            promise = (
                f"of searches for people who are not in a gallery of {self.entries:,} entries, {share} finds somebody "
                "at most"
            )
        return (
            f"accepted up to distance {self.distance:.4g}: {promise}, and {100 * self.miss_rate:.1f} % of true matches "
            f"are missed (measured on {self.impostors:,} {self.per if self.impostors == 1 else _PLURAL[self.per]}"
            f"{f', {self.source}' if self.source else ''})"
        )


_PLURAL = {"comparison": "comparisons", "search": "searches"}


@dataclasses.dataclass(frozen=True)
class Hit:
    """A line of an answer.

    Attributes:
        entry: the entry; of a track or person the nearest one.
        distance: to the query as usually reported; for several images that vote the mean of their smallest ones.
        accepted: whether it is within the threshold; None without one.
        reranked: distance after re-ranking, which orders the answer; None without re-ranking.
        votes: of how many images of the query this is the nearest track or person; None for single entries.
        entries: number of entries of the track or person that were looked at.
    """

    entry: entries_lib.Entry
    distance: float
    accepted: bool | None = None
    reranked: float | None = None
    votes: int | None = None
    entries: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Returns the line as JSON values."""
        values: dict[str, Any] = {**self.entry.as_dict(), "distance": _finite(self.distance), "accepted": self.accepted}
        if self.reranked is not None:
            values["reranked"] = self.reranked
        if self.votes is not None:
            values |= {"votes": self.votes, "entries": self.entries}
        return values


@dataclasses.dataclass(frozen=True)
class Answer:
    """The ranking for one query.

    Attributes:
        query: name of the query.
        hits: nearest first.
        looked_at: number of entries that passed the filter.
        group: "entry", "track" or "identity".
        threshold: of the gallery, None where it has none.
        images: number of images that voted.
    """

    query: str
    hits: tuple[Hit, ...]
    looked_at: int
    group: str = "entry"
    threshold: Threshold | None = None
    images: int = 1

    @property
    def nobody(self) -> bool | None:
        """Whether nobody in the gallery is near enough; None where the gallery has no threshold."""
        return None if self.threshold is None else not any(hit.accepted for hit in self.hits)

    def as_dict(self) -> dict[str, Any]:
        """Returns the answer as JSON values."""
        return {
            "query": self.query,
            "nobody": self.nobody,
            "threshold": None if self.threshold is None else dataclasses.asdict(self.threshold),
            "looked_at": self.looked_at,
            "group": self.group,
            "images": self.images,
            "hits": [hit.as_dict() for hit in self.hits],
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
