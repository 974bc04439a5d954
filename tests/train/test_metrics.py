"""The metrics file across kills and resumes, event files, and the log."""

import json
import logging
import math
import pathlib
import time
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.train import metrics


def lines(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def train(folder, first, last, resume_step=None):
    with metrics.MetricWriter(folder, resume_step, tensorboard=False) as writer:
        for step in range(first, last + 1):
            writer.write(step, {"loss": 1 / step, "learning_rate": 0.1})


def without_time(records):
    return [{name: value for name, value in record.items() if name != "time"} for record in records]


def test_every_number_becomes_json(tmp_path):
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(
            np.int64(3),
            {
                "a": jnp.float32(0.5),
                "b": np.float64(2),
                "c": 7,
                "nan": float("nan"),
                "infinite": jnp.float32(math.inf),
                "none": None,
                "text": "phase one",
            },
        )
        with pytest.raises(TypeError, match="one number"):
            writer.write(4, {"vector": np.zeros(2)})
    (line,) = lines(tmp_path)
    record = json.loads(line)
    assert abs(record.pop("time") - time.time()) < 60
    expected = {"step": 3, "a": 0.5, "b": 2.0, "c": 7, "nan": None, "infinite": None, "none": None, "text": "phase one"}
    assert record == expected
    assert list(json.loads(line))[:2] == ["step", "time"]


@pytest.mark.parametrize("torn", ["", '{"step": 9, "ti', '{"step": 9, "time": 1.0}', "\0\0\0"])
@pytest.mark.parametrize("saved", [0, 4, 8])
def test_a_kill_and_a_resume_leave_no_trace(tmp_path, saved, torn):
    train(tmp_path / "whole", 1, 12)
    broken = tmp_path / "broken"
    train(broken, 1, 8)
    with (broken / "metrics.jsonl").open("a") as file:
        file.write(torn)
    train(broken, saved + 1, 12, resume_step=saved)
    assert without_time(metrics.read(broken)) == without_time(metrics.read(tmp_path / "whole"))
    assert len(lines(broken)) == 12
    assert sorted(path.name for path in broken.iterdir()) == ["metrics.jsonl"]


def test_several_lines_of_one_step_survive_a_resume(tmp_path):
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": 2.0})
        writer.write(1, {"d/mAP": 0.3})
        writer.write(2, {"loss": 1.0})
    train(tmp_path, 2, 2, resume_step=1)
    assert [record["step"] for record in metrics.read(tmp_path)] == [1, 1, 2]


def test_an_untouched_file_is_not_rewritten(tmp_path):
    train(tmp_path, 1, 3)
    before = (tmp_path / "metrics.jsonl").stat().st_ino
    train(tmp_path, 4, 4, resume_step=3)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before


def test_other_processes_write_nothing(tmp_path):
    with metrics.MetricWriter(tmp_path / "run", 5, active=False) as writer:
        writer.write(6, {"loss": 1.0})
    assert not (tmp_path / "run").exists()
    assert metrics.read(tmp_path / "run") == []


def test_tensorboard_reads_the_same_numbers(tmp_path):
    for resume, steps in ((None, (1, 2, 3)), (2, (3, 4))):
        with metrics.MetricWriter(tmp_path, resume) as writer:
            for step in steps:
                writer.write(step, {"loss": step / 4, "nan": math.nan, "text": "x"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboardX.proto import event_pb2
    found = {}
    for path in sorted(tmp_path.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == event_pb2.SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    assert found == {("loss", step): step / 4 for step in (1, 2, 3, 4)}


# ---- log ------------------------------------------------------------------------------------------------------


def test_the_log_goes_to_the_file_and_the_terminal(tmp_path, capsys):
    handlers = logging.getLogger().handlers[:]

    def fail():
        with metrics.log_to(tmp_path / "run"):
            logging.getLogger("reid_jax.train").info("a line with ümlauts")
            logging.getLogger("absl").warning("chatter of a library")
            logging.getLogger("jax._src.something").warning("more of it")
            raise KeyError("the end")

    with pytest.raises(KeyError):
        fail()
    text = (tmp_path / "run" / "log.txt").read_text()
    assert "INFO reid_jax.train: a line with ümlauts" in text
    assert "ended by KeyError" in text
    assert "Traceback" in text
    assert capsys.readouterr().err == "a line with ümlauts\n"
    assert logging.getLogger().handlers == handlers
    assert "chatter" not in text
    assert "more of it" not in text


def test_the_log_goes_on_after_a_resume_and_other_processes_keep_quiet(tmp_path, capsys):
    for text in ("first", "second"):
        with metrics.log_to(tmp_path):
            logging.getLogger("reid_jax").info(text)
    with metrics.log_to(tmp_path, active=False):
        logging.getLogger("reid_jax").info("third")
        logging.getLogger("reid_jax").warning("fourth")
    assert [line.rsplit(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first", "second"]
    assert capsys.readouterr().err == "first\nsecond\nfourth\n"


def test_a_file_that_was_removed_or_replaced_is_noticed(tmp_path):
    for change in (lambda path: path.unlink(), lambda path: path.rename(tmp_path / "aside") and path.touch()):
        with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
            writer.write(1, {"loss": 1.0})
            change(tmp_path / metrics.FILE)
            with pytest.raises(errors.UserError, match=r"metrics\.jsonl, it was removed or renamed during the run"):
                writer.write(2, {"loss": 1.0})


def test_a_full_disk_is_a_sentence_and_the_log_goes_on_without_its_file(tmp_path, capfd, monkeypatch):
    writer = metrics.MetricWriter(tmp_path, tensorboard=False)
    monkeypatch.setattr(writer, "_check_place", lambda: None)
    before, writer._file = writer._file, pathlib.Path("/dev/full").open("w")  # noqa: SIM115
    with pytest.raises(errors.UserError, match=r"cannot write the metrics .* \(No space left on device\); free some"):
        writer.write(1, {"loss": 1.0})
    writer.close()
    before.close()
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with metrics.log_to(tmp_path):
        for _ in range(2):
            logging.getLogger("reid_jax").warning("heard")
    err = capfd.readouterr().err
    assert err.count("heard") == 2
    assert err.count("cannot write the log") == 1
    assert "Traceback" not in err
