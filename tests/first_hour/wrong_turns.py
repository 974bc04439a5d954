"""Takes every wrong turn of `turns` as a real process and measures the time to its sentence: `make wrong-turns`.

    python -m tests.first_hour.wrong_turns                    # all turns; writes results/wrong_turns.json
    python -m tests.first_hour.wrong_turns --only warm-up     # those whose command or mistake contains a text

Each must end within five seconds of processor time with exit code 2, one sentence, no traceback, and leave nothing
behind. Exit code 0 means that all did. Wall-clock time is noted beside the load of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from reid_jax import config as config_lib
from reid_jax import file_io
from reid_jax.config import files
from reid_jax.data import image_io
from reid_jax.data.feature_set import FeatureSet
from reid_jax.gallery import intake
from reid_jax.gallery.gallery import Gallery
from reid_jax.runtime import provenance
from reid_jax.weights import convert
from tests.first_hour import turns

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUTPUT = ROOT / "results" / "wrong_turns.json"
SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit code.
        error: standard error.
        seconds: wall-clock time from the start of the process to its end.
        cpu_seconds: processor time of the process and its children, user and system.
        left: files and folders that it made or changed.
    """

    code: int
    error: str
    seconds: float
    cpu_seconds: float
    left: tuple[str, ...]

    def faults(self, turn: turns.Turn) -> list[str]:
        """Returns what is wrong with the outcome, in a few words each."""
        lines = self.error.strip().splitlines() or [""]
        sentence = lines[-1]
        found = [
            ("exit code", self.code == 2),
            ("traceback", "Traceback" not in self.error),
            ("no sentence at the end", sentence.startswith("error: ") and sentence.endswith((".", "?", ")"))),
            ("two sentences", sum(line.startswith("error: ") for line in lines) == 1),
            ("another sentence", turn.sentence in sentence),
            ("left behind", not self.left),
            ("slow", self.cpu_seconds < SECONDS),
        ]
        return [name for name, right in found if not right]


def make(folder: pathlib.Path) -> dict[str, str]:
    """Makes what the command lines name, and returns its path by name."""
    photos = folder / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        picture = rng.integers(0, 256, (64, 32, 3), np.uint8)
        (photos / f"{index}.png").write_bytes(image_io.encode_png(picture))
    people, cameras = np.arange(4, dtype=np.int32), np.zeros(4, np.int32)
    query, gallery = rng.random((2, 4, 8), np.float32)
    FeatureSet(query, gallery, people, people, cameras, cameras + 1).save(folder / "features.npz")
    query, gallery = rng.random((2, 4, 9), np.float32)
    FeatureSet(query, gallery, people, people, cameras, cameras + 1).save(folder / "wide.npz")
    described = intake.of_features(str(folder / "features.npz"), "gallery")
    with Gallery.create(str(folder / "people.gallery"), described.binding) as made:
        made.add(described.entries(), described.binding, who="test", why="wrong turns")
    (folder / "broken.npz").write_bytes((folder / "features.npz").read_bytes()[:300])
    narrow = {"backbone": {"conv1": {"kernel": np.zeros((7, 7, 3, 5), np.float32)}}}
    convert.save(folder / "bot.npz", {"params": narrow})
    (folder / "code.pth").write_bytes(b"\x80\x02cos\nmkdir\nX\x07\x00\x00\x00planted\x85R.")
    config = config_lib.to_json(files.load_config("mfv"))
    for name in ("run", "empty_run"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(config)
    (folder / "run" / "checkpoints" / "7").mkdir(parents=True)
    names = {"photos": "photos", "features": "features.npz", "broken": "broken.npz", "bot": "bot.npz"}
    names |= {"wide": "wide.npz", "gallery": "people.gallery"}
    return names | {"code": "code.pth", "run": "run", "empty_run": "empty_run"}


def state(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Returns size and time of everything below a folder, by path."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): (path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns)
        for path in paths
        if path.is_file() or path.is_dir()
    }


def take(turn: turns.Turn, folder: pathlib.Path, places: dict[str, str], environment: dict[str, str]) -> Outcome:
    """Runs the command line of a wrong turn in a folder."""
    arguments = [each.format(**places) for each in shlex.split(turn.command)]
    before = state(folder)
    with tempfile.TemporaryFile("w+") as error:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "reid_jax.cli", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=error,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        error.seek(0)
        text = error.read()
    after = state(folder)
    left = tuple(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)))
    return Outcome(process.returncode, text, seconds, usage.ru_utime + usage.ru_stime, left)


@contextlib.contextmanager
def taken_port() -> Iterator[str]:
    """Yields the number of a port of this machine that is taken meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@contextlib.contextmanager
def workplace() -> Iterator[tuple[pathlib.Path, dict[str, str]]]:
    """Yields an empty working folder, and an environment whose home and caches are empty, too."""
    with tempfile.TemporaryDirectory() as place:
        home, folder = pathlib.Path(place) / "home", pathlib.Path(place) / "work"
        home.mkdir()
        folder.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("REID_JAX", "HF_", "TORCH_"))}
        path = os.pathsep.join(str(pathlib.Path(each).resolve()) for each in sys.path if each)
        yield (
            folder,
            {
                **kept,
                "HOME": str(home),
                "XDG_CACHE_HOME": str(home / ".cache"),
                "PYTHONPATH": os.pathsep.join([str(ROOT), path]),
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "1",
                "REID_JAX_OFFLINE": "1",
            },
        )


def main(argv: list[str]) -> int:
    """Takes the wrong turns and writes the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="turns whose command or mistake contains it")
    parser.add_argument("--output", default="", metavar="FILE", help=f"where to write (default: {OUTPUT.name})")
    given = parser.parse_args(argv)
    chosen = [turn for turn in turns.TURNS if given.only in turn.command or given.only in turn.what]
    rows, wrong = [], 0
    with workplace() as (folder, environment), taken_port() as port:
        places = make(folder) | {"port": port}
        load = os.getloadavg()[0]
        for turn in chosen:
            outcome = take(turn, folder, places, environment)
            for path in outcome.left:
                shutil.rmtree(folder / path, ignore_errors=True)
            faults = outcome.faults(turn)
            wrong += bool(faults)
            sentence = (outcome.error.strip().splitlines() or [""])[-1].removeprefix("error: ")
            sentence = sentence.replace(str(folder), ".").replace(environment["HOME"], "~")
            rows.append(
                {
                    "command": turn.command.format(**places),
                    "mistake": turn.what,
                    "sentence": sentence[:400],
                    "seconds": round(outcome.seconds, 2),
                    "cpu_seconds": round(outcome.cpu_seconds, 2),
                    "faults": faults,
                }
            )
            print(f"{outcome.cpu_seconds:5.2f} s CPU {outcome.seconds:6.2f} s  {turn.command}", flush=True)
            if faults:
                print(f"      {', '.join(faults)}: {sentence[:300]} {list(outcome.left)[:3]}", flush=True)
    print(f"{len(rows)} wrong turns, {wrong} ended wrongly")
    if given.output or not given.only:
        about = {"device": provenance.device_name(), "load": round(load, 1), "commit": provenance.commit()}
        file_io.write_json(given.output or OUTPUT, {"turns": rows, "wrong": wrong, **about}, "the table")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
