"""Files that count as images: their endings, and the listing of a folder with everything below it.

Data set builders, inference and the page of ranked lists share this list, so that no image is read in one place and
left out in another. The content decides how a file is decoded (`image_io.FORMATS`), whatever its ending.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")

# Folders of operating systems and storage devices, whose thumbnails and copies are nobody's images.
_SYSTEM_FOLDERS = frozenset({"@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found"})
_NO_IMAGES = frozenset({"thumbs.db", "desktop.ini"})


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files below a folder, as paths relative to it with forward slashes, sorted.

    Attributes:
        images: files with an ending of `SUFFIXES`.
        others: all other files.
        loops: folders that are not entered, because they are links to a folder above them.
    """

    images: tuple[str, ...]
    others: tuple[str, ...]
    loops: tuple[str, ...]


def is_image(name: str) -> bool:
    """Returns whether a file name has the ending of an image, in capitals or not; hidden files do not count."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def is_ignored(name: str) -> bool:
    """Returns whether a file or folder is hidden or belongs to an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS or name.lower() in _NO_IMAGES


def walk(folder: str | os.PathLike[str]) -> Listing:
    """Returns the files of a folder and of all folders below it, without hidden ones.

    Links to folders are followed, except where they lead back to a folder above.

    Raises:
        OSError: a folder cannot be read, or an image is a link to nothing.
    """
    images: list[str] = []
    others: list[str] = []
    loops: list[str] = []
    waiting = [("", os.fspath(folder), frozenset([_identity(os.stat(folder))]))]
    while waiting:
        prefix, path, above = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                if is_ignored(entry.name):
                    continue
                if entry.is_dir():
                    identity = _identity(entry.stat())
                    if identity in above:
                        loops.append(name)
                    else:
                        waiting.append((f"{name}/", entry.path, above | {identity}))
                else:
                    (images if _is_image_file(entry) else others).append(name)
    return Listing(tuple(sorted(images)), tuple(sorted(others)), tuple(sorted(loops)))


def images_in(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the names of the images in a folder, without those below it, sorted.

    Raises:
        OSError: the folder cannot be read, or an image is a link to nothing.
    """
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_image_file(entry))


def _is_image_file(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is an image; reading a pipe or a device of such a name might never end."""
    if not is_image(entry.name):
        return False
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise FileNotFoundError(2, "a link to a file that does not exist", entry.path)
    return entry.is_file()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def contained(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the path of a name below a folder, None where the name leads out of it ("../x", "/x").

    Args:
        root: the folder; an absolute name below it is accepted.
        name: name of a file, from a file that may come from elsewhere.
    """
    path = pathlib.Path(os.path.normpath(root / name)) if "\0" not in name else None
    inside = path is not None and path != root and path.is_relative_to(os.path.normpath(root))
    return path if inside else None
