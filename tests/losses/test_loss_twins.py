"""Where the gradient of a loss goes, by finite differences; and the defaults of every loss."""

import inspect

import jax
import numpy as np
import pytest

from reid_jax import losses
from reid_jax.losses import terms

LABELS = np.array([0, 0, 1, 2])
RNG = np.random.default_rng(0)
FEATURES, OTHERS, CENTERS = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 3), (4, 3), (3, 3)))


@pytest.mark.parametrize(
    ("name", "arrays"),
    [("center", (FEATURES, CENTERS)), ("contrastive", (FEATURES, OTHERS)), ("supcon", (FEATURES, OTHERS))],
    ids=["center", "contrastive", "supcon"],
)
def test_gradients_reach_both_inputs_as_finite_differences_say(name, arrays):
    loss = lambda *given: losses.LOSSES[name](*given, labels=LABELS)
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for place, gradient in enumerate(compiled(*arrays)[1]):
        direction = np.random.default_rng(10 + place).normal(size=arrays[place].shape).astype(np.float32)
        moved = [(*arrays[:place], arrays[place] + size * direction, *arrays[place + 1 :]) for size in (1e-2, -1e-2)]
        after, before = (float(compiled(*given)[0]) for given in moved)
        wanted = (after - before) / 2e-2
        assert float(np.sum(gradient * direction)) == pytest.approx(wanted, rel=2e-2, abs=1e-3)
        assert abs(wanted) > 0.02


def test_defaults_of_every_loss():
    defaults = {
        name: {
            key: value.default
            for key, value in inspect.signature(function).parameters.items()
            if value.default is not inspect.Parameter.empty
        }
        for name, function in losses.LOSSES.items()
    }
    assert {name: options for name, options in defaults.items() if options} == {
        "align": {"temperature": 0.2},
        "align_tracks": {"temperature": 0.2},
        "contrastive": {"temperature": 0.5, "weighted": True, "stop_weight": False, "mask_same_identity": False},
        "cross_entropy": {"label_smoothing": 0.0},
        "focal": {"alpha": 0.25, "gamma": 2.0},
        "gaussian_divergence": {"mode": "mean"},
        "generative_distillation": {"granularities": ("part",)},
        "masked_patches": {"normalize": False},
        "parsing": {"label_smoothing": 0.1},
        "part_diversity": {"same_kind": ((1, 2), (4, 5), (6, 7))},
        "supcon": {"temperature": 1.0},
        "triplet": {"margin": 0.3, "normalize": False, "parts": False},
    }


def test_absent_classes_have_no_part_in_the_smoothing():
    """Of three classes the last is minus infinity: eps is shared by two."""
    logits = np.array([[0.0, 1.0, -np.inf]], np.float32)
    logs = logits[0, :2] - np.log(np.exp(logits[0, :2]).sum())
    found = losses.LOSSES["cross_entropy"](logits, labels=np.array([1]), label_smoothing=0.2)
    assert float(found) == pytest.approx(-0.8 * logs[1] - 0.2 * logs.mean())


def test_a_term_weighs_one_unless_it_says_otherwise_and_belongs_to_its_turn():
    values = {"a": np.ones((2, 3), np.float32), "b": np.zeros((2, 3), np.float32)}
    plain = {"loss": "mean_squared", "on": ("a", "b")}
    total, told = losses.evaluate_terms({"x": plain, "y": {**plain, "weight": 0.25}}, values)
    assert float(total) == pytest.approx(1.25)
    assert {name: float(value) for name, value in told.items()} == {"loss/x": 1.0, "loss/y": 1.0}
    of_turns = {"x": {**plain, "turn": "first"}, "y": {**plain, "turn": "second"}, "both": plain, "off": None}
    chosen = {turn: set(terms.of_turn(of_turns, turn, ("first", "second"))) for turn in ("first", "second")}
    assert chosen == {"first": {"x", "both"}, "second": {"y", "both"}}
    assert set(terms.of_turn({"x": plain}, "", ())) == {"x"}


def test_a_triplet_loss_is_a_mean_over_all_anchors():
    """Of four images on a line only the third violates the margin, by 4 - 0.9 + 0.3."""
    line, labels = np.float32([[0.0], [0.1], [1.0], [5.0]]), np.array([0, 0, 1, 1])
    assert float(losses.LOSSES["triplet"](line, labels=labels, margin=0.3)) == pytest.approx(3.4 / 4, rel=1e-5)


def test_parts_are_normalized_one_by_one():
    """A long part does not outweigh a short one."""
    parts = np.float32([[[3, 4], [0.1, 0]], [[4, 3], [0, 0.1]], [[5, 0], [0.1, 0]]])
    unit = parts / np.linalg.norm(parts, axis=-1, keepdims=True)
    apart = np.linalg.norm(unit[:, None] - unit[None], axis=-1).mean(-1)  # [3, 3]
    expected = [max(0, apart[a].max(where=same, initial=0) - apart[a].min(where=~same, initial=9) + 0.3)
                for a, same in enumerate(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool))]  # fmt: skip
    found = losses.LOSSES["triplet"](parts, labels=np.array([0, 0, 1]), margin=0.3, normalize=True, parts=True)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-4)
