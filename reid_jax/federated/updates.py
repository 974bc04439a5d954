"""What a client of a federation sends after a round: its checks, and the average of what passes them.

Nothing that comes from a client is trusted: names, shapes, and types are those of the server's model, read from the
header of each array before memory is given for it; all numbers are finite, and the number of images makes sense.
Nothing is unpickled, and no text of a client is used as the name of a file. Weights that are plausible but wrong cannot
be found this way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import array_files, errors

# More images than the largest data sets of persons have (about 5 million).
MOST_IMAGES = 10_000_000
# Weights of a network lie far below it; an average of such values stays finite, and so do their squares.
LARGEST_VALUE = 1e9
# A client may report so many metrics; their names are printed.
MOST_METRICS = 100
_METRIC = re.compile(r"[\w./-]{1,80}", re.ASCII)

SAME_CONFIG = "give all nodes of the federation the same config."
SAME_VERSION = "give all nodes of the federation the same version of this package."


@dataclasses.dataclass(frozen=True)
class Update:
    """What a client sends after a round.

    Attributes:
        theta: trained arrays by path.
        weight: weight in the average before normalization, the client's number of images.
        metrics: metrics of its training by name.
    """

    theta: Mapping[str, np.ndarray]
    weight: float
    metrics: Mapping[str, float]


def read_arrays(
    serialized: Mapping[str, bytes | memoryview], expected: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Returns arrays from their serialized form (`.npy`).

    Args:
        serialized: content by path.
        expected: shapes and types by path, which the headers must have; None accepts any.

    Raises:
        UserError: arrays that are not those expected, that hold Python objects, or that cannot be read.
    """
    if expected is not None:
        check_fit(dict.fromkeys(serialized), expected)
    found = {}
    for path, content in serialized.items():
        try:
            found[path] = array_files.parse_npy(bytes(content))
        except Exception as error:
            raise errors.UserError(
                f"expected a NumPy array at {_shown(path)}, what was received cannot be read ({errors.fault(error)}); "
                f"{SAME_VERSION}"
            ) from error
    if expected is not None:
        check_theta(found, expected)
    return found


def check_theta(given: Mapping[str, np.ndarray], expected: Mapping[str, Any]) -> None:
    """Checks arrays that came over the network.

    Args:
        given: arrays by path.
        expected: arrays or shapes of this node's model by path.

    Raises:
        UserError: an array is missing, too many, of another shape or type, or has numbers that are not finite or
            beyond `LARGEST_VALUE`.
    """
    check_fit(given, expected)
    for path, array in given.items():
        if array.dtype != expected[path].dtype:
            raise errors.UserError(
                f"expected the arrays of this node's model, but {path} is {expected[path].dtype} here and was received "
                f"as {str(array.dtype)[:40]}; {SAME_CONFIG}"
            )
        # NaN, too, is not below.
        if array.size and not float(np.max(np.abs(array))) <= LARGEST_VALUE:
            raise errors.UserError(
                f"expected finite numbers up to {LARGEST_VALUE:.0e}, but {path} was received with others; lower the "
                "learning rate of that client, or exclude it."
            )


def check_fit(given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Checks names and shapes of arrays that came from elsewhere.

    Args:
        given: arrays by path; None for one whose shape is not known yet.
        expected: arrays or shapes by path.

    Raises:
        UserError: the first difference.
    """
    for path in sorted({*given, *expected}):
        here = tuple(expected[path].shape) if path in expected else None
        received = None if path not in given else here if given[path] is None else tuple(given[path].shape)
        if here != received or here is None:
            came = "an array" if path in given and given[path] is None else received
            raise errors.UserError(
                f"expected the arrays of this node's model, but {_shown(path)} is {here} here and was received as "
                f"{str(came)[:80]}; {SAME_CONFIG}"
            )


def check_weight(given: object, most: float = MOST_IMAGES) -> float:
    """Returns a claimed number of images.

    Args:
        given: the claim.
        most: the largest that is believed.

    Raises:
        UserError: no number, or none above 0 and up to `most`.
    """
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise errors.UserError(f"expected a number of images, got {type(given).__name__}; {SAME_VERSION}")
    if not 0 < given <= most:  # nor is NaN
        raise errors.UserError(
            f"expected a number of images above 0 and up to {most:,.0f}, got {str(given)[:24]}; check that client's "
            "data, or exclude it."
        )
    return float(given)


def known_metrics(given: Mapping[str, object]) -> dict[str, float]:
    """Returns those metrics of a client that are single finite numbers with a plain name, at most `MOST_METRICS`."""
    named = [(str(name), value) for name, value in given.items() if _METRIC.fullmatch(str(name))]
    usable = [
        (name, float(value))
        for name, value in sorted(named, key=lambda pair: pair[0])
        if isinstance(value, (int, float)) and -1e300 < value < 1e300  # nor is NaN
    ]
    return dict(usable[:MOST_METRICS])


def average(updates: Sequence[Update]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Returns the weighted average of theta, and that of the metrics that all clients report.

    The sums are taken in float64 and in an order that depends on the content alone, so that the result is the same to
    the last bit whichever client answers first.

    Args:
        updates: at least one, of the same model.
    """
    ordered = sorted(updates, key=_digest)
    total = sum(update.weight for update in ordered)
    theta = {}
    for path, first in ordered[0].theta.items():
        mean = sum(update.weight / total * update.theta[path].astype(np.float64) for update in ordered)
        theta[path] = np.asarray(mean, first.dtype).reshape(first.shape)
    shared = set.intersection(*(set(update.metrics) for update in ordered))
    metrics = {name: sum(each.weight / total * each.metrics[name] for each in ordered) for name in sorted(shared)}
    return theta, metrics


def _digest(update: Update) -> tuple[float, bytes]:
    content = hashlib.sha256()
    for path in sorted(update.theta):
        content.update(np.ascontiguousarray(update.theta[path]).tobytes())
    return update.weight, content.digest()


def _shown(path: object) -> str:
    """Returns a name that a client may have chosen, for a message."""
    return repr(str(path)[:100])
