"""What the names in a pickle stand for: tensors, arrays, plain containers and inert records, built by functions here.

A pickle names functions and classes and asks to call them. No such name is ever looked up: a name is a text, and the
table `BUILDERS` says which function of this file takes its place. Every other name is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from reid_jax.array_files import Budget, element_count
from reid_jax.errors import MalformedError

STORAGES: dict[str, Any] = {
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
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
    "UntypedStorage": np.uint8,
}
# A type as a setting, and the element types of `_rebuild_tensor_v3`.
DTYPES: dict[str, Any] = {
    **{
        name: np.dtype(name)
        for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32")
    },
    "uint64": np.dtype("uint64"),
    "complex64": np.dtype("complex64"),
    "complex128": np.dtype("complex128"),
    "bool": np.dtype("bool"),
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}
# Settings that recipes save with their weights: their fields are kept, their classes are not needed.
RECORDS = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "munch.Munch",
    "ml_collections.config_dict.config_dict.ConfigDict",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
}
_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
_FACTORIES = {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("dict", "list", "int", "float")}


class RefusedError(Exception):
    """The file names something that is neither tensor nor container; the text is that name."""


class Name(str):
    """A global of a pickle, "module.name"; a text that nothing looks up."""


class Record(dict[Any, Any]):
    """The fields of a settings object, without its class."""


@dataclasses.dataclass
class Storage:
    """The flat content of tensors, made by the reader itself.

    Attributes:
        dtype: element type.
        count: number of elements.
        values: [count], or None as long as they are not read (legacy files).
    """

    dtype: np.dtype
    count: int
    values: np.ndarray | None


@dataclasses.dataclass
class DtypeRecord:
    """A `numpy.dtype`; the byte order comes in its state."""

    dtype: np.dtype


@dataclasses.dataclass
class PendingArray:
    """A numpy array whose shape and content come in its state."""

    memo: list[int] = dataclasses.field(default_factory=list)


def is_known(name: str) -> bool:
    """Returns whether a global may stand in a file."""
    module, _, last = name.rpartition(".")
    return (
        name in BUILDERS
        or name in RECORDS
        or name in _TYPES
        or (module in ("torch", "torch.storage") and last in STORAGES)
        or (module == "torch" and (last in DTYPES or last == "strided"))
        or name in ("numpy.ndarray", "numpy.bool_")
        or name in _FACTORIES
    )


def storage_dtype(name: object) -> np.dtype:
    """Returns the element type of a storage's class.

    Raises:
        MalformedError: the value is not the name of such a class.
    """
    if isinstance(name, Name) and name.rpartition(".")[2] in STORAGES:
        dtype: np.dtype = np.dtype(STORAGES[name.rpartition(".")[2]])
        return dtype
    raise MalformedError("a reference that is no tensor storage")


def is_key(value: object) -> bool:
    """Returns whether a value may be a key or stand in a set: texts and numbers.

    Containers are none: hashing nested tuples never ends. Nor are very large integers, which can be chosen to collide.
    """
    if isinstance(value, int):
        return abs(value) < 1 << 60
    return value is None or isinstance(value, (str, bytes, float, np.number, np.bool_))


def call(name: object, arguments: object, budget: Budget) -> Any:
    """Returns what a call of a global stands for.

    Raises:
        MalformedError: arguments that no library writes, or more than the budget.
        RefusedError: the name is none that is called.
    """
    if not isinstance(name, Name) or not isinstance(arguments, tuple):
        raise MalformedError("a call of something that has no name")
    if name in RECORDS:
        return Record({"args": arguments} if arguments else {})
    builder = BUILDERS.get(name)
    if builder is None:
        raise RefusedError(name)
    return builder(budget, *arguments)


def set_state(target: object, state: object, budget: Budget) -> Any:
    """Returns an object after its state is set; attributes of containers are dropped.

    Raises:
        MalformedError: an object that has no state.
    """
    if isinstance(target, PendingArray):
        return _array_from_state(budget, state)
    if isinstance(target, DtypeRecord):
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            target.dtype = target.dtype.newbyteorder(state[1])
        return target
    if isinstance(target, Record):
        if isinstance(state, tuple) and len(state) == 2:  # (dictionary, slots)
            state = state[0]
        if isinstance(state, dict):
            budget.take(120 * len(state))
            target.update(state)
        return target
    if isinstance(target, (dict, np.ndarray)):
        return target
    raise MalformedError("a state of something that has none")


# ---- tensors


def _tensor(budget: Budget, storage: object, offset: object, size: object, stride: object, *_: object) -> np.ndarray:
    """Returns a strided view of a storage, copied; refuses a view that leaves the storage."""
    if not isinstance(storage, Storage):
        raise MalformedError("a tensor whose storage is none")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise MalformedError("a tensor with a negative or unequal shape")
    if type(offset) is not int or not 0 <= offset < 1 << 48:
        raise MalformedError("a tensor with an unknown offset")
    count = element_count(size)
    element_count(stride)
    if storage.values is None or count == 0:
        return np.empty(size if count == 0 else 0, storage.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if last >= storage.count:
        raise MalformedError("a tensor that reaches outside its storage")
    budget.take(count * storage.dtype.itemsize)
    steps = [step * storage.dtype.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage.values[offset:], size, steps).copy()


def _tensor_of_bytes(
    budget: Budget,
    storage: object,
    offset: object,
    size: object,
    stride: object,
    grad: object = None,
    hooks: object = None,
    dtype: object = None,
    *_: object,
) -> np.ndarray:
    """Like `_tensor` for storages of bytes, whose element type comes with the tensor."""
    wanted = _torch_dtype(dtype)
    if not isinstance(storage, Storage) or storage.dtype != np.uint8:
        raise MalformedError("a tensor whose storage is none")
    count = storage.count // wanted.itemsize
    values = None if storage.values is None else storage.values[: count * wanted.itemsize].view(wanted)
    return _tensor(budget, Storage(wanted, count, values), offset, size, stride)


def _torch_dtype(name: object) -> np.dtype:
    last = name.removeprefix("torch.") if isinstance(name, Name) else ""
    if last not in DTYPES:
        raise MalformedError("a tensor of an unknown type")
    dtype: np.dtype = DTYPES[last]
    return dtype


def _parameter(budget: Budget, data: object, *_: object) -> Any:
    if not isinstance(data, np.ndarray):
        raise MalformedError("a parameter that holds no tensor")
    return data


def _of_type(budget: Budget, function: object, kind: object, arguments: object, *_: object) -> Any:
    """Stand-in for `_rebuild_from_type_v2`: tensors and parameters with attributes, which are dropped."""
    if not isinstance(kind, Name) or kind not in _TYPES:
        raise MalformedError("a tensor of an unknown class")
    return _parameter(budget, call(function, arguments, budget))


def _device(budget: Budget, *arguments: object) -> str:
    if not all(type(part) in (str, int) for part in arguments):
        raise MalformedError("a device without a name")
    return ":".join(str(part)[:20] for part in arguments)


# ---- arrays of numpy


def _dtype(budget: Budget, name: object, *_: object) -> DtypeRecord:
    text = str(name) if isinstance(name, (str, Name)) else ""
    text = {"numpy.bool_": "bool"}.get(text, text)
    if not 0 < len(text) <= 12 or text.lstrip("<>=|")[:1] not in "biufcSUO":
        raise RefusedError("numpy.dtype of another kind than numbers and text")
    dtype = np.dtype(text)
    if dtype.kind not in "biufcSUO":
        raise RefusedError("numpy.dtype of another kind than numbers and text")
    return DtypeRecord(dtype)


def _scalar(budget: Budget, dtype: object, content: object = b"") -> Any:
    """Returns a numpy number or text, as recipes save their scores."""
    values = _values(budget, dtype, content)
    if values.size != 1:
        raise MalformedError("a number that holds several")
    return values[0]


def _values(budget: Budget, dtype: object, content: object) -> np.ndarray:
    if not isinstance(dtype, DtypeRecord) or dtype.dtype.itemsize == 0 or dtype.dtype.hasobject:
        raise MalformedError("an array of an unknown type")
    raw = _encoded(budget, content) if isinstance(content, str) else content
    if not isinstance(raw, (bytes, bytearray)):
        raise MalformedError("an array without content")
    return np.frombuffer(raw, dtype.dtype)


def _shaped(budget: Budget, dtype: object, content: object, shape: object, fortran: object) -> np.ndarray:
    if not isinstance(shape, tuple):
        raise MalformedError("the shape of an array is none")
    count = element_count(shape)
    if count == 0 and isinstance(dtype, DtypeRecord):
        return np.empty(shape, dtype.dtype)
    values = _values(budget, dtype, content)
    if values.size != count:
        raise MalformedError("an array has not the length of its shape")
    return values.reshape(shape, order="F" if fortran else "C")


def _pending(budget: Budget, *_: object) -> PendingArray:
    return PendingArray()


def _array_from_state(budget: Budget, state: object) -> Any:
    if not isinstance(state, tuple) or len(state) != 5:
        raise MalformedError("an array without a state")
    _, shape, dtype, fortran, content = state
    if isinstance(content, list):  # an array of objects, whose values the pickle holds itself
        return content
    return _shaped(budget, dtype, content, shape, fortran)


def _from_buffer(budget: Budget, content: object, dtype: object, shape: object, order: object) -> np.ndarray:
    return _shaped(budget, dtype, content, shape, order == "F")


# ---- containers


def _mapping(budget: Budget, items: object = (), *_: object) -> dict[Any, Any]:
    if isinstance(items, dict):
        budget.take(120 * len(items))
        return dict(items)
    result = {}
    for pair in _sequence(budget, items, 120):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not is_key(pair[0]):
            raise MalformedError("a key that is neither text nor number")
        result[pair[0]] = pair[1]
    return result


def _default_mapping(budget: Budget, factory: object = None, items: object = ()) -> dict[Any, Any]:
    if factory is not None and not isinstance(factory, Name):
        raise MalformedError("a default that has no name")
    return _mapping(budget, items)


def _sequence(budget: Budget, items: object, each: int) -> list[Any]:
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise MalformedError("a container of something that is none")
    budget.take(64 + each * len(items))
    return list(items)


def _set(budget: Budget, items: object = ()) -> set[Any]:
    found = _sequence(budget, items, 100)
    if not all(is_key(item) for item in found):
        raise MalformedError("a set of something else than texts and numbers")
    return set(found)


def _frozenset(budget: Budget, items: object = ()) -> frozenset[Any]:
    return frozenset(_set(budget, items))


def _tuple(budget: Budget, items: object = ()) -> tuple[Any, ...]:
    return tuple(_sequence(budget, items, 8))


def _list(budget: Budget, items: object = ()) -> list[Any]:
    return _sequence(budget, items, 8)


def _encoded(budget: Budget, text: object = "", encoding: object = "latin1") -> bytes:
    """Stand-in for `_codecs.encode`, with which old pickles write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("_codecs.encode")
    budget.take(len(text))
    return text.encode("latin1")


def _complex(budget: Budget, real: object = 0.0, imaginary: object = 0.0) -> complex:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise MalformedError("a complex number of other things")
    return complex(real, imaginary)


def _path(budget: Budget, *parts: object) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise MalformedError("a path of other things than texts")
    budget.take(4 * sum(len(str(part)) + 1 for part in parts) + 64)
    return "/".join(str(part) for part in parts)


_Builder = Callable[..., Any]
_BUILTINS: dict[str, _Builder] = {
    "set": _set,
    "frozenset": _frozenset,
    "tuple": _tuple,
    "list": _list,
    "dict": _mapping,
    "complex": _complex,
}
_NUMPY: dict[str, _Builder] = {
    "multiarray.scalar": _scalar,
    "multiarray._reconstruct": _pending,
    "numeric._frombuffer": _from_buffer,
}
BUILDERS: dict[str, _Builder] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_numpy": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": _tuple,
    "torch.device": _device,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encoded,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _default_mapping,
    "pathlib.PosixPath": _path,
    "pathlib.PurePosixPath": _path,
    **{f"{module}.{name}": builder for module in ("builtins", "__builtin__") for name, builder in _BUILTINS.items()},
    **{f"numpy.{core}.{name}": builder for core in ("core", "_core") for name, builder in _NUMPY.items()},
}
