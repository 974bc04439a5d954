"""Compiled programs kept between starts of a command: JAX's persistent compilation cache, on by default.

`keep` chooses the folder and sets the environment that JAX reads when it is imported, so that the processes a command
starts keep their programs there too. Commands call it, and a program that uses the package may: importing the package
changes no setting of JAX.

JAX locks the folder while it reads or writes, so that several processes may use one, and removes the programs that
were not used for longest when the folder grows beyond `LIMIT`. What a killed process left unfinished, JAX would trip
over at every start; `keep` removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Iterable, MutableMapping

import filelock

from reid_jax import errors, file_io

FLAG = "--compilation_cache"
HELP = "Keep compiled programs for the next start in a folder (default: in the user's cache), or off."
# Does what the flag does, for all commands of a shell.
VARIABLE = "REID_JAX_COMPILATION_CACHE"
OFF = ("off", "none", "false", "no", "0")
ON = ("on", "true", "yes", "1")

FOLDER, ENABLE = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
LIMIT = 1 << 30  # bytes; the programs of a demo have 1 to 5 MB
# For each program that it writes, JAX reads the date of each kept one: 45 ms of processor time for a thousand.
MOST_PROGRAMS = 1000
# Programs that compile faster are not kept, for they would cost more in the folder than they save.
LEAST_COMPILE_SECONDS = 0.1
LEAST_FREE = 200 << 20  # bytes of the disk
LOCK_SECONDS = 2.0

_notice: list[str] = []
_is_news: list[bool] = []
_own_folder: list[pathlib.Path] = []


def keep(given: str | None = None, environment: MutableMapping[str, str] = os.environ) -> str:
    """Sets the environment so that JAX keeps compiled programs, and returns the sentence that says where.

    Call it before anything is compiled. A folder that cannot be used is no error, except one that the caller has named:
    the program goes on without.

    Args:
        given: "off", a folder, or None for the variable `REID_JAX_COMPILATION_CACHE`, then JAX's own
            `JAX_COMPILATION_CACHE_DIR`, which is left as it is, then a folder in the user's cache.
        environment: the environment that is read and changed.

    Raises:
        UserError: a folder that was named cannot be used.
    """
    named = given if given is not None else environment.get(VARIABLE)
    if environment is os.environ:
        _own_folder.clear()
    sentence, is_news = _choose(named, environment)
    _notice[:], _is_news[:] = [sentence], [is_news]
    if environment is os.environ and "jax" in sys.modules:
        _set_jax(environment)
    return sentence


def notice() -> str:
    """Returns the sentence of `keep`, empty where it was not called."""
    return _notice[0] if _notice else ""


def news() -> str:
    """Returns that sentence where it is worth a line: the folder is new here, or nothing can be kept; else empty."""
    return notice() if any(_is_news) else ""


def starts(*, make: bool = False) -> pathlib.Path | None:
    """Returns the folder of kept starts, see `kept_starts`; None where the folder of programs is not ours.

    Args:
        make: whether to make it.
    """
    if not _own_folder:
        return None
    folder = _own_folder[0] / "starts"
    try:
        if make:
            folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError:
        return None
    return folder if status.st_uid == os.getuid() and not status.st_mode & 0o022 else None


def taken_from(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Returns the value of `--compilation_cache` among arguments, None without, and the other arguments.

    Raises:
        UserError: the flag has no value.
    """
    value, rest = None, []
    left = iter(arguments)
    for argument in left:
        flag, equals, text = argument.partition("=")
        if flag.replace("-", "_") != FLAG.replace("-", "_"):
            rest.append(argument)
            continue
        value = text if equals else next(left, "")
        if not value.strip() or "\0" in value or value.startswith("--"):
            raise errors.UserError(f"expected {FLAG}=off or {FLAG}=FOLDER, got no value; give one.")
    return value, rest


def default_folder(environment: MutableMapping[str, str] = os.environ) -> pathlib.Path:
    """Returns the folder of compiled programs in the user's cache (`XDG_CACHE_HOME`, else `~/.cache`).

    Raises:
        RuntimeError: the user has no home.
    """
    cache = environment.get("XDG_CACHE_HOME", "")
    base = pathlib.Path(cache) if os.path.isabs(cache) else pathlib.Path("~/.cache").expanduser()
    return base / "reid_jax" / "programs"


def machine_name() -> str:
    """Returns a name of the kind of processor: programs for a CPU fit only processors with the same instructions."""
    described = platform.processor()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        described = "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
    return f"{platform.machine() or 'cpu'}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def _set_jax(environment: MutableMapping[str, str]) -> None:
    """Gives the settings to a JAX that was imported before."""
    import jax

    jax.config.update("jax_enable_compilation_cache", environment.get(ENABLE, "true").lower() not in OFF)
    jax.config.update("jax_compilation_cache_dir", environment.get(FOLDER))
    if least := environment.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float(least))
    if limit := environment.get("JAX_COMPILATION_CACHE_MAX_SIZE"):
        jax.config.update("jax_compilation_cache_max_size", int(limit))


def _choose(named: str | None, environment: MutableMapping[str, str]) -> tuple[str, bool]:
    """Sets the environment and returns the sentence, see `keep`, and whether it is news."""
    if named is not None and named.lower() in OFF:
        environment[ENABLE] = "false"
        return "compiled programs are not kept.", False
    if named is None or named.lower() in ON:
        if environment.get(ENABLE, "").lower() in OFF:
            return "compiled programs are not kept.", False
        if environment.get(FOLDER):
            return f"compiled programs are kept in {file_io.shown(environment[FOLDER])}.", False
        named = None
    try:
        place, limited, made = _place(named, environment)
    except (OSError, RuntimeError, ValueError) as error:
        reason = errors.reason(error)
        if isinstance(error, OSError) and error.filename:
            reason = f"{file_io.shown(error.filename)}: {reason}"
        if named is not None:
            raise errors.UserError(
                f"expected a folder that can be written as {FLAG}, {file_io.shown(named)} is none ({reason}); give "
                f"another, or {FLAG}=off."
            ) from error
        return f"compiled programs are not kept ({reason}); {FLAG}=FOLDER names a place for them.", True
    environment[FOLDER] = place
    environment[ENABLE] = "true"
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(LEAST_COMPILE_SECONDS))
    if limited:
        environment.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(LIMIT))
        if environment is os.environ:
            _own_folder[:] = [pathlib.Path(place)]
    return f"compiled programs are kept in {file_io.shown(place)} ({FLAG}=off keeps none).", made


def _place(named: str | None, environment: MutableMapping[str, str]) -> tuple[str, bool, bool]:
    """Returns the folder of this kind of machine, ready for use, whether its size is limited, and whether it is new.

    Raises:
        OSError: it cannot be used.
    """
    if named is not None and "://" in named:
        return named, False, False  # an object store, which JAX reads and which has limits of its own
    base = pathlib.Path(named).expanduser().absolute() if named else default_folder(environment)
    folder = base / machine_name()
    made = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    # A kept program is code that will run here.
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{file_io.shown(folder)} belongs to or can be written by other users")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise OSError(f"no permission to write in {file_io.shown(folder)}")
    if shutil.disk_usage(folder).free < LEAST_FREE:
        raise OSError(f"less than {LEAST_FREE >> 20} MB are free in {file_io.shown(folder)}")
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / ".lockfile", timeout=LOCK_SECONDS):
        _tidy(folder)
    return str(folder), True, made


def _tidy(folder: pathlib.Path, most: int = MOST_PROGRAMS) -> None:
    """Removes unfinished programs and the oldest beyond `most`; the caller holds JAX's lock of the folder.

    JAX writes a program to `<key>-cache` and then the time of its last use to `<key>-atime`; one without the other
    was interrupted.
    """
    names = {entry.name for entry in os.scandir(folder)}
    keys = {end: {name.removesuffix(end) for name in names if name.endswith(end)} for end in ("-cache", "-atime")}
    whole = keys["-cache"] & keys["-atime"]
    _remove(folder, (keys["-cache"] | keys["-atime"]) - whole)
    if len(whole) > most:
        oldest = sorted(whole, key=lambda key: (folder / f"{key}-atime").stat().st_mtime)
        _remove(folder, oldest[: len(whole) - most])


def _remove(folder: pathlib.Path, keys: Iterable[str]) -> None:
    for key in keys:
        for end in ("-cache", "-atime"):
            with contextlib.suppress(FileNotFoundError):
                (folder / f"{key}{end}").unlink()
