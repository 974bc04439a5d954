"""From features files, data sets, folders and frames to entries of a gallery, and to queries."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import array_files, errors, file_io, progress
from reid_jax.data import camera_labels, feature_set, image_io, image_names, records
from reid_jax.evaluation import image_files, thumbnails
from reid_jax.gallery import answers, audit
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib
from reid_jax.inference import crops, sources
from reid_jax.inference import extractor as extractor_lib

SIDES = ("gallery", "query", "both")
THUMBNAIL = (96, 192)  # largest width and height in pixels
COLUMNS = ("file", "identity", "camera", "time", "track")
_FEATURES = ("a features file (.npz)", "extract the features again")
_TABLE = ("a table of labels (.csv)", "correct it")
_MOST_TABLE = 1 << 28
MOST_IMAGE = 1 << 28  # bytes of an image to ask with; the largest that is decoded has 100 MB uncompressed


@dataclasses.dataclass(frozen=True)
class Described:
    """Images with their descriptors, before they are entries or a query.

    Attributes:
        names: N names.
        features: [N, D] or [N, S, D] float32.
        visibility: [N, S], or None.
        identities: N names of people or None.
        cameras: N names of cameras or None.
        binding: the model.
        picture: from a row to uint8 [H, W, 3]; None where there are no pictures.
        folder: where the images lie, or None.
        notes: sentences about what was left out.
    """

    names: tuple[str, ...]
    features: np.ndarray
    visibility: np.ndarray | None
    identities: tuple[str | None, ...]
    cameras: tuple[str | None, ...]
    binding: binding_lib.Binding
    picture: Callable[[int], np.ndarray] | None = None
    folder: str | None = None
    notes: tuple[str, ...] = ()

    def entries(self, *, with_thumbnails: bool = True, prefix: str = "") -> entries_lib.Entries:
        """Returns the images as entries.

        Args:
            with_thumbnails: whether small pictures are kept in the gallery.
            prefix: text before every name.
        """
        small: list[bytes | None] = []
        if with_thumbnails and self.picture is not None:
            with progress.bar("thumbnails", len(self.names), "pictures") as advance:
                for row in range(len(self.names)):
                    small.append(thumbnails.encode(self.picture(row), THUMBNAIL))
                    advance(1)
        return entries_lib.Entries(
            [prefix + name for name in self.names],
            self.features,
            self.visibility,
            self.identities,
            self.cameras,
            thumbnails=small,
            folder=self.folder,
        )

    def query(self, references: Sequence[str] = (), track: bool = False) -> answers.Query:
        """Returns the images as queries; with `track` they are images of one person, who votes for one answer."""
        name = self.names[0] if len(self.names) == 1 else f"{len(self.names)} images"
        tracks = (name,) * len(self.names) if track else ()
        return answers.Query(self.features, self.binding, self.visibility, self.names, references, tracks)

    def join(self, other: Described) -> Described:
        """Returns these images and then those of another side."""
        first = len(self.names)
        mine, theirs = self.picture, other.picture
        picture = None
        if mine is not None and theirs is not None:
            picture = lambda row: mine(row) if row < first else theirs(row - first)
        visibility = None
        if self.visibility is not None and other.visibility is not None:
            visibility = np.concatenate([self.visibility, other.visibility])
        return dataclasses.replace(
            self,
            names=self.names + other.names,
            features=np.concatenate([self.features, other.features]),
            visibility=visibility,
            identities=self.identities + other.identities,
            cameras=self.cameras + other.cameras,
            picture=picture,
            notes=self.notes + other.notes,
        )


def of_features(path: str | pathlib.Path, side: str = "gallery", images: str | pathlib.Path | None = None) -> Described:
    """Returns the images of a features file of `extract.py`.

    Args:
        path: the `.npz` file.
        side: "gallery", "query" or "both"; a file of plain images has one side only.
        images: folder of the images, for thumbnails; None tries the folder that the file names.

    Raises:
        UserError: the file cannot be read, or an image is not in the folder.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise errors.UserError(f"there is no features file {file_io.shown(path)}; write it with scripts/extract.py.")
    arrays = array_files.load_npz(path, *_FEATURES)
    if "features" in arrays and "gallery_features" not in arrays:
        return _of_plain(arrays, path, images)
    features = feature_set.FeatureSet.load(path)
    pictures, notes = _pictures(features, images)
    if side != "both":
        return _side(features, side, pictures, notes)
    return _side(features, "gallery", pictures, notes).join(_side(features, "query", pictures, ()))


def _of_plain(arrays: Mapping[str, np.ndarray], path: pathlib.Path, images: str | pathlib.Path | None) -> Described:
    """Returns the images of a features file without identities."""
    with file_io.reading(path, *_FEATURES):
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
        names = tuple(map(str, arrays["names"])) if "names" in arrays else ()
        if not isinstance(meta, dict):
            raise errors.MalformedError("its meta data are no JSON object")
    unknown = np.full(len(arrays["features"]), -1, np.int32)
    visible = arrays.get("visibility")
    # As both sides of a set, which checks names and values.
    features = feature_set.FeatureSet(
        arrays["features"], arrays["features"], unknown, unknown, unknown, unknown, names, names, visible, visible, meta
    )
    pictures, notes = _plain_pictures(features, images)
    return _side(features, "gallery", pictures, notes, plain=True)


def _side(
    features: feature_set.FeatureSet,
    side: str,
    pictures: Callable[[str, int], np.ndarray] | None,
    notes: tuple[str, ...],
    plain: bool = False,
) -> Described:
    """Returns one side of a feature set; junk is left out, as in the evaluation."""
    ids, cams = getattr(features, f"{side}_ids"), getattr(features, f"{side}_cams")
    kept = np.arange(len(ids)) if plain else np.flatnonzero(ids != feature_set.JUNK_ID)
    people = features.meta.get("people")
    visibility = getattr(features, f"{side}_visibility")
    names = getattr(features, f"{side}_names")
    labels = features.camera_labels()
    if len(kept) < len(ids):
        notes = (*notes, f"{len(ids) - len(kept):,} junk images (identity -1) are left out")
    return Described(
        tuple(names[row] for row in kept),
        getattr(features, f"{side}_features")[kept],
        None if visibility is None else visibility[kept],
        _identities(ids[kept], features.query_ids, people if isinstance(people, Mapping) else {}),
        _cameras(cams[kept], labels),
        binding_lib.Binding.of_meta(features.meta, features.gallery_features.shape[1:], visibility is not None),
        None if pictures is None else lambda row: pictures(side, int(kept[row])),
        str(features.meta.get("source") or "") or None,
        notes,
    )


def _identities(ids: np.ndarray, query_ids: np.ndarray, people: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Returns people by their own names, or by number; distractors and junk have none."""
    # Where people are numbered from 0, identity 0 is a person, and there are queries of it.
    nobody = {-1} if (query_ids == 0).any() else {-1, 0}
    return tuple(None if pid in nobody else str(people.get(str(pid)) or pid) for pid in map(int, ids))


def _cameras(cams: np.ndarray, labels: Mapping[int, str]) -> tuple[str | None, ...]:
    return tuple(labels[camera] if camera >= 0 else None for camera in map(int, cams))


def _pictures(
    features: feature_set.FeatureSet, images: str | pathlib.Path | None
) -> tuple[Callable[[str, int], np.ndarray] | None, tuple[str, ...]]:
    """Returns what loads pictures, None without any; a folder that the file names may be gone."""
    if images is not None:
        return image_files.ImageFiles(images, features), ()
    source = features.meta.get("source")
    if not isinstance(source, str) or not source:
        return None, ("the features file names no folder of images, so there are no thumbnails; --images gives one",)
    try:
        return image_files.ImageFiles(source, features), ()
    except errors.UserError as error:
        return None, (f"no thumbnails: {str(error).rstrip('.')}",)


def _plain_pictures(
    features: feature_set.FeatureSet, images: str | pathlib.Path | None
) -> tuple[Callable[[str, int], np.ndarray] | None, tuple[str, ...]]:
    """Returns what loads the pictures of plain images, whose names are relative to a folder."""
    root = pathlib.Path(str(images or features.meta.get("source") or "")).expanduser()
    paths = [image_names.contained(root, name) for name in features.gallery_names]
    absent = [number for number, path in enumerate(paths) if path is None or not path.is_file()]
    missing = features.gallery_names[absent[0]] if absent else None
    if missing is None:
        return lambda _, row: sources.load_image(paths[row] or ""), ()
    if images is not None:
        raise errors.UserError(
            f"{file_io.shown(missing)[:200]} is not in {file_io.shown(root)}: name the folder that the features were "
            "extracted from (--images DIR)."
        )
    return None, ("the images of the features file are not there, so there are no thumbnails; --images names them",)


def of_source(
    extractor: extractor_lib.Extractor,
    variables: Any,
    source: sources.Source,
    side: str = "gallery",
    metric: str | None = None,
) -> Described:
    """Returns the images of an opened source with their descriptors.

    Args:
        extractor: model and preprocessing.
        variables: variables of the model.
        source: a data set, a folder, or one image.
        side: "gallery", "query" or "both"; plain images have one side only.
        metric: in place of the model's own.

    Raises:
        UserError: an image cannot be read, or the model gives NaN or infinity.
    """
    binding = binding_lib.Binding.of_extractor(extractor, variables, metric)
    chosen = ("images",) if "images" in source.splits else ("gallery", "query") if side == "both" else (side,)
    parts = [_split(extractor, variables, source, name, binding) for name in chosen]
    notes = (*source.notes, *source.warnings())
    first = dataclasses.replace(parts[0], notes=(*notes, *parts[0].notes))
    return first if len(parts) == 1 else first.join(parts[1])


def _split(
    extractor: extractor_lib.Extractor, variables: Any, source: sources.Source, name: str, binding: binding_lib.Binding
) -> Described:
    split = source.splits[name]
    extracted = extractor.split(variables, split)
    bad = getattr(split.source, "bad", {})
    kept = np.setdiff1d(np.arange(len(split)), np.fromiter(bad, np.int64, len(bad)))
    notes = tuple(f"skipped: {bad[place].rstrip('.')}" for place in sorted(bad))
    if name != "images":
        junk = int((split.pids[kept] == records.JUNK).sum())
        kept = kept[split.pids[kept] != records.JUNK]
        notes += (f"{junk:,} junk images (identity -1) are left out",) * bool(junk)
    everything = list(source.splits.values())
    names = tuple(each for one in everything for each in one.names)
    labels = camera_labels.of(names, np.concatenate([one.camids for one in everything]))
    labels |= {number: text for one in everything for number, text in one.cameras.items()}
    queries = source.splits["query"].pids if "query" in source.splits else np.zeros(0, np.int32)
    people = {str(pid): person for one in everything for pid, person in one.people.items()}
    return Described(
        tuple(split.names[row] for row in kept),
        extracted.features[kept],
        None if extracted.visibility is None else extracted.visibility[kept],
        _identities(split.pids[kept], queries, people),
        _cameras(split.camids[kept], labels),
        binding,
        lambda row: split.image(int(kept[row])),
        source.root or None,
        notes,
    )


def of_image(
    extractor: extractor_lib.Extractor,
    variables: Any,
    path: str | pathlib.Path,
    boxes: Sequence[Sequence[float]] = (),
    metric: str | None = None,
) -> tuple[Described, tuple[str, ...]]:
    """Returns an image, or boxes of a frame, with their descriptors, and references for the audit log.

    Args:
        extractor: model and preprocessing.
        variables: variables of the model.
        path: an image file.
        boxes: left, top, right, bottom in pixels; empty for the whole image.
        metric: in place of the model's own.

    Raises:
        UserError: the image cannot be read, or a box has no pixel in it.
    """
    data = file_io.read_bytes(path, "an image", "give another file", limit=MOST_IMAGE)
    return of_bytes(extractor, variables, data, file_io.shown(pathlib.Path(path)), boxes, metric)


def of_bytes(
    extractor: extractor_lib.Extractor,
    variables: Any,
    data: bytes,
    name: str,
    boxes: Sequence[Sequence[float]] = (),
    metric: str | None = None,
) -> tuple[Described, tuple[str, ...]]:
    """Returns an encoded image, or boxes of it, with their descriptors, see `of_image`."""
    frame = image_io.decode(data, name)
    reference = audit.reference(data)
    if boxes:
        extracted = extractor.images(variables, frame, np.asarray(boxes, np.float64))
        names = tuple(f"{name}, box {number + 1}" for number in range(len(boxes)))
        marks = tuple(f"{reference} box {[round(float(side), 1) for side in box]}" for box in boxes)
    else:
        extracted, names, marks = extractor.images(variables, [frame]), (name,), (reference,)
    pictures = crops.as_images(frame, np.asarray(boxes, np.float64) if boxes else None)
    return (
        Described(
            names,
            extracted.features,
            extracted.visibility,
            (None,) * len(names),
            (None,) * len(names),
            binding_lib.Binding.of_extractor(extractor, variables, metric),
            lambda row: pictures[row],
        ),
        marks,
    )


# ---- labels


def read_table(path: str | pathlib.Path) -> dict[str, dict[str, str]]:
    """Returns the rows of a table of labels by file name.

    Args:
        path: CSV with the columns `file` and some of `identity`, `camera`, `time`, `track`; empty cells are unknown.

    Raises:
        UserError: no such table, an unknown column, or a file twice.
    """
    text = file_io.read_text(path, *_TABLE, limit=_MOST_TABLE)
    with file_io.reading(path, *_TABLE):
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = list(reader.fieldnames or [])
        unknown = [column for column in columns if column not in COLUMNS]
        if "file" not in columns or unknown:
            raise errors.UserError(
                f"expected the columns file and some of {', '.join(COLUMNS[1:])} in {file_io.shown(path)}, got "
                f"{', '.join(map(str, columns))[:200]}; name them in the first line."
            )
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            if None in row or None in row.values():
                raise errors.MalformedError(f"line {reader.line_num} has another number of cells")
            if row["file"] in rows:
                raise errors.UserError(
                    f"{file_io.shown(path)} names {file_io.shown(row['file'])[:200]} twice; remove one line."
                )
            rows[row["file"]] = row
    return rows


def labeled(entries: entries_lib.Entries, rows: Mapping[str, Mapping[str, str]]) -> entries_lib.Entries:
    """Returns entries with the labels of a table; those that it does not name, and empty cells, stay as they are.

    Raises:
        UserError: the table names a file that is not among the entries, or a time that is none.
    """
    places = {file: place for place, file in enumerate(entries.files)}
    missing = [file for file in rows if file not in places]
    if missing:
        raise errors.UserError(
            f"expected the files of the table among the images, {len(missing):,} of them are not there, such as "
            f"{file_io.shown(missing[0])[:200]}; give names relative to the folder of the images."
        )
    changed: dict[str, Any] = {
        name: list(getattr(entries, name)) for name in ("identities", "cameras", "times", "tracks")
    }
    for file, row in rows.items():
        place = places[file]
        for column, name in (("identity", "identities"), ("camera", "cameras"), ("track", "tracks")):
            if row.get(column):
                changed[name][place] = row[column]
        if row.get("time"):
            changed["times"][place] = entries_lib.parse_time(row["time"], f"the time of {file_io.shown(file)[:100]}")
    return dataclasses.replace(entries, **changed)
