"""Checkpoints of a run: the two newest and the best, always complete.

    checkpoints/<step>/state         every array of the train state, by path
    checkpoints/<step>/meta          JSON values of the caller, and the scores
    checkpoints/<step>/files.json    size and hash of every file
    checkpoints/<step>.damaged       a checkpoint that was set aside because one of its files is damaged

A checkpoint is written under a temporary name and renamed when it is complete, so a process killed at any moment leaves
at most a temporary folder, which the next start removes. Saving continues in the background: the arrays are copied to
the host before `save` returns, so the next step may reuse their buffers. A damaged checkpoint is named in one sentence,
and the newest readable one takes its place.

The state is stored as nested dictionaries of arrays, independent of its classes in memory. It can therefore be compared
with the running model array by array before it is read, the variables can be read without the optimizer, and the number
of devices may change. Orbax is used in this module only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from reid_jax import file_io, trees
from reid_jax.errors import MalformedError, UserError
from reid_jax.runtime import processes
from reid_jax.train import checkpoint_store, integrity
from reid_jax.train import metrics as metrics_lib
from reid_jax.train.integrity import META, STATE

LOG = logging.getLogger(__name__)

# Newest checkpoints that are kept: a damaged one has a predecessor.
REMOVALS = 20  # attempts, a tenth of a second apart
KEPT = 2


class Checkpoints:
    """The checkpoints of a run. Every process creates an instance for the same folder and calls it in the same order.

    Args:
        directory: folder of the checkpoints; created if absent.
        best_metric: name of the score (higher is better) that ranks the best; `None` keeps only the newest.
        keep_best: number of best checkpoints to keep.
        remote: where they are in an object store, of which the folder is this machine's copy.

    Raises:
        UserError: the folder cannot be written, or it has checkpoints and none of them can be read.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        best_metric: str | None = None,
        keep_best: int = 1,
        remote: checkpoint_store.CheckpointStore | None = None,
    ) -> None:
        metrics_lib.quiet_libraries()
        self.directory = pathlib.Path(directory).absolute()
        self.best_metric = best_metric
        self._remote = remote
        # Process 0 writes and reads for all, because each host may have a disk of its own.
        self._for_all = remote is not None and processes.process_count() > 1
        if processes.is_main():
            file_io.make_folder(self.directory, "the folder of checkpoints")
            integrity.set_damaged_aside(self.directory)
        processes.barrier("reid_jax_checkpoints_examined")
        self._manager = None if self._for_all and not processes.is_main() else self._open(keep_best)

    def _open(self, keep_best: int) -> ocp.CheckpointManager:
        """Returns Orbax's manager of the folder, with the rules of what is kept."""
        policies: list[Any] = [managers.LatestN(n=KEPT)]
        if self.best_metric and keep_best:
            best = managers.BestN(get_metric_fn=self._score, n=keep_best, keep_checkpoints_without_metrics=False)
            policies.append(best)
        options = ocp.CheckpointManagerOptions(
            best_fn=self._score,
            preservation_policy=managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            save_root_metadata=False,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._list_files),
        )
        if self._for_all:
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="main"
            )
            options.create = False  # the folder is there; Orbax refuses to make it for a part of the processes
        with self._writing():
            return ocp.CheckpointManager(self.directory, options=options)

    def _list_files(self) -> None:
        """Lists the files of the checkpoint being written; runs in the background before it gets its final name."""
        if processes.is_main():
            for folder in integrity.unfinished(self.directory):
                integrity.write(folder)
                if self._remote is not None:
                    self._remote.upload(folder)

    def _score(self, metrics: Mapping[str, float] | None) -> float:
        """Returns the ranking score; a score that is missing or not a number ranks last."""
        value = (metrics or {}).get(self.best_metric, -math.inf) if self.best_metric else -math.inf
        return -math.inf if value is None or math.isnan(value) else value

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> bool:
        """Saves a state, in the background unless `wait`; an existing step is not overwritten.

        Args:
            step: number of steps so far; must increase from call to call.
            state: any tree of arrays.
            meta: JSON values that `restore` returns.
            metrics: scores of this state, the same on every process.
            wait: return only when the checkpoint is on the disk.

        Returns:
            Whether a checkpoint was started.

        Raises:
            UserError: this checkpoint or the one before it cannot be written.
        """
        step = int(step)
        latest = self.latest_step()
        if latest is not None and step <= latest:
            return False
        scores = {name: float(value) for name, value in metrics.items()} if metrics else None
        about = {"meta": dict(meta), "metrics": scores, "best_metric": self.best_metric}
        arrays = checkpoint_store.gathered(state) if self._for_all else checkpoint_store.one_copy(_as_dicts(state))
        if self._manager is None:
            return True
        items = ocp.args.Composite(**{STATE: ocp.args.StandardSave(arrays), META: ocp.args.JsonSave(_as_json(about))})
        with self._writing():
            if not self.directory.is_dir():  # orbax would make another
                raise FileNotFoundError(self.directory)
            begun = bool(self._manager.save(step, args=items, metrics=scores))
        if wait:
            self.wait()
        return begun

    def latest_step(self) -> int | None:
        """Returns the newest step, `None` before the first."""
        latest: int | None = None if self._manager is None else self._manager.latest_step()
        return (processes.number_of_main(latest or 0) or None) if self._for_all else latest

    def best_step(self) -> int | None:
        """Returns the stored step with the highest score, `None` if no step has a score."""
        self.wait()
        return best_step(self.directory)

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Returns a checkpoint's state and `meta`.

        Args:
            abstract_state: a tree of the same classes as the state with `jax.ShapeDtypeStruct` leaves; their sharding
                is that of the result, on any number of devices.
            step: step of the checkpoint; the newest when `None`.

        Raises:
            integrity.Unreadable: its files are damaged.
            UserError: no such checkpoint, or a checkpoint of another model.
        """
        self.wait()
        wanted = trees.flatten(abstract_state)
        if self._for_all:
            return self._restore_for_all(abstract_state, wanted, self.latest_step() if step is None else step)
        assert self._manager is not None
        step = _choose(self.directory, self.latest_step() if step is None else step)
        items = ocp.args.Composite(
            **{STATE: ocp.args.StandardRestore(trees.unflatten(wanted)), META: ocp.args.JsonRestore()}
        )
        with integrity.reading(self.directory / str(step)):
            _check_fit(self.directory / str(step), wanted)
            restored = self._manager.restore(step, args=items)
            flat = trees.flatten(restored[STATE])
            leaves = [flat[path] for path in wanted]
            meta = restored[META]["meta"]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), meta

    def _restore_for_all(
        self, abstract_state: Any, wanted: dict[str, Any], step: int | None
    ) -> tuple[Any, dict[str, Any]]:
        """Returns state and `meta` that process 0 reads and sends to the others. A collective."""
        flat = None
        if processes.is_main():
            folder = self.directory / str(_choose(self.directory, step))
            with integrity.reading(folder):
                _check_fit(folder, wanted)
                flat = _read_numpy(folder, trees.unflatten(_stored(folder)))
        placed = checkpoint_store.spread(flat, wanted)
        leaves = [placed[path] for path in wanted]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), self._meta(step)

    def _meta(self, step: int | None) -> dict[str, Any]:
        """Returns the `meta` of a step; where process 0 reads for all, a collective."""
        found = None
        if not self._for_all or processes.is_main():
            found = _read_meta(self.directory / str(_choose(self.directory, step)))["meta"]
        return (checkpoint_store.from_main(found) if self._for_all else found) or {}

    def restore_newest(
        self, abstract_at: Callable[[int], Any], check: Callable[[Mapping[str, Any]], None] | None = None
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns step, state and `meta` of the newest readable checkpoint, `None` without a checkpoint.

        A damaged one is set aside, so that its step can be saved again. In runs of several processes, which must agree,
        this is done when the folder is opened only.

        Args:
            abstract_at: returns the abstract state of a step, see `restore`.
            check: receives `meta` before the state is read, and raises a `UserError` to refuse the checkpoint.

        Raises:
            UserError: none can be read, or a checkpoint of another model.
        """
        while (step := self.latest_step()) is not None:
            try:
                if check is not None:
                    check(self._meta(step))
                state, meta = self.restore(abstract_at(step), step)
            except integrity.Unreadable as error:
                older = [known for known in integrity.folders(self.directory) if known < step]
                if processes.process_count() > 1 or not older:
                    raise
                integrity.set_aside(self.directory / str(step), str(error).rstrip("."))
                assert self._manager is not None
                self._manager.reload()
            else:
                return step, state, meta
        return None

    def wait(self) -> None:
        """Waits until everything saved so far is on the disk.

        Raises:
            UserError: it could not be written.
        """
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and stops the background threads."""
        if self._manager is not None:
            with self._writing():
                self._manager.close()
                if self._remote is not None:
                    self._remote.prune(self.directory)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a failed write into one sentence and removes what is unfinished."""
        try:
            yield
        except UserError:
            self._remove_unfinished()
            raise
        except Exception as error:
            if peer := processes.peer_failure(error):
                raise peer from error
            self._remove_unfinished()
            if not self.directory.is_dir():
                raise UserError(
                    f"expected the folder of checkpoints {self.directory}, it was removed or renamed during the run; "
                    "put it back and start the same command again."
                ) from error
            raise file_io.cannot_write(self.directory, "a checkpoint to", integrity.system_error(error)) from error

    def _remove_unfinished(self) -> None:
        """Removes unfinished folders; again where a background thread that was still writing made one anew."""
        if not processes.is_main():
            return
        for _ in range(REMOVALS):
            for folder in integrity.unfinished(self.directory):
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.1)
            if not integrity.unfinished(self.directory):
                return

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def restore_variables(
    directory: str | pathlib.Path,
    step: int | str | None = None,
    *,
    extra: bool = False,
    average: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a model's variables from a run's checkpoints, without its optimizer; the folder is not changed.

    Args:
        directory: the folder of checkpoints.
        step: a step, `"best"`, or `None` for the newest that can be read; a newer one that is damaged is reported.
        extra: also return the state's `extra`.
        average: name of an entry of `extra` (an averaged model's variables) that replaces the trained variables if the
            checkpoint has it.

    Returns:
        `{"params": ..., "batch_stats": ...}` (and `"constants"` of a model that has some, `"extra"`) as numpy, and the
        `meta` of the checkpoint.

    Raises:
        UserError: no such checkpoint, or its files are damaged.
    """
    metrics_lib.quiet_libraries()
    directory = pathlib.Path(directory).absolute()
    if step == "best":
        step = best_step(directory)
        if step is None:
            raise UserError(
                f"no checkpoint in {directory} has a score yet, so none is the best; use the newest, or train "
                "with evals.every_epochs above 0."
            )
    if step is None:
        step = newest_step(directory)
    folder = directory / str(_choose(directory, None if step is None else int(step)))
    with integrity.reading(folder):
        return _read_variables(folder, extra, average)


def _read_variables(folder: pathlib.Path, extra: bool, average: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns variables and `meta`, see `restore_variables`."""
    stored = _stored(folder)
    replacement = f"extra/{average}/"
    averaged = average is not None and any(path.startswith(replacement) for path in stored)
    heads: tuple[str, ...] = (replacement,) if averaged else ("params/", "batch_stats/", "constants/")
    heads += ("extra/",) if extra else ()
    wanted = trees.unflatten({path: leaf for path, leaf in stored.items() if path.startswith(heads)})
    flat = _read_numpy(folder, wanted)
    if averaged:
        kept = {path: leaf for path, leaf in flat.items() if extra and path.startswith("extra/")}
        flat = {path.removeprefix(replacement): leaf for path, leaf in flat.items() if path.startswith(replacement)}
        flat |= kept
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}} | ({"extra": {}} if extra else {})
    return variables | trees.unflatten(flat), _read_meta(folder)["meta"]


def restore_arrays(directory: str | pathlib.Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Returns every array of a checkpoint by path, for comparisons.

    Raises:
        UserError: no such checkpoint, or its files are damaged.
    """
    metrics_lib.quiet_libraries()
    directory = pathlib.Path(directory).absolute()
    folder = directory / str(_choose(directory, step))
    with integrity.reading(folder):
        return _read_numpy(folder, trees.unflatten(_stored(folder)))


def _read_numpy(folder: pathlib.Path, wanted: Any) -> dict[str, Any]:
    """Returns the arrays of a checkpoint that `wanted` (nested dictionaries) lists, by path."""
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    with _reader() as reader:
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=numpy, partial_restore=True)
        return trees.flatten(reader.restore(folder / STATE, args=arguments))


def _reader() -> ocp.Checkpointer:
    """Returns a reader that waits for no other process: one alone may read, or each its own disk."""
    if processes.process_count() == 1:
        return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"reader{own}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def steps(directory: str | pathlib.Path) -> list[int]:
    """Returns the steps of complete checkpoints, ascending."""
    # Incomplete folders have another name.
    return [step for step in integrity.folders(directory) if (pathlib.Path(directory) / str(step) / META).is_dir()]


def newest_step(directory: str | pathlib.Path) -> int | None:
    """Returns the newest step whose files are not damaged, `None` without a checkpoint; warns of newer damaged ones.

    Raises:
        UserError: there are checkpoints, but each is damaged.
    """
    return integrity.newest_readable(pathlib.Path(directory))


def newest_meta(directory: str | pathlib.Path) -> dict[str, Any]:
    """Returns the `meta` of the newest checkpoint that can be read.

    Raises:
        UserError: there is none.
    """
    folder = pathlib.Path(directory) / str(_choose(pathlib.Path(directory), newest_step(directory)))
    with integrity.reading(folder):
        meta: dict[str, Any] = _read_meta(folder)["meta"]
        return meta


def best_step(directory: str | pathlib.Path) -> int | None:
    """Returns the stored step with the highest score (the later of equals), `None` if no step has a score."""
    scored = []
    for step in steps(directory):
        try:
            about = _read_meta(pathlib.Path(directory) / str(step))
            score = (about["metrics"] or {}).get(about["best_metric"])
        except integrity.Unreadable as error:
            LOG.warning("%s", error)
            continue
        if score is not None and not math.isnan(score):
            scored.append((score, step))
    return max(scored)[1] if scored else None


def _choose(directory: pathlib.Path, step: int | None) -> int:
    """Returns the given step, or the newest."""
    known = steps(directory)
    if not known:
        raise UserError(
            f"no checkpoint was found in {directory}; train first, or give the folder of a run that has been trained."
        )
    if step is None:
        return known[-1]
    if int(step) not in known:
        raise UserError(f"no checkpoint of step {step} is in {directory}; it has: {', '.join(map(str, known))}.")
    return int(step)


def _as_dicts(state: Any) -> dict[str, Any]:
    return trees.unflatten(trees.flatten(state))


def _as_json(value: Any) -> Any:
    """Returns a JSON value, with NumPy numbers as Python numbers; raises for values without a JSON form."""

    def plain(item: Any) -> Any:
        if isinstance(item, np.generic | jax.Array | np.ndarray):
            return item.tolist()
        raise TypeError(f"{type(item).__name__} cannot be stored in a checkpoint's meta")

    return json.loads(json.dumps(value, default=plain))


def _read_meta(folder: pathlib.Path) -> dict[str, Any]:
    with integrity.reading(folder):
        meta: dict[str, Any] = json.loads((folder / META / "metadata").read_text(encoding="utf-8"))
        if not {"meta", "metrics", "best_metric"} <= set(meta):
            raise MalformedError(f"{META}/metadata has no meta, metrics and best_metric")
    return meta


def _stored(folder: pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the stored arrays by path."""
    with _reader() as reader:
        tree = reader.metadata(folder / STATE).item_metadata.tree
    return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in trees.flatten(tree).items()}


def _check_fit(folder: pathlib.Path, wanted: Mapping[str, Any]) -> None:
    """Raises an error that names the first difference between stored and expected arrays; orbax would list all."""
    stored = _stored(folder)
    differences = []
    for path, leaf in wanted.items():
        if path not in stored:
            differences.append(f"{path} is not in it")
        elif stored[path].shape != tuple(leaf.shape):
            differences.append(f"{path} has shape {stored[path].shape}, expected {tuple(leaf.shape)}")
        elif stored[path].dtype != leaf.dtype:
            differences.append(f"{path} is {stored[path].dtype}, expected {leaf.dtype}")
    differences += [f"{path} is in it but not in the model" for path in stored if path not in wanted]
    if differences:
        more = f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else ""
        raise UserError(
            f"the checkpoint {folder} belongs to another model or optimizer: {differences[0]}{more}; use the config it "
            "was trained with, or another --workdir."
        )
