"""A whole run of masked pretraining in seconds: what it writes, and that another system starts from it.

Not part of `make test`: `make floors`.
"""

from __future__ import annotations

import json

import numpy as np

from reid_jax import build, config
from reid_jax.config import files
from reid_jax.runs import experiment, starting_point
from reid_jax.runs import folder as folder_lib
from reid_jax.weights import input_normalization
from tests.helpers import tiny

SHORT = {"train.epochs": 2.0, "evals.every_epochs": 1.0, "evals.baselines": True, "evals.ranked_lists": 4}


def test_a_run_writes_scores_drawings_and_an_encoder_that_loads(tmp_path):
    run_config = files.load_config(str(tiny.ROOT / "configs" / "mim.py:smoke"))
    config.override(run_config, {**SHORT, "data.root": str(tmp_path / "data")})
    folder = folder_lib.RunFolder(tmp_path / "run")
    folder.claim(run_config)
    result = experiment.Experiment(run_config).run(folder)

    for probe in ("", "/centered", "/linear", "/cls", "/baseline/untrained", "/baseline/hsv_histogram_linear"):
        assert 0 < result[f"synthped{probe}/mAP"] <= 1
    for kind in ("random", "block", "parts"):
        for region in ("all", "person", "background"):
            for column in ("drawn", "mean_fill", "camera_fill", "smooth_fill"):
                assert 5 < result[f"synthped/drawn/{kind}/{region}/{column}"] < 40
    assert result["images_seen"] == 6 * 16
    assert folder.reconstructions.is_file()
    weights = {path.name for path in (folder.path / "weights").iterdir()}
    assert weights == {"encoder_0.npz", "encoder_1.npz", "encoder.npz", "encoder.safetensors", "decoder.npz"}
    logged = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert any("synthped/linear/mAP" in line for line in logged)
    meta = input_normalization.meta_of(folder.path / "weights" / "encoder.npz")
    assert (meta["grid"], meta["patch"], meta["step"], meta["images_seen"]) == ([16, 8], 8, 6, 96)

    # A plain transformer from the file gives the probe's tokens.
    other = files.load_config(str(tiny.ROOT / "configs" / "transreid.py:demo,baseline,mim128"))
    config.override(other, {"model.width": 32, "model.depth": 2, "model.heads": 4})
    settings = config.Settings.of(config.to_dict(other))
    model = build.build_model(settings, 3, 2)
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (2, 128, 64, 3), np.uint8),
        "camid": np.zeros(2, np.int32),
    }
    variables = build.init_variables(model, settings, batch)
    loaded = starting_point.load_file(variables, settings, model, str(folder.path / "weights" / "encoder.npz"))
    preprocessed = build.make_preprocess(settings.preprocess)(batch)
    tokens = model.apply(loaded, preprocessed, train=False)["tokens"]
    own = config.Settings.of(config.to_dict(run_config))
    pretrained = build.build_model(own, 3, 2)
    filled = build.init_variables(pretrained, own, batch)
    filled = starting_point.load_file(filled, own, pretrained, str(folder.path / "weights" / "encoder.npz"))
    np.testing.assert_allclose(pretrained.apply(filled, preprocessed, train=False)["tokens"], tokens, atol=1e-5)
