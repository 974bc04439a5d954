"""Config files: found by path or by name, loaded with their argument."""

from __future__ import annotations

import difflib
import importlib.util
import pathlib
import sys
import traceback

from ml_collections import ConfigDict

from reid_jax import errors
from reid_jax.config import presets

_SHOWN = 12  # files that an error lists


def load_config(text: str) -> ConfigDict:
    """Returns the config that `FILE[:ARGUMENT]` or `NAME[:ARGUMENT]` names.

    The working directory and the file's folder are appended to `sys.path`, so that the modules of the user's project
    can be imported (`my_project.nets:Tiny`).

    Args:
        text: path of a config file or name of a packaged config ("mfv"), optionally with a colon, its preset and
            variants.

    Raises:
        UserError: the file is absent, fails, or has no `get_config`; or the argument names no preset or variant.
        HelpRequested: for the argument `help`.
    """
    name, _, argument = text.partition(":")
    path = path_of(name)
    for folder in (str(pathlib.Path.cwd()), str(path.resolve().parent)):
        if folder not in sys.path:
            sys.path.append(folder)
    spec = importlib.util.spec_from_file_location("reid_jax_config_file", path)
    if spec is None or spec.loader is None:
        raise errors.UserError(f"expected a Python file with get_config(argument), got {name}; see configs/mfv.py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise errors.UserError(f"expected {name} to define get_config(argument), it does not; see configs/mfv.py.")
        config = module.get_config(argument)
    except (errors.UserError, presets.HelpRequested):
        raise
    except Exception as error:
        raise _broken(path, error) from error
    if not isinstance(config, ConfigDict):
        raise errors.UserError(
            f"expected get_config of {name} to return a ConfigDict, it returned {type(config).__name__}; see "
            "configs/mfv.py."
        )
    return config


def _broken(path: pathlib.Path, error: Exception) -> errors.UserError:
    """Returns the error for a config file that fails, with the last line of the file that was reached."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if pathlib.Path(frame.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError) and pathlib.Path(error.filename or "").resolve() == path.resolve():
        reason, lines = error.msg, [error.lineno]
    else:
        reason = " ".join(str(error).split()) or "no message"
    place = f" in line {lines[-1]}" if lines else ""
    return errors.UserError(
        f"the config file {path} failed{place} with {type(error).__name__}: {reason}; repair that file."
    )


def packaged() -> dict[str, pathlib.Path]:
    """Returns the packaged configs by name: those installed with the package, or those of the checkout."""
    spec = importlib.util.find_spec("reid_configs")
    installed = list(spec.submodule_search_locations or ()) if spec is not None else []
    folders = [pathlib.Path(location) for location in installed] or [
        pathlib.Path(__file__).resolve().parents[2] / "configs"
    ]
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.py"))}


def path_of(name: str) -> pathlib.Path:
    """Returns the path of a config file, given that path or the name of a packaged config ("mfv").

    Raises:
        UserError: there is no such file or config.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    known = packaged()
    if name in known:
        return known[name]
    there = sorted(str(file) for file in path.parent.glob("*.py"))
    nearest = difflib.get_close_matches(name, [*there, *known], n=1)
    suggestion = f"did you mean {nearest[0]!r}? " if nearest else ""
    shown = ", ".join([*there[:_SHOWN], *(["..."] if len(there) > _SHOWN else [])]) or "none"
    raise errors.UserError(
        f"expected a config file, found nothing at {name}; {suggestion}Python files in that folder: {shown}; configs "
        f"by name: {', '.join(sorted(known)) or 'none'}."
    )
