"""Exported files of whole systems: nearness to the model, size, and speed in ONNX Runtime compared with ours.

Each system has its recipe's size and random weights. Its function from uint8 images to test features becomes StableHLO
for CPUs and ONNX; both are compared with the model at each batch size, on the same random pixels. Then ONNX Runtime and
the model's own program run in turn on all cores.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from reid_jax import build, progress, trees
from reid_jax import config as config_lib
from reid_jax.benchmarks import programs
from reid_jax.export import embedding, onnx_file, stablehlo
from reid_jax.inference import extractor as extractor_lib
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import mesh as mesh_lib

Row = dict[str, Any]
Run = Callable[[np.ndarray], Sequence[np.ndarray]]

BATCHES = (1, 5, 64)
SYSTEMS = ("mfv", "amfor", "mgaf", "mspf", "cfat", "bot", "osnet", "transreid", "mgn", "cil")
PRESET = "market1501"
SECONDS = 5.0  # of timed calls for each system and batch size, both programs together
LONG_SECONDS = 20.0  # of one call of each, from which the first calls are the measurement
CLASSES, CAMERAS = 751, 6  # of Market-1501


def name_of(config: ConfigDict) -> str:
    """Returns the name of a config in the table."""
    return f"{config.system}:{','.join([config.preset, *config.variants])}"


def measure(
    configs: Sequence[ConfigDict],
    batches: Sequence[int] = BATCHES,
    known: Sequence[Row] = (),
    report: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Returns a row for each system and batch size.

    Args:
        configs: the systems.
        batches: images per call.
        known: rows of an earlier call; their systems are not measured again.
        report: is called with all rows after each system.

    Returns:
        Rows with `what`, `batch`, `image`, `flip`, sizes of the files in MB, largest difference (`..._difference`, of
        features of unit length) and least cosine (`..._cosine`) from the model, and images per second of ONNX Runtime
        and of the model's own program, both by the median of `calls` calls.
    """
    rows = list(known)
    measured = {row["what"] for row in known}
    for config in configs:
        if name_of(config) not in measured:
            rows += _system(config, batches)
            report(rows)
            # Programs of a file hold its weights as constants, three batch sizes of ten systems 20 GB of them.
            jax.clear_caches()
            gc.collect()
    return rows


def _system(config: ConfigDict, batches: Sequence[int]) -> list[Row]:
    """Returns the rows of one system."""
    config = config.copy_and_resolve_references()
    config_lib.override(config, {"dtype": "float32"})
    settings = settings_lib.of(config)
    model = build.build_model(settings, CLASSES, CAMERAS)
    extractor = extractor_lib.Extractor(model, settings, mesh_lib.create_mesh(), {"random": True, "seed": 0})
    variables = random_variables(extractor)
    return rows_of(name_of(config), extractor, variables, batches)


def random_variables(extractor: extractor_lib.Extractor) -> build.Variables:
    """Returns variables that let every layer pass its input on, without compiling the model's initializers.

    Kernels are normal with He's deviation, factors and variances one, all others near zero.
    """
    preprocess = build.make_preprocess(extractor.settings.preprocess)
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    shapes = jax.eval_shape(
        lambda keys, batch: extractor.model.init(keys, preprocess(batch), train=False), keys, extractor.example_batch()
    )
    generator = np.random.default_rng(0)

    def filled(path: str, shape: Sequence[int]) -> jax.Array:
        name = path.rpartition("/")[2]
        if name in ("scale", "var", "gain", "p"):
            return jnp.ones(shape, jnp.float32)
        deviation = (2 / math.prod(shape[:-1])) ** 0.5 if name == "kernel" else 0.02
        return jnp.asarray(deviation * generator.standard_normal(shape, np.float32))

    flat = {path: filled(path, leaf.shape) for path, leaf in trees.flatten(shapes).items()}
    return {"batch_stats": {}, **trees.unflatten(flat)}


def rows_of(
    name: str, extractor: extractor_lib.Extractor, variables: build.Variables, batches: Sequence[int]
) -> list[Row]:
    """Returns the rows of a model.

    Args:
        name: its name in the table.
        extractor: the model, which computes in float32.
        variables: its variables.
        batches: images per call.
    """
    with progress.waiting(f"exporting {name}"):
        function = embedding.of(extractor, variables)
        files = {
            "onnx": onnx_file.model_of(function).SerializeToString(),
            "stablehlo": stablehlo.serialized(function, ("cpu",)),
        }
        call: Any = jax.export.deserialize(bytearray(files["stablehlo"])).call
    runs: dict[str, Run] = {
        "onnx": onnx_file.runner(files["onnx"], _threads()),
        "stablehlo": lambda images: [np.asarray(array) for array in call(images)],
    }
    sizes = {f"{kind}_MB": len(content) / 1e6 for kind, content in files.items()}
    shared = {
        "what": name,
        "image": f"{extractor.size['height']}x{extractor.size['width']}",
        "flip": "yes" if extractor.settings.evals.flip else "no",
        **sizes,
    }
    return [{**shared, "batch": batch, **_batch(extractor, variables, runs, batch)} for batch in batches]


def _batch(
    extractor: extractor_lib.Extractor, variables: build.Variables, runs: Mapping[str, Run], batch: int
) -> dict[str, Any]:
    """Returns differences and speeds at one batch size."""
    pixels = embedding.trial_images(batch, extractor.size["height"], extractor.size["width"])
    unknown = {"camid": np.full(batch, -1, np.int32), "label": np.zeros(batch, np.int32)}
    program = programs.Program.compile(extractor.describe, variables, ({"image": pixels, **unknown},), batch)

    def onnx() -> None:
        runs["onnx"](pixels)

    timed: dict[str, Callable[[], None]] = {"ours": program, "onnx": onnx}
    first: dict[str, list[float]] = {}
    started = time.perf_counter()
    described = jax.block_until_ready(program.compiled(variables, *program.arguments))
    first["ours"] = [time.perf_counter() - started]
    expected = [np.asarray(array) for array in described if array is not None]
    found: dict[str, Any] = {}
    for name, run in runs.items():
        started = time.perf_counter()
        results = run(pixels)
        first[name] = [time.perf_counter() - started]
        difference, cosine = embedding.differences(expected, results)
        found |= {f"{name}_difference": difference, f"{name}_cosine": cosine}
    # The calls that were compared are the warm-up, and the measurement where they took long.
    spent = first["ours"][0] + first["onnx"][0]
    walls = {name: first[name] for name in timed}
    if spent <= LONG_SECONDS:
        calls = int(min(max(SECONDS / spent, 1), 20))
        walls = {name: wall for name, (wall, _) in programs.alternate(timed, calls, warm=False).items()}
    speeds = {f"{name}_images_per_s": batch / float(np.median(wall)) for name, wall in walls.items()}
    ratio = {"onnx_of_ours": speeds["onnx_images_per_s"] / speeds["ours_images_per_s"]}
    return {**found, **speeds, **ratio, "calls": len(walls["ours"]), "load": round(os.getloadavg()[0], 1)}


def _threads() -> int:
    """Returns the number of cores that this process may use, 0 where that is unknown."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
