"""The embedder that trackers are given: names, order, channels, boxes; with a stand-in for the model."""

from __future__ import annotations

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.inference import trackers, unit_vectors

FRAME = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def colors(images):
    """The mean color of each crop, as vectors of unit length."""
    return unit_vectors.joined(np.stack([image.mean((0, 1), dtype=np.float32) + 1e-3 for image in images]))


def expected(*crops):
    return colors([crop[:, :, ::-1] for crop in crops])


EMBEDDER = trackers.TrackerEmbedder(colors, 3)
BOXES = np.asarray([[30, 5, 50, 35], [0, 0, 10, 20], [10, 10, 30, 30]], np.float32)
CROPS = [FRAME[5:35, 30:50], FRAME[:20, :10], FRAME[10:30, 10:30]]


def test_each_name_gives_the_same_rows_in_order():
    for found in (
        EMBEDDER.get_features(BOXES, FRAME),
        EMBEDDER.predict(CROPS),
        EMBEDDER(CROPS),
        EMBEDDER(FRAME, BOXES),
    ):
        np.testing.assert_array_equal(found, expected(*CROPS))
        assert found.dtype == np.float32
    assert EMBEDDER.inference(FRAME, BOXES).shape == (3, 3)
    np.testing.assert_array_equal(EMBEDDER.features(CROPS), colors(CROPS))


@pytest.mark.parametrize(
    ("boxes", "given"),
    [("ltwh", [[30, 5, 20, 30, 9]]), ("cxcywh", [[40, 20, 20, 30, 9]]), ("xyxy", [[30, 5, 50, 35, 9]])],
)
def test_formats_of_boxes(boxes, given):
    """Numbers behind the box, such as the score, are left alone."""
    embedder = trackers.TrackerEmbedder(colors, 3, boxes=boxes)
    np.testing.assert_array_equal(embedder(FRAME, np.asarray(given)), expected(CROPS[0]))


def test_nothing_is_an_empty_array():
    for found in (EMBEDDER.get_features(np.zeros((0, 4)), FRAME), EMBEDDER.predict([]), EMBEDDER(FRAME, [])):
        assert found.shape == (0, 3)
        assert found.dtype == np.float32


def test_a_box_outside_keeps_its_row():
    boxes = np.concatenate(([[200, 200, 220, 260], [20, 30, 20, 30]], BOXES[:1]))
    found = EMBEDDER.get_features(boxes, FRAME)
    np.testing.assert_array_equal(found, expected(np.zeros((1, 1, 3)), np.zeros((1, 1, 3)), CROPS[0]))
    np.testing.assert_array_equal(EMBEDDER.predict([FRAME[5:5], CROPS[0]]), found[1:])


def test_channels_are_said_once():
    rgb = trackers.TrackerEmbedder(colors, 3, channels="rgb")
    np.testing.assert_array_equal(rgb.predict(CROPS), colors(CROPS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trackers.TrackerEmbedder(colors, 3, boxes="tlwh"), "unknown format of boxes 'tlwh'"),
        (lambda: trackers.TrackerEmbedder(colors, 3, channels="gbr"), "unknown order of channels 'gbr'"),
        (lambda: EMBEDDER(FRAME, np.zeros((2, 3))), r"expected boxes \[N, 4\] \(xyxy\)"),
        (lambda: EMBEDDER.get_features(np.full((1, 4), np.nan), FRAME), "finite"),
        (lambda: EMBEDDER.get_features(np.zeros((1, 5)), FRAME), r"\[N, 4\]"),
        (lambda: EMBEDDER.predict([FRAME / 255]), "uint8"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(errors.UserError, match=message):
        call()


def test_slots_become_one_vector():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(3, 4, 5)).astype(np.float32)
    visibility = generator.uniform(size=(3, 4)).astype(np.float32)
    found = unit_vectors.joined(features, visibility)
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    for first in range(3):
        for second in range(3):
            weights = np.sqrt(visibility[first] * visibility[second])
            total = np.sqrt(visibility[first].sum() * visibility[second].sum())
            mean = (weights * (unit[first] * unit[second]).sum(-1)).sum() / total
            assert found[first] @ found[second] == pytest.approx(mean, abs=1e-6)
    np.testing.assert_array_equal(unit_vectors.joined(np.zeros((1, 3), np.float32)), np.zeros((1, 3)))
