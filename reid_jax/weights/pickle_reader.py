"""A machine for pickles that calls nothing: it follows the opcodes, and `inert` says what each name stands for.

`pickle.Unpickler` runs what a file asks for and trusts its sizes: nine bytes can allocate gigabytes (an index of the
memo), some hundred bytes of nested tuples keep it busy for ever (their hashes). Here the opcodes are read by Python's
own disassembler, `pickletools.genops`, every value is taken from a budget, keys are texts and numbers, and the result
is bounded in depth and in size.
"""

from __future__ import annotations

import os
import pickletools
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from reid_jax.array_files import Budget
from reid_jax.errors import MalformedError
from reid_jax.weights import inert

# Levels of containers; training checkpoints have fewer than ten.
_DEEPEST = 100
# A checkpoint has some forty opcodes per tensor.
_MOST_OPCODES = 1 << 19
# Values of the result when everything shared is counted wherever it stands.
_MOST_VALUES = 1 << 24
_LONGEST_LINE = 1 << 16
_MARK = object()

StorageReader = Callable[[np.dtype, str, int], inert.Storage]


class BoundedFile:
    """An open file whose reads never allocate more than is left of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        place = file.tell()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(place)

    def read(self, count: int) -> bytes:
        """Returns the next bytes, fewer at the end."""
        return self._file.read(max(0, min(count, self._size - self._file.tell())))

    def readline(self) -> bytes:
        """Returns the next line; a very long one is cut."""
        return self._file.readline(_LONGEST_LINE)

    def tell(self) -> int:
        """Returns the position in the file."""
        return self._file.tell()


def read(file: BoundedFile, budget: Budget, storage: StorageReader | None = None) -> Any:
    """Reads one pickle.

    Args:
        file: positioned at the pickle, afterwards behind it.
        budget: bytes left for all values.
        storage: returns a storage by element type, key and number of elements; None where no tensor may stand.

    Returns:
        Its value, of plain containers, numbers, texts, numpy arrays and `inert.Record`.

    Raises:
        RefusedError: the file names something else than tensors and containers.
        MalformedError: it is no such pickle, or one that no library writes.
        Exception: anything that `pickletools` raises for damaged bytes.
    """
    machine = _Machine(budget, storage)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if opcode.name == "STOP":
            break
        if number > _MOST_OPCODES:
            raise MalformedError("more opcodes than any checkpoint has")
        machine.step(opcode.name, argument)
    value = machine.pop()
    _check_tree(value)
    return value


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, budget: Budget, storage: StorageReader | None) -> None:
        self._budget, self._storage = budget, storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follows one opcode."""
        if name in _LITERALS:
            self._push(argument, sys.getsizeof(argument))
        elif name in _CONSTANTS:
            make = _CONSTANTS[name]
            self._push(make(), 232)
        else:
            method = _METHODS.get(name)
            if method is None:
                raise MalformedError(f"the opcode {name}, which no checkpoint needs")
            method(self, argument)

    def pop(self) -> Any:
        """Returns the value on top of the stack."""
        if not self._stack or self._stack[-1] is _MARK:
            raise MalformedError("a value is missing")
        return self._stack.pop()

    def _push(self, value: Any, size: int = 0) -> None:
        self._budget.take(size + 8)
        self._stack.append(value)

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise MalformedError("a value is missing")
        return self._stack[-1]

    def _items(self) -> list[Any]:
        """Returns the values above the last mark and removes both."""
        items: list[Any] = []
        while self._stack:
            value = self._stack.pop()
            if value is _MARK:
                return items[::-1]
            items.append(value)
        raise MalformedError("a mark is missing")

    # ---- memo

    def _put(self, index: Any) -> None:
        if not isinstance(index, int) or not 0 <= index < 1 << 32:
            raise MalformedError("an index of the memo that is none")
        value = self._top()
        if isinstance(value, inert.PendingArray):
            value.memo.append(index)
        self._budget.take(120)
        self._memo[index] = value

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, index: Any) -> None:
        if index not in self._memo:
            raise MalformedError("a value of the memo that was never stored")
        self._push(self._memo[index])

    # ---- containers

    def _mark(self, _: Any) -> None:
        self._push(_MARK)

    def _pop(self, _: Any) -> None:
        if not self._stack:
            raise MalformedError("a value is missing")
        self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._items()

    def _tuple(self, _: Any) -> None:
        items = tuple(self._items())
        self._push(items, sys.getsizeof(items))

    def _short_tuple(self, count: int) -> None:
        items = tuple(self.pop() for _ in range(count))[::-1]
        self._push(items, sys.getsizeof(items))

    def _list(self, _: Any) -> None:
        items = self._items()
        self._push(items, sys.getsizeof(items))

    def _append(self, _: Any) -> None:
        self._extend([self.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._items())

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise MalformedError("items of something that is no list")
        self._budget.take(16 * len(items))
        target.extend(items)

    def _dict(self, _: Any) -> None:
        items = self._items()
        self._push({}, 64)
        self._update(items)

    def _set_item(self, _: Any) -> None:
        value = self.pop()
        self._update([self.pop(), value])

    def _set_items(self, _: Any) -> None:
        self._update(self._items())

    def _update(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise MalformedError("entries of something that is no table")
        self._budget.take(60 * len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not inert.is_key(key):
                raise MalformedError("a key that is neither text nor number")
            target[key] = value

    def _add_items(self, _: Any) -> None:
        items, target = self._items(), self._top()
        if type(target) is not set or not all(inert.is_key(item) for item in items):
            raise MalformedError("a set of something else than texts and numbers")
        self._budget.take(100 * len(items))
        target.update(items)

    def _frozenset(self, _: Any) -> None:
        items = self._items()
        if not all(inert.is_key(item) for item in items):
            raise MalformedError("a set of something else than texts and numbers")
        self._push(frozenset(items), 232 + 100 * len(items))

    # ---- names, calls, references

    def _global(self, argument: str) -> None:
        self._name(argument.replace(" ", ".", 1))

    def _stack_global(self, _: Any) -> None:
        last, module = self.pop(), self.pop()
        if not isinstance(last, str) or not isinstance(module, str):
            raise MalformedError("a name that is no text")
        self._name(f"{module}.{last}")

    def _name(self, name: str) -> None:
        if not inert.is_known(name):
            raise inert.RefusedError(name)
        self._push(inert.Name(name), 120)

    def _reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self._push(inert.call(function, arguments, self._budget), 120)

    def _new_object_with_keywords(self, _: Any) -> None:
        if self.pop() != {}:
            raise MalformedError("an object made by keywords")
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state, target = self.pop(), self.pop()
        value = inert.set_state(target, state, self._budget)
        if isinstance(target, inert.PendingArray):
            for index in target.memo:
                self._memo[index] = value
        self._push(value)

    def _persistent(self, _: Any) -> None:
        reference = self.pop()
        if self._storage is None or not isinstance(reference, tuple) or len(reference) < 5:
            raise MalformedError("a reference that is no tensor storage")
        kind, storage_type, key, _, count = reference[:5]
        if type(kind) is not str or kind != "storage" or type(key) is not str or len(key) > 200:
            raise MalformedError("a reference that is no tensor storage")
        if type(count) is not int or not 0 <= count < 1 << 48:
            raise MalformedError("a storage without a length")
        if len(reference) > 5 and reference[5] is not None:
            raise MalformedError("a storage that is a view of another one (a very old file)")
        self._push(self._storage(inert.storage_dtype(storage_type), key, count), 120)


def _nothing(machine: _Machine, argument: Any) -> None:
    """The protocol's number and the frames of newer ones; `genops` reads through them."""


# Opcodes whose value is their argument.
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    )
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "LIST": _Machine._list,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "DICT": _Machine._dict,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "ADDITEMS": _Machine._add_items,
    "FROZENSET": _Machine._frozenset,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_object_with_keywords,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}


def _check_tree(value: Any) -> None:
    """Refuses a result that is deeper or larger than any checkpoint, or that contains itself.

    Whoever walks or prints a result meets shared values again and again: thirty tuples, each of which holds the one
    before twice, are a billion.

    Raises:
        MalformedError: it is such a result, or holds something unfinished.
    """
    measured: dict[int, tuple[int, int]] = {}  # id of a container -> (levels, values)
    open_: set[int] = set()
    stack = [(value, False)]
    while stack:
        node, done = stack.pop()
        if id(node) in measured:
            continue
        children = _children(node)
        if not done:
            if id(node) in open_:
                raise MalformedError("a container that contains itself")
            if len(open_) > _DEEPEST:
                raise MalformedError("containers that are nested far too deeply")
            open_.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in children if isinstance(child, _CONTAINERS))
            continue
        open_.discard(id(node))
        sizes = [measured.get(id(child), (0, 1)) for child in children]
        depth, count = 1 + max((size[0] for size in sizes), default=0), 1 + sum(size[1] for size in sizes)
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise MalformedError("containers that are nested far too deeply")
        measured[id(node)] = (depth, count)


_CONTAINERS = (dict, list, tuple, inert.PendingArray, inert.Storage)


def _children(value: Any) -> list[Any]:
    """Returns the values of a container, none for a plain value."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (inert.PendingArray, inert.Storage)):
        raise MalformedError("a value that is unfinished")
    return []
