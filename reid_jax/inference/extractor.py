"""Extraction of descriptors from images.

`Extractor` runs a model on splits and images. `extract_features` runs any compiled function over padded, masked batches
and returns the rows in data set order; `feature_set` joins them with identities and cameras.
`reid_jax.evaluation.suite` evaluates the result.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import jax
import numpy as np

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax import progress as progress_lib
from reid_jax.data import feature_set as feature_set_lib
from reid_jax.data import gallery_share, pipeline, records
from reid_jax.inference import crops
from reid_jax.ops.descriptors import Descriptor
from reid_jax.runtime import exchange as exchange_lib
from reid_jax.runtime import mesh as mesh_lib

Batch = Mapping[str, Any]
Describe = Callable[[Batch], Descriptor]

_IN_FLIGHT = 2  # batches that the host enqueues before it waits for a result


class ImageSize(TypedDict):
    """Input size of a model in pixels, and the resizing method."""

    height: int
    width: int
    interpolation: str


@dataclasses.dataclass(frozen=True)
class Extracted:
    """Descriptors of a split in data set order.

    Attributes:
        features: [N, D] or [N, S, D] float32.
        visibility: [N, S] float32 or None.
        images_per_second: all images over `seconds`.
        seconds: wall time from the first image read to the last feature, without compilation.
        share: of a split that is divided over processes, the rows that these are; None for a whole one.
    """

    features: np.ndarray
    visibility: np.ndarray | None
    images_per_second: float
    seconds: float
    share: gallery_share.Share | None = None


def flip_average(describe: Describe) -> Describe:
    """Returns a function that averages the descriptors of an image and of its mirror image.

    Args:
        describe: maps a batch with `image` [B, H, W, C] to a `Descriptor`; may be jitted before or after.
    """

    def averaged(batch: Batch) -> Descriptor:
        plain = describe(batch)
        # Only the image is mirrored. A model that distinguishes left and right body parts handles this itself.
        mirrored = describe({**batch, "image": batch["image"][:, :, ::-1]})
        visibility = None
        if plain.visibility is not None and mirrored.visibility is not None:
            visibility = (plain.visibility + mirrored.visibility) / 2
        return Descriptor((plain.features + mirrored.features) / 2, visibility)

    return averaged


def extract_features(
    describe: Describe,
    batches: Iterable[Batch],
    num_images: int,
    *,
    compile: Callable[[Batch], object] | None = None,
    progress: Callable[[int], None] | None = None,
    exchange: gallery_share.Exchange | None = None,
) -> Extracted:
    """Returns the descriptors of all images in data set order.

    Args:
        describe: jitted function from a batch to a `Descriptor` with the batch's rows, addressable on this process.
        batches: dictionaries with `image` [B, H, W, C], `index` [B] (position in the split, -1 for padding), `mask`
            [B] bool, and further inputs of the model. With several processes, each yields its own share of the images
            in the same number of batches.
        num_images: number of images in the split.
        compile: called once with the inputs of the first batch; its time does not count.
        progress: called with the number of images after each batch.
        exchange: leaves each descriptor with the process that computed it, and connects the processes.

    Returns:
        `Extracted`, identical on every process; with `exchange` the process's own share.

    Raises:
        UserError: an image is missing or occurs twice.
    """
    started = time.perf_counter()
    waiting: collections.deque[tuple[np.ndarray, Descriptor]] = collections.deque()
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def fetch() -> None:
        index, descriptor = waiting.popleft()
        keep = index >= 0
        features, visibility = jax.device_get((descriptor.features, descriptor.visibility))
        features = np.asarray(features, np.float32)[keep]
        found.append((index[keep], features, None if visibility is None else np.asarray(visibility, np.float32)[keep]))
        if progress is not None:
            progress(int(keep.sum()))

    for batch in batches:
        index = np.where(np.asarray(batch["mask"], bool), np.asarray(batch["index"]), -1).astype(np.int64)
        inputs = {key: value for key, value in batch.items() if key not in ("index", "mask")}
        if compile is not None:
            before = time.perf_counter()
            compile(inputs)
            started, compile = started + time.perf_counter() - before, None
        waiting.append((index, describe(inputs)))
        if len(waiting) > _IN_FLIGHT:
            fetch()
    while waiting:
        fetch()
    seconds = time.perf_counter() - started
    if not found:
        raise errors.UserError("expected at least one batch of images, got no batch: check that the split has images.")
    index, features, visibility = _joined(found, exchange is None)
    _check_coverage(index if exchange is None else np.concatenate(exchange.gather(index.astype(np.int32))), num_images)
    order = np.argsort(index)
    return Extracted(
        features[order],
        None if visibility is None else visibility[order],
        num_images / seconds,
        seconds,
        None if exchange is None else gallery_share.Share(index[order], num_images, exchange),
    )


def _joined(
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]], gathered: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns index, features and visibility of all batches, of all processes where they are to be gathered."""
    indices, parts, visibilities = zip(*found, strict=True)
    index, features = np.concatenate(indices), np.concatenate(parts)
    visible = [part for part in visibilities if part is not None]
    visibility = np.concatenate(visible) if visible else None
    if jax.process_count() == 1 or not gathered:
        return index, features, visibility
    from jax.experimental import multihost_utils

    counts = np.asarray(multihost_utils.process_allgather(np.asarray(len(index), np.int32))).reshape(-1)
    size = int(counts.max())

    def gather(array: np.ndarray) -> np.ndarray:
        padded = np.zeros((size, *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        everyone = np.asarray(multihost_utils.process_allgather(padded))
        return np.concatenate([part[:count] for part, count in zip(everyone, counts, strict=True)])

    return (
        gather(index.astype(np.int32)),
        gather(features),
        None if visibility is None else gather(visibility),
    )


def _check_coverage(index: np.ndarray, num_images: int) -> None:
    """Raises a `UserError` unless every position of the split occurs once."""
    times = np.bincount(index, minlength=num_images)
    if len(times) != num_images or (times != 1).any():
        missing, twice = np.flatnonzero(times[:num_images] == 0), np.flatnonzero(times > 1)
        raise errors.UserError(
            f"each of the {num_images} images must occur once, but {len(missing)} are missing "
            f"({missing[:5].tolist()}) and {len(twice)} occur more than once ({twice[:5].tolist()}): check the "
            "pipeline's shares and its mask."
        )


def feature_set(
    query: Extracted,
    gallery: Extracted,
    query_labels: tuple[np.ndarray, np.ndarray, Iterable[str]],
    gallery_labels: tuple[np.ndarray, np.ndarray, Iterable[str]],
    meta: Mapping[str, Any] | None = None,
) -> feature_set_lib.FeatureSet:
    """Returns the feature set of descriptors and labels.

    Args:
        query: descriptors of the queries.
        gallery: descriptors of the gallery.
        query_labels: identities, cameras and file names of the queries.
        gallery_labels: identities, cameras and file names of the gallery.
        meta: description of model and preprocessing, as JSON values.
    """
    return feature_set_lib.FeatureSet(
        query_features=query.features,
        gallery_features=gallery.features,
        query_ids=query_labels[0],
        gallery_ids=gallery_labels[0],
        query_cams=query_labels[1],
        gallery_cams=gallery_labels[1],
        query_names=tuple(query_labels[2]),
        gallery_names=tuple(gallery_labels[2]),
        query_visibility=query.visibility,
        gallery_visibility=gallery.visibility,
        meta=dict(meta or {}),
        share=gallery.share,
    )


class Extractor:
    """Runs a model on images and returns its test features as NumPy arrays.

    Args:
        model: a model of `reid_jax.models`.
        settings: `data` (size, interpolation), `preprocess` and `evals` (batch size, flip) are used.
        mesh: devices that a batch is split over.
        origin: source of the variables as JSON values, for the meta data of features files.

    Attributes:
        describe: from variables and a batch (`image` uint8 [B, H, W, 3], or float32 in [0, 1]; `camid` [B], -1 for
            unknown; `label` [B]) to a `Descriptor`; pure, to be traced.
        size: height, width and interpolation of the model's images.
        batch_size: images per batch, a multiple of the number of devices.
    """

    def __init__(
        self,
        model: Any,
        settings: config_lib.Settings,
        mesh: jax.sharding.Mesh,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.settings, self.mesh, self.origin = model, settings, mesh, dict(origin or {})
        data, evals = settings.data, settings.evals
        self.size = ImageSize(
            height=data.height,
            width=data.width,
            interpolation=data.test_interpolation or data.interpolation,
        )
        self.batch_size = -(-evals.batch_size // mesh.size) * mesh.size
        preprocess = build.make_preprocess(settings.preprocess)

        def describe(variables: build.Variables, batch: Mapping[str, jax.Array]) -> Descriptor:
            once = lambda batch: model.describe(model.apply(variables, batch, train=False))
            return (flip_average(once) if evals.flip else once)(preprocess(batch))

        self.describe = describe
        self._describe = jax.jit(describe, out_shardings=mesh_lib.sharded(mesh))
        self._compiled: set[tuple[int, ...]] = set()
        self._timed_images, self._timed_seconds = 0, 0.0

    @property
    def images_per_second(self) -> float | None:
        """Throughput over all images so far, without compilation; None before the first."""
        return self._timed_images / self._timed_seconds if self._timed_images else None

    def example_batch(self) -> dict[str, np.ndarray]:
        """Returns a batch of one black image, for shapes."""
        image = np.zeros((1, self.size["height"], self.size["width"], 3), np.uint8)
        return {"image": image, "camid": np.zeros(1, np.int32), "label": np.zeros(1, np.int32)}

    def split(
        self,
        variables: build.Variables,
        split: records.Split,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
        divided: bool = False,
    ) -> Extracted:
        """Returns the features of all images of a split in data set order, identical on every process.

        Args:
            variables: `params` and `batch_stats`.
            split: the split.
            batch_size: images per batch, a multiple of the number of devices; None is that of the config.
            progress: called with the number of images after each batch, in place of a bar.
            divided: leaves the features, in a run of several processes, with the process that computed them.
        """

        def describe(batch: Mapping[str, np.ndarray]) -> Descriptor:
            described = self._describe(variables, mesh_lib.to_global(dict(batch), self.mesh))
            local: Descriptor = jax.tree.map(mesh_lib.local_rows, described)
            return local

        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        with (
            pipeline.eval_batches(split, **self.size, batch_size=batch_size or self.batch_size, **share) as batches,
            progress_lib.bar(
                f"features of {split.name}" if "/" in split.name else "features",
                -(-len(split) // jax.process_count()),
                "images",
            ) as advance,
        ):
            extracted = extract_features(
                describe,
                batches,
                len(split),
                compile=functools.partial(self._compile, variables),
                progress=progress or advance,
                exchange=exchange_lib.Processes() if divided and jax.process_count() > 1 else None,
            )
        self._timed_images += len(split)
        self._timed_seconds += extracted.seconds
        return extracted

    def _compile(self, variables: build.Variables, batch: Mapping[str, np.ndarray]) -> None:
        """Compiles the program for the shape of a batch once; the call that follows finds it."""
        if batch["image"].shape not in self._compiled:
            with progress_lib.waiting("compiling the model"):
                self._describe.lower(variables, mesh_lib.to_global(dict(batch), self.mesh)).compile()
            self._compiled.add(batch["image"].shape)

    def warm(self, variables: build.Variables, counts: Iterable[int]) -> None:
        """Compiles the programs of `images` for some numbers of images, so that its first calls do not wait for them.

        `reid_jax.runtime.compilation.keep()`, called before, keeps the programs for the next start.

        Args:
            variables: `params` and `batch_stats`.
            counts: numbers of images; 5 and 8 share a program, see `images`.
        """
        for count in sorted({self._padded(count) for count in counts}):
            rows = count // jax.process_count()
            image = np.zeros((rows, self.size["height"], self.size["width"], 3), np.uint8)
            self._compile(variables, {"image": image, "camid": np.full(rows, -1, np.int32)})

    def _padded(self, count: int) -> int:
        """Returns the size of the batches in which `images` describes this many images."""
        if count < 1:
            raise errors.UserError(f"expected numbers of images from 1 on, got {count}.")
        padded = min(1 << (count - 1).bit_length(), self.batch_size)
        return -(-padded // self.mesh.size) * self.mesh.size

    def images(
        self,
        variables: build.Variables,
        images: np.ndarray | Sequence[np.ndarray],
        boxes: Any = None,
        *,
        channels: str = "rgb",
    ) -> Extracted:
        """Returns the features of images from an unknown camera.

        A batch is padded to the next power of two, so that a few images cost little; each of these sizes is compiled
        at its first use, or by `warm` before.

        Args:
            variables: `params` and `batch_stats`.
            images: uint8 images of any size: a list of crops, an array [N, H, W, 3], or one image; gray images and such
                with transparency are converted, see `crops.as_images`.
            boxes: [N, 4] left, top, right, bottom in pixels of the one image: the features are those of the crops.
            channels: "rgb", or "bgr" for images of OpenCV.

        Raises:
            UserError: images or boxes of another type, shape or range, or empty ones.
        """
        converted = crops.as_images(images, boxes, channels)
        count = len(converted)
        if not count:
            return self._nothing(variables)
        split = records.Split(
            name="images",
            source=[
                {"image": image, "pid": 0, "camid": -1, "filename": str(index)} for index, image in enumerate(converted)
            ],
            pids=np.zeros(count, np.int32),
            camids=np.full(count, -1, np.int32),
            filenames=tuple(str(index) for index in range(count)),
        )
        return self.split(variables, split, batch_size=self._padded(count))

    def _nothing(self, variables: build.Variables) -> Extracted:
        """Returns the features of no image: arrays of the right width without rows."""
        batch = {key: np.repeat(value, self.mesh.size, axis=0) for key, value in self.example_batch().items()}
        described = jax.eval_shape(self._describe, variables, batch)
        visibility = described.visibility
        return Extracted(
            np.zeros((0, *described.features.shape[1:]), np.float32),
            None if visibility is None else np.zeros((0, *visibility.shape[1:]), np.float32),
            0.0,
            0.0,
        )
