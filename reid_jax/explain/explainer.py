"""A model with its taps: embeddings, the maps inside of it, and programs that replace them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import build, errors
from reid_jax.data import image_io
from reid_jax.inference import crops
from reid_jax.inference import extractor as extractor_lib
from reid_jax.ops import taps
from reid_jax.ops.descriptors import Descriptor

Cameras = Sequence[int] | np.ndarray | None

# Taps whose arrays are no maps: lengths that vectors are divided by, and weights of attention.
LENGTHS, ATTENTION = "length", "attention"
# The pictures themselves as a layer, for models without taps.
PIXELS = "pixels"
TOKENS = "tokens"  # of a ViT, after the last normalization
BATCH = 16  # images per call; fewer are padded to a power of two


@dataclasses.dataclass(frozen=True)
class Layer:
    """A map inside of a model.

    Attributes:
        grid: its rows and columns.
        channels: values at each position.
        leading: tokens before those of the grid.
        cut: see `reid_jax.ops.taps.Tapped`.
    """

    grid: tuple[int, int]
    channels: int
    leading: int
    cut: bool


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Test features of images, as slots.

    Attributes:
        features: float32 [N, S, D]; S is 1 for models with one vector per image.
        visibility: float32 [N, S], 1 where the model has none.
    """

    features: np.ndarray
    visibility: np.ndarray

    def take(self, rows: Any) -> Embedded:
        """Returns the given rows."""
        return Embedded(self.features[rows], self.visibility[rows])

    def lengths(self) -> np.ndarray:
        """Returns the lengths of the vectors, [N, S], none of them zero."""
        lengths: np.ndarray = np.maximum(np.linalg.norm(self.features, axis=-1), 1e-12)
        return lengths


def slot_weights(one: Embedded, other: Embedded) -> np.ndarray:
    """Returns the share of each slot in the similarity of rows of equal number, [N, S]; zeros where none is shared."""
    both = one.visibility * other.visibility
    weights: np.ndarray = both / np.maximum(both.sum(axis=1, keepdims=True), 1e-12)
    return weights


def similarities(one: Embedded, other: Embedded) -> np.ndarray:
    """Returns the similarity of rows of equal number, [N] in [-1, 1].

    It is the cosine of the test features; for descriptors of slots the mean of the slots' cosines, weighed with the
    product of their visibility.
    """
    cosines = np.einsum("nsd,nsd->ns", one.features, other.features, dtype=np.float64)
    cosines /= one.lengths() * other.lengths()
    summed: np.ndarray = (slot_weights(one, other) * cosines).sum(axis=1)
    return summed


class Explainer:
    """Runs a model for explanations.

    Args:
        extractor: the model with its preprocessing; with `evals.flip`, features are averaged with those of the mirror
            image, as in the evaluation.
        variables: its variables.

    Attributes:
        size: (height, width) of the model's images.
        programs: compiled programs by name.
        blank: uint8 [3], the color that normalization maps to zero, with which regions are hidden.
    """

    def __init__(self, extractor: extractor_lib.Extractor, variables: build.Variables) -> None:
        self.extractor, self.variables = extractor, variables
        self.model, self.settings = extractor.model, extractor.settings
        self.size = (extractor.size["height"], extractor.size["width"])
        mean = np.asarray(self.settings.preprocess.mean, np.float32)
        self.blank: np.ndarray = np.clip(np.rint(255 * mean), 0, 255).astype(np.uint8)
        self.views = 2 if self.settings.evals.flip else 1
        self.preprocess = build.make_preprocess(self.settings.preprocess)
        self._embed = jax.jit(lambda *arguments: self.traced(*arguments)[0])
        self.programs: dict[str, Callable[..., Any]] = {}

    # ---- images and embeddings --------------------------------------------------------------------------------------

    def resized(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Returns images as the model sees them, uint8 [N, height, width, 3].

        Args:
            images: uint8 RGB images of any size, see `reid_jax.inference.crops.as_images`.

        Raises:
            UserError: images of another type or shape, or none.
        """
        converted = crops.as_images(images)
        if not converted:
            raise errors.UserError("expected at least one image to explain, got none; give one.")
        method = self.extractor.size["interpolation"]
        return np.stack([image_io.resize(image, *self.size, method) for image in converted])

    def embed(self, images: np.ndarray, cameras: Cameras = None) -> Embedded:
        """Returns the test features of images of the model's size.

        Args:
            images: uint8 [N, height, width, 3].
            cameras: [N] cameras counted from 0, -1 for unknown; None for all unknown. Models with a camera embedding
                read them.
        """
        parts = [
            self._embed(self.variables, *chunk) for chunk in self.chunks(images, self.cameras(cameras, len(images)))
        ]
        features, visibility = (np.concatenate(arrays)[: len(images)] for arrays in zip(*jax.device_get(parts)))
        return Embedded(features, visibility)

    @staticmethod
    def cameras(cameras: Cameras, count: int) -> np.ndarray:
        """Returns cameras as int32 [count]."""
        return np.full(count, -1, np.int32) if cameras is None else np.asarray(cameras, np.int32)

    @staticmethod
    def chunks(*arrays: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """Returns arrays of equally many rows in pieces whose last rows repeat, so that few programs are compiled."""
        pieces = []
        for first in range(0, len(arrays[0]), BATCH):
            cut = [array[first : first + BATCH] for array in arrays]
            count = len(cut[0])
            missing = (1 << (count - 1).bit_length()) - count
            pieces.append(tuple(np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in cut))
        return pieces

    # ---- programs ---------------------------------------------------------------------------------------------------

    def traced(
        self,
        variables: build.Variables,
        images: jax.Array,
        cameras: jax.Array,
        replacements: Mapping[str, jax.Array] | None = None,
    ) -> tuple[tuple[jax.Array, jax.Array], dict[str, taps.Tapped], Mapping[str, jax.Array]]:
        """Runs the model; to be traced.

        Args:
            variables: of the model.
            images: uint8 [N, H, W, 3].
            cameras: int32 [N].
            replacements: arrays by tap; the rows are those of the images, then those of their mirror images where there
                are two `views`. "pixels" stands for the normalized images.

        Returns:
            (Features [N, S, D], visibility [N, S]), averaged over the views; what passed the taps, and the outputs of
            the model, both with all views.
        """
        count = images.shape[0]
        if self.views == 2:
            images = jnp.concatenate((images, images[:, :, ::-1]))
            cameras = jnp.concatenate((cameras, cameras))
        batch = {"image": images, "camid": cameras, "label": jnp.zeros_like(cameras)}
        # Sums of parts should be the whole on accelerators, too, whose fast products have few digits.
        with taps.watching(replacements) as found, jax.default_matmul_precision("highest"):
            batch = self.preprocess(batch)
            batch["image"] = taps.tap(PIXELS, batch["image"])
            outputs = self.model.apply(variables, batch, train=False)
            described: Descriptor = self.model.describe(outputs)
        features = described.features.astype(jnp.float32)
        features = features[:, None] if features.ndim == 2 else features
        visibility = jnp.ones(features.shape[:2]) if described.visibility is None else described.visibility
        views = (self.views, count)
        averaged = tuple(x.reshape(*views, *x.shape[1:]).mean(0) for x in (features, visibility.astype(jnp.float32)))
        return (averaged[0], averaged[1]), found, outputs

    @functools.cached_property
    def _shapes(self) -> tuple[dict[str, Layer], dict[str, tuple[int, ...]], dict[str, Any]]:
        """Layers, shapes of attention, and shapes of the outputs, by tracing alone."""
        marks: dict[str, taps.Tapped] = {}

        def trace(variables: Any, images: jax.Array, cameras: jax.Array) -> Any:
            _, found, outputs = self.traced(variables, images, cameras)
            marks.update(found)
            return {name: tapped.value for name, tapped in found.items()}, outputs

        images = jax.ShapeDtypeStruct((1, *self.size, 3), jnp.uint8)
        found, outputs = jax.eval_shape(trace, self.variables, images, jax.ShapeDtypeStruct((1,), jnp.int32))
        layers, attention = {}, {}
        grids = {tapped.grid[0] * tapped.grid[1]: tapped.grid for tapped in marks.values() if tapped.grid is not None}
        for name in marks:  # in the order of the calls, which a tree of results does not keep
            array = found[name]
            if name.split("#")[0].split("/")[0] == ATTENTION:
                attention[name] = array.shape[1:]
            elif array.shape[0] == self.views and array.ndim in (3, 4):
                mark = marks[name]
                tokens = grids.get(array.shape[1] - mark.leading) if name != LENGTHS else None
                grid = (array.shape[1], array.shape[2]) if array.ndim == 4 else mark.grid or tokens
                if grid is not None:
                    layers[name] = Layer(grid, array.shape[-1], mark.leading, mark.cut)
        return layers, attention, dict(outputs) if isinstance(outputs, Mapping) else {}

    @property
    def layers(self) -> dict[str, Layer]:
        """The maps of the model by name, in the order in which it computes them; "pixels" is the image itself."""
        return self._shapes[0]

    @property
    def attentions(self) -> dict[str, tuple[int, ...]]:
        """Shapes (heads, queries, keys) of the model's attention weights by name, in the order of the calls."""
        return self._shapes[1]

    @property
    def outputs(self) -> dict[str, Any]:
        """Shapes of the model's outputs by name, for one image and its views."""
        return self._shapes[2]

    def layer(self, name: str) -> Layer:
        """Returns a layer by name.

        Raises:
            UserError: the model has no such layer; the message names those it has.
        """
        if name not in self.layers:
            raise errors.unknown(f"layer of {type(self.model).__name__}", name, self.layers)
        return self.layers[name]

    def cut(self) -> tuple[str, ...]:
        """Returns the layers through which all that the embedding knows of an image passes; the pixels, if unknown."""
        return tuple(name for name, layer in self.layers.items() if layer.cut) or (PIXELS,)

    def last(self) -> str:
        """Returns the last map before the embedding, of tokens those before the last normalization.

        Normalized tokens are all about as long as each other.
        """
        names = [name for name in self.layers if name not in (PIXELS, TOKENS)]
        if not names:
            return PIXELS
        pooled = [name for name in names if self.layers[name].cut and not self.attentions]
        return pooled[0] if pooled else names[-1]

    def read(
        self,
        name: str,
        images: np.ndarray,
        pick: Callable[[dict[str, taps.Tapped], Mapping[str, jax.Array]], Any],
        cameras: Cameras = None,
    ) -> Any:
        """Returns what a function picks of taps and outputs, for the images without their mirror images.

        Args:
            name: of the function, by which its compiled program is kept.
            images: uint8 [N, height, width, 3].
            pick: from taps and outputs to a tree of arrays [N, ...].
            cameras: see `embed`.
        """

        def call(variables: build.Variables, images: jax.Array, cameras: jax.Array) -> Any:
            _, found, outputs = self.traced(variables, images, cameras)
            count = images.shape[0]
            return jax.tree.map(lambda x: x[:count].astype(jnp.float32), pick(found, outputs))

        program = self.programs.setdefault(name, jax.jit(call))
        pieces = self.chunks(images, self.cameras(cameras, len(images)))
        parts = [jax.device_get(program(self.variables, *piece)) for piece in pieces]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(images)], *parts)
