"""Equal computations of a function done together, so that its program is short.

The initial values of a network are hundreds of random draws that differ in their key alone. Each costs some tens of
milliseconds of compilation; those of one shape and distribution become a single draw over a batch of keys here, with
the same values.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class _Group:
    """Outputs with equal computations.

    Attributes:
        positions: of the outputs.
        equations: of the first output, in order.
        numbers: for each output, the integer scalars written in its equations.
    """

    positions: tuple[int, ...]
    equations: tuple[Any, ...]
    numbers: tuple[tuple[Any, ...], ...]

    @property
    def batched(self) -> bool:
        """Whether the outputs differ, so that they form a batch; else there is one, or they are one array."""
        return len(self.positions) > 1 and bool(self.numbers[0])


class Grouped:
    """A compiled function with the same results as another, which computes equal computations as one batch.

    Two computations are equal if they have the same operations in the same order, apart from integer scalars written
    in them (such as the numbers that keys of parameters are derived by). Operations that no output needs are left out.
    A call takes the batches apart on the host, and every output has memory of its own.

    Args:
        function: a pure function of arrays; it is traced once for each set of shapes.
        compiler_options: see `jax.jit`.
    """

    def __init__(self, function: Callable[..., Any], compiler_options: dict[str, Any] | None = None) -> None:
        self._function = function
        self._traced = functools.lru_cache(maxsize=1)(self._trace)
        self._compiled = jax.jit(self._evaluated, compiler_options=compiler_options)

    def __call__(self, *arguments: Any) -> Any:
        """Returns the results of the function; arguments are trees of arrays."""
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
            return Program(self._compiled, self.layout(*arguments))(*arguments)
        values = self._evaluated(*arguments)
        return self.layout(*arguments).results(values, operator.getitem)

    def layout(self, *arguments: Any) -> Layout:
        """Returns how the arrays of the compiled program make the results; shapes suffice as arguments."""
        return self._of(arguments)[1]

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """Returns the program for arguments like these, to be compiled for a `Program`; shapes suffice."""
        return self._compiled.lower(*arguments)

    def _trace(self, treedef: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> tuple[Any, Layout, tuple[_Group, ...]]:
        closed, results = jax.make_jaxpr(self._function, return_shape=True)(*jax.tree.unflatten(treedef, shapes))
        groups = _groups(closed.jaxpr)
        return closed, Layout(results, tuple((group.positions, group.batched) for group in groups)), groups

    def _of(self, arguments: Any) -> tuple[Any, Layout, tuple[_Group, ...]]:
        leaves, treedef = jax.tree.flatten(arguments)
        return self._traced(treedef, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves))

    def _evaluated(self, *arguments: Any) -> list[jax.Array]:
        closed, _, groups = self._of(arguments)
        return _evaluate(closed, groups, jax.tree.leaves(arguments))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the arrays of a compiled program make the results of a `Grouped` function.

    Attributes:
        shapes: the results as a tree of `jax.ShapeDtypeStruct`.
        groups: for each array of the program, the results that it holds, and whether they are its rows.
    """

    shapes: Any
    groups: tuple[tuple[tuple[int, ...], bool], ...]

    def results(self, values: Sequence[Any], row: Callable[[Any, int], Any]) -> Any:
        """Returns the results from the arrays of the program; `row` takes one of a batch."""
        structure: Any = jax.tree.structure(self.shapes)
        outputs: list[Any] = [None] * structure.num_leaves
        for (positions, batched), value in zip(self.groups, values, strict=True):
            for number, position in enumerate(positions):
                outputs[position] = row(value, number) if batched else value
        return jax.tree.unflatten(structure, outputs)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program of a `Grouped` function; called as that is.

    Attributes:
        compiled: the program.
        layout: how its arrays make the results.
    """

    compiled: Any
    layout: Layout

    def __call__(self, *arguments: Any) -> Any:
        """Returns the results, each with memory of its own."""
        values = self.layout.results(jax.device_get(self.compiled(*arguments)), operator.getitem)
        return jax.device_put(jax.tree.map(np.array, values))


def grouped(function: Callable[..., Any], compiler_options: dict[str, Any] | None = None) -> Grouped:
    """Returns a function as a `Grouped` one; arguments as there."""
    return Grouped(function, compiler_options)


def _groups(jaxpr: Any) -> tuple[_Group, ...]:
    """Returns the outputs of a program in groups of equal computations."""
    producers = {variable: equation for equation in jaxpr.eqns for variable in equation.outvars}
    order = {id(equation): number for number, equation in enumerate(jaxpr.eqns)}
    given = {variable: ("given", place) for place, variable in enumerate((*jaxpr.constvars, *jaxpr.invars))}
    written: dict[int, str] = {}  # texts of inner programs, which many equations share
    found: dict[Any, list[tuple[int, tuple[Any, ...], tuple[Any, ...]]]] = {}
    for position, variable in enumerate(jaxpr.outvars):
        equations = _needed(variable, producers, order)
        form, numbers = _form(equations, variable, given, written)
        # Rules of derivatives cannot be evaluated by themselves; initial values have none.
        if any("custom" in equation.primitive.name for equation in equations):
            form = (position,)
        found.setdefault(form, []).append((position, equations, numbers))
    return tuple(
        _Group(tuple(each[0] for each in same), same[0][1], tuple(each[2] for each in same)) for same in found.values()
    )


def _evaluate(closed: Any, groups: Sequence[_Group], arguments: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns a value for each group: the batch of its outputs, or the one array that they are."""
    jaxpr = closed.jaxpr
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arguments), strict=True))
    alone = [group for group in groups if not group.batched]
    needed = {id(equation) for group in alone for equation in group.equations}
    outputs = [jaxpr.outvars[group.positions[0]] for group in alone]
    rest = jaxpr.replace(
        eqns=[equation for equation in jaxpr.eqns if id(equation) in needed],
        outvars=outputs,
        debug_info=jaxpr.debug_info._replace(result_paths=None),
    )
    single = iter(core.jaxpr_as_fun(core.ClosedJaxpr(rest, closed.consts))(*arguments))
    values = []
    for group in groups:
        if not group.batched:
            values.append(next(single))
        else:
            compute = functools.partial(_result, group.equations, jaxpr.outvars[group.positions[0]], known)
            columns = [np.asarray(column) for column in zip(*group.numbers, strict=True)]
            values.append(jax.vmap(compute)(columns))
    return values


def _needed(variable: Any, producers: dict[Any, Any], order: dict[int, int]) -> tuple[Any, ...]:
    """Returns the equations that a variable depends on, in their order."""
    found: dict[int, Any] = {}
    waiting = [variable]
    while waiting:
        each = waiting.pop()
        equation = None if isinstance(each, core.Literal) else producers.get(each)
        if equation is not None and id(equation) not in found:
            found[id(equation)] = equation
            waiting += equation.invars
    return tuple(sorted(found.values(), key=lambda equation: order[id(equation)]))


def _is_number(variable: Any) -> bool:
    """Returns whether a variable is an integer scalar written in the program."""
    return isinstance(variable, core.Literal) and np.ndim(variable.val) == 0 and _dtype(variable).kind in "iu"


def _dtype(variable: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = variable.aval.dtype
    return dtype


def _value(variable: Any, known: dict[Any, Any]) -> Any:
    return variable.val if isinstance(variable, core.Literal) else known[variable]


def _form(
    equations: Sequence[Any], output: Any, given: dict[Any, Any], written: dict[int, str]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Returns a computation without its numbers, to be compared with others, and the numbers."""
    names: dict[Any, Any] = dict(given)
    numbers: list[Any] = []
    form: list[Any] = []
    for equation in equations:
        operands: list[Any] = []
        for variable in equation.invars:
            if _is_number(variable):
                numbers.append(_dtype(variable).type(variable.val))
                operands.append(str(variable.aval))
            elif isinstance(variable, core.Literal):
                operands.append((str(variable.aval), repr(variable.val)))
            else:
                operands.append(names[variable])
        parameters = tuple((name, _written(value, written)) for name, value in sorted(equation.params.items()))
        form.append((equation.primitive.name, parameters, tuple(operands)))
        names |= {variable: len(names) + position for position, variable in enumerate(equation.outvars)}
    last = repr(output.val) if isinstance(output, core.Literal) else names[output]
    return (*form, last), tuple(numbers)


def _written(value: Any, written: dict[int, str]) -> str:
    """Returns a parameter of an equation as text."""
    if not isinstance(value, (core.Jaxpr, core.ClosedJaxpr)):
        return repr(value)
    if id(value) not in written:
        # Arrays that an inner program holds are not part of its text: then it is equal to itself alone.
        own = f" {id(value)}" if getattr(value, "consts", ()) else ""
        written[id(value)] = f"{value}{own}"
    return written[id(value)]


def _result(equations: Sequence[Any], output: Any, given: dict[Any, Any], numbers: Sequence[Any]) -> jax.Array:
    """Evaluates equations with other numbers in place of theirs and returns the output."""
    known, left = dict(given), iter(numbers)
    for equation in equations:
        operands = [next(left) if _is_number(each) else _value(each, known) for each in equation.invars]
        results = equation.primitive.bind(*operands, **equation.params)
        results = results if equation.primitive.multiple_results else [results]
        known.update(zip(equation.outvars, results, strict=True))
    value: jax.Array = known[output]
    return value
