"""Images of a features file, found by the names in it, for certain or not at all.

Names are paths relative to the folder that the features were extracted from. Features of other programs may have bare
file names, which are accepted as long as each of them can mean one picture only.
"""

from __future__ import annotations

import collections
import pathlib

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import image_io, image_names, records
from reid_jax.data.feature_set import FeatureSet

_SIDES = ("query", "gallery")


class ImageFiles:
    """Loads images of a feature set from a folder, or from a prepared data set."""

    def __init__(self, root: str | pathlib.Path, feature_set: FeatureSet) -> None:
        """Looks up every image.

        Args:
            root: the folder with the images, or the folder of a prepared data set.
            feature_set: its names are looked up.

        Raises:
            UserError: the folder is missing, or it is not certain which picture an image of the set is.
        """
        self._root = pathlib.Path(root).expanduser()
        if not self._root.is_dir():
            raise errors.UserError(f"there is no folder {root}: name the folder with the images (--images DIR).")
        self._names = {"query": feature_set.query_names, "gallery": feature_set.gallery_names}
        for side, names in self._names.items():
            repeated = [name for name, count in collections.Counter(names).items() if count > 1]
            if repeated:
                raise errors.UserError(
                    f"the {side} has {len(repeated)} names twice, such as {file_io.shown(repeated[0])}, so that their "
                    "pictures cannot be told apart; extract the features again."
                )
        self._paths: dict[str, list[pathlib.Path]] = {}
        self._records: dict[str, tuple[records.Split, list[int]]] = {}
        prepared = self._root if (self._root / "dataset_info.json").is_file() else records.prepared_version(self._root)
        if prepared is not None:
            self._find_records(prepared)
            return
        source = feature_set.meta.get("source")
        self._find_files(exact=isinstance(source, str) and bool(source))

    def __call__(self, side: str, row: int) -> np.ndarray:
        """Returns the image of a row of "query" or "gallery", [H, W, 3] uint8."""
        if self._records:
            split, places = self._records[side]
            return split.image(places[row])
        path = self._paths[side][row]
        data = file_io.read_bytes(path, "an image", "give another --images")
        return image_io.decode(data, file_io.shown(path))

    def _find_records(self, prepared: pathlib.Path) -> None:
        dataset = records.open_folder(prepared.parent.name, prepared)
        for side in _SIDES:
            split = dataset.split(side)
            places = {name: place for place, name in enumerate(split.names)}
            if not set(self._names[side]) <= set(places):  # extracted before paths were kept
                places = {name: place for place, name in enumerate(split.filenames)}
            missing = [name for name in self._names[side] if name not in places]
            if missing:
                raise errors.UserError(
                    f"{file_io.shown(missing[0])} ({side}) is not in the prepared data set {prepared}: name the folder "
                    "that the features were extracted from."
                )
            self._records[side] = split, [places[name] for name in self._names[side]]

    def _find_files(self, exact: bool) -> None:
        """Finds the files.

        Args:
            exact: the names are paths relative to the folder; otherwise they may be the ends of such paths.
        """
        below: dict[str, list[pathlib.Path]] | None = None
        for side in _SIDES:
            self._paths[side] = []
            for name in self._names[side]:
                path = image_names.contained(self._root, name)
                if path is None or not path.is_file():
                    if below is None:
                        below = {} if exact else self._files_below()
                    path = self._by_end(side, name, below)
                self._paths[side].append(path)
        shared = set(self._paths["query"]) & set(self._paths["gallery"])
        if shared and not exact:
            raise errors.UserError(
                f"a query and a gallery image both have the name {file_io.shown(min(shared).name)}, which is one file "
                f"in {self._root}, so that their pictures cannot be told apart; extract the features again."
            )

    def _files_below(self) -> dict[str, list[pathlib.Path]]:
        found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
        with file_io.reading(self._root, "a folder of images", "give another --images"):
            for name in image_names.walk(self._root).images:
                found[name.rpartition("/")[2]].append(self._root / name)
        return found

    def _by_end(self, side: str, name: str, below: dict[str, list[pathlib.Path]]) -> pathlib.Path:
        parts = pathlib.PurePosixPath(name).parts
        matches = [path for path in below.get(parts[-1] if parts else "", []) if path.parts[-len(parts) :] == parts]
        if not matches:
            raise errors.UserError(
                f"{file_io.shown(name)} ({side}) is not in {self._root}: name the folder that the features were "
                "extracted from (--images DIR)."
            )
        first, *others = matches
        content = file_io.read_bytes(first, "an image", "give another --images") if others else b""
        other = next((path for path in others if path.read_bytes() != content), None)
        if other is not None:
            raise errors.UserError(
                f"{file_io.shown(name)} ({side}) may be {file_io.shown(first)} or {file_io.shown(other)}: name the "
                "folder that the features were extracted from, or extract them again."
            )
        return first
