"""Scores of body parts against short, slow versions, and their intervals."""

import numpy as np
import pytest

from reid_jax.evaluation import image_quality, part_scores

ONE = np.ones((1, 6), np.float32)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


def test_a_draw_takes_people_with_all_their_images():
    weights = part_scores.draw_weights(np.array([5, 5, 7, 0, 0, -1]), draws=200, seed=1)
    assert weights.shape == (201, 6)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all()  # one person
    assert (weights[:, 3] != weights[:, 4]).any()  # two distractors are two people
    assert (weights[1:, [0, 2, 3, 4, 5]].sum(axis=1) == 5).all()
    again = part_scores.draw_weights(np.array([5, 5, 7, 0, 0, -1]), draws=200, seed=1)
    assert (weights == again).all()


def test_an_interval_is_about_two_standard_errors(rng):
    values = rng.normal(3.0, 2.0, 400)
    weights = part_scores.draw_weights(np.arange(1, 401))
    mean, low, high = part_scores.interval(part_scores.mean_ratio(weights, values, np.ones(400)))
    assert mean == pytest.approx(values.mean(), rel=1e-5)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert low < mean < high
    assert np.isnan(part_scores.interval(np.full(5, np.nan))).all()


def test_overlap_of_tokens():
    true = np.array([[0, 1, 1, 2], [8, 0, 2, 2]])
    both, either = part_scores.overlaps(np.array([0, 1, 2, 2]), true)  # the same map for both
    assert both[:, [0, 1, 7]].tolist() == [[1, 1, 0], [0, 2, 0]]
    assert either[:, [0, 1, 7]].tolist() == [[2, 2, 0], [1, 2, 1]]
    assert not both[:, 2:7].any()
    found = part_scores.mean_ratio(np.ones((1, 2)), both, either)[0]
    assert found[0] == pytest.approx(1 / 3)
    assert np.isnan(found[3])  # a part that is nowhere


def test_auc_counts_pairs(rng):
    scores, targets = rng.integers(0, 4, (6, 3)).astype(float), rng.integers(0, 2, (6, 3))
    pairs = [(a > b) + (a == b) / 2 for a in scores[targets == 1] for b in scores[targets == 0]]
    assert part_scores.auc(ONE, scores, targets)[0] == pytest.approx(np.mean(pairs))
    # An image that counts twice is one that stands there twice.
    twice = np.array([[2, 1, 1, 0, 1, 1]], np.float32)
    rows = [0, 0, 1, 2, 4, 5]
    wanted = part_scores.auc(ONE, scores[rows], targets[rows])
    assert part_scores.auc(twice, scores, targets) == pytest.approx(wanted)
    assert np.isnan(part_scores.auc(ONE, scores, np.ones((6, 3)))[0])


def test_a_constant_prediction_tells_parts_but_no_images():
    targets = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0]])
    frequency = targets.mean(axis=0)
    assert part_scores.auc(ONE, frequency, targets)[0] > 0.8
    assert part_scores.auc_within(ONE, frequency, targets)[0] == 0.5
    assert part_scores.auc_within(ONE, targets.astype(float), targets)[0] == 1.0
    assert np.isnan(part_scores.auc_within(ONE, frequency, np.ones((6, 3)))[0])


def test_cosines_leave_out_what_all_have_in_common(rng):
    one, other, center = (rng.normal(size=shape) for shape in ((4, 2, 5), (4, 2, 5), (2, 5)))
    a, b = one[1, 0] - center[0], other[1, 0] - center[0]
    found = part_scores.cosines(one, other, center)
    assert found[1, 0] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert part_scores.cosines(center[None], one[:1], center)[0, 0] == 0
    hidden = np.zeros((4, 2), bool)
    hidden[1, 0] = hidden[3, 1] = True
    mean = part_scores.mean_where(np.ones((1, 4)), found, hidden)[0]
    assert mean == pytest.approx((found[1, 0] + found[3, 1]) / 2)


def test_standardized_slots_have_the_gallerys_scale(rng):
    gallery = rng.normal(4.0, (1.0, 10.0), (50, 3, 2))
    slots = part_scores.standardized(gallery, gallery)
    np.testing.assert_allclose(np.linalg.norm(slots, axis=-1), 1.0, rtol=1e-5)
    assert (np.abs(np.mean(slots, axis=0)) < 0.3).all()
    assert np.abs(np.mean(slots[..., 0] ** 2) - 0.5) < 0.15  # neither channel outweighs the other


def test_decibels_are_those_of_the_pictures(rng):
    drawn, true = rng.random((6, 4, 3, 3)), rng.random((6, 4, 3, 3))
    mask = rng.random((6, 4, 3)) < 0.5
    assert part_scores.decibels(ONE, drawn, true, mask)[0] == pytest.approx(image_quality.psnr(drawn, true, mask))
