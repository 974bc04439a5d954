"""How cost grows from 10,000 to 1,000,000 training images of ten times fewer people: seconds and memory of every stage.

Each stage of each size runs in a process of its own, so that its memory is its own. The images are small and generated;
what is measured is what happens per image and per identity, not decoding.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from reid_jax import errors
from reid_jax.benchmarks import measuring

Row = dict[str, Any]

SIZES = (10_000, 100_000, 1_000_000)
PER_PERSON = 10
TEST_PEOPLE = 100
DIMENSIONS = 512
DEVICES = 8  # simulated, over which the classifier is split
SAMPLERS = ("identity_groups", "identity_epoch", "image_epoch", "shuffle")
LIMIT = 3 * 3600  # seconds of a stage, far above what it takes


def measure(
    folder: str | pathlib.Path, sizes: Sequence[int] = SIZES, report: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Returns a row for every stage of every size.

    Args:
        folder: holds the generated images, the prepared data sets and the rows; what is there is not made again.
        sizes: numbers of training images.
        report: called with each row as it is measured.

    Returns:
        Rows with `what`, `images`, `people`, `seconds`, `core_seconds`, `extra_MB` (memory beyond that at the start of
        the stage), and numbers of the stage's own.
    """
    place = pathlib.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for images in sizes:
        for stage in STAGES:
            kept = place / f"{stage}-{images}.json"
            if not kept.exists():
                _run(stage, images, place, kept)
            for row in json.loads(kept.read_text(encoding="utf-8")):
                rows.append(row)
                report(row)
    return rows


def _run(stage: str, images: int, place: pathlib.Path, kept: pathlib.Path) -> None:
    """Runs a stage in a process of its own, which writes its rows."""
    environment = {**os.environ, "REID_JAX_COMPILATION_CACHE": "off"}
    if stage == "split classifier":
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
    done = subprocess.run(
        [sys.executable, "-m", __name__, stage, str(images), str(place), str(kept)],
        env=environment, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    if done.returncode:
        raise errors.UserError(
            f"expected the stage {stage!r} of {images:,} images to be measured, its process ended with "
            f"{done.returncode}: {done.stderr.strip()[-300:]}"
        )


def _row(what: str, images: int, cost: measuring.Cost, **more: Any) -> Row:
    return {
        "what": what,
        "images": images,
        "people": images // PER_PERSON,
        "seconds": round(cost.seconds, 3),
        "core_seconds": round(cost.core_seconds, 3),
        "extra_MB": round(cost.extra_bytes / 1e6, 1),
        **more,
    }


def draw(folder: pathlib.Path, images: int) -> pathlib.Path:
    """Writes images of 16 x 32 pixels in folders by person, ten of each in training, and returns their folder."""
    import cv2

    source = folder / f"images-{images}"
    if source.exists():
        return source
    unfinished = folder / f"images-{images}.unfinished"
    random = np.random.default_rng(images)

    def person(split: str, number: int, cameras: Sequence[int]) -> None:
        directory = unfinished / split / f"{number:06d}"
        directory.mkdir(parents=True, exist_ok=True)
        for each, camera in enumerate(cameras):
            colors = random.integers(0, 256, (4, 2, 3), dtype=np.uint8)
            pixels = cv2.resize(colors, (16, 32), interpolation=cv2.INTER_NEAREST)
            name = f"{number:06d}_c{camera + 1}_{each:03d}.png"
            (directory / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())

    people = images // PER_PERSON
    for number in range(1, people + 1):
        person("train", number, [each % 6 for each in range(PER_PERSON)])
    for number in range(people + 1, people + TEST_PEOPLE + 1):
        person("query", number, [0])
        person("gallery", number, [1, 2, 3, 4])
    unfinished.rename(source)
    return source


def _prepare(images: int, place: pathlib.Path) -> list[Row]:
    """Lists, decodes, checks and writes the images, the way that a user's folder goes."""
    from reid_jax.data import prepare

    source = draw(place, images)
    with measuring.measured() as cost:
        prepare.prepare("reid_folder", place / f"data-{images}", source)
    return [_row("prepare a folder", images, cost)]


def _open(images: int, place: pathlib.Path) -> list[Row]:
    """Opens the prepared data set, which costs its index in memory, and hashes it as every start does."""
    from reid_jax.data import records

    small = records.open_dataset("reid_folder", place / f"data-{SIZES[0]}")  # loads the libraries
    del small
    with measuring.measured() as cost:
        dataset = records.open_dataset("reid_folder", place / f"data-{images}")
    rows = [_row("open", images, cost)]
    with measuring.measured() as cost:
        dataset.index_hash()
    return [*rows, _row("hash of the index", images, cost)]


def _plan(images: int, place: pathlib.Path) -> list[Row]:
    """Plans an epoch with every sampler."""
    from reid_jax.data import samplers

    labels = np.repeat(np.arange(images // PER_PERSON), PER_PERSON)
    rows = []
    for name in SAMPLERS:
        with measuring.measured() as cost:
            sampler = samplers.build({"name": name}, labels, 0)
            sampler.indices(0)
        rows.append(_row(f"plan of an epoch: {name}", images, cost, batches=sampler.batches_per_epoch))
    return rows


def _classifier(people: int) -> tuple[Any, Any, Any]:
    """Returns the update of a BNNeck with a classifier of so many people, its state, and a batch of 64 embeddings."""
    import jax.numpy as jnp
    import optax

    from reid_jax.losses import cross_entropy
    from reid_jax.nn import heads
    from reid_jax.train import state as state_lib
    from reid_jax.train import step

    head = heads.BNNeck(people)
    batch = {"feature": jnp.ones((64, DIMENSIONS)), "label": jnp.arange(64, dtype=jnp.int32)}
    optimizer = optax.adam(3e-4)

    def objective(variables: Any, extra: Any, batch: Any, key: Any) -> Any:
        (_, logits), changed = head.apply(variables, batch["feature"], train=True, mutable=["batch_stats"])
        loss = cross_entropy.cross_entropy(logits, labels=batch["label"], label_smoothing=0.1)
        return loss, (changed["batch_stats"], {})

    def begin() -> Any:
        variables = head.init(jax.random.key(0), batch["feature"], train=False)
        state = state_lib.create(variables)
        return state.replace(opt_state=optimizer.init(state.params))

    return step.make_update(objective, optimizer, {}), begin, batch


def _step(images: int, place: pathlib.Path) -> list[Row]:
    """Makes Adam steps of a classifier alone, which is what grows with the number of people."""
    from reid_jax.runtime import mesh as mesh_lib
    from reid_jax.train import step

    update, begin, batch = _classifier(images // PER_PERSON)
    mesh = mesh_lib.create_mesh()
    state = mesh_lib.place(jax.jit(begin)(), mesh)
    batch = mesh_lib.to_global(batch, mesh)
    compiled = step.compiled(lambda state, batch, key: update(state, batch, key), state, mesh)

    def work() -> None:
        nonlocal state
        for number in range(5):
            state, metrics = compiled(state, batch, jax.random.key(number))
        jax.block_until_ready(metrics)

    _, cost, seconds = measuring.compiled(work, 2)
    cost.seconds, cost.core_seconds = cost.seconds / 5, cost.core_seconds / 5
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return [
        _row("step of a classifier", images, cost, compile_seconds=round(seconds, 2), state_MB=round(held / 1e6, 1))
    ]


def _split_classifier(images: int, place: pathlib.Path) -> list[Row]:
    """Compiles the same step for eight devices: memory of each, and what they send."""
    from reid_jax.benchmarks import program_text
    from reid_jax.runtime import mesh as mesh_lib
    from reid_jax.train import step

    update, begin, batch = _classifier(images // PER_PERSON)
    mesh = mesh_lib.create_mesh()
    state = mesh_lib.abstract(jax.eval_shape(begin), mesh)
    split = mesh_lib.sharded(mesh)
    batch = {name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=split) for name, value in batch.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    with measuring.measured() as cost:
        program = step.compiled(lambda state, batch, key: update(state, batch, key), state, mesh)
        program = program.lower(state, batch, key).compile()
    memory = program.memory_analysis()
    found = program_text.collectives(program_text.parse(program.as_text()), mesh.size)
    more = {
        "devices": mesh.size,
        "state_MB": round(memory.argument_size_in_bytes / 1e6, 1),
        "temporary_MB": round(memory.temp_size_in_bytes / 1e6, 1),
        **{kind.replace("-", "_"): each["count"] for kind, each in found.items() if each["count"]},
    }
    return [_row("compile that step for 8 devices (MB of each)", images, cost, **more)]


def _evaluate(images: int, place: pathlib.Path) -> list[Row]:
    """Ranks a gallery of that size for 100 queries."""
    from reid_jax.benchmarks import ranking_speed

    found = ranking_speed.rank_growth((images,))[0]
    kept = {key: found[key] for key in ("seconds", "core_seconds", "extra_MB", "compile_seconds")}
    return [{"what": "rank 100 queries", "images": images, "people": images // 25, **kept}]


STAGES: dict[str, Callable[[int, pathlib.Path], list[Row]]] = {
    "prepare": _prepare,
    "open": _open,
    "plan": _plan,
    "step": _step,
    "split classifier": _split_classifier,
    "evaluate": _evaluate,
}


def main(arguments: Sequence[str]) -> int:
    """Measures one stage: its name, the number of images, the folder, and the file of its rows."""
    stage, images, place, kept = arguments
    rows = STAGES[stage](int(images), pathlib.Path(place))
    unfinished = pathlib.Path(f"{kept}.unfinished")
    unfinished.write_text(json.dumps(rows), encoding="utf-8")
    unfinished.rename(kept)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
