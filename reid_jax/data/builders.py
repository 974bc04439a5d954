"""Builders of data sets: their names and modules, and the raw folders that they read.

A builder is a folder of `datasets/`, or a class of a user's own project, `package.module:Name`. `datasets/README.md`
describes the interface of its module.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import catalog
from reid_jax.data import options as options_lib
from reid_jax.plugins import names


def available() -> list[str]:
    """Returns the names of the data sets that can be prepared, sorted."""
    return sorted(catalog.entries())


def load(name: str) -> types.ModuleType:
    """Returns the module of a data set's builder, always imported under the same name.

    Args:
        name: a name of the catalog, or the path of a builder class, which is then the attribute `Builder` of the
            returned module.

    Raises:
        UserError: there is no such builder.
    """
    if names.is_path(name):
        return _described(name)
    known = catalog.entries()
    if name not in known:
        raise errors.unknown("data set", name, [*known, "package.module:Name"])
    _make_importable()
    builder = known[name].builder
    return importlib.import_module(f"{catalog.PACKAGE}.{builder}.{builder}_dataset_builder")


def function_of(name: str) -> Callable[..., Any] | None:
    """Returns the function whose path a data set's name is, None for builder classes and names of the catalog.

    Raises:
        UserError: the path leads nowhere, or to something that is neither a builder class nor a function.
    """
    if not names.is_path(name):
        return None
    target = _load_path(name)
    return None if _is_builder(target) else target


def title(name: str) -> str:
    """Returns the short name of a data set, used in scores: that of the builder class where the name is a path."""
    return str(_load_path(name).name) if names.is_path(name) else name


def option_defaults(name: str) -> Mapping[str, Any] | None:
    """Returns the options of a data set with their defaults; None where any are accepted."""
    if not names.is_path(name):
        known = catalog.entries()
        return known[name].options if name in known else {}
    module = load(name)
    for function in ("scan", "make_config"):
        if hasattr(module, function):
            return options_lib.defaults(getattr(module, function))
    return None


def _load_path(name: str) -> Any:
    _make_importable()  # a builder may import `reid_datasets.common`
    target = names.load("data set", name)
    if not callable(target):
        raise errors.UserError(
            f"expected a function or a builder class of TensorFlow Datasets as data set {name!r}, got "
            f"{type(target).__name__}; see datasets/README.md."
        )
    return target


def _is_builder(target: Any) -> bool:
    if not isinstance(target, type):
        return False
    import tensorflow_datasets as tfds

    return issubclass(target, tfds.core.GeneratorBasedBuilder)


def _described(name: str) -> types.ModuleType:
    """Returns a module with the interface of those in `datasets/` for a user's builder class."""
    target = _load_path(name)
    if not _is_builder(target):
        raise errors.UserError(f"data set {name!r} is opened by a function and has nothing to prepare; train with it.")
    from reid_datasets import common

    source = sys.modules[target.__module__]
    found = types.ModuleType(source.__name__, source.__doc__)
    for attribute in ("scan", "layouts", "FOLDERS", "published", "PUBLISHED", "DISJOINT_IDENTITIES", "make_config"):
        if hasattr(source, attribute):
            setattr(found, attribute, getattr(source, attribute))
    if not issubclass(target, common.RowBuilder):
        vars(found).pop("scan", None)
    elif not hasattr(found, "scan"):
        raise errors.UserError(
            f"expected the function scan(folder) in the module of the data set {name!r}, which is a RowBuilder; see "
            "datasets/README.md."
        )
    found.Builder = target  # type: ignore[attr-defined]  # a module built here declares no attributes
    return found


def _make_importable() -> None:
    """Makes `import reid_datasets` work, even in a checkout that is not installed."""
    if importlib.util.find_spec(catalog.PACKAGE) is None:
        _import_package(catalog.folder())


def _import_package(folder: pathlib.Path) -> None:
    """Imports the builders of a checkout under the name that they have when installed."""
    spec = importlib.util.spec_from_file_location(
        catalog.PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[catalog.PACKAGE] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[catalog.PACKAGE]
        raise


def arguments(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of a data set's arguments (from the catalog) and options that a builder's function accepts."""
    known = catalog.entries()
    given = {**(known[name].arguments if name in known else {}), **options}
    return options_lib.select(function, given)


def published(name: str, module: types.ModuleType, options: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Returns the counts that a data set's authors published, by split; empty where none are known."""
    if hasattr(module, "published"):
        counts: dict[str, dict[str, int]] = module.published(**arguments(module.published, name, options))
        return counts
    return getattr(module, "PUBLISHED", {})


def layouts(name: str, module: types.ModuleType, options: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns alternative layouts of the raw folder, each a tuple of required folders and files; empty for any."""
    if hasattr(module, "layouts"):
        alternatives: list[tuple[str, ...]] = module.layouts(**arguments(module.layouts, name, options))
        return alternatives
    folders = tuple(getattr(module, "FOLDERS", {}).values())
    return [folders] if folders else []


def fits(name: str, folder: pathlib.Path) -> bool:
    """Returns whether a folder has the layout of a data set."""
    return any(_found(folder, layout) == len(layout) for layout in layouts(name, load(name), {}))


def _found(folder: pathlib.Path, layout: tuple[str, ...]) -> int:
    return sum((folder / required).exists() for required in layout)


def locate(
    name: str, module: types.ModuleType, source: pathlib.Path, options: Mapping[str, Any] | None = None
) -> pathlib.Path:
    """Returns the folder that has the data set's layout: `source`, a folder up to two levels below, or one above.

    Archives unpack into a folder of their own (`Market-1501-v15.09.15/`), and users often give the folder of a split.

    Raises:
        UserError: there is no such folder, or two of them; the sentence says what was found instead.
    """
    source = source.expanduser()
    wanted = layouts(name, module, options or {})
    instruction = " ".join((module.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "put them there.").split())
    instruction = instruction[0].lower() + instruction[1:]
    if not source.exists():
        raise errors.UserError(
            f"expected the files of data set {name!r} in {source}, there is no such folder; name it "
            f"with scripts/prepare_dataset.py {name} --source DIR, or: {instruction}"
        )
    if not wanted:
        if source.is_file() and source.suffix.lower() != ".csv":
            raise errors.UserError(f"expected a folder or a .csv file as source of {name!r}, got the file {source}.")
        return source
    if source.is_file() and source.suffix.lower() == ".mat":
        source = source.parent
    if source.is_file():
        raise errors.UserError(f"expected a folder as source of {name!r}, got the file {source}; unpack it first.")

    def score(folder: pathlib.Path) -> float:
        return max(_found(folder, layout) / len(layout) for layout in wanted)

    if score(source) == 1:
        return source
    for level in (1, 2):
        complete = [folder for folder in _folders_below(source, level) if score(folder) == 1]
        if len(complete) > 1:
            raise errors.UserError(
                f"{complete[0]} and {complete[1]} both have the layout of {name!r}; give one of the two."
            )
        if complete:
            return complete[0]
    candidates = [*_folders_above(source, wanted), source, *_folders_below(source, 1), *_folders_below(source, 2)]
    best = max(candidates, key=score)
    if score(best):
        return best
    names_there = sorted(path.name for path in source.iterdir())
    there = ", ".join(names_there[:8]) or "nothing"
    archives = [path.name for path in source.iterdir() if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz")]
    hint = f"unpack {archives[0]} there." if archives else instruction
    if {"query", "gallery"} <= set(names_there) or {"query", "bounding_box_test"} <= set(names_there):
        hint = f"if these are images of your own, prepare them as reid_folder; otherwise: {hint}"
    needed = ", ".join(wanted[0])
    kind = "folders" if all(not pathlib.PurePath(name).suffix for name in wanted[0]) else "folders and files"
    raise errors.UserError(f"expected the {kind} {needed} in {source} (there: {there}); {hint}")


def _folders_above(folder: pathlib.Path, wanted: list[tuple[str, ...]]) -> list[pathlib.Path]:
    """Returns the candidates for the data set's folder where `folder` is a folder inside it."""
    folder = folder.resolve()
    above = []
    for parts in (pathlib.PurePath(required).parts for layout in wanted for required in layout):
        above += [folder.parents[n - 1] for n in range(1, len(parts) + 1) if folder.parts[-n:] == parts[:n]]
    return above


def _folders_below(folder: pathlib.Path, level: int) -> list[pathlib.Path]:
    """Returns the folders exactly `level` levels below."""
    children = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    # A folder with thousands of folders contains people, not data sets.
    children = children[:50]
    return children if level == 1 else [deeper for child in children for deeper in _folders_below(child, level - 1)]


def as_splits(name: str, rows: Mapping[str, Sequence[Any]], origin: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the fields of `records.Split` for the rows of each split, without their source.

    Args:
        name: the data set's name.
        rows: rows by split, see `read`.
        origin: the folder or file that was read.
    """
    from reid_datasets import common

    return {
        split: {
            "name": f"{name}/{split}",
            "pids": np.array([row.pid for row in listed], np.int32),
            "camids": np.array([row.camid for row in listed], np.int32),
            "filenames": tuple(row.filename for row in listed),
            "paths": tuple(common.relative_names(listed, origin)),
            "people": {row.pid: row.person for row in listed if row.person},
            "cameras": {row.camid: row.camera for row in listed if row.camera},
        }
        for split, listed in rows.items()
    }


def read(
    name: str, module: types.ModuleType, source: pathlib.Path, options: Mapping[str, Any] | None = None
) -> tuple[pathlib.Path, dict[str, list[Any]]]:
    """Locates a data set in `source` and lists the images of all splits with the builder's `scan`.

    Returns:
        The folder (or file) that was read, and the rows of each split.

    Raises:
        UserError: something is missing or cannot be read.
    """
    try:
        origin = locate(name, module, source, options)
        rows = module.scan(origin, **arguments(module.scan, name, options or {}))
    except (errors.UserError, ValueError, csv.Error) as error:
        raise errors.UserError(file_io.shown(str(error))) from None  # names of files may have line feeds
    except OSError as error:
        place = file_io.shown(str(error.filename or source))
        raise errors.UserError(f"cannot read {place}: {errors.reason(error)}.") from None
    refuse_unreadable_names((row.filename for listed in rows.values() for row in listed), origin)
    return origin, rows


def refuse_unreadable_names(names: Iterable[str], origin: pathlib.Path) -> None:
    """Raises a `UserError` for bytes in file names that are not UTF-8, which Linux allows."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise errors.UserError(f"the file name {name!a} in {origin} is not plain text; rename the file.") from None
