"""Rows of exported files, on a model of one convolution."""

from __future__ import annotations

import pytest

from reid_jax.benchmarks import export_speed
from reid_jax.config import files
from tests.helpers import stripes


def test_rows_say_nearness_size_and_speed(monkeypatch):
    monkeypatch.setattr(export_speed, "SECONDS", 0.0)
    extractor, _ = stripes.small(slots=True)
    variables = export_speed.random_variables(extractor)
    first, second = export_speed.rows_of("stripes", extractor, variables, (1, 3))
    assert [first["batch"], second["batch"]] == [1, 3]
    for kind in ("onnx", "stablehlo"):
        assert 0 < first[f"{kind}_MB"] < 1
        assert first[f"{kind}_difference"] < 1e-5
        assert second[f"{kind}_cosine"] == pytest.approx(1)
    assert second["onnx_of_ours"] == second["onnx_images_per_s"] / second["ours_images_per_s"]
    assert first["flip"] == "yes"
    assert first["calls"] == 1


def test_measured_systems_are_not_measured_again(monkeypatch):
    configs = [files.load_config(f"{name}:market1501") for name in ("bot", "osnet")]
    monkeypatch.setattr(export_speed, "_system", lambda config, batches: [{"what": export_speed.name_of(config)}])
    reported = []
    rows = export_speed.measure(configs, (1,), [{"what": "bot:market1501"}], lambda rows: reported.append(len(rows)))
    assert [row["what"] for row in rows] == ["bot:market1501", "osnet:market1501"]
    assert reported == [2]
