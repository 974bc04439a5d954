"""Prepared data sets and their splits.

A data set is prepared once (`reid_jax.data.prepare`) into `<root>/prepared/<folder>/<version>/`: array_record files of
encoded images, with lists of identities, cameras and file names, so that samplers, labels and protocol checks decode no
image. Training opens that folder and imports no builder of this project.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import builders, catalog, image_io, source_files
from reid_jax.stores import local_copies, objects

SPLITS = ("train", "query", "gallery")
JUNK = -1  # pid of a bad detection: removed from the gallery before ranking
UNKNOWN_CAMERA = -1  # camid of an image whose camera is unknown
DISTRACTOR = 0  # pid of a gallery image that matches no query: stays in the gallery as a wrong match

# Written with the records by `reid_jax.data.prepare`: their source, counts and warnings, and the size of every file.
REPORT_FILE = "preparation.json"

_fetched_folders: dict[str, pathlib.Path] = {}  # by URL


class RecordSource(Sequence[dict[str, Any]]):
    """The records of a split with random access; small when pickled, and safe to read from several threads.

    `source[i]` is a dictionary: `image` bytes (JPEG or PNG), `pid` int, `camid` int, `filename` str, and further
    features that the builder stored (such as `parts`, PNG bytes).
    """

    def __init__(self, records: Sequence[bytes], files: Sequence[tuple[str, int, int]] = ()):
        """Wraps a sequence of serialized examples, such as the data source of array_record.

        Args:
            records: the examples.
            files: the files that hold them in order, with the first record and the number of records of each.
        """
        self._records, self.files = records, tuple(files)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> dict[str, Any]:  # type: ignore[override]
        position = index.__index__()
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of a split of {len(self)}")
        try:
            return _parse_example(self._records[position])
        except Exception as error:  # of the reader or the parser, which are not listed anywhere
            raise errors.UserError(
                f"record {position} of {len(self)} of the prepared data set is damaged ({errors.fault(error)}); "
                "remove its folder and prepare it again."
            ) from None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[position] for position in range(len(self)))

    def __repr__(self) -> str:
        return f"RecordSource({len(self)} records)"


def _parse_example(serialized: bytes) -> dict[str, Any]:
    # `SkipDecoding` of TFDS builds a numpy array per feature and takes twice the time of this loop.
    from tensorflow_datasets.proto import tf_example_pb2

    element: dict[str, Any] = {}
    example = tf_example_pb2.Example.FromString(serialized)
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values: Any = getattr(feature, kind).value if kind else ()
        element[key] = values[0] if len(values) == 1 else np.asarray(values)
    element["filename"] = element["filename"].decode()
    return element


@dataclasses.dataclass(frozen=True)
class Split:
    """A split in published order.

    Attributes:
        name: `<data set>/<split>`, such as "market1501/train".
        source: sequence of dictionaries of `image` (JPEG or PNG bytes, or uint8 [H, W, 3]), `pid`, `camid`, `filename`
            and optional maps; of these, training reads the image and the maps.
        pids: int32 [N], identities as published; -1 is junk and 0 a distractor.
        camids: int32 [N], cameras counted from 0; -1 is unknown.
        filenames: N names, unique within the split.
        paths: N paths relative to the source folder, unique within the data set; empty where there is no such folder.
        people: the identities' own names by pid, where pids number names.
        cameras: the cameras' own names by camid, where camids number names.
    """

    name: str
    source: Sequence[Any]
    pids: np.ndarray
    camids: np.ndarray
    filenames: tuple[str, ...]
    paths: tuple[str, ...] = ()
    people: Mapping[int, str] = dataclasses.field(default_factory=dict)
    cameras: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(self.source), len(self.pids), len(self.camids), len(self.filenames)}
        if self.paths:
            lengths.add(len(self.paths))
        if len(lengths) != 1:
            raise errors.UserError(
                f"{self.name}: {len(self.source)} records but {len(self.pids)} identities, {len(self.camids)} cameras "
                f"and {len(self.filenames)} names are listed; prepare the data set again."
            )

    def __len__(self) -> int:
        return len(self.pids)

    def counts(self) -> dict[str, int]:
        """Returns the numbers of images, identities, cameras, junk images and distractor images.

        Junk and distractors do not count as identities. In a training split pid 0 is an ordinary identity.
        """
        training = self.name.endswith("/train")
        junk = self.pids == JUNK
        distractor = (self.pids == DISTRACTOR) & (not training)
        return {
            "images": len(self),
            "identities": len(np.unique(self.pids[~junk & ~distractor])),
            "cameras": len(np.unique(self.camids[self.camids >= 0])),
            "junk": int(junk.sum()),
            "distractors": int(distractor.sum()),
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images in features files: the paths relative to the source where known, else file names."""
        return self.paths or self.filenames

    def listing(self) -> Sequence[str] | str:
        """Returns what stands for the images in a data set's hash: their names."""
        return self.filenames

    def labels(self) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Returns identities [N], cameras [N] and the N names."""
        return self.pids, self.camids, self.names

    def image(self, index: int) -> np.ndarray:
        """Returns a decoded image: uint8 [H, W, 3] RGB at its native size."""
        image = self.source[index]["image"]
        return image_io.decode(image, self.filenames[index]) if isinstance(image, bytes) else image


@dataclasses.dataclass(frozen=True)
class ReIDDataset:
    """A data set; a split that it does not have is None.

    Attributes:
        name: the data set's name ("market1501").
        train: training images; their identities are disjoint from those of the other two.
        query: images to search with.
        gallery: images to search in.
        path: the prepared folder, None for data sets in memory.
        content: hash of the content of all records; empty where it is unknown.
    """

    name: str
    train: Split | None = None
    query: Split | None = None
    gallery: Split | None = None
    path: pathlib.Path | None = None
    content: str = ""

    def splits(self) -> dict[str, Split]:
        """Returns the existing splits by name, in the order of `SPLITS`."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}

    def split(self, name: str) -> Split:
        """Returns a split.

        Raises:
            UserError: the data set does not have it.
        """
        split: Split | None = getattr(self, name)
        if split is None:
            raise errors.UserError(
                f"data set {self.name!r} has no {name} split (it has: {', '.join(self.splits()) or 'none'}); "
                f"add {name} images and prepare it again."
            )
        return split

    def require(self, *names: str) -> None:
        """Raises a `UserError` for the first of the given splits that the data set does not have."""
        for name in names:
            self.split(name)

    def describe(self) -> str:
        """Returns a table with the counts of each split."""
        header = ("split", "images", "identities", "cameras", "junk", "distractors")
        rows = [(name, *(f"{value:,}" for value in split.counts().values())) for name, split in self.splits().items()]
        return format_table(header, rows)

    def index_hash(self) -> str:
        """Returns the SHA-256 (hexadecimal) of all file names, identities and cameras in their order.

        Runs with the same hash trained on and ranked the same lists, whatever machine prepared them.
        """
        digest = hashlib.sha256()
        for name, split in self.splits().items():
            digest.update(json.dumps([name, split.listing()]).encode())
            digest.update(np.ascontiguousarray(split.pids, "<i4").tobytes())
            digest.update(np.ascontiguousarray(split.camids, "<i4").tobytes())
        return digest.hexdigest()


def content_hash(dataset: ReIDDataset) -> str:
    """Returns the hash (hexadecimal) of the images and maps of all records; reads all of them."""
    return content_of(
        {
            name: (
                {key: source_files.digest(value) for key, value in element.items() if isinstance(value, bytes)}
                for element in split.source
            )
            for name, split in dataset.splits().items()
        }
    )


def content_of(splits: Mapping[str, Iterable[Mapping[str, bytes]]]) -> str:
    """Returns the hash (hexadecimal) of records, given the hashes of their fields (`source_files.digest`).

    Args:
        splits: for every split, in the order of `SPLITS`, the hashes of each record by field ("image", maps).
    """
    whole = hashlib.blake2b(digest_size=source_files.DIGEST_BYTES)
    for name in (name for name in SPLITS if name in splits):
        whole.update(f"/{name}".encode())
        for record in splits[name]:
            whole.update(b"".join(f"/{key}".encode() + record[key] for key in sorted(record)))
    return whole.hexdigest()


def joined_content(contents: Sequence[str]) -> str:
    """Returns the hash of several contents together, empty where one of them is unknown."""
    return hashlib.blake2b("/".join(contents).encode(), digest_size=16).hexdigest() if all(contents) else ""


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a text table, with the first column aligned left and the others right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def train_labels(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns class labels: the rank of each pid in the sorted list of pids.

    Args:
        split: the training split.

    Returns:
        labels int32 [N] in [0, C), and classes int32 [C], the sorted pids: `classes[labels] == split.pids`.

    Raises:
        UserError: the split is empty or holds junk (pid -1).
    """
    if len(split) == 0:
        raise errors.UserError(f"{split.name} is empty; there is nothing to train on.")
    if (split.pids == JUNK).any():
        first = split.filenames[int(np.argmax(split.pids == JUNK))]
        raise errors.UserError(
            f"{split.name} holds junk (pid -1), such as {first!r}; remove it from the training images."
        )
    classes, labels = np.unique(split.pids, return_inverse=True)
    return labels.astype(np.int32), classes.astype(np.int32)


_SWITCH = {"true": True, "1": True, "false": False, "0": False}


def resolve_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a data set, converted to the types of their defaults and completed by them.

    Raises:
        UserError: an option that the data set does not have, or a value of another type than the default.
    """
    defaults = builders.option_defaults(name)
    if defaults is None:
        return dict(options)
    resolved = dict(defaults)
    for key, value in options.items():
        if key not in defaults:
            raise errors.unknown(f"option of data set {name!r}:", key, defaults)
        kind = type(defaults[key])
        if defaults[key] is None:
            resolved[key] = value
            continue
        try:
            resolved[key] = _SWITCH[str(value).lower()] if kind is bool else kind(value)
            if kind is int and resolved[key] != float(value):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise errors.UserError(
                f"option {key!r} of data set {name!r} should be of type {kind.__name__}, it is {value!r}."
            ) from None
    return resolved


def folder_name(name: str, options: Mapping[str, Any]) -> str:
    """Returns the name of the prepared folder, with the values of the options: "synthped-demo-seed0"."""
    parts = [name.replace(":", ".")]
    for key, value in resolve_options(name, options).items():
        if isinstance(value, bool):
            text = key if value else ""
        else:
            text = value if isinstance(value, str) else f"{key}{value}"
        if text and not re.fullmatch(r"[A-Za-z0-9_.]+", text):
            raise errors.UserError(
                f"option {key!r} of data set {name!r} becomes part of a folder name and may hold letters, digits, "
                f"'_' and '.' only, it is {text!r}."
            )
        parts += [text] if text else []
    return "-".join(parts)


def prepared_folder(name: str, root: str | pathlib.Path = "data", **options: Any) -> pathlib.Path:
    """Returns `<root>/prepared/<folder>`, whether it exists or not.

    A root in an object store gives a local copy of the newest version, see `stores.local_copies`.

    Raises:
        StoreError: it is in no such store, or the store cannot be read.
    """
    if isinstance(root, str) and objects.is_remote(root):
        return _fetched(name, root, options)
    return pathlib.Path(root).expanduser() / "prepared" / folder_name(name, options)


def _fetched(name: str, root: str, options: Mapping[str, Any]) -> pathlib.Path:
    """Returns a local copy of a prepared folder, of its newest complete version alone."""
    prepared = f"prepared/{folder_name(name, options)}"
    url = f"{root.rstrip('/')}/{prepared}"
    if url not in _fetched_folders:
        found = local_copies.listing(url, "data.root")
        versions = [path.split("/")[0] for path in found if re.fullmatch(r"\d+\.\d+\.\d+/dataset_info\.json", path)]
        if not versions:
            command = prepare_command(name, "data", options)
            raise objects.StoreError(
                f"data set {name!r} is not prepared: there is no {file_io.shown(url)}; run `{command}` and copy "
                f"data/{prepared} there."
            )
        newest = max(versions, key=lambda version: tuple(map(int, version.split("."))))
        entries = {path: entry for path, entry in found.items() if path.startswith(f"{newest}/")}
        _fetched_folders[url] = local_copies.folder(url, entries)
    return _fetched_folders[url]


def prepared_version(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the newest complete version inside a prepared folder, None where there is none."""
    found = []
    for path in folder.glob("*/dataset_info.json"):
        version = path.parent.name
        if re.fullmatch(r"\d+\.\d+\.\d+", version):
            found.append((_numbers(version), path.parent))
    return max(found)[1] if found else None


def prepared_current(name: str, root: str | pathlib.Path, options: Mapping[str, Any]) -> pathlib.Path | None:
    """Returns the newest prepared version of a data set, None where there is none or the images have changed since."""
    path = prepared_version(prepared_folder(name, root, **options))
    return None if path is None or _numbers(path.name) < _numbers(catalog.least_version(name)) else path


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".") if number)


def prepare_command(name: str, root: str | pathlib.Path, options: Mapping[str, Any]) -> str:
    """Returns the command line that prepares a data set, for error messages."""
    flags = "".join(f" --option {key}={value}" for key, value in options.items())
    return f"python scripts/prepare_dataset.py {name} --root {root}{flags}"


def open_dataset(name: str, root: str | pathlib.Path = "data", **options: Any) -> ReIDDataset:
    """Opens a prepared data set.

    Args:
        name: the data set's name ("market1501").
        root: the folder that holds `prepared/`.
        **options: the options it was prepared with (`size="demo", seed=0` for "synthped").

    Returns:
        The data set; its sources read from disk at every access.

    Raises:
        UserError: the data set is not prepared, or the prepared folder is damaged.
    """
    path = prepared_current(name, root, options)
    if path is None:
        folder = prepared_folder(name, root, **options) / catalog.least_version(name)
        raise errors.UserError(
            f"data set {name!r} is not prepared: there is no {folder}; run "
            f"`{prepare_command(name, root, options)}` first."
        )
    return open_folder(builders.title(name), path)


def open_folder(name: str, path: pathlib.Path) -> ReIDDataset:
    """Opens a prepared data set.

    Args:
        name: the data set's name.
        path: the folder of its files, `dataset_info.json` and `*.array_record*`.

    Raises:
        UserError: the folder is damaged.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import decode

    damaged = errors.UserError(f"the prepared data set in {path} is damaged; remove that folder and prepare it again.")
    try:
        content = check_files(path)
        builder = tfds.builder_from_directory(path)
        metadata = builder.info.metadata
        found: dict[str, Any] = {}
        for split in SPLITS:
            if split not in builder.info.splits:
                continue
            raw = builder.as_data_source(split, deserialize_method=decode.DeserializeMethod.RAW_BYTES)
            found[split] = Split(
                name=f"{name}/{split}",
                # The data source of array_record inside that of TFDS; it pickles to a few hundred bytes.
                source=RecordSource(raw.data_source, _files(builder.info.splits[split])),
                pids=_read_only(metadata["pids"][split]),
                camids=_read_only(metadata["camids"][split]),
                filenames=tuple(metadata["filenames"][split]),
                paths=tuple(metadata.get("paths", {}).get(split, ())),
                people={int(pid): name for pid, name in metadata.get("people", {}).get(split, {}).items()},
                cameras={int(cam): name for cam, name in metadata.get("cameras", {}).get(split, {}).items()},
            )
    except errors.UserError:
        raise
    except Exception:  # TFDS, protobuf and array_record raise many types
        raise damaged from None
    return ReIDDataset(name=name, path=path, content=content, **found)


def _files(split: Any) -> list[tuple[str, int, int]]:
    """Returns the files of a split of TFDS, with the first record and the number of records of each."""
    return [(pathlib.Path(part.filename).name, part.skip, part.take) for part in split.file_instructions]


def check_files(path: pathlib.Path) -> str:
    """Returns the hash of the content that was prepared, empty where it was not recorded.

    Raises:
        OSError: a file does not have the size it was written with, after an interrupted copy.
    """
    report = path / REPORT_FILE
    if not report.exists():
        return ""  # built by TFDS itself
    facts = json.loads(report.read_text(encoding="utf-8"))
    for name, size in facts["files"].items():
        if (path / name).stat().st_size != size:
            raise OSError(f"{name} does not have {size} bytes")
    return str(facts.get("content", ""))


def _read_only(values: Sequence[int]) -> np.ndarray:
    array = np.asarray(values, np.int32)
    array.setflags(write=False)
    return array
