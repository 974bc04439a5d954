"""Download of one file over HTTP: resumed after a cut, compared with its hash, whole or not at all.

Unfinished bytes stay next to the target (`.NAME.part`, with the server's version of the file in `.NAME.part.version`),
so that the next call continues where a cut or a kill ended the last one. A server that has another version of the file
by then sends all of it (`If-Range`).
"""

from __future__ import annotations

import contextlib
import email.message
import fcntl
import hashlib
import http.client
import logging
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import IO, Any

from reid_jax import errors, file_io, progress

LOG = logging.getLogger(__name__)

_BLOCK = 1 << 20
_TIMEOUT = 10.0  # seconds without a byte
_ATTEMPTS = 5
_PAUSE = 1.0  # seconds before the next attempt, doubled with each that brought nothing
_LARGEST = 8 << 30  # bytes; no published backbone comes near
# Answers after which the same request may succeed.
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class TransferError(Exception):
    """A file that cannot be had; the message is a clause that names the server and the reason."""


class _CutError(Exception):
    """The connection ended early; the next attempt continues."""


def fetch(url: str, target: pathlib.Path, *, sha256: str = "", token: str = "") -> None:
    """Downloads a file to a folder that exists. Of several processes that want it, one downloads and the others wait.

    Args:
        url: `http` or `https`; redirects are followed, but not from `https` to `http`.
        target: the file; it appears when it is whole and has the hash.
        sha256: the expected hash or its first digits; a hash that Hugging Face sends with the file is compared as well.
        token: the user's token for this server, "" for none; redirects to other servers go without it.

    Raises:
        TransferError: the server cannot be reached, does not have the file, or sent another one.
        UserError: the file cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    with _opened(part) as file:
        if target.is_file():  # another process was faster
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
            return
        LOG.info("fetching %s from %s", target.name, _host(url))
        transfer = _Transfer(url, part, file, token)
        try:
            published = transfer.run()
            _compare(file, [one for one in (sha256, published) if one], url)
        except (TransferError, errors.UserError):
            transfer.leave()
            raise
        try:
            os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            raise file_io.cannot_write(target, "the weights file", error) from error
    transfer.forget()


class _Transfer:
    """The attempts to complete one unfinished file."""

    def __init__(self, url: str, part: pathlib.Path, file: IO[bytes], token: str = "") -> None:
        self.url, self.part, self.file, self.token = url, part, file, token
        self.version_file = part.with_name(f"{part.name}.version")
        self.published = ""
        self.version = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self.version = self.version_file.read_text(encoding="ascii")[:400]

    def run(self) -> str:
        """Returns the hash that the server sent with the file, "" where it sent none, after the last byte."""
        failures = 0
        while True:
            before = self._size()
            try:
                self._attempt()
                return self.published
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416 and before:
                    self._restart()  # the unfinished bytes are not those of this file
                elif error.code not in _RETRIED:
                    raise TransferError(f"{_host(self.url)} answers {error.code} ({error.reason})") from error
                cause = f"{_host(self.url)} answers {error.code} ({error.reason})"
            except urllib.error.URLError as error:
                cause = f"{_host(self.url)} cannot be reached ({errors.reason(_inner(error))})"
                if not before:
                    raise TransferError(cause) from error
            except (_CutError, OSError, http.client.HTTPException) as error:
                cause = f"{_host(self.url)} ended the transfer ({errors.reason(error)})"
            # An attempt that brought bytes is no failure: a poor line completes a large file in the end.
            failures = 0 if self._size() > before else failures + 1
            if failures >= _ATTEMPTS:
                raise TransferError(cause)
            LOG.info("%s; it continues", cause)
            time.sleep(_PAUSE * 2**failures)

    def leave(self) -> None:
        """Removes an unfinished file from which no later call can continue."""
        if not self._size() or not self.version:
            with contextlib.suppress(OSError):
                self.part.unlink()
            self.forget()

    def forget(self) -> None:
        """Removes the note of the version."""
        with contextlib.suppress(OSError):
            self.version_file.unlink()

    def _attempt(self) -> None:
        """Reads from the server until its end."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "reid_jax", "Accept-Encoding": "identity"})
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        if self._size() and self.version:
            request.add_header("Range", f"bytes={self._size()}-")
            request.add_header("If-Range", self.version)
        redirects = _Redirects()
        with urllib.request.build_opener(redirects).open(request, timeout=_TIMEOUT) as response:
            self.published = _linked_hash(redirects.headers) or _linked_hash(response.headers)
            self._place(response)
            self._read(response)

    def _place(self, response: Any) -> None:
        """Puts the end of the file where the response starts, and notes the version."""
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise TransferError(f"{_host(self.url)} sent a web page in place of the file")
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
        continues = response.status == 206 and start is not None and int(start[1]) == self._size()
        if response.status == 206 and not continues:
            self._restart()
            raise _CutError("another part than the one asked for")
        if not continues:
            self._restart()
        version = response.headers.get("ETag") or ""
        if version and not version.startswith("W/") and version.isascii() and version != self.version:
            file_io.write_text(self.version_file, version, "the note of a download")
            self.version = version

    def _read(self, response: Any) -> None:
        length = response.headers.get("Content-Length")
        total = self._size() + int(length) if length and length.isdigit() else None
        if total is not None and total > _LARGEST:
            raise TransferError(f"{_host(self.url)} offers {total:,} bytes, more than any published weights")
        name = self.part.name.removeprefix(".").removesuffix(".part")
        with progress.bar(name[:40], total, "B", initial=self._size()) as advance:
            while block := response.read(_BLOCK):
                self._write(block)
                advance(len(block))
                if self._size() > _LARGEST:
                    raise TransferError(f"{_host(self.url)} sends more than any published weights")
        if total is not None and self._size() < total:
            raise _CutError(f"{self._size():,} of {total:,} bytes came")

    def _write(self, block: bytes) -> None:
        """Appends to the file; what the disk refuses is no failure of the network."""
        try:
            self.file.write(block)
            self.file.flush()
        except OSError as error:
            raise file_io.cannot_write(self.part, "the weights file", error) from error

    def _size(self) -> int:
        return self.file.seek(0, os.SEEK_END)

    def _restart(self) -> None:
        self.file.truncate(0)
        self.version = ""
        self.forget()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the headers of redirects, and refuses to leave an encrypted connection."""

    def __init__(self) -> None:
        self.headers: email.message.Message = email.message.Message()

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Returns the request to the new place."""
        if headers.get("X-Linked-Etag"):
            self.headers = headers
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise TransferError(f"{_host(req.full_url)} leads to an unencrypted connection")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _inner(error: urllib.error.URLError) -> BaseException:
    """Returns the system's own error."""
    return error.reason if isinstance(error.reason, BaseException) else error


@contextlib.contextmanager
def _opened(part: pathlib.Path) -> Iterator[IO[bytes]]:
    """Opens the unfinished file for this process alone; waits while another process downloads."""
    while True:
        try:
            file = part.open("a+b")
        except OSError as error:
            raise file_io.cannot_write(part, "the weights file", error) from error
        with file:
            # A file system without locks (some network ones) has one process at a time or none to wait for.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is(part, file):
                yield file
                return
        # The other process has completed and renamed the file that was waited for.


def _is(path: pathlib.Path, file: IO[bytes]) -> bool:
    """Returns whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _compare(file: IO[bytes], expected: list[str], url: str) -> None:
    """Raises a `TransferError` and empties the file if it has another hash."""
    if not expected:
        return
    file.seek(0)
    got = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a binary file is enough
    for hash_ in expected:
        if not got.startswith(hash_):
            file.truncate(0)
            raise TransferError(
                f"{_host(url)} sent another file than the published one (sha256 starts with {got[: len(hash_)][:16]}, "
                f"expected {hash_[:16]})"
            )


def _linked_hash(headers: email.message.Message) -> str:
    """Returns the SHA-256 that Hugging Face sends with large files, "" for other headers."""
    tag = (headers.get("X-Linked-Etag") or "").strip('"').lower()
    return tag if re.fullmatch(r"[0-9a-f]{64}", tag) else ""


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc or url
