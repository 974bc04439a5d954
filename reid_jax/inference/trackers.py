"""Embeddings for trackers: the crops of a frame in, unit vectors out, under the names that trackers call.

    embedder = trackers.of_extractor(extractor, variables)   # a run or published weights
    embedder = trackers.of_onnx("mfv.onnx")                  # a file of `reid-jax export`, without JAX

    embedder.get_features(boxes, frame)                      # BoxMOT
    embedder.predict(crops)                                  # deep-sort-realtime
    embedder(frame, boxes)                                   # StrongSORT, Ultralytics

No tracker is imported; the docs' page "Deploy" has the line of each. `of_onnx` needs NumPy, OpenCV, Pillow, simplejpeg
and onnxruntime alone.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reid_jax import errors
from reid_jax.data import image_io
from reid_jax.inference import crops, input_layouts, unit_vectors

if TYPE_CHECKING:
    from reid_jax import build
    from reid_jax.inference import extractor as extractor_lib

# Numbers of a box: corners; left, top, width and height; center, width and height.
BOX_FORMATS = ("xyxy", "ltwh", "cxcywh")
_BATCH = 64  # most crops that an ONNX session gets at once

Embed = Callable[[list[np.ndarray]], np.ndarray]


class TrackerEmbedder:
    """The embedder that a tracker is given in place of its own.

    Every method returns float32 [N, D] with rows of unit length in the order of the boxes or crops, N = 0 included. A
    tracker counts on a row for each detection: a box that has no pixel in the frame gets the embedding of a black crop.

    Args:
        embed: from uint8 RGB crops of any size, at least one, to vectors of unit length [N, D].
        embedding_dim: D.
        channels: order of the channels in what trackers pass: "bgr", as OpenCV reads images, or "rgb".
        boxes: format of the boxes in `embedder(frame, boxes)`, one of `BOX_FORMATS`; `get_features` takes "xyxy".
        threshold: cosine distance up to which two crops show the same person, for the tracker's gate; None if unknown.

    Raises:
        UserError: an unknown order of channels or format of boxes.
    """

    def __init__(
        self,
        embed: Embed,
        embedding_dim: int,
        *,
        channels: str = "bgr",
        boxes: str = "xyxy",
        threshold: float | None = None,
    ) -> None:
        if boxes not in BOX_FORMATS:
            raise errors.unknown("format of boxes", str(boxes), BOX_FORMATS)
        if channels not in crops.CHANNELS:
            raise errors.unknown("order of channels", str(channels), crops.CHANNELS)
        self._embed, self.embedding_dim = embed, embedding_dim
        self.channels, self.boxes, self.threshold = channels, boxes, threshold

    def features(
        self, images: np.ndarray | Sequence[np.ndarray], boxes: Any = None, *, channels: str = "rgb"
    ) -> np.ndarray:
        """Returns the embeddings of crops, or of the boxes of a frame.

        Args:
            images: uint8 crops of any size, or the one frame [H, W, 3] that the boxes are of.
            boxes: [N, 4] left, top, right, bottom in pixels; None where `images` are crops.
            channels: "rgb" or "bgr".

        Raises:
            UserError: images or boxes of another type or shape, or boxes that are not finite.
        """
        found = crops.as_images(images, boxes, channels, blank=True)
        if not found:
            return np.zeros((0, self.embedding_dim), np.float32)
        return np.asarray(self._embed(found), np.float32)

    def get_features(self, boxes: Any, frame: np.ndarray) -> np.ndarray:
        """Returns the embeddings of the boxes [N, 4] (left, top, right, bottom) of a frame: BoxMOT's `reid_model`."""
        return self.features(frame, boxes, channels=self.channels)

    def predict(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the embeddings of a list of crops: deep-sort-realtime's `embedder`."""
        return self.features(images, channels=self.channels)

    def __call__(self, images: np.ndarray | Sequence[np.ndarray], boxes: Any = None) -> np.ndarray:
        """Returns the embeddings of a list of crops, or of a frame and its boxes in the format of the constructor."""
        return self.features(images, None if boxes is None else self._corners(boxes), channels=self.channels)

    inference = __call__  # the name in BoT-SORT's own code

    def _corners(self, boxes: Any) -> np.ndarray:
        """Returns left, top, right, bottom of the first four numbers of each box."""
        boxes = np.asarray(boxes, np.float64)
        if not boxes.size:
            return np.zeros((0, 4))
        if boxes.ndim != 2 or boxes.shape[1] < 4:
            raise errors.UserError(
                f"expected boxes [N, 4] ({self.boxes}), got an array of shape {boxes.shape}; correct them."
            )
        first, second = boxes[:, :2], boxes[:, 2:4]
        if self.boxes == "ltwh":
            second = first + second
        elif self.boxes == "cxcywh":
            first, second = first - second / 2, first + second / 2
        return np.concatenate((first, second), axis=1)


def of_extractor(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    *,
    channels: str = "bgr",
    boxes: str = "xyxy",
    threshold: float | None = None,
) -> TrackerEmbedder:
    """Returns the embedder of a model. Each power of two of crops is compiled at its first use.

    Args:
        extractor: the model with its preprocessing.
        variables: its variables.
        channels: see `TrackerEmbedder`.
        boxes: see `TrackerEmbedder`.
        threshold: see `TrackerEmbedder`.
    """

    def embed(images: list[np.ndarray]) -> np.ndarray:
        described = extractor.images(variables, images)
        joined: np.ndarray = unit_vectors.joined(described.features, described.visibility)
        return joined

    shape = extractor.images(variables, []).features.shape[1:]
    return TrackerEmbedder(embed, int(np.prod(shape)), channels=channels, boxes=boxes, threshold=threshold)


def of_onnx(
    path: str | pathlib.Path, *, channels: str = "bgr", boxes: str = "xyxy", threads: int | None = None
) -> TrackerEmbedder:
    """Returns the embedder of a file that `reid-jax export --format onnx` wrote.

    Crops are resized as in training, from the meta data of the file, whichever `--input` it was written with.

    Args:
        path: the file.
        channels: see `TrackerEmbedder`.
        boxes: see `TrackerEmbedder`.
        threads: threads of a call; None is one per core.

    Raises:
        UserError: onnxruntime is not installed, or the file cannot be read or is another program's.
    """
    try:
        import onnxruntime
    except ImportError:
        raise errors.UserError(
            "expected the package onnxruntime to run an ONNX file; pip install onnxruntime."
        ) from None
    if not pathlib.Path(path).is_file():
        raise errors.UserError(f"expected an ONNX file, there is none at {path}; write it with reid-jax export.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, without a common one
        raise errors.UserError(f"cannot read the ONNX file {path} ({errors.reason(error)}); export it again.") from None
    described = _described(session.get_modelmeta().custom_metadata_map, path)
    given = described["input"]
    height, width = given["size"]
    layout = input_layouts.LAYOUTS[given["name"]]

    def embed(images: list[np.ndarray]) -> np.ndarray:
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            resized = [image_io.resize(image, height, width, given["interpolation"]) for image in batch]
            features, *visibility = session.run(None, {"images": layout.of_images(np.stack(resized))})
            parts.append(unit_vectors.joined(features, *visibility))
        return np.concatenate(parts)

    known = described["threshold"] or {}
    threshold = known.get("cosine")
    if threshold is None and described["output"]["unit_length"]:
        threshold = known.get("distance")  # that of other outputs is in the model's own metric
    size = int(np.prod(described["output"]["shape"]))
    return TrackerEmbedder(embed, size, channels=channels, boxes=boxes, threshold=threshold)


def _described(texts: Mapping[str, str], path: str | pathlib.Path) -> dict[str, Any]:
    """Returns the meta data of an ONNX file."""
    try:
        found = {key: json.loads(texts[key]) for key in ("input", "output", "threshold")}
        known = found["input"]["name"] in input_layouts.LAYOUTS
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise errors.UserError(
            f"expected an ONNX file of reid-jax export, {path} does not say what its input is; export it again."
        )
    return found
