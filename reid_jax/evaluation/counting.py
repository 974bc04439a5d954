"""Number of gallery images before each candidate of each query, counted by compiled programs.

The rank of a correct image is the number of images before it. Candidates (gallery images of the query's identity) are
few, so their distances, the thresholds, are computed first; then the distances to the whole gallery are computed tile
by tile and compared with the thresholds, and only the counts are kept. No distance matrix, no sort. Counts are
integers, hence the same for every block size and every number of devices. `_add_counts` applies the tie rule, which
`ranking` states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from reid_jax import progress
from reid_jax.data.gallery_share import Share
from reid_jax.evaluation import candidates, distance_blocks, own_metrics

Array = distance_blocks.Array

_COMPARED_AT_ONCE = 16  # gallery rows per inner step on CPU: the running counts stay in registers that long
_AHEAD = 3  # tiles that the device may run ahead of the progress shown
_CHUNK_BYTES = 2**25  # of gallery features on a device at a time
_WIDEST = 512  # candidates of a query beyond which sorting a row beats comparing all of it with each of them
_SMALLEST = np.finfo(np.float32).tiny
_NOT_FINITE = -(2**24)  # count of a query with a NaN among its distances; no number of later images lifts it to zero


def _on_cpu() -> bool:
    return bool(jax.default_backend() == "cpu")


def is_wide(tile: candidates.Tile) -> bool:
    """Returns whether `counts_by_sorting` is the faster way for a tile: identities with very many images."""
    return len(tile.places) > _WIDEST


# ---- thresholds


def thresholds(
    tiles: Sequence[candidates.Tile],
    query: distance_blocks.Side,
    gallery: distance_blocks.Side,
    gallery_block: int,
    share: Share,
) -> list[np.ndarray]:
    """Returns the distances [P, c] of every tile's candidates.

    The distances of a block of queries to the union of its candidates are computed, then each query takes its own. The
    shapes are those of `stream_counts`: with another shape the device may sum in another order, and ties would be
    broken by rounding.
    """
    out = []
    for tile in tiles:
        threshold = np.zeros(tile.places.shape, np.float32)
        position = np.where(tile.places >= 0, share.positions(np.maximum(tile.places, 0)), -1)
        union = np.unique(position)
        union = union[union >= 0]
        owner = np.where(position >= 0, np.searchsorted(union, position), -1)  # [P, c] place in the union
        side = jax.device_put(query.take(tile.rows).pad(tile.places.shape[1]))
        for first in range(0, len(union), gallery_block):
            part = gallery.take(union[first : first + gallery_block]).pad(gallery_block)
            values = np.asarray(distance_blocks.jitted_block(part, side))
            here = np.nonzero((owner >= first) & (owner < first + gallery_block))
            threshold[here] = values[owner[here] - first, here[1]]
        out.append(threshold)
    return _together(out, share.sum_values)


def _together(arrays: Sequence[np.ndarray], add: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Returns the sums of arrays over all processes, sent at once."""
    summed = add(np.concatenate([array.reshape(-1) for array in arrays]))
    ends = np.cumsum([array.size for array in arrays])[:-1]
    return [part.reshape(array.shape) for part, array in zip(np.split(summed, ends), arrays, strict=True)]


# ---- counts


def _add_counts(
    counts: Array,
    values: Array,
    gallery_ids: Array,
    gallery_index: Array,
    tile: tuple[Array, Array, Array],
    on_cpu: bool,
) -> Array:
    """Returns `counts` [P, c] plus the number of rows of `values` [g, c] that come before the thresholds.

    Rows of the query's own identity and padding (index -1) never count. The tie rule: a row of equal distance comes
    before a candidate when its gallery index is lower; such a row is compared with the next larger float32.

    Args:
        counts: [P, c] int32.
        values: [g, c] distances.
        gallery_ids: [g] identities.
        gallery_index: [g] places in the gallery, -1 for padding.
        tile: identities of the queries [c], candidates [P, c] and their thresholds [P, c].
        on_cpu: selects the faster of two formulations.
    """
    query_ids, index, threshold = tile
    other = (gallery_ids[:, None] != query_ids[None, :]) & (gallery_index >= 0)[:, None]
    values = jnp.where(other, values, jnp.inf)
    # Subnormal numbers compare as zero on some devices, so "just above zero" is the smallest normal one.
    above = jnp.where(jnp.abs(threshold) < _SMALLEST, _SMALLEST, jnp.nextafter(threshold, jnp.float32(jnp.inf)))
    if not on_cpu:
        bound = jnp.where(gallery_index[:, None, None] < index[None], above[None], threshold[None])
        return counts + jnp.sum(values[:, None, :] < bound, axis=0, dtype=jnp.int32)

    def add(counts: Array, rows: tuple[Array, Array]) -> tuple[Array, None]:
        some, some_index = rows
        for row in range(_COMPARED_AT_ONCE):
            bound = jnp.where(some_index[row] < index, above, threshold)
            counts = counts + (some[row][None, :] < bound).astype(jnp.int32)
        return counts, None

    rows = (values.reshape(-1, _COMPARED_AT_ONCE, values.shape[1]), gallery_index.reshape(-1, _COMPARED_AT_ONCE))
    return lax.scan(add, counts, rows)[0]


class _Chunk(NamedTuple):
    """Gallery tiles on the device, each array [tiles, g, ...]; the first `used` hold images (one number per device)."""

    side: distance_blocks.Side
    ids: Array
    places: Array
    used: Array


def _count_chunk(
    counts: Array,
    chunk: _Chunk,
    query: distance_blocks.Side,
    tile: tuple[Array, Array, Array],
    *,
    on_cpu: bool,
    axis: str | None,
) -> Array:
    def step(number: Array, partial: Array) -> Array:
        side, ids, places = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, number, keepdims=False), chunk[:3])
        values = distance_blocks.block(side, query)
        if query.measure is None:
            return _add_counts(partial, values, ids, places, tile, on_cpu)
        broken = jnp.any(~jnp.isfinite(values) & (places >= 0)[:, None], axis=0)
        return jnp.where(broken, _NOT_FINITE, _add_counts(partial, values, ids, places, tile, on_cpu))

    found = lax.fori_loop(0, chunk.used[0], step, jnp.zeros_like(counts))
    found = found if axis is None else lax.psum(found, axis)
    if query.measure is None:
        return counts + found
    return jnp.maximum(counts + found, _NOT_FINITE)


@functools.lru_cache(maxsize=8)
def _counter(on_cpu: bool, mesh: Mesh | None) -> Callable[..., Array]:
    """Returns the compiled `_count_chunk` of a platform and mesh."""
    if mesh is None:
        return jax.jit(functools.partial(_count_chunk, on_cpu=on_cpu, axis=None), donate_argnums=0)
    axis = mesh.axis_names[0]
    everywhere, split = PartitionSpec(), PartitionSpec(axis)
    mapped = jax.shard_map(
        functools.partial(_count_chunk, on_cpu=on_cpu, axis=axis),
        mesh=mesh,
        in_specs=(everywhere, split, everywhere, everywhere),
        out_specs=everywhere,
        check_vma=False,  # the counts differ per device until the sum
    )
    return jax.jit(mapped, donate_argnums=0)


def _chunks(
    gallery: distance_blocks.Side, gallery_ids: np.ndarray, gallery_rows: np.ndarray, block: int, mesh: Mesh | None
) -> Iterator[_Chunk]:
    """Yields the gallery, or a share of it, in equal buffers, whose tiles are dealt to the devices in turn."""
    devices = 1 if mesh is None else mesh.size
    tiles = -(-gallery.num_rows // block)
    fitting = max(1, _CHUNK_BYTES // (gallery.row_bytes * block))
    # Powers of two, so that galleries of similar sizes share a compiled program.
    per_device = min(1 << (fitting.bit_length() - 1), distance_blocks.power_of_two(-(-tiles // devices)))
    tiles_at_once = per_device * devices

    def deal(array: np.ndarray) -> np.ndarray:
        shaped = array.reshape(per_device, devices, block, *array.shape[1:])
        return np.moveaxis(shaped, 1, 0).reshape(tiles_at_once, block, *array.shape[1:])

    for first in range(0, tiles, tiles_at_once):
        rows = slice(first * block, min((first + tiles_at_once) * block, gallery.num_rows))
        places = gallery_rows[rows].astype(np.int32)
        present = -(-len(places) // block)
        chunk = _Chunk(
            gallery.take(rows).pad(tiles_at_once * block).map(deal),
            deal(distance_blocks.pad_rows(gallery_ids[rows], tiles_at_once * block)),
            deal(distance_blocks.pad_rows(places, tiles_at_once * block, -1)),
            np.asarray([len(range(device, present, devices)) for device in range(devices)], np.int32),
        )
        yield jax.device_put(chunk, None if mesh is None else NamedSharding(mesh, PartitionSpec(mesh.axis_names[0])))


def stream_counts(
    tiles: Sequence[candidates.Tile],
    threshold: Sequence[np.ndarray],
    query: distance_blocks.Side,
    gallery: distance_blocks.Side,
    gallery_ids: np.ndarray,
    gallery_block: int,
    mesh: Mesh | None,
    share: Share,
) -> list[np.ndarray]:
    """Returns for every tile [P, c] the number of gallery rows of other identities before each candidate.

    Raises:
        UserError: an own metric gave NaN or infinity.
    """
    counter = _counter(_on_cpu(), mesh)
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def put(tree: Any) -> Any:
        return jax.device_put(tree, everywhere)

    counts = [put(np.zeros(tile.places.shape, np.int32)) for tile in tiles]
    left = gallery.num_rows
    distances = left * sum(len(tile.rows) for tile in tiles)
    with progress.bar("ranking", distances, "distances", scaled=True) as advance:
        for chunk in _chunks(gallery, gallery_ids[share.places], share.places, gallery_block, mesh):
            for number, tile in enumerate(tiles):
                side = put(query.take(tile.rows).pad(len(tile.ids)))
                counts[number] = counter(counts[number], chunk, side, put((tile.ids, tile.places, threshold[number])))
                if number >= _AHEAD:
                    jax.block_until_ready(counts[number - _AHEAD])
                advance(len(tile.rows) * min(left, chunk.ids.size))
            jax.block_until_ready(counts)  # before the next chunk replaces it in memory
            left -= chunk.ids.size
    found = _together([np.asarray(count) for count in counts], share.exchange.sum)
    if query.measure is not None and any((count[:, : len(tile.rows)] < 0).any() for count, tile in zip(found, tiles)):
        raise own_metrics.not_finite(query.measure)
    return found


# ---- the same from given distances


@functools.partial(jax.jit, static_argnames="on_cpu")
def _count_given(
    values: Array, gallery_ids: Array, places: Array, tile: tuple[Array, Array, Array], on_cpu: bool
) -> Array:
    def step(counts: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return _add_counts(counts, *part, tile, on_cpu), None

    return lax.scan(step, jnp.zeros(tile[1].shape, jnp.int32), (values, gallery_ids, places))[0]


def counts_from_matrix(
    tile: candidates.Tile, rows: np.ndarray, gallery_ids: np.ndarray, share: Share
) -> tuple[np.ndarray, np.ndarray]:
    """Returns thresholds and counts [P, c] of a tile from its rows of a distance matrix.

    Args:
        tile: n queries, padded to c.
        rows: [n, G] float32 distances, finite; of a share its columns only.
        gallery_ids: [G] identities.
        share: the gallery rows that are here.
    """
    size, block = len(tile.rows), len(tile.ids)
    threshold = share.sum_values(_own_values(tile, rows, share))
    unit = distance_blocks.GALLERY_UNIT
    blocks = distance_blocks.power_of_two(-(-rows.shape[1] // unit))
    values = np.zeros((blocks * unit, block), np.float32)
    values[: rows.shape[1], :size] = rows.T
    places = distance_blocks.pad_rows(share.places.astype(np.int32), blocks * unit, -1)
    ids = distance_blocks.pad_rows(gallery_ids[share.places], blocks * unit)
    counts = _count_given(
        values.reshape(blocks, unit, block),
        ids.reshape(blocks, unit),
        places.reshape(blocks, unit),
        (tile.ids, tile.places, threshold),
        _on_cpu(),
    )
    return threshold, share.exchange.sum(np.asarray(counts))


def _own_values(tile: candidates.Tile, rows: np.ndarray, share: Share) -> np.ndarray:
    """Returns the distances [P, c] of the candidates that are here, 0 for others, from rows [n, own] of distances."""
    threshold = np.zeros(tile.places.shape, np.float32)
    places = tile.places[:, : len(tile.rows)]
    position = np.where(places >= 0, share.positions(np.maximum(places, 0)), -1)
    here = np.nonzero(position >= 0)
    threshold[here] = rows[here[1], position[here]]
    return threshold


# ---- many candidates


def counts_by_sorting(
    tile: candidates.Tile,
    distance_rows: Callable[[np.ndarray], np.ndarray],
    gallery_ids: np.ndarray,
    share: Share,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns thresholds and counts [P, c] of a tile by sorting each query's distances on the host.

    Args:
        tile: n queries, padded to c.
        distance_rows: maps query rows [n] to distances [n, G] (of a share its columns only), float32 and finite.
        gallery_ids: [G] identities.
        share: the gallery rows that are here.
    """
    threshold = np.zeros(tile.places.shape, np.float32)
    counts = np.zeros(tile.places.shape, np.int32)
    own_ids = gallery_ids[share.places]
    for first in range(0, len(tile.rows), distance_blocks.QUERY_UNIT):
        block = slice(first, min(first + distance_blocks.QUERY_UNIT, len(tile.rows)))
        rows = distance_rows(tile.rows[block])
        part = candidates.Tile(tile.rows[block], tile.ids[block], tile.places[:, block], tile.relevant[:, block])
        threshold[:, block] = share.sum_values(_own_values(part, rows, share))
        for column, row in enumerate(rows, start=first):
            places = tile.places[tile.places[:, column] >= 0, column]
            other = np.flatnonzero(own_ids != tile.ids[column])
            values = threshold[: len(places), column]
            ordered = np.sort(row[other])
            left, right = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
            tied = np.flatnonzero(right > left)
            if len(tied):
                # Rising gallery rows within equal distances.
                order = share.places[other[np.argsort(row[other], kind="stable")]]
                for place in tied:
                    left[place] += np.searchsorted(order[left[place] : right[place]], places[place])
            counts[: len(places), column] = left
    return threshold, share.exchange.sum(counts)
