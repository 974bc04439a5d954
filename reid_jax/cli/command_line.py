"""What every script shares: a user's mistake is one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.runtime import allocator

USER_MISTAKE = 2

# Sections whose keys are the keyword arguments of one constructor, which knows them and answers a misspelled one.
OPEN_SECTIONS = ("model.", "data.options.", "data.sampler.", "data.augment.", "schedule.")


def run(main: Callable[[list[str]], int | None]) -> None:
    """Calls `main(arguments)` and ends the process.

    Exit code 0 (or what `main` returns) on success, 2 after a `UserError`, whose sentence goes to stderr, and 130 when
    interrupted at the keyboard.
    """
    allocator.keep_freed_memory()
    try:
        code = main(sys.argv[1:]) or 0
    except errors.UserError as error:
        code = _complain(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is finished.", file=sys.stderr)
        code = 130
    sys.stdout.flush()
    sys.exit(code)


def run_with_config(main: Callable[[ConfigDict], int | None], doc: str | None = None) -> None:
    """Like `run`, for scripts with a `--config FILE[:ARGUMENT]` flag: calls `main(config)`.

    The flags are absl's and ml_collections'; `doc` is the text of --help. The config is loaded and its overrides are
    looked up once before they are parsed, so that a misspelled preset, variant or key is answered with a suggestion.
    """
    allocator.keep_freed_memory()
    # absl shows the docstring of the main module, which is a shell here.
    sys.modules["__main__"].__doc__ = doc
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, FILE[:PRESET[,VARIANT...]].",
        # `_check_config_flags` says which keys may be new; ml_collections alone knows all or none.
        lock_config=False,
        accept_new_attributes=True,
    )

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            _check_config_flags(argv)
            return flags.FLAGS(list(argv))
        except config_lib.HelpRequested as text:
            print(text)
            sys.exit(0)
        except errors.UserError as error:
            sys.exit(_complain(error))
        except flags.Error as error:
            sys.exit(_complain(" ".join(str(error).split())))

    def guarded(argv: Sequence[str]) -> int:
        if len(argv) > 1:
            return _complain(
                f"expected flags only (--name=value), got {' '.join(argv[1:])!r}; put the value behind its flag."
            )
        try:
            return main(holder.value.lock()) or 0
        except errors.UserError as error:
            return _complain(error)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from what is finished.", file=sys.stderr)
            return 130

    app.run(guarded, flags_parser=parse)


def _complain(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return USER_MISTAKE


def load_config(text: str) -> ConfigDict:
    """Loads `FILE[:ARGUMENT]`.

    Raises:
        UserError: when the file is absent or has no `get_config`, or the argument names no preset or variant.
        HelpRequested: for the argument `help`.
    """
    name, _, argument = text.partition(":")
    path = _config_path(name)
    spec = importlib.util.spec_from_file_location("reid_jax_config_file", path)
    if spec is None or spec.loader is None:
        raise errors.UserError(f"expected a Python file with get_config(argument), got {name}; see configs/mfv.py.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise errors.UserError(f"expected {name} to define get_config(argument), it does not; see configs/mfv.py.")
    return module.get_config(argument)


def _config_path(name: str) -> pathlib.Path:
    """The file that a config's name stands for: a path, or the name of a packaged config ("mfv")."""
    path = pathlib.Path(name)
    if path.is_file():
        return path
    packaged = {file.stem: file for folder in config_folders() for file in sorted(folder.glob("*.py"))}
    if name in packaged:
        return packaged[name]
    there = ", ".join(sorted(str(one) for one in path.parent.glob("*.py"))) or "none in that folder"
    raise errors.UserError(
        f"expected a config file, found nothing at {name}; config files there: {there}; configs by name: "
        f"{', '.join(sorted(packaged)) or 'none'}."
    )


def config_folders() -> list[pathlib.Path]:
    """Folders of the configs that go by name: installed with the package, or beside it in a checkout."""
    spec = importlib.util.find_spec("reid_configs")
    installed = list(spec.submodule_search_locations or ()) if spec is not None else []
    beside = pathlib.Path(__file__).resolve().parents[2] / "configs"
    return [pathlib.Path(folder) for folder in installed] or [beside]


def _check_config_flags(argv: Sequence[str]) -> None:
    config, overridden = None, []
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config":
            config = load_config(value if equals else next(arguments, ""))
        elif name.startswith("config."):
            overridden.append(name.removeprefix("config."))
    if config is None:
        raise errors.UserError(
            "expected --config FILE[:PRESET[,VARIANT...]], got none; try --config configs/mfv.py, or --config mfv "
            "outside a checkout."
        )
    known = config_lib.flatten(config)
    for key in overridden:
        if key not in known and not key.startswith(OPEN_SECTIONS):
            raise errors.unknown("config key", key, _near(key, known))


def _near(key: str, known: Mapping[str, Any]) -> list[str]:
    """The keys of the same section, or all sections' names where the section itself is misspelled."""
    section = key.rpartition(".")[0]
    same = [name for name in known if section and name.startswith(section + ".")]
    leaf = key.rpartition(".")[2]
    return same or [name for name in known if name.rpartition(".")[2] == leaf] or list(known)


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` arguments as a dictionary; values are read as Python literals where they are, else as text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise errors.UserError(f"expected an option as key=value, got {pair!r}; for example size=demo.")
        try:
            options[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            options[key] = value
    return options
