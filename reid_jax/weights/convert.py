"""Conversion of published weights into our variables and back: renames as data, strict loading, a report of every key.

The general rule covers most networks: split a PyTorch name on ".", join a number to the part before it with "_", let
the last part decide the leaf (`layer1.0.conv1.weight` becomes `params/layer1_0/conv1/kernel`). A model adds renames as
(pattern, replacement) pairs, applied in order to the PyTorch name before the general rule.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io, trees
from reid_jax.weights import array_checks, torch_files, weight_tables

Rule = tuple[str, str]
Variables = Mapping[str, Any]

# Entries of any PyTorch file that have no counterpart here: (pattern, reason).
IGNORED: tuple[Rule, ...] = ((r"(^|\.)num_batches_tracked$", "counter that nothing reads"),)
# A published backbone's own classifier.
IGNORED_CLASSIFIER: tuple[Rule, ...] = ((r"^(fc|classifier)\.", "classifier of the classes it was trained on"),)

_STATISTICS = {"running_mean": "mean", "running_var": "var"}
_WEIGHT_LEAVES = ("kernel", "scale", "embedding")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The outcome for one key.

    Attributes:
        source: name in the file, "" for a leaf of ours without a source.
        target: our path with "/" between parts, "" for a source without target.
        fate: "loaded", "reshaped", "ignored", "missing", "misfit" or "extra".
        detail: shapes, or the reason.
    """

    source: str
    target: str
    fate: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome for every key of a file and every leaf of a model.

    Attributes:
        entries: the outcomes.
        notes: what was looked through to find the weights in the file, see `weight_tables.Table`.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def named(self, *fates: str) -> list[Entry]:
        """Returns the entries with one of these fates."""
        return [entry for entry in self.entries if entry.fate in fates]

    def summary(self) -> str:
        """Returns a line of counts."""
        fates = dict.fromkeys(entry.fate for entry in self.entries)
        return ", ".join(f"{len(self.named(fate))} {fate}" for fate in fates)

    def __str__(self) -> str:
        """Returns the counts, and a line for every key that was neither loaded as it is nor ignored."""
        rest = self.named("reshaped", "misfit", "missing", "extra")
        lines = (f"{e.fate} {e.source or e.target} {e.detail}".rstrip() for e in rest)
        return "\n".join(["; ".join([self.summary(), *self.notes]), *lines])

    def table(self) -> str:
        """Returns a line per key: fate, name in the file, our path, detail."""
        rows = [(entry.fate, entry.source or "-", entry.target or "-", entry.detail) for entry in self.entries]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip() for row in rows]
        return "\n".join([*lines, *self.notes, self.summary()])


class ConversionError(errors.UserError):
    """Raised for weights that do not fit the model; `report` lists the keys."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def apply_rules(name: str, rules: Iterable[Rule]) -> str:
    """Applies renames in order; each sees the result of the one before."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def module_path(name: str) -> tuple[str, str]:
    """Returns (module path, last part) of a PyTorch name.

    >>> module_path("layer1.0.downsample.1.running_var")
    ('layer1_0/downsample_1', 'running_var')
    """
    *parts, leaf = name.split(".")
    path: list[str] = []
    for part in parts:
        if part.isdigit() and path:
            path[-1] += f"_{part}"
        else:
            path.append(part)
    return "/".join(path), leaf


def target_of(name: str, leaves: Mapping[str, Any]) -> str | None:
    """Returns the path among `leaves` that a renamed PyTorch name stands for, or None."""
    path, leaf = module_path(name)
    prefix = f"{path}/" if path else ""
    if leaf in _STATISTICS:
        candidates = [f"batch_stats/{prefix}{_STATISTICS[leaf]}"]
    elif leaf == "weight":
        candidates = [f"params/{prefix}{name}" for name in _WEIGHT_LEAVES]
    else:
        candidates = [f"params/{prefix}{leaf}"]
    candidates.append(f"params/{prefix}{leaf}")
    return next((path for path in candidates if path in leaves), None)


def from_torch_layout(value: np.ndarray, target: str) -> np.ndarray:
    """Transposes a PyTorch kernel into our axis order, OIHW to HWIO and OI to IO; other arrays stay as they are."""
    if not target.endswith("/kernel") or value.ndim < 2:
        return value
    return np.transpose(value, (*range(2, value.ndim), 1, 0))


def to_torch_layout(value: np.ndarray, source: str) -> np.ndarray:
    """Returns the inverse of `from_torch_layout`."""
    if not source.endswith("/kernel") or value.ndim < 2:
        return value
    return np.transpose(value, (value.ndim - 1, value.ndim - 2, *range(value.ndim - 2)))


def load_into(
    variables: Variables,
    flat: Mapping[str, np.ndarray],
    rules: Sequence[Rule] = (),
    *,
    ignore: Sequence[Rule] = IGNORED,
    allow_missing: Sequence[str] = (),
    into: str = "",
    strict: bool = True,
) -> tuple[dict[str, Any], Report]:
    """Puts named arrays into variables; a pure function.

    Args:
        variables: {"params": ..., "batch_stats": ...}; arrays, or shapes of `jax.eval_shape`.
        flat: arrays by PyTorch name, or by our own path ("params/..."), which needs no rules.
        rules: renames of PyTorch names; see the module's top.
        ignore: (pattern, reason) of names in the file that are left out on purpose.
        allow_missing: patterns of our paths (without collection) that may stay as they are, such as "classifier";
            a source for them whose shape does not fit is left out too.
        into: submodule that the file fills, such as "backbone"; leaves outside it are not touched nor reported.
        strict: refuses any other missing, extra or misfit key.

    Returns:
        Variables with the loaded leaves in the dtype of the old ones (the others as given), and the report.

    Raises:
        ConversionError: the weights do not fit.
        UserError: an array that would be loaded is not real and finite, or is a negative variance.
    """
    leaves = trees.flatten(variables)
    inside = {path: leaf for path, leaf in leaves.items() if _is_inside(path, into)}
    if not inside:
        raise errors.UserError(f"the model has no submodule {into!r} to load weights into.")
    own = any(name.startswith("params/") for name in flat)
    entries: list[Entry] = []
    loaded: dict[str, np.ndarray] = {}
    for name, value in flat.items():
        if own:
            target = _moved(name, into) if _moved(name, into) in inside else None
        else:
            renamed = apply_rules(name, rules)
            target = target_of(f"{into.replace('/', '.')}.{renamed}" if into else renamed, inside)
        entry, array = _fate(name, value, target, inside, loaded, ignore, allow_missing, own)
        entries.append(entry)
        if array is not None and target is not None:
            loaded[target] = array
    for path in inside:
        if path not in loaded and not any(entry.target == path and entry.fate == "misfit" for entry in entries):
            allowed = _allowed(path, allow_missing)
            entries.append(Entry("", path, "missing", "allowed" if allowed else ""))
    report = Report(tuple(entries), getattr(flat, "notes", ()))
    if strict:
        _refuse(report, allow_missing, len(inside))
    return trees.unflatten({**leaves, **loaded}), report


def _is_inside(path: str, into: str) -> bool:
    return not into or path.split("/", 1)[1].startswith(f"{into}/")


def _moved(path: str, into: str) -> str:
    """Returns one of our own paths below `into`; a path that is there already stays."""
    if not into or _is_inside(path, into):
        return path
    collection, rest = path.split("/", 1)
    return f"{collection}/{into}/{rest}"


def _allowed(path: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, path.split("/", 1)[1]) for pattern in patterns)


def _fate(
    name: str,
    value: np.ndarray,
    target: str | None,
    leaves: Mapping[str, Any],
    loaded: Mapping[str, np.ndarray],
    ignore: Sequence[Rule],
    allow_missing: Sequence[str],
    own: bool,
) -> tuple[Entry, np.ndarray | None]:
    """Decides the outcome for a key of the file."""
    reason = next((reason for pattern, reason in ignore if re.search(pattern, name)), None)
    if reason is not None:
        return Entry(name, "", "ignored", reason), None
    if target is None:
        return Entry(name, "", "extra", f"{value.shape}, no such leaf"), None
    if target in loaded:
        return Entry(name, target, "extra", "a second source of this leaf"), None
    wanted = leaves[target]
    array = np.asarray(value) if own else from_torch_layout(np.asarray(value), target)
    shapes = f"{tuple(value.shape)} -> {tuple(wanted.shape)}"
    squeezed = tuple(size for size in array.shape if size != 1) == tuple(size for size in wanted.shape if size != 1)
    if tuple(array.shape) != tuple(wanted.shape) and not squeezed:
        return Entry(name, target, "misfit", shapes + (", allowed" if _allowed(target, allow_missing) else "")), None
    fate = "loaded" if array.shape == tuple(wanted.shape) else "reshaped"
    return Entry(name, target, fate, shapes), array_checks.accepted(
        name, target, array.reshape(wanted.shape), wanted.dtype
    )


def _refuse(report: Report, allow_missing: Sequence[str], wanted: int) -> None:
    """Raises when a key is missing, extra or misfit and not allowed to be."""
    faults = [
        entry
        for entry in report.named("missing", "misfit", "extra")
        if not (entry.target and _allowed(entry.target, allow_missing))
    ]
    if not faults:
        return
    matched = len(report.named("loaded", "reshaped"))
    first = faults[0]
    kinds = {fate: sum(entry.fate == fate for entry in faults) for fate in ("missing", "misfit", "extra")}
    counts = ", ".join(f"{count} {fate}" for fate, count in kinds.items() if count)
    raise ConversionError(
        f"the weights are not those of this model: {matched} of its {wanted} arrays were matched, {counts} "
        f"(first: {first.fate} {first.source or first.target} {first.detail}".rstrip()
        + "); choose the model that "
        "the file was made for.",
        report,
    )


def submodule_of(flat: Mapping[str, np.ndarray], variables: Variables) -> str:
    """Returns "backbone" for a file of a backbone alone (published, or saved by us) if the model has one, else ""."""
    published = "conv1.weight" in flat and "layer1.0.conv1.weight" in flat
    bare = published or all(name.partition("/")[2].startswith("backbone/") for name in flat)
    return "backbone" if bare and "backbone" in variables["params"] else ""


@dataclasses.dataclass(frozen=True)
class Part:
    """One of several submodules that the same file of a bare backbone fills.

    Attributes:
        into: path of the submodule.
        ignore: (pattern, reason) of the file's names that this submodule does not use.
        allow_missing: patterns of our paths that are not the backbone's.
    """

    into: str
    ignore: tuple[Rule, ...] = ()
    allow_missing: tuple[str, ...] = ()


def load_parts(
    path: str | os.PathLike[str], variables: Variables, parts: Sequence[Part], *, allow_missing: Sequence[str] = ()
) -> tuple[dict[str, Any], Report]:
    """Loads the same file into several submodules; see `load_file`."""
    entries: list[Entry] = []
    notes: dict[str, None] = {}
    filled = dict(variables)
    for part in parts:
        filled, report = load_file(
            path,
            filled,
            ignore=part.ignore,
            into=part.into,
            allow_missing=(*part.allow_missing, *allow_missing),
        )
        entries += report.entries
        notes |= dict.fromkeys(report.notes)
    return filled, Report(tuple(entries), tuple(notes))


def load_file(
    path: str | os.PathLike[str],
    variables: Variables,
    rules: Sequence[Rule] = (),
    *,
    ignore: Sequence[Rule] = (),
    into: str | None = None,
    allow_missing: Sequence[str] = (),
    strict: bool = True,
    adapt: Callable[[dict[str, np.ndarray]], tuple[dict[str, np.ndarray], tuple[str, ...]]] | None = None,
) -> tuple[dict[str, Any], Report]:
    """Puts the arrays of a file into variables; see `load_into`.

    Args:
        path: a weights file that `torch_files.read_weights` reads, or one of `save`.
        variables: as in `load_into`.
        rules: renames of the whole model's published names; not used where the file fills a submodule.
        ignore: (pattern, reason) of names to leave out, in addition to `IGNORED`.
        into: submodule that the file fills; None finds out (`submodule_of`). Such a file's own classifier is left out.
        allow_missing: as in `load_into`.
        strict: as in `load_into`.
        adapt: from the file's arrays to those that `rules` rename, and further patterns for `allow_missing`.

    Raises:
        UserError: the file is unreadable or does not fit; the message names it.
    """
    flat = torch_files.read_weights(path)
    if adapt is not None:
        adapted, more = adapt(flat)
        flat = weight_tables.Table(adapted, flat.notes)
        allow_missing = (*allow_missing, *more)
    into = submodule_of(flat, variables) if into is None else into
    ignore = (*IGNORED, *(IGNORED_CLASSIFIER if into else ()), *ignore)
    try:
        return load_into(
            variables,
            flat,
            () if into else rules,
            ignore=ignore,
            allow_missing=allow_missing,
            into=into,
            strict=strict,
        )
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}", error.report) from error
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from error


def to_torch(variables: Variables, rules: Sequence[Rule] = ()) -> dict[str, np.ndarray]:
    """Returns our variables under PyTorch names and in PyTorch's axis order.

    Args:
        variables: arrays.
        rules: renames from the general rule's name to the model's PyTorch name, such as (r"^backbone\\.", "").

    Returns:
        Arrays by PyTorch name; a number after "_" at the end of a part becomes a part of its own.
    """
    renames = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
    statistics = {ours: theirs for theirs, ours in _STATISTICS.items()}
    result = {}
    for path, value in trees.flatten(variables).items():
        collection, *parts, leaf = path.split("/")
        leaf = statistics[leaf] if collection == "batch_stats" else renames.get(leaf, leaf)
        name = ".".join([re.sub(r"_(\d+)(?=_|$)", r".\1", part) for part in parts] + [leaf])
        result[apply_rules(name, rules)] = np.ascontiguousarray(to_torch_layout(np.asarray(value), path))
    return result


def save(path: str | os.PathLike[str], variables: Variables, meta: Mapping[str, Any] | None = None) -> None:
    """Writes a weights file: arrays by our own path ("params/...") and `meta` as JSON text.

    Args:
        path: ends in ".npz" or ".safetensors", which says the format; its folder is made where it is absent.
        variables: arrays.
        meta: description of the weights, as JSON values.

    Raises:
        UserError: another ending, or a file that cannot be written.
    """
    save_arrays(path, {name: np.asarray(value, order="C") for name, value in trees.flatten(variables).items()}, meta)


def save_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None
) -> None:
    """Writes a weights file of arrays by any names, such as those of `to_torch`; otherwise as `save`."""
    text = json.dumps(dict(meta or {}), sort_keys=True)
    ending = pathlib.Path(path).suffix.lower()
    if ending not in weight_tables.ENDINGS:
        known = " or ".join(weight_tables.ENDINGS)
        raise errors.UserError(f"expected a weights file to end in {known}, got {file_io.shown(path)}; name another.")
    file_io.make_folder(pathlib.Path(path).parent, "the folder of the weights")
    if ending == ".safetensors":
        import safetensors.numpy

        file_io.write_bytes(path, safetensors.numpy.save(dict(arrays), {"meta": text}), "the weights file")
        return
    table = {**arrays, "meta": np.asarray(text)}
    file_io.write(path, lambda file: np.savez(file, allow_pickle=False, **table), "the weights file")
