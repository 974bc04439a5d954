"""Candidates of each query: the gallery images of its identity, correct or left out, in blocks of queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from reid_jax import errors
from reid_jax.data.feature_set import UNKNOWN_CAMERA
from reid_jax.evaluation import distance_blocks


class Tile(NamedTuple):
    """A block of queries with the gallery rows of their identities; P such rows at most, padded with -1.

    Attributes:
        rows: [n] positions of the queries, n at most the block size c.
        ids: [c] identities of the queries.
        places: [P, c] gallery rows of the same identity, in gallery order.
        relevant: [P, c] whether a row is a correct answer (the others are of the same camera, or padding).
    """

    rows: np.ndarray
    ids: np.ndarray
    places: np.ndarray
    relevant: np.ndarray


@dataclasses.dataclass(frozen=True)
class Table:
    """The gallery rows of each query's identity."""

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cams: np.ndarray
    gallery_cams: np.ndarray
    same_camera_filter: bool
    order: np.ndarray  # gallery rows sorted by identity, in gallery order within one
    start: np.ndarray  # [Q] where the query's identity begins in `order`
    size: np.ndarray  # [Q] number of its rows there

    @classmethod
    def build(
        cls,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
        same_camera_filter: bool,
    ) -> Table:
        """Returns the table of queries [Q] and a gallery [G].

        Raises:
            UserError: there is no query, no gallery image, or not one camera per image.
        """
        query_ids, gallery_ids, query_cams, gallery_cams = (
            np.asarray(array).astype(np.int32) for array in (query_ids, gallery_ids, query_cams, gallery_cams)
        )
        if len(query_cams) != len(query_ids) or len(gallery_cams) != len(gallery_ids):
            raise errors.UserError(
                f"there must be one camera per image, but {len(query_ids)} queries have {len(query_cams)} cameras and "
                f"{len(gallery_ids)} gallery images {len(gallery_cams)}: write both from the same list."
            )
        if not len(query_ids) or not len(gallery_ids):
            raise errors.UserError(
                f"at least one query and one gallery image are needed, but there are {len(query_ids)} and "
                f"{len(gallery_ids)}: check the splits."
            )
        order = np.argsort(gallery_ids, kind="stable").astype(np.int32)
        sorted_ids = gallery_ids[order]
        start = np.searchsorted(sorted_ids, query_ids, "left")
        size = np.searchsorted(sorted_ids, query_ids, "right") - start
        return cls(query_ids, gallery_ids, query_cams, gallery_cams, same_camera_filter, order, start, size)

    def tiles(self, block: int) -> Iterator[Tile]:
        """Yields the queries with candidates, in blocks of similar numbers of candidates and of the same identities."""
        rows = np.lexsort((self.query_ids, self.size))
        rows = rows[self.size[rows] > 0]
        for begin in range(0, len(rows), block):
            chosen = rows[begin : begin + block]
            width = max(8, 1 << int(self.size[chosen].max() - 1).bit_length())
            slot = np.arange(width)[:, None]
            inside = slot < self.size[chosen]
            index = np.where(inside, self.order[np.minimum(self.start[chosen] + slot, len(self.order) - 1)], -1)
            camera = self.query_cams[chosen]
            same = (self.gallery_cams[index] == camera) & (camera != UNKNOWN_CAMERA) & self.same_camera_filter
            yield Tile(
                chosen,
                distance_blocks.pad_rows(self.query_ids[chosen], block),
                np.ascontiguousarray(distance_blocks.pad_rows(index.T.astype(np.int32), block, -1).T),
                distance_blocks.pad_rows((inside & ~same).T, block).T,
            )
