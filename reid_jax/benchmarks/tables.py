"""Tables of a speed measurement: text for the screen, JSON and markdown files, and what figures are stored with."""

from __future__ import annotations

import datetime
import os
import pathlib
import resource
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from reid_jax import file_io
from reid_jax.data import records
from reid_jax.runtime import provenance

Row = dict[str, Any]


def about(command: str = "", device: str = "") -> Row:
    """Returns what figures are stored with: device, load, versions, commit, date and command.

    Args:
        command: command line that makes the figures again.
        device: name of the device; empty asks JAX, which claims the device for this process.
    """
    return {
        "device": device or provenance.device_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": command,
    }


def peak_memory() -> Row:
    """Returns the peak memory of this process, and of the device where it is reported."""
    stats = jax.local_devices()[0].memory_stats() or {}
    found: Row = {"process_peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)}
    if "peak_bytes_in_use" in stats:
        found["device_peak_MB"] = round(stats["peak_bytes_in_use"] / 1e6)
    return found


def table(rows: Sequence[Row]) -> str:
    """Returns rows as text; a column without values is left out."""
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if value not in (None, "")))
    return records.format_table(columns, [[_cell(column, row.get(column)) for column in columns] for row in rows])


def _cell(column: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if column == "mfu":
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def write(path: str | pathlib.Path, tables: Mapping[str, Sequence[Row]], about_run: Row) -> pathlib.Path:
    """Writes all tables to a JSON file, and as markdown to the same name with `.md`; returns the path."""
    path = pathlib.Path(path)
    file_io.make_folder(path.parent, "the folder of the tables")
    file_io.write_json(path, {**about_run, "tables": dict(tables)}, "the tables")
    file_io.write_text(path.with_suffix(".md"), _document(tables, about_run), "the tables")
    return path


def _document(tables: Mapping[str, Sequence[Row]], about_run: Row) -> str:
    """Returns the tables as markdown, below what they are stored with."""
    versions = ", ".join(f"{name} {version}" for name, version in about_run["versions"].items())
    lines = [
        f"# {' and '.join(tables)}: measured speed and memory",
        "",
        f"{about_run['device']}, {about_run['cores']} cores, load {about_run['load']} at the start; {versions}; "
        f"commit {about_run['commit'] or 'unknown'}, {about_run['date']}.",
        "",
        f"    {about_run['command']}",
    ]
    for rows in tables.values():
        columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("device", "note")]
        columns = [key for key in columns if any(row.get(key) not in (None, "") for row in rows)]
        notes = dict.fromkeys(f"{next(iter(row.values()))}: {row['note']}." for row in rows if row.get("note"))
        lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_cell(key, row.get(key)) for key in columns) + " |" for row in rows]
        lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"
