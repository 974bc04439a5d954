"""The input pipeline: numpy batches (`[B, H, W, 3]` uint8) of a split, from plain settings.

A batch is a pure function of its number: the sampler selects the images, and the randomness of each image comes from a
generator keyed by the seed and the image's position in the run. Batches are therefore the same for any number of
threads, worker processes and hosts, and a run resumes by starting at a step. Grain computes batches ahead of the
consumer; its unit of work is a whole batch, which is filled in place.

With several hosts, each fills a contiguous share of every global batch; the shares in process order form the batch.
Images are sent to the device as uint8, which normalizes them and fills erased boxes (`reid_jax.ops.images`).
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import grain
import numpy as np

from reid_jax import errors
from reid_jax.data import decoded_cache, elements, image_io, records, samplers, transforms

Batch = dict[str, np.ndarray]

CACHES = ("auto", "memory", "disk", "none")
CACHE_LIMIT_BYTES = 2 * 2**30  # the training images of Market-1501 at 256x128 take 1.2 GB
# Workers pass batches through shared memory, about four per worker at a time; containers often have 64 MB of it.
SHARED_MEMORY_NEEDED_BYTES = 2**30
_ENDLESS = 2**60
_NEVER_SHARED = 2**60


class Batches:
    """An iterator that computes batches ahead, measures how long the consumer waits, and can be closed.

    Attributes:
        wait_seconds: time spent inside `next` since the last `reset_wait`, including the first batch.
    """

    def __init__(self, steps: grain.MapDataset, *, threads: int | None, workers: int):
        """Starts computing batches.

        Args:
            steps: returns the i-th batch for `[i]`.
            threads: number of batches computed concurrently in each process; 0 computes them inside `next`, None is
                one per core, up to eight.
            workers: number of worker processes; 0 does all work in this process.
        """
        if threads is None:
            threads = min(8, os.cpu_count() or 1)
        if threads < 0 or workers < 0:
            raise errors.UserError(f"threads and workers must be 0 or more, got {threads} and {workers}.")
        ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        stream = steps.to_iter_dataset(ahead)
        if workers:
            if _free_shared_memory() < SHARED_MEMORY_NEEDED_BYTES:
                # Workers die when shared memory is full; pipes cost an additional copy of each batch.
                options = grain.experimental.DatasetOptions(min_shm_size=_NEVER_SHARED)
                stream = grain.experimental.WithOptionsIterDataset(stream, options)
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
        self._iterator = iter(stream)
        self._closed = False
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        asked = time.perf_counter()
        try:
            return next(self._iterator)
        except BaseException:
            self.close()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - asked

    def reset_wait(self) -> float:
        """Returns `wait_seconds` and resets it to zero."""
        waited, self.wait_seconds = self.wait_seconds, 0.0
        return waited

    def close(self) -> None:
        """Stops threads and worker processes and ends the iterator; may be called twice."""
        if not self._closed:
            self._closed = True
            self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class TrainBatches(Batches):
    """Batches of training images.

    Attributes:
        steps_per_epoch: global batches in an epoch, equal for all epochs.
        batch_size: images in a global batch, over all processes.
    """

    steps_per_epoch: int
    batch_size: int


class EvalBatches(Batches):
    """Batches that cover a split once; `len` is their number, equal in every process."""

    batch_count: int

    def __len__(self) -> int:
        return self.batch_count


class Reader:
    """Reads decoded images of a split with their maps, and optionally caches them resized.

    The cache in memory is filled as images are first read. Two threads that read the same image write the same bytes,
    so no lock is needed.
    """

    def __init__(
        self,
        split: records.Split,
        maps: Sequence[str] = (),
        keep: transforms.Resize | None = None,
        folder: str | pathlib.Path | None = None,
    ):
        """Allocates the cache.

        Args:
            split: the images.
            maps: names of per-pixel maps that every record must have.
            keep: the resize whose results are cached; None decodes at each access.
            folder: caches in files there, which are written now, instead of in memory.
        """
        self._split, self._maps, self._keep = split, tuple(maps), keep
        self._files: decoded_cache.DecodedImages | None = None
        self._store: dict[str, np.ndarray] = {}
        if keep is not None and folder is not None:
            self._files = decoded_cache.open_or_create(folder, split, keep, self._maps, self._decode)
        elif keep is not None:
            shape = (len(split), keep.height, keep.width)
            self._store = {"image": np.empty((*shape, 3), np.uint8), **{n: np.empty(shape, np.uint8) for n in maps}}
            self._filled = np.zeros(len(split), bool)

    def read(self, index: int) -> elements.Element:
        """Returns the element of an image: `image`, maps, `index` and `filename`; its arrays are not to be changed."""
        if self._keep is None:
            return self._decode(index)
        if self._files is not None:
            return {"index": index, "filename": self._split.filenames[index], **self._files.read(index)}
        if not self._filled[index]:
            element = self._keep(self._decode(index))
            for name, kept in self._store.items():
                kept[index] = element[name]
            self._filled[index] = True
        kept_arrays = {name: kept[index] for name, kept in self._store.items()}
        return {"index": index, "filename": self._split.filenames[index], **kept_arrays}

    def _decode(self, index: int) -> elements.Element:
        label = f"image {self._split.filenames[index]!r} of {self._split.name}"
        try:
            record = self._split.source[index]
            image = record["image"]
            decoded = image if isinstance(image, np.ndarray) else image_io.decode(image, label)
            element: elements.Element = {
                "index": index,
                "filename": self._split.filenames[index],
                "image": decoded,
            }
            for name in self._maps:
                if name not in record:
                    raise errors.UserError(
                        f"{label} has no map {name!r}; take it out of `data.maps` or prepare the data set with it."
                    )
                element[name] = image_io.decode_map(record[name], f"map {name!r} of {label}")
        except errors.UserError:
            raise
        except Exception as error:
            raise errors.UserError(
                f"{label} cannot be read ({errors.fault(error)}); prepare the data set again."
            ) from error
        return element


class _TrainStep:
    """Computes this process's share of a global batch; called by the threads and workers of grain."""

    def __init__(
        self,
        reader: Reader,
        sampler: samplers.Sampler,
        columns: Mapping[str, np.ndarray],
        chains: Mapping[str, transforms.Chain],
        shared_geometry: Mapping[str, bool],
        *,
        seed: int,
        share: slice,
    ):
        self._reader, self._sampler, self._columns = reader, sampler, dict(columns)
        self._chains, self._shared_geometry = dict(chains), dict(shared_geometry)
        self._seed, self._share = seed, share

    def __call__(self, step: int) -> Batch:
        indices = self._sampler.indices(step)
        images = len(self._columns["label"])
        if indices.min() < 0 or indices.max() >= images:
            raise errors.UserError(
                f"expected places in a split of {images} images from the sampler {type(self._sampler).__name__}, got "
                f"{indices.min()} to {indices.max()}; repair its method `plan`."
            )
        indices = indices[self._share]
        batch: Batch = {name: column[indices] for name, column in self._columns.items()}
        batch["index"] = indices.astype(np.int32)
        first = step * self._sampler.batch_size + self._share.start
        for row, index in enumerate(indices):
            element = self._reader.read(int(index))
            for view, chain in self._chains.items():
                self._write(batch, row, len(indices), view, self._augment(element, chain, view, first + row))
        return batch

    def _augment(
        self, element: elements.Element, chain: transforms.Chain, view: str, position: int
    ) -> elements.Element:
        owner = "" if self._shared_geometry[view] else view
        rng = samplers.generator(self._seed, f"appearance/{view}", position)
        geometry_rng = samplers.generator(self._seed, f"geometry/{owner}", position)
        if chain.needs_donor:
            place = samplers.generator(self._seed, f"donor/{owner}", position).integers(len(self._columns["label"]))
            element = {**element, "donor": self._reader.read(int(place))["image"]}
        return chain(element, rng, geometry_rng)

    def _write(self, batch: Batch, row: int, rows: int, view: str, element: elements.Element) -> None:
        suffix = f"_{view}" if view else ""
        if "erase_box" not in element:
            element = {**element, "erase_box": np.zeros(4, np.int32)}
        for name, value in element.items():
            if isinstance(value, np.ndarray):
                if row == 0:
                    batch[name + suffix] = np.empty((rows, *value.shape), value.dtype)
                batch[name + suffix][row] = value


def train_batches(
    split: records.Split,
    labels: np.ndarray,
    *,
    sampler: Mapping[str, Any] | samplers.Sampler,
    augment: Mapping[str, Any] | None = None,
    height: int = 256,
    width: int = 128,
    interpolation: str = "bilinear",
    seed: int = 0,
    start_step: int = 0,
    num_steps: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int | None = None,
    views: Mapping[str, Mapping[str, Any]] | None = None,
    maps: Sequence[str] = (),
    cache: str = "auto",
    cache_folder: str | pathlib.Path | None = None,
) -> TrainBatches:
    """Returns the stream of training batches from a step on.

    Args:
        split: the training split.
        labels: int32 `[N]`, class of each image (`records.train_labels`); images with a negative label are never drawn.
        sampler: name and options, see `samplers.build`, or a sampler.
        augment: transforms and options of the main view, see `transforms.build_chain`.
        height: rows of the images.
        width: columns of the images.
        interpolation: a key of `image_io.INTERPOLATIONS`.
        seed: seed of the run, from which sampler and augmentation derive their generators.
        start_step: number of the first batch, counted over all epochs.
        num_steps: number of batches; None is endless.
        process_index: index of this process's share of each global batch.
        process_count: number of equal shares of a global batch.
        workers: number of worker processes (for many cores; they need `if __name__ == "__main__"` in the script).
        threads: threads of each process; None is one per core, up to eight.
        views: further views of the same images by name: `augment`, the transforms of that view (default: those of the
            main view), and `geometry`, "independent" (default) or "shared", which repeats flip and crop of the main
            view.
        maps: names of per-pixel maps that are loaded and transformed with the images, such as "parts".
        cache: "memory" keeps resized images in memory, filled during the first epoch; "none" decodes at each access;
            "auto" is "memory" where the images fit, nothing random precedes the resize and there are no workers;
            "disk" writes files of resized images first and shares them between processes and runs.
        cache_folder: folder of those files, normally inside the folder of the prepared data set.

    Returns:
        An iterator of dicts: `image` uint8 `[b, H, W, 3]`, `label` int32 `[b]`, `camid` int32 `[b]`, `index` int32
        `[b]` (place in the split), `erase_box` int32 `[b, 4]` (zeros: none), maps uint8 `[b, H, W]`; for each further
        view `image_<view>`, `erase_box_<view>` and so on. `b` is the global batch size divided by `process_count`.

    Raises:
        UserError: settings that contradict each other or the split; during iteration, an image that cannot be read.
    """
    plan = sampler if isinstance(sampler, samplers.Sampler) else samplers.build(sampler, labels, seed)
    if len(labels) != len(split):
        raise errors.UserError(f"{split.name} has {len(split)} images but {len(labels)} labels; give one for each.")
    share = _share(plan.batch_size, process_index, process_count)
    chains = {"": transforms.build_chain(augment, height, width, interpolation)}
    shared_geometry = {"": True}
    for name, settings in dict((views or {}).items()).items():
        options = _view_options(name, settings)
        chains[name] = transforms.build_chain(options.get("augment", augment), height, width, interpolation)
        shared_geometry[name] = options.get("geometry", "independent") == "shared"
    if cache == "disk" and cache_folder is None:
        raise errors.UserError('cache="disk" needs a folder for its files; a data set in memory has none.')
    keep = _resize_to_keep(cache, split, maps, list(chains.values()), workers)
    reader = Reader(split, maps, keep, cache_folder if cache == "disk" else None)
    columns = {"label": np.asarray(labels, np.int32), "camid": np.asarray(split.camids, np.int32)}
    step = _TrainStep(reader, plan, columns, chains, shared_geometry, seed=seed, share=share)
    stop = _ENDLESS if num_steps is None else start_step + num_steps
    batches = TrainBatches(grain.MapDataset.range(start_step, stop).map(step), threads=threads, workers=workers)
    batches.steps_per_epoch, batches.batch_size = plan.batches_per_epoch, plan.batch_size
    return batches


def _view_options(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(settings.items())
    for key in options:
        if key not in ("augment", "geometry"):
            raise errors.unknown(f"option of the view {name!r}", key, ("augment", "geometry"))
    if options.get("geometry", "independent") not in ("independent", "shared"):
        raise errors.unknown("view geometry", options["geometry"], ("independent", "shared"))
    return options


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    if process_count < 1 or batch_size % process_count:
        raise errors.UserError(
            f"a global batch of {batch_size} images cannot be cut into {process_count} equal shares; choose a batch "
            "size that the number of processes divides."
        )
    if not 0 <= process_index < process_count:
        raise errors.UserError(f"process index {process_index} is outside 0..{process_count - 1}; check the launcher.")
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _resize_to_keep(
    cache: str, split: records.Split, maps: Sequence[str], chains: Sequence[transforms.Chain], workers: int
) -> transforms.Resize | None:
    """Returns the resize whose results the reader caches, None for no cache."""
    if cache not in CACHES:
        raise errors.unknown("cache", cache, CACHES)
    if cache == "none":
        return None
    possible = all(chain.starts_with_resize for chain in chains) and (cache == "disk" or not workers)
    if not possible:
        if cache == "auto":
            return None
        if cache == "disk":
            raise errors.UserError('cache="disk" needs chains that begin with the resize; use cache="none".')
        raise errors.UserError(
            'cache="memory" needs workers=0 and chains that begin with the resize; use cache="none" or threads.'
        )
    resize = chains[0].transforms[0]
    assert isinstance(resize, transforms.Resize)
    size = len(split) * resize.height * resize.width * (3 + len(maps))
    fits = size <= min(CACHE_LIMIT_BYTES, _free_memory() // 2)
    return resize if fits or cache != "auto" else None


def _free_memory() -> int:
    """Returns the free memory in bytes; a large number where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 2**62


def _free_shared_memory() -> int:
    try:
        state = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return 2**62  # not Linux: shared memory is not a file system of its own
    return state.f_bavail * state.f_frsize


class _EvalStep:
    """Computes this process's share of an evaluation batch."""

    def __init__(self, reader: Reader, camids: np.ndarray, resize: transforms.Resize, batch_size: int, share: slice):
        self._reader, self._camids, self._resize = reader, np.asarray(camids, np.int32), resize
        self._batch_size, self._share = batch_size, share

    def __call__(self, number: int) -> Batch:
        indices = number * self._batch_size + np.arange(self._share.start, self._share.stop)
        mask = indices < len(self._camids)
        rows = len(indices)
        batch: Batch = {
            "image": np.zeros((rows, self._resize.height, self._resize.width, 3), np.uint8),
            "index": np.where(mask, indices, -1).astype(np.int32),
            "mask": mask,
            "camid": np.full(rows, -1, np.int32),
        }
        batch["camid"][mask] = self._camids[indices[mask]]
        for row in np.flatnonzero(mask):
            element = self._resize(self._reader.read(int(indices[row])))
            batch["image"][row] = element["image"]
        return batch


def eval_batches(
    split: records.Split,
    *,
    height: int = 256,
    width: int = 128,
    interpolation: str = "bilinear",
    batch_size: int = 64,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int | None = None,
) -> EvalBatches:
    """Returns batches of resized images that cover a split once, in published order.

    Args:
        split: query or gallery.
        height: rows of the images.
        width: columns of the images.
        interpolation: a key of `image_io.INTERPOLATIONS`.
        batch_size: images in a global batch, over all processes.
        process_index: index of this process's share of each global batch.
        process_count: number of equal shares of a global batch.
        workers: number of worker processes.
        threads: threads of each process; None is one per core, up to eight.

    Returns:
        An iterator of length `ceil(N / batch_size)` in every process, of dicts: `image` uint8 `[b, H, W, 3]`, `index`
        int32 `[b]` (place in the split, -1 for padding), `mask` bool `[b]` (False for padding), `camid` int32 `[b]`
        (-1 for padding). Global batch j holds the images from `j * batch_size` on; only the last one is padded, and
        over all processes each image occurs exactly once.

    Raises:
        UserError: a batch size that `process_count` does not divide; during iteration, an image that cannot be read.
    """
    share = _share(batch_size, process_index, process_count)
    resize = transforms.Resize(height, width, interpolation)
    count = -(-len(split) // batch_size)
    step = _EvalStep(Reader(split), split.camids, resize, batch_size, share)
    batches = EvalBatches(grain.MapDataset.range(count).map(step), threads=threads, workers=workers)
    batches.batch_count = count
    return batches
