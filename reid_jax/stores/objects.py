"""Objects of a bucket by name: list, read, write, remove, each with retries and one sentence where it fails.

    store = objects.Store("gs://bucket/folder")
    store.write("notes.txt", b"...")

A put of an object is atomic: a reader sees the old content or the new. A folder of objects is not, so whoever writes
several writes the one that makes them count last. Credentials and endpoints are the libraries' own (docs/clusters.md).

Time: a connection must stand within `CONNECT` seconds and bring bytes every `READ` seconds. The libraries repeat a
request that a busy store refused (429, 5xx), that timed out or was cut, with growing pauses; what still fails is tried
again from its start, as long as `DEADLINE` seconds have not passed since the first attempt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import importlib
import logging
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from reid_jax import errors, file_io

LOG = logging.getLogger(__name__)

LIBRARIES = {"gs": "gcsfs", "s3": "s3fs"}
MEMORY = "memory"  # fsspec's store within the process, for tests
INSTALL = 'pip install "reid-jax[stores]"'
CONNECT, READ = 10.0, 30.0  # seconds
REQUESTS = 4  # attempts of a library for one request
SMALL = 32 << 20  # bytes that are read at once
ATTEMPTS, PAUSE, DEADLINE = 3, 2.0, 120.0  # of a whole operation; seconds

_LOGGERS = ("gcsfs", "s3fs", "fsspec", "aiobotocore", "botocore", "asyncio", "google.auth")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_MISTYPED = re.compile(r"(gs|s3):", re.IGNORECASE)  # "gs:/bucket", "S3://bucket"
_T = TypeVar("_T")


class StoreError(errors.UserError):
    """Error of a store: no rights, no such bucket, or no answer within the time."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One object of a listing: its size in bytes, and a text that changes whenever its content does."""

    size: int
    version: str


def is_remote(path: str | os.PathLike[str] | None) -> bool:
    """Returns whether a path names an object store ("gs://bucket/folder"), or tries to ("gs:/bucket/folder")."""
    return isinstance(path, str) and (_URL.match(path) or _MISTYPED.match(path)) is not None


def check(url: str, key: str = "") -> None:
    """Checks that a URL names a bucket of a kind that is known, and that its library is installed.

    Args:
        url: such as "gs://bucket/folder".
        key: the flag or key that it was given for, for the sentence.

    Raises:
        StoreError: another scheme, no bucket, or the extra is not installed.
    """
    found = _URL.match(url)
    scheme, rest = found.groups() if found else ("", "")
    given = f" as {key}" if key else ""
    if scheme not in (*LIBRARIES, MEMORY):
        raise StoreError(
            f"expected a folder, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER{given}, got {file_io.shown(url)[:200]}; "
            + (
                "a scheme has small letters and two slashes."
                if _MISTYPED.match(url)
                else "other stores are not supported."
            )
        )
    if not rest.split("/")[0] or any(part in ("", ".", "..") for part in rest.rstrip("/").split("/")):
        raise StoreError(
            f"expected {scheme}://BUCKET/FOLDER{given}, got {file_io.shown(url)[:200]}; name the bucket, and no empty "
            "part between two slashes."
        )
    library = LIBRARIES.get(scheme)
    if library and not _is_installed(library):
        raise StoreError(f"reading {scheme}:// needs {library}, it is not installed; run {INSTALL}.")


def _is_installed(library: str) -> bool:
    for logger in _LOGGERS:  # what fails is said in one sentence
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    # gcsfs asks for the kind of every bucket by gRPC first, for minutes where only HTTP goes through.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        importlib.import_module(library)
    except ImportError:
        return False
    return True


class Store:
    """The objects below one URL; safe to use from several threads.

    Args:
        url: "gs://bucket/folder"; nothing is requested yet.
        attempts: of a whole operation.

    Raises:
        StoreError: see `check`.
    """

    def __init__(self, url: str, *, attempts: int = ATTEMPTS) -> None:
        check(url)
        self.url = url.rstrip("/")
        self.attempts = attempts
        scheme, self._root = self.url.split("://", 1)
        self._files = _file_system(scheme)

    def below(self, name: str) -> Store:
        """Returns the store of a folder of this one."""
        return Store(f"{self.url}/{name}", attempts=self.attempts)

    def listing(self) -> dict[str, Entry]:
        """Returns all objects by their name relative to the URL; none if there are none.

        Raises:
            StoreError: there is no such bucket, no rights, or no answer.
        """

        def find() -> dict[str, Any]:
            found: dict[str, Any] = self._files.find(self._root, detail=True)
            return found

        head = f"{self._root}/"
        return {
            path.lstrip("/").removeprefix(head): _entry(about)
            for path, about in self._do("list", "", find).items()
            if path.lstrip("/").startswith(head)
        }

    def entry(self, name: str) -> Entry | None:
        """Returns size and version of one object, `None` if there is none."""
        try:
            return _entry(self._do("read", name, lambda: self._files.info(self._path(name)), absent=True))
        except FileNotFoundError:
            return None

    def read(self, name: str, otherwise: bytes | None = None) -> bytes:
        """Returns the content of an object, or `otherwise` if there is none.

        Raises:
            StoreError: it cannot be read, or there is none and no `otherwise`.
        """
        try:
            return bytes(self._do("read", name, lambda: self._files.cat_file(self._path(name)), absent=True))
        except FileNotFoundError as error:
            if otherwise is None:
                raise self._sentence("read", name, error) from error
            return otherwise

    def write(self, name: str, data: bytes) -> None:
        """Writes an object, whole or not at all."""
        self._do("write", name, lambda: self._files.pipe_file(self._path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object unless there is one; returns whether the object there is this one.

        The store decides (a precondition of the put), so that one of several processes succeeds.

        Args:
            name: the object.
            data: its content, which no other process may write: an answer that got lost is looked up by it.
        """
        try:
            self._do("write", name, lambda: self._files.pipe_file(self._path(name), data, mode="create"), absent=True)
        except FileExistsError:
            return self.read(name, b"") == data
        except FileNotFoundError as error:
            raise self._sentence("write", name, error) from error
        return True

    def upload(self, path: pathlib.Path, name: str) -> None:
        """Writes a local file as an object; a large one in parts that become visible together."""
        self._do("write", name, lambda: self._files.put_file(os.fspath(path), self._path(name)))

    def download(self, name: str, path: pathlib.Path, size: int | None = None) -> None:
        """Writes an object to a local path that nobody reads yet.

        Args:
            name: the object.
            path: the file; its folder must exist.
            size: expected size in bytes, which is compared.

        Raises:
            StoreError: it cannot be read, or has another size.
        """

        def get() -> None:
            try:
                fetch()
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
                    raise file_io.cannot_write(path, "the local copy", error) from error
                raise

        def fetch() -> None:
            if size is None or size > SMALL:
                self._files.get_file(self._path(name), os.fspath(path))
            else:  # `get_file` asks first whether it is a folder: a listing and a read more
                path.write_bytes(self._files.cat_file(self._path(name)))
            if size is not None and path.stat().st_size != size:
                raise OSError(f"got {path.stat().st_size} of {size} bytes")

        self._do("read", name, get)

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects in the given order; one that is not there is no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._do("remove", name, functools.partial(self._files.rm_file, self._path(name)), absent=True)

    def copy(self, name: str, other: str) -> None:
        """Copies an object within the store."""
        self._do("copy", name, lambda: self._files.cp_file(self._path(name), self._path(other)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _do(self, doing: str, name: str, call: Callable[[], _T], *, absent: bool = False) -> _T:
        """Returns what the call returns, after retries; with `absent`, what is missing or there raises the system's."""
        until = time.monotonic() + DEADLINE
        for attempt in range(1, self.attempts + 1):
            try:
                return call()
            except errors.UserError:
                raise
            except Exception as error:
                if absent and isinstance(error, (FileNotFoundError, FileExistsError)):
                    raise
                if _kind(error) != "unreachable" or attempt == self.attempts or time.monotonic() > until:
                    raise self._sentence(doing, name, error) from error
                LOG.warning("%s did not answer (%s); trying again.", self.url, _reason(error))
                time.sleep(PAUSE * attempt)
        raise AssertionError

    def _sentence(self, doing: str, name: str, error: Exception) -> StoreError:
        place = file_io.shown(f"{self.url}/{name}" if name else self.url)
        scheme, rest = self.url.split("://", 1)
        bucket = f"{scheme}://{rest.split('/')[0]}"
        kind = _kind(error)
        if kind == "absent":
            text = f"cannot {doing} {place}: there is no such bucket or object; check its name, and make {bucket} first"
        elif kind == "denied":
            text = (
                f"cannot {doing} {place}: the store refuses it ({errors.reason(error)}); log in with an account that "
                f"may list, read, write and remove objects of {bucket}"
            )
        elif kind == "credentials":
            text = f"cannot {doing} {place} without credentials ({errors.reason(error)}); log in, see docs/clusters.md"
        else:
            text = (
                f"cannot {doing} {place}: the store does not answer or fails ({_reason(error)}); check the "
                "network and the endpoint, then start the same command again"
            )
        return StoreError(f"{text}.")


def _entry(about: dict[str, Any]) -> Entry:
    keys = ("generation", "md5Hash", "ETag", "etag", "created", "mtime", "LastModified")
    return Entry(int(about.get("size") or 0), next((str(about[key]) for key in keys if about.get(key)), ""))


def _kind(error: BaseException) -> str:
    """Returns "absent", "denied", "credentials", or "unreachable" for everything that another attempt may mend."""
    code, text, name = getattr(error, "code", None), str(error), type(error).__name__
    if isinstance(error, FileNotFoundError):
        return "absent"
    if isinstance(error, PermissionError) or text.startswith("Forbidden") or code in (401, 403, "401", "403"):
        return "denied"
    if "Credential" in name or "DefaultCredentials" in text or "locate credentials" in text:
        return "credentials"
    return "unreachable"


def _reason(error: BaseException) -> str:
    """Returns why a store did not do what it was asked, without the libraries' texts about time-outs and codes."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"nothing came within {READ:.0f} s"
    code = getattr(error, "code", None)
    return f"HTTP {code}" if isinstance(code, int) else errors.reason(error)


def _file_system(scheme: str) -> Any:
    """Returns fsspec's file system of a scheme, without its caches of listings."""
    import fsspec

    if scheme == MEMORY:
        return fsspec.filesystem(MEMORY)
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "gs":
        import aiohttp

        options["requests_timeout"] = aiohttp.ClientTimeout(sock_connect=CONNECT, sock_read=READ)
    else:
        retries = {"mode": "standard", "total_max_attempts": REQUESTS}
        options["config_kwargs"] = {"connect_timeout": CONNECT, "read_timeout": READ, "retries": retries}
    files = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        files.retries = 2  # beyond those of botocore: an answer that is cut while it is read
    return files
