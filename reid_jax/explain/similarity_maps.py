"""Which regions of two images make them similar: a map on each of them whose sum is the similarity.

With the partner's embedding and the lengths of all vectors fixed, the similarity is a function of a map inside of the
model, in steps from an empty map (zeros) to the real one. Where what follows the map is linear, or a maximum or a power
mean (each grows in proportion to the map), a position's part is its value times its gradient, and the parts add up
exactly; with mean pooling and a linear neck that is the decomposition of Stylianou et al. Elsewhere (a ReLU in the
head, a whole vision transformer) the gradients are averaged on the way (integrated gradients), which adds up but for
the error of the average, the *residue*: such a map is an approximation, and says so.

What an empty map gives (shifts of a neck, the class token, positions) belongs to no region: it is the *constant*, and
spread evenly over the map.

References:
    Stylianou et al., "Visualizing deep similarity networks", WACV 2019.
    Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017 (integrated gradients).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import build, errors
from reid_jax.explain import explainer as explainer_lib
from reid_jax.explain.explainer import Embedded, Explainer

# A residue below this is rounding: the map is exact.
TOLERANCE = 2e-3
STEPS = 32  # gradients that are averaged where one does not suffice
_MOST_STEPS = 256


@dataclasses.dataclass(frozen=True)
class RegionMap:
    """What the regions of one image contribute to its similarity to another one.

    Attributes:
        map: float32 [h, w], shares of the similarity, of either sign; their sum is `similarity - residue`.
        similarity: see `explainer.similarities`, in [-1, 1]; with a background what it is above the mean, in [-2, 2].
        constant: what is in the sum and belongs to no region, spread evenly.
        residue: what the sum lacks.
        exact: whether one gradient gave the whole similarity.
    """

    map: np.ndarray
    similarity: float
    constant: float
    residue: float
    exact: bool

    @property
    def regions(self) -> np.ndarray:
        """What the regions add to the constant, float32 [h, w]: the map without its even share."""
        return self.map - np.float32(self.constant / self.map.size)

    def note(self, digits: int = 3) -> str:
        """Returns the terms of the similarity: regions, constant, and the residue where it shows in these digits."""
        parts = f"{float(self.regions.sum(dtype=np.float64)):.{digits}f} {self.constant:+.{digits}f}"
        return parts if abs(self.residue) < 2 * 10.0**-digits else f"{parts} {self.residue:+.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Pair:
    """The maps on a query and on a gallery image."""

    query: RegionMap
    gallery: RegionMap


def pairs(
    model: Explainer,
    query: np.ndarray,
    gallery: np.ndarray | Sequence[np.ndarray],
    *,
    layers: Sequence[str] = (),
    steps: int = STEPS,
    cameras: tuple[int, Sequence[int]] | None = None,
    background: Embedded | None = None,
) -> list[Pair]:
    """Returns the maps of a query and each of some gallery images.

    Args:
        model: the model.
        query: uint8 RGB image [H, W, 3] of any size.
        gallery: such images.
        layers: maps inside of the model (`Explainer.layers`) that are explained together; () is the model's own cut,
            which nothing of an image goes around.
        steps: gradients that are averaged where one does not suffice.
        cameras: of the query and of the gallery images, see `Explainer.embed`.
        background: features of many images; what is explained is then how much more similar the two are than each of
            them is to these on average, which leaves out what all images share.

    Raises:
        UserError: an unknown layer, no gallery image, or a number of steps out of range.
    """
    if not 1 <= steps <= _MOST_STEPS:
        raise errors.UserError(f"expected 1 to {_MOST_STEPS} steps, got {steps}; change them.")
    if len(gallery) == 0:
        raise errors.UserError("expected a second image to explain a similarity, got one alone; give two.")
    names = tuple(layers) or model.cut()
    for name in names:
        model.layer(name)
    count = len(gallery)
    images = model.resized([query, *gallery])
    places = model.cameras(None if cameras is None else [cameras[0], *cameras[1]], count + 1)
    embedded = model.embed(images, places)
    # Row by row: the query and its partner, then the partner and the query.
    own = np.array([0] * count + list(range(1, count + 1)))
    partner = np.array(list(range(1, count + 1)) + [0] * count)
    maps = region_maps(
        model, names, images[own], places[own], embedded.take(own), embedded.take(partner), steps, background
    )
    return [Pair(one, other) for one, other in zip(maps[:count], maps[count:])]


def region_maps(
    model: Explainer,
    names: Sequence[str],
    images: np.ndarray,
    cameras: np.ndarray,
    own: Embedded,
    partner: Embedded,
    steps: int = STEPS,
    background: Embedded | None = None,
) -> list[RegionMap]:
    """Returns a map for each image and partner.

    Args:
        model: the model.
        names: its layers.
        images: uint8 [N, height, width, 3] of the model's size.
        cameras: int32 [N].
        own: features of the images.
        partner: features of what each is compared with.
        steps: see `pairs`.
        background: see `pairs`.
    """
    program = _Attribution(model, tuple(names))
    weights = explainer_lib.slot_weights(own, partner)
    target = partner.features / partner.lengths()[..., None] * weights[..., None]
    if background is not None:
        target = target - _mean_target(own, background)
    expected = np.einsum("nsd,nsd,ns->n", own.features, target, 1 / own.lengths(), dtype=np.float64)
    target = target / own.lengths()[..., None]
    pieces = model.chunks(images, cameras, target.astype(np.float32))
    found = [program(piece, (1.0,)) for piece in pieces]
    exact = max(float(np.abs(part.residue()).max()) for part in found) <= TOLERANCE
    if not exact:
        points = (np.polynomial.legendre.leggauss(steps)[0] + 1) / 2
        found = [program(piece, tuple(points)) for piece in pieces]
    rows = [row for part in found for row in part.rows(model)][: len(images)]
    maps = []
    for (regions, constant), similarity in zip(rows, expected, strict=True):
        whole = regions + constant / regions.size
        residue = float(similarity - whole.sum(dtype=np.float64))
        maps.append(RegionMap(whole.astype(np.float32), float(similarity), float(constant), residue, exact))
    return maps


def _mean_target(own: Embedded, background: Embedded) -> np.ndarray:
    """Returns the mean over background images of their unit slots, weighed as in the similarity to each row."""
    unit = background.features / background.lengths()[..., None]
    means = []
    for row in range(len(own.features)):
        weights = explainer_lib.slot_weights(own.take([row] * len(unit)), background)
        means.append(np.einsum("bs,bsd->sd", weights, unit) / len(unit))
    return np.stack(means)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Results of a program: by layer [N, h, w] and what leading tokens add [N]; the similarity at both ends, [N]."""

    regions: dict[str, np.ndarray]
    others: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def residue(self) -> np.ndarray:
        total = sum(regions.sum(axis=(1, 2), dtype=np.float64) for regions in self.regions.values())
        return np.asarray(self.last - self.first - self.others - total)

    def rows(self, model: Explainer) -> list[tuple[np.ndarray, float]]:
        """Returns for each image the map on the finest grid, and the constant."""
        grid = max((model.layer(name).grid for name in self.regions), key=lambda grid: grid[0] * grid[1])
        whole = sum(spread(regions.astype(np.float64), grid) for regions in self.regions.values())
        return list(zip(np.asarray(whole), (self.first + self.others).astype(np.float64)))


def spread(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Returns maps [N, h, w] on another grid [N, *grid], by overlap of the cells, so that sums stay.

    >>> spread(np.array([[[2.0, 4.0]]]), (1, 4))
    array([[[1., 1., 2., 2.]]])
    """
    down, across = (_overlap(size, target) for size, target in zip(maps.shape[1:], grid))
    summed: np.ndarray = np.einsum("nhw,Hh,Ww->nHW", maps, down, across)
    return summed


def _overlap(size: int, target: int) -> np.ndarray:
    """Returns the share of each of `size` equal cells of a line that lies in each of `target` cells, [target, size]."""
    low = np.maximum(np.arange(size)[None] / size, np.arange(target)[:, None] / target)
    high = np.minimum(np.arange(1, size + 1)[None] / size, np.arange(1, target + 1)[:, None] / target)
    share: np.ndarray = np.maximum(high - low, 0) * size
    return share


class _Attribution:
    """The compiled program of integrated gradients on some layers of a model."""

    def __init__(self, model: Explainer, names: tuple[str, ...]) -> None:
        self.model, self.names = model, names
        key = f"attribution {names}"
        self._program = model.programs.setdefault(key, jax.jit(self._run))

    def __call__(self, piece: tuple[np.ndarray, ...], points: tuple[float, ...]) -> _Parts:
        """Runs the program on images, cameras and weighed targets [N, S, D]; gradients at shares of the way."""
        shares = np.zeros((_MOST_STEPS, 2), np.float32)
        shares[: len(points)] = np.stack([points, np.polynomial.legendre.leggauss(len(points))[1] / 2], axis=1)
        return _Parts(*jax.device_get(self._program(self.model.variables, *piece, shares, len(points))))

    def _run(
        self,
        variables: build.Variables,
        images: jax.Array,
        cameras: jax.Array,
        target: jax.Array,
        shares: jax.Array,
        steps: jax.Array,
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array, jax.Array]:
        _, found, _ = self.model.traced(variables, images, cameras)
        lengths = {name: tapped.value for name, tapped in found.items() if name.startswith(explainer_lib.LENGTHS)}
        real = {name: found[name].value.astype(jnp.float32) for name in self.names}

        def similarity(maps: Mapping[str, jax.Array]) -> jax.Array:
            (features, _), _, _ = self.model.traced(variables, images, cameras, {**lengths, **maps})
            return jnp.einsum("nsd,nsd->n", features, target)

        def total(maps: Mapping[str, jax.Array]) -> jax.Array:
            return similarity(maps).sum()

        def scaled(share: jax.Array | float) -> dict[str, jax.Array]:
            return {name: share * value for name, value in real.items()}

        def add(step: jax.Array, average: dict[str, jax.Array]) -> dict[str, jax.Array]:
            slopes = jax.grad(total)(scaled(shares[step, 0]))
            return {name: average[name] + shares[step, 1] * slope for name, slope in slopes.items()}

        # The number of steps is no constant of the program: one serves a single gradient and the average of many.
        slopes = jax.lax.fori_loop(0, steps, add, jax.tree.map(jnp.zeros_like, real))
        regions, others = {}, jnp.zeros(images.shape[0])
        for name in self.names:
            part = jnp.sum(real[name] * slopes[name], axis=-1)  # [views N, h, w] or [views N, leading + h w]
            part, further = self._on_grid(part, self.model.layer(name))
            regions[name], others = part, others + further
        return regions, others, similarity(scaled(0.0)), similarity(real)

    def _on_grid(self, part: jax.Array, layer: explainer_lib.Layer) -> tuple[jax.Array, jax.Array]:
        """Returns contributions [N, h, w] summed over the views, mirrored back, and those of leading tokens [N]."""
        views = self.model.views
        count = part.shape[0] // views
        others = jnp.zeros(count)
        if part.ndim == 2:
            others = part[:, : layer.leading].sum(-1).reshape(views, count).sum(0)
            part = part[:, layer.leading :].reshape(part.shape[0], *layer.grid)
        total = part[:count]
        if views == 2:
            total = total + part[count:, :, ::-1]
        return total, others
