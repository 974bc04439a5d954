"""Reads weights of other frameworks without those frameworks, and without running anything a file asks for.

A PyTorch checkpoint is a pickle, and a pickle is a program. `pickle_reader` follows it without calling what it names,
so that a malicious file ends in an error message. Both layouts are read: the zip archive of current `torch.save` and
the legacy stream. Also safetensors and `.npz`. The content of a file says what it is, not its name.
"""

from __future__ import annotations

import io
import os
import pathlib
import struct
from typing import Any, BinaryIO

import numpy as np

from reid_jax import array_files, errors, file_io
from reid_jax.array_files import Budget
from reid_jax.errors import MalformedError
from reid_jax.weights import inert, pickle_reader, weight_tables

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_KINDS = "a checkpoint of PyTorch, safetensors, or an .npz file"
_MOST_SHOWN = 80


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a PyTorch checkpoint.

    Args:
        path: a file of `torch.save`, zip or legacy.

    Returns:
        What was saved, with numpy arrays (bfloat16 through `ml_dtypes`) in place of tensors and parameters, and the
        fields of settings objects as `inert.Record`. Arrays may be read-only.

    Raises:
        UserError: no such file; it is truncated or not a checkpoint; or it contains code, which is never run.
    """
    kind = _kind(path)
    try:
        with open(path, "rb") as file:
            return _load_zip(file) if kind == "zip" else _load_legacy(file)
    except inert.RefusedError as refusal:
        raise errors.UserError(
            f"{file_io.shown(path)} holds code ({_named(refusal)}) and not only tensors, so nothing of it was run or "
            "loaded; save the plain weights with torch.save(model.state_dict(), ...) and convert that file."
        ) from refusal
    except Exception as failure:  # a damaged pickle can raise any exception
        raise errors.UserError(
            f"{file_io.shown(path)} is no complete PyTorch checkpoint ({errors.fault(failure)}); download or copy the "
            "file again."
        ) from failure


def _named(refusal: inert.RefusedError) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in str(refusal))
    return name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}..."


def _kind(path: str | os.PathLike[str]) -> str:
    """Returns "zip", "pickle" or "safetensors".

    Raises:
        UserError: no such file, or one of another kind.
    """
    if not os.path.isfile(path):
        raise errors.UserError(f"weights file {file_io.shown(path)} does not exist; give the path of a checkpoint.")
    with file_io.reading(path, "a weights file", "give a file that can be read"), open(path, "rb") as file:
        start = file.read(300)
    kind = array_files.kind(start)
    if kind in ("zip", "pickle", "safetensors"):
        return kind
    found = {"npy": "a single array without names", "": "none of these"}.get(kind, kind)
    if not start:
        found = "empty"
    raise errors.UserError(
        f"expected {_KINDS} at {file_io.shown(path)}, the content is {found}; give or download the file again."
    )


def _load_zip(file: BinaryIO) -> Any:
    archive = array_files.Archive(file)
    programs = [name for name in archive.names if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(programs) != 1:
        raise MalformedError(f"it holds {len(programs) or 'no'} data.pkl where one is expected")
    root = programs[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.names and archive.read(f"{root}byteorder") != b"little":
        raise MalformedError("big-endian storages are not supported")
    storages: dict[str, inert.Storage] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> inert.Storage:
        if key not in storages:
            content = archive.read(f"{root}data/{key}")
            if len(content) < count * dtype.itemsize:
                raise MalformedError("a storage is shorter than the checkpoint says")
            storages[key] = inert.Storage(dtype, count, np.frombuffer(content, dtype, count))
        return _same(storages[key], dtype, count)

    program = pickle_reader.BoundedFile(io.BytesIO(archive.read(programs[0])))
    return pickle_reader.read(program, archive.budget, storage)


def _same(storage: inert.Storage, dtype: np.dtype, count: int) -> inert.Storage:
    if storage.dtype != dtype or storage.count != count:
        raise MalformedError("a storage is used in two ways")
    return storage


def _load_legacy(file: BinaryIO) -> Any:
    """Reads the legacy layout: magic number, protocol, system facts, the object, the storages' keys, the raw storages.

    The object comes before its data, so it is read twice: once to learn the storages' types, once with the data.
    """
    size = os.fstat(file.fileno()).st_size
    budget = Budget(size)
    program = pickle_reader.BoundedFile(file)
    if pickle_reader.read(program, budget) != _LEGACY_MAGIC:
        raise MalformedError("it does not begin with PyTorch's number")
    pickle_reader.read(program, budget)
    facts = pickle_reader.read(program, budget)
    if not isinstance(facts, dict) or facts.get("little_endian", True) is not True:
        raise MalformedError("big-endian storages are not supported")
    start = file.tell()
    storages: dict[str, inert.Storage] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> inert.Storage:
        return _same(storages.setdefault(key, inert.Storage(dtype, count, None)), dtype, count)

    pickle_reader.read(program, budget, storage)
    _read_storages(file, size, pickle_reader.read(program, budget), storages, budget)
    file.seek(start)
    return pickle_reader.read(program, budget, storage)


def _read_storages(file: BinaryIO, size: int, keys: object, storages: dict[str, inert.Storage], budget: Budget) -> None:
    """Fills the storages of a legacy file, which is positioned at the first."""
    if not isinstance(keys, list) or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise MalformedError("its list of storages is not that of its tensors")
    for key in keys:
        storage = storages[key]
        count = struct.unpack("<q", file.read(8))[0]
        length = storage.count * storage.dtype.itemsize
        if count != storage.count or length > size - file.tell():
            raise MalformedError("a storage is cut short")
        budget.take(length)
        storage.values = np.frombuffer(file.read(length), storage.dtype, count)


def read_weights(path: str | os.PathLike[str]) -> weight_tables.Table:
    """Reads a weights file of any known kind into a flat table.

    Args:
        path: a checkpoint of PyTorch, a safetensors file, or an `.npz` file, under any name.

    Returns:
        Arrays by name, and where they were found. Weights under a usual key ("state_dict", "model", ...) are found
        there; a prefix of all names ("module.", "_orig_mod.", "model.") is dropped. See `weight_tables`.

    Raises:
        UserError: unknown kind of file, damaged file, file with code, or no tensors in it.
    """
    path = pathlib.Path(path)
    kind = _kind(path)
    if kind == "safetensors":
        return weight_tables.without_prefixes(weight_tables.Table(_read_safetensors(path)))
    if kind == "zip" and (arrays := _read_npz(path)) is not None:
        return weight_tables.Table(arrays)
    return weight_tables.without_prefixes(weight_tables.find(load(path), path))


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of an `.npz` file without its text `meta`, None for another zip archive."""
    remedy = "copy the file again"
    with file_io.reading(path, "a complete checkpoint or .npz file", remedy), path.open("rb") as file:
        names = array_files.Archive(file).names
        if any(name.endswith("data.pkl") for name in names) or not any(name.endswith(".npy") for name in names):
            return None
        arrays = array_files.read_npz(file)
    if "meta" in arrays and arrays["meta"].dtype.kind == "U":
        arrays.pop("meta")
    return arrays


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except Exception as failure:  # the library has its own errors for a damaged file
        raise errors.UserError(
            f"{file_io.shown(path)} is no complete safetensors file ({errors.fault(failure)}); copy the file again."
        ) from failure
