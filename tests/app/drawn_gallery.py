"""A small gallery of striped pictures, and a model of NumPy for it."""

from __future__ import annotations

import dataclasses
import io
import time

import numpy as np
from PIL import Image

from reid_jax.app import image_engine
from reid_jax.data import image_io
from reid_jax.gallery import answers, gallery, intake
from reid_jax.gallery import binding as binding_lib
from reid_jax.inference import crops

BINDING = binding_lib.Binding({"name": "stripes"}, "a" * 64, {"height": 64}, "cosine", (12,), False)
HOSTILE = '<img src=x onerror="document.title=1">"\'`\u202eabc'
THRESHOLD = answers.Threshold(0.05, 0.01, "comparison", 0.125, 4000, source="drawn people")


def picture(seed: int, size: tuple[int, int] = (64, 32)) -> np.ndarray:
    """Four stripes of random colors, uint8 [H, W, 3]."""
    colors = np.random.default_rng(seed).integers(0, 255, (4, 1, 3), np.uint8)
    return np.repeat(np.repeat(colors, size[0] // 4, axis=0), size[1], axis=1)


def file(image: np.ndarray, kind: str = "PNG") -> bytes:
    """The bytes of a picture's file."""
    with io.BytesIO() as stream:
        Image.fromarray(image).save(stream, kind)
        return stream.getvalue()


class Stripes:
    """Describes a picture by the mean colors of its stripes."""

    explains = True
    seconds = 0.0

    def describe(self, data, boxes, metric):
        time.sleep(self.seconds)
        whole = image_io.decode(data, image_engine.UPLOAD)
        images = crops.as_images(whole, np.asarray(boxes) if boxes else None)
        return described(["upload"] * len(images), images), ("sha256:upload",) * len(images)

    def explain(self, query, entry):
        if (query == entry).all() and not query[0, 0].any():
            raise ValueError("a defect")
        maps = [file(image) for image in (query, entry)]
        return image_engine.Explanation(*maps, 0.5, True, 0.0, 1.0, "Not evidence of identity.")


def described(names, images, people=None):
    """Pictures with their descriptors."""
    rows = [[part.mean((0, 1)) for part in np.array_split(image / 255 - 0.5, 4)] for image in images]
    features = np.asarray(rows, np.float32).reshape(len(images), 12)
    nobody = (None,) * len(images)
    cameras = tuple(("door", "hall", None)[row % 3] for row in range(len(images)))
    return intake.Described(
        tuple(names), features, None, people or nobody, cameras, BINDING, lambda row: images[row], "/secret/folder"
    )


def made(place, audited=True, threshold=THRESHOLD):
    """A gallery of 12 pictures of 6 people: person n is on pictures n and n + 6; one has a hostile name."""
    images = [np.clip(picture(row % 6).astype(int) + row, 0, 255).astype(np.uint8) for row in range(12)]
    people = tuple({0: HOSTILE, 1: "Ann", 2: "Bo"}.get(row % 6) for row in range(12))
    entries = described([f"{row}.png" for row in range(12)], images, people).entries()
    entries = dataclasses.replace(
        entries, times=[1e9 + row for row in range(12)], tracks=[f"t{row}" for row in range(12)]
    )
    opened = gallery.Gallery.create(place, BINDING, audited=audited)
    opened.add(entries, BINDING, who="kim", why="test")
    opened.set_threshold(threshold, who="kim", why="test")
    return opened
