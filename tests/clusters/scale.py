"""The start of many processes: seconds, memory and requests to the disk, for 10,000 to 1,000,000 images.

    python -m tests.clusters.scale --folder rows --output results/scale.json

Images and prepared data sets are those of `benchmark.py growth`, made in the folder where they are not there yet.
Process 0 reads the index and packs it for the others; another process unpacks it and reads its share of the first
batch. Both are measured in a process of their own; the requests of a run are those of process 0, and those of another
once for each of the others (a test of the suite simulates all 64 and counts).
Then the bytes that an evaluation with a divided gallery exchanges are computed from labels of galleries of three sizes.
"""

from __future__ import annotations

import argparse
import builtins
import io
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from reid_jax.benchmarks import growth, measuring, tables
from reid_jax.data import index_copy, pipeline, prepare, records
from reid_jax.evaluation import candidates

Row = dict[str, Any]

SIZES = (10_000, 100_000, 1_000_000)
PROCESSES = (1, 8, 64)
SAMPLER = {"name": "identity_groups", "identities": 16, "images": 4}
DIMENSIONS = 2048


class Requests:
    """Counts what Python asks of the disk below a folder, and the records that are read."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.found = (
            str(folder),
            {"open": 0, "list": 0, "stat": 0, "record": 0, "record_file": 0, "bytes": 0},
        )
        for module, name, kind in (
            (builtins, "open", "open"),
            (io, "open", "open"),
            (os, "scandir", "list"),
            (os, "listdir", "list"),
            (os, "stat", "stat"),
        ):
            setattr(module, name, self._counted(kind, getattr(module, name)))

    def _counted(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            if arguments and self.folder in str(arguments[0]):
                self.found[kind] += 1
                if kind == "open":
                    self.found["bytes"] += os.fstat(result.fileno()).st_size
            return result

        return counted

    def take(self) -> dict[str, int]:
        """Returns the counts since the last call."""
        taken, self.found = self.found, dict.fromkeys(self.found, 0)
        return taken


class _Source:
    """A split's records, counted."""

    def __init__(self, source: Any, requests: Requests) -> None:
        self.source, self.requests = source, requests

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        self.requests.found["record"] += 1
        return self.source[index]


def _first_batch(dataset: records.ReIDDataset, requests: Requests, process: int, processes: int) -> None:
    train = dataset.split("train")
    labels, _ = records.train_labels(train)
    counted = records.Split(train.name, _Source(train.source, requests), train.pids, train.camids, train.filenames)
    share = {"process_index": process, "process_count": processes, "threads": 0, "cache": "none", "augment": {}}
    with pipeline.train_batches(counted, labels, sampler=SAMPLER, height=32, width=16, **share) as batches:
        next(batches)
    requests.found["record_file"] += sum(reader is not None for reader in train.source._records._readers)


def _work(role: str, images: int, processes: int, root: pathlib.Path) -> Row:
    """Does the work of a process of a run at its start, and returns its cost: "main" or "other"."""
    records.open_dataset("reid_folder", root.parent / f"data-{SIZES[0]}")  # loads the libraries
    requests = Requests(root)
    packed_at = root.parent / f"index-{images}.packed"
    if role == "main":
        with measuring.measured() as cost:
            dataset = records.open_dataset("reid_folder", root)
            dataset.index_hash()
            packed = index_copy.pack(dataset) if processes > 1 else b""
            _first_batch(dataset, requests, 0, processes)
        found = requests.take()
        packed_at.write_bytes(packed)
        return _cost(cost, found, sent_MB=round(len(packed) / 1e6, 1))
    packed, folder = packed_at.read_bytes(), records.prepared_folder("reid_folder", root)
    requests.take()
    with measuring.measured() as cost:
        dataset = index_copy.unpack(packed, folder)
        dataset.index_hash()
        _first_batch(dataset, requests, 1, processes)
    return _cost(cost, requests.take())


def _cost(cost: measuring.Cost, found: dict[str, int], **more: Any) -> Row:
    return {
        "seconds": round(cost.seconds, 2),
        "core_seconds": round(cost.core_seconds, 2),
        "extra_MB": round(cost.extra_bytes / 1e6, 1),
        **found,
        **more,
    }


def _measured(role: str, images: int, processes: int, folder: pathlib.Path) -> Row:
    """Returns the cost of a role, measured in a process of its own."""
    command = [sys.executable, "-m", "tests.clusters.scale", "--folder", str(folder), "--work", role, str(images)]
    done = subprocess.run([*command, str(processes)], capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def start(images: int, processes: int, folder: pathlib.Path) -> Row:
    """Returns the row of the start of some processes."""
    main = _measured("main", images, processes, folder)
    row: Row = {
        "images": images,
        "processes": processes,
        "seconds": main["seconds"],
        "core_seconds": main["core_seconds"],
        "MB_of_process_0": main["extra_MB"],
    }
    kinds = ("open", "list", "stat", "record", "record_file")
    total, alone = {kind: main[kind] for kind in kinds}, {kind: main[kind] * processes for kind in kinds}
    read = main["bytes"]
    if processes > 1:
        other = _measured("other", images, processes, folder)
        row |= {name: round(main[name] + other[name], 2) for name in ("seconds", "core_seconds")}
        row["MB_of_another"] = other["extra_MB"]
        row["sent_MB"] = main["sent_MB"]
        total = {kind: main[kind] + (processes - 1) * other[kind] for kind in kinds}
        read += (processes - 1) * other["bytes"]
    row |= {"files_opened": total["open"], "listings": total["list"], "file_sizes_asked": total["stat"]}
    row |= {
        "record_files_opened": total["record_file"],
        "records_read": total["record"],
        "index_MB_read": round(read / 1e6, 1),
    }
    row |= {"index_MB_if_all_read": round(main["bytes"] * processes / 1e6, 1), "listings_if_all_list": alone["list"]}
    return row


# ---- bytes of an evaluation -----------------------------------------------------------------------------------------


def exchanged(what: str, queries: int, gallery: int, people: int, processes: int) -> Row:
    """Returns the bytes that a process receives in an evaluation, and those of the whole gallery's features.

    Labels are drawn: `gallery` images of as many people, each seen equally often.
    """
    random = np.random.default_rng(0)
    ids = np.sort(random.integers(0, people, gallery))
    table = candidates.Table.build(
        random.choice(ids, queries), ids, random.integers(0, 6, queries), random.integers(0, 6, gallery), True
    )
    cells = sum(tile.places.size for tile in table.tiles(512))
    others = (processes - 1) / processes
    parts = {
        "queries_MB": queries * DIMENSIONS * 4,
        "sample_MB": 2 * 512 * DIMENSIONS * 4,  # sums pass a ring twice
        "matches_MB": 2 * cells * 4 * 2,  # distances and counts
        "places_MB": gallery * 4,
        "lists_MB": min(queries, 5_000) * 11 * 12 * processes,
        "pairs_MB": 2 * (2 * 2**18 + 1) * 3 * 4,
    }
    parts = {name: value * others for name, value in parts.items()}
    row: Row = {"what": what, "queries": queries, "gallery": gallery, "processes": processes}
    row |= {name: round(value / 1e6, 2) for name, value in parts.items()}
    return row | {
        "received_MB": round(sum(parts.values()) / 1e6, 1),
        # Features twice; 21 neighbors dealt and 21 gathered; about 30 numbers of an encoding.
        "reranking_MB": round((queries + gallery) * (2 * DIMENSIONS * 4 + 504) * others / 1e6),
        "features_MB": round(gallery * DIMENSIONS * 4 / 1e6),
    }


def main() -> int:
    """Measures what is not there yet, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/scale"), help="images and data sets")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of images")
    parser.add_argument("--output", help="file of the results")
    parser.add_argument("--work", nargs=3, metavar=("ROLE", "IMAGES", "PROCESSES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        role, images, processes = args.work
        print(json.dumps(_work(role, int(images), int(processes), args.folder / f"data-{images}")))
        return 0
    rows: list[Row] = []
    for images in args.sizes:
        root = args.folder / f"data-{images}"
        if records.prepared_version(records.prepared_folder("reid_folder", root)) is None:
            prepare.prepare("reid_folder", root, growth.draw(args.folder, images))
        for processes in PROCESSES:
            rows.append(start(images, processes, args.folder))
            print(rows[-1], flush=True)
    bytes_of = [
        exchanged(what, queries, gallery, people, processes)
        for what, queries, gallery, people in (
            ("Market-1501", 3_368, 19_732, 751),
            ("MSMT17", 11_659, 82_161, 3_060),
            ("a million", 3_368, 1_000_000, 40_000),
        )
        for processes in (8, 64)
    ]
    print(tables.table(bytes_of))
    if args.output:
        about = tables.about("python -m tests.clusters.scale --output results/scale.json")
        print(tables.write(args.output, {"scale": rows, "exchanged": bytes_of}, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
