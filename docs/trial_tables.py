"""Tables of what the scripts under `tests/` found: malformed inputs, faults, deliberate mistakes, wrong turns,
a first hour, sums and trials of explanations."""

from __future__ import annotations

import csv
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import RESULTS, grid, read


def calibration(drawn: str, photographed: str) -> str:
    """Scores on drawn people, of a CSV file of `ablate.py`, next to those of the same rows on photographs."""
    path, target = RESULTS / drawn, read(photographed)
    if not path.is_file():
        raise ValueError(f"expected the table results/{drawn}, there is none; make it or drop the directive.")
    with path.open(newline="") as file:
        records = {record["row"]: record for record in csv.DictReader(file)}
    lines = []
    for row, scores in target["rows"].items():
        found = records.get(row)
        cells = [f"{100 * float(found[key]):.1f}" if found else "-" for key in ("mAP", "rank1")]
        steps = found["steps"] if found and found["steps"] != "0" else "-"
        lines.append([f"`{row}`", *(f"{100 * scores[key]:.1f}" for key in ("mAP", "rank1")), *cells, steps])
    one = next(iter(records.values()))
    about = f"Photographs: {target['about']} Drawn: {one['device']}, commit {one['commit']}."
    titles = ["row", "photographs: mAP (%)", "Rank-1 (%)", "drawn: mAP (%)", "Rank-1 (%)", "steps"]
    return grid(titles, lines) + f"\n<small>{about}</small>\n"


def fuzz() -> str:
    """Counts of malformed inputs by kind."""
    document = read("fuzz.json")
    counted = ("inputs", "accepted", "refused", "traceback", "hang", "crash", "memory", "code run", "long message")
    lines = [
        [name, *(f"{row[key]:,}" for key in counted), str(row["megabytes"])] for name, row in document["kinds"].items()
    ]
    lines.append(["together", *(f"{sum(row[key] for row in document['kinds'].values()):,}" for key in counted), ""])
    about = f"Seed {document['seed']}, {document['seconds']:,} s, {document['device']}, commit {document['commit']}."
    return grid(["kind", *counted, "MB more"], lines) + f"\n<small>{about}</small>\n"


def faults() -> str:
    """Faults by kind: how many, how the commands ended, and how many ended wrongly."""
    document = read("faults.json")
    wrong = [each.partition(": ")[0] for each in document["wrong"]]
    lines = [
        [kind, str(count), ", ".join(f"{n} {end}" for end, n in document["ends"][kind].items()), str(wrong.count(kind))]
        for kind, count in document["by_kind"].items()
    ]
    lines.append(["together", str(document["faults"]), "", str(len(wrong))])
    about = f"Seed {document['seed']}, {document['seconds']:,} s, {document['device']}, commit {document['commit']}."
    return grid(["kind", "faults", "ended", "wrong"], lines) + f"\n<small>{about}</small>\n"


def mutants(file: str) -> str:
    """Deliberate mistakes by system: how many there are, how many no test notices, and before the last audit."""
    result = read(file)
    before = result.get("before", {}).get("systems", {})
    rows, keys = [], ("mutants", "survivors", "method", "method_survivors")
    for system, counts in result["systems"].items():
        old = before.get(system)
        earlier = f"{old['survivors']} of {old['mutants']}" if old else "-"
        rows.append([system, *(str(counts[key]) for key in keys), earlier])
    total = [str(sum(counts[key] for counts in result["systems"].values())) for key in keys]
    old = [sum(counts[key] for counts in before.values()) for key in ("survivors", "mutants")]
    rows.append(["**all**", *total, f"{old[0]} of {old[1]}" if before else "-"])
    titles = ("system", "mistakes", "not noticed", "of the method", "not noticed", "not noticed before")
    commits: dict[str, list[str]] = {}
    for system, counts in before.items():
        commits.setdefault(counts["commit"], []).append(system)
    earlier = "; ".join(f"{commit} ({', '.join(systems)})" for commit, systems in commits.items())
    about = f"<small>Commit {result['commit']}{'; before: ' + earlier if before else ''}.</small>\n"
    return grid(titles, rows) + "\n" + about


def survivors(file: str) -> str:
    """The mistakes that no test notices."""
    rows = [[row["system"], row["what"], f"`{row['file']}`", row["level"]] for row in read(file)["survivors"]]
    return grid(("system", "mistake", "file", "level"), rows) if rows else "None.\n"


def wrong_turns() -> str:
    """Every wrong turn with its sentence, and the seconds until it."""
    document = read("wrong_turns.json")
    lines = [
        [f"`{turn['command']}`", turn["mistake"], turn["sentence"].split(";")[0], f"{turn['seconds']:.1f}"]
        for turn in document["turns"]
    ]
    slowest, processor = (max(turn[key] for turn in document["turns"]) for key in ("seconds", "cpu_seconds"))
    about = (
        f"{len(lines)} wrong turns, {document['wrong']} ended wrongly; at most {slowest:.1f} s, {processor:.1f} s "
        f"of processor time. "
        f"{document['device']}, load {document['load']}, commit {document['commit']}."
    )
    titles = ["after `reid-jax`", "mistake", "sentence, its first part", "seconds"]
    return grid(titles, lines) + f"\n<small>{about}</small>\n"


def first_hour() -> str:
    """The steps of a first hour and the seconds of each."""
    document = read("first_hour.json")
    lines = [[step["what"], f"`{step['command']}`", f"{step['seconds']:.0f}"] for step in document["steps"]]
    lines.append(["together", "", f"{sum(step['seconds'] for step in document['steps']):.0f}"])
    about = f"{document['device']}, {document['cores']} cores, commit {document['commit']}, {document['date']}."
    return grid(["step", "after `reid-jax`", "seconds"], lines) + f"\n<small>{about}</small>\n"


def explain_sums() -> str:
    """How complete the maps of a pair are, by system."""
    document = read("explain_sums.json")
    lines = []
    for row in document["systems"]:
        kind = "one gradient" if row["exact"] else f"{document['steps']} gradients"
        residue = f"{row['residue']:.0e}"
        lines.append([row["system"], row["layers"], kind, residue])
    return grid(["system", "maps that are explained", "how", "largest residue"], lines)


def explain_check(*files: str) -> str:
    """Deletion and insertion of maps against random orders, from files of `explain.py check`."""
    lines = []
    for file in files:
        document = read(file)
        for row in document["maps"]:
            cells = [document["model"], row["picture"], f"{row['rows']} × {row['columns']}"]
            for side in ("deletion", "insertion"):
                cells += [f"{row[side]:.4f}", f"{row[f'random_{side}']:.4f}", f"{100 * row[f'better_{side}']:.0f} %"]
            lines.append(cells)
    titles = ["model", "map", "grid", "deletion", "random", "better in", "insertion", "random", "better in"]
    pairs = sorted({read(file)["pairs"] for file in files})
    return grid(titles, lines) + f"\n<small>{' and '.join(map(str, pairs))} pairs each.</small>\n"
