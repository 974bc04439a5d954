"""PSNR of drawn patches beside a plain fill, and the sheet of pictures."""

import numpy as np
import pytest
from PIL import Image

from reid_jax.evaluation import image_quality


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    true = rng.random((3, 8, 4, 3)).astype(np.float32)
    mask = np.zeros((3, 8, 4), bool)
    mask[:2, 2:6] = True
    return true, mask


def test_psnr_counts_hidden_pixels_alone(pictures):
    true, mask = pictures
    drawn = np.where(mask[..., None], true + 0.1, 5.0)
    assert image_quality.psnr(drawn, true, mask) == pytest.approx(20, abs=1e-4)  # -10 log10(0.1 ** 2)
    assert image_quality.psnr(true, true, mask) == float("inf")


def test_scores_stand_beside_the_mean_color_of_what_is_visible(pictures):
    true, mask = pictures
    made = image_quality.Reconstruction(true, np.where(mask[..., None], true - 0.05, -9.0), true, mask)
    visible = true[0][~mask[0]].mean(axis=0)
    np.testing.assert_allclose(made.filled()[0][mask[0]], np.tile(visible, (16, 1)), rtol=1e-5)
    np.testing.assert_array_equal(made.filled()[2], true[2])
    np.testing.assert_array_equal(made.completed()[~mask], true[~mask])
    assert made.completed().min() >= 0
    scores = made.scores()
    error = np.mean((made.filled()[mask].astype(np.float64) - true[mask]) ** 2)
    assert scores["mean_fill_psnr"] == pytest.approx(-10 * np.log10(error))
    assert scores["psnr"] > scores["mean_fill_psnr"]
    # A drawing that took its brightness from the true picture has no PSNR; neither has one of nothing.
    assert image_quality.Reconstruction(true, true, true, mask, comparable=False).scores() == {}
    assert image_quality.Reconstruction(true, true, true, np.zeros_like(mask)).scores() == {}


def test_the_sheet_shows_seen_drawn_and_true_side_by_side(pictures, tmp_path):
    true, mask = pictures
    seen = np.where(mask[..., None], 0.0, true)
    made = image_quality.Reconstruction(seen, np.ones_like(true), true, mask)
    made.write(tmp_path / "sheet.png", people=2)
    with Image.open(tmp_path / "sheet.png") as file:
        page = np.asarray(file)
    assert page.shape == (8 + 8, 2 * (3 * 4 + 16), 3)
    left, middle, right = (page[4:12, at : at + 4] for at in (4, 10, 16))
    assert (left[2:6] == 0).all()
    assert (middle[2:6] == 255).all()
    np.testing.assert_array_equal(right, np.rint(255 * true[0]).astype(np.uint8))
    np.testing.assert_array_equal(middle[:2], right[:2])


def test_the_share_of_a_pattern_knows_neither_mean_nor_scale(pictures):
    true, mask = pictures
    share = lambda drawn: image_quality.pattern_share(drawn, true, mask, 2)
    assert share(3 + 0.1 * true) == pytest.approx(1, abs=1e-3)
    assert share(np.full_like(true, 0.3)) == pytest.approx(0, abs=1e-6)
    assert share(np.where(mask[..., None], true, 7.0)) == pytest.approx(1, abs=1e-4)  # hidden patches alone
    noisy = true + 0.3 * np.random.default_rng(1).normal(size=true.shape)
    assert 0.2 < share(noisy) < 0.95
