"""Speed and memory of everything that takes time: train steps, inference, input, ranking, re-ranking.

Candidates of one table are timed in turn, round after round, each call waited for, compilation apart; what a table
says is therefore comparable within it even on a busy machine.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.benchmarks import input_speed, programs, ranking_speed
from reid_jax.benchmarks.torch import counterparts
from reid_jax.data import records
from reid_jax.runs import experiment, folder
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import mesh, provenance
from reid_jax.train import state
from reid_jax.weights import zoo

Row = dict[str, Any]
KINDS = ("train", "infer", "input", "rank", "rerank")

# Dense bfloat16 FLOP/s of one device by the beginning of its name, from the makers' data sheets; first match counts.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("NVIDIA H200", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA A100", 312e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6", 918e12),
)
CLASSES = 751  # identities of Market-1501's training half


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to be timed, by its row of the zoo, or a config, whose whole train step is timed.

    Attributes:
        name: for the table.
        settings: resolved config.
        config: given where the train step is the config's own (images in uint8, all losses, its optimizer) instead of
            cross-entropy and SGD on normalized images.
    """

    name: str
    settings: config_lib.Settings
    config: ConfigDict | None = None


def subject_of_model(
    name: str, options: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Subject:
    """A row of the zoo, see `zoo.settings`."""
    return Subject(name, zoo.settings(name, options, overrides))


def subject_of_config(config: ConfigDict, overrides: Mapping[str, Any] | None = None) -> Subject:
    """A config with dotted overrides; None leaves a value as it is."""
    changed = config.copy_and_resolve_references()
    config_lib.override(changed, {key: value for key, value in (overrides or {}).items() if value is not None})
    name = ":".join((changed.system, ",".join([changed.preset, *changed.variants])))
    return Subject(name, settings_lib.of(changed), changed)


# ---- train and infer ------------------------------------------------------------------------------------------------


def measure_models(
    kind: str,
    subjects: Sequence[Subject],
    batches: Sequence[int | None],
    *,
    steps: int = 5,
    torch: bool = False,
    classes: int = CLASSES,
) -> list[Row]:
    """Times train steps or inference of every subject at every batch size.

    Args:
        kind: "train" or "infer".
        subjects: what is timed.
        batches: images per step; None is the config's own batch (8 for a model).
        steps: timed calls, after one that does not count.
        torch: beside the subject's backbone in PyTorch, in turn; see `torch_counterparts`.
        classes: identities of the classifiers.

    Returns:
        A row for each: compile and step time, images per second (of the median step), FLOPs as the compiler counts
        them, utilization where the device's peak is known (bfloat16 only), the program's memory, how many times
        PyTorch's speed that is, by the median and by the fastest step; and the median step beside the first subject's.
    """
    rows: list[Row] = []
    for size in batches:
        first = len(rows)
        runs: dict[str, Any] = {}
        for subject in subjects:
            program = _program(kind, subject, size, classes)
            runs[f"{subject.name} x{program.batch}"] = program
            if torch:
                counterpart = counterparts.of(subject.name, subject.settings)
                name = counterpart.name(program.batch)
                if name not in runs:
                    runs[name] = counterpart.start(kind, program.batch, classes)
        seconds = programs.alternate(runs, steps)
        for subject in subjects:
            key = next(one for one in runs if one.startswith(f"{subject.name} x"))
            reference = ""
            if torch:
                reference = counterparts.of(subject.name, subject.settings).name(runs[key].batch)
            rows.append(_model_row(kind, subject, runs[key], seconds[key], seconds.get(reference)))
            if len(subjects) > 1:
                rows[-1]["times_first"] = rows[-1]["step_ms"] / rows[first]["step_ms"]
        rows += [_torch_row(kind, name, run, seconds[name]) for name, run in runs.items() if name.startswith("torch ")]
    return rows


def _program(kind: str, subject: Subject, batch: int | None, classes: int) -> programs.Program:
    if kind == "train" and subject.config is not None:
        return _config_program(subject.config, batch, classes)
    data = subject.settings.data
    sampler = data.sampler
    batch = batch or (8 if subject.config is None else sampler["identities"] * sampler["images"])
    model = build.build_model(subject.settings, classes)
    arrays = programs.random_batch(batch, data.height, data.width, classes)
    return (programs.train_program if kind == "train" else programs.inference_program)(model, arrays)


def _config_program(config: ConfigDict, batch: int | None, classes: int) -> programs.Program:
    """The train step that a run of this config makes, on drawn pictures."""
    config = config.copy_and_resolve_references()
    if batch:
        images = config.data.sampler.images
        if batch % images:
            raise errors.UserError(
                f"expected a batch of whole identities of {images} images, got {batch}; give a multiple of {images}."
            )
        config.data.sampler.identities = batch // images
    made = experiment.Experiment(config, drawn_dataset(classes))
    example = jax.tree.map(np.asarray, made.preprocess(made.extractor.example_batch()))
    variables = programs.random_variables(made.model, example)
    train_state = state.create(mesh.replicate(variables, made.mesh))
    phase = made.phases(train_state.variables)[0]
    stream = phase.open_batches(0)
    try:
        arrays = mesh.to_global(next(iter(stream)), made.mesh)
    finally:
        stream.close()
    return programs.Program.compile(
        phase.step, phase.begin(train_state), (arrays,), phase.batch_size, carry=lambda result: result[0]
    )


def drawn_dataset(classes: int, images: int = 4) -> records.ReIDDataset:
    """A data set in memory with as many identities as wished, made of few pictures."""
    pictures = input_speed.drawn_split(64).source

    def split(name: str, people: int, each: int, camera: int) -> records.Split:
        count = people * each
        pids = (np.arange(count) // each).astype(np.int32) + 1
        source = [{**pictures[index % len(pictures)], "pid": int(pids[index])} for index in range(count)]
        names = tuple(f"{index:06d}.jpg" for index in range(count))
        return records.Split(f"drawn/{name}", source, pids, np.full(count, camera, np.int32), names)

    return records.ReIDDataset(
        "drawn", split("train", classes, images, 0), split("query", 2, 1, 0), split("gallery", 2, 2, 1)
    )


def _model_row(
    kind: str,
    subject: Subject,
    program: programs.Program,
    seconds: tuple[list[float], list[float]],
    reference: tuple[list[float], list[float]] | None,
) -> Row:
    timing = program.timing(*seconds)
    dtype = np.dtype(build.compute_dtype(subject.settings.dtype)).name
    data = subject.settings.data
    flops_per_second = timing.flops / timing.median_seconds
    peak = peak_flops(jax.devices()[0].device_kind) if dtype == "bfloat16" else None
    row = {
        "what": f"{kind} {subject.name}",
        "step": "own" if subject.config is not None and kind == "train" else "plain",
        "batch": program.batch,
        "image": f"{data.height}x{data.width}",
        "dtype": dtype,
        "compile_s": timing.compile_seconds,
        "step_ms": 1e3 * timing.median_seconds,
        "fastest_ms": 1e3 * timing.step_seconds,
        "cpu_ms": 1e3 * timing.step_cpu_seconds,
        "images_per_s": program.batch / timing.median_seconds,
        "gflop": timing.flops / 1e9,
        "gflop_per_s": flops_per_second / 1e9,
        "mfu": None if peak is None else flops_per_second / (peak * jax.device_count()),
        "program_MB": timing.memory_bytes / 1e6,
    }
    if reference is not None:
        row["speed_of_torch"] = float(np.median(reference[0])) / timing.median_seconds
        # Other programs on the machine only ever add time: on a busy one the fastest steps compare best.
        row["fastest_of_torch"] = min(reference[0]) / timing.step_seconds
    return row


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where it is not in the table."""
    return next((peak for name, peak in PEAK_FLOPS if device_kind.startswith(name)), None)


# ---- PyTorch beside it ----------------------------------------------------------------------------------------------


def _torch_row(kind: str, name: str, run: counterparts.Run, seconds: tuple[list[float], list[float]]) -> Row:
    median = float(np.median(seconds[0]))
    return {
        "what": f"{kind} {name.rpartition(' x')[0]}",
        "step": "plain",
        "batch": run.batch,
        **run.about,
        "compile_s": run.compile_seconds,
        "step_ms": 1e3 * median,
        "fastest_ms": 1e3 * min(seconds[0]),
        "cpu_ms": 1e3 * min(seconds[1]),
        "images_per_s": run.batch / median,
    }


# ---- the rest, and what is written ----------------------------------------------------------------------------------


def measure_input(*, quick: bool = False, corruptions: bool = False, **options: Any) -> list[Row]:
    """Images per second of the input pipeline, stage by stage; or of each corruption and augmentation.

    See `reid_jax.benchmarks.input_speed.measure` and `measure_corruptions`.
    """
    if corruptions:
        return input_speed.measure_corruptions(**({"count": 1, "rounds": 1} if quick else {}))
    brief: Row = {"split": input_speed.drawn_split(64), "identities": 8, "batches": 12, "rounds": 1}
    return input_speed.measure(**{**(brief if quick else {}), **options})


RANKING: dict[str, Callable[[str], list[Row]]] = {
    "rank": lambda size: ranking_speed.rank_growth() if size == "growth" else ranking_speed.rank(size),
    "rerank": ranking_speed.rerank,
    "verify": ranking_speed.verify,
}


def measure_ranking(kind: str, sizes: Sequence[str]) -> list[Row]:
    """Time and memory of ranking, re-ranking or verification at the size of benchmarks.

    Args:
        kind: a key of `RANKING`.
        sizes: names in `reid_jax.benchmarks.ranking_speed.SIZES`; for "rank" also "growth", the gallery at five sizes.
    """
    return [row for size in sizes for row in RANKING[kind](size)]


def about(command: Sequence[str] = ()) -> Row:
    """What a figure has to be read with: device, versions, commit, how busy the machine was."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("jax", "jaxlib", "flax", "numpy", "grain", "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": provenance.device_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
        "commit": provenance.commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join(command),
    }


def peak_memory() -> Row:
    """Most memory held at once: of the device where it is told, and of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    found: Row = {"process_peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)}
    if "peak_bytes_in_use" in stats:
        found["device_peak_MB"] = round(stats["peak_bytes_in_use"] / 1e6)
    return found


def table(rows: Sequence[Row]) -> str:
    """Rows as text; a column that no row has is left out."""
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if value not in (None, "")))
    return records.format_table(columns, [[_cell(column, row.get(column)) for column in columns] for row in rows])


def _cell(column: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if column == "mfu":
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def write(path: str | pathlib.Path, tables: Mapping[str, Sequence[Row]], about_run: Row) -> pathlib.Path:
    """Writes all tables as one JSON file, and as markdown beside it (the same name with `.md`)."""
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text(path, json.dumps({**about_run, "tables": dict(tables)}, indent=2) + "\n")
        folder.write_text(path.with_suffix(".md"), _document(tables, about_run))
    except OSError as error:
        raise errors.UserError(f"could not write {path} ({error.strerror}); give another --output.") from None
    return path


def _document(tables: Mapping[str, Sequence[Row]], about_run: Row) -> str:
    """The tables as markdown, with what they have to be read with."""
    versions = ", ".join(f"{name} {version}" for name, version in about_run["versions"].items())
    lines = [
        f"# {' and '.join(tables)}: measured speed and memory",
        "",
        f"{about_run['device']}, {about_run['cores']} cores, load {about_run['load']} at the start; {versions}; "
        f"commit {about_run['commit'] or 'unknown'}, {about_run['date']}.",
        "",
        f"    python scripts/{about_run['command']}",
    ]
    for rows in tables.values():
        columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("device", "note")]
        columns = [key for key in columns if any(row.get(key) not in (None, "") for row in rows)]
        notes = dict.fromkeys(f"{next(iter(row.values()))}: {row['note']}." for row in rows if row.get("note"))
        lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_cell(key, row.get(key)) for key in columns) + " |" for row in rows]
        lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"
