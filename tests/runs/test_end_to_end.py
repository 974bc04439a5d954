"""Whole runs at the smallest size: run folder, modes, repeated calls, and scores."""

from __future__ import annotations

import json
import math
import re

import jax
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.runs import experiment, launch
from reid_jax.runs import trained as trained_lib
from reid_jax.runtime import mesh
from reid_jax.train import checkpoints, metrics, step_line
from tests.helpers import market_folder, tiny

pytestmark = pytest.mark.slow

SCORES = ("mAP", "mINP", "rank1", "rank5", "rank10")
STEPS = 12


def test_run_folder_modes_and_repeated_calls(tmp_path, capsys, caplog):
    """All operations on one run folder, in a single test because it is compiled and trained only once."""
    config = tiny.config(tmp_path / "data", evals__every_epochs=2.0, evals__baselines=True, evals__rerank=True)
    workdir = tmp_path / "run"

    # Training alone writes checkpoints and metrics but no result.
    assert launch.run(config, workdir=str(workdir), mode="train") == 0
    assert not (workdir / "result.json").exists()
    assert checkpoints.steps(workdir / "checkpoints")[-1] == STEPS
    lines = metrics.read(workdir)
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "synthped/mAP" in line] == [6, 12]
    assert all(math.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in trained)
    terms = {name for name in trained[-1] if name.startswith("loss/")}
    assert terms == {"loss/ce", "loss/tri"}

    # The same call without `mode` evaluates the trained model and writes the result.
    capsys.readouterr()
    assert launch.run(config, workdir=str(workdir)) == 0
    assert metrics.read(workdir) == lines
    result = json.loads((workdir / "result.json").read_text())
    assert "trained" in capsys.readouterr().out
    expected = {f"synthped/{score}" for score in SCORES} | {f"synthped/rerank/{score}" for score in SCORES}
    expected |= {
        f"synthped/baseline/{name}/{score}" for name in ("untrained", "raw_pixels", "hsv_histogram") for score in SCORES
    }
    assert expected <= set(result)
    assert all(0 <= result[key] <= 1 for key in expected)
    others = {"ap_rule", "num_query", "num_gallery", "num_query_without_match", "images_per_second"}
    assert others | {"config_hash", "index_hash", "content_hash"} <= set(result)
    # 49 gallery images, 4 of them junk.
    assert (result["num_query"], result["num_gallery"], result["steps"]) == (18, 45, STEPS)
    assert result["images_per_second"] > 0
    present = {path.name for path in workdir.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "result.json", "log.txt"} <= present
    assert {"ranked_lists.html", "report.html"} <= present
    assert '<th scope="row">trained, re-ranked</th>' in (workdir / "report.html").read_text()
    assert any(name.startswith("events.out.tfevents") for name in present)
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 4.0
    assert "mAP" in (workdir / "log.txt").read_text()

    # The averaged model is evaluated during training, at the end, and from the run folder.
    last = next(line for line in reversed(lines) if "synthped/mAP" in line)
    extractor, variables = trained_lib.from_run(workdir)
    raw, _ = checkpoints.restore_variables(workdir / "checkpoints")
    assert not all(
        np.array_equal(left, right)
        for left, right in zip(jax.tree.leaves(raw), jax.tree.leaves(variables), strict=True)
    )
    again = trained_lib.evaluate_run(workdir)
    for score in SCORES:
        assert last[f"synthped/{score}"] == result[f"synthped/{score}"] == again[f"synthped/{score}"]
    features, dataset, _ = trained_lib.features_of_run(workdir)
    assert features.query_features.shape == (18, 32)
    pictures = [dataset.query.image(index) for index in range(3)]
    described = extractor.images(variables, pictures).features
    np.testing.assert_allclose(described, features.query_features[:3], rtol=0, atol=1e-6)
    # With flip averaging a mirrored image has the same descriptor.
    mirrored = extractor.images(variables, [picture[:, ::-1] for picture in pictures]).features
    np.testing.assert_allclose(mirrored, described, rtol=0, atol=1e-5)

    # A complete run is not repeated, but `eval` evaluates again.
    before = (workdir / "result.json").stat().st_mtime_ns
    assert launch.run(config, workdir=str(workdir)) == 0
    assert "is complete (12 steps)" in capsys.readouterr().out
    assert (workdir / "result.json").stat().st_mtime_ns == before
    assert launch.run(config, workdir=str(workdir), mode="eval") == 0
    evaluated = json.loads((workdir / "result.json").read_text())
    assert {key: evaluated[key] for key in expected} == {key: result[key] for key in expected}

    # Another config is refused, unless only intervals of writing differ.
    other = tiny.config(tmp_path / "data", optimizer__learning_rate=5e-3, evals__baselines=True, evals__rerank=True)
    with pytest.raises(
        errors.UserError, match=r"another config \(optimizer.learning_rate: 0.0002 -> 0.005\); give anot"
    ):
        launch.run(other, workdir=str(workdir))
    rarer = tiny.config(tmp_path / "data", log__every_steps=5)
    assert launch.run(rarer, workdir=str(workdir)) == 0


def test_incomplete_run_can_be_evaluated_and_then_completed(tmp_path, monkeypatch, capsys):
    """`eval` between two sessions must not mark the run as complete.

    Also covers micro-batches, no moving average, the cosine distance, and a single device.
    """
    single = mesh.create_mesh(jax.devices()[:1])
    monkeypatch.setattr(mesh, "create_mesh", lambda: single)
    tiny.draw(tmp_path / "data")
    options = {"size": "tiny", "seed": 0}
    config = tiny.config(
        tmp_path / "data",
        base=tiny.BOT,
        data__options=options,
        train__accumulate=2,
        data__sampler={"name": "identity_groups", "identities": 8, "images": 2},
        train__epochs=2.0,  # six steps, which take long: XLA's convolutions in a loop are slow on a CPU
        checkpoint__every_steps=1,
        evals__every_epochs=2.0,
    )
    workdir = tmp_path / "run"

    def broken(*_):
        raise errors.UserError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(step_line.StepLine, "show", lambda self, step, values: broken() if step == 4 else None)
        with pytest.raises(errors.UserError, match="power failure"):
            launch.run(config, workdir=str(workdir))
    assert checkpoints.steps(workdir / "checkpoints") == [2, 3]
    assert launch.run(config, workdir=str(workdir), mode="eval") == 0
    assert "trained" in capsys.readouterr().out
    assert not (workdir / "result.json").exists()
    assert (workdir / "ranked_lists.html").exists()
    described = []
    features = experiment.Experiment.features
    monkeypatch.setattr(
        experiment.Experiment, "features", lambda *given: described.append(given[2].name) or features(*given)
    )
    assert launch.run(config, workdir=str(workdir)) == 0
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] == 6
    lines = metrics.read(workdir)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 7))
    # The evaluation of the last step is the final one: query and gallery were described after step 6 alone.
    assert described == ["synthped"]
    assert lines[-1]["synthped/mAP"] == result["synthped/mAP"]
    # Screen, metrics and result agree on the speed, which is that of all steps but the first after each start.
    assert round(lines[-2]["images_per_second"], 1) == result["images_per_second"]
    _, meta = checkpoints.restore_variables(workdir / "checkpoints")
    assert meta["timed_images"] == 16 * (6 - 2)


def test_commands_of_the_readme_on_image_files(tmp_path):
    """Prepares and trains a Market-1501 folder of synthetic JPEG files with the commands of the README."""
    market_folder.write(
        tmp_path / "raw", train_identities=24, test_identities=24, cameras=3, shots=2, height=64, width=32
    )
    root = tmp_path / "data"
    code, out, err = tiny.finish(
        tiny.start(["market1501", "--root", str(root), "--source", str(tmp_path / "raw")], 1, "prepare_dataset.py")
    )
    assert code == 0, err
    assert "24" in out
    small = {key: value for key, value in tiny.BOT.items() if not isinstance(value, dict)}
    small |= {"data.sampler.identities": 4, "data.sampler.images": 2, "data.root": root, "init.weights": "scratch"}
    overrides = [f"--config.{key}={value}" for key, value in small.items()]
    arguments = ["--config=configs/bot.py:market1501", *overrides, f"--workdir={tmp_path / 'run'}"]
    code, out, err = tiny.finish(tiny.start(arguments, 1))
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["dataset"] == "market1501"
    # 24 people, 3 cameras, one query and one gallery image of each; 3 distractors, 3 junk images that do not count.
    assert (result["num_query"], result["num_gallery"], result["num_query_without_match"]) == (72, 75, 0)
    assert all(0 <= result[f"market1501/{score}"] <= 1 for score in SCORES)
    assert result["market1501/mAP"] > 0.05
    assert result["started_from"] == "random weights (seed 0)"
    assert "start: random weights (seed 0)\nall settings of the recipe are kept" in err
    assert re.search(r"00\d\d_c\ds1_\d{6}_00\.jpg", (tmp_path / "run" / "ranked_lists.html").read_text())
    # Log messages of libraries and the note of the demo are not shown.
    assert "Load dataset info" not in err
    assert "demo:" not in err
