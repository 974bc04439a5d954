"""Checkpoints of a run whose folder is in an object store.

Orbax writes a checkpoint to this machine's disk. Before it gets its final name there, its files are uploaded to
`checkpoints/<step>/` of the store and their sizes compared by one listing; `files.json`, the list of files with sizes
and hashes, follows last and makes the checkpoint count. A start removes what has no such list. It fetches the newest
complete checkpoint and the best one; hashes are compared by `integrity`.

In a run of several processes process 0 alone talks to the store: it saves arrays that the processes have gathered, and
what it reads is sent to the others (`spread`). So each host may have a disk of its own, and the number of requests does
not depend on the number of processes.
"""

from __future__ import annotations

import json
import logging
import math
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from reid_jax import file_io, trees
from reid_jax.runtime import mesh, processes
from reid_jax.stores import objects
from reid_jax.train import integrity

LOG = logging.getLogger(__name__)

_META = f"{integrity.META}/metadata"


class CheckpointStore:
    """The folder of checkpoints in a store.

    Args:
        store: the objects below it.
        before_commit: called when all files of a checkpoint are in the store and before it counts.
    """

    def __init__(self, store: objects.Store, before_commit: Callable[[], None]) -> None:
        self._store = store
        self._before_commit = before_commit

    def fetch(self, directory: pathlib.Path, *, owner: bool) -> None:
        """Copies the newest readable checkpoint and the best one to a folder; others there stay as they are.

        Args:
            directory: the folder of checkpoints on this machine.
            owner: whether this run holds the store's lock: then what is incomplete there is removed, and what is
                damaged is set aside.

        Raises:
            Unreadable: there are checkpoints, but each is damaged.
            StoreError: the store cannot be read.
        """
        listed = self._listed()
        complete = [step for step in sorted(listed) if integrity.LIST in listed[step]]
        if owner:
            for step in set(listed) - set(complete):
                LOG.warning("removing the checkpoint of step %d, whose upload was cut off.", step)
                self._remove(step, listed[step])
        damaged: dict[int, str] = {}
        for step in reversed(complete):
            found = self._fetch(step, listed[step], directory)
            if found is None:
                break
            damaged[step] = found
            LOG.warning("the checkpoint %s/%d is damaged (%s); reading an older one.", self._store.url, step, found)
        if complete and len(damaged) == len(complete):
            raise integrity.none_readable(self._store.url, damaged)
        if owner:
            for step in damaged:
                self._set_aside(step, listed.pop(step))
        best = self._best([step for step in complete if step not in damaged])
        if best is not None and (found := self._fetch(best, listed[best], directory)) is not None:
            LOG.warning("the best checkpoint %s/%d is damaged (%s).", self._store.url, best, found)

    def upload(self, folder: pathlib.Path) -> None:
        """Uploads a checkpoint that is complete except for its name `<step>.<...>`, and makes it count.

        Raises:
            StoreError: the store cannot be written; the checkpoint does not count.
        """
        step = int(folder.name.partition(".")[0])
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        last = files.pop(integrity.LIST)
        for name, path in files.items():
            self._store.upload(path, f"{step}/{name}")
        listed = self._listed()
        for name, path in files.items():
            found = listed.get(step, {}).get(name)
            if found is None or found.size != path.stat().st_size:
                raise objects.StoreError(
                    f"expected {path.stat().st_size} bytes at {self._store.url}/{step}/{name} after its upload, found "
                    f"{found.size if found else 'nothing'}; check the store, then start the same command again."
                )
        self._before_commit()
        self._store.upload(last, f"{step}/{integrity.LIST}")
        self._remove_others(listed, {step, *integrity.folders(folder.parent)})

    def prune(self, directory: pathlib.Path) -> None:
        """Removes the checkpoints that a folder, which the rules of what is kept have been applied to, has no more."""
        self._remove_others(self._listed(), set(integrity.folders(directory)))

    def _remove_others(self, listed: Mapping[int, Mapping[str, objects.Entry]], kept: set[int]) -> None:
        for step in sorted(set(listed) - kept):
            self._remove(step, listed[step])

    def _listed(self) -> dict[int, dict[str, objects.Entry]]:
        """Returns the objects of every checkpoint by step and name."""
        found: dict[int, dict[str, objects.Entry]] = {}
        for path, entry in self._store.listing().items():
            step, _, name = path.partition("/")
            if step.isdigit() and name:
                found.setdefault(int(step), {})[name] = entry
        return found

    def _fetch(self, step: int, entries: Mapping[str, objects.Entry], directory: pathlib.Path) -> str | None:
        """Copies a checkpoint unless the folder has it, and returns what is wrong with it."""
        target = directory / str(step)
        if target.is_dir():
            return None
        beside = directory / f"{file_io.INCOMPLETE}{step}"
        shutil.rmtree(beside, ignore_errors=True)
        for name, entry in entries.items():
            path = beside / name
            if not path.resolve().is_relative_to(beside.resolve()):
                return f"{file_io.shown(name)[:80]} is no name of a file"
            file_io.make_folder(path.parent, "the local copy of a checkpoint")
            self._store.download(f"{step}/{name}", path, entry.size)
        found = integrity.damage(beside)
        if found is None:
            beside.rename(target)
        else:
            shutil.rmtree(beside, ignore_errors=True)
        return found

    def _best(self, steps: list[int]) -> int | None:
        """Returns the step of the highest score, `None` if no step has one."""
        scored = []
        for step in steps:
            try:
                about = json.loads(self._store.read(f"{step}/{_META}", b"{}"))
                score = (about.get("metrics") or {}).get(about.get("best_metric"))
            except (ValueError, AttributeError):
                continue
            if isinstance(score, float | int) and not math.isnan(score):
                scored.append((score, step))
        return max(scored)[1] if scored else None

    def _remove(self, step: int, entries: Mapping[str, objects.Entry]) -> None:
        """Removes a checkpoint, first what makes it count."""
        names = sorted(entries, key=lambda name: name != integrity.LIST)
        self._store.remove(f"{step}/{name}" for name in names)

    def _set_aside(self, step: int, entries: Mapping[str, objects.Entry]) -> None:
        """Gives a damaged checkpoint the name `<step>.damaged`, so that its step can be saved again."""
        for name in entries:
            self._store.copy(f"{step}/{name}", f"{step}.damaged/{name}")
        self._remove(step, entries)
        LOG.warning("the checkpoint %s/%d was set aside as %d.damaged.", self._store.url, step, step)


def spread(flat: Mapping[str, np.ndarray] | None, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Returns process 0's arrays on every process, placed as wanted. A collective.

    Args:
        flat: the arrays by path; `None` on the other processes.
        wanted: shape, type and sharding by path.
    """
    placed = {}
    for path, leaf in wanted.items():
        bits = np.zeros(math.prod(leaf.shape) * leaf.dtype.itemsize, np.uint8)
        if flat is not None:  # as bytes: a sum over processes would turn -0.0 into 0.0
            bits = np.ascontiguousarray(flat[path]).reshape(-1).view(np.uint8)
        received = np.asarray(multihost_utils.broadcast_one_to_all(bits), np.uint8)
        whole = received.view(leaf.dtype).reshape(leaf.shape)
        placed[path] = jax.make_array_from_callback(leaf.shape, leaf.sharding, whole.__getitem__)
    return placed


def from_main(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns process 0's JSON object on every process. A collective."""
    found: dict[str, Any] | None = json.loads(processes.broadcast_text(json.dumps(value)))
    return found


def gathered(state: Any) -> dict[str, Any]:
    """Returns a state as nested dictionaries of whole numpy arrays, on every process. A collective."""
    return trees.unflatten(mesh.gather(trees.flatten(state)))


def one_copy(tree: Any) -> Any:
    """Returns arrays that each device of this process holds whole as those of the first; no value is copied.

    Orbax would have every device write a slice of each, cut by programs that are compiled at the first checkpoint: a
    hundred for a small network.
    """
    if jax.process_count() > 1:
        return tree

    def first(x: Any) -> Any:
        several = isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
        return x.addressable_data(0) if several and x.is_fully_replicated else x

    return jax.tree.map(first, tree)
