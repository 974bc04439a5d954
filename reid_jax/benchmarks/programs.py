"""Compiled programs of a model and their cost: compile time, step time, FLOPs and memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reid_jax import progress


@dataclasses.dataclass(frozen=True)
class Timing:
    """The cost of a program.

    Attributes:
        compile_seconds: tracing, lowering and compilation; close to zero when the compilation cache has the program.
        step_seconds: wall time of the fastest repetition.
        step_cpu_seconds: processor time of the cheapest repetition; on a busy machine steadier than wall time.
        median_seconds: median wall time.
        images_per_second: batch / step_seconds.
        flops: FLOPs of one step as the compiler counts them, 0 where it does not; a loop counts as one iteration.
        temporary_bytes: memory in addition to arguments and results.
        memory_bytes: all of the program's memory: arguments, results and temporaries.
    """

    compile_seconds: float
    step_seconds: float
    step_cpu_seconds: float
    median_seconds: float
    images_per_second: float
    flops: float
    temporary_bytes: int
    memory_bytes: int

    def flops_utilization(self, peak_flops: float) -> float:
        """Returns achieved FLOP/s over the device's peak (MFU where the compiler counts the model's FLOPs)."""
        return self.flops / self.step_seconds / peak_flops


def random_batch(batch: int, height: int = 256, width: int = 128, classes: int = 751) -> dict[str, jax.Array]:
    """Returns a batch of noise as input of the models: "image" [B, H, W, 3], "camid" [B], "label" [B]."""
    random = np.random.default_rng(0)
    return {
        "image": jnp.asarray(random.normal(size=(batch, height, width, 3)), jnp.float32),
        "camid": jnp.zeros((batch,), jnp.int32),
        "label": jnp.arange(batch, dtype=jnp.int32) % classes,
    }


def random_variables(model: Any, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Returns small random variables, without running (and compiling) the model's initializers; vectors are near 1."""
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    shapes = jax.eval_shape(lambda keys, batch: model.init(keys, batch, train=False), keys, dict(batch))
    random = np.random.default_rng(0)

    def fill(shape: jax.ShapeDtypeStruct) -> jax.Array:
        values = random.normal(scale=0.02, size=shape.shape) + (len(shape.shape) == 1)
        return jnp.asarray(values, shape.dtype)

    return dict(jax.tree.map(fill, shapes))


@dataclasses.dataclass
class Program:
    """A compiled function with its arguments, to be run repeatedly.

    Attributes:
        compiled: the function of `(state, *arguments)`.
        state: first argument.
        arguments: the other arguments.
        batch: images per call.
        compile_seconds: see `Timing`.
        carry: maps a result to the state of the next call; None leaves the state unchanged.
    """

    compiled: Any
    state: Any
    arguments: tuple[Any, ...]
    batch: int
    compile_seconds: float
    carry: Callable[[Any], Any] | None = None

    @classmethod
    def compile(
        cls,
        function: Callable[..., Any],
        state: Any,
        arguments: tuple[Any, ...],
        batch: int,
        carry: Callable[[Any], Any] | None = None,
    ) -> Program:
        """Returns the compiled `function(state, *arguments)`, jitted already or not; a carried state is donated."""
        jitted: Any = (
            function if hasattr(function, "lower") else jax.jit(function, donate_argnums=(0,) if carry else ())
        )
        start = time.perf_counter()
        with progress.waiting("compiling a program"):
            compiled = jitted.lower(state, *arguments).compile()
        return cls(compiled, state, arguments, batch, time.perf_counter() - start, carry)

    def __call__(self) -> None:
        """Runs the program and waits for the result."""
        result = jax.block_until_ready(self.compiled(self.state, *self.arguments))
        if self.carry is not None:
            self.state = self.carry(result)

    def timing(self, wall: Sequence[float], processor: Sequence[float]) -> Timing:
        """Returns the cost, from wall and processor seconds of some calls."""
        cost = self.compiled.cost_analysis() or {}
        memory = self.compiled.memory_analysis()

        def size(name: str) -> int:
            return int(getattr(memory, f"{name}_size_in_bytes", 0))

        return Timing(
            compile_seconds=self.compile_seconds,
            step_seconds=min(wall),
            step_cpu_seconds=min(processor),
            median_seconds=float(np.median(wall)),
            images_per_second=self.batch / min(wall),
            flops=float(cost.get("flops", 0.0)),
            temporary_bytes=size("temp"),
            memory_bytes=size("argument") + size("output") + size("temp") - size("alias"),
        )


def alternate(
    runs: Mapping[str, Callable[[], None]], repetitions: int, *, warm: bool = True
) -> dict[str, tuple[list[float], list[float]]]:
    """Returns the times of functions called in turn, so that other programs affect all of them alike.

    Args:
        runs: functions by name; each returns when its work is done.
        repetitions: number of timed rounds.
        warm: whether a round that is not timed comes before them.

    Returns:
        By name, wall seconds and processor seconds of every round.
    """
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for round_ in range(repetitions + warm):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if round_ >= warm:
                seconds[name][0].append(time.perf_counter() - wall)
                seconds[name][1].append(time.process_time() - processor)
    return seconds


def train_program(model: Any, batch: Mapping[str, jax.Array]) -> Program:
    """Returns a train step: forward, backward and SGD with momentum, on cross-entropy over every "logits/..." output.

    Args:
        model: follows the model contract, with "logits/..." outputs.
        batch: "image" [B, H, W, 3] normalized, "label" [B], and other inputs of the model.
    """
    variables = random_variables(model, batch)
    optimizer = optax.sgd(0.01, momentum=0.9)
    state = (variables["params"], variables.get("batch_stats", {}), optimizer.init(variables["params"]))
    constants = {name: tree for name, tree in variables.items() if name not in ("params", "batch_stats")}

    def step(state: tuple[Any, Any, Any], batch: dict[str, jax.Array], key: jax.Array) -> tuple[Any, Any, Any]:
        params, statistics, moments = state

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            full = {**constants, "params": params, "batch_stats": statistics}
            outputs, update = model.apply(full, batch, train=True, mutable=["batch_stats"], rngs={"dropout": key})
            logits = [value for name, value in outputs.items() if name.startswith("logits/")]
            losses = [
                optax.softmax_cross_entropy_with_integer_labels(values, batch["label"]).mean() for values in logits
            ]
            return sum(losses, start=jnp.zeros(())), update.get("batch_stats", {})

        gradients, statistics = jax.grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), statistics, moments

    arguments = (dict(batch), jax.random.key(0))
    return Program.compile(step, state, arguments, len(batch["image"]), carry=lambda result: result)


def inference_program(model: Any, batch: Mapping[str, jax.Array]) -> Program:
    """Returns the forward pass to the test descriptor; see `train_program` for the arguments.

    Labels serve the initialization alone: at test time nobody has them.
    """
    variables = random_variables(model, batch)
    inputs = {name: value for name, value in batch.items() if name != "label"}

    def infer(variables: Any, batch: dict[str, jax.Array]) -> Any:
        outputs = model.apply(variables, batch, train=False)
        describe = getattr(model, "describe", None)
        return outputs if describe is None else describe(outputs)

    return Program.compile(infer, variables, (inputs,), len(batch["image"]))


def time_train_step(model: Any, batch: Mapping[str, jax.Array], *, repetitions: int = 5) -> Timing:
    """Returns the cost of `train_program`: of `repetitions` calls, after one that is not timed."""
    return _time(train_program(model, batch), repetitions)


def time_inference(model: Any, batch: Mapping[str, jax.Array], *, repetitions: int = 5) -> Timing:
    """Returns the cost of `inference_program`, likewise."""
    return _time(inference_program(model, batch), repetitions)


def _time(program: Program, repetitions: int) -> Timing:
    return program.timing(*alternate({"": program}, repetitions)[""])
