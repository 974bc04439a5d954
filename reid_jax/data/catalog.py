"""The catalog of data sets: names, options, licenses and config presets, read from the builders' `dataset.toml` files.

Each builder's folder holds one such file next to its module ("Writing another builder" in `datasets/README.md` explains
the keys). Reading it imports no builder and no TensorFlow Datasets, so configs can name presets at no cost.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from reid_jax import errors

PACKAGE = "reid_datasets"
FILE = "dataset.toml"

_TABLES = {"position", "about", "data_sets", "presets"}
_ABOUT = ("title", "needs", "license", "status")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set of the catalog.

    Attributes:
        name: what a config's `data.name` holds.
        builder: the folder of its builder; one builder may prepare several data sets.
        about: `title`, `needs` (what a user has to get), `license` and `status`, one phrase each.
        options: the options that a user may set, with their defaults.
        arguments: further keyword arguments that the name stands for, passed to the builder with the options.
        people: label of the population; data sets with the same label show the same people.
        cameras: label of the cameras; data sets with the same label share cameras and their numbers.
        version: of a generated data set whose images have changed: older prepared folders are not read any more.
    """

    name: str
    builder: str
    about: Mapping[str, str]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    people: str = ""
    cameras: str = ""
    version: str = ""


def folder() -> pathlib.Path:
    """Returns the folder of the builders: the installed ones, or `datasets/` beside the package in a checkout."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return pathlib.Path(next(iter(spec.submodule_search_locations)))
    return pathlib.Path(__file__).resolve().parents[2] / "datasets"


def entries() -> dict[str, Entry]:
    """Returns the data sets by name, in the order of the catalog."""
    return dict(_read(folder())[0])


def presets() -> dict[str, dict[str, Any]]:
    """Returns the presets by name, in the order of the catalog: dotted config keys and their values."""
    return {name: dict(overrides) for name, overrides in _read(folder())[1].items()}


def least_version(name: str) -> str:
    """Returns the least version of a data set's prepared folder that is read; empty where any is."""
    known = _read(folder())[0]
    return known[name].version if name in known else ""


def related(name: str, other: str, by: str) -> bool:
    """Returns whether two data sets share their people or their cameras.

    Args:
        name: name of a data set; names outside the catalog are related to none.
        other: name of another data set.
        by: "people" or "cameras".
    """
    known = _read(folder())[0]
    if name not in known or other not in known:
        return False
    label = getattr(known[name], by)
    return bool(label) and label == getattr(known[other], by)


@functools.cache
def _read(builders: pathlib.Path) -> tuple[dict[str, Entry], dict[str, dict[str, Any]]]:
    """Reads all files below a folder; cached, since the files do not change while a program runs."""
    files = {path: _parse(path) for path in sorted(builders.glob(f"*/{FILE}"))}
    if not files:
        raise errors.UserError(
            f"expected the descriptions of the data sets ({FILE}) in the folders of {builders}, found none; install "
            "the package again."
        )
    known: dict[str, Entry] = {}
    named: dict[str, dict[str, Any]] = {}
    # Files without a position come last, by name.
    for path in sorted(files, key=lambda path: files[path].get("position", len(files))):
        content = files[path]
        for name, table in content["data_sets"].items():
            known[name] = Entry(name, path.parent.name, content["about"], **table)
        named |= {name: _frozen(overrides) for name, overrides in content.get("presets", {}).items()}
    return known, named


def _parse(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise errors.UserError(f"cannot read {path}: {error}; repair the file.") from None
    fields = {field.name for field in dataclasses.fields(Entry)} - {"name", "builder", "about"}
    for kind, keys, allowed in (
        ("key", content, _TABLES),
        ("key of [about]", content.get("about", {}), _ABOUT),
        *((f"key of [data_sets.{name}]", table, fields) for name, table in content.get("data_sets", {}).items()),
    ):
        for key in keys:
            if key not in allowed:
                raise errors.unknown(f"{kind} in {path}:", key, allowed)
    missing = [f"about.{key}" for key in _ABOUT if key not in content.get("about", {})]
    missing += [] if content.get("data_sets") else ["data_sets"]
    if missing:
        raise errors.UserError(f"expected {', '.join(missing)} in {path}, not found; add them.")
    return content


def _frozen(value: Any) -> Any:
    """Returns the value with tuples in place of lists, as configs hold them."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
