"""Reads weights of other frameworks without those frameworks, and without running anything a file asks for.

A PyTorch checkpoint is a pickle, and a pickle is a program. The unpickler here builds tensors and plain containers and
refuses every other name, so a malicious file ends in an error message. Both layouts are read: the zip archive of
current `torch.save` and the legacy stream. Also `.safetensors` and `.npz`.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from reid_jax import errors

_STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".safetensors", ".npz")
# A tensor may repeat its storage (stride 0); beyond this many values such a tensor counts as an attack on memory.
_MOST_REPEATED_VALUES = 1 << 24


class _RefusedError(Exception):
    """The file names something that is neither tensor nor container."""


class _StorageType:
    """What a storage's class name stands for: its element type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)


class _Settings(dict[Any, Any]):
    """Inert stand-in for `argparse.Namespace`, which many recipes save with their weights."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.update(state)


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> np.ndarray:
    """Returns a strided view of a storage, copied; refuses a view that leaves the storage."""
    size, stride = tuple(int(one) for one in size), tuple(int(one) for one in stride)
    count = math.prod(size)
    if len(size) != len(stride) or min((*size, *stride, offset), default=0) < 0:
        raise pickle.UnpicklingError("a tensor with a negative or unequal shape")
    if count == 0:
        return np.empty(size, storage.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if last >= storage.size or (count > storage.size and count > _MOST_REPEATED_VALUES):
        raise pickle.UnpicklingError("a tensor that reaches outside its storage")
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, [step * storage.itemsize for step in stride])
    return view.copy()


def _rebuild_parameter(data: np.ndarray, *_: object) -> np.ndarray:
    return data


class _PickledDtype:
    """Stand-in for a `numpy.dtype`; the state that a pickle sets afterwards is its byte order."""

    def __init__(self, name: object, *_: object) -> None:
        self.dtype = np.dtype(name) if isinstance(name, str) else np.dtype(object)
        if self.dtype.kind not in "biuf":
            raise _RefusedError(f"numpy.dtype({name!r})")

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _numpy_scalar(dtype: object, content: bytes | str = b"") -> Any:
    """Returns a numpy number, as recipes save their scores."""
    if not isinstance(dtype, _PickledDtype):
        raise _RefusedError("a numpy scalar of an unknown type")
    return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype.dtype)[0]


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Stand-in for `_codecs.encode`, with which old pickles write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("_codecs.encode")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("argparse", "Namespace"): _Settings,
    ("numpy", "dtype"): _PickledDtype,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("_codecs", "encode"): _encode,
}
_TORCH_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


class _Unpickler(pickle.Unpickler):
    """Builds tensors and containers; every other global is refused by name."""

    def __init__(self, file: BinaryIO, storage: Callable[[np.dtype, str, int], np.ndarray] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if module == "torch" and name in _TORCH_DTYPES:
            return name  # plain text: a type as a setting, not a constructor
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, reference: Any) -> np.ndarray:
        kind, storage_type, key, _, count = reference[:5]
        if kind != "storage" or not isinstance(storage_type, _StorageType) or self._storage is None or count < 0:
            raise pickle.UnpicklingError("a reference that is no tensor storage")
        if len(reference) > 5 and reference[5] is not None:
            raise pickle.UnpicklingError("a storage that is a view of another one (a very old file)")
        return self._storage(storage_type.dtype, str(key), count)


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a PyTorch checkpoint.

    Args:
        path: a file of `torch.save`, zip or legacy.

    Returns:
        What was saved, with numpy arrays (bfloat16 through `ml_dtypes`) in place of tensors and parameters.

    Raises:
        UserError: no such file; it is truncated or not a checkpoint; or it contains code, which is never run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise errors.UserError(f"weights file {path} does not exist; give the path of a checkpoint.")
    try:
        with path.open("rb") as file:
            return _load_zip(file) if file.read(2) == b"PK" else _load_legacy(file)
    except _RefusedError as refusal:
        raise errors.UserError(
            f"{path} holds code ({refusal}) and not only tensors, so nothing of it was run or loaded; "
            "save the plain weights with torch.save(model.state_dict(), ...) and convert that file."
        ) from refusal
    except Exception as failure:  # a damaged pickle can raise any exception
        raise errors.UserError(
            f"{path} is no complete PyTorch checkpoint ({type(failure).__name__}: {failure}); "
            "download or copy the file again."
        ) from failure


def _load_zip(file: BinaryIO) -> Any:
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        program = next(name for name in names if name.endswith("data.pkl") and name.count("/") <= 1)
        root = program.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("big-endian storages are not supported")
        storages: dict[str, np.ndarray] = {}

        def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
            if key not in storages:
                content = archive.read(f"{root}data/{key}")
                if len(content) < count * dtype.itemsize:
                    raise ValueError(f"storage {key} is shorter than its header says")
                storages[key] = np.frombuffer(content, dtype, count)
            if storages[key].dtype != dtype or storages[key].size < count:
                raise ValueError(f"storage {key} is used in two ways")
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(program)), storage).load()


def _load_legacy(file: BinaryIO) -> Any:
    """Reads the legacy layout: magic number, protocol, system facts, the object, the storages' keys, the raw storages.

    The object comes before its data, so it is unpickled twice: once to learn the storages' types, once with the data.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise ValueError("the first number is not PyTorch's")
    _Unpickler(file).load()
    _Unpickler(file).load()
    start = file.tell()
    storages: dict[str, np.ndarray] = {}

    def placeholder(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if count * dtype.itemsize > size:
            raise ValueError(f"storage {key} is larger than the file")
        return storages.setdefault(key, np.zeros(count, dtype))

    _Unpickler(file, placeholder).load()
    for key in _Unpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        expected = storages[str(key)]
        content = file.read(expected.nbytes)
        if count != expected.size or len(content) != expected.nbytes:
            raise ValueError(f"storage {key} is cut short")
        storages[str(key)] = np.frombuffer(content, expected.dtype)
    file.seek(start)
    return _Unpickler(file, placeholder).load()


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a weights file of any known kind into a flat table.

    Args:
        path: `.pth`, `.pt`, `.tar` or `.bin` (PyTorch), `.safetensors`, or `.npz`.

    Returns:
        Arrays by name. Weights under "state_dict" or "model" are found there; a leading "module." is dropped.

    Raises:
        UserError: unknown kind of file, damaged file, file with code, or no tensors in it.
    """
    path = pathlib.Path(path)
    if path.suffix not in _SUFFIXES:
        raise errors.UserError(f"weights file {path} has an unknown ending; known: {', '.join(_SUFFIXES)}.")
    if not path.is_file():
        raise errors.UserError(f"weights file {path} does not exist; give the path of a checkpoint.")
    if path.suffix in (".safetensors", ".npz"):
        return _read_arrays(path)
    tree = load(path)
    for key in ("state_dict", "model"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    entries = tree if isinstance(tree, Mapping) else {}
    flat = {name: value for name, value in entries.items() if isinstance(value, np.ndarray)}
    if not flat:
        raise errors.UserError(
            f"{path} holds no table of tensors (found {type(tree).__name__}); save model.state_dict() and try again."
        )
    return strip_prefix(flat)


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        import safetensors.numpy

        return strip_prefix(safetensors.numpy.load_file(path))
    except Exception as failure:  # each library has its own errors for a damaged file
        raise errors.UserError(
            f"{path} is no complete {path.suffix} file ({type(failure).__name__}: {failure}); copy the file again."
        ) from failure


def strip_prefix(flat: Mapping[str, np.ndarray], prefix: str = "module.") -> dict[str, np.ndarray]:
    """Drops the prefix that data-parallel training leaves, where every name has it."""
    if all(name.startswith(prefix) for name in flat):
        return {name.removeprefix(prefix): value for name, value in flat.items()}
    return dict(flat)
