"""What runs of several seeds say of a difference: its interval, corrected for the number of differences in a table.

A row is called a gain over another only where the interval of the paired differences excludes zero. A table quotes many
differences, and some exclude zero by chance, so their intervals are widened by Holm's step-down procedure.

Only the standard library is imported, so that the pages of the documentation use the same functions.

References:
    S. Holm: A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics 6, 1979.
    M. Abramowitz, I. Stegun: Handbook of Mathematical Functions, 26.7.3 and 26.7.4 (Student's distribution).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence

ALPHA = 0.05
RUNS = 5  # fewer say nothing: with two, an interval of 95 % is 13 standard errors wide to each side

GAIN, LOSS, OPEN, FEW = "gain", "loss", "no effect seen", f"fewer than {RUNS} runs"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two rows over paired runs, in the unit of its samples.

    Attributes:
        runs: number of pairs.
        mean: mean difference; NaN without a pair.
        low: lower end of the interval; None for fewer than the least number of runs.
        high: upper end; None as well.
        p: two-sided p-value of a zero mean, not corrected; None as well.
        level: error probability of the interval after the correction.
        verdict: `GAIN`, `LOSS`, `OPEN` or `FEW`.
    """

    runs: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    level: float
    verdict: str


def student_tail(t: float, freedom: int) -> float:
    """Returns the probability that |T| exceeds |t|, for T of Student's distribution.

    Args:
        t: the statistic; infinity is allowed.
        freedom: degrees of freedom, at least 1.
    """
    if math.isinf(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    inside = (2 / math.pi) * (angle + sine * total) if odd else sine * total
    return min(max(1.0 - inside, 0.0), 1.0)


def student_quantile(tail: float, freedom: int) -> float:
    """Returns the t that |T| exceeds with probability `tail` in (0, 1), by bisection."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > tail:
        high *= 2.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if student_tail(middle, freedom) > tail else (low, middle)
    return 0.5 * (low + high)


def p_value(samples: Sequence[float]) -> float:
    """Returns the two-sided p-value of the hypothesis that paired differences have mean zero (t-test).

    Equal differences other than zero have p-value 0, zeros have 1.
    """
    mean, deviation = statistics.fmean(samples), statistics.stdev(samples)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return student_tail(mean / (deviation / math.sqrt(len(samples))), len(samples) - 1)


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """Returns the level at which each hypothesis is tested, so that one false rejection in all has probability alpha.

    The smallest of m p-values is tested at alpha/m, the next at alpha/(m-1), and so on; all after the first that is not
    rejected are tested at its level, and are not rejected either. So a hypothesis is rejected exactly if its p-value is
    below its level.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    levels = [alpha] * len(p_values)
    step = 0
    for rank, index in enumerate(order):
        levels[index] = alpha / (len(p_values) - step)
        if step == rank and p_values[index] < levels[index]:
            step += 1
    return levels


def differences(
    samples: Mapping[Hashable, Sequence[float]], alpha: float = ALPHA, least: int = RUNS
) -> dict[Hashable, Difference]:
    """Returns the difference of each entry of a table, with intervals that hold together.

    Args:
        samples: paired differences of the runs, by the key of the entry.
        alpha: probability that any interval of the table misses its mean, where all true means are zero.
        least: entries of fewer runs have no interval and no verdict, and do not count in the correction.
    """
    tested = [key for key, values in samples.items() if len(values) >= least]
    p_values = {key: p_value(samples[key]) for key in tested}
    levels = dict(zip(tested, holm_levels(list(p_values.values()), alpha)))
    return {
        key: _difference(values, p_values[key], levels[key]) if key in levels else _few(values, alpha)
        for key, values in samples.items()
    }


def _few(values: Sequence[float], alpha: float) -> Difference:
    mean = statistics.fmean(values) if values else math.nan
    return Difference(len(values), mean, None, None, None, alpha, FEW)


def _difference(values: Sequence[float], p: float, level: float) -> Difference:
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = student_quantile(level, len(values) - 1) * error
    verdict = OPEN if p >= level else GAIN if mean > 0 else LOSS
    return Difference(len(values), mean, mean - half, mean + half, p, level, verdict)
