"""Evaluation by real processes with the gallery divided over them, and a run that goes on with fewer processes.

    python -m tests.clusters.divided --output results/divided.json

Hosts are network namespaces (`hosts`), which need root. Generated features are evaluated by 1, 2, 4 and 8 processes:
all scores, curves, lists and thresholds must be those of one process, bit for bit. Then a tiny system is trained and
evaluated by 1, 2 and 4 processes, whose results must agree to rounding; and a run on 8 devices goes on with 2 and with
8 again under `train.accumulate=auto`, whose losses must be those of the undisturbed run. What is finished is in the
work folder and not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from reid_jax import config as config_lib
from reid_jax.benchmarks import measuring, tables
from reid_jax.data.feature_set import FeatureSet
from reid_jax.data.gallery_share import Share
from reid_jax.evaluation import report, suite
from reid_jax.runtime import exchange as exchange_lib
from reid_jax.runtime import processes as processes_lib
from tests.clusters import run as cluster_run
from tests.clusters.hosts import Host, network
from tests.helpers import tiny

Row = dict[str, Any]

QUERIES, GALLERY, PEOPLE, DIMENSIONS = 500, 8_000, 400, 512
STEPS = 30
LIMIT = 1200.0  # seconds


def _features() -> FeatureSet:
    """Features of people whose images lie around a point each; some stand twice in the gallery, some are junk."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(PEOPLE, DIMENSIONS))
    query_ids, gallery_ids = rng.integers(0, PEOPLE, QUERIES), rng.integers(-1, PEOPLE, GALLERY)
    around = lambda ids: (centers[ids] + 2 * rng.normal(size=(len(ids), DIMENSIONS))).astype(np.float32)
    gallery = around(gallery_ids)
    gallery[100:200] = gallery[:100]
    cameras = [rng.integers(-1, 6, count) for count in (QUERIES, GALLERY)]
    return FeatureSet(around(query_ids), gallery, query_ids, gallery_ids, *cameras)


def _evaluate(index: int, count: int) -> Row:
    """Evaluates one process's share, and returns a hash of everything that came out."""
    features, exchange = _features(), exchange_lib.Processes()
    places = np.arange(GALLERY)[index::count]
    if count > 1:
        own = features.gallery_features[places].copy()
        features = dataclasses.replace(features, gallery_features=own, share=Share(places, GALLERY, exchange))
    row: Row = {}
    with measuring.measured() as cost:
        measured = suite.run("generated", features, suite.Protocol(verification=True))
        parts = report.page_parts(measured, 200)
    row |= {"seconds": round(cost.seconds, 2), "received_MB": round(exchange.received / 1e6, 2)}
    with measuring.measured() as cost:
        reranked = suite.run("generated", features, suite.Protocol(rerank=True), plain=measured.plain)
    row |= {"rerank_seconds": round(cost.seconds, 2)}
    row |= {"rerank_received_MB": round(exchange.received / 1e6 - row["received_MB"], 2)}
    lists = [[np.asarray(value).tolist() for value in dataclasses.astuple(one)] for one in parts["lists"]]
    assert reranked.reranked is not None
    everything = (
        measured.flat(),
        reranked.flat(),
        lists,
        *(r.ap.tolist() for r in (measured.plain, reranked.reranked)),
    )
    return {**row, "hash": hashlib.sha256(repr(everything).encode()).hexdigest(), "mAP": measured.plain.mAP}


def evaluations(work: pathlib.Path, hosts: list[Host], count: int) -> Row:
    """Returns the row of an evaluation by some processes, of which the slowest counts."""
    place = f"{hosts[0].address}:{cluster_run.PORT}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-m", "tests.clusters.divided", "--worker", place, str(count)]
    running = [
        subprocess.Popen(
            host.command([*command, str(index)]), cwd=tiny.ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        for index, host in enumerate(hosts[:count])
    ]
    found = [json.loads(process.communicate(timeout=1800)[0].strip().splitlines()[-1]) for process in running]
    row = {name: max(each[name] for each in found) for name in found[0] if name != "hash"}
    return {"processes": count, **row, "hash": " ".join(sorted({each["hash"] for each in found}))}


def _outcome(run: pathlib.Path) -> dict[str, float]:
    result = json.loads((run / "result.json").read_text())
    return {name: value for name, value in result.items() if "/" in name and isinstance(value, float)}


def runs(bench: cluster_run.Bench, counts: tuple[int, ...] = (1, 2, 4)) -> list[Row]:
    """Returns rows of whole runs, and by how much their scores differ from those of one process."""
    rows = []
    for count in counts:
        run = bench.work / f"whole-{count}"
        if not (run / "result.json").exists():
            codes = cluster_run.wait(
                bench.start_all(run, count, "--mode=train_and_eval", "--config.evals.rerank=True"), LIMIT
            )
            if codes != [0] * count:
                raise RuntimeError(f"exit codes {codes}")
        one, own = _outcome(bench.work / "whole-1"), _outcome(run)
        assert one.keys() == own.keys(), "other scores"
        assert (run / "ranked_lists.html").exists(), "no page"
        difference = max(abs(own[name] - one[name]) for name in one if "threshold" not in name)
        rows.append({"processes": count, "largest_difference_of_scores": float(f"{difference:.2g}")})
    return rows


def fewer(bench: cluster_run.Bench, counts: tuple[int, ...] = (8, 2, 8)) -> Row:
    """Returns the row of a run that goes on with fewer devices of one process, in as many parts of the batch."""
    changed = {"train.accumulate": "auto", "train.batch_statistics": "device", "train.epochs": STEPS / 3}
    config = bench.config.copy_and_resolve_references()
    config_lib.override(config, changed)
    argument = tiny.write(config, bench.work / "auto.py")

    def start(run: pathlib.Path, devices: int) -> cluster_run.Process:
        script, log = str(tiny.ROOT / "scripts" / "main.py"), run.parent / f"{run.name}-{time.monotonic_ns()}.log"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, script, argument, f"--workdir={run}", "--mode=train"],
                cwd=tiny.ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=file,
            )  # fmt: skip
        return cluster_run.Process(bench.hosts[0], popen, log)

    whole, run = bench.work / "auto-8", bench.work / "auto-8-2-8"
    finished = (whole / "checkpoints" / str(STEPS)).exists()
    if not finished and cluster_run.wait([start(whole, 8)], LIMIT) != [0]:
        raise RuntimeError(f"the undisturbed run failed; see {whole}")
    shutil.rmtree(run, ignore_errors=True)
    for place, devices in enumerate(counts):
        process, last = start(run, devices), place == len(counts) - 1
        if not last:
            cluster_run.wait_for_step(run, STEPS * (place + 1) // len(counts), [process])
            process.send(signal.SIGTERM)
        if (code := cluster_run.wait([process], LIMIT)) != [0 if last else 143]:
            raise RuntimeError(f"exit code {code} on {devices} devices: {process.last_line}")
    (lines, _), (others, _) = cluster_run.outcome(run), cluster_run.outcome(whole)
    if not [line["step"] for line in lines] == [line["step"] for line in others] == list(range(1, STEPS + 1)):
        raise RuntimeError("other steps than those of the undisturbed run")
    difference = max(
        abs(line["loss"] - other["loss"]) / other["loss"] for line, other in zip(lines, others, strict=True)
    )
    return {"devices": " -> ".join(map(str, counts)), "loss_difference": float(f"{difference:.2g}")}


def main() -> int:
    """Measures what is not there yet, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/divided"), help="folder of the runs")
    parser.add_argument("--output", help="file of the results")
    parser.add_argument("--worker", nargs=3, metavar=("PLACE", "COUNT", "INDEX"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        place, count, index = args.worker[0], int(args.worker[1]), int(args.worker[2])
        with processes_lib.session(place, count, index):
            print(json.dumps(_evaluate(index, count)))
        return 0
    cluster_run.LIMIT = LIMIT  # eight processes on a busy machine
    args.work.mkdir(parents=True, exist_ok=True)
    kept = args.work / "rows.json"
    done: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}

    def note(key: str, value: Any) -> None:
        done[key] = value
        kept.write_text(json.dumps(done, indent=1))
        print(f"{key}: {value}", flush=True)

    with network(8) as hosts:
        for count in (1, 2, 4, 8):
            if f"evaluation {count}" not in done:
                note(f"evaluation {count}", evaluations(args.work, hosts, count))
        bench = cluster_run.Bench(args.work.absolute(), hosts)
        if "runs" not in done:
            note("runs", runs(bench))
        if "fewer" not in done:
            note("fewer", fewer(bench))
    evaluated = [done[f"evaluation {count}"] for count in (1, 2, 4, 8)]
    equal = [row["hash"] == evaluated[0]["hash"] for row in evaluated]
    shown = [{**row, "hash": row["hash"][:12], "equal": "yes" if same else "no"} for row, same in zip(evaluated, equal)]
    right = all(equal) and done["fewer"]["loss_difference"] < cluster_run.ROUNDING
    if args.output:
        about = tables.about("python -m tests.clusters.divided --output results/divided.json")
        print(tables.write(args.output, {"divided": shown, "runs": [*done["runs"], done["fewer"]]}, about))
    print("all equal" if right else "NOT equal")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
