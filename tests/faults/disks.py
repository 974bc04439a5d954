"""Full, read-only and vanished disks and folders, for runs and for every command that writes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
from collections.abc import Callable

from PIL import Image

from tests.faults import processes
from tests.faults.runs import Bench

# Bytes of the run folder's disk, from less than the config needs to all but enough.
SIZES = (4096, 12288, 65536, 262144, 786432, 1400000)


def full_runs(bench: Bench) -> None:
    """A training run on a disk that fills up; with room again, the same command ends like the undisturbed run."""
    for size in SIZES:
        disk = bench.work / "disk"
        with (
            processes.small_disk(disk, size) as remount,
            bench.fault("full disk, run", f"run folder on a disk of {size} bytes") as fault,
        ):
            run = disk / "run"
            ended = bench.run(bench.train(run))
            bench.judge(fault, ended, {0, 2})
            assert not list(disk.rglob("*orbax-checkpoint-tmp*")), "an unfinished checkpoint was left"
            assert not list(disk.rglob(".incomplete-*")), "an unfinished file was left"
            remount("size=64m")
            bench.resume(fault, run)
    for moment in ("saving", "evaluation"):
        disk = bench.work / "disk"
        with (
            processes.small_disk(disk, 1 << 25) as remount,
            bench.fault("full disk, run", f"the disk is full from a moment on: {moment}") as fault,
        ):
            run = disk / "run"
            command = bench.start(bench.train(run))
            processes.wait_for(moment, command, run, bench.chance("fills", moment), bench.last_step)
            filler = processes.fill(disk)
            ended = command.wait()
            bench.judge(fault, ended, {0, 2})
            filler.unlink()
            bench.resume(fault, run)


def full_writers(bench: Bench) -> None:
    """Every command that writes a file, on a disk without a free byte, and with a limit on the size of files."""
    features, whole = bench.features, bench.whole
    images = bench.work / "images"
    commands = {
        "features of a run": ["extract", f"--run={whole}", "--output={}/f.npz"],
        "features of images": ["extract", f"--run={whole}", f"--images={images}", "--output={}/f.npz"],
        "result of a features file": ["evaluate", f"--features={features}", "--output={}/r.json"],
        "page of ranked lists": ["evaluate", f"--run={whole}", "--html={}/p.html"],
        "prepared data set": ["prepare-dataset", "synthped", "--root={}/data", "--option", "size=tiny"],
        "contact sheet": [
            "contact-sheet",
            "synthped",
            f"--root={bench.data}",
            "--option",
            "size=tiny",
            "--output={}/s.png",
        ],
        "gallery": ["search", "build", "{}/g.gallery", f"--features={features}", "--no-audit"],
        "table of speed": ["benchmark", "rank", "--quick", "--output={}/b.json"],
        "run": bench.train(bench.work / "none")[:2] + ["--workdir={}/run"],
    }
    _some_images(images)
    for name, arguments in commands.items():
        for kind in ("no free byte", "files of at most 200 bytes"):
            disk = bench.work / "disk"
            with (
                processes.small_disk(disk, 1 << 16),
                bench.fault("full disk, writer", f"{name}: {kind}") as fault,
            ):
                target = bench.work / "limited"
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                if kind == "no free byte":
                    processes.fill(disk)
                    target, prepare = disk, None
                else:
                    prepare = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
                before = sorted(target.rglob("*"))
                ended = bench.run([argument.format(target) for argument in arguments], prepare=prepare)
                bench.judge(fault, ended, {2})
                left = [path for path in sorted(target.rglob("*")) if path not in before and path.is_file()]
                left = [path for path in left if path.name not in ("log.txt", ".lock", "config.json")]
                assert not left, f"half-written: {[str(path.relative_to(target)) for path in left][:5]}"


def _some_images(folder: os.PathLike[str]) -> None:
    os.makedirs(folder)
    for number in range(4):
        Image.new("RGB", (32, 64), (60 * number, 90, 120)).save(os.path.join(folder, f"{number}.png"))


def vanished(bench: Bench) -> None:
    """The run folder, its checkpoints, or the right to write go away during a run."""
    for name, moment in (("the run folder", "training"), ("checkpoints", "training"), ("the run folder", "evaluation")):
        run = bench.work / "vanishing"
        with bench.fault("vanished folder", f"{name} renamed: {moment}") as fault:
            command = bench.start(bench.train(run))
            processes.wait_for(moment, command, run, bench.chance("vanished", name, moment), bench.last_step)
            gone = run if name == "the run folder" else run / "checkpoints"
            aside = bench.work / "aside"
            gone.rename(aside)
            ended = command.wait()
            bench.judge(fault, ended, {0, 2})
            if ended.code:
                # What the run has made in its place since is not the run.
                shutil.rmtree(gone, ignore_errors=True)
                aside.rename(gone)
                bench.resume(fault, run)
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(bench.work / "aside", ignore_errors=True)
    with bench.fault("vanished folder", "the run folder is deleted") as fault:
        run = bench.work / "vanishing"
        command = bench.start(bench.train(run))
        processes.wait_for("training", command, run, bench.chance("deleted"), bench.last_step)
        shutil.rmtree(run, ignore_errors=True)
        bench.judge(fault, command.wait(), {2})
        shutil.rmtree(run, ignore_errors=True)
        bench.resume(fault, run)
    shutil.rmtree(bench.work / "vanishing", ignore_errors=True)
    for moment in ("before", "training", "evaluation"):
        disk = bench.work / "disk"
        with (
            processes.small_disk(disk, 1 << 25) as remount,
            bench.fault("read-only disk", f"the disk becomes read-only: {moment}") as fault,
        ):
            run = disk / "run"
            if moment == "before":
                remount("ro")
            command = bench.start(bench.train(run))
            if moment != "before":
                processes.wait_for(moment, command, run, bench.chance("read-only", moment), bench.last_step)
                _allow_no_new_files(disk, remount)
            ended = command.wait()
            bench.judge(fault, ended, {0, 2})
            remount("rw,nr_inodes=100000")
            bench.resume(fault, run)


def _allow_no_new_files(disk: pathlib.Path, remount: Callable[[str], None]) -> None:
    """Limits a disk to the files it has: one with open files cannot be made read-only.

    The command goes on making files, so that a count may be too small by the time it is set: then it is taken again.
    """
    for _ in range(50):
        with contextlib.suppress(subprocess.CalledProcessError):
            remount(f"nr_inodes={len(list(disk.rglob('*'))) + 1}")
            return
    raise AssertionError(f"the number of files on {disk} could not be limited")
