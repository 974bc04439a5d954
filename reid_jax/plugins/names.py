"""Names in a config: entries of a table of this package, or `package.module:Name` of the user's own code.

Examples:

    find("loss", "triplet", LOSSES)                   # entry of the table
    find("loss", "my_project.losses:circle", LOSSES)  # `circle` of the module `my_project.losses`
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from reid_jax import errors

Entry = TypeVar("Entry")

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_path(name: Any) -> bool:
    """Returns whether a name has the form `package.module:Name`."""
    return isinstance(name, str) and _PATH.fullmatch(name) is not None


def find(kind: str, name: str, table: Mapping[str, Entry]) -> Entry | Any:
    """Returns the object that a name of a config refers to.

    Args:
        kind: kind of object in the singular ("model", "loss"), for error messages.
        name: a key of the table, or `package.module:Name`.
        table: the entries of this package.

    Raises:
        UserError: the name is neither in the table nor a path, or the path cannot be imported.
    """
    if is_path(name):
        return load(kind, name)
    if name not in table:
        raise errors.unknown(kind, name, [*table, "package.module:Name"])
    return table[name]


def load(kind: str, name: str) -> Any:
    """Returns the attribute that `package.module:Name` refers to; imports the module.

    Args:
        kind: kind of object in the singular ("model", "loss"), for error messages.
        name: the path.

    Raises:
        UserError: the module does not exist, fails on import, or has no such attribute.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The module itself or one of its packages is missing, not a module that it imports.
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise errors.UserError(
                f"expected the module {module_name!r} of the {kind} {name!r}, it cannot be found from "
                f"{sys.path[0] or '.'}; start where it can be imported, or add its folder to PYTHONPATH."
            ) from None
        raise _broken(kind, name, error) from error
    except Exception as error:
        raise _broken(kind, name, error) from error
    if not hasattr(module, attribute):
        # What the module imports is not the user's own.
        public = [
            known
            for known, value in vars(module).items()
            if not known.startswith("_") and getattr(value, "__module__", None) == module_name
        ]
        raise errors.unknown(f"{kind} in the module {module_name!r}:", attribute, public)
    return getattr(module, attribute)


def _broken(kind: str, name: str, error: Exception) -> errors.UserError:
    """Returns the error for a module that fails on import."""
    reason = " ".join(str(error).split()) or "no message"
    return errors.UserError(
        f"importing the {kind} {name!r} failed with {type(error).__name__}: {reason}; repair that module."
    )
