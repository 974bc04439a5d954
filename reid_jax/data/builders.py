"""The builders in `datasets/`: which there are, importing one, and finding the folder it reads.

What a builder's module has to offer is written in `datasets/README.md`.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import pathlib
import sys
import types
from typing import Any

from reid_jax import errors

# Data sets whose builder lives in another one's folder.
BUILDERS = {"synthped_occluded": "synthped"}


def available() -> list[str]:
    """Returns the names that can be prepared."""
    folder = _builders_folder()
    own = {path.parent.name for path in folder.glob("*/*_dataset_builder.py")}
    return sorted(own | {name for name, home in BUILDERS.items() if home in own})


def load(name: str) -> types.ModuleType:
    """Imports the module of a data set's builder, always under the same name.

    Raises:
        UserError: there is no such builder.
    """
    if name not in available():
        raise errors.unknown("data set", name, available())
    home = BUILDERS.get(name, name)
    module_name = f"reid_datasets.{home}.{home}_dataset_builder"
    if module_name in sys.modules:
        return sys.modules[module_name]
    if importlib.util.find_spec("reid_datasets") is not None:
        return importlib.import_module(module_name)
    path = _builders_folder() / home / f"{home}_dataset_builder.py"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _builders_folder() -> pathlib.Path:
    """The installed builders, or `datasets/` beside the package where it runs from a checkout without installation."""
    spec = importlib.util.find_spec("reid_datasets")
    if spec is not None and spec.submodule_search_locations:
        return pathlib.Path(next(iter(spec.submodule_search_locations)))
    return pathlib.Path(__file__).resolve().parents[2] / "datasets"


def locate(name: str, module: types.ModuleType, source: pathlib.Path) -> pathlib.Path:
    """Finds the folder that holds the data set's split folders: `source`, up to two levels below it, or its parent.

    Archives unpack into a folder of their own (`Market-1501-v15.09.15/`), and people point at a split's folder.

    Raises:
        UserError: not there, or not the data set; the sentence says what is there instead.
    """
    source = source.expanduser()
    wanted = tuple(getattr(module, "FOLDERS", {}).values())
    todo = " ".join(module.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
    todo = todo[0].lower() + todo[1:]
    if not source.exists():
        raise errors.UserError(
            f"expected the files of data set {name!r} in {source}, there is no such folder; give --source, or: {todo}"
        )
    if not wanted:
        if source.is_file() and source.suffix.lower() != ".csv":
            raise errors.UserError(f"expected a folder or a .csv file as source of {name!r}, got the file {source}.")
        return source
    if source.is_file():
        raise errors.UserError(f"expected a folder as source of {name!r}, got the file {source}; unpack it first.")
    if all((source / one).is_dir() for one in wanted):
        return source
    candidates = [source, *_folders_below(source, levels=2)]
    if source.name in wanted:
        candidates.append(source.resolve().parent)
    scores = [sum((folder / one).is_dir() for one in wanted) for folder in candidates]
    if not max(scores):
        there = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "nothing"
        archives = [path.name for path in source.iterdir() if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz")]
        hint = f"unpack {archives[0]} there." if archives else todo
        raise errors.UserError(f"expected the folders {', '.join(wanted)} in {source} (there: {there}); {hint}")
    return candidates[scores.index(max(scores))]


def _folders_below(folder: pathlib.Path, levels: int) -> list[pathlib.Path]:
    if levels == 0:
        return []
    children = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    # A folder of thousands of folders holds people, not data sets.
    children = children[:50]
    return children + [deeper for child in children for deeper in _folders_below(child, levels - 1)]


def read(name: str, module: types.ModuleType, source: pathlib.Path) -> tuple[pathlib.Path, dict[str, list[Any]]]:
    """Finds the data set in `source` and lists the images of all splits, by the builder's own `scan`.

    Returns:
        The folder (or file) that was read, and the rows of each split.

    Raises:
        UserError: what is not there or cannot be read, in one sentence.
    """
    try:
        origin = locate(name, module, source)
        rows = module.scan(origin)
    except (ValueError, csv.Error) as error:
        raise errors.UserError(str(error)) from None
    except OSError as error:
        raise errors.UserError(f"cannot read {error.filename or source}: {error.strerror}.") from None
    for row in (row for listed in rows.values() for row in listed):
        try:
            row.filename.encode()
        except UnicodeEncodeError:  # bytes that are no UTF-8, which Linux allows in file names
            raise errors.UserError(
                f"the file name {row.filename!a} in {origin} is not plain text; rename the file."
            ) from None
    return origin, rows
