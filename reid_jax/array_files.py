"""Arrays of `.npz` files, and zip archives in general, within a budget of bytes that the file's own size sets.

Sizes stand in three places of such a file (the archive's directory, the compressed stream, the array's header), and
each can lie: 200 bytes may announce a terabyte. Here every byte is taken from a `Budget` before it is allocated, a
header must agree with the bytes that follow it, and nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from reid_jax import errors, file_io
from reid_jax.errors import MalformedError

# What a file may occupy in memory: well compressed arrays of small files, several copies of large ones.
BASE_BYTES = 256 << 20
TIMES_FILE = 8
# Python's objects for a directory are some ten times as large as the directory; this holds about 100,000 members.
_MOST_DIRECTORY_BYTES = 8 << 20
_LONGEST_NAME = 1000
_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
# The other methods allocate what their streams ask for.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Budget:
    """Bytes that reading one file may still allocate."""

    def __init__(self, file_bytes: int) -> None:
        self.left = BASE_BYTES + TIMES_FILE * file_bytes

    def take(self, count: int) -> None:
        """Takes bytes before they are allocated.

        Raises:
            MalformedError: fewer are left.
        """
        self.left -= count
        if self.left < 0:
            raise MalformedError("it unfolds to far more memory than its size explains")


class Archive:
    """A zip archive whose members are read within a budget.

    Attributes:
        names: the members' names, each once.
        budget: bytes left; the caller may take more from it.
    """

    def __init__(self, file: BinaryIO, budget: Budget | None = None) -> None:
        """Reads the directory of an open file.

        Raises:
            MalformedError: the directory is very long, or a name stands in it twice.
            Exception: anything that `zipfile` raises for a damaged archive.
        """
        size = file.seek(0, os.SEEK_END)
        self.budget = Budget(size) if budget is None else budget
        if _directory_bytes(file, size) > _MOST_DIRECTORY_BYTES:
            raise MalformedError("its directory of members is too long")
        self._zip = zipfile.ZipFile(file)
        self.names: list[str] = self._zip.namelist()
        if len(set(self.names)) < len(self.names):
            raise MalformedError("two members have the same name")
        if any(len(name) > _LONGEST_NAME for name in self.names):
            raise MalformedError("the name of a member is too long")

    def read(self, name: str) -> bytes:
        """Returns the content of a member.

        Raises:
            MalformedError: its length is not the announced one, the budget is used up, or it is neither stored nor
                deflated.
            Exception: anything that `zipfile` raises for a damaged member.
        """
        info = self._zip.getinfo(name)
        if info.compress_type not in _METHODS:
            raise MalformedError("a member is neither stored nor deflated")
        self.budget.take(info.file_size)
        with self._zip.open(info) as member:
            # A bounded read: `read()` would inflate up to 2 GB before it looks at the announced length.
            content = member.read(info.file_size + 1)
        if len(content) != info.file_size:
            raise MalformedError("a member has not the announced length")
        return content


def _directory_bytes(file: BinaryIO, size: int) -> int:
    """Returns the length of the archive's directory as the end of the file states it; 0 where there is none."""
    start = max(0, size - (1 << 16) - 22)
    file.seek(start)
    tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + 22:
        return 0
    length: int = struct.unpack("<L", tail[end + 12 : end + 16])[0]
    record = start + end - 20 - 56
    if record >= 0:
        file.seek(record)
        content = file.read(76)
        if content.startswith(_END64) and content[56:60] == _LOCATOR64:
            length = max(length if length < 0xFFFFFFFF else 0, struct.unpack("<Q", content[40:48])[0])
    return length


def read_npz(file: BinaryIO) -> dict[str, np.ndarray]:
    """Reads all arrays of an open `.npz` file; the arrays may be read-only.

    Raises:
        MalformedError: a header does not agree with its content, an array holds Python objects, or the file unfolds to
            more than its budget.
        Exception: anything that numpy or `zipfile` raises for a damaged file.
    """
    archive = Archive(file)
    return {name.removesuffix(".npy"): parse_npy(archive.read(name)) for name in archive.names}


def parse_npy(content: bytes) -> np.ndarray:
    """Returns the array of an `.npy` file's content, without a copy.

    Raises:
        MalformedError: the header does not agree with the content, or the array holds Python objects.
        Exception: anything that numpy raises for a damaged header.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read_header is None:
        raise MalformedError("an array has fields or an unknown version")
    shape, fortran_order, dtype = read_header(stream, max_header_size=4096)
    if dtype.hasobject:
        raise MalformedError("an array holds Python objects, which are never unpickled")
    count = element_count(shape)
    start = stream.tell()
    if dtype.itemsize == 0 or count * dtype.itemsize != len(content) - start:
        raise MalformedError("the header of an array does not agree with its length")
    flat = np.frombuffer(content, dtype, count, offset=start) if count else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def element_count(shape: Sequence[object]) -> int:
    """Returns the number of values of an array.

    Raises:
        MalformedError: the shape is not one of an array: whole numbers from 0 on, at most 32 axes.
    """
    sizes = [size for size in shape if type(size) is int and 0 <= size < 1 << 48]
    if len(sizes) != len(shape) or len(sizes) > 32:
        raise MalformedError("the shape of an array is none")
    return math.prod(sizes)


def kind(start: bytes) -> str:
    """Returns the kind of a file by its first bytes, at least 300 where it has them.

    Returns:
        "zip", "pickle", "safetensors", "npy", or the description of another kind of file; "" for an unknown one.
    """
    # First, because the length of its header, which safetensors begins with, may look like the start of another kind.
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return "safetensors"
    for begins, name in _KINDS:
        if start.startswith(begins):
            return name
    return "a tar archive" if start[257:262] == b"ustar" else ""


_KINDS = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x80", "pickle"),
    (b"\x93NUMPY", "npy"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    (b"<", "a web page"),
    (b"\n<", "a web page"),
)


def load_npz(path: str | os.PathLike[str], expected: str, remedy: str) -> dict[str, np.ndarray]:
    """Reads all arrays of a user's `.npz` file; the content decides what it is, not the name.

    Args:
        path: the file.
        expected: what it should be, with its article; see `file_io.reading`.
        remedy: what the user can do.

    Raises:
        UserError: the file cannot be read or is no `.npz` file.
    """
    with file_io.reading(path, expected, remedy), open(path, "rb") as file:
        found = kind(file.read(300))
        if found != "zip":
            described = {"npy": "one array without names (.npy)", "": "none"}.get(found, found)
            raise errors.UserError(
                f"expected {expected} at {file_io.shown(path)}, the content is {described}; {remedy}."
            )
        return read_npz(file)
