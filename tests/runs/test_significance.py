"""Intervals of differences: Student's distribution, Holm's procedure, verdicts that follow from the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reid_jax.runs import significance


def test_students_distribution_agrees_with_scipy():
    for freedom in (1, 2, 3, 4, 5, 9, 10, 29):
        for t in (0.0, 0.3, 1.0, 2.776, 12.0):
            assert significance.student_tail(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=1e-12)
            assert significance.student_tail(-t, freedom) == significance.student_tail(t, freedom)
        for tail in (0.5, 0.05, 0.05 / 12, 1e-6):
            quantile = significance.student_quantile(tail, freedom)
            assert quantile == pytest.approx(stats.t.isf(tail / 2, freedom), rel=1e-6)
    assert significance.student_tail(math.inf, 4) == 0.0


def test_holm_steps_down_until_the_first_that_is_kept():
    # 0.01 < 0.05/4; 0.02 >= 0.05/3 is kept, and so is everything after it.
    assert significance.holm_levels([0.03, 0.01, 0.02, 0.6]) == pytest.approx([0.05 / 3, 0.05 / 4, 0.05 / 3, 0.05 / 3])
    assert significance.holm_levels([0.04]) == [0.05]
    assert significance.holm_levels([0.001, 0.002, 0.003]) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    assert significance.holm_levels([]) == []


def test_a_verdict_is_that_of_its_interval():
    rng = np.random.default_rng(0)
    samples = {number: (rng.normal(size=5) + number).tolist() for number in range(-6, 7)}
    found = significance.differences(samples)
    for number, difference in found.items():
        assert difference.mean == pytest.approx(np.mean(samples[number]))
        assert difference.p == pytest.approx(stats.ttest_1samp(samples[number], 0.0).pvalue, abs=1e-12)
        excludes = not difference.low <= 0 <= difference.high
        assert (difference.verdict != significance.OPEN) == excludes
        assert difference.verdict != significance.GAIN or difference.low > 0
        assert difference.verdict != significance.LOSS or difference.high < 0
    assert {each.verdict for each in found.values()} == {significance.GAIN, significance.LOSS, significance.OPEN}
    # Each interval is the ordinary one or wider.
    alone = significance.differences({3: samples[3]})[3]
    assert alone.level == 0.05
    assert found[3].low <= alone.low


def test_few_runs_say_nothing_and_cost_nothing():
    clear = [1.0, 1.1, 0.9, 1.0, 1.05]
    found = significance.differences({"few": clear[:4], "none": [], "enough": clear})
    assert found["few"].verdict == found["none"].verdict == significance.FEW == "fewer than 5 runs"
    assert (found["few"].low, found["few"].high, found["few"].p) == (None, None, None)
    assert found["few"].mean == pytest.approx(1.0)
    assert math.isnan(found["none"].mean)
    assert (found["enough"].verdict, found["enough"].level) == (significance.GAIN, 0.05)


def test_equal_differences():
    found = significance.differences({"same": [2.0] * 5, "zero": [0.0] * 5})
    assert (found["same"].low, found["same"].high, found["same"].verdict) == (2.0, 2.0, significance.GAIN)
    assert (found["zero"].p, found["zero"].verdict) == (1.0, significance.OPEN)


def test_one_false_gain_in_a_table_is_as_rare_as_promised():
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        table = {row: rng.normal(size=5).tolist() for row in range(6)}
        wrong += any(each.verdict != significance.OPEN for each in significance.differences(table).values())
    assert wrong / 300 < 0.09  # 0.05 and three standard deviations
