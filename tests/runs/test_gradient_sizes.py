"""Sizes of loss terms against numpy: gradients at the class token of the last pass, weighted, and their angles."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.cli import term_sizes as command
from reid_jax.ops import taps
from reid_jax.runs import gradient_sizes
from reid_jax.train import objective

TERMS = {
    "near": {"loss": "mean_squared", "on": ("feature", "teacher/feature"), "weight": 3.0},
    "small": {"loss": "mean_squared", "on": ("feature", "half"), "weight": 0.5},
}


def apply(variables, batch, *, train, rngs, mutable=()):
    tokens = taps.tap("tokens", batch["image"] * variables["params"]["scale"])
    outputs = {"feature": tokens[:, 0], "half": 0.5 * tokens[:, 0]}
    return (outputs, {}) if mutable else outputs


@pytest.fixture
def sizes():
    images = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    goal = objective.Objective(
        apply=apply,
        preprocess=lambda batch, key: batch,
        passes={
            "student": objective.Pass(after=("teacher",)),
            "teacher": objective.Pass(network="extra/teacher", train=False, prefix="teacher/"),
        },
        terms=TERMS,
        monitors={"angle": {"loss": "cosine", "on": ("feature", "teacher/feature")}},
    )
    variables = {"params": {"scale": jnp.float32(2.0), "other": jnp.float32(1.0)}}
    extra = {"teacher": {"params": {"scale": jnp.float32(-1.0)}}}
    run = jax.jit(lambda batch: gradient_sizes._sizes(goal, ("scale",), variables, extra, batch, jax.random.key(0)))
    return images[:, 0], jax.device_get(run({"image": images}))


def test_gradients_are_those_at_the_students_class_token(sizes):
    image, found = sizes
    student, teacher = 2.0 * image, -image
    gradients = {"near": 3.0 * 2.0 * (student - teacher) / image.size, "small": 0.5 * 0.5 * student / image.size}
    total = sum(gradients.values())
    # The student is 2 x image.
    of_scale = {"near": 3.0 * 2.0 * 3.0, "small": 0.5 * 2.0 * 0.25 * 2.0}
    for name, gradient in gradients.items():
        term = found["terms"][name]
        assert term["gradient"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        angle = np.vdot(gradient, total) / np.linalg.norm(gradient) / np.linalg.norm(total)
        assert term["cosine"] == pytest.approx(angle, rel=1e-5)
        assert term["at_parameters"] == pytest.approx(of_scale[name] * np.mean(image**2), rel=1e-5)
        assert term["weight"] == TERMS[name]["weight"]
    assert found["terms"]["near"]["value"] == pytest.approx(np.mean((student - teacher) ** 2), rel=1e-5)
    assert found["monitors"]["angle"] == pytest.approx(-1.0)


def test_the_command_prints_and_writes_them(sizes, monkeypatch, tmp_path, capsys):
    measured = {"batches": 4, **jax.tree.map(float, sizes[1])}
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(gradient_sizes, "of_run", lambda *given: measured)
    output = tmp_path / "sizes.json"
    assert command.main([str(tmp_path), "--phase", "align", "--at", "start", "--output", str(output)]) == 0
    assert json.loads(output.read_text()) == {"phase": "align", "at": "start", **measured}
    assert "at parameters" in capsys.readouterr().out
    monkeypatch.undo()
    with pytest.raises(errors.UserError, match="did you mean 'start'"):
        gradient_sizes.of_run(str(tmp_path), "align", "strt")
