"""The index of a prepared data set as bytes, which one process reads and sends to all others.

It holds what `records.open_folder` reads: names, identities, cameras, and the files of the records. The records
themselves stay on the disk, where each process reads those of its share.
"""

from __future__ import annotations

import errno
import json
import os
import pathlib
import struct
import zlib

import numpy as np

from reid_jax import errors
from reid_jax.data import records

_LENGTH = struct.Struct("<Q")


def pack(dataset: records.ReIDDataset) -> bytes:
    """Returns the index of a prepared data set, empty for one that is not in a folder of records."""
    splits = dataset.splits()
    if dataset.path is None or not all(getattr(split.source, "files", ()) for split in splits.values()):
        return b""
    header = {
        "name": dataset.name,
        "version": dataset.path.name,
        "content": dataset.content,
        "splits": {
            name: {
                "name": split.name,
                "files": split.source.files,  # type: ignore[attr-defined]  # checked above
                "filenames": split.filenames,
                "paths": split.paths,
                "people": list(split.people.items()),
                "cameras": list(split.cameras.items()),
            }
            for name, split in splits.items()
        },
    }
    text = json.dumps(header).encode()
    numbers = b"".join(
        np.ascontiguousarray(array, "<i4").tobytes()
        for split in splits.values()
        for array in (split.pids, split.camids)
    )
    return zlib.compress(_LENGTH.pack(len(text)) + text + numbers, 1)


def unpack(packed: bytes, folder: pathlib.Path) -> records.ReIDDataset:
    """Returns the data set of an index, whose folder is read only to check its files.

    Args:
        packed: of `pack`.
        folder: `records.prepared_folder` on this process.

    Raises:
        UserError: the folder is not here, or its files are not those of the index.
    """
    from array_record.python import array_record_data_source

    data = zlib.decompress(packed)
    (length,) = _LENGTH.unpack_from(data)
    header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
    path = folder / header["version"]
    try:
        if not path.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        content = records.check_files(path)
    except (OSError, ValueError, KeyError) as error:
        raise errors.UserError(
            f"expected the prepared data set of process 0 in {path}, found another one or none "
            f"({errors.fault(error)}); put data.root on a disk that all hosts share, or copy that folder to every host."
        ) from None
    if content != header["content"]:
        raise errors.UserError(
            f"expected the images of process 0 in {path}, found others (content {content[:12]} in place of "
            f"{header['content'][:12]}); copy that folder to every host."
        )
    numbers = np.frombuffer(data, "<i4", offset=_LENGTH.size + length).astype(np.int32)
    numbers.setflags(write=False)
    found, first = {}, 0
    for name, split in header["splits"].items():
        count = len(split["filenames"])
        files = [tuple(each) for each in split["files"]]
        source = array_record_data_source.ArrayRecordDataSource(
            [f"{path / file}[{start}:{start + size}]" for file, start, size in files]
        )
        found[name] = records.Split(
            name=split["name"],
            source=records.RecordSource(source, files),
            pids=numbers[first : first + count],
            camids=numbers[first + count : first + 2 * count],
            filenames=tuple(split["filenames"]),
            paths=tuple(split["paths"]),
            people=dict(split["people"]),
            cameras=dict(split["cameras"]),
        )
        first += 2 * count
    return records.ReIDDataset(name=header["name"], path=path, content=content, **found)
