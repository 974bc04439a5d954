"""Writes a folder in Market-1501's layout, of drawn figures: real names, junk, distractors and stray files.

Not a test module; tests get it through the fixture `market`, which returns this module.
"""

from __future__ import annotations

import pathlib

import numpy as np

from reid_jax.data import image_io

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def draw(identity: int, camera: int, pose: int, height: int = 128, width: int = 64) -> np.ndarray:
    """Draws a figure of flat shapes: colors follow the identity, light the camera, position the pose.

    Returns:
        uint8 [height, width, 3].
    """
    person = np.random.default_rng([1, identity + 1])
    shot = np.random.default_rng([2, identity + 1, camera, pose])
    shirt, trousers, skin = person.integers(20, 236, 3), person.integers(20, 236, 3), np.array([200, 160, 130])
    canvas = np.full((height, width, 3), 90 + 25 * (camera % 4), np.float64)
    center = width // 2 + int(shot.integers(-width // 10, width // 10 + 1))
    half = width // 4
    for top, bottom, side, color in (
        (0.06, 0.2, half // 2, skin),
        (0.2, 0.55, half, shirt),
        (0.55, 0.95, half * 3 // 4, trousers),
    ):
        canvas[int(top * height) : int(bottom * height), max(center - side, 0) : center + side] = color
    canvas = canvas * (0.8 + 0.1 * (camera % 4)) + shot.normal(0.0, 6.0, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def write(
    folder: pathlib.Path,
    *,
    train_identities: int = 4,
    test_identities: int = 4,
    cameras: int = 3,
    shots: int = 2,
    junk: int = 3,
    distractors: int = 3,
    height: int = 128,
    width: int = 64,
) -> dict[str, int]:
    """Writes the three split folders and returns the number of images in each split.

    Every person is seen `shots` times by every camera; of the test people, the first shot of each camera is the query.
    One name per split ends in `.jpg.jpg`, and every folder has a `Thumbs.db`.
    """
    listed: dict[str, list[tuple[int, int, int]]] = {split: [] for split in FOLDERS}
    for identity in range(train_identities + test_identities):
        for camera in range(cameras):
            for shot in range(shots):
                training = identity < train_identities
                split = "train" if training else "query" if shot == 0 else "gallery"
                listed[split].append((identity + 1, camera, shot))
    listed["gallery"] += [(-1, one % cameras, one) for one in range(junk)]
    listed["gallery"] += [(0, one % cameras, one) for one in range(distractors)]
    for split, shots_of_split in listed.items():
        directory = folder / FOLDERS[split]
        directory.mkdir(parents=True)
        (directory / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 no image")
        for position, (pid, camera, shot) in enumerate(shots_of_split):
            suffix = ".jpg.jpg" if position == 1 else ".jpg"
            number = str(pid) if pid < 0 else f"{pid:04d}"
            name = f"{number}_c{camera + 1}s1_{position * 25 + 26:06d}_{shot:02d}{suffix}"
            (directory / name).write_bytes(image_io.encode_jpeg(draw(pid, camera, shot, height, width), 90))
    return {split: len(shots_of_split) for split, shots_of_split in listed.items()}
