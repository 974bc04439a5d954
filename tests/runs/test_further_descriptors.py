"""Further descriptors of a run: which are refused, and under which names their scores are."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import flax.linen as nn
import numpy as np
import pytest

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.cli import evaluate
from reid_jax.config import files
from reid_jax.data import records
from reid_jax.inference import extractor as extractor_lib
from reid_jax.ops import descriptors
from reid_jax.runs import config_checks, further_descriptors, score_table, trained
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import checkpoints

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "cfat.py"


class Colors(nn.Module):
    """Describes an image by its mean color, or by noise in the place of it."""

    useful: bool = True

    def __call__(self, batch, *, train):
        return {"color": batch["image"].mean(axis=(1, 2)), "noise": batch["image"][:, 0, 0] * 0.0 + 1.0}

    def describe(self, outputs):
        return descriptors.Descriptor(outputs["color" if self.useful else "noise"])


def people(name: str, camera: int) -> records.Split:
    colors = np.random.default_rng(0).integers(0, 256, (6, 1, 1, 3))
    source = [
        {
            "image": np.broadcast_to(color, (16, 8, 3)).astype(np.uint8),
            "pid": pid,
            "camid": camera,
            "filename": str(pid),
        }
        for pid, color in enumerate(colors)
    ]
    names = tuple(f"{name}-{pid}" for pid in range(6))
    return records.Split(name, source, np.arange(6, dtype=np.int32), np.full(6, camera, np.int32), names)


def settings_of(**overrides) -> config_lib.Settings:
    config = files.load_config(f"{CONFIG}:demo")
    size = {"data.height": 16, "data.width": 8, "model.depth": 1}
    config_lib.override(config, {**size, "evals.batch_size": 6, **overrides})
    return settings_lib.of(config)


def test_each_descriptor_has_scores_of_its_own():
    mesh = mesh_lib.create_mesh()
    settings = dataclasses.replace(settings_of(), evals=dataclasses.replace(settings_of().evals, corruption_rounds=1))
    extractor = lambda useful: extractor_lib.Extractor(Colors(useful), settings, mesh)
    made = {"color": extractor(True), "flat": extractor(False)}
    dataset = records.ReIDDataset("colors", None, people("query", 0), people("gallery", 1))
    found = further_descriptors.scores(made, {}, dataset)
    assert found["descriptors"] == ["color", "flat"]
    assert found["colors/color/mAP"] == 1.0
    assert found["colors/flat/mAP"] < 0.6
    assert {"colors/color/corrupted/mAP", "colors/flat/corrupted_query/rank1"} <= found.keys()
    assert all(key == "descriptors" or key.startswith(("colors/color/", "colors/flat/")) for key in found)
    assert further_descriptors.scores({}, {}, dataset) == {}
    networks = further_descriptors.network_scores({"teacher": {}}, made["color"], dataset)
    assert (networks["networks"], networks["colors/teacher/mAP"]) == (["teacher"], 1.0)
    assert networks["colors/teacher/corrupted/mAP"] == found["colors/color/corrupted/mAP"]
    assert ("teacher", 1.0) in [
        (name, scores[0]) for name, scores in score_table.rows({"dataset": "colors", **networks})
    ]
    with pytest.raises(errors.UserError, match="did you mean 'teacher'"):
        config_checks.check(settings_of(**{"evals.networks": ("teachr",)}))


def test_a_run_is_evaluated_again_with_all_its_descriptors(monkeypatch, tmp_path, capsys):
    """`evaluate --run` gives the keys and scores of the final evaluation."""
    evals = dataclasses.replace(settings_of().evals, descriptors={"flat": {}})
    settings = dataclasses.replace(settings_of(), evals=evals)
    extractor = lambda useful: extractor_lib.Extractor(Colors(useful), settings, mesh_lib.create_mesh())
    further = {"flat": extractor(False)}
    dataset = records.ReIDDataset("colors", None, people("query", 0), people("gallery", 1))
    monkeypatch.setattr(trained, "settings_of", lambda path, **_: settings)
    monkeypatch.setattr(trained, "from_run", lambda path, **_: (extractor(True), {}))
    monkeypatch.setattr(build, "evaluation_data", lambda *_: dataset)
    monkeypatch.setattr(checkpoints, "newest_meta", lambda *_: {"num_classes": 4})
    monkeypatch.setattr(further_descriptors, "extractors", lambda *_: further)
    final = further_descriptors.scores(further, {}, dataset)
    again = trained.evaluate_run(tmp_path)
    assert again["colors/mAP"] == 1.0
    assert {key: again[key] for key in final} == final
    assert again["num_query"] == 6
    output, page = tmp_path / "scores.json", tmp_path / "page.html"
    assert (
        evaluate.main(["--run", str(tmp_path), "--output", str(output), "--html", str(page), "--rerank", "--k1", "3"])
        == 0
    )
    written = json.loads(output.read_text())
    assert {key: written[key] for key in final} == final
    assert "colors/flat/rerank/mAP" in written
    assert "colors/flat " in capsys.readouterr().out
    assert "<dd>100.0<small>" in page.read_text()


def test_the_named_options_reach_the_model():
    """CFAT's runs are scored by the class token and by the mean of the patches."""
    extractors = lambda settings: further_descriptors.extractors(settings, 4, 2, mesh_lib.create_mesh())
    made = extractors(settings_of())
    assert {name: one.model.test_feature for name, one in made.items()} == {"patch_mean": "patch_mean"}
    assert settings_of().model.get("test_feature", "feature") == "feature"
    for descriptor, message in (
        ({"rerank": {}}, "expected a new name"),
        ({"a/b": {}}, "a_b_feature"),
        ({"other": {"test_featur": "neck"}}, "did you mean 'test_feature'"),
        ({"other": {"test_feature": "nek"}}, "did you mean 'neck'"),
        ({"other": {"test_feature": 3}}, "test_feature"),
    ):
        with pytest.raises(errors.UserError, match=message):
            extractors(settings_of(**{"evals.descriptors": descriptor}))
