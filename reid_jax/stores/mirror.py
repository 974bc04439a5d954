"""A run folder in a store, and its copy on this machine.

Everything that writes a run folder writes the copy, a scratch folder; this module brings it to the store:

    config.json, result.json and the like      as they are written (within `bucket_lock.RENEWAL` seconds)
    metrics.jsonl, log.txt                     what was appended, as `parts/<file>/<first byte>`, every
                                               `bucket_lock.RENEWAL` seconds; joined to one object when a run starts or
                                               ends, and after `MOST_PARTS` parts
    everything else (pages, events, profiles)  with every checkpoint and at the end
    checkpoints/                               `train.checkpoint_store`

The store is what counts: a start takes nothing from the disk of an earlier one. Only process 0 of a run writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import threading
from collections.abc import Iterator

from reid_jax import file_io
from reid_jax.stores import bucket_lock, local_copies, objects

LOG = logging.getLogger(__name__)

# Removed in the store as well; the last one marks a complete run.
KEPT = ("config.json", "extended.json", "devices.json", "result.json")
APPENDED = ("metrics.jsonl", "log.txt")
CHECKPOINTS, PARTS = "checkpoints", "parts"
MOST_PARTS = 50

_opened: dict[str, Mirror] = {}


def opened(url: str) -> Mirror:
    """Returns the mirror of a run folder, one per URL and process.

    Raises:
        StoreError: the store cannot be read.
    """
    objects.check(url, "--workdir")
    url = url.rstrip("/")
    if url not in _opened:
        _opened[url] = Mirror(url)
    return _opened[url]


@dataclasses.dataclass
class _Growing:
    """What the store has of a file that is appended to: its first `size` bytes; `inode` is 0 before the first push."""

    size: int = 0
    inode: int = 0
    parts: list[str] = dataclasses.field(default_factory=list)


class Mirror:
    """The copy of a run folder.

    Args:
        url: "gs://bucket/run", without a slash at its end.

    Attributes:
        path: the folder of the copy; its last part is that of the URL.
        writes: whether this process holds the lock and brings the copy to the store.

    Raises:
        StoreError: the store cannot be read.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = objects.Store(url)
        self.path = local_copies.scratch(url.rpartition("/")[2])
        self.writes = False
        self.reads_checkpoints = True
        self._listing: dict[str, objects.Entry] = {}
        self._versions: dict[str, str] = {}
        self._pushed: dict[str, tuple[int, int]] = {}
        self._growing = {name: _Growing() for name in APPENDED}
        self._busy = threading.RLock()
        self._lock: bucket_lock.Lock | None = None
        self.pull()

    # ---- from the store ----------------------------------------------------------------------------------------------

    def pull(self) -> None:
        """Brings config and result of the store to the copy, where they changed. One listing."""
        self._listing = self.store.listing()
        for name in KEPT:
            entry, path = self._listing.get(name), self.path / name
            if entry is None:
                path.unlink(missing_ok=True)
            elif self._versions.get(name) != entry.version or not path.is_file():
                file_io.write_bytes(path, self.store.read(name))
                self._versions[name] = entry.version
                self._pushed[name] = _state(path)

    def join(self) -> None:
        """Brings metrics and log of the store to the copy."""
        for name in APPENDED:
            head = f"{PARTS}/{name}/"
            parts = sorted(part for part in self._listing if part.startswith(head))
            content = self.store.read(name) if name in self._listing else b""
            for part in parts:
                first = part.removeprefix(head)
                if first.isdigit() and int(first) == len(content):  # an earlier one is in the object already
                    content += self.store.read(part)
            if content or parts:
                file_io.write_bytes(self.path / name, content)
            self._growing[name] = _Growing(len(content) if not parts else 0, 0, parts)

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints of the last listing, ascending."""
        names = (name.split("/") for name in self._listing)
        return sorted(
            int(parts[1])
            for parts in names
            if len(parts) == 3 and parts[0] == CHECKPOINTS and parts[1].isdigit() and parts[2] == "files.json"
        )

    def is_new(self) -> bool:
        """Returns whether the store had nothing of a run at the last listing."""
        return not set(self._listing) - {bucket_lock.FILE}

    # ---- to the store ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the lock and brings the copy to the store until the block ends, then all that is left of it.

        Raises:
            StoreError: another run has the folder, or the store cannot be written.
        """
        self._lock = bucket_lock.Lock(self.store)
        self._lock.acquire()
        stop = threading.Event()
        thread = threading.Thread(target=self._renew, args=(stop,), name="run folder in a store", daemon=True)
        try:
            self.pull()
            self.join()
            self.writes = True
            thread.start()
            yield
            self.push(all_files=True, whole=True)
        except BaseException:
            if self.writes:
                with contextlib.suppress(objects.StoreError):
                    self.push(all_files=True)
            raise
        finally:
            self.writes = False
            stop.set()
            if thread.ident is not None:
                thread.join()
            with contextlib.suppress(objects.StoreError):
                self._lock.release()
            _opened.pop(self.url, None)

    def push(self, *, all_files: bool = False, whole: bool = False) -> None:
        """Brings what changed to the store; `result.json` last, because it marks a complete run.

        Args:
            all_files: also pages, TensorBoard events and profiles.
            whole: also join what was appended to one object.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._busy:
            if not self.writes:
                return
            for name in APPENDED:
                self._push_appended(name, whole)
            paths = [self.path / name for name in KEPT[:-1]]
            if all_files:
                paths += [path for path in sorted(self.path.rglob("*")) if self._is_other(path)]
            for path in (*paths, self.path / KEPT[-1]):
                name = path.relative_to(self.path).as_posix()
                if not path.is_file():
                    if name in KEPT and name in self._pushed:
                        self.store.remove([name])
                        del self._pushed[name]
                elif self._pushed.get(name) != (state := _state(path)):
                    self.store.upload(path, name)
                    self._pushed[name] = state

    def before_commit(self) -> None:
        """Brings everything else to the store before a checkpoint counts, and checks the lock.

        Raises:
            StoreError: the lock was lost, or the store cannot be written.
        """
        self.push(all_files=True)
        if self._lock is not None:
            self._lock.check()

    def discard(self) -> None:
        """Removes from the store what this run has put there, for one that ended before its first step."""
        with self._busy:
            self.writes = False
            names = [*self._pushed, *APPENDED, *(part for one in self._growing.values() for part in one.parts)]
            self.store.remove(names)

    def _is_other(self, path: pathlib.Path) -> bool:
        first = path.relative_to(self.path).parts[0]
        hidden = any(part.startswith(".") for part in path.relative_to(self.path).parts)
        return not hidden and first not in (*KEPT, *APPENDED, CHECKPOINTS) and path.is_file()

    def _push_appended(self, name: str, whole: bool) -> None:
        """Brings the new bytes of one file to the store, or the whole file where it was rewritten."""
        path, known = self.path / name, self._growing[name]
        if not path.is_file():
            return
        status = path.stat()
        rewritten = status.st_ino != known.inode or status.st_size < known.size
        if rewritten or len(known.parts) >= MOST_PARTS or (whole and (known.parts or status.st_size > known.size)):
            content = path.read_bytes()
            if content or known.parts or known.size:
                self.store.write(name, content)
            self.store.remove(known.parts)
            self._growing[name] = _Growing(len(content), status.st_ino)
        elif status.st_size > known.size:
            with path.open("rb") as file:
                file.seek(known.size)
                content = file.read()
            part = f"{PARTS}/{name}/{known.size:015d}"
            self.store.write(part, content)
            known.parts.append(part)
            known.size += len(content)

    def _renew(self, stop: threading.Event) -> None:
        """Renews the lock and brings metrics and log to the store; what fails is tried again the next time."""
        while not stop.wait(bucket_lock.RENEWAL):
            try:
                assert self._lock is not None
                self._lock.renew()
                self.push()
            except objects.StoreError as error:
                LOG.warning("%s", error)


def _state(path: pathlib.Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
