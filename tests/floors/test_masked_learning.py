"""A masked autoencoder learns 32 images with fixed masks by heart, and draws them better than their mean color.

Property 20 of masked pretraining's description. Not part of `make test`: `make floors`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reid_jax import losses, models
from reid_jax.data import image_io, prepare
from reid_jax.evaluation import image_quality, image_regions
from reid_jax.ops import images as image_ops

STEPS, IMAGES, SIZE, PATCH = 300, 32, (64, 32), 8
# Pixels as they are (the row `raw_target`): of normalized patches the mean color is not learned but read off.
TERMS = {"main": {"loss": "masked_patches", "on": ("pixels/predicted", "batch/image", "pixels/mask")}}
SIZES = {"width": 64, "depth": 2, "heads": 4, "decoder_width": 64, "decoder_depth": 1, "decoder_heads": 4}


def pictures(root):
    """Images uint8 [32, H, W, 3] and the pixels of people, bool [32, H, W]."""
    split = prepare.ensure("synthped", root, size="tiny", seed=0).split("train")
    images = [image_io.resize(split.image(row), *SIZE) for row in range(IMAGES)]
    maps = [image_io.decode_map(split.source[row]["parts"], "map")[::2, ::2] for row in range(IMAGES)]
    return np.stack(images), np.stack(maps)


def test_20_images_are_learned_and_drawn(tmp_path):
    images, parts = pictures(tmp_path)
    model = models.build("mim", image_size=SIZE, patch=PATCH, **SIZES)
    batch = {
        "image": jnp.asarray(images / 127.5 - 1, jnp.float32),
        "mask_seed": np.random.default_rng(0).integers(2**32, size=(IMAGES, 2), dtype=np.uint32),
    }
    params = jax.jit(lambda key: model.init(key, batch, train=False)["params"])(jax.random.key(0))
    rates = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 30, STEPS)
    optimizer = optax.adamw(rates, b2=0.95, weight_decay=0.0)

    def objective(params):
        outputs = model.apply({"params": params}, batch, train=True)
        total, metrics = losses.evaluate_terms(TERMS, {"batch/image": batch["image"], **outputs})
        return total, (metrics, outputs)

    @jax.jit
    def step(params, state):
        (_, (metrics, outputs)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, metrics["loss/main"], outputs

    state, history = optimizer.init(params), []
    for _ in range(STEPS):
        params, state, value, outputs = step(params, state)
        history.append(float(value))
    assert history[-1] < 0.5 * history[0]

    drawn = np.asarray(image_ops.unpatchify(outputs["pixels/predicted"], PATCH, *SIZE)) / 2 + 0.5
    mask = np.asarray(outputs["pixels/mask"]).reshape(IMAGES, SIZE[0] // PATCH, SIZE[1] // PATCH)
    mask = mask.repeat(PATCH, axis=1).repeat(PATCH, axis=2)
    seen = image_quality.Reconstruction(images, drawn, images / 255.0, mask)
    for region, pixels in image_regions.regions(mask, parts).items():
        scores = [image_quality.psnr(each, seen.true, pixels) for each in (seen.completed(), seen.filled())]
        assert scores[0] > scores[1], (region, scores)
