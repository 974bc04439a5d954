"""Compiles the programs of full-size systems for accelerators that are not there, and says what they would need.

The programs are those that a run uses: the whole train step of a published recipe (all losses, its optimizer, the
forward pass in training mode), and the function from images to embeddings. Nothing is computed; arrays are shapes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from reid_jax.benchmarks import program_counts, subjects, targets
from reid_jax.config import files
from reid_jax.ops import batch_parts, platforms
from reid_jax.runs import experiment, plan
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import step

Row = dict[str, Any]

KINDS = ("train", "infer")
BATCHES = (64, 256)  # images on each chip
MEMORIES = (16, 80, 141)  # GB of a v5e, an H100 and an H200
CLASSES = 751


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


def measure(
    names: Sequence[str],
    configs: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
    kinds: Sequence[str] = KINDS,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Returns a row for each target, system, program and batch; a program that does not compile has its reason.

    Args:
        names: targets, such as "tpu:v5e:2x2".
        configs: config files or names with presets; none for the published recipes of all systems on Market-1501.
        batches: images on each chip.
        kinds: among `KINDS`.
        report: is called with each row as it is measured.

    Raises:
        UserError: a target that is unknown, or whose compiler is not installed.
    """
    known = [targets.parse(name) for name in names]
    meshes = [targets.create_mesh(target) for target in known]
    rows: list[Row] = []
    for target, mesh in zip(known, meshes, strict=True):
        for name in configs or [f"{system}:market1501" for system in sorted(files.packaged())]:
            jax.clear_caches()  # formulations of another platform
            with platforms.tracing_for(target.platform):
                config = subjects.of_config(
                    files.load_config(name), {"dtype": "bfloat16", "init.weights": "scratch"}
                ).config
                assert config is not None
                run = subjects.config_run(config, CLASSES)
                for kind in kinds:
                    rows += _program_rows(target, mesh, kind, name, abstract(kind, run), batches, report)
    return rows


def _program_rows(
    target: targets.Target,
    mesh: Mesh,
    kind: str,
    name: str,
    program: Abstract,
    batches: Sequence[int],
    report: Callable[[Row], None],
) -> list[Row]:
    """Returns the rows of one program; the last has the largest batches that fit, by a line through all."""
    rows: list[Row] = []
    for batch in batches:
        row: Row = {"target": target.name, "what": f"{kind} {name}", "batch_per_chip": batch}
        try:
            row |= compile_for(program, mesh, batch)
        except (RuntimeError, ValueError, NotImplementedError) as error:  # what XLA raises
            row["note"] = f"does not compile: {' '.join(str(error).split())[:300]}"
        rows.append(row)
        if batch == batches[-1]:
            row |= largest_batches(rows)
        report(row)
    return rows


def compile_for(program: Abstract, mesh: Mesh, batch: int) -> Row:
    """Returns the figures of a program compiled for the devices of a mesh, with `batch` images on each."""
    jitted, arguments = program.on(mesh, batch * mesh.size)
    began = time.perf_counter()
    traced = jitted.trace(*arguments)
    lowered = traced.lower()
    trace_seconds = time.perf_counter() - began
    began = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()

    def size(name: str) -> int:
        return int(getattr(memory, f"{name}_size_in_bytes", 0))

    jaxpr = program_counts.used(traced.jaxpr)
    found = program_counts.products(jaxpr)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments[0]))
    return {
        "chips": mesh.size,
        "trace_s": round(trace_seconds, 1),
        "compile_s": round(compile_seconds, 1),
        "GB_per_chip": (size("argument") + size("output") + size("temp") - size("alias")) / 1e9,
        "gflop_per_image": found["flops"] / (batch * mesh.size) / 1e9,
        "bfloat16_share": found["bfloat16_share"],
        **program_counts.compiled_operations(compiled.as_text()),
        **program_counts.wide_and_callbacks(jaxpr),
        "donated": round(size("alias") / state, 3) if program.donated else None,
        "note": f"not bfloat16: {found['others']}" if found["others"] else "",
    }


def largest_batches(rows: Sequence[Row]) -> Row:
    """Returns, for each memory of `MEMORIES`, the largest batch on a chip by a line through the compiled ones.

    Args:
        rows: rows of one program, with `batch_per_chip` and `GB_per_chip`; with fewer than two, nothing is known.
    """
    known = [(row["batch_per_chip"], row["GB_per_chip"]) for row in rows if "GB_per_chip" in row]
    if len(known) < 2:
        return {}
    (first, low), (last, high) = known[0], known[-1]
    slope = (high - low) / (last - first)
    if slope <= 0:
        return {}
    return {f"fits_{limit}_GB": max(0, int((limit - low) / slope + first)) for limit in MEMORIES}
