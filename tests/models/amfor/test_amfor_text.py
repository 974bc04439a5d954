"""AMFOR with text features of CLIP: labels stay out of the encoder, and the stages of the prompts."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from reid_jax import config as config_lib
from reid_jax import errors, trees
from reid_jax.benchmarks import programs
from reid_jax.train import optimizer
from tests.helpers.tiny_amfor import (
    BATCH,
    CLASSES,
    TEXT,
    compiled,
    load,
    shapes_of,
    tiny,
    training_batch,
)

# ---- text


@pytest.fixture(scope="module")
def prompted():
    model = tiny(text_source="clip", text_sizes=TEXT, parsing=False, ts=False, hpr=False, amgd="none")
    return model, shapes_of(model, label=np.zeros(BATCH, np.int32))


def test_labels_never_reach_the_encoder(prompted):
    """Property 3: T is the same for all images and labels; and what it says does act."""
    model, _ = prompted
    variables = programs.random_variables(model, training_batch())
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])

    @functools.partial(compiled, static_argnames="mode")
    def run(variables, batch, mode=""):
        return apply(variables, batch, mode=mode, rngs={"dropout": jax.random.key(0)})[0]

    batch = training_batch()
    shifted = {**batch, "label": batch["label"] + 2}
    one, other = run(variables, batch), run(variables, shifted)
    np.testing.assert_array_equal(one["feature/g"], other["feature/g"])
    assert "prompt/text" not in one
    plain, moved = run(variables, batch, mode="prompts"), run(variables, shifted, mode="prompts")
    np.testing.assert_array_equal(plain["feature/g"], moved["feature/g"])
    np.testing.assert_array_equal(plain["prompt/image"], plain["feature/g"])
    np.testing.assert_array_equal(run(variables, batch, mode="plain")["feature/g"], plain["feature/g"])
    # Features computed beforehand: those of the batch's images, and the encoder does not run.
    places = np.array([5, 0, 2, 2], np.int32)
    bank = np.random.default_rng(5).normal(size=(6, 64)).astype(np.float32)
    stored = {"extra/image_features": bank, "index": places, "label": batch["label"]}
    cached = run(variables, stored, mode="prompts")
    assert cached.keys() == {"prompt/image", "prompt/text"}
    np.testing.assert_array_equal(cached["prompt/image"], bank[places])
    np.testing.assert_allclose(cached["prompt/text"], plain["prompt/text"], rtol=1e-4, atol=1e-5)
    assert np.abs(plain["prompt/text"] - moved["prompt/text"]).max() > 1e-6
    text = np.random.default_rng(2).normal(size=(CLASSES, 64)).astype(np.float32)
    filled = {**variables, "constants": {"prompts": {"bank": text}}}
    assert np.abs(run(filled, batch)["feature/g"] - one["feature/g"]).max() > 1e-6
    np.testing.assert_array_equal(run(filled, batch, mode="prompts")["feature/g"], plain["feature/g"])


def test_modes_that_do_not_fit_are_refused(prompted):
    model, shapes = prompted
    apply = lambda model, shapes, mode: jax.eval_shape(
        functools.partial(model.apply, train=False, mode=mode), shapes, training_batch()
    )
    with pytest.raises(errors.UserError, match="did you mean 'prompts'"):
        apply(model, shapes, "prompt")
    with pytest.raises(errors.UserError, match=r"set model.text_source='clip'"):
        apply(tiny(), shapes_of(tiny()), "prompts")


def test_stages_of_the_prompts(prompted):
    """Property 16: stage 1 moves prompts and projection alone, stage 2 everything else; the bank has a row per id."""
    model, shapes = prompted
    config = config_lib.to_dict(load("clip"))
    assert config["phase_order"] == ("prompts", "joint")
    first, second = (config["phases"][name] for name in config["phase_order"])
    # CLIP-ReID's symmetric contrast, of raw products.
    pairs = {(term["loss"], term["on"], term["weight"], term["temperature"]) for term in first["losses"].values()}
    on = ("prompt/image", "prompt/text")
    assert pairs == {("supcon", on, 1.0, 1.0), ("supcon", on[::-1], 1.0, 1.0)}
    assert second["start_from"] == "model/fill_text_bank"
    # The frozen encoder runs once per image, before the first step.
    assert first["extras"]["image_features"]["mode"] == "plain"
    assert first["passes"]["main"]["reads"] == ("extra/image_features",)
    assert (first["data"]["augment"], first["passes"]["main"]["train"]) == ({}, False)
    build = lambda phase: optimizer.build(
        {**config["optimizer"], **phase["optimizer"]},
        phase.get("schedule", config["schedule"]),
        shapes["params"],
        60,
        10,
    )[1]
    assert set(build(first).trainable) == {"prompts/text_proj/bias", "prompts/text_proj/kernel", "prompts/vectors"}
    assert not [name for name in build(second).trainable if name.startswith("prompts")]
    assert set(build(second).frozen) == {name for name in trees_paths(shapes["params"]) if name.startswith("prompts/")}
    assert shapes["constants"]["prompts"]["bank"].shape == (CLASSES, 64)
    filled = jax.eval_shape(model.fill_text_bank, shapes)
    assert jax.tree.structure(filled) == jax.tree.structure(shapes)


def trees_paths(tree) -> set[str]:
    return set(trees.flatten(tree))
