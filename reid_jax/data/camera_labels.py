"""Cameras as they are counted in the names of the images ("0002_c1s1_000451_03.jpg": camera 1), for what people read.

Inside, cameras are counted from 0 without gaps; file names start at 1 or leave numbers out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

UNKNOWN = "unknown"

# 0002_c1s1_000451_03.jpg, cam02, camera_2, between separators; 0000_000_01_0303morning_0008_0.jpg of MSMT17.
_PATTERNS = (
    re.compile(r"(?:^|[_\-. ])(?:c|cam(?:era)?[_\-]?)(\d{1,6})(?:s\d+)?(?=[_\-. ]|$)", re.IGNORECASE),
    re.compile(r"^\d{4}_\d{3}_(\d\d)_\d{4}(?:morning|noon|afternoon)_"),
)


def of(names: Sequence[str], cameras: np.ndarray) -> dict[int, str]:
    """Returns a label for each camera: the number in the file names where they agree on one, else the number inside.

    Args:
        names: N names or paths of images.
        cameras: int [N], counted from 0; -1 is unknown.

    Returns:
        Labels by camera, for instance {0: "1", 1: "2", -1: "unknown"}.
    """
    labels = {int(camera): str(camera) for camera in np.unique(cameras) if camera >= 0}
    known = [(name.rpartition("/")[2], int(camera)) for name, camera in zip(names, cameras, strict=True) if camera >= 0]
    for pattern in _PATTERNS:
        numbers = _numbers(pattern, known)
        if numbers:
            labels = {camera: str(number) for camera, number in numbers.items()}
            break
    return {**labels, **{int(camera): UNKNOWN for camera in np.unique(cameras) if camera < 0}}


def _numbers(pattern: re.Pattern[str], known: Sequence[tuple[str, int]]) -> Mapping[int, int]:
    """Returns the number of each camera in the names, empty where a name has none or two names disagree."""
    numbers: dict[int, int] = {}
    for name, camera in known:
        found = {int(number) for number in pattern.findall(name)}
        if len(found) != 1 or numbers.setdefault(camera, *found) not in found:
            return {}
    return numbers if len(set(numbers.values())) == len(numbers) else {}
