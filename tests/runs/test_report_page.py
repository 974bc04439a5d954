"""The report of a run is made from its folder alone, whatever state the folder is in."""

from __future__ import annotations

import contextlib
import json
import re

import pytest

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.cli import training_report
from reid_jax.evaluation import charts
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import report_page, results, score_table

RESULT = {
    "dataset": "toy",
    "ap_rule": "step",
    "toy/mAP": 0.5,
    "toy/rank1": 0.75,
    "toy/baseline/raw_pixels/mAP": 0.125,
    "toy/rerank/mAP": 0.625,
    "toy/patch_mean/mAP": 0.25,
    "other/mAP": 0.0625,
    "descriptors": ["patch_mean"],
    "num_query": 3000,
    "num_query_without_match": 0,
    "num_gallery": 40,
    "steps": 40,
    "device": "8 x TPU v4",
    "started_from": "<weights> of somebody",
}
LINES = [
    {
        "step": step,
        "time": 1795859384.5 + step,
        "epoch": step / 10,
        "loss": 1 / step,
        "loss/tri": None if step == 3 else 2 / step,
        "monitor/accuracy": step / 40,
        "learning_rate": 1e-3,
        "<img src=x>": 1.0,
        "note": "text",
    }
    for step in range(1, 41)
] + [{"step": 40, "toy/mAP": 0.5}]


@pytest.fixture
def folder(tmp_path):
    """A run folder without a checkpoint."""
    made = folder_lib.RunFolder(tmp_path / "my<run>")
    made.path.mkdir()
    config = config_lib.defaults()
    config.data.name = "</script><i>"
    made.config.write_text(config_lib.to_json(config))
    (made.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 41')
    return made


def test_complete_run(folder, capsys):
    folder.write_result(RESULT)
    assert training_report.main([str(folder.path)]) == 0
    assert capsys.readouterr().out == f"{folder.report}\n"
    page = folder.report.read_text()
    assert "<title>my&lt;run&gt; · training report</title>" in page
    assert page.count('<svg class="chart"') == 5  # loss, mAP, accuracy, learning rate, and the unknown one
    for name, score in (("raw pixels", "12.50"), ("trained, re-ranked", "62.50"), ("trained, on other", "6.25")):
        assert f'<th scope="row">{name}</th><td>{score}</td>' in page
    assert "<dd>75.0<small>" in page
    for text in ("8 x TPU v4", "3,000", "&lt;weights&gt; of somebody", "data.height", "28 November 2026, 09:49 UTC to"):
        assert text in page
    assert "<span>toy/mAP 50</span>" in page
    assert "not complete" not in page
    assert "No mAP" not in page
    assert not re.search(r"<(img|i|weights|run)>|<img|<script", page), "names stay text, and there is no script"
    assert "default-src 'none'" in page
    assert not re.search(r"<!--[A-Z]+-->", page)
    assert "ranked_lists.html" not in page
    folder.ranked_lists.write_text("there")
    assert '<a href="ranked_lists.html">' in report_page.write(folder).read_text()


def test_unfinished_run(folder):
    page = report_page.write(folder).read_text()
    assert "Training is not complete: 40 steps so far" in page
    assert "Final scores" not in page
    evaluated = report_page.write(folder, RESULT, complete=False).read_text()
    assert "not complete" in evaluated
    assert "Final scores on toy" in evaluated
    (folder.path / "metrics.jsonl").unlink()
    assert "No metrics have been written yet" in report_page.write(folder).read_text()
    (folder.path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert "No mAP was measured during training" in report_page.write(folder).read_text()


def test_long_and_foreign_metrics_stay_bounded(folder):
    lines = [{"step": step, **{f"x{number}/y": step for number in range(60)}} for step in range(1, 31)]
    lines += [{"step": step, **{f"loss/{number}": 1.0 for number in range(40)}} for step in range(31, 34)]
    lines += [
        {"step": step, "time": 1e99, "gradient_norm": step % 7, "loss": float("1e300")} for step in range(40, 3000)
    ]
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report_page.write(folder).read_text()
    assert page.count('<svg class="chart"') == 16
    assert "25 more are in metrics.jsonl" in page  # 41 losses, 16 drawn
    assert len(page) < 300_000
    assert "nan" not in page.replace("ennan", "")


def test_a_curve_keeps_its_end():
    steps, values = report_page._thinned(list(range(1, 1002)), [float(step) for step in range(1, 1002)])
    assert len(steps) == len(values) == 301
    assert (steps[-1], values[-1]) == (1001, 1001.0)
    assert steps[0] == pytest.approx(values[0]) == pytest.approx(2.5)
    assert charts.curves({"one": ([3.0], [0.0])}, "one point", "step").count("<circle") == 1


def test_mistakes_are_one_sentence(folder, tmp_path):
    with pytest.raises(errors.UserError, match=r"expected a run folder \(with config.json\), found none at"):
        training_report.main([str(folder.path), str(tmp_path)])
    assert not folder.report.exists()
    folder.result.write_text("{")
    with pytest.raises(errors.UserError, match="expected the scores of a complete run"):
        training_report.main([str(folder.path)])
    for key, value in (("descriptors", 5), ("toy/baseline/x/mAP", "y" * 9), ("toy/mAP", "high")):
        folder.result.write_text(json.dumps(RESULT | {key: value}))
        with contextlib.suppress(errors.UserError):  # a page, or one sentence
            training_report.main([str(folder.path)])
    folder.result.unlink()
    (folder.path / "metrics.jsonl").write_text(
        '{"step": 1, "time": NaN, "loss": 1}\n{"step": 1%s, "loss": 2}\n' % ("0" * 400)
    )
    with pytest.raises(errors.UserError, match="expected the files of a run at"):
        training_report.main([str(folder.path)])
    folder.report.unlink(missing_ok=True)
    folder.report.mkdir()
    (folder.path / "metrics.jsonl").unlink()
    with pytest.raises(errors.UserError, match="cannot write the report of the run"):
        training_report.main([str(folder.path)])


def test_summary_has_the_rows_of_the_table():
    text = results.summary(RESULT)
    names = [name for name, _ in score_table.rows(RESULT)]
    assert names == ["raw pixels", "trained", "trained, re-ranked", "trained, patch mean", "trained, on other"]
    assert [line.split("  ")[1] for line in text.splitlines()[1:6]] == names
    assert "  trained                               50.00    75.00        -" in text
