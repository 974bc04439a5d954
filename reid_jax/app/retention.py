"""Removes what has expired while the server runs: entries of the gallery, and lines of its log.

Searches leave expired entries out before they are removed, so that the interval is no gap.
"""

from __future__ import annotations

import sys
import threading
import traceback

from reid_jax import errors
from reid_jax.gallery import gallery as gallery_lib

EVERY = 60.0  # seconds
WHO, WHY = "reid_jax server", "retention time is over"


class Sweeper:
    """Sweeps a gallery at once, and again and again until it is stopped.

    Args:
        gallery: opened.
        every: seconds between two sweeps.
    """

    def __init__(self, gallery: gallery_lib.Gallery, every: float = EVERY) -> None:
        self.gallery, self.every = gallery, every
        self._stop = threading.Event()
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Sweeps, and goes on in a thread.

        Raises:
            UserError: the gallery or its log cannot be written; a retention time that is not kept is no retention time.
        """
        self.sweep()
        self._thread.start()

    def sweep(self) -> tuple[int, int]:
        """Returns the numbers of entries and of lines that were removed."""
        return self.gallery.expire(who=WHO, why=WHY)

    def stop(self) -> None:
        """Stops after the sweep that is going on, if any."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            try:
                self.sweep()
                self._said = ""
            except errors.UserError as error:  # another writer, a full disk: the next sweep tries again
                if str(error) != self._said:
                    print(f"retention: {error}", file=sys.stderr)
                self._said = str(error)
            except Exception:
                traceback.print_exc()
