"""Writes small folders in the published layout of every benchmark, of drawn figures under real-looking names.

Not a test module. Each writer takes a folder that does not exist yet, and returns what a builder should find:
split -> list of (file name, pid, camid) in order. `WRITERS` has them by data set name.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from reid_jax.data import image_io
from tests.helpers import market_folder

Expected = dict[str, list[tuple[str, int, int]]]
SPLIT_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def picture(pid: int, camera: int, shot: int) -> np.ndarray:
    """A figure, uint8 [32, 16, 3]."""
    return market_folder.draw(pid, camera, shot, 32, 16)


def save(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        path.write_bytes(image_io.encode_jpeg(image))
    else:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "TIFF" if path.suffix == ".tif" else "PNG")
        path.write_bytes(buffer.getvalue())


def _shots(cameras: int = 2) -> dict[str, list[tuple[int, int, int]]]:
    """(pid, camera, shot) of two training people (1, 2) and two test people (3, 4): one query per camera."""
    listed: dict[str, list[tuple[int, int, int]]] = {"train": [], "query": [], "gallery": []}
    for pid in (1, 2, 3, 4):
        for camera in range(cameras):
            for shot in range(2):
                split = "train" if pid <= 2 else "query" if shot == 0 else "gallery"
                listed[split].append((pid, camera, shot))
    return listed


def _split_folders(folder: pathlib.Path, name_of: Callable[[int, int, int], str]) -> Expected:
    expected: Expected = {}
    for split, shots in _shots().items():
        for pid, camera, shot in shots:
            name = name_of(pid, camera, shot)
            save(folder / SPLIT_FOLDERS[split] / name, picture(pid, camera, shot))
            expected.setdefault(split, []).append((name, pid, camera))
        (folder / SPLIT_FOLDERS[split] / "Thumbs.db").write_bytes(b"no image")
    return {split: sorted(rows) for split, rows in expected.items()}


def market1501(folder: pathlib.Path) -> Expected:
    """Market-1501, without junk and distractors (`market_folder` has them)."""
    return _split_folders(folder, lambda pid, camera, shot: f"{pid:04d}_c{camera + 1}s1_{shot:06d}_00.jpg")


def dukemtmc_reid(folder: pathlib.Path) -> Expected:
    """DukeMTMC-reID."""
    return _split_folders(folder, lambda pid, camera, shot: f"{pid:04d}_c{camera + 1}_f{46182 + shot:07d}.jpg")


def cuhk03_np(folder: pathlib.Path, boxes: str) -> Expected:
    """The split folders of CUHK03-NP."""
    return _split_folders(folder / boxes, lambda pid, camera, shot: f"{pid:04d}_c{camera + 1}_{shot + 1}.png")


def cuhk03_original(folder: pathlib.Path, boxes: str = "labeled", *, holes: bool = False) -> Expected:
    """`cuhk03_release/cuhk-03.mat` and the protocol's list files, two pairs of cameras with two people each.

    Args:
        folder: where to write.
        boxes: what the returned lists are of.
        holes: leave the first training image out of the table of images.
    """
    import h5py
    import scipy.io

    names, pids, indices, expected = [], [], {"train": [], "query": [], "gallery": []}, {}
    for split, shots in _shots().items():
        for pid, camera, shot in shots:
            pair, person = divmod(pid - 1, 2)
            name = f"{pair + 1}_{person + 1:03d}_{camera + 1}_{5 * camera + shot + 1:02d}.png"
            names.append(name)
            pids.append(pid)
            indices[split].append(len(names))
            expected.setdefault(split, []).append((name, pid, camera))
    (folder / "cuhk03_release").mkdir(parents=True)
    with h5py.File(folder / "cuhk03_release" / "cuhk-03.mat", "w") as file:
        for kind in ("labeled", "detected"):
            table = file.create_dataset(kind, (1, 2), h5py.ref_dtype)
            for pair in range(2):
                people = file.create_dataset(f"#refs#/{kind}{pair}", (10, 2), h5py.ref_dtype)
                table[0, pair] = people.ref
                for image in range(10):
                    for person in range(2):
                        name = f"{pair + 1}_{person + 1:03d}_{image // 5 + 1}_{image + 1:02d}.png"
                        empty = name not in names or (holes and name == names[0])
                        # What MATLAB keeps in an empty cell is a pair of sizes.
                        value = np.zeros(2, np.uint64)
                        if not empty:
                            value = picture(2 * pair + person + 1, image // 5, image % 5).T
                        cell = file.create_dataset(f"#refs#/{kind}{pair}{person}{image}", data=value)
                        people[image, person] = cell.ref
    for kind in ("labeled", "detected"):
        cells = np.empty((len(names), 1), object)
        cells[:, 0] = names
        table = {f"{split}_idx": np.array(index)[:, None] for split, index in indices.items()}
        table |= {"filelist": cells, "labels": np.array(pids)[:, None]}
        scipy.io.savemat(folder / f"cuhk03_new_protocol_config_{kind}.mat", table)
    return expected


def msmt17(folder: pathlib.Path, version: str = "v1") -> Expected:
    """MSMT17: lists count identities from 0, in each half for itself; pids are one more."""
    train, test = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}[version]
    expected: Expected = {"train": [], "query": [], "gallery": []}
    lines: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    for split, shots in _shots().items():
        for pid, camera, shot in shots:
            label = (pid - 1) % 2
            name = f"{label:04d}/{label:04d}_{shot:03d}_{camera + 14:02d}_0303morning_{pid:04d}_{shot}.jpg"
            save(folder / (train if split == "train" else test) / name, picture(pid, camera, shot))
            listed = "val" if split == "train" and shot == 1 else split
            lines[listed].append(f"{name} {label}")
            expected[split].append((name, label + 1, camera + 13))
    # Training images stand in the order of their two lists.
    order = [line.split()[0] for line in lines["train"] + lines["val"]]
    expected["train"].sort(key=lambda row: order.index(row[0]))
    for name, listed_lines in lines.items():
        (folder / f"list_{name}.txt").write_text("\n".join(listed_lines) + "\n")
    return expected


def occluded_reid(folder: pathlib.Path, suffix: str = ".tif") -> Expected:
    """Occluded-REID."""
    expected: Expected = {}
    for camid, (split, name) in enumerate({"query": "occluded_body_images", "gallery": "whole_body_images"}.items()):
        for pid in (1, 2):
            for shot in (1, 2):
                file = f"{pid:03d}/{pid:03d}_{shot:02d}{suffix}"
                save(folder / name / file, picture(pid, camid, shot))
                expected.setdefault(split, []).append((file, pid, camid))
    return expected


def p_dukemtmc_reid(folder: pathlib.Path) -> Expected:
    """P-DukeMTMC-reID."""
    expected: Expected = {"train": [], "query": [], "gallery": []}
    sides = ("occluded_body_images", "whole_body_images")
    for half, people in (("train", (1, 2)), ("test", (3, 4))):
        for camid, side in enumerate(sides):
            split = "train" if half == "train" else ("query", "gallery")[camid]
            for pid in people:
                for shot in (1, 2):
                    file = f"{pid:04d}/{pid:04d}_c{shot}_f{shot:07d}.jpg"
                    save(folder / half / side / file, picture(pid, camid, shot))
                    expected[split].append((f"{side}/{file}", pid, camid))
    return expected


WRITERS: dict[str, Callable[[pathlib.Path], Expected]] = {
    "market1501": market1501,
    "dukemtmc_reid": dukemtmc_reid,
    "occluded_duke": dukemtmc_reid,
    "cuhk03_np_labeled": lambda folder: cuhk03_np(folder, "labeled"),
    "cuhk03_np_detected": lambda folder: cuhk03_np(folder, "detected"),
    "msmt17": msmt17,
    "occluded_reid": occluded_reid,
    "p_dukemtmc_reid": p_dukemtmc_reid,
}
