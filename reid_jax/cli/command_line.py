"""Shared by all commands: flags, configs by name, help texts, and errors as one sentence with exit code 2.

A command is a module of this folder with `main(arguments)`; `reid-jax NAME` and `scripts/NAME.py` both run it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import logging as std_logging
import os
import pathlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from reid_jax import config as config_lib
from reid_jax import errors, progress
from reid_jax.cli import failures, help_pages, pipes
from reid_jax.config import files, phases, rules
from reid_jax.runtime import allocator, background, compilation, determinism, interruption, xla_flags

USER_MISTAKE = 2
HELP_FLAGS = {"-h", "-?", "--help", "-help"}

# Sections whose keys are the keyword arguments of one constructor, which knows them and refuses a misspelled one.
OPEN_SECTIONS = ("model.", "data.options.", "data.sampler.", "data.augment.", "schedule.")


def load(module: str) -> ModuleType:
    """Returns the module of a command; ends the process with one sentence where there is no memory for its imports."""
    loaded: list[ModuleType] = []

    def attempt() -> None:
        failures.check_address_space()
        loaded.append(importlib.import_module(module))

    code = _guarded(attempt)
    if code:
        _exit(code)
    return loaded[0]


def keep_programs(by_default: bool = True) -> None:
    """Takes the flags that JAX must know before it starts out of the arguments of this process, and does as they say.

    `--compilation_cache` keeps compiled programs; `--deterministic` sets XLA's flags.

    Args:
        by_default: whether they are kept without the flag.
    """

    def attempt() -> None:
        given, sys.argv[1:] = compilation.taken_from(sys.argv[1:])
        deterministic, sys.argv[1:] = determinism.taken_from(sys.argv[1:])
        if deterministic:
            determinism.enable()
        if not HELP_FLAGS & set(sys.argv):
            xla_flags.refuse_unknown()
        if given is not None or (by_default and not HELP_FLAGS & set(sys.argv)):
            compilation.keep(given)

    code = _guarded(attempt)
    if code:
        _exit(code)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Calls `main(arguments)` and ends the process.

    Exit code 0 (or what `main` returns) on success, 2 after a `UserError`, whose sentence goes to stderr, 130 when
    interrupted at the keyboard, and 143 when terminated.
    """
    _prepare_process()
    _exit(_guarded(lambda: main(sys.argv[1:])))


def run_with_config(main: Callable[[ConfigDict], int | None], doc: str | None = None) -> None:
    """Like `run`, for commands with a `--config FILE[:ARGUMENT]` flag: calls `main(config)`.

    The flags are absl's and ml_collections'. The config is loaded and its overrides are looked up once before they are
    parsed, so that the error for a misspelled preset, variant or key suggests the nearest name.

    Args:
        main: the command; its module defines further flags.
        doc: text of --help.
    """
    _prepare_process()
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file or name of a packaged config, FILE[:PRESET[,VARIANT...]]; FILE:help lists presets and variants. "
        "--config.KEY=VALUE replaces a value.",
        # `check_config_flags` says which keys may be new; ml_collections alone knows all or none.
        lock_config=False,
        accept_new_attributes=True,
    )

    def parse(argv: Sequence[str]) -> list[str]:
        if HELP_FLAGS & set(argv[1:]):
            print(_help_text(doc or "", main.__module__))
            sys.exit(0)
        try:
            check_config_flags(argv)
            return flags.FLAGS(_with_config_file(argv))
        except config_lib.HelpRequested as text:
            print(for_caller(str(text)))
            sys.exit(0)
        except flags.Error as error:
            sys.exit(_complain(_misread(" ".join(str(error).split()))))

    def guarded(argv: Sequence[str]) -> int:
        if len(argv) > 1:
            return _complain(
                f"expected flags only (--name=value), got {' '.join(argv[1:])!r}; put the value after its flag."
            )
        _exit(_guarded(lambda: main(holder.value.lock())))

    # absl shows the traceback of what leaves `guarded` or `parse`.
    _exit(_guarded(lambda: app.run(guarded, flags_parser=lambda argv: _parsed(parse, argv))))


def _parsed(parse: Callable[[Sequence[str]], list[str]], argv: Sequence[str]) -> list[str]:
    """Returns what is left of the arguments; ends the process after a mistake in them."""
    parsed: list[str] = []
    code = _guarded(lambda: parsed.extend(parse(argv)))
    if code:
        _exit(code)
    return parsed


def _guarded(command: Callable[[], int | None]) -> int:
    """Returns the exit code of a command after turning every failure that is no defect into one sentence."""
    try:
        return command() or 0
    except (Exception, KeyboardInterrupt) as error:
        number = interruption.received()
        if number is not None:
            interruption.end(number)
        if isinstance(error, KeyboardInterrupt):
            print("interrupted; run the same command again to continue.", file=sys.stderr)
            return 130
        explained = failures.explain(error)
        if explained is None:
            raise
        code = _complain(explained)
        return 128 + error.number if isinstance(error, errors.Stopped) else code


def _exit(code: int) -> NoReturn:
    """Ends the process; a signal from here on finds nothing to put in order."""
    interruption.end_at_once()
    sys.stdout.flush()
    if code and background.busy():
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _prepare_process() -> None:
    """Sets what all commands share: kept memory, and imports of the user's own code from the current folder.

    A console script or `python scripts/evaluate.py` has its own folder on the path, not the one it is called in, where
    `--config.evals.metric=my_project.distances:angular` is looked for. Installed packages come first.
    """
    interruption.install()
    pipes.forgive()
    logging.get_absl_handler().setFormatter(std_logging.Formatter("%(message)s"))
    std_logging.basicConfig(format="%(message)s")  # warnings of commands without a config, without a logger's name
    allocator.keep_freed_memory()
    progress.show()
    if not {"", str(pathlib.Path.cwd())} & set(sys.path):
        sys.path.append(str(pathlib.Path.cwd()))


def _complain(error: object) -> int:
    print(f"error: {for_caller(str(error))}", file=sys.stderr)
    return USER_MISTAKE


def _help_text(doc: str, module: str) -> str:
    """The help of a command with a config; absl's own lists the flags of all imported modules or of the shell only."""
    systems = f"Systems: {', '.join(files.packaged())}; --config NAME:help describes one."
    lines = [help_pages.wrapped(f"{for_caller(doc).rstrip()}\n\n{systems}"), "", "flags:"]
    for flag in [flags.FLAGS["config"], *flags.FLAGS.get_flags_for_module(module)]:
        lines += textwrap.wrap(
            f"--{flag.name}: {flag.help}", help_pages.width(), initial_indent="  ", subsequent_indent="      "
        )
    return "\n".join(lines)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Returns an argument parser whose help shows a command's docstring, see `for_caller`.

    A mistake in the arguments is a `UserError`, one sentence instead of the usage and a sentence.
    """
    made = _Parser(description=help_pages.wrapped(for_caller(doc or "")), formatter_class=help_pages.Formatter)
    made.add_argument(compilation.FLAG, metavar="off|FOLDER", help=compilation.HELP)  # read by `keep_programs`
    made.add_argument(determinism.FLAG, action="store_true", help=determinism.HELP)  # likewise
    return made


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses arguments, and then says where compiled programs are kept, where that is news."""
        parsed = super().parse_args(args, namespace)
        if compilation.news() and not getattr(parsed, "list", False):
            print(compilation.news(), file=sys.stderr)
        return parsed

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raises a `UserError` with the nearest name, in place of argparse's sentence."""
        if action.choices is not None and value not in action.choices:
            name = action.option_strings[-1] if action.option_strings else action.dest
            raise errors.unknown(name, rules.plain(value), [str(each) for each in action.choices])

    def error(self, message: str) -> NoReturn:
        raise errors.UserError(f"{errors.reason(ValueError(message))}; {self.prog} --help lists the arguments.")


def for_caller(doc: str) -> str:
    """Returns a help text whose examples can be typed where the command was called.

    Docstrings show the scripts of a checkout; started as `reid-jax`, the same examples read `reid-jax evaluate ...`
    and name the packaged configs.
    """
    if not pathlib.Path(sys.argv[0]).name.startswith("reid-jax"):
        return doc
    doc = doc.replace("python scripts/main.py", "reid-jax train").replace("scripts/main.py", "reid-jax train")
    doc = re.sub(r"(?:python )?scripts/(\w+)\.py", lambda found: f"reid-jax {found[1].replace('_', '-')}", doc)
    return re.sub(r"configs/(\w+)\.py", r"\1", doc)


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with the name of a packaged config replaced by its file, which is what the flag reads."""
    changed = list(argv)
    for place, argument in enumerate(argv):
        flag, equals, text = argument.partition("=")
        if flag.lstrip("-") != "config" or not flag.startswith("-") or not (equals or place + 1 < len(argv)):
            continue
        name, colon, preset = (text if equals else argv[place + 1]).partition(":")
        text = f"{files.path_of(name)}{colon}{preset}"
        changed[place if equals else place + 1] = f"{flag}={text}" if equals else text
    return changed


def _misread(text: str) -> str:
    """Returns the sentence for a flag that absl cannot parse, given its message (for keys in Python's words)."""
    found = re.match(r"flag --(config\.[\w.]+)=(.*?): ", text)
    if found is None:
        return f"{text.rstrip('.')}; --help lists the flags."
    kind = next((kind for word, kind in _KINDS.items() if word in text[found.end() :]), "a value of the key's type")
    return (
        f"expected {kind} as --{found[1]}, got {rules.plain(found[2])!r}; --print_config shows the values of all keys."
    )


# What a value should be, by what Python says when it is not.
_KINDS = {"to float": "a number", "int()": "a whole number", "boolean": "True or False"}


def check_config_flags(argv: Sequence[str]) -> None:
    """Loads the config that arguments name, and looks up the overridden keys.

    Raises:
        UserError: there is no config, it has no such key, or a flag is misspelled.
        HelpRequested: for `FILE:help`.
    """
    config, overridden, bare = None, [], []
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config":
            text = value if equals else next(arguments, "")
            config = files.load_config(text) if text else None
        elif name.startswith("config."):
            overridden.append(name.removeprefix("config."))
        elif argument.startswith("--") and "." in name:
            bare.append(name)
    for name in bare:
        # `--train.epochs` lacks the section's first word, `--confg.seed` has it misspelled.
        whole = config is not None and name.partition(".")[0] in config
        key = name if whole else name.partition(".")[2]
        raise errors.UserError(f"unknown flag --{rules.plain(name)}; did you mean --config.{rules.plain(key)}?")
    if config is None:
        raise errors.UserError(
            "expected --config FILE[:PRESET[,VARIANT...]], got none; try --config mfv:demo, or a file (configs/mfv.py)."
        )
    check_keys(config, overridden)


def check_keys(config: ConfigDict, keys: Iterable[str]) -> None:
    """Checks that keys to override exist in a config, or may be new in their section.

    Raises:
        UserError: no such key (the nearest one is suggested), or one that each phase of the config replaces.
    """
    known = config_lib.flatten(config)
    for key in keys:
        if key not in known and not key.startswith(OPEN_SECTIONS):
            raise errors.unknown("config key", key, _near(key, known))
        if instead := phases.without_effect(key, config.get("phase_order", ()), config.get("phases", {})):
            raise errors.UserError(
                f"{key} has no effect, for each phase of this config has its own; set {' or '.join(instead)}."
            )


def _near(key: str, known: Mapping[str, Any]) -> list[str]:
    """Returns the keys of the same section, or of all sections where the section itself is misspelled."""
    section = key.rpartition(".")[0]
    same = [name for name in known if section and name.startswith(section + ".")]
    leaf = key.rpartition(".")[2]
    return same or [name for name in known if name.rpartition(".")[2] == leaf] or list(known)


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Returns `key=value` arguments as a dictionary; values that are no Python literals are text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise errors.UserError(
                f"expected an option as key=value, got {rules.plain(pair)!r}; for example size=demo."
            )
        try:
            options[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            options[key] = value
    return options
