"""Speed of the input pipeline: each stage alone, the whole pipeline, and a plain loop for comparison.

Candidates are timed in turn, round after round, and the best round is reported, so that other programs or a warming
processor affect all of them alike. Images are generated; no data set is needed.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from reid_jax.data import corruptions, image_io, pipeline, records, samplers, transforms
from reid_jax.data.corruptions import sampling
from reid_jax.data.elements import Element, Transform

# The recipe of BoT and MFV, and a jitter to time it.
AUGMENT: dict[str, dict[str, float]] = {
    "flip": {"probability": 0.5},
    "pad_crop": {"pad": 10},
    "erase": {"probability": 0.5},
}
JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)
PER_IDENTITY = 8


def generated_split(count: int = 512, height: int = 128, width: int = 64, seed: int = 0) -> records.Split:
    """Returns a split of smooth random images as JPEG (quality 90, about 3 kB, as in Market-1501), 8 per identity."""
    rng = np.random.default_rng(seed)
    source = []
    for index in range(count):
        coarse = rng.integers(40, 216, (max(2, height // 8), max(2, width // 8), 3)).astype(np.uint8)
        data = image_io.encode_jpeg(image_io.resize(coarse, height, width, "bilinear"), quality=90)
        source.append({"image": data, "pid": index // PER_IDENTITY, "camid": 0, "filename": f"{index:05d}.jpg"})
    pids = (np.arange(count) // PER_IDENTITY).astype(np.int32)
    names = tuple(f"{index:05d}.jpg" for index in range(count))
    return records.Split("generated/train", source, pids, np.zeros(count, np.int32), names)


def measure(
    split: records.Split | None = None,
    *,
    height: int = 256,
    width: int = 128,
    interpolation: str = "bilinear",
    identities: int = 16,
    images_per_identity: int = 4,
    threads: int | None = None,
    workers: int = 0,
    batches: int = 16,
    rounds: int = 3,
) -> list[dict[str, Any]]:
    """Returns the images per second of each stage and of the whole pipeline.

    Args:
        split: a training split; None generates one.
        height: rows of the batches' images.
        width: columns.
        interpolation: interpolation of the resize.
        identities: P of the sampler.
        images_per_identity: K of the sampler.
        threads: number of threads of the pipeline; None takes its default.
        workers: also measures the pipeline with that many worker processes, when positive.
        batches: number of batches (or the same number of images) in a measurement.
        rounds: number of times each candidate is timed; the fastest is reported.

    Returns:
        One row for each candidate: `stage`, `images_per_second` (of the best round), `spread` (slowest round over
        fastest, as times), `threads`. "pipeline ..." rows are the pipeline as training uses it, with the cache filled
        or without one; "plain numpy loop" decodes, augments and normalizes image by image to float32 and stacks.
    """
    split = generated_split() if split is None else split
    threads = min(8, os.cpu_count() or 1) if threads is None else threads
    labels, _ = records.train_labels(split)
    sampler = {"name": "identity_groups", "identities": identities, "images": images_per_identity}
    settings: dict[str, Any] = {
        "sampler": sampler,
        "augment": AUGMENT,
        "height": height,
        "width": width,
        "interpolation": interpolation,
    }
    size = identities * images_per_identity
    stages = _stages(split, height, width, interpolation, batches * size)

    def open_stream(**options: Any) -> Iterator[Any]:
        return pipeline.train_batches(split, labels, **settings, **options)

    streams: dict[str, tuple[Iterator[Any], int]] = {
        "pipeline, decoding": (open_stream(threads=threads, cache="none"), threads),
        "pipeline, cached": (open_stream(threads=threads, cache="memory"), threads),
        "pipeline, cached, no threads": (open_stream(threads=0, cache="memory"), 0),
        "plain numpy loop": (_plain_loop(split, labels, settings), 0),
    }
    if workers:
        name = f"pipeline, decoding, {workers} workers"
        streams[name] = (open_stream(threads=threads, workers=workers, cache="none"), threads)
    try:
        _fill(streams, len(split) // size + 1)
        candidates: dict[str, tuple[Callable[[], Any], int, int, Callable[[], Any]]] = {
            name: (run, count, 0, lambda: None) for name, (run, count) in stages.items()
        }
        for name, (stream, used) in streams.items():
            # Batches prepared while others were measured do not count: the buffers are emptied first.
            empty = functools.partial(_take, stream, 2 * (used + workers) + 1 if used else 0)
            candidates[name] = (functools.partial(_take, stream, batches), batches * size, used, empty)
        return _alternate(candidates, rounds)
    finally:
        for stream, _ in streams.values():
            stream.close()  # type: ignore[attr-defined]


def measure_corruptions(
    *, height: int = 128, width: int = 64, out_height: int = 256, out_width: int = 128, count: int = 4, rounds: int = 3
) -> list[dict[str, Any]]:
    """Returns the speed of every corruption, sampling included, and every augmentation, on one core.

    Args:
        height: rows of the images that are corrupted: a data set's native size.
        width: columns of those.
        out_height: rows of the images that are augmented: the model's size.
        out_width: columns of those.
        count: images in each measurement; corruptions are applied at all five severities.
        rounds: number of times each candidate is timed; the fastest is reported.

    Returns:
        A row for each: `stage`, `images_per_second` (of a core: by processor time, which other programs do not
        change), `milliseconds` per image, `spread` as in `measure`; and "corruptions, mean of the twenty": the speed of
        an evaluation that samples them uniformly.
    """
    split = generated_split(count, height, width)
    pictures = [image_io.decode(record["image"]) for record in split.source]
    elements = [{"image": image_io.resize(picture, out_height, out_width), "donor": picture} for picture in pictures]
    rng = samplers.generator(0, "benchmark", 0)

    def corrupt(name: str) -> None:
        for picture in pictures:
            for severity in corruptions.SEVERITIES:
                draws = sampling.sample(name, severity, picture.shape[:2], rng)
                sampling.apply(name, severity, picture, draws)

    candidates: dict[str, tuple[Callable[[], Any], int]] = {
        name: (functools.partial(corrupt, name), count * len(corruptions.SEVERITIES))
        for name in corruptions.CORRUPTIONS
    }
    for name in ("augmix", "soft_erase", "self_patch", "occlude"):
        transform = transforms.build_transform(name, {} if name == "augmix" else {"probability": 1.0})
        candidates[name] = (functools.partial(_apply, transform, elements, rng), count)
    for run, _ in candidates.values():
        run()  # fills tables and textures
    nothing = lambda: None
    rows = _alternate(
        {name: (run, many, 0, nothing) for name, (run, many) in candidates.items()}, rounds, time.process_time
    )
    seconds = [1 / row["images_per_second"] for row in rows[: len(corruptions.CORRUPTIONS)]]
    mean = {"stage": "corruptions, mean of the twenty", "images_per_second": len(seconds) / sum(seconds)}
    rows.insert(len(seconds), {**mean, "spread": 1.0, "threads": 0})
    return [{**row, "milliseconds": 1000 / row["images_per_second"]} for row in rows]


def _take(stream: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(stream)


def _fill(streams: dict[str, tuple[Iterator[Any], int]], count: int) -> None:
    """Reads two epochs ahead, so that threads and workers have started and the caches hold (nearly) all images."""
    for stream, _ in streams.values():
        _take(stream, 2 * count)


def _alternate(
    candidates: dict[str, tuple[Callable[[], Any], int, int, Callable[[], Any]]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (run, _, _, prepare) in candidates.items():
            prepare()
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return [
        {
            "stage": name,
            "images_per_second": count / min(seconds[name]),
            "spread": max(seconds[name]) / min(seconds[name]),
            "threads": threads,
        }
        for name, (_, count, threads, _) in candidates.items()
    ]


def _stages(
    split: records.Split, height: int, width: int, interpolation: str, count: int
) -> dict[str, tuple[Callable[[], Any], int]]:
    """Returns each stage on one core by name: a function that runs it, and its number of images."""
    encoded = [split.source[index % len(split)]["image"] for index in range(min(count, 256))]
    decoded = [image_io.decode(data) if isinstance(data, bytes) else data for data in encoded]
    resize = transforms.Resize(height, width, interpolation)
    resized = [resize({"image": image}) for image in decoded]
    rng = samplers.generator(0, "benchmark", 0)
    stages: dict[str, Callable[[], Any]] = {
        "read a record": lambda: [split.source[index % len(split)] for index in range(len(encoded))],
        "decode": lambda: [image_io.decode(data) for data in encoded if isinstance(data, bytes)],
        f"resize ({interpolation})": lambda: [resize({"image": image}) for image in decoded],
    }
    for name, options in {**AUGMENT, "jitter": JITTER}.items():
        transform = transforms.build_transform(name, options)
        stages[name] = functools.partial(_apply, transform, resized, rng)
    return {name: (run, len(encoded)) for name, run in stages.items()}


def _apply(transform: Transform, elements: list[Element], rng: np.random.Generator) -> None:
    for element in elements:
        transform(element, rng)


def _plain_loop(split: records.Split, labels: np.ndarray, settings: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches as a data loader without workers makes them: image by image, normalized on the host."""
    sampler = samplers.build(settings["sampler"], labels, 0)
    chain = transforms.build_chain(
        settings["augment"], settings["height"], settings["width"], settings["interpolation"]
    )
    rng = np.random.default_rng(0)
    step = 0
    while True:
        indices = sampler.indices(step)
        stack = []
        for index in indices:
            element = chain({"image": image_io.decode(split.source[index]["image"])}, rng)
            image = (element["image"].astype(np.float32) / 255 - MEAN) / STD
            top, left, bottom, right = element["erase_box"]
            image[top:bottom, left:right] = MEAN
            stack.append(image)
        yield {"image": np.stack(stack), "label": labels[indices], "camid": split.camids[indices]}
        step += 1


def quick(*, corruptions_alone: bool = False, **options: Any) -> list[dict[str, Any]]:
    """Returns a short measurement, see `measure` and `measure_corruptions`; its figures are rough."""
    if corruptions_alone:
        return measure_corruptions(count=1, rounds=1)
    return measure(**{"split": generated_split(64), "identities": 8, "batches": 12, "rounds": 1, **options})
