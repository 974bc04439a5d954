"""CIL: which picture each term reads, the divergence of three views in numpy, pooling and test feature."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.config import files
from reid_jax.train import objective

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "cil.py"
BATCH = 4


@pytest.fixture(scope="module")
def settings() -> config_lib.Settings:
    return config_lib.Settings.of(config_lib.to_dict(files.load_config(f"{CONFIG}:market1501")))


def test_identity_losses_read_the_main_view_and_consistency_all_three(settings):
    """One batch of three views through one network; the stand-in's outputs are the pictures themselves."""
    rng = np.random.default_rng(0)
    views = {
        name: rng.normal(size=(BATCH, 1, 1, 3)).astype(np.float32)
        for name in ("image", "image_augmix1", "image_augmix2")
    }
    batch = {**views, "label": np.array([0, 0, 1, 1], np.int32)}
    sizes = []

    def stand_in(variables, batch, *, train, mutable, rngs):
        assert train
        sizes.append(len(batch["image"]))
        return {"logits/b": batch["image"][:, 0, 0], "feature/b": 2.0 * batch["image"][:, 0, 0]}, {}

    goal = objective.Objective(
        apply=stand_in,
        preprocess=lambda batch, key: batch,
        passes={name: objective.Pass(**one) for name, one in settings.passes.items()},
        terms=settings.losses,
    )
    _, (_, metrics) = goal({}, {}, jax.tree.map(jnp.asarray, batch), jax.random.key(0))
    assert sizes == [3 * BATCH]
    scores = [np.asarray(view[:, 0, 0], np.float64) for view in views.values()]
    shares = [np.exp(score) / np.exp(score).sum(axis=1, keepdims=True) for score in scores]
    mixture = np.clip(sum(shares) / 3, 1e-7, 1)
    divergence = np.mean([(share * np.log(share / mixture)).sum(axis=1).mean() for share in shares])
    assert float(metrics["loss/consistency"]) == pytest.approx(divergence, rel=1e-4)
    smoothed = np.full((BATCH, 3), 0.1 / 3)
    smoothed[np.arange(BATCH), batch["label"]] += 0.9
    assert float(metrics["loss/ce"]) == pytest.approx(-(smoothed * np.log(shares[0])).sum(axis=1).mean(), rel=1e-4)
    apart = np.linalg.norm(2 * scores[0][:, None] - 2 * scores[0][None], axis=-1)
    gap = [apart[i, i ^ 1] - np.delete(apart[i], [i, i ^ 1]).min() for i in range(BATCH)]
    assert float(metrics["loss/tri"]) == pytest.approx(np.log1p(np.exp(gap)).mean(), rel=1e-4)
    assert {name: term["weight"] for name, term in settings.losses.items()} == {"ce": 1, "tri": 1, "consistency": 12}


def test_views_share_what_moves_pixels_and_differ_in_augmix(settings):
    main = settings.data.augment
    assert set(main) == {"flip", "pad_crop", "soft_erase", "self_patch"}
    for name in ("augmix1", "augmix2"):
        view = settings.data.views[name]
        assert view["geometry"] == "shared"
        assert {key: value for key, value in view["augment"].items() if key != "augmix"} == dict(main)
        assert view["augment"]["augmix"] == {"width": 3, "depth": (1, 3), "severity": 3.0}


def test_features_are_power_means_compared_before_the_neck(settings):
    """GeM with p = 3 over the last map; the test feature at unit length."""
    small = {**settings.model, "size": "resnet18", "depths": (1, 1, 1, 1), "width": 4}
    model = build.models.build(small.pop("name"), num_classes=3, **small)
    batch = {"image": np.random.default_rng(1).normal(size=(2, 32, 16, 3)).astype(np.float32)}
    quick = {"xla_backend_optimization_level": 0}
    variables = jax.jit(lambda key: model.init(key, batch, train=False), compiler_options=quick)(jax.random.key(0))
    # A neck that is not the identity, as after training.
    neck = variables["batch_stats"]["head_b"]["bottleneck"]
    variables["batch_stats"]["head_b"]["bottleneck"] = {**neck, "mean": neck["mean"] + jnp.arange(neck["mean"].size)}
    outputs = jax.jit(lambda v: model.apply(v, batch, train=False), compiler_options=quick)(variables)
    rows = np.maximum(np.asarray(outputs["map/stage4"], np.float64), 1e-6)
    pooled = (rows**3).mean(axis=(1, 2)) ** (1 / 3)
    np.testing.assert_allclose(outputs["feature/b"], pooled, rtol=1e-4, atol=1e-6)
    described = model.describe(outputs).features
    np.testing.assert_allclose(described, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), rtol=1e-3, atol=1e-5)
