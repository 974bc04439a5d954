"""Damaged files: every file of a checkpoint, and the other files of a run folder."""

from __future__ import annotations

import logging
import pathlib
import resource
import shutil

from tests.faults.runs import Bench, in_fork


def truncate(path: pathlib.Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def delete(path: pathlib.Path) -> None:
    path.unlink()


DAMAGES = (truncate, flip, delete)


def _files(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def checkpoint_files(bench: Bench) -> None:
    """Every file of the newest checkpoint, one by one: named or harmless, and what is read is what was written."""
    folder = bench.work / "damaged"
    for place, path in enumerate(_files(bench.whole / "checkpoints" / str(bench.last_step))):
        for damage in DAMAGES:
            shutil.copytree(bench.whole / "checkpoints", folder)
            damaged = folder / path.relative_to(bench.whole / "checkpoints")
            damage(damaged)
            name = path.relative_to(bench.whole / "checkpoints").as_posix()
            with bench.fault("damaged checkpoint, read", f"{damage.__name__} {place}: {name}") as fault:
                step, said, wrong = in_fork(lambda: read_newest(folder, bench.whole / "checkpoints"))
                fault.ended = f"reads step {step}"
                fault.sentence = said
                assert not wrong, wrong
                if step != bench.last_step:
                    assert damaged.name in said or "is missing" in said, said
            shutil.rmtree(folder)


def read_newest(folder: pathlib.Path, whole: pathlib.Path) -> tuple[int, str, str]:
    """Returns the step that a resuming run reads, what was said, and what was wrong with its arrays."""
    import jax

    from reid_jax import trees
    from reid_jax.train import checkpoints

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    shapes = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in checkpoints.restore_arrays(whole).items()
    }
    with checkpoints.Checkpoints(folder) as saved:
        found = saved.restore_newest(lambda step: trees.unflatten(shapes))
    assert found is not None
    step, state, _ = found
    expected = checkpoints.restore_arrays(whole, step)
    flat = trees.flatten(state)
    wrong = [path for path in expected if jax.device_get(flat[path]).tobytes() != expected[path].tobytes()]
    return step, " ".join(said), f"arrays differ: {wrong[:3]}" if wrong else ""


def checkpoint_runs(bench: Bench, count: int) -> None:
    """A run resumes although a file of its newest checkpoint is damaged, and ends like the undisturbed one."""
    files = _files(bench.whole / "checkpoints" / str(bench.last_step))
    for number in range(count):
        chance = bench.chance("damaged", number)
        path, damage = chance.choice(files), DAMAGES[number % 3]
        name = path.relative_to(bench.whole).as_posix()
        run = bench.unfinished("damaged")
        with bench.fault("damaged checkpoint, run", f"{damage.__name__} {name}") as fault:
            damage(run / name)
            ended = bench.run(bench.train(run))
            bench.judge(fault, ended, {0})
            bench.compare(run)
        shutil.rmtree(run)
    run = bench.unfinished("damaged")
    with bench.fault("damaged checkpoint, run", "every checkpoint") as fault:
        for path in _files(run / "checkpoints"):
            if path.parent.name == "d":
                truncate(path)
        before = sorted(run.rglob("*"))
        bench.judge(fault, bench.run(bench.train(run)), {2})
        kept = {path for path in before if "checkpoints" in path.parts}
        assert kept <= set(run.rglob("*")), "a checkpoint was removed"
        for command in (["evaluate", f"--run={run}"], ["extract", f"--run={run}", f"--output={run}/f.npz"]):
            bench.judge(fault, bench.run(command), {2})
    shutil.rmtree(run)


# For each file of a run folder: contents, and whether the run must go on.
RUN_FILES: dict[str, tuple[bytes | None, ...]] = {
    "config.json": (b"", b"{", b"{}", b"[1]", b"\xff\xfe\x00", b'{"data": 3}', b"[" * 100_000),
    "result.json": (b"", b"{", b"{}", b"[1]", b"\xff\xfe\x00", b'{"dataset": "synthped"}', b"null", None),
    "metrics.jsonl": (b"", b"\xff\xfe\n", b'{"step": "x"}\n', b"[1]\n", None),
    "log.txt": (b"\xff\xfe", None),
    ".lock": (b"\xff\xfe", b'{"pid": 1, "host": "x"}', b'{"pid": []}', None),
}


def run_files(bench: Bench) -> None:
    """The other files of a run folder: the run goes on, or one sentence names the file."""
    for name, contents in RUN_FILES.items():
        for content in contents:
            run = bench.copy("damaged")
            said = "deleted" if content is None else f"is {content[:24]!r}"
            with bench.fault("damaged run folder", f"{name} {said}") as fault:
                if content is None:
                    (run / name).unlink(missing_ok=True)
                else:
                    (run / name).write_bytes(content)
                ended = bench.run(bench.train(run))
                bench.judge(fault, ended, {2} if name == "config.json" else {0})
                if name == "config.json":
                    assert "config.json" in ended.err or "another config" in ended.err, ended.err[-500:]
                    bench.judge(fault, bench.run(["evaluate", f"--run={run}"]), {2})
                else:
                    assert in_fork(lambda run=run: _same_scores(bench.whole, run)), "the scores differ"
            shutil.rmtree(run)
    for name in (
        "config.json",
        "result.json",
        "metrics.jsonl",
        "log.txt",
        "checkpoints",
        "ranked_lists.html",
        "report.html",
    ):
        run = bench.copy("damaged")
        with bench.fault("damaged run folder", f"a folder or file in the place of {name}") as fault:
            path = run / name
            if path.is_dir():
                shutil.rmtree(path)
                path.touch()
            else:
                path.unlink(missing_ok=True)
                path.mkdir()
            (run / "result.json").unlink() if (run / "result.json").is_file() else None
            bench.judge(fault, bench.run(bench.train(run)), {0, 2})
        shutil.rmtree(run)


def _same_scores(whole: pathlib.Path, run: pathlib.Path) -> bool:
    import json

    from tests.faults.runs import ABOUT

    scores = [json.loads((folder / "result.json").read_text()) for folder in (whole, run)]
    return all(scores[0][key] == scores[1].get(key) for key in scores[0] if key not in ABOUT)


OWN = """
def broken(x, *, margin=0.3, **options):
    raise {}
"""


def own_code(bench: Bench) -> None:
    """A loss of the user's own that raises while it is traced: its file and line, and no run folder."""
    for number, text in enumerate(("ValueError('mine')", "KeyError('k')", "MemoryError()", "x.shape[7]")):
        folder = bench.work / f"own{number}"
        folder.mkdir()
        (folder / f"own_losses{number}.py").write_text(OWN.format(text))
        with bench.fault("own code", f"a loss raises {text}") as fault:
            arguments = ["train", bench.config, f"--config.losses.tri.loss=own_losses{number}:broken"]
            ended = bench.run(arguments, cwd=folder, fresh=number == 0)
            bench.judge(fault, ended, {2})
            assert f"own_losses{number}.py, line 3, in broken" in ended.err, ended.err[-600:]
            left = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
            assert left == [f"own_losses{number}.py"], left


def memory(bench: Bench) -> None:
    """Limits of the address space, from too small for the interpreter's libraries to almost enough."""
    for megabytes in (300, 1200, 2400, 3000):
        run = bench.work / "memory"
        with bench.fault("memory", f"at most {megabytes} MB of address space") as fault:
            limit = lambda size=megabytes << 20: resource.setrlimit(resource.RLIMIT_AS, (size, size))
            bench.judge(fault, bench.run(bench.train(run), fresh=True, prepare=limit), {0, 2})
            bench.resume(fault, run)
        shutil.rmtree(run, ignore_errors=True)
