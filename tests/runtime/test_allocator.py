"""Kept memory and large pages: what the C library gives back, and a command that starts itself again."""

import os
import pathlib
import subprocess
import sys

from reid_jax.runtime import allocator

ROOT = pathlib.Path(__file__).resolve().parents[2]

FREED = """
import sys
import numpy as np
from reid_jax.runtime import allocator
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
large = lambda: sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHuge")) * 1024
if sys.argv[1] == "keep":
    assert allocator.keep_freed_memory()
block = np.ones(2**27, np.uint8)
full, pages = resident(), large()
del block
print(full - resident(), pages)
"""


def memory_of(how, tunables):
    """Returns bytes given back when a block of 128 MB is freed, and bytes in large pages before."""
    environment = {**os.environ, allocator.TUNABLES: tunables}
    return map(int, subprocess.check_output([sys.executable, "-c", FREED, how], cwd=ROOT, env=environment).split())


def test_freed_memory_stays_with_the_process():
    if not sys.platform.startswith("linux"):
        assert not allocator.keep_freed_memory()
        return
    small = f"{allocator.HUGE_PAGES}=0"
    assert next(memory_of("default", small)) > 2**26
    assert next(memory_of("keep", small)) < 2**20


def test_memory_of_large_pages_is_not_kept(monkeypatch):
    monkeypatch.setenv(allocator.TUNABLES, f"{allocator.HUGE_PAGES}=1")
    assert not allocator.keep_freed_memory()
    if allocator._offers_huge_pages():
        given_back, pages = memory_of("default", f"{allocator.HUGE_PAGES}=1")
        assert given_back > 2**26
        assert pages > 2**26


RESTARTED = """
import os, sys
sys.modules.update(dict.fromkeys(sys.argv[1:], os))
from reid_jax.runtime import allocator
allocator.restart_with_huge_pages()
print(os.environ["GLIBC_TUNABLES"], os.getpid(), *sys.argv[1:])
"""


def test_a_command_starts_itself_again_for_large_pages():
    def shown(tunables, *arguments):
        environment = {**os.environ, allocator.TUNABLES: tunables}
        process = subprocess.Popen(
            [sys.executable, "-c", RESTARTED, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        setting, number, *given = process.communicate()[0].split()
        assert (process.returncode, int(number), tuple(given)) == (0, process.pid, arguments)
        return setting

    other, large = "glibc.malloc.perturb=0", f"{allocator.HUGE_PAGES}=1"
    assert shown(other, "--a", "b") == (f"{other}:{large}" if allocator._offers_huge_pages() else other)
    assert shown(f"{allocator.HUGE_PAGES}=0") == f"{allocator.HUGE_PAGES}=0"  # as its user says
    for late in allocator.LOADED:
        assert shown(other, late) == other


def test_large_pages_need_kernel_and_library(tmp_path, monkeypatch):
    kernel = tmp_path / "enabled"
    kernel.write_text("always [madvise] never\n", encoding="ascii")
    monkeypatch.setattr(allocator, "KERNEL", kernel)
    for version, offered in (("glibc 2.35", True), ("glibc 2.34", False), ("musl 1.2", False), (None, False)):
        monkeypatch.setattr(os, "confstr", lambda name, version=version: version)
        assert allocator._offers_huge_pages() == offered
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    kernel.write_text("always madvise [never]\n", encoding="ascii")
    assert not allocator._offers_huge_pages()
    kernel.unlink()
    assert not allocator._offers_huge_pages()


def test_a_command_that_cannot_start_again_runs_on(monkeypatch):
    def refused(*given):
        raise OSError("no more processes")

    monkeypatch.setattr(os, "execv", refused)
    monkeypatch.setattr(allocator, "_offers_huge_pages", lambda: True)
    monkeypatch.setenv(allocator.TUNABLES, "glibc.malloc.perturb=0")
    monkeypatch.setattr(allocator, "LOADED", ())
    allocator.restart_with_huge_pages()
    assert os.environ[allocator.TUNABLES] == "glibc.malloc.perturb=0"
