"""What the text of a compiled program says: its operations, the bytes of its collectives, its memory traffic.

The text is XLA's own, of `compiled.as_text()`, for one device of many that run the same program. Loops count as often
as they run, where the compiler knows it.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Operations that only name, group or wait for values.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("partition-id", "replica-id", "while", "call", "conditional"),
)
_BYTES = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%[\w.\-]+)")
_TIMES = re.compile(r'"known_trip_count":\{"n":"([0-9]+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
        name: of its value.
        kind: its type, as text.
        operation: such as "fusion".
        operands: names of the values that it reads.
        called: names of the computations that it runs, by attribute.
        times: how often a loop runs its body; 1 for anything else.
        root: whether its value is that of its computation.
        number: index of a parameter.
    """

    name: str
    kind: str
    operation: str
    operands: tuple[str, ...]
    called: Mapping[str, tuple[str, ...]]
    times: int
    root: bool
    number: int


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program by name, how often each runs, and the type of each value."""

    computations: Mapping[str, Sequence[Instruction]]
    runs: Mapping[str, int]
    fused: frozenset[str]
    kinds: Mapping[str, str]

    def read(self, instruction: Instruction) -> int:
        """Returns the bytes of the operands of an instruction."""
        return sum(size(self.kinds.get(name, "")) for name in instruction.operands)


def parse(text: str) -> Program:
    """Returns the program of a text."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if line.endswith("{") and " = " not in line.partition("(")[0]:
            head = re.match(r"(ENTRY )?%?([\w.\-]+)", line.strip())
            if head and line[:1] not in (" ", "\t"):
                current = head[2]
                computations[current] = []
                entry = current if head[1] else entry
        elif found := _instruction(line):
            computations.setdefault(current, []).append(found)
    entry = entry or current
    kinds = {each.name: each.kind for body in computations.values() for each in body}
    fused = frozenset(
        name
        for body in computations.values()
        for each in body
        if each.operation not in ("while", "call", "conditional")
        for names in each.called.values()
        for name in names
    )
    return Program(computations, _runs(computations, entry), fused, kinds)


def _instruction(line: str) -> Instruction | None:
    """Returns the instruction of a line `%name = type operation(operands), attributes`, None for another line."""
    found = re.match(r"\s*(ROOT )?%?([\w.\-]+) = (.*)", line)
    if not found:
        return None
    kind, rest = _split(found[3], " ")
    operation, _, rest = rest.partition("(")
    inside, attributes = _split(rest, ")")
    called = {key: tuple(_OPERAND.findall(value)) for key, value in _CALLED.findall(attributes)}
    times = _TIMES.search(attributes) if operation == "while" else None
    number = int(inside) if operation == "parameter" and inside.isdigit() else -1
    return Instruction(
        found[2],
        kind,
        operation,
        tuple(_OPERAND.findall(inside)),
        called,
        int(times[1]) if times else 1,
        bool(found[1]),
        number,
    )


def _split(text: str, end: str) -> tuple[str, str]:
    """Returns what stands before and after the first `end` outside brackets."""
    depth = 0
    for place, letter in enumerate(text):
        if letter == end and not depth:
            return text[:place], text[place + 1 :]
        depth += (letter in "([{") - (letter in ")]}")
    return text, ""


def _runs(computations: Mapping[str, Sequence[Instruction]], entry: str) -> dict[str, int]:
    """Returns how often each computation runs when the entry runs once."""
    runs: collections.Counter[str] = collections.Counter()

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for each in computations.get(name, ()):
            for key, names in each.called.items():
                for called in names:
                    visit(called, times * (each.times if key in ("body", "condition") else 1))

    visit(entry, 1)
    return dict(runs)


def size(kind: str, *, memory: bool = False) -> int:
    """Returns the bytes of a type's text, tuples with all their parts.

    Args:
        kind: such as "(f32[8,2]{1,0}, bf16[64]{0:S(1)})".
        memory: leaves out arrays in another space than the device's main memory, such as a TPU's scratchpad.
    """
    total = 0.0
    for name, dimensions, layout in _ARRAY.findall(kind):
        if memory and re.search(r"S\([1-9]", layout):
            continue
        width = re.search(r"[0-9]+", name)
        count = 1
        for extent in filter(None, dimensions.split(",")):
            count *= int(extent)
        total += count * (_BYTES[name] if name in _BYTES else int(width[0]) / 8 if width else 0)
    return int(total)


def collectives(program: Program, chips: int) -> dict[str, dict[str, int]]:
    """Returns, for each kind of collective, how many a step has and their bytes on one chip.

    The bytes are those of the whole result of a gathering and of the whole operand of any other; an operation of
    several arrays counts once, with all of them, and its start and end count as one.

    Args:
        program: the program.
        chips: its devices, which all take part in each collective.
    """
    found = {kind: {"count": 0, "bytes": 0} for kind in COLLECTIVES}
    for name, body in program.computations.items():
        times = program.runs.get(name, 0)
        for each in body:
            kind = each.operation.removesuffix("-start")
            if kind in found and times:
                found[kind]["count"] += times
                found[kind]["bytes"] += times * program.read(each) * (chips if kind == "all-gather" else 1)
    return found


def sent(found: Mapping[str, Mapping[str, int]], chips: int) -> float:
    """Returns the bytes that each chip sends for the collectives of a step, by rings: 2(n-1)/n for an all-reduce."""
    share = (chips - 1) / chips
    factors = {"all-reduce": 2 * share, "collective-permute": 1.0}
    return sum(factors.get(kind, share) * each["bytes"] for kind, each in found.items())


def traffic(program: Program) -> int:
    """Returns the bytes that a step reads and writes in the device's main memory, operation by operation.

    Every operation outside fusions reads its operands and writes its result; of an operand that a fusion only takes
    slices from, the slices count, and of an array that it changes in place, what it changes.
    """
    total = 0
    for name, body in program.computations.items():
        if name in program.fused:
            continue
        times = program.runs.get(name, 0)
        for each in body:
            if each.operation in _FREE or each.operation.endswith(("-done", "-update")):
                continue
            total += times * _moved(program, each)
    return total


def _moved(program: Program, each: Instruction) -> int:
    inside = program.computations.get(each.called.get("calls", ("",))[0]) if each.operation == "fusion" else None
    if inside is None:
        inside = [
            *(
                Instruction(name, program.kinds.get(name, ""), "parameter", (), {}, 1, False, index)
                for index, name in enumerate(each.operands)
            ),
            dataclasses.replace(each, root=True),
        ]
    users: dict[str, list[Instruction]] = collections.defaultdict(list)
    for line in inside:
        for name in line.operands:
            users[name].append(line)
    numbers = {line.number: line for line in inside if line.operation == "parameter"}
    written = _written(program, inside, each)
    read = 0.0
    for index, name in enumerate(each.operands):
        whole = size(program.kinds.get(name, ""), memory=True)
        read += whole * (_share(program, users, numbers[index].name) if whole and index in numbers else 1)
    return int(read) + written


def _written(program: Program, inside: Sequence[Instruction], each: Instruction) -> int:
    root = next((line for line in inside if line.root), None)
    whole = size(each.kind, memory=True)
    if each.operation.endswith("-start") and each.operation != "all-reduce-start":  # its type names the operands again
        whole = max(0, whole - sum(size(program.kinds.get(name, ""), memory=True) for name in each.operands))
    if root is None or root.operation != "dynamic-update-slice" or not whole:
        return whole
    return min(whole, size(program.kinds.get(root.operands[1], "")))


def _share(program: Program, users: Mapping[str, Sequence[Instruction]], name: str) -> float:
    """Returns the share of a value that a fusion reads: slices of it, or all."""
    total = 0.0
    for line in users.get(name, ()):
        if line.operation in ("bitcast", "reshape", "convert"):  # computed for what is read of them
            total += _share(program, users, line.name)
        elif line.operation in ("slice", "dynamic-slice", "gather") and line.operands[0] == name:
            total += size(line.kind) / max(1, size(program.kinds.get(name, "")))
        elif line.operation != "dynamic-update-slice" or line.operands[0] != name:
            total += 1.0
    return min(total, 1.0) if users.get(name) else 1.0


def operations(program: Program) -> dict[str, int]:
    """Returns the copies and transposes in the text, those inside fusions included."""
    counts = collections.Counter(
        each.operation.removesuffix("-start") for body in program.computations.values() for each in body
    )
    return {"copies": counts["copy"], "transposes": counts["transpose"]}
