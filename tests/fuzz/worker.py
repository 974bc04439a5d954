"""A forked process that reads inputs under watch: memory is limited, and an audit hook sees code and foreign files."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import mmap
import os
import pathlib
import resource
import struct
import sys
import tempfile
import time
import traceback
from typing import Any

from reid_jax import errors
from tests.fuzz import kinds

MEMORY = 1 << 30  # over what the process has at its start
_EVENTS = frozenset(
    (
        *("exec", "code.__new__", "marshal.loads", "ctypes.dlopen", "pickle.find_class", "import", "subprocess.Popen"),
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
        *("socket.__new__", "socket.connect", "socket.bind", "urllib.Request"),
    )
)
_CHANGES = frozenset(
    (
        *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate"),
        "shutil.rmtree",
    )
)
_INSTALLED = (sys.prefix, sys.base_prefix, "<frozen")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclasses.dataclass
class _Watch:
    """What the audit hook is told; a hook cannot be taken away again."""

    scratch: str = ""
    active: bool = False
    seen: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "import" and str(arguments[0]).partition(".")[0] in sys.stdlib_module_names:
            return  # such as the codec of a text
        if event == "exec" and getattr(arguments[0], "co_filename", "").startswith(
            (sys.prefix, sys.base_prefix, "<frozen")
        ):
            return
        if event in _EVENTS or (event in _CHANGES and self._foreign(arguments[0])):
            self.seen.append(f"{event} {str(arguments)[:200]}")
        elif event == "open":
            path, mode, flags = arguments
            writes = any(letter in str(mode or "") for letter in "wax+") or (mode is None and (flags or 0) & _WRITING)
            if writes and self._foreign(path):
                self.seen.append(f"open {str(path)[:200]} {mode}")

    def _foreign(self, path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        real = os.path.realpath(os.fsdecode(path))
        return not real.startswith(self.scratch) and real != os.devnull


class Progress:
    """A page of memory that a worker and its parent share: what is read now, and the counts so far."""

    _LAYOUT = "qddqqq"

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def set(self, number: int, grown: int = 0, accepted: int = 0, refused: int = 0) -> None:
        """Notes the number of the next input, the growth of memory in bytes, counts, and the clocks of this process."""
        values = struct.pack(self._LAYOUT, number, time.monotonic(), time.process_time(), grown, accepted, refused)
        self._page[: struct.calcsize(self._LAYOUT)] = values

    def get(self) -> tuple[int, int, int, int]:
        """Returns number, growth and counts as `set` noted them last."""
        number, _, _, grown, accepted, refused = struct.unpack_from(self._LAYOUT, self._page)
        return number, grown, accepted, refused

    def seconds(self, process: int) -> tuple[float, float]:
        """Returns for how long a process has read its input: on the clock, and of a processor's time."""
        _, since, used, *_ = struct.unpack_from(self._LAYOUT, self._page)
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - since, now - used


def run(name: str, seed: int, first: int, last: int, progress: Progress, out: int) -> None:
    """Reads the inputs of some numbers in this process, which was forked for it, and writes failures as JSON lines.

    Args:
        name: key of `kinds.KINDS`.
        seed: of the inputs.
        first: number of the first input.
        last: number after the last.
        progress: shared with the parent.
        out: descriptor of the pipe for failures.
    """
    kind, watch, counts = kinds.KINDS[name], _Watch(), {"accepted": 0, "refused": 0}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, open(out, "w", encoding="utf-8") as report:
        os.chdir(scratch)
        watch.scratch = os.path.realpath(scratch)
        base = _peak()
        _limit_memory()
        sys.addaudithook(watch)
        for number in range(first, last):
            content = kind.input(name, seed, number)
            progress.set(number, _peak() - base, **counts)
            outcome, detail = _outcome(kind, content, pathlib.Path(scratch), watch)
            if outcome in counts:
                counts[outcome] += 1
            else:
                print(json.dumps({"number": number, "outcome": outcome, "detail": detail}), file=report, flush=True)
        progress.set(last, _peak() - base, **counts)


def _outcome(kind: kinds.Kind, content: bytes, scratch: pathlib.Path, watch: _Watch) -> tuple[str, str]:
    watch.seen.clear()
    watch.active = True
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            kind.read(content, scratch)
        outcome, detail = "accepted", ""
    except errors.UserError as error:
        outcome, detail = "refused", str(error)
        if isinstance(error.__cause__, MemoryError):
            outcome = "memory"
        elif len(detail) > 3000 or "\n" in detail:
            outcome = "long message"
    except BaseException as error:
        outcome, detail = "traceback", "".join(traceback.format_exception(error)[-6:])
    finally:
        watch.active = False
    if watch.seen:
        return "code run", "; ".join(watch.seen[:5])
    return outcome, detail[:3000]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
