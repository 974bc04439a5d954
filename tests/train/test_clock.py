"""Checkpoints by the clock: at the interval asked for, whatever the steps take."""

import itertools

import pytest

from reid_jax.train import clock as clock_lib


@pytest.mark.parametrize("log", [0, 20], ids=["plans at checkpoints", "plans at log lines as well"])
def test_intervals_follow_the_pace_of_the_steps(log: int):
    time, saved = [0.0], []
    clock = clock_lib.Clock(1.0, lambda: time[0])
    for step in range(1, 901):
        time[0] += 30.0 if step == 1 else 0.5 if step <= 500 else 1.0  # compilation; then slower from step 500 on
        if clock.due(step):
            saved.append((step, time[0]))
            clock.saved(step)
        elif log and step % log == 0:
            clock.plan(step)
    times = [0.0, *(seconds for _, seconds in saved)]
    gaps = [later - before for before, later in itertools.pairwise(times)]
    # Where the pace changed an interval is longer; with log lines by less than the time between two of them.
    slack = 20 if log else 60
    assert len(saved) >= 9
    assert max(gaps) <= 60 + slack
    assert min(gaps) >= 50
    assert sum(abs(gap - 60) > 3 for gap in gaps) <= 2


def test_other_checkpoints_count():
    time = [0.0]
    clock = clock_lib.Clock(1.0, lambda: time[0])
    for step in range(1, 400):
        time[0] += 1.0
        assert not clock.due(step)
        if step % 40 == 0:  # saved for another reason, more often than asked for
            clock.saved(step)


def test_no_minutes_ask_for_none():
    clock = clock_lib.Clock(0.0)
    assert not any(clock.due(step) for step in range(1, 100))
    clock.saved(100)
    clock.plan(100)
    assert not clock.due(101)
