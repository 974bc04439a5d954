"""Measures speed and memory: a table on the screen, JSON in a file.

    python scripts/benchmark.py train --model resnet50,mfv --batch 8 --torch
    python scripts/benchmark.py train --demo     # the demo's own step: all losses, its optimizer
    python scripts/benchmark.py train --config configs/amfor.py
    python scripts/benchmark.py infer --model bot --batch 64,256 --dtype bfloat16
    python scripts/benchmark.py input
    python scripts/benchmark.py rank --size market1501,msmt17,growth
    python scripts/benchmark.py rerank --size msmt17
    python scripts/benchmark.py operations --torch # 3x3 convolutions beside a matrix product
    python scripts/benchmark.py page               # the page of ranked lists: seconds and MB
    python scripts/benchmark.py start --config configs/mfv.py      # to the first step, cold and warm
    python scripts/benchmark.py export --output results/export.json   # goes on where it was cut off
    python scripts/benchmark.py aot --target tpu:v5e:2x2           # for devices that are not there
    python scripts/benchmark.py machine --config mfv --output results/machine.json   # one seed, rounded
    python scripts/benchmark.py pages --config mfv --config amfor  # large pages of memory, with and without
    python scripts/benchmark.py growth             # from 10,000 to 1,000,000 images
    python scripts/benchmark.py campaign --minutes 12 --torch      # a device lent for minutes
    python scripts/benchmark.py campaign --evidence                # its tables of configs/evidence.toml
    python scripts/benchmark.py all --output results/benchmark.json
    python scripts/benchmark.py --list            # kinds, sizes, models and configs

Step times are medians, taken in turn (A B A B ...) and without compilation. With --model a train step is forward,
backward, cross-entropy and SGD, so that it compares with the same in PyTorch (--torch); with --demo or --config it is
the step of that run. FLOPs are the compiler's count; utilization (mfu) is given where the device's peak is known.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from reid_jax import errors, file_io
from reid_jax.benchmarks import targets
from reid_jax.cli import arguments, command_line, help_pages
from reid_jax.config import files
from reid_jax.weights import zoo

DEMO = "mfv"
KINDS = ("train", "infer", "input", "rank", "rerank")  # of `all`
SIZES = ("tiny", "market1501", "msmt17", "growth")
WHAT = {
    "train": "a train step of --model, or of a run with --config or --demo",
    "infer": "the forward pass to the features",
    "input": "decoding, augmentation and the whole input pipeline",
    "rank": "CMC and mAP from features",
    "rerank": "k-reciprocal re-ranking",
    "verify": "distances of all pairs, thresholds",
    "operations": "GFLOP/s of 3x3 convolutions and their gradients, beside a matrix product",
    "page": "writing the page of ranked lists, and its size",
    "start": "seconds to the first step of a run, with and without kept programs",
    "export": "exported files of the ten systems, or of --config: nearness to the model, size, speed in ONNX Runtime",
    "aot": "compiling full-size systems for accelerators that are not there (--target)",
    "machine": "how far scores of one seed differ by the machine: runs with other instructions and one core (--config)",
    "pages": "compiling and running a train step (--config) with large pages of memory and without",
    "growth": "every stage of a run at 10,000 to 1,000,000 images, in half an hour",
    "campaign": "everything worth knowing of a device that is lent for some minutes",
}
# Arguments that some kinds have no use for.
MODELS, RANKING = ("train", "infer"), ("rank", "rerank", "verify", "page")
ONLY = {
    **dict.fromkeys(("model", "demo", "dtype"), MODELS),
    "option": (*MODELS, "aot"),
    "batch": (*MODELS, "operations", "export", "aot"),
    "torch": (*MODELS, "operations", "campaign"),
    "config": (*MODELS, "start", "export", "aot", "machine", "pages"),
    "target": ("aot",),
    "limit": ("aot",),
    **dict.fromkeys(("height", "width"), (*MODELS, "input")),
    **dict.fromkeys(("threads", "workers", "corruptions"), ("input",)),
    "quick": ("input", *RANKING, "growth", "campaign", "aot"),
    "workdir": ("growth",),
    "minutes": ("campaign",),
    "evidence": ("campaign",),
    "size": RANKING,
}


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    parser.add_argument("kind", nargs="?", metavar="KIND", choices=(*WHAT, "all"), help="what to measure, see --list")
    parser.add_argument("--list", action="store_true", help="print what can be measured, and exit")
    parser.add_argument("--model", metavar="NAME,...", help="train, infer: models of --list, by commas")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE[:PRESET]",
        help="train, infer, start, export, aot, machine, pages: a config",
    )
    parser.add_argument("--demo", action="store_true", help="train, infer: the demo of configs/mfv.py")
    parser.add_argument(
        "--batch",
        help="train, infer, operations: images per step, by commas (default: 8, or the config's); aot: on each chip "
        "(64,256)",
    )
    parser.add_argument("--target", metavar="NAMES", help=f"aot: devices, by commas, such as {targets.EXAMPLES}")
    parser.add_argument(
        "--limit",
        type=arguments.number(1, 24 * 3600),
        help="aot: seconds after which a row is given up (default: 1200)",
    )
    parser.add_argument(
        "--height", type=arguments.whole(*arguments.PIXELS), help="train, infer, input: rows of the images"
    )
    parser.add_argument("--width", type=arguments.whole(*arguments.PIXELS), help="train, infer, input: columns")
    parser.add_argument("--dtype", help="train, infer: auto (default), float32 or bfloat16")
    parser.add_argument(
        "--steps",
        type=arguments.whole(1, 100_000),
        default=5,
        help="train, infer, operations, pages: timed calls (default: 5)",
    )
    parser.add_argument(
        "--classes", type=arguments.whole(1, 1_000_000), default=751, help="train, infer: identities (default: 751)"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a field of --model; aot: a key of the configs",
    )
    parser.add_argument("--torch", action="store_true", help="train, infer, operations, campaign: also PyTorch")
    parser.add_argument("--threads", type=arguments.whole(1, 1024), help="input: threads of the pipeline")
    parser.add_argument(
        "--workers", type=arguments.whole(0, 1024), default=0, help="input: also with this many worker processes"
    )
    parser.add_argument("--corruptions", action="store_true", help="input: each corruption and augmentation instead")
    parser.add_argument(
        "--quick", action="store_true", help="input, rank, rerank, growth, campaign: small and short; aot: less effort"
    )
    parser.add_argument("--workdir", metavar="DIR", help="growth: its images (5 GB) and rows (default: runs/growth)")
    parser.add_argument(
        "--size", help="rank, rerank, verify, page: tiny, market1501 (default), msmt17, by commas; rank: growth"
    )
    parser.add_argument(
        "--minutes", type=arguments.number(0.5, 24 * 60), help="campaign: wall time (default: 12, with --quick 5)"
    )
    parser.add_argument(
        "--evidence",
        nargs="?",
        const="evidence",
        metavar="PLAN",
        help="campaign: the tables of an evidence plan (default: evidence), the seeds side by side",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="also write the numbers as JSON, and as markdown next to it; campaign: the folder (default: campaign)",
    )
    return parser


def _list() -> str:
    """Returns the kinds of measurement, and what they can be done to."""
    kinds = [*WHAT.items(), ("all", ", ".join(KINDS))]
    subjects = (
        ("--size", f"of {', '.join(RANKING)}: {', '.join(SIZES)}"),
        ("--model", f"of {', '.join(MODELS)}: {', '.join(zoo.ZOO)}"),
        (
            "--config",
            f"of {', '.join(MODELS)}: {', '.join(files.packaged())}, or a file; with a preset as for training",
        ),
    )
    return f"{help_pages.table(kinds)}\n\n{help_pages.table(subjects)}"


def _batches(text: str | None) -> list[int | None]:
    if text is None:
        return [None]
    return list(arguments.wholes("--batch", text, 1, 65_536))


def _check(args: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that can be refused before JAX is loaded, which takes seconds."""
    if args.kind is None:
        raise errors.UserError(f"expected what to measure, one of {', '.join([*WHAT, 'all'])}; see --list.")
    _batches(args.batch)
    for flag, kinds in ONLY.items():
        if getattr(args, flag) and args.kind not in (*kinds, "all"):
            raise errors.UserError(f"--{flag} is for {', '.join(kinds)}, not for {args.kind}; leave it out.")
    for name in arguments.names("--model", args.model) if args.model is not None else ():
        zoo.lookup(name)
    for text in args.config:
        files.load_config(text)
    if args.kind == "export":
        from reid_jax.export import onnx_file

        onnx_file.check_installed()
    if args.kind == "aot":
        if args.target is None:
            raise errors.UserError(f"expected --target with aot, such as {targets.EXAMPLES}; give one or more.")
        for name in arguments.names("--target", args.target):
            targets.check_installed(targets.parse(name))
    if args.size is not None:
        arguments.names("--size", args.size, SIZES)
    if args.output is not None and args.kind == "campaign":
        arguments.new_folder("--output", args.output)
    elif args.output is not None:
        arguments.new_file("--output", args.output)
    if args.torch and importlib.util.find_spec("torch") is None:
        raise errors.UserError("--torch compares with PyTorch, which is not installed; pip install 'reid-jax[torch]'.")
    if args.option and not args.model and args.kind != "aot":
        raise errors.UserError("--option is a field of a model; name it with --model.")
    arguments.one_of("--dtype", args.dtype, ("auto", "float32", "bfloat16"))


def _known(args: argparse.Namespace, kind: str) -> list[dict[str, Any]]:
    """Returns the rows of an earlier measurement in the file of `--output`, which goes on where it ended."""
    known: list[dict[str, Any]] = []
    if args.output and os.path.exists(args.output):
        earlier = file_io.read_json(args.output, "the tables of an earlier measurement", "remove the file")
        known = earlier.get("tables", {}).get(kind, [])
        print(f"{len({row['what'] for row in known})} systems of {args.output} are not measured again", flush=True)
    return known


def _starts(args: argparse.Namespace, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of starts, and writes them after each; goes on where the file ends."""
    from reid_jax.benchmarks import start_speed, tables

    def report(rows: list[dict[str, Any]]) -> None:
        if args.output:
            tables.write(args.output, {"start": rows}, about)
        print(tables.table(rows[-1:]), file=sys.stderr, flush=True)

    return start_speed.measure(args.config, _known(args, "start"), report)


def _exports(args: argparse.Namespace, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of exported files, and writes them after each system; goes on where the file ends."""
    from reid_jax.benchmarks import export_speed, tables

    known = _known(args, "export")

    def report(rows: list[dict[str, Any]]) -> None:
        if args.output:
            tables.write(args.output, {"export": rows}, about)
        print(tables.table([row for row in rows if row["what"] == rows[-1]["what"]]), file=sys.stderr, flush=True)

    names = args.config or [f"{system}:{export_speed.PRESET}" for system in export_speed.SYSTEMS]
    batches = [batch for batch in _batches(args.batch) if batch] or list(export_speed.BATCHES)
    return export_speed.measure([files.load_config(name) for name in names], batches, known, report)


def _machines(args: argparse.Namespace, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of runs of one seed under other conditions, written after each; goes on where the file ends."""
    from reid_jax.benchmarks import machine_effect, tables

    def report(rows: list[dict[str, Any]]) -> None:
        if args.output:
            tables.write(args.output, {"machine": rows}, about)
        print(tables.table(rows[-1:]), file=sys.stderr, flush=True)

    return machine_effect.measure(args.config or [DEMO], _known(args, "machine"), report)


def _pages(args: argparse.Namespace, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of large pages of memory, written after each config; goes on where the file ends."""
    from reid_jax.benchmarks import memory_pages, tables

    def report(rows: list[dict[str, Any]]) -> None:
        if args.output:
            tables.write(args.output, {"pages": rows}, about)
        print(tables.table(rows[-len(memory_pages.MEASURED) :]), file=sys.stderr, flush=True)

    return memory_pages.measure(args.config or [DEMO], args.steps, _known(args, "pages"), report)


def _ahead(args: argparse.Namespace, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of programs for absent devices, and writes them after each; goes on where the file ends."""
    from reid_jax.benchmarks import ahead_rows, tables

    names = arguments.names("--target", args.target)
    for name in names:
        targets.create_mesh(targets.parse(name))  # known to the compiler
    configs = args.config or [f"{system}:market1501" for system in sorted(files.packaged())]
    options = command_line.parse_options(args.option)
    batches = [batch for batch in _batches(args.batch) if batch] or list(ahead_rows.BATCHES)
    tasks = ahead_rows.plan(names, configs, options, batches, quick=args.quick)

    def report(rows: list[dict[str, Any]]) -> None:
        if args.output:
            tables.write(args.output, {"aot": rows}, about)
        print(tables.table(rows[-1:]), file=sys.stderr, flush=True)

    rows = ahead_rows.measure(tasks, _known(args, "aot"), report, args.limit or ahead_rows.LIMIT)
    return ahead_rows.ordered(rows, tasks)


def _measure(args: argparse.Namespace, kind: str, about: dict[str, Any]) -> list[dict[str, Any]]:
    from reid_jax.benchmarks import (
        growth,
        input_speed,
        model_speed,
        ranking_speed,
        subjects,
        tables,
    )

    def show(row: dict[str, Any]) -> None:
        print(tables.table([row]), file=sys.stderr, flush=True)

    if kind == "export":
        return _exports(args, about)
    if kind == "start":
        return _starts(args, about)
    if kind == "machine":
        return _machines(args, about)
    if kind == "pages":
        return _pages(args, about)
    if kind == "aot":
        return _ahead(args, about)
    if kind == "growth":
        from reid_jax.benchmarks import growth

        return growth.measure(args.workdir or "runs/growth", growth.SIZES[: 1 if args.quick else None], show)
    if kind == "operations":
        from reid_jax.benchmarks import operations_speed

        return operations_speed.measure(_batches(args.batch), repetitions=args.steps, torch=args.torch)
    if kind in ranking_speed.RANKING:
        return ranking_speed.measure(kind, (args.size or ("tiny" if args.quick else "market1501")).split(","))
    if kind == "input":
        given = {"height": args.height, "width": args.width, "threads": args.threads, "workers": args.workers}
        given = {key: value for key, value in given.items() if value}
        if args.quick:
            return input_speed.quick(corruptions_alone=args.corruptions, **given)
        return input_speed.measure_corruptions() if args.corruptions else input_speed.measure(**given)
    overrides = {"data.height": args.height, "data.width": args.width, "dtype": args.dtype}
    configs = [files.load_config(text) for text in [*args.config, *([DEMO] if args.demo else [])]]
    timed = [subjects.of_config(config, overrides) for config in configs]
    names = args.model or ("" if timed else "bot")
    options = command_line.parse_options(args.option)
    timed += [subjects.of_model(name, options, overrides) for name in names.split(",") if name]
    return model_speed.measure(
        kind, timed, _batches(args.batch), steps=args.steps, torch=args.torch, classes=args.classes
    )


def _campaign(args: argparse.Namespace, command: str) -> int:
    """Runs a campaign: workers, then a training run, and the tables after each part; see `benchmarks.campaign`."""
    from reid_jax.benchmarks import campaign, campaign_training, tables

    deadline = time.monotonic() + 60 * (args.minutes or (5 if args.quick else 12))
    folder = campaign.Folder(args.output or "campaign")
    campaign.check_kind(folder, args.quick, args.torch)
    parts = campaign.plan(args.quick)

    def write(line: str = "") -> dict[str, Any]:
        found = campaign.document(folder, parts)
        about = campaign.about(folder, command)
        shown = found["tables"] | ({"failed": found["failed"]} if found["failed"] else {})
        tables.write(folder.path / "campaign.json", shown, about | {"not_begun": found["not_begun"]})
        if line:
            print(line, flush=True)
        return found

    def start(waiting: Sequence[campaign.Part], seconds: float) -> campaign.Worker:
        return campaign.start_worker(folder, waiting, seconds, args.quick, args.torch)

    with campaign.background(campaign_training.prepare_command(folder, args.quick), folder) as preparing:
        campaign.measure(folder, parts, deadline, start, write)
        if folder.read(campaign_training.PART.name).get("status") != campaign.DONE:
            with contextlib.suppress(subprocess.TimeoutExpired):
                preparing.wait(max(0.0, (deadline - time.monotonic()) / 2))
    if folder.read(campaign_training.PART.name).get("status") != campaign.DONE:
        campaign_training.train(folder, args.quick, deadline)
    found = write()
    print(campaign.summary(found))
    print(f"written: {folder.path}/campaign.md, campaign.json, parts/, log.txt")
    return 0


def _evidence(args: argparse.Namespace, command: str) -> int:
    """Runs the tables of an evidence plan, the seeds side by side; see `benchmarks.campaign_evidence`."""
    from reid_jax.benchmarks import campaign, campaign_evidence, tables

    deadline = time.monotonic() + 60 * (args.minutes or (5 if args.quick else 12))
    plan = campaign_evidence.read(args.evidence, args.quick)
    parts = campaign_evidence.parts(plan)
    folder = campaign.Folder(args.output or "evidence")
    campaign.check_kind(folder, args.quick, args.torch, args.evidence)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lanes = campaign_evidence.lanes(parts, 1 if args.quick else max(1, cores // 3))

    def write(line: str = "") -> dict[str, Any]:
        found = campaign.document(folder, parts)
        campaign_evidence.write_tables(folder, plan)
        shown = found["tables"] | ({"failed": found["failed"]} if found["failed"] else {})
        about = tables.about(command, campaign_evidence.device(folder, plan))
        tables.write(folder.path / "campaign.json", shown, about | {"not_begun": found["not_begun"]})
        if line:
            print(line, flush=True)
        return found

    def start(waiting: Sequence[campaign.Part], seconds: float) -> campaign.Worker:
        return campaign.start_worker(folder, waiting, seconds, args.quick, args.torch, args.evidence)

    campaign_evidence.measure_side_by_side(folder, lanes, deadline, start, write)
    print(campaign.summary(write()))
    print(f"written: {folder.path}/evidence-*.csv, evidence-*.md, campaign.json, runs/, log.txt")
    return 0


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    args = _parser().parse_args(argv)
    if args.list:
        print(_list())
        return 0
    _check(args)
    command = command_line.for_caller(" ".join(["python scripts/benchmark.py", *argv]))
    if args.kind == "campaign":
        return _campaign(args, command) if args.evidence is None else _evidence(args, command)
    if args.torch:
        # By default JAX allocates most of a GPU's memory at its start.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    import jax

    from reid_jax.benchmarks import tables

    about = tables.about(command)
    print(f"{about['device']}, {about['cores']} cores, load {about['load']}, jax {about['versions']['jax']}, "
          f"commit {about['commit'] or 'unknown'}")  # fmt: skip
    measured = {}
    for kind in KINDS if args.kind == "all" else (args.kind,):
        measured[kind] = _measure(args, kind, about)
        print(f"\n{tables.table(measured[kind])}", flush=True)
    if {"train", "infer"} & set(measured) and not any(row.get("mfu") for rows in measured.values() for row in rows):
        print(f"\nno utilization: no peak is known for {jax.devices()[0].device_kind} in this precision")
    about |= tables.peak_memory()
    print("peak memory: " + ", ".join(f"{key[:-8]} {about[key]:,} MB" for key in about if key.endswith("_peak_MB")))
    if args.output:
        print(tables.write(args.output, measured, about))
    return 0
