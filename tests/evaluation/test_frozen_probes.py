"""Probes of frozen features, and fills that a drawing has to beat.

The numbers in names of tests are those of the properties that masked pretraining's description lists.
"""

import numpy as np

from reid_jax.data import feature_set
from reid_jax.evaluation import frozen_probes, image_quality, image_regions


def features(rng, queries=6, images=10, width=5):
    cameras = rng.integers(0, 3, queries + images)
    values = rng.normal(size=(queries + images, width)) + 10 * cameras[:, None]
    return feature_set.FeatureSet(
        values[:queries].astype(np.float32),
        values[queries:].astype(np.float32),
        np.arange(queries),
        np.arange(images),
        cameras[:queries],
        cameras[queries:],
    )


def test_centered_features_have_no_camera():
    plain = features(np.random.default_rng(0))
    centered = frozen_probes.centered(plain)
    values = np.concatenate((centered.query_features, centered.gallery_features))
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)
    # Adding something to all images of a camera changes nothing.
    other = frozen_probes.dataclasses.replace(
        plain,
        query_features=plain.query_features + 3 * (plain.query_cams == 1)[:, None],
        gallery_features=plain.gallery_features + 3 * (plain.gallery_cams == 1)[:, None],
    )
    np.testing.assert_allclose(frozen_probes.centered(other).query_features, centered.query_features, atol=1e-5)


def test_the_discriminant_finds_what_tells_people_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 30)
    people = rng.normal(size=(6, 2))
    # Two directions tell people apart, beside three that are louder and say nothing.
    values = np.concatenate((people[labels] + 0.1 * rng.normal(size=(180, 2)), rng.normal(size=(180, 3))), axis=1)
    found = frozen_probes.discriminant(values, labels)
    assert found.shape == (5, 5)
    mapped = values @ found
    scatter = lambda x: np.mean([x[labels == label].var(axis=0) for label in range(6)], axis=0)
    # Whitened within, and most of the scatter between people comes first.
    np.testing.assert_allclose(scatter(mapped), 1, atol=0.1)
    between = np.array([mapped[labels == label].mean(axis=0) for label in range(6)]).var(axis=0)
    assert between[:2].min() > 20 * between[2:].max()
    mapped_set = frozen_probes.linear(features(rng), found[:, :2])
    assert mapped_set.query_features.shape == (6, 2)
    assert frozen_probes.discriminant(values[:60], labels[:60]).shape == (5, 1)  # two classes, one direction


def test_19_fills_never_read_hidden_pixels_and_regions_are_a_partition():
    rng = np.random.default_rng(0)
    true, mask = rng.random((4, 8, 6, 3)), rng.random((4, 8, 6)) < 0.5
    cameras, parts = np.array([0, 1, -1, 0]), rng.integers(0, 3, (4, 8, 6))
    training = [(rng.random((8, 6, 3)), camera) for camera in [0] * 20 + [1] * 3]
    averages = image_regions.camera_averages(training)
    assert set(averages) == {0, -1}  # camera 1 has too few images
    np.testing.assert_allclose(averages[0], np.mean([image for image, camera in training if camera == 0], axis=0))
    np.testing.assert_allclose(averages[-1], np.mean([image for image, _ in training], axis=0))

    other = np.where(mask[..., None], rng.random(true.shape), true)
    fills = [image_regions.camera_fill(each, mask, cameras, averages)[mask] for each in (true, other)]
    np.testing.assert_array_equal(fills[0], fills[1])
    filled = [image_quality.Reconstruction(each, each, each, mask).filled()[mask] for each in (true, other)]
    np.testing.assert_array_equal(filled[0], filled[1])
    smooth = [image_regions.smooth_fill(each, mask)[mask] for each in (true, other)]
    np.testing.assert_array_equal(smooth[0], smooth[1])
    # An image that is its camera's average plus an offset is filled without error.
    plain = averages[0][None] + np.array([0.1, -0.2, 0.05])
    np.testing.assert_allclose(image_regions.camera_fill(plain, mask[:1], cameras[:1], averages), plain, atol=1e-12)

    found = image_regions.regions(mask, parts)
    np.testing.assert_array_equal(found["person"] | found["background"], found["all"])
    assert not (found["person"] & found["background"]).any()
    drawn = rng.random(true.shape)
    error = {name: 10 ** (-image_quality.psnr(drawn, true, each) / 10) for name, each in found.items()}
    weights = {name: each.sum() / mask.sum() for name, each in found.items()}
    joined = sum(error[name] * weights[name] for name in ("person", "background"))
    np.testing.assert_allclose(joined, error["all"], rtol=1e-12)
    assert list(image_regions.regions(mask, None)) == ["all"]


def test_19_the_smooth_fill_solves_laplaces_equation():
    height, width, rng = 8, 6, np.random.default_rng(1)
    true, hidden = rng.random((1, height, width, 3)), np.zeros((1, height, width), bool)
    hidden[:, 2:6, 1:5], hidden[:, 0, 0] = True, True
    matrix, right = np.eye(height * width), true.reshape(-1, 3).copy()
    for place in np.flatnonzero(hidden):
        y, x = divmod(place, width)
        near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        near = [a * width + b for a, b in near if 0 <= a < height and 0 <= b < width]
        matrix[place, near], right[place] = -1 / len(near), 0
    expected = np.linalg.solve(matrix, right).reshape(true.shape)
    filled = image_regions.smooth_fill(true, hidden)
    np.testing.assert_allclose(filled, expected, atol=3e-3)
    np.testing.assert_array_equal(filled[~hidden], true[~hidden].astype(np.float32))
    assert not image_regions.smooth_fill(true, np.ones_like(hidden)).any()
