"""Drawings of masked test images by a masked autoencoder: pictures, and PSNR by region beside three fills.

The same people and masks in every run: the images lie evenly in the gallery of the labeled set, and the keys of the
masks are their numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from reid_jax import build, file_io
from reid_jax import config as config_lib
from reid_jax.data import image_io, pipeline, records, transforms
from reid_jax.evaluation import image_quality, image_regions
from reid_jax.losses import masked_patches
from reid_jax.ops import images as image_ops
from reid_jax.ops import masks

IMAGES, PEOPLE = 256, 16
MOST_AVERAGED = 4096  # training images in the cameras' averages
# Limbs that are hidden whole in a picture, by their groups in `masks.PART_GROUPS`.
WHOLE = {"legs": (4, 5), "torso": (3,)}
_TITLE = 14  # pixels above a sheet
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Drawings by kind of mask, with their scores.

    Attributes:
        sheets: reconstructions for pictures, by kind of mask.
        scores: PSNR in dB by "<kind>/<region>/<drawn, mean_fill, camera_fill or smooth_fill>", and "<kind>/pattern/..."
            for the share of the pattern within patches, see `image_quality.pattern_share`.
    """

    sheets: Mapping[str, image_quality.Reconstruction]
    scores: Mapping[str, float]

    def write(self, path: Any) -> None:
        """Writes the sheets below each other as PNG: seen, drawn and true of each person, by kind of mask."""
        pages = []
        for kind, sheet in self.sheets.items():
            page = sheet.sheet(PEOPLE)
            title = Image.new("RGB", (page.shape[1], _TITLE), "white")
            ImageDraw.Draw(title).text((4, 1), f"{kind}: seen, drawn, true", fill="black")
            pages += [np.asarray(title), page]
        width = max(page.shape[1] for page in pages)
        pages = [np.pad(page, ((0, 0), (0, width - page.shape[1]), (0, 0)), constant_values=255) for page in pages]
        picture = Image.fromarray(np.concatenate(pages))
        file_io.write(path, lambda file: picture.save(file, format="PNG"), "the picture")


class Drawer:
    """Draws test images of a labeled set; images and averages are read once.

    Args:
        model: a masked autoencoder.
        settings: settings of the run.
        labeled: the data set of the images; its training images give the cameras' averages.
    """

    def __init__(self, model: Any, settings: config_lib.Settings, labeled: records.ReIDDataset) -> None:
        self.model, self.settings, self.labeled = model, settings, labeled
        terms = [term for term in settings.losses.values() if term and term["loss"] == "masked_patches"]
        self.normalized = any(term.get("normalize", False) for term in terms)
        self._compiled: dict[float, Any] = {}
        self._fills: dict[str, dict[str, float]] = {}

    @functools.cached_property
    def images(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Images uint8 [N, H, W, 3], labels of body parts [N, H, W] or None, and cameras [N]."""
        split, data = self.labeled.split("gallery"), self.settings.data
        chosen = np.unique(np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(int))
        has_parts = "parts" in split.source[int(chosen[0])]
        resize = transforms.Resize(data.height, data.width, data.test_interpolation or data.interpolation)
        reader = pipeline.Reader(split, ("parts",) if has_parts else ())
        elements = [resize(reader.read(int(index))) for index in chosen]
        parts = np.stack([element["parts"] for element in elements]) if has_parts else None
        return np.stack([element["image"] for element in elements]), parts, np.asarray(split.camids)[chosen]

    @functools.cached_property
    def averages(self) -> dict[int, np.ndarray]:
        """Mean images of the cameras over the training images of the labeled set."""
        split, data = self.labeled.split("train"), self.settings.data
        chosen = np.unique(np.linspace(0, len(split) - 1, min(MOST_AVERAGED, len(split))).astype(int))
        kind = data.test_interpolation or data.interpolation
        pairs = (
            (image_io.resize(split.image(int(index)), data.height, data.width, kind) / 255.0, split.camids[index])
            for index in chosen
        )
        return image_regions.camera_averages(pairs)

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Tokens of body parts of the images, bool [N, 6, tokens]; bands where there are no labels."""
        images, parts, _ = self.images
        rule = self.model.rule()
        bands = masks.groups_of_strips(rule.rows, rule.columns)
        if parts is None:
            return np.broadcast_to(bands, (len(images), *bands.shape))
        return np.asarray(masks.groups_of_maps(jnp.asarray(parts), self.model.patch, self.model.part_cover))

    def drawings(self, variables: build.Variables, kinds: tuple[str, ...] = masks.KINDS) -> Drawings:
        """Returns drawings for masks of some kinds at the model's ratio, and of whole limbs.

        Args:
            variables: variables of the model.
            kinds: kinds of masks.
        """
        sheets: dict[str, image_quality.Reconstruction] = {}
        scores: dict[str, float] = {}
        for kind in kinds:
            drawn = self._drawn(variables, self._masks(kind), self.model.mask_ratio)
            sheets[kind] = _first(drawn, PEOPLE)
            scores |= {f"{kind}/{name}": value for name, value in self._scores(kind, drawn).items()}
        for limb, groups in WHOLE.items() if kinds == masks.KINDS else ():
            hidden = whole_limbs(np.asarray(self._people()[:, groups].any(axis=1)), self.model.rule())
            ratio = float(hidden[0].mean())
            sheets[limb] = _first(self._drawn(variables, hidden, ratio), PEOPLE)
        return Drawings(sheets, scores)

    def _people(self) -> np.ndarray:
        """Returns the groups of the images that are shown."""
        people: np.ndarray = self.groups[_shown(len(self.groups))]
        return people

    def _masks(self, kind: str) -> np.ndarray:
        """Returns the hidden tokens, bool [N, tokens]."""
        rule = dataclasses.replace(self.model.rule(), kind=kind, parts_reference=False)
        count = len(self.images[0])
        seeds = np.stack([np.arange(count), np.full(count, 2022)], axis=1).astype(np.uint32)
        drawn = masks.draw(masks.keys_of(jnp.asarray(seeds), 0), rule, jnp.asarray(self.groups))
        return np.asarray(drawn.mask)

    def _drawn(self, variables: build.Variables, hidden: np.ndarray, ratio: float) -> image_quality.Reconstruction:
        """Returns the drawings of the images, or of those that are shown where there are as many masks."""
        images = self.images[0] if len(hidden) == len(self.images[0]) else self.images[0][_shown(len(self.images[0]))]
        patch = self.model.patch
        hidden = masks.check_given(hidden, self.model.clone(mask_ratio=ratio).rule())
        drawn = []
        for first in range(0, len(images), _BATCH):
            part = slice(first, first + _BATCH)
            drawn.append(np.asarray(self._program(ratio)(variables, images[part], hidden[part])))
        pixels = hidden.reshape(len(hidden), images.shape[1] // patch, images.shape[2] // patch)
        mask = pixels.repeat(patch, axis=1).repeat(patch, axis=2)
        true = images / np.float32(255)
        seen = np.where(mask[..., None], np.float32(0.5), true)
        comparable = not self.normalized or self.model.statistics
        return image_quality.Reconstruction(seen, np.concatenate(drawn), true, mask, comparable=comparable)

    def _program(self, ratio: float) -> Any:
        """Returns the compiled function from images and masks to drawings in [0, 1]."""
        if ratio not in self._compiled:
            model = self.model.clone(mask_ratio=ratio)
            preprocess = build.make_preprocess(self.settings.preprocess)
            mean, std = (np.asarray(each, np.float32).reshape(1, 1, 1, 3) for each in self._normalization())

            def draw(variables: Any, images: jax.Array, hidden: jax.Array) -> jax.Array:
                batch = preprocess({"image": images, "mask": hidden})
                outputs = model.apply(variables, batch, train=False)
                patches = outputs["pixels/predicted"]
                if self.normalized and self.model.statistics:
                    patches = masked_patches.scale_patches(patches, outputs["pixels/statistics"])
                elif self.normalized:
                    true = image_ops.patchify(batch["image"], self.model.patch)
                    patches = masked_patches.denormalize_patches(patches, true)
                return image_ops.unpatchify(patches, self.model.patch, *images.shape[1:3]) * std + mean

            self._compiled[ratio] = jax.jit(draw)
        return self._compiled[ratio]

    def _normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.settings.preprocess.mean, self.settings.preprocess.std

    def _scores(self, kind: str, drawn: image_quality.Reconstruction) -> dict[str, float]:
        """Returns PSNR by region of drawing and fills; empty for drawings that know the true scale."""
        if not drawn.comparable:
            return {}
        if kind not in self._fills:
            # Images and masks are the same whenever it is asked.
            average = image_regions.camera_fill(drawn.true, drawn.mask, self.images[2], self.averages)
            self._fills[kind] = {
                **self._by_region(drawn, "mean_fill", drawn.filled()),
                **self._by_region(drawn, "camera_fill", np.clip(average, 0, 1)),
                **self._by_region(drawn, "smooth_fill", image_regions.smooth_fill(drawn.true, drawn.mask)),
            }
        return {**self._by_region(drawn, "drawn", drawn.completed()), **self._fills[kind]}

    def _by_region(self, drawn: image_quality.Reconstruction, name: str, filled: np.ndarray) -> dict[str, float]:
        """Returns PSNR of completed images [N, H, W, 3] by "<region>/<name>", and the share of "pattern/<name>"."""
        found = image_regions.regions(drawn.mask, self.images[1])
        return {
            f"{region}/{name}": image_quality.psnr(filled, drawn.true, mask)
            for region, mask in found.items()
            if mask.any()
        } | {f"pattern/{name}": image_quality.pattern_share(filled, drawn.true, drawn.mask, self.model.patch)}


def whole_limbs(tokens: np.ndarray, rule: masks.Rule) -> np.ndarray:
    """Returns masks that hide all tokens of a limb and their nearest neighbors, as many in every image.

    Args:
        tokens: bool [N, tokens], the limb's; without any, the nearest to the middle of the image.
        rule: the grid.

    Returns:
        bool [N, tokens], with the largest number of tokens of one image in each row.
    """
    places = np.mgrid[: rule.rows, : rule.columns].reshape(2, -1).T.astype(float)
    count = min(max(1, int(tokens.sum(axis=1).max())), rule.tokens - 1)
    hidden = np.zeros_like(tokens)
    for row, own in enumerate(tokens):
        ends = places[own] if own.any() else places.mean(axis=0, keepdims=True)
        distance = np.abs(places[:, None] - ends[None]).sum(axis=-1).min(axis=1)
        hidden[row, np.argsort(distance, kind="stable")[:count]] = True
    return hidden


def _shown(count: int) -> np.ndarray:
    """Returns the places of the people on sheets among the images."""
    return np.unique(np.linspace(0, count - 1, min(PEOPLE, count)).astype(int))


def _first(drawn: image_quality.Reconstruction, people: int) -> image_quality.Reconstruction:
    """Returns the drawings of the people on sheets."""
    if len(drawn.true) <= people:
        return drawn
    chosen = _shown(len(drawn.true))
    fields = {name: getattr(drawn, name)[chosen] for name in ("seen", "drawn", "true", "mask")}
    return dataclasses.replace(drawn, **fields)
