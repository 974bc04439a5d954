"""What the parts of a campaign measure; each returns the rows of its table, see `campaign` for their order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.benchmarks import campaign, input_speed, model_speed, ranking_speed, subjects, tables, traces
from reid_jax.benchmarks.torch import counterparts
from reid_jax.config import files
from reid_jax.runtime import mesh

Row = dict[str, Any]

# Systems whose demo gives the small size of a model for `--quick`.
DEMOS = {"resnet50": "bot", "osnet_x1_0": "osnet"}
# PyTorch has the same network; MFV and AMFOR have a counterpart of their backbone at most, which compares nothing.
COMPARED = ("resnet50", "transreid", "osnet_x1_0")
STEPS = 10
# A run of BoT for `--quick`.
SMALL: dict[str, Any] = {"model.width": 8, "data.height": 64, "data.width": 32}


@dataclasses.dataclass(frozen=True)
class Task:
    """What a campaign measures.

    Attributes:
        folder: the campaign's folder.
        quick: whether the sizes are those for a CPU.
        torch: whether PyTorch is compared with.
    """

    folder: campaign.Folder
    quick: bool = False
    torch: bool = False

    @property
    def dtype(self) -> str:
        """The data type of activations: "bfloat16", on a CPU "float32"."""
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def measure(name: str, task: Task) -> list[Row]:
    """Returns the rows of a part of `campaign.plan`."""
    what, _, rest = name.partition("-")
    return PARTS[what](task, *([rest] if rest else []))


def device(task: Task) -> list[Row]:
    """Returns what the device is, and its two ceilings: FLOP/s of a matrix product, and bytes/s of a copy."""
    size, length = (512, 1 << 24) if task.quick else (8192, 1 << 28)
    dtype = jnp.dtype(task.dtype)
    matrix = jnp.ones((size, size), dtype)
    products = 10

    multiply = jax.jit(lambda a: jax.lax.fori_loop(0, products, lambda _, x: (x @ a) * jnp.asarray(1 / size, dtype), a))
    vector = jnp.ones((length,), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    product_seconds = _fastest(lambda: jax.block_until_ready(multiply(matrix)))
    copy_seconds = _fastest(lambda: jax.block_until_ready(copy(vector)))
    about = tables.about()
    first = jax.devices()[0]
    memory = (first.memory_stats() or {}).get("bytes_limit")
    peak = model_speed.peak_flops(first.device_kind) if dtype == jnp.bfloat16 else None
    reached = products * 2 * size**3 / product_seconds
    return [
        {
            "device": about["device"],
            "backend": jax.default_backend(),
            "cores": about["cores"],
            "load": about["load"],
            "memory_GB": None if memory is None else round(memory / 1e9, 1),
            "product": f"{size} x {size} {dtype.name}",
            "product_tflop_per_s": reached / 1e12,
            "of_peak": None if peak is None else reached / peak,
            "copy_GB_per_s": 2 * vector.nbytes / copy_seconds / 1e9,
            "commit": about["commit"],
            **{f"version_{name}": value for name, value in about["versions"].items()},
        }
    ]


def parity(task: Task) -> list[Row]:
    """Returns the losses of ten steps in float32 and in bfloat16 from one start, and how far the parameters diverge."""
    config = files.load_config("bot" if task.quick else "bot:market1501")
    changes = SMALL | {"data.sampler.identities": 4} if task.quick else {}
    runs = {dtype: _ten_steps(config, {**changes, "dtype": dtype}) for dtype in ("float32", "bfloat16")}
    losses = {dtype: run[0] for dtype, run in runs.items()}
    moved = {dtype: run[1] for dtype, run in runs.items()}
    full, half = moved["float32"], moved["bfloat16"]
    differences = [abs(b / a - 1) for a, b in zip(losses["float32"], losses["bfloat16"], strict=True)]
    return [
        {
            "what": f"{config.system}, {STEPS} steps on one batch",
            "first_loss_float32": losses["float32"][0],
            "first_loss_bfloat16": losses["bfloat16"][0],
            "last_loss_float32": losses["float32"][-1],
            "last_loss_bfloat16": losses["bfloat16"][-1],
            "first_difference": differences[0],
            "largest_difference": max(differences),
            "cosine_of_updates": float(full @ half / (np.linalg.norm(full) * np.linalg.norm(half))),
        }
    ]


def _ten_steps(config: ConfigDict, overrides: Mapping[str, Any]) -> tuple[list[float], np.ndarray]:
    """Returns the losses of ten steps, and the change of all parameters as a vector."""
    changed = subjects.of_config(config, overrides).config
    assert changed is not None
    step, (state, batch), _ = subjects.config_step(changed, None, classes=24 if config.preset == "demo" else 751)
    before, losses = _flat(state.params), []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, _flat(state.params) - before


def _flat(params: Any) -> np.ndarray:
    """Returns all parameters as one vector on the host."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(params))])


def _subject(task: Task, model: str) -> subjects.Subject:
    """Returns a model at full size, or at that of its system's demo."""
    overrides: dict[str, Any] = {"dtype": task.dtype}
    options: dict[str, Any] = {}
    if task.quick:
        demo = files.load_config(DEMOS.get(model, model))
        options = {key: value for key, value in config_lib.to_dict(demo.model).items() if key != "name"}
        overrides |= {"data.height": 64, "data.width": 32}
        if model == "amfor":
            options["parsing_source"] = "strips"
    return subjects.of_model(model, options, overrides)


def _speed(kind: str, task: Task, rest: str) -> list[Row]:
    model, _, batch = rest.rpartition("-")
    compared = task.torch and model in COMPARED
    subject = _subject(task, model)
    if compared:
        try:
            counterparts.of(model, subject.settings)
        except errors.UserError:
            compared = False  # none at the sizes of `--quick`
    steps = 3 if task.quick else 20
    rows = model_speed.measure(kind, [subject], [int(batch)], steps=steps, torch=compared)
    return [{"model": model, **row} for row in rows]


def speed(task: Task, rest: str) -> list[Row]:
    """Returns the speed of train steps of a model at a batch size, `MODEL-BATCH`."""
    return _speed("train", task, rest)


def infer(task: Task, rest: str) -> list[Row]:
    """Returns the speed of inference of a model at a batch size, `MODEL-BATCH`."""
    return _speed("infer", task, rest)


def rank(task: Task, size: str) -> list[Row]:
    """Returns the time of ranking at the size of a benchmark."""
    return ranking_speed.rank(size, twin=False)


def rerank(task: Task, size: str) -> list[Row]:
    """Returns the time of re-ranking at the size of a benchmark."""
    return ranking_speed.rerank(size)


def wait(task: Task) -> list[Row]:
    """Returns how long a run at full speed waits for data: ResNet-50 with its losses, fed by the input pipeline."""
    config = files.load_config("bot" if task.quick else "bot:market1501")
    overrides = {"dtype": task.dtype} | (SMALL | {"data.sampler.identities": 4} if task.quick else {})
    changed = subjects.of_config(config, overrides).config
    assert changed is not None
    run, phase, state = subjects.config_phase(changed, None, classes=24 if task.quick else 751)
    count = 6 if task.quick else 100
    stream = phase.open_batches(0)
    try:
        batches = iter(stream)
        waited = begun = 0.0
        for number in range(count + 3):
            if number == 3:  # compiled and warm
                jax.block_until_ready(state)
                begun, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            state, metrics = phase.step(state, mesh.to_global(batch, run.mesh))
            if number % 2:  # two steps ahead of the device, as in a run
                jax.block_until_ready(metrics["loss"])
        jax.block_until_ready(state)
        elapsed = time.perf_counter() - begun
    finally:
        stream.close()
    row = {
        "what": f"{config.system}:{config.preset}, whole step with its input",
        "batch": phase.batch_size,
        "images_per_s": count * phase.batch_size / elapsed,
        "data_wait_percent": 100 * waited / elapsed,
    }
    stages = input_speed.quick() if task.quick else input_speed.measure(rounds=1)
    alone = [{"what": each["stage"], "images_per_s": each["images_per_second"]} for each in stages]
    return [row, *[each for each in alone if str(each["what"]).startswith("pipeline")]]


def profile(task: Task, which: str) -> list[Row]:
    """Returns the operations that take the most time in the train step that compares worst, or second worst."""
    measured = [
        row
        for part in campaign.plan(task.quick)
        if part.table == "speed"
        for row in task.folder.read(part.name).get("rows", ())
        if not str(row["what"]).startswith("train torch")
    ]
    if len(measured) < int(which):
        raise errors.UserError(f"expected {which} measured train steps to profile, there are {len(measured)}.")
    row = sorted(measured, key=_merit)[int(which) - 1]
    program = subjects.program("train", _subject(task, row["model"]), row["batch"], model_speed.CLASSES)
    folder = task.folder.path / f"profile-{row['model']}-{row['batch']}"
    about = {"model": row["model"], "batch": row["batch"]}
    return [{**about, **operation} for operation in traces.record(program, folder)]


def _merit(row: Row) -> tuple[int, float]:
    """Returns how well a train step compares: with PyTorch, else with the device's peak, else by FLOP/s."""
    for place, key in enumerate(("speed_of_torch", "mfu", "gflop_per_s")):
        if row.get(key) is not None:
            return place, float(row[key])
    return 3, 0.0


def _fastest(run: Callable[[], Any], calls: int = 5) -> float:
    """Returns the seconds of the fastest of some calls, after one that is not timed."""
    run()
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


PARTS: dict[str, Callable[..., list[Row]]] = {
    "device": device,
    "parity": parity,
    "speed": speed,
    "infer": infer,
    "rank": rank,
    "rerank": rerank,
    "wait": wait,
    "profile": profile,
}
