"""The step line: losses, accuracy and speed behind a bar or in the log, and the speed of a whole run."""

import io
import logging

import pytest

from reid_jax import progress
from reid_jax.train import step_line

VALUES = {
    "loss": 1.25,
    "learning_rate": 4e-4,
    "images_per_second": 812.3,
    "data_wait_percent": 3.4,
    "loss/ce": 1.0,
    "loss/tri": 0.25,
    "loss/tri/hardest": 9.0,
    "monitor/accuracy": 0.125,
    "gradient_norm": 7.0,
}
LINE = "loss 1.250 (ce 1.000, tri 0.2500)  accuracy 12.5 %  812.3 images/s  data wait 3 %  lr 4.00e-04"


def test_without_a_terminal_it_is_a_line_now_and_then(caplog):
    line = step_line.StepLine(100, initial=10, shown=True, every_seconds=3600, stream=io.StringIO())
    with caplog.at_level(logging.INFO):
        for step in range(11, 101):
            line.update(step)
            line.show(step, VALUES)
        line.close()
    first, last = (record.message for record in caplog.records)
    assert first == f"step 11/100  {LINE}"
    assert last == f"step 100/100  {LINE}"


def test_the_estimate_begins_after_the_first_step(caplog, monkeypatch):
    clock = iter([90.0, 100.0, 130.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    line = step_line.StepLine(100, shown=True, every_seconds=0, stream=io.StringIO())
    with caplog.at_level(logging.INFO):
        line.update(1)  # at 100 s, after compiling
        line.show(31, {"loss": 1.0})  # at 130 s: one step a second
    assert caplog.records[0].message == "step 31/100 (~1 min 09 s left)  loss 1.000"


def test_slow_steps_have_an_estimate_before_their_first_values(caplog, monkeypatch):
    """Six seconds a step, values every fifth: one line after ten seconds, the next one in thirty."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    line = step_line.StepLine(100, shown=True, stream=io.StringIO())
    with caplog.at_level(logging.INFO):
        for step in range(1, 10):
            now += 30.0 if step == 1 else 6.0  # the first one compiles
            line.show(step, {"loss": 1.0}) if step == 5 else line.update(step)
    assert [record.message for record in caplog.records] == [
        "step 2/100 (~9 min 48 s left)",
        "step 5/100 (~9 min 30 s left)  loss 1.000",
    ]


def test_on_a_terminal_it_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    line = step_line.StepLine(20, initial=5, shown=True, stream=stream)
    for step in range(6, 21):
        line.update(step)
        line.show(step, VALUES)
    line.close()
    assert "20/20" in stream.getvalue()
    assert "loss 1.250 (ce 1.000" in stream.getvalue()


def test_other_processes_show_nothing(caplog):
    line = step_line.StepLine(10, shown=False)
    with caplog.at_level(logging.INFO):
        line.show(10, VALUES)
        line.close()
    assert not caplog.records


def test_many_terms_are_means_of_families():
    values = {"loss": 9.0} | {f"loss/ce_{part}": float(part) for part in range(4)} | {"loss/distil": 0.5}
    assert step_line.text(values) == ["loss 9.000 (ce 1.500 x4, distil 0.5000)"]


def test_pace_counts_timed_steps_alone():
    pace = step_line.Pace()
    assert pace.images_per_second is None
    pace.add(0, 50.0)  # compilation: no image was timed
    pace.add(32, 2.0)
    pace.add(64, 4.0)
    assert pace.images_per_second == pytest.approx(16)
