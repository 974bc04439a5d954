"""Loss terms of a config: their weighted sum, the metrics they log, own loss functions, and errors."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from reid_jax import errors, losses
from reid_jax.losses import terms as terms_lib

TERMS = {
    "ce_b": {"loss": "cross_entropy", "on": "logits/b", "weight": 1.0, "label_smoothing": 0.1},
    "tri_b": {"loss": "triplet", "on": "feature/b", "weight": 0.5, "margin": "soft"},
    "cen_b": {"loss": "center", "on": ("feature/b", "extra/centers"), "weight": 5e-4},
}


@pytest.fixture(scope="module")
def values() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "logits/b": draw(8, 5),
        "feature/b": draw(8, 6),
        "extra/centers": draw(5, 6),
        "batch/label": jnp.array([0, 0, 1, 1, 2, 2, 4, 4]),
        "batch/other": jnp.array([0, 1, 1, 1, 2, 2, 4, 3]),
    }


def test_the_total_is_the_weighted_sum_of_what_is_reported(values):
    total, reported = losses.evaluate_terms(TERMS, values)
    assert set(reported) == {"loss/ce_b", "loss/tri_b", "loss/cen_b"}
    expected = reported["loss/ce_b"] + 0.5 * reported["loss/tri_b"] + 5e-4 * reported["loss/cen_b"]
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert total.dtype == jnp.float32
    assert total.shape == ()


def test_terms_of_a_config_dict_under_jit(values):
    terms = ConfigDict({"losses": TERMS}).losses
    total, _ = jax.jit(lambda v: losses.evaluate_terms(terms, v))(values)
    np.testing.assert_allclose(total, losses.evaluate_terms(TERMS, values)[0], rtol=1e-6)


def test_a_term_may_read_other_labels_and_be_switched_off(values):
    terms = {"a": TERMS["ce_b"] | {"labels": "batch/other"}, "b": TERMS["ce_b"], "c": None}
    _, reported = losses.evaluate_terms(terms, values)
    assert set(reported) == {"loss/a", "loss/b"}
    assert reported["loss/a"] != reported["loss/b"]


def test_a_term_of_weight_zero_is_watched_only(values):
    terms = {"ce": TERMS["ce_b"], "tri": TERMS["tri_b"] | {"weight": 0.0}}
    spoilt = values | {"feature/b": values["feature/b"] * jnp.nan}
    total, reported = losses.evaluate_terms(terms, spoilt)
    assert np.isfinite(total)
    assert np.isnan(reported["loss/tri"])
    gradient = jax.grad(lambda x: losses.evaluate_terms(terms, values | {"feature/b": x})[0])(values["feature/b"])
    assert not np.any(gradient)


def test_no_terms_give_zero(values):
    total, reported = losses.evaluate_terms({}, values)
    assert (total, reported) == (0.0, {})


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"loss": "crossentropy"}, ["'ce_b'", "did you mean 'cross_entropy'", "triplet"]),
        ({"on": "logits/c"}, ["'ce_b'", "did you mean 'logits/b'", "feature/b"]),
        ({"labels": "batch/pid"}, ["'ce_b'", "batch/label", "batch/other"]),
        ({"label_smooting": 0.2}, ["'ce_b'", "did you mean 'label_smoothing'", "weight"]),
        ({"wieght": 0.2}, ["'ce_b'", "did you mean 'weight'"]),
        ({"on": ("logits/b", "feature/b")}, ["'ce_b'", "1 output (logits)", "names 2"]),
        ({"loss": "center", "label_smoothing": 0.1}, ["'ce_b'", "'label_smoothing'", "'center'"]),
    ],
    ids=["loss", "output", "labels", "option", "weight", "outputs", "option of another loss"],
)
def test_mistakes_are_named(values, change, parts):
    with pytest.raises(errors.UserError) as caught:
        jax.jit(lambda v: losses.evaluate_terms({"ce_b": TERMS["ce_b"] | change}, v))(values)
    for part in parts:
        assert part in str(caught.value)


def test_a_term_without_its_loss_is_named(values):
    with pytest.raises(errors.UserError, match="'ce_b' needs 'loss'"):
        losses.evaluate_terms({"ce_b": {"on": "logits/b"}}, values)


OWN = """
import jax.numpy as jnp

def spread(feature, *, labels, scale=2.0):
    distance = jnp.abs(feature).mean()
    return scale * distance, {"labels": labels.sum(), "distance": distance}

def rows(feature):
    return feature.mean(axis=1)

NUMBER = 3
"""


@pytest.fixture
def own_losses(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_losses_project.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_losses_project"


def test_a_loss_of_an_own_module(values, own_losses):
    term = {"loss": f"{own_losses}:spread", "on": "feature/b", "weight": 0.5, "scale": 3.0}
    total, reported = jax.jit(lambda v: losses.evaluate_terms({"own": term}, v))(values)
    distance = float(jnp.abs(values["feature/b"]).mean())
    assert float(total) == pytest.approx(1.5 * distance, rel=1e-6)
    assert {name: float(value) for name, value in reported.items()} == pytest.approx(
        {"loss/own": 3 * distance, "loss/own/labels": 14.0, "loss/own/distance": distance}, rel=1e-6
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "own_losses_project:spred"}, "'own': unknown loss in the module .*did you mean 'spread'"),
        ({"loss": "own_losses_projects:spread"}, "'own': expected the module 'own_losses_projects'"),
        ({"loss": "own_losses_project:NUMBER"}, "'own': expected .* to be a function, got int"),
        ({"loss": "own_losses_project:rows"}, r"'own': expected .* to return a scalar, got shape \(8,\)"),
        ({"size": 2}, "'own': unknown setting of the 'own_losses_project:spread' loss 'size'"),
    ],
    ids=["name", "module", "no function", "no scalar", "option"],
)
def test_mistakes_in_a_loss_of_an_own_module(values, own_losses, change, message):
    term = {"loss": f"{own_losses}:spread", "on": "feature/b", **change}
    with pytest.raises(errors.UserError, match=message):
        losses.evaluate_terms({"own": term}, values)


def test_a_turn_has_its_own_terms_and_those_of_every_turn():
    listed = {"always": {"loss": "triplet"}, "first": {"turn": "coarse"}, "second": {"turn": "fine"}, "off": None}
    turns = ("coarse", "fine")
    assert set(terms_lib.of_turn(listed, "coarse", turns)) == {"always", "first"}
    assert set(terms_lib.of_turn(listed, "fine", turns)) == {"always", "second"}
    assert set(terms_lib.of_turn(listed, "", ())) == {"always", "first", "second"}
