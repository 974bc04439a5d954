"""Records of the user's modules that a config names: their names, folders and hashes.

A run folder contains these records, so that `evaluate.py --run`, `extract.py --run` and resuming find the modules from
any working directory, and refuse modules that have changed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reid_jax import errors, file_io
from reid_jax.plugins import names

Record = dict[str, str]  # "module": name, "folder": entry of `sys.path`, "sha256": hash of the file


def modules(config: Any) -> list[str]:
    """Returns the sorted names of the modules that a config names as `package.module:Name`.

    Args:
        config: nested dictionaries and tuples; the free text under the key `notes` is ignored.
    """
    return sorted({text.partition(":")[0] for text in _texts(config) if names.is_path(text)})


def _texts(config: Any) -> Iterator[str]:
    """Yields all strings of a config, keys included."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, Mapping):
        for key, value in config.items():
            if key not in ("notes", "code"):
                yield from _texts(key)
                yield from _texts(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _texts(value)


def of(config: Any) -> tuple[Record, ...]:
    """Returns the records of the modules that a config names.

    Raises:
        UserError: a module cannot be found.
    """
    return tuple(_of_module(module) for module in modules(config))


def _of_module(module: str) -> Record:
    """Returns the record of one module."""
    path = _find(module)
    if path is None:
        raise errors.UserError(
            f"expected the module {module!r} that the config names, it cannot be found; start where it can be "
            "imported, or add its folder to PYTHONPATH."
        )
    levels = module.count(".") + (path.name == "__init__.py")
    return {"module": module, "folder": str(path.resolve().parents[levels]), "sha256": _sha256(path)}


def restore(records: Sequence[Mapping[str, str]]) -> None:
    """Makes the modules of a run importable and checks that they have not changed since.

    Args:
        records: records of the run, see `of`.

    Raises:
        UserError: a module cannot be found, or its file has changed.
    """
    for record in records:
        module, folder = record["module"], record["folder"]
        path = _find(module)
        if path is None and pathlib.Path(folder).is_dir():
            sys.path.append(folder)
            importlib.invalidate_caches()
            path = _find(module)
        if path is None:
            raise errors.UserError(
                f"the run uses the module {module!r} from {folder}, it cannot be found; put it back, or add its folder "
                "to PYTHONPATH."
            )
        if _sha256(path) != record["sha256"]:
            raise errors.UserError(
                f"the module {module!r} ({path}) has changed since the run; restore it, or start a new --workdir."
            )


def _find(module: str) -> pathlib.Path | None:
    """Returns the file of a module without executing the module, None if there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    except Exception as error:  # its package fails on import
        reason = " ".join(str(error).split()) or "no message"
        raise errors.UserError(
            f"looking for the module {module!r} failed with {type(error).__name__}: {reason}; repair its package."
        ) from error
    return pathlib.Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _sha256(path: pathlib.Path) -> str:
    content = file_io.read_bytes(path, "a module of your own", "make it readable")
    return hashlib.sha256(content).hexdigest()
