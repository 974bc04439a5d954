"""The step from uint8 images to the model's input, against numpy, and the compute dtype."""

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import build
from reid_jax.config import sections

MEAN, STD, FILL = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2), (7.0, 8.0, 9.0)


def make_batch():
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8) for name in ("image", "image_clean")}
    boxes = {"erase_box": np.array([[0, 0, 2, 3], [0, 0, 0, 0]]), "erase_box_clean": np.array([[1, 1, 4, 2]] * 2)}
    return images | {name: box.astype(np.int32) for name, box in boxes.items()}


def test_every_view_is_normalized_and_then_filled_in_its_own_box():
    """Fills are values after normalization; without a key, as at test time, nothing is filled."""
    batch = make_batch()
    preprocess = jax.jit(build.make_preprocess(sections.Preprocess(MEAN, STD, FILL)))
    trained, tested = preprocess(batch, jax.random.key(0)), preprocess(batch)
    for name in ("image", "image_clean"):
        expected = ((batch[name] / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
        np.testing.assert_allclose(tested[name], expected, atol=1e-5)
        for row, (top, left, bottom, right) in enumerate(batch[name.replace("image", "erase_box")]):
            expected[row, top:bottom, left:right] = FILL
        np.testing.assert_allclose(trained[name], expected, atol=1e-5)


def test_views_are_filled_with_noise_of_their_own():
    batch = make_batch()
    batch["erase_box"] = batch["erase_box_clean"]
    noisy = jax.jit(build.make_preprocess(sections.Preprocess(MEAN, STD, "noise")))(batch, jax.random.key(0))
    assert (np.asarray(noisy["image"])[0, 1:4, 1] != np.asarray(noisy["image_clean"])[0, 1:4, 1]).all()


def test_auto_is_float32_on_cpu(monkeypatch):
    assert build.compute_dtype("auto") is jnp.float32
    assert build.compute_dtype("bfloat16") == jnp.bfloat16
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert build.compute_dtype("auto") is jnp.bfloat16
