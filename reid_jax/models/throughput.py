"""Speed of a model on this machine: compile time, step time, FLOPs and memory of the compiled programs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class Timing:
    """One program's cost.

    Attributes:
        compile_seconds: tracing, lowering and compilation; next to nothing when the compilation cache has the program.
        step_seconds: wall time of the fastest repetition.
        step_cpu_seconds: processor time of the cheapest repetition; on a busy machine steadier than wall time.
        median_seconds: median wall time.
        images_per_second: batch / step_seconds.
        flops: of one step as the compiler counts them, 0 where it does not say; loops count one turn.
        temporary_bytes: memory beside arguments and results.
    """

    compile_seconds: float
    step_seconds: float
    step_cpu_seconds: float
    median_seconds: float
    images_per_second: float
    flops: float
    temporary_bytes: int

    def flops_utilisation(self, peak_flops: float) -> float:
        """Achieved FLOPs over the device's peak (MFU where the compiler's count is the model's)."""
        return self.flops / self.step_seconds / peak_flops


def random_batch(batch: int, height: int = 256, width: int = 128, classes: int = 751) -> dict[str, jax.Array]:
    """A batch of noise as the models take it: "image" [B, H, W, 3], "camid" [B], "label" [B]."""
    random = np.random.default_rng(0)
    return {
        "image": jnp.asarray(random.normal(size=(batch, height, width, 3)), jnp.float32),
        "camid": jnp.zeros((batch,), jnp.int32),
        "label": jnp.arange(batch, dtype=jnp.int32) % classes,
    }


def random_variables(model: nn.Module, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Small random variables without running (and compiling) the model's initialisers; vectors are near 1."""
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    shapes = jax.eval_shape(lambda keys, batch: model.init(keys, batch, train=False), keys, dict(batch))
    random = np.random.default_rng(0)

    def fill(shape: jax.ShapeDtypeStruct) -> jax.Array:
        values = random.normal(scale=0.02, size=shape.shape) + (len(shape.shape) == 1)
        return jnp.asarray(values, shape.dtype)

    return jax.tree.map(fill, shapes)


def time_train_step(model: nn.Module, batch: Mapping[str, jax.Array], *, repetitions: int = 5) -> Timing:
    """Times forward, backward and an SGD update with momentum, on cross-entropy over every "logits/..." output.

    Args:
        model: follows the model contract, with "logits/..." outputs.
        batch: "image" [B, H, W, 3] normalised, "label" [B], and what else the model reads.
        repetitions: timed steps, after one that does not count.
    """
    variables = random_variables(model, batch)
    optimizer = optax.sgd(0.01, momentum=0.9)
    state = (variables["params"], variables.get("batch_stats", {}), optimizer.init(variables["params"]))

    def step(state: tuple, batch: dict[str, jax.Array], key: jax.Array) -> tuple:
        params, statistics, moments = state

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            full = {"params": params, "batch_stats": statistics}
            outputs, update = model.apply(full, batch, train=True, mutable=["batch_stats"], rngs={"dropout": key})
            logits = [value for name, value in outputs.items() if name.startswith("logits/")]
            losses = [optax.softmax_cross_entropy_with_integer_labels(one, batch["label"]).mean() for one in logits]
            return sum(losses, start=jnp.zeros(())), update.get("batch_stats", {})

        gradients, statistics = jax.grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), statistics, moments

    return _time(step, state, (dict(batch), jax.random.key(0)), len(batch["image"]), repetitions, carries=True)


def time_inference(model: nn.Module, batch: Mapping[str, jax.Array], *, repetitions: int = 5) -> Timing:
    """Times the forward pass to the test descriptor; see `time_train_step` for the arguments."""
    variables = random_variables(model, batch)

    def infer(variables: Any, batch: dict[str, jax.Array]) -> Any:
        outputs = model.apply(variables, batch, train=False)
        describe = getattr(model, "describe", None)
        return outputs if describe is None else describe(outputs)

    return _time(infer, variables, (dict(batch),), len(batch["image"]), repetitions, carries=False)


def _time(function: Callable, state: Any, arguments: tuple, batch: int, repetitions: int, *, carries: bool) -> Timing:
    """Compiles and times `function(state, *arguments)`; with `carries` its result is the next call's state."""
    start = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=(0,) if carries else ()).lower(state, *arguments).compile()
    compile_seconds = time.perf_counter() - start
    wall, processor = [], []
    for _ in range(repetitions + 1):
        before = (time.perf_counter(), time.process_time())
        result = jax.block_until_ready(compiled(state, *arguments))
        wall.append(time.perf_counter() - before[0])
        processor.append(time.process_time() - before[1])
        state = result if carries else state
    cost = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    fastest = min(wall[1:])
    return Timing(
        compile_seconds=compile_seconds,
        step_seconds=fastest,
        step_cpu_seconds=min(processor[1:]),
        median_seconds=float(np.median(wall[1:])),
        images_per_second=batch / fastest,
        flops=float(cost.get("flops", 0.0)),
        temporary_bytes=int(getattr(memory, "temp_size_in_bytes", 0)),
    )
