"""What a traced program consists of: FLOPs of products and convolutions by data type, and what no port should have."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import Any

from jax.interpreters import partial_eval

from reid_jax.runtime import program_parts

CALLBACKS = ("pure_callback", "io_callback", "debug_callback", "outside_call")


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Yields every equation of a jaxpr and of those inside it, with how often it runs (a `while` counts once)."""
    for equation in jaxpr.eqns:
        yield equation, times
        inner = times * int(equation.params["length"]) if equation.primitive.name == "scan" else times
        for part in program_parts.inner_programs(equation):
            yield from equations(part, inner)


def flops(equation: Any) -> int:
    """Returns the FLOPs of a product or a convolution (two for each multiplication), 0 for other equations.

    The zeros that a strided convolution's gradient inserts count as numbers.
    """
    name, out = equation.primitive.name, equation.outvars[0].aval
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * int(math.prod(out.shape)) * int(math.prod(shape[axis] for axis in contracted))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = equation.params["dimension_numbers"].rhs_spec[0]
        return 2 * int(math.prod(out.shape)) * int(math.prod(kernel)) // int(kernel[features])
    return 0


def products(jaxpr: Any) -> dict[str, Any]:
    """Returns how the FLOPs of products and convolutions divide over the data types of their operands.

    Args:
        jaxpr: a traced program.

    Returns:
        `flops` of all, `bfloat16_share` of those with two bfloat16 operands, and `others`: the places of the rest, the
        largest first, as text.
    """
    total = half = 0
    others: collections.Counter[str] = collections.Counter()
    for equation, times in equations(jaxpr):
        count = flops(equation) * times
        if not count:
            continue
        total += count
        types = [str(operand.aval.dtype) for operand in equation.invars[:2]]
        if types == ["bfloat16", "bfloat16"]:
            half += count
        else:
            others[f"{place(equation)} ({' x '.join(dict.fromkeys(types))})"] += count
    listed = [f"{name} {count / total:.2%}" for name, count in others.most_common(6)]
    return {"flops": total, "bfloat16_share": half / total if total else None, "others": "; ".join(listed)}


def place(equation: Any) -> str:
    """Returns where in the model an equation stands, such as "backbone/layer1_0/conv1", without transformations."""
    text = re.sub(r"\w+\(|\)", "", str(equation.source_info.name_stack))
    return text or equation.primitive.name


def wide_and_callbacks(jaxpr: Any) -> dict[str, int]:
    """Returns the number of 64-bit floating-point values in a program, and of its calls of the host."""
    wide = calls = 0
    for equation, _ in equations(jaxpr):
        values = [*equation.invars, *equation.outvars]
        wide += sum(str(getattr(value.aval, "dtype", "")) in ("float64", "complex128") for value in values)
        calls += equation.primitive.name in CALLBACKS
    return {"float64": wide, "host_callbacks": calls}


def used(jaxpr: Any) -> Any:
    """Returns the part of a closed jaxpr that its results depend on, which is what the compiler keeps."""
    needed, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    return needed
