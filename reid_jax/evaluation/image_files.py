"""Image files of a features file, found in a folder by the names in it."""

from __future__ import annotations

import pathlib

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import image_io, image_names
from reid_jax.data.feature_set import FeatureSet


class ImageFiles:
    """Loads images of a feature set from a folder, by path or else by file name."""

    def __init__(self, root: str | pathlib.Path, feature_set: FeatureSet) -> None:
        """Looks up every image.

        Args:
            root: folder with the images, at any depth.
            feature_set: its names are looked up.

        Raises:
            UserError: the folder is missing, or an image of the set is not in it.
        """
        self._root = pathlib.Path(root)
        if not self._root.is_dir():
            raise errors.UserError(f"there is no folder {root}: name the folder with the images.")
        found: dict[str, list[pathlib.Path]] = {}
        for path in sorted(self._root.rglob("*")):
            if image_names.is_image(path.name):
                found.setdefault(path.name, []).append(path)
        self._paths = {
            side: [self._find(side, name, found) for name in names]
            for side, names in (("query", feature_set.query_names), ("gallery", feature_set.gallery_names))
        }

    def _find(self, side: str, name: str, found: dict[str, list[pathlib.Path]]) -> pathlib.Path:
        exact = self._root / name
        if exact.is_file():
            return exact
        matches = found.get(pathlib.PurePath(name).name, [])
        if not matches:
            raise errors.UserError(
                f"{name} ({side}) is not in {self._root}: name the folder that the features were extracted from."
            )
        # Benchmarks keep queries in a folder of that name, and may repeat them elsewhere.
        return min(matches, key=lambda path: ("query" in path.parent.name) != (side == "query"))

    def __call__(self, side: str, row: int) -> np.ndarray:
        """Returns the image of a row of "query" or "gallery", [H, W, 3] uint8."""
        path = self._paths[side][row]
        return image_io.decode(file_io.read_bytes(path, "an image", "give another --images"), str(path))
