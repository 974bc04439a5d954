"""A lock on a run folder in a store: an object that only one process can create, and renews while it runs.

The store's precondition on the put decides who has it. An owner that was killed leaves the object behind. On the same
host its process tells; otherwise the newcomer watches the object for `WATCH` seconds and takes it over if it has not
been renewed, which asks nothing of any clock. An owner that lost its lock in this way, for example after a night
without network, finds out before it makes a checkpoint count, and stops.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from typing import Any

from reid_jax import file_io
from reid_jax.stores import objects

LOG = logging.getLogger(__name__)

FILE = ".lock"
RENEWAL = 30.0  # seconds
WATCH = 100.0
LOOK = 5.0  # seconds between two looks at a lock that may be stale


class Lock:
    """The lock of one store; `acquire`, then `renew` every `RENEWAL` seconds."""

    def __init__(self, store: objects.Store) -> None:
        self._store = store
        self._token = secrets.token_hex(8)
        self._since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._renewals = 0

    def acquire(self) -> None:
        """Creates the object, after taking over one whose owner is gone.

        Raises:
            StoreError: another run has it, or the store cannot be written.
        """
        while not self._store.create(FILE, self._content()):
            found = self._store.read(FILE, b"")
            owner = _parsed(found)
            if not found:
                continue
            if not self._is_gone(found, owner):
                raise objects.StoreError(
                    f"{_whose(owner)}: {self._store.url}; wait until that run ends, or give another --workdir."
                )
            LOG.warning("%s, which is gone; taking its lock over.", _whose(owner))
            self._store.remove([FILE])

    def renew(self) -> None:
        """Says that this process still runs.

        Raises:
            StoreError: the lock is another's by now, or the store does not answer.
        """
        self.check()
        self._renewals += 1
        self._store.write(FILE, self._content())

    def check(self) -> None:
        """Checks that the lock is still this process's.

        Raises:
            StoreError: it is not.
        """
        owner = _parsed(self._store.read(FILE, b""))
        if owner.get("token") != self._token:
            whose = f"; now {_whose(owner)}" if owner else ""
            raise objects.StoreError(
                f"expected the lock of {self._store.url} to be this run's, it was removed or taken over while the "
                f"store was out of reach{whose}; start the same command again when no other run is in that folder."
            )

    def release(self) -> None:
        """Removes the object if it is this process's."""
        if _parsed(self._store.read(FILE, b"")).get("token") == self._token:
            self._store.remove([FILE])

    def _content(self) -> bytes:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": self._since}
        return json.dumps(about | {"token": self._token, "renewals": self._renewals}).encode()

    def _is_gone(self, found: bytes, owner: dict[str, Any]) -> bool:
        if owner.get("host") == socket.gethostname():
            return not _runs(owner.get("pid"))
        LOG.warning("%s; waiting %.0f s to see whether it still is.", _whose(owner), WATCH)
        end = time.monotonic() + WATCH
        while time.monotonic() < end:
            time.sleep(min(LOOK, WATCH / 5))
            if self._store.read(FILE, b"") != found:
                return False
        return True


def _runs(pid: Any) -> bool:
    """Returns whether another process of this host has a number."""
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _whose(owner: dict[str, Any]) -> str:
    pid, host, since = (file_io.shown(str(owner.get(key, "?"))[:64]) for key in ("pid", "host", "since"))
    return f"the run folder is in use by process {pid} on {host} since {since}"
