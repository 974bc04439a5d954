"""A long program as several, one after the other.

Reading a program for a CPU takes a time that grows with the square of its length, since every matrix product and sum
that its library computes is looked for among all operations, and parts are compiled and read side by side. What a later
part needs is written to memory, so the cuts lie where that is least.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

# Equations of a part. Shorter ones take more processor time to compile, for kernels that are equal in a program are
# compiled once: a quarter more for the gradients of AMFOR's demo (5,500 equations) as two parts.
LENGTH = 5_000
NEAR = 0.25  # of a part's length, by which a cut may lie before or after the even one


@dataclasses.dataclass(frozen=True)
class Wiring:
    """Which values the parts read and make; values have numbers, the arguments the first ones.

    Attributes:
        reads: for each part, the values that are its arguments.
        makes: for each part, the number of its first result; the others follow.
        drops: for each part, the values that nobody needs after it.
        results: the values that the whole program returns.
        tree: structure of the results.
        arguments: structure of the arguments, and shape and type of each array.
    """

    reads: tuple[tuple[int, ...], ...]
    makes: tuple[int, ...]
    drops: tuple[tuple[int, ...], ...]
    results: tuple[int, ...]
    tree: Any
    arguments: tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]]

    def run(self, parts: Sequence[Callable[..., Sequence[Any]]], *arguments: Any) -> Any:
        """Returns what the whole program returns for its arguments.

        Args:
            parts: the parts, compiled or not.
            arguments: trees of arrays with the shapes that the program was traced for.
        """
        values = dict(enumerate(jax.tree.leaves(arguments)))
        for part, reads, makes, drops in zip(parts, self.reads, self.makes, self.drops, strict=True):
            made = part(*[values[number] for number in reads])
            for number in drops:
                del values[number]
            values.update(enumerate(made, makes))
        return jax.tree.unflatten(self.tree, [values[number] for number in self.results])

    def fits(self, *arguments: Any) -> bool:
        """Returns whether arguments have the structure, shapes and types that the program was traced for."""
        return _described(arguments) == self.arguments


def _described(arguments: Any) -> tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]]:
    leaves, tree = jax.tree.flatten(arguments)
    return tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a program.

    Attributes:
        function: its jitted function.
        shapes: its arguments, of which only shapes, types and places count.
    """

    function: Any
    shapes: tuple[Any, ...]

    def lower(self) -> jax.stages.Lowered:
        """Returns the lowered part."""
        lowered: jax.stages.Lowered = self.function.lower(*self.shapes)
        return lowered


def divide(
    traced: jax.stages.Traced, arguments: Any, place: jax.sharding.Sharding | None = None
) -> tuple[list[Part], Wiring] | None:
    """Returns the parts of a program for one device and how they follow each other; None where it is left whole.

    A program is left whole that is short, that prints or calls Python, or that returns a constant.

    Args:
        traced: the traced program. Functions that it calls and bodies of loops are not divided.
        arguments: the tuple of arguments that it was traced for.
        place: the device.
    """
    program = traced.jaxpr.jaxpr
    lengths = _lengths(program)
    count = round(sum(lengths) / LENGTH)
    numbers = {variable: number for number, variable in enumerate(program.invars)}
    computed = {*numbers, *(made for equation in program.eqns for made in equation.outvars)}
    if count < 2 or program.effects or not all(isinstance(x, core.Var) and x in computed for x in program.outvars):
        return None
    parts, reads, makes, drops, last = [], [], [], [], _last_uses(program)
    for start, end in itertools.pairwise([0, *_cuts(program, lengths, last, count), len(lengths)]):
        equations = program.eqns[start:end]
        needed = [each for equation in equations for each in equation.outvars if last.get(each, -1) >= end]
        operands = dict.fromkeys(each for equation in equations for each in _operands(equation))
        read = [each for each in operands if each in numbers]
        parts.append(_part(traced.jaxpr, equations, read, needed, place))
        reads.append(tuple(numbers[each] for each in read))
        makes.append(len(numbers))
        numbers |= {each: number for number, each in enumerate(needed, len(numbers))}
        drops.append(tuple(number for each, number in numbers.items() if start <= last.get(each, -1) < end))
    results = tuple(numbers[each] for each in program.outvars)
    tree = jax.tree.structure(traced.out_info)
    return parts, Wiring(tuple(reads), tuple(makes), tuple(drops), results, tree, _described(arguments))


def _part(closed: core.ClosedJaxpr, equations: Any, read: Sequence[Any], results: Sequence[Any], place: Any) -> Part:
    """Returns the part of some equations, that reads and returns the values of some variables."""
    program, used = closed.jaxpr, {each for equation in equations for each in _operands(equation)}
    constants = {name: each for name, each in zip(program.constvars, closed.consts, strict=True) if name in used}
    piece = program.replace(
        constvars=list(constants),
        invars=read,
        outvars=results,
        eqns=equations,
        debug_info=program.debug_info._replace(arg_names=None, result_paths=None),
    )
    compute = core.jaxpr_as_fun(core.ClosedJaxpr(piece, list(constants.values())))

    def part(*values: Any) -> Any:
        return compute(*values)

    shapes: Any = [each.aval for each in read]
    return Part(
        jax.jit(part),
        tuple(jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=place) for each in shapes),
    )


def _cuts(program: core.Jaxpr, lengths: Sequence[int], last: dict[Any, int], count: int) -> list[int]:
    """Returns the places of the equations before which parts begin, but for the first part."""
    alive, until = _alive(program, last), list(itertools.accumulate(lengths, initial=0))
    part = until[-1] / count
    cuts: list[int] = []
    for number in range(1, count):
        near = [place for place, length in enumerate(until) if abs(length - number * part) <= NEAR * part]
        if near:
            cuts.append(min(near, key=alive.__getitem__))
    return cuts


def _alive(program: core.Jaxpr, last: dict[Any, int]) -> list[int]:
    """Returns for each place the bytes that equations before it make for those from it on, or for the caller."""
    changes = [0] * (len(program.eqns) + 2)
    for place, equation in enumerate(program.eqns):
        for each in equation.outvars:
            if last.get(each, -1) > place:
                shape: Any = each.aval
                size = shape.size * shape.dtype.itemsize
                changes[place + 1] += size
                changes[last[each] + 1] -= size
    return list(itertools.accumulate(changes))[:-1]


def _last_uses(program: core.Jaxpr) -> dict[Any, int]:
    """Returns for each variable the place of the last equation that reads it, behind all of them for a result."""
    last = {each: place for place, equation in enumerate(program.eqns) for each in _operands(equation)}
    return last | dict.fromkeys(program.outvars, len(program.eqns))


def _operands(equation: Any) -> Iterator[Any]:
    return (each for each in equation.invars if not isinstance(each, core.Literal))


def _lengths(program: core.Jaxpr) -> list[int]:
    """Returns the length of each equation, with those of the functions that it calls, which count once."""
    seen: set[int] = set()

    def length(equation: Any) -> int:
        inner = [each for each in inner_programs(equation) if id(each) not in seen]
        seen.update(map(id, inner))
        return 1 + sum(length(each) for function in inner for each in function.eqns)

    return [length(equation) for equation in program.eqns]


def inner_programs(equation: Any) -> Iterator[core.Jaxpr]:
    """Yields the programs in an equation: functions that it calls, bodies of loops."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr | core.Jaxpr):
                yield each.jaxpr if isinstance(each, core.ClosedJaxpr) else each
