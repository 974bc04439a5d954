"""What a gallery holds of an image, and the filters of a search."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io

LONGEST_TEXT = 1000  # characters of a name
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclasses.dataclass(frozen=True)
class Entry:
    """An image of the gallery without its vector.

    Attributes:
        id: number that is never used again, also after the entry is removed.
        file: name, unique in the gallery.
        identity: name of the person, None where nobody has said.
        camera: name of the camera, None where unknown.
        time: when the image was taken, in seconds since 1970 (UTC), None where unknown.
        track: name of the track, images of one person in a row; None where there is none.
        added: when the entry was added, in seconds since 1970.
        expires: when it leaves the gallery, in seconds since 1970, None for never.
        folder: where the original image lay, None where there is none.
    """

    id: int
    file: str
    identity: str | None = None
    camera: str | None = None
    time: float | None = None
    track: str | None = None
    added: float = 0.0
    expires: float | None = None
    folder: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the entry as JSON values, times as ISO 8601."""
        values = dataclasses.asdict(self)
        return {**values, **{key: iso(values[key]) for key in ("time", "added", "expires")}}


@dataclasses.dataclass(frozen=True)
class Entries:
    """Images to be added.

    Attributes:
        files: N names.
        features: [N, D] or [N, S, D] float32.
        visibility: [N, S] float32 in [0, 1], None for plain vectors and where every slot counts.
        identities: N names of people, or empty for none.
        cameras: N names of cameras, or empty.
        times: N times in seconds since 1970, or empty.
        tracks: N names of tracks, or empty.
        thumbnails: N small encoded images (WebP, JPEG, PNG), or empty.
        folder: where the original images lie.
    """

    files: Sequence[str]
    features: np.ndarray
    visibility: np.ndarray | None = None
    identities: Sequence[str | None] = ()
    cameras: Sequence[str | None] = ()
    times: Sequence[float | None] = ()
    tracks: Sequence[str | None] = ()
    thumbnails: Sequence[bytes | None] = ()
    folder: str | None = None

    def __post_init__(self) -> None:
        count = len(self.files)
        if len(self.features) != count:
            raise errors.UserError(
                f"expected one feature row per image, got {len(self.features)} for {count}; give both from one list."
            )
        for name in ("identities", "cameras", "times", "tracks", "thumbnails"):
            values = tuple(getattr(self, name))
            if values and len(values) != count:
                raise errors.UserError(
                    f"expected {name} for {count} images, got {len(values)}; give one for each, or none at all."
                )
            values = values or (None,) * count
            if name not in ("times", "thumbnails"):
                values = tuple(_text(value, name) for value in values)
            object.__setattr__(self, name, values)
        object.__setattr__(self, "files", tuple(_text(file, "files") or "" for file in self.files))
        if not all(self.files):
            raise errors.UserError("expected a name for every image, one is empty; name it.")
        for time in self.times:
            if time is not None and not math.isfinite(time):
                raise errors.UserError(f"expected times in seconds since 1970, got {time}; give None where unknown.")

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Sequence[int]) -> Entries:
        """Returns some of the images."""
        index = np.asarray(rows, np.int64)
        labels = ("files", "identities", "cameras", "times", "tracks", "thumbnails")
        picked: dict[str, Any] = {name: tuple(getattr(self, name)[row] for row in index) for name in labels}
        visibility = None if self.visibility is None else self.visibility[index]
        return dataclasses.replace(self, features=self.features[index], visibility=visibility, **picked)


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which entries a search looks at; all conditions must hold.

    Attributes:
        cameras: names of cameras; empty for all. Images of an unknown camera are left out where any is named.
        other_than: names of cameras whose images are left out; those of an unknown camera stay.
        since: earliest time, in seconds since 1970; images of an unknown time are left out.
        until: latest time.
        known: True for entries with an identity only, False for those without, None for all.
        identities: names of people; empty for all.
        leave_out: ids of entries, such as the query itself.
    """

    cameras: tuple[str, ...] = ()
    other_than: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    known: bool | None = None
    identities: tuple[str, ...] = ()
    leave_out: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns the conditions that are set, as JSON values."""
        values = dataclasses.asdict(self)
        values |= {key: iso(values[key]) for key in ("since", "until")}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v not in (None, ())}

    def text(self) -> str:
        """Returns the conditions in words, "" where there is none."""
        parts = []
        if self.cameras:
            parts.append(f"camera {_listed(self.cameras)}")
        if self.other_than:
            parts.append(f"a camera other than {_listed(self.other_than)}")
        if self.since is not None:
            parts.append(f"since {iso(self.since)}")
        if self.until is not None:
            parts.append(f"until {iso(self.until)}")
        if self.known is not None:
            parts.append("with an identity" if self.known else "without an identity")
        if self.identities:
            parts.append(f"identity {_listed(self.identities)}")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which entries to remove: exactly one condition, or a window of time.

    Attributes:
        files: names of files.
        identities: names of people.
        tracks: names of tracks.
        since: earliest time, in seconds since 1970.
        until: latest time.
        ids: numbers of entries.
    """

    files: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    tracks: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        window = self.since is not None or self.until is not None
        if sum(map(bool, (self.files, self.identities, self.tracks, self.ids, window))) != 1:
            raise errors.UserError(
                "expected one way to choose what is removed: files, identities, tracks, ids, or a window of time."
            )

    def text(self) -> str:
        """Returns the choice in words."""
        for name in ("files", "identities", "tracks", "ids"):
            if values := getattr(self, name):
                kind = {"files": "file", "identities": "identity", "tracks": "track", "ids": "entry"}[name]
                return f"{kind} {_listed(values)}"
        window = [f"since {iso(self.since)}"] * (self.since is not None)
        return "taken " + " ".join([*window, *[f"until {iso(self.until)}"] * (self.until is not None)])


def _listed(values: Sequence[object]) -> str:
    shown = [file_io.shown(str(value))[:80] for value in values[:5]]
    return ", ".join(shown) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _text(value: Any, name: str) -> str | None:
    """Returns a name as text; empty ones are none."""
    if value is None or value == "":
        return None
    text = str(value)
    if len(text) > LONGEST_TEXT or "\0" in text:
        raise errors.UserError(
            f"expected {name} of at most {LONGEST_TEXT} characters without zero bytes, got {text[:60]!r}."
        )
    return text.encode("utf-8", "replace").decode("utf-8")


def iso(seconds: float | None) -> str | None:
    """Returns a time as ISO 8601 in UTC, None for None.

    >>> iso(0.0)
    '1970-01-01T00:00:00Z'
    """
    if seconds is None:
        return None
    try:
        date = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return str(seconds)
    return date.isoformat(timespec="milliseconds" if date.microsecond else "seconds").replace("+00:00", "Z")


def parse_time(text: str, what: str = "a time") -> float:
    """Returns seconds since 1970 of a date, a date with time (ISO 8601; UTC where no zone is given), or seconds.

    >>> parse_time("1970-01-02"), parse_time("1970-01-01T01:00+01:00"), parse_time("12.5")
    (86400.0, 0.0, 12.5)

    Raises:
        UserError: other text.
    """
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text.strip()):
        return float(text)
    try:
        date = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise errors.UserError(
            f"expected {what} such as 2026-11-28T10:30 (UTC) or seconds since 1970, got {text[:60]!r}."
        ) from None
    return (date if date.tzinfo else date.replace(tzinfo=datetime.UTC)).timestamp()


def parse_span(text: str) -> float | None:
    """Returns a span of time in seconds: a number with s, m, h or d; None for "forever".

    >>> parse_span("30d"), parse_span("forever")
    (2592000.0, None)

    Raises:
        UserError: other text.
    """
    if text == "forever":
        return None
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if not found or not int(found[1]):
        raise errors.UserError(f"expected a span of time such as 72h, 30d, or forever, got {text[:60]!r}.")
    return float(int(found[1]) * _UNITS[found[2]])
