"""Features of a query set and a gallery, in memory and in one `.npz` file.

Features from other programs are validated here, once, before any score is computed.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import array_files, errors, file_io
from reid_jax.data import camera_labels, gallery_share

JUNK_ID = -1
UNKNOWN_CAMERA = -1

_ARRAYS = ("query_features", "gallery_features", "query_ids", "gallery_ids", "query_cams", "gallery_cams")
_NAMES = ("query_names", "gallery_names")
_VISIBILITY = ("query_visibility", "gallery_visibility")
_EXPECTED = ("a features file (.npz)", "extract the features again")
_NAMED_ROWS = 5  # how many invalid rows an error lists


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features, identities and cameras of a query set and its gallery, validated on construction.

    Attributes:
        query_features: [Q, D] or [Q, S, D] float32; S slots are, for instance, body parts.
        gallery_features: [G, D] or [G, S, D] float32.
        query_ids: [Q] int32.
        gallery_ids: [G] int32; -1 is junk; distractors keep their published number (0 in Market-1501).
        query_cams: [Q] int32; -1 is unknown.
        gallery_cams: [G] int32.
        query_names: Q file names; generated from the row numbers where none are given.
        gallery_names: G file names.
        query_visibility: [Q, S] float32 in [0, 1], or None.
        gallery_visibility: [G, S] float32 in [0, 1], or None.
        share: where the gallery is divided over processes, the rows whose features (and visibility) this one holds;
            identities, cameras and names are those of the whole gallery.
        meta: how the features were computed: `model`, `weights`, `preprocessing`, `normalized`, `metric`, `dataset`,
            `source` (the folder of the images), `people` and `cameras` (their own names by number).
    """

    query_features: np.ndarray
    gallery_features: np.ndarray
    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cams: np.ndarray
    gallery_cams: np.ndarray
    query_names: Sequence[str] = ()
    gallery_names: Sequence[str] = ()
    query_visibility: np.ndarray | None = None
    gallery_visibility: np.ndarray | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    share: gallery_share.Share | None = None

    def __post_init__(self) -> None:
        for side in ("query", "gallery"):
            share = self.share if side == "gallery" else None
            features = _features(getattr(self, f"{side}_features"), f"{side}_features", share is not None)
            count = len(features) if share is None else share.total
            ids = _labels(getattr(self, f"{side}_ids"), f"{side}_ids", count)
            cams = _labels(getattr(self, f"{side}_cams"), f"{side}_cams", count)
            names = _row_names(getattr(self, f"{side}_names"), side, count)
            own_names = names if share is None else tuple(names[int(place)] for place in share.places)
            refuse_non_finite(features, f"{side}_features", own_names)
            visibility = getattr(self, f"{side}_visibility")
            if visibility is not None:
                visibility = _visibility(visibility, f"{side}_visibility", features, own_names)
            for field, value in (
                ("features", features),
                ("ids", ids),
                ("cams", cams),
                ("names", names),
                ("visibility", visibility),
            ):
                object.__setattr__(self, f"{side}_{field}", value)
        if self.query_features.shape[1:] != self.gallery_features.shape[1:]:
            raise errors.UserError(
                f"query and gallery features must have the same size, but one query is {self.query_features.shape[1:]} "
                f"and one gallery image {self.gallery_features.shape[1:]}: extract both with the same model."
            )
        if (self.query_visibility is None) != (self.gallery_visibility is None):
            raise errors.UserError(
                "visibility must be given for both query and gallery or for neither: add the missing one or drop both."
            )

    @property
    def metric(self) -> str:
        """The distance that the model was trained for: `meta["metric"]`, by default "euclidean"."""
        return str(self.meta.get("metric") or "euclidean")

    def person(self, identity: int) -> str:
        """Returns an identity's own name, empty where it has none: `meta["people"]`."""
        people = self.meta.get("people")
        name = people.get(str(int(identity))) if isinstance(people, dict) else None
        return name[:200] if isinstance(name, str) else ""

    def camera_labels(self) -> dict[int, str]:
        """Returns what people call each camera: its own name (`meta["cameras"]`), or the number in the file names."""
        cameras = np.concatenate([self.query_cams, self.gallery_cams])
        labels = camera_labels.of((*self.query_names, *self.gallery_names), cameras)
        own = self.meta.get("cameras")
        names = own if isinstance(own, dict) else {}
        for camera in labels:
            name = names.get(str(camera))
            if camera >= 0 and isinstance(name, str) and name:
                labels[camera] = name[:200]
        return labels

    @property
    def num_query(self) -> int:
        """Number of queries."""
        return len(self.query_ids)

    @property
    def num_gallery(self) -> int:
        """Number of gallery images, junk included."""
        return len(self.gallery_ids)

    def without_junk(self) -> FeatureSet:
        """Returns the set without junk, the gallery images of identity -1; the set itself where there are none."""
        keep = self.gallery_ids != JUNK_ID
        if keep.all():
            return self
        if not keep.any():
            raise errors.UserError(
                f"the gallery holds {self.num_gallery} images and all of them are junk (identity -1): "
                "give gallery images with known identities."
            )
        return self.with_gallery(np.flatnonzero(keep))

    def with_gallery(self, rows: np.ndarray) -> FeatureSet:
        """Returns the set with a selection of the gallery.

        Args:
            rows: [n] gallery rows, in the order of the result.
        """
        share, own = (None, rows) if self.share is None else self.share.select(rows)
        return dataclasses.replace(
            self,
            gallery_features=self.gallery_features[own],
            gallery_ids=self.gallery_ids[rows],
            gallery_cams=self.gallery_cams[rows],
            gallery_names=tuple(self.gallery_names[int(row)] for row in rows),
            gallery_visibility=None if self.gallery_visibility is None else self.gallery_visibility[own],
            share=share,
        )

    @property
    def gallery_share(self) -> gallery_share.Share:
        """The rows of the gallery whose features are here, all of them unless the gallery is divided."""
        return gallery_share.Share.whole(self.num_gallery) if self.share is None else self.share

    def gathered(self) -> FeatureSet:
        """Returns the set with the features of the whole gallery, which each process then holds. A collective."""
        if self.share is None:
            return self
        visibility = None if self.gallery_visibility is None else self.share.joined(self.gallery_visibility)
        features = self.share.joined(self.gallery_features)
        return dataclasses.replace(self, gallery_features=features, gallery_visibility=visibility, share=None)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the `.npz` file whole or not at all, see `file_io.write`; a divided gallery is gathered before."""
        if self.share is not None:
            return self.gathered().save(path)
        arrays = {key: getattr(self, key) for key in _ARRAYS}
        arrays |= {key: np.asarray(getattr(self, key), dtype=np.str_) for key in _NAMES}
        arrays |= {key: getattr(self, key) for key in _VISIBILITY if getattr(self, key) is not None}
        arrays["meta"] = np.asarray(json.dumps(dict(self.meta), sort_keys=True))
        file_io.make_folder(pathlib.Path(path).parent)
        file_io.write(path, lambda file: np.savez(file, allow_pickle=False, **arrays), "the features file")

    @classmethod
    def load(cls, path: str | pathlib.Path, *, allow_float16: bool = False) -> FeatureSet:
        """Reads a features file.

        Args:
            path: the `.npz` file.
            allow_float16: convert float16 features to float32 instead of refusing them.

        Raises:
            UserError: the file is missing, is not an `.npz` file, lacks an array, or holds invalid values.
        """
        path = pathlib.Path(path)
        arrays = _read(path)
        missing = [key for key in _ARRAYS if key not in arrays]
        if missing:
            if "features" in arrays:
                raise errors.UserError(
                    f"expected features of query and gallery in {path}, it holds those of a plain folder of images; "
                    "extract a data set, or a folder with query and gallery."
                )
            raise errors.UserError(f"{path} lacks {', '.join(missing)}; a features file holds {', '.join(_ARRAYS)}.")
        for key in ("query_features", "gallery_features", *_VISIBILITY):
            if key in arrays and arrays[key].dtype == np.float16 and not allow_float16:
                raise errors.UserError(
                    f"{path}: {key} is float16, whose rounding produces ties and changes the scores; save float32, "
                    "or pass allow_float16=True (--allow-float16) to rank the rounded values."
                )
        given: dict[str, Any] = {key: arrays[key] for key in (*_ARRAYS, *_VISIBILITY) if key in arrays}
        given = {key: a.astype(np.float32) if a.dtype == np.float16 else a for key, a in given.items()}
        with file_io.reading(path, *_EXPECTED):
            given |= {key: tuple(str(name) for name in arrays[key]) for key in _NAMES if key in arrays}
            try:
                return cls(**given, meta=_meta(arrays, path))
            except errors.UserError as error:
                raise errors.UserError(f"{path}: {error}") from None


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise errors.UserError(f"there is no features file {path}; write it with scripts/extract.py.")
    return array_files.load_npz(path, *_EXPECTED)


def _meta(arrays: Mapping[str, np.ndarray], path: pathlib.Path) -> dict[str, Any]:
    if "meta" not in arrays:
        return {}
    try:
        meta = json.loads(str(arrays["meta"]))
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise errors.UserError(f"{path}: `meta` must be the JSON text of one object; write it with json.dumps.")
    return meta


def _features(value: Any, name: str, may_be_empty: bool = False) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == np.float16:
        raise errors.UserError(
            f"{name} is float16, whose rounding produces ties and changes the scores: convert it to float32 first."
        )
    if array.dtype.kind not in "fiu":
        raise errors.UserError(f"{name} must hold real numbers, but its type is {array.dtype}: save it as float32.")
    if array.ndim not in (2, 3):
        raise errors.UserError(
            f"{name} must be (images, size) or (images, slots, size), but its shape is {array.shape}: "
            "reshape it to one row per image."
        )
    if 0 in array.shape[int(may_be_empty) :]:
        raise errors.UserError(
            f"{name} is empty (shape {array.shape}): at least one query, one gallery image and one number are needed."
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def _labels(value: Any, name: str, count: int) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind == "f" and array.size and np.all(np.isfinite(array)) and np.all(array == np.floor(array)):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" and array.size:
        raise errors.UserError(f"{name} must hold integers, but its type is {array.dtype}: number the values.")
    if array.shape != (count,):
        features = name.split("_")[0] + "_features"
        raise errors.UserError(
            f"{name} must have one entry per row of {features} ({count}), but its shape is {array.shape}: "
            "write both from the same list of images."
        )
    if array.size and (array.min() < np.iinfo(np.int32).min or array.max() > np.iinfo(np.int32).max):
        raise errors.UserError(f"{name} must fit 32-bit integers: renumber the values.")
    return np.ascontiguousarray(array, dtype=np.int32)


def _row_names(value: Sequence[str], side: str, count: int) -> tuple[str, ...]:
    names = tuple(str(name) for name in value)
    if not names:
        return tuple(f"{side}[{row}]" for row in range(count))
    if len(names) != count:
        raise errors.UserError(
            f"{side}_names must have one entry per row of {side}_features ({count}), but there are {len(names)}: "
            "write both from the same list of images."
        )
    return names


def refuse_non_finite(array: np.ndarray, name: str, names: Sequence[str]) -> None:
    """Raises a `UserError` that names the first rows with NaN or infinity."""
    # Where the sum of a row is finite, so are all its values; the second test sorts out sums that overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(array.sum(axis=tuple(range(1, array.ndim)))))
    bad = [int(row) for row in suspects if not np.isfinite(array[row]).all()]
    if bad:
        shown = ", ".join(f"{row} ({file_io.shown(names[row])[:80]})" for row in bad[:_NAMED_ROWS])
        more = f" and {len(bad) - _NAMED_ROWS} more" if len(bad) > _NAMED_ROWS else ""
        raise errors.UserError(
            f"{name} must be finite, but {len(bad)} of {len(array)} rows hold NaN or infinity: rows {shown}{more}; "
            "look at those images or at the model that computed them."
        )


def _visibility(value: Any, name: str, features: np.ndarray, names: Sequence[str]) -> np.ndarray:
    array = np.asarray(value, dtype=np.float32)
    if features.ndim != 3 or array.shape != features.shape[:2]:
        raise errors.UserError(
            f"{name} must be (images, slots) for features of (images, slots, size), but the shapes are "
            f"{array.shape} and {features.shape}: give one number per slot."
        )
    refuse_non_finite(array, name, names)
    if array.size and (array.min() < 0 or array.max() > 1):
        raise errors.UserError(
            f"{name} must lie in [0, 1], but it spans {array.min():g} to {array.max():g}: give probabilities or flags."
        )
    return np.ascontiguousarray(array)
