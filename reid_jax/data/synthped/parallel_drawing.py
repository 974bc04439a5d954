"""Drawing in several processes: images by the thousand, in order, on all cores.

The workers are processes of their own that read specifications from a pipe and answer with encoded images. Unlike those
of `multiprocessing` they do not import the caller's script again, so that it needs no guard.

    python -m reid_jax.data.synthped.parallel_drawing        # a worker, which ends with its input
"""

from __future__ import annotations

import os
import pathlib
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import reid_jax
from reid_jax import errors
from reid_jax.data.synthped.dataset import SampleSpec, SynthPed

ALONE = 4_000  # up to so many images, which take ten seconds, a start of further processes is not worth it
_CHUNK = 64
_MOST = 32

Encoded = tuple[bytes, bytes]  # JPEG of the image, PNG of its parts


def processes_for(images: int) -> int:
    """Returns how many processes draw a number of images on the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if images <= ALONE else min(cores, _MOST)


def encoded(data: SynthPed, specs: Sequence[SampleSpec], processes: int | None = None) -> Iterator[Encoded]:
    """Yields image and parts of each specification in order, as `SynthPed.encode` returns them.

    Args:
        data: the data set.
        specs: what to draw.
        processes: number of drawing processes; None is `processes_for`, 1 draws in this one.

    Raises:
        UserError: a drawing process ended early.
    """
    processes = processes_for(len(specs)) if processes is None else processes
    if processes == 1:
        yield from map(data.encode, specs)
        return
    workers = [_start() for _ in range(processes)]
    free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def draw(chunk: Sequence[SampleSpec]) -> list[Encoded]:
        worker = free.get()
        drawn = _ask(worker, data, chunk)
        free.put(worker)
        return drawn

    waiting: deque[futures.Future[list[Encoded]]] = deque()
    with futures.ThreadPoolExecutor(processes) as pool:
        try:
            for start in range(0, len(specs), _CHUNK):
                waiting.append(pool.submit(draw, specs[start : start + _CHUNK]))
                # A few chunks ahead, so that a slow reader does not fill the memory.
                if len(waiting) >= 3 * processes:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            for worker in workers:
                worker.kill()
                worker.communicate()


def _start() -> subprocess.Popen[bytes]:
    root = str(pathlib.Path(reid_jax.__file__).resolve().parents[1])
    paths = os.pathsep.join(path for path in (root, os.environ.get("PYTHONPATH", "")) if path)
    return subprocess.Popen(
        [sys.executable, "-m", "reid_jax.data.synthped.parallel_drawing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _ask(worker: subprocess.Popen[bytes], data: SynthPed, chunk: Sequence[SampleSpec]) -> list[Encoded]:
    try:
        _send(worker.stdin, (data.arguments, chunk))
        drawn: list[Encoded] = pickle.load(worker.stdout)  # type: ignore[arg-type]  # a pipe, as asked for
    except (EOFError, OSError, pickle.UnpicklingError):
        raise errors.UserError(
            "a process that draws SynthPed ended early, perhaps for lack of memory; prepare the data set again."
        ) from None
    return drawn


def _send(pipe: Any, value: Any) -> None:
    pickle.dump(value, pipe)
    pipe.flush()


def main() -> None:
    """Answers requests until the input ends: the arguments of `SynthPed` and a list of specifications."""
    import cv2

    cv2.setNumThreads(1)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    data = None
    while True:
        try:
            arguments, chunk = pickle.load(source)
        except EOFError:
            return
        data = data or SynthPed(**arguments)
        _send(target, [data.encode(spec) for spec in chunk])


if __name__ == "__main__":
    main()
