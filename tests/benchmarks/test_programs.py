"""The timing functions run a real model and report what they promise."""

import flax.linen as nn
import pytest

from reid_jax import models
from reid_jax.benchmarks import programs


def test_train_step_and_inference_of_a_tiny_model():
    model = models.build("bot", num_classes=5, size="resnet18", depths=(1, 1, 1, 1), width=4)
    batch = programs.random_batch(2, 32, 16, classes=5)
    for time_it in (programs.time_train_step, programs.time_inference):
        timing = time_it(model, batch, repetitions=2)
        assert 0 < timing.step_seconds <= timing.median_seconds
        assert timing.images_per_second == pytest.approx(2 / timing.step_seconds)
        assert timing.flops > 1e5
        assert timing.compile_seconds > 0
        assert timing.flops_utilization(1e12) == pytest.approx(timing.flops / timing.step_seconds / 1e12)


def test_inference_sees_no_labels():
    class Curious(nn.Module):
        def __call__(self, batch, *, train):
            assert "label" not in batch or self.is_initializing()
            return {"logits/g": batch["image"].mean(axis=(1, 2))}

    timing = programs.time_inference(Curious(), programs.random_batch(2, 4, 2), repetitions=1)
    assert timing.step_seconds > 0
