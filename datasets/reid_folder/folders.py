"""Images in folders: train, query and gallery, each with a folder per identity or with names that begin with it."""

from __future__ import annotations

import os
import pathlib
import re

from reid_datasets.reid_folder.listed import SPLITS, Listed, plain, shown

from reid_jax.data import image_names

# Names of the folders in lower case; the layout of Market-1501 is accepted, too.
_FOLDERS = {split: split for split in SPLITS} | {"bounding_box_train": "train", "bounding_box_test": "gallery"}
# Folders that others evaluate on. Which of their images are queries is for the user to say.
_TEST_LIKE = ("test", "testing", "tests", "val", "valid", "validation", "eval", "evaluation", "probe", "probes", "dev")

_NAME = re.compile(r"(-1|\d+)(?=[_.])")  # 0007_c2_15.jpg, where the split has no folders: the identity comes first
# ..._c2..., c2s1 (camera 2, sequence 1), cam02, camera_2: the camera, between separators.
_CAMERA = re.compile(r"(?:^|[_\-. ])(?:c|cam(?:era)?[_\-]?)(\d{1,6})(?:s\d+)?(?=[_\-. ]|$)", re.IGNORECASE)
_CAMERA_FOLDER = re.compile(r"(?:c|cam(?:era)?[_\- ]?)(\d{1,6})", re.IGNORECASE)
_ANY_CAMERA_WORD = re.compile(r"cam(?:era)?[_\- ]?\d{1,6}", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)  # "-c123-" in it is no camera


def read(folder: pathlib.Path, index_file: str) -> tuple[dict[str, list[Listed]], list[str]]:
    """Returns the images of the splits sorted by path, and sentences about what is not read.

    Raises:
        ValueError: with a sentence that names the file or folder.
    """
    found: dict[str, str] = {}
    others = []
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()):
        split = _FOLDERS.get(name.lower())
        if split in found:
            raise ValueError(f"{folder} has {found[split]} and {name}, which both mean {split}; keep one of them.")
        if split is not None:
            found[split] = name
        elif not image_names.is_ignored(name) and _has_image(folder / name):
            others.append(name)
    if not found:
        there = sorted(path.name for path in folder.iterdir())
        raise ValueError(
            f"expected the folders train, query and gallery, or {index_file}, in {folder} "
            f"(there: {', '.join(map(plain, there[:8])) or 'nothing'}); put the images into such folders or list them "
            f"in {index_file}."
        )
    unclear = [name for name in others if name.lower() in _TEST_LIKE]
    if unclear and not {"query", "gallery"} <= set(found):
        raise ValueError(
            f"{folder} has images in {unclear[0]}, which is not one of the folders train, query and gallery; move the "
            f"images to search with to query and those to search in to gallery, or list them in {index_file}."
        )
    notes = [
        f"the images in the folder {shown(name)} are not read, only train, query and gallery are" for name in others
    ]
    listed = {}
    for split in SPLITS:
        if split in found:
            listed[split], remarks = _read_split(folder / found[split], index_file)
            notes += remarks
    return listed, notes


def _has_image(folder: pathlib.Path) -> bool:
    return any(image_names.is_image(name) for _, _, files in os.walk(folder) for name in files)


def _read_split(directory: pathlib.Path, index_file: str) -> tuple[list[Listed], list[str]]:
    there = image_names.walk(directory)
    images = sorted(there.images, key=lambda name: name.split("/"))
    flat = [name for name in images if "/" not in name]
    if flat and len(flat) < len(images):
        person = next(name for name in images if "/" in name).partition("/")[0]
        raise ValueError(
            f"{directory} holds both images ({flat[0]}) and folders ({person}); use either one folder per identity or "
            "names that begin with the identity."
        )
    if not images:
        raise ValueError(f"expected images ({', '.join(image_names.SUFFIXES)}) in {directory}, found none.")
    listed = [_flat(directory, name, index_file) if flat else _in_folder(directory, name) for name in images]
    if not flat:
        _refuse_cameras(directory, listed, index_file)
    return listed, _remarks(directory, there)


def _flat(directory: pathlib.Path, name: str, index_file: str) -> Listed:
    match = _NAME.match(name)
    if match is None:
        raise ValueError(
            f"the file name {directory / name} does not parse: expected the identity's number first, such as "
            f"0007_c2_15.jpg; rename the file, use one folder per identity, or list the images in {index_file}."
        )
    return Listed(directory / name, match[1], _camera(directory, (name,)), name)


def _in_folder(directory: pathlib.Path, name: str) -> Listed:
    person, *below = name.split("/")
    return Listed(directory / name, person, _camera(directory, tuple(below)), name)


def _camera(directory: pathlib.Path, parts: tuple[str, ...]) -> str:
    """Returns the camera that the name of a file or a folder below the identity gives, empty for none."""
    stem = _UUID.sub("", parts[-1].rpartition(".")[0])
    found = {int(number) for number in _CAMERA.findall(stem)}
    found |= {int(match[1]) for part in parts[:-1] if (match := _CAMERA_FOLDER.fullmatch(part))}
    if len(found) > 1:
        raise ValueError(
            f"{directory} has the image {'/'.join(parts)}, whose name gives two cameras, "
            f"{' and '.join(map(str, sorted(found)))}; rename it."
        )
    return str(found.pop()) if found else ""


def _refuse_cameras(directory: pathlib.Path, listed: list[Listed], index_file: str) -> None:
    """Refuses folders that stand for cameras: `cam1`, or `c1` with the same camera in the name of every image."""
    cameras: dict[str, set[str]] = {}
    for image in listed:
        cameras.setdefault(image.identity, set()).add(image.camera)
    numbers = {name: match[1] for name in cameras if (match := _CAMERA_FOLDER.fullmatch(name))}
    named = [name for name in cameras if _ANY_CAMERA_WORD.fullmatch(name)]
    agree = len(numbers) == len(cameras) and all(
        {str(int(number))} == cameras[name] for name, number in numbers.items()
    )
    if named or agree:
        camera = (named or sorted(cameras))[0]
        raise ValueError(
            f"the folder {directory / camera} is named like a camera, expected a folder per person, such as "
            f"{directory.name}/anna/{camera}/0.jpg; move the images, or list them in {index_file}, with the columns "
            "path,pid,camid,split."
        )


def _remarks(directory: pathlib.Path, there: image_names.Listing) -> list[str]:
    """Returns sentences about files and folders of a split that are not read."""
    remarks = []
    if there.others:
        remarks.append(
            f"{len(there.others)} files in {directory} are not read, such as {shown(there.others[0])}; images end in "
            f"{', '.join(image_names.SUFFIXES)}"
        )
    people = {name.partition("/")[0] for name in there.images}
    folders = sorted(
        entry.name for entry in os.scandir(directory) if entry.is_dir() and not image_names.is_ignored(entry.name)
    )
    empty = [name for name in folders if name not in people]
    if empty:
        remarks.append(
            f"{len(empty)} of {len(folders)} folders in {directory} have no images, such as {shown(empty[0])}"
        )
    if there.loops:
        remarks.append(
            f"the link {shown(there.loops[0])} in {directory} leads to a folder above it and is not followed"
        )
    return remarks
