"""Compiles the programs of full-size systems for accelerators that are not there, and says what they would need.

The programs are those that a run uses: the whole train step of a published recipe (all losses, its optimizer, the
forward pass in training mode), and the function from images to embeddings. Nothing is computed; arrays are shapes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from reid_jax.benchmarks import bounds, program_counts, program_text, subjects, targets
from reid_jax.config import files
from reid_jax.ops import batch_parts, platforms
from reid_jax.runs import experiment, plan
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import step

Row = dict[str, Any]

CLASSES = 751

# Without timing on a device XLA finds no tiles for some products in Triton. The figures of a program that compiles both
# ways are the same.
OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_enable_triton_gemm": False}, "tpu": {}}
# Kernels are not made fast where they cannot run; nothing that is counted depends on it.
OPTIONS["gpu"] |= {"xla_backend_optimization_level": 0, "xla_gpu_disable_gpuasm_optimizations": True}
# A quarter of the processor's time for a TPU; memory and its traffic come out higher.
LEAST_EFFORT = {"gpu": {}, "tpu": {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}}


@dataclasses.dataclass(frozen=True)
class Abstract:
    """A program as a function and the shapes of its arguments.

    Attributes:
        function: the program.
        arguments: trees of `jax.ShapeDtypeStruct`; the leading axis of the batch is that of one example batch.
        batch: position of the batch among the arguments.
        donated: whether the first argument's memory is used for the result.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    batch: int
    donated: bool

    def on(self, mesh: Mesh, images: int) -> tuple[Any, tuple[Any, ...]]:
        """Returns the jitted program, and its arguments placed on a mesh with `images` in the batch."""
        split = mesh_lib.sharded(mesh)
        placed = [mesh_lib.abstract(each, mesh) for each in self.arguments]
        placed[self.batch] = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((images, *x.shape[1:]), x.dtype, sharding=split), self.arguments[self.batch]
        )
        if self.donated:
            divided = batch_parts.applied(self.function, batch_parts.Parts(mesh))
            return step.compiled(divided, self.arguments[0], mesh), tuple(placed)
        return jax.jit(self.function, out_shardings=split), tuple(placed)


def abstract(kind: str, run: experiment.Experiment) -> Abstract:
    """Returns a program of a run: "train" for the step of its longest phase, "infer" for its embeddings."""
    initial = run.initial_shapes()
    if kind == "infer":
        image = {key: value for key, value in run.extractor.example_batch().items() if key != "label"}
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), image)

        def describe(variables: Any, batch: Any) -> Any:
            return run.model.describe(run.model.apply(variables, run.preprocess(batch), train=False))

        return Abstract(describe, (initial.variables, shapes), 1, donated=False)
    schedule = run.phases(initial.variables)
    phase = max(schedule, key=lambda each: each.last_step - each.first_step)
    begun = functools.partial(plan.state_at, schedule=schedule, at_step=phase.first_step + 1)
    state = jax.eval_shape(begun, initial)
    assert phase.example is not None
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), phase.example())
    pure = phase.step.pure  # type: ignore[attr-defined]
    return Abstract(pure, (state, batch, jax.ShapeDtypeStruct((), jnp.uint32)), 1, donated=True)


def program(target: targets.Target, name: str, kind: str, options: Mapping[str, Any]) -> Abstract:
    """Returns a program of a config in bfloat16; call it, and what it returns, inside `platforms.tracing_for`.

    Args:
        target: devices that it is for.
        name: config file or name, with its preset.
        kind: "train" or "infer".
        options: other values of dotted keys of the config.
    """
    assert platforms.target() == target.platform
    overrides = {"dtype": "bfloat16", "init.weights": "scratch", **options}
    config = subjects.of_config(files.load_config(name), overrides).config
    assert config is not None
    return abstract(kind, subjects.config_run(config, CLASSES))


def compile_for(target: targets.Target, program: Abstract, mesh: Mesh, batch: int, *, quick: bool = False) -> Row:
    """Returns the figures of a program compiled for the devices of a mesh, with `batch` images on each.

    Args:
        target: the devices.
        program: the program, traced for their platform.
        mesh: mesh of them.
        batch: images on each.
        quick: compiles with the least effort, see `LEAST_EFFORT`.
    """
    options = OPTIONS[target.platform] | (LEAST_EFFORT[target.platform] if quick else {})
    jitted, arguments = program.on(mesh, batch * mesh.size)
    began = time.perf_counter()
    traced = jitted.trace(*arguments)
    lowered = traced.lower()
    trace_seconds = time.perf_counter() - began
    began = time.perf_counter()
    compiled = lowered.compile(compiler_options=options or None)
    compile_seconds = time.perf_counter() - began
    memory, text = compiled.memory_analysis(), program_text.parse(compiled.as_text())

    def size(name: str) -> int:
        return int(getattr(memory, f"{name}_size_in_bytes", 0))

    jaxpr = program_counts.used(traced.jaxpr)
    found = program_counts.products(jaxpr)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments[0]))
    return {
        "chips": mesh.size,
        "effort": "least" if quick and LEAST_EFFORT[target.platform] else "",
        "trace_s": round(trace_seconds, 1),
        "compile_s": round(compile_seconds, 1),
        "state_GB": state / 1e9,
        "GB_per_chip": (size("argument") + size("output") + size("temp") - size("alias")) / 1e9,
        "gflop_per_image": found["flops"] / (batch * mesh.size) / 1e9,
        "bfloat16_share": found["bfloat16_share"],
        **bounds.of(target, text, mesh.size, found["flops"] / mesh.size),
        **program_text.operations(text),
        **program_counts.wide_and_callbacks(jaxpr),
        "donated": round(size("alias") / state, 3) if program.donated else None,
        "note": f"not bfloat16: {found['others']}" if found["others"] else "",
    }
