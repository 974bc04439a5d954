"""A sampler, a transform and a data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from reid_jax.data import records, samplers

HEIGHT, WIDTH = 32, 16


class Balanced(samplers.Sampler):
    """Batches in which every identity is as likely as any other.

    Args:
        labels: int [N], class of each image.
        seed: of the draws.
        batch_size: images in a batch.
    """

    def __init__(self, labels: np.ndarray, seed: int, *, batch_size: int = 32) -> None:
        super().__init__(seed)
        self.batch_size = batch_size
        self.batches_per_epoch = max(1, len(labels) // batch_size)
        self._images = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def plan(self, epoch: int) -> np.ndarray:
        """Draws an epoch: int64 [batches_per_epoch, batch_size], a pure function of seed and epoch."""
        rng = np.random.default_rng((self._seed, epoch))
        identities = rng.integers(len(self._images), size=(self.batches_per_epoch, self.batch_size))
        return np.vectorize(lambda identity: rng.choice(self._images[identity]), otypes=[np.int64])(identities)


def grayscale(element: dict[str, Any], rng: np.random.Generator, *, probability: float = 0.5) -> dict[str, Any]:
    """Replaces the image (uint8 [H, W, 3]) by its gray levels, with some probability."""
    if rng.random() >= probability:
        return element
    gray = element["image"].mean(axis=2, keepdims=True).astype(np.uint8)
    return {**element, "image": np.repeat(gray, 3, axis=2)}


def open_people(root: str, *, people: int = 8, shots: int = 4) -> records.ReIDDataset:
    """Draws a data set in memory: each person is three stripes of color, each camera has a brightness of its own.

    Args:
        root: folder of the data; unused here.
        people: identities in each half.
        shots: images of each person and camera.
    """
    return records.ReIDDataset(
        "people",
        train=_split("train", range(1, people + 1), (0, 1), shots),
        query=_split("query", range(101, 101 + people), (0,), 1),
        gallery=_split("gallery", range(101, 101 + people), (1, 2), shots),
    )


def _split(name: str, pids: range, cameras: tuple[int, ...], shots: int) -> records.Split:
    source = [_picture(pid, camera, shot) for pid in pids for camera in cameras for shot in range(shots)]
    labels: Mapping[str, np.ndarray] = {
        key: np.array([each[key] for each in source], np.int32) for key in ("pid", "camid")
    }
    names = tuple(each["filename"] for each in source)
    return records.Split(f"people/{name}", source, labels["pid"], labels["camid"], names)


def _picture(pid: int, camera: int, shot: int) -> dict[str, Any]:
    colors = np.random.default_rng(pid).integers(30, 226, (3, 1, 3))
    stripes = np.repeat(np.repeat(colors, [8, 12, 12], axis=0), WIDTH, axis=1)
    noise = np.random.default_rng((pid, camera, shot)).normal(20 * camera - 20, 12, (HEIGHT, WIDTH, 3))
    image = np.clip(stripes + noise, 0, 255).astype(np.uint8)
    return {"image": image, "pid": pid, "camid": camera, "filename": f"{pid:04d}_c{camera + 1}_{shot}.png"}
