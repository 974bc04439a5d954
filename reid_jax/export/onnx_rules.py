"""How each of JAX's primitives is written in ONNX (operator set 17)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.export import onnx_graph
from reid_jax.export.onnx_graph import Graph, Rule, Shape, Value

RULES: dict[str, Rule] = {}

_UNARY = {
    "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf",
    "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "not": "Not",
}  # fmt: skip
_BINARY = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "and": "And", "or": "Or",
}  # fmt: skip
_COMPARISONS = {"eq", "lt", "le", "gt", "ge"}
_SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "sharding_constraint", "name")


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _refuse(equation: Any, why: str) -> errors.UserError:
    return errors.UserError(
        f"the operation {equation.primitive.name!r} with {why} has no counterpart in ONNX; export StableHLO."
    )


def _full(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return [graph.full(value, atom.aval.shape) for value, atom in zip(inputs, equation.invars)]


# ---- element by element


def _common(values: Sequence[Value]) -> Shape:
    """Returns the shape that values have together; a one gives way, and so does a scalar."""
    shapes = [value.shape for value in values if value.shape]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*shapes, strict=True))


def _by_element(graph: Graph, equation: Any, inputs: list[Value], kind: str, dtype: Any = None) -> Value:
    return graph.node(kind, inputs, _common(inputs), dtype)


@_rule(*_UNARY)
def _unary(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    return _by_element(graph, equation, inputs, _UNARY[equation.primitive.name])


@_rule(*_BINARY)
def _binary(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    name = equation.primitive.name
    constants = [value.array for value in inputs if value.array is not None]
    if len(constants) == len(inputs):  # an array of constants that differs in its batch size alone
        arrays = np.broadcast_arrays(*constants)
        return onnx_graph.constant(equation.primitive.bind(*arrays, **equation.params))
    return _by_element(graph, equation, inputs, _BINARY[name], bool if name in _COMPARISONS else None)


@_rule("ne")
def _ne(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    equal = _by_element(graph, equation, inputs, "Equal", bool)
    return graph.node("Not", [equal], equal.shape)


@_rule("rsqrt")
def _rsqrt(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    root = _by_element(graph, equation, inputs, "Sqrt")
    return graph.node("Reciprocal", [root], root.shape)


@_rule("square")
def _square(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    return _by_element(graph, equation, [inputs[0], inputs[0]], "Mul")


@_rule("erfc")
def _erfc(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    erf = _by_element(graph, equation, inputs, "Erf")
    return graph.node("Sub", [onnx_graph.constant(np.ones((1,) * len(erf.shape), erf.dtype)), erf], erf.shape)


@_rule("integer_pow")
def _integer_pow(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    power = onnx_graph.constant(np.full((1,) * len(inputs[0].shape), equation.params["y"], inputs[0].dtype))
    return _by_element(graph, equation, [inputs[0], power], "Pow")


@_rule("select_n")
def _select(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    if len(inputs) != 3 or inputs[0].dtype != bool:
        raise _refuse(equation, "several cases")
    which, when_false, when_true = inputs
    return graph.node("Where", [which, when_true, when_false], _common(inputs), when_true.dtype)


@_rule("clamp")
def _clamp(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    low, x, high = inputs
    return graph.node("Min", [graph.node("Max", [x, low], x.shape), high], x.shape)


@_rule("convert_element_type")
def _convert(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    target = np.dtype(equation.params["new_dtype"])
    if target == inputs[0].dtype:
        return inputs[0]
    return graph.node("Cast", inputs, inputs[0].shape, target, to=onnx_graph.element_type(target))


@_rule(*_SAME)
def _same(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    return inputs


# ---- shapes


@_rule("broadcast_in_dim")
def _broadcast(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    shape: list[Any] = [1] * len(equation.params["shape"])
    for axis, size in zip(equation.params["broadcast_dimensions"], inputs[0].shape):
        shape[axis] = size
    return graph.reshape(inputs[0], tuple(shape))


@_rule("reshape", "squeeze", "expand_dims")
def _reshape(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    return graph.reshape(_full(graph, equation, inputs[:1])[0], equation.outvars[0].aval.shape)


@_rule("transpose")
def _transpose(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    return graph.transpose(inputs[0], equation.params["permutation"])


@_rule("iota")
def _iota(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    aval, axis = equation.outvars[0].aval, equation.params["dimension"]
    if not isinstance(aval.shape[axis], int):
        raise _refuse(equation, "the batch size")
    shape = [1] * len(aval.shape)
    shape[axis] = aval.shape[axis]
    return onnx_graph.constant(np.arange(aval.shape[axis], dtype=aval.dtype).reshape(shape))


@_rule("dim_as_value")
def _dimension(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    if equation.params["dim"] != graph.batch:
        raise _refuse(equation, "another size than the batch's")
    size, dtype = graph.reshape(graph.batch_size(), ()), equation.outvars[0].aval.dtype
    return graph.node("Cast", [size], (), dtype, to=onnx_graph.element_type(dtype))


@_rule("concatenate")
def _concatenate(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    parts = _full(graph, equation, inputs)
    return graph.node("Concat", parts, equation.outvars[0].aval.shape, axis=equation.params["dimension"])


@_rule("stack")
def _stack(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    axis, shape = equation.params["axis"], equation.outvars[0].aval.shape
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = [graph.reshape(value, one) for value in _full(graph, equation, inputs)]
    return graph.node("Concat", parts, shape, axis=axis)


@_rule("split")
def _split(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    shapes = [variable.aval.shape for variable in equation.outvars]
    sizes = graph.integers([int(size) for size in equation.params["sizes"]])
    value = _full(graph, equation, inputs)[0]
    return graph.nodes_of("Split", [value, sizes], shapes, axis=equation.params["axis"])


@_rule("slice")
def _slice(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    value, shape = _full(graph, equation, inputs)[0], equation.outvars[0].aval.shape
    starts = equation.params["start_indices"]
    steps = equation.params["strides"] or (1,) * len(shape)
    return _cut(graph, value, starts, equation.params["limit_indices"], steps, shape)


def _cut(
    graph: Graph, value: Value, starts: Sequence[Any], limits: Sequence[Any], steps: Sequence[int], shape: Shape
) -> Value:
    """Returns a box of an array; dimensions that stay whole are left out."""
    axes = [axis for axis, size in enumerate(value.shape) if size != shape[axis] or steps[axis] != 1]
    if not axes:
        return value
    lists = ([int(each[axis]) for axis in axes] for each in (starts, limits))
    inputs = [value, *(graph.integers(numbers) for numbers in (*lists, axes, [steps[axis] for axis in axes]))]
    return graph.node("Slice", inputs, shape)


@_rule("dynamic_slice")
def _dynamic_slice(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    value, shape = _full(graph, equation, inputs)[0], equation.outvars[0].aval.shape
    if any(start.array is None for start in inputs[1:]):
        raise _refuse(equation, "a start that depends on the images")
    starts = [int(np.asarray(start.array)) for start in inputs[1:]]
    return _window(graph, value, dict(enumerate(starts)), shape)


def _window(graph: Graph, value: Value, starts: dict[int, int], sizes: Shape) -> Value:
    """Returns a box of an array by its corner and its sizes; the corner is moved inside, as JAX does."""
    corner, end = [0] * len(sizes), list(value.shape)
    for axis, start in starts.items():
        if value.shape[axis] != sizes[axis]:
            corner[axis] = min(max(start, 0), value.shape[axis] - sizes[axis])
            end[axis] = corner[axis] + sizes[axis]
    return _cut(graph, value, corner, end, [1] * len(sizes), sizes)


@_rule("gather")
def _gather(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    value, index = _full(graph, equation, inputs)
    shape = equation.outvars[0].aval.shape
    if numbers.operand_batching_dims:
        raise _refuse(equation, "batches of indices")
    if index.array is not None and index.array.ndim == 1:  # one place: x[:, 3]
        starts = dict(zip(numbers.start_index_map, map(int, index.array)))
        return graph.reshape(_window(graph, value, starts, tuple(sizes)), shape)
    return _rows(graph, equation, value, index)


def _rows(graph: Graph, equation: Any, value: Value, index: Value) -> Value:
    """Writes `x[index]`, `take(x, index, axis)` and `x[::2, ::2]`: whole slices of one or more dimensions."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, axes = equation.outvars[0].aval.shape, numbers.start_index_map
    whole = all(size == (1 if axis in axes else own) for axis, (size, own) in enumerate(zip(sizes, value.shape)))
    among = range(axes[0], axes[0] + len(index.shape) - 1)
    in_place = [place for place in range(len(shape)) if place not in among] == list(numbers.offset_dims)
    consecutive = tuple(axes) == tuple(range(axes[0], axes[0] + len(axes)))
    if numbers.collapsed_slice_dims != tuple(axes) or not (whole and in_place and consecutive):
        raise _refuse(equation, "such indices")
    for axis, each in zip(axes, _by_axis(graph, equation, index)):
        last = onnx_graph.constant(np.full((1,) * len(each.shape), value.shape[axis] - 1, index.dtype))
        zero = onnx_graph.constant(np.zeros((1,) * len(each.shape), index.dtype))
        inside = graph.node("Min", [graph.node("Max", [each, zero], each.shape), last], each.shape)
        cut = (*value.shape[:axis], *each.shape, *value.shape[axis + 1 :])
        value = graph.node("Gather", [value, inside], cut, value.dtype, axis=axis)
    return value


def _by_axis(graph: Graph, equation: Any, index: Value) -> list[Value]:
    """Returns the indices of each dimension; those of several must be constants that form a grid."""
    count = index.shape[-1]
    if count == 1:
        return [graph.reshape(index, tuple(index.shape[:-1]))]
    if index.array is None or index.array.ndim != count + 1:
        raise _refuse(equation, "indices of several dimensions")
    corner = (0,) * count
    lists = [index.array[(*corner[:place], slice(None), *corner[place + 1 :], place)] for place in range(count)]
    if not np.array_equal(np.stack(np.meshgrid(*lists, indexing="ij"), axis=-1), index.array):
        raise _refuse(equation, "indices of several dimensions")
    return [onnx_graph.constant(each) for each in lists]


@_rule("rev")
def _rev(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    value, axes = _full(graph, equation, inputs)[0], list(equation.params["dimensions"])
    lists = ([-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes))
    return graph.node("Slice", [value, *map(graph.integers, lists)], value.shape)


@_rule("pad")
def _pad(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    value = graph.full(inputs[0], equation.invars[0].aval.shape)
    lows, highs, between = zip(*equation.params["padding_config"])
    if any(between) or min((*lows, *highs)) < 0:
        raise _refuse(equation, "gaps or cuts")
    return graph.node("Pad", [value, graph.integers((*lows, *highs)), inputs[1]], equation.outvars[0].aval.shape)


# ---- sums, products, windows


@_rule("reduce_sum")
def _reduce_sum(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    value, shape = _full(graph, equation, inputs)[0], equation.outvars[0].aval.shape
    return graph.node("ReduceSum", [value, graph.integers(equation.params["axes"])], shape, keepdims=0)


@_rule("reduce_max", "reduce_min")
def _reduce_extreme(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    kind = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}[equation.primitive.name]
    value, shape = _full(graph, equation, inputs)[0], equation.outvars[0].aval.shape
    return graph.node(kind, [value], shape, axes=list(equation.params["axes"]), keepdims=0)


@_rule("argmax", "argmin")
def _argmax(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    kind = {"argmax": "ArgMax", "argmin": "ArgMin"}[equation.primitive.name]
    value, aval = _full(graph, equation, inputs)[0], equation.outvars[0].aval
    found = graph.node(kind, [value], aval.shape, np.int64, axis=equation.params["axes"][0], keepdims=0)
    return graph.node("Cast", [found], aval.shape, aval.dtype, to=onnx_graph.element_type(aval.dtype))


@_rule("dot_general")
def _dot(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = _full(graph, equation, inputs)
    shape = equation.outvars[0].aval.shape
    if not left_batch and len(right.shape) == 2 and tuple(left_sum) == (len(left.shape) - 1,):
        return graph.node("MatMul", [left, graph.transpose(right, (right_sum[0], 1 - right_sum[0]))], shape)
    left_free = [axis for axis in range(len(left.shape)) if axis not in (*left_sum, *left_batch)]
    right_free = [axis for axis in range(len(right.shape)) if axis not in (*right_sum, *right_batch)]
    batch = tuple(left.shape[axis] for axis in left_batch)
    depth = math.prod(left.shape[axis] for axis in left_sum)
    rows, columns = (
        math.prod(value.shape[axis] for axis in free) for value, free in ((left, left_free), (right, right_free))
    )
    left = graph.reshape(graph.transpose(left, (*left_batch, *left_free, *left_sum)), (*batch, rows, depth))
    right = graph.reshape(graph.transpose(right, (*right_batch, *right_sum, *right_free)), (*batch, depth, columns))
    return graph.reshape(graph.node("MatMul", [left, right], (*batch, rows, columns)), shape)


@_rule("conv_general_dilated")
def _convolution(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    given = equation.params
    if set(given["lhs_dilation"]) != {1} or given["batch_group_count"] != 1:
        raise _refuse(equation, "dilated inputs")
    images, kernel = _full(graph, equation, inputs)
    numbers, shape = given["dimension_numbers"], equation.outvars[0].aval.shape
    out = tuple(shape[axis] for axis in numbers.out_spec)
    result = graph.node(
        "Conv",
        [graph.transpose(images, numbers.lhs_spec), graph.transpose(kernel, numbers.rhs_spec)],
        out,
        strides=list(given["window_strides"]),
        pads=_pads(given["padding"]),
        dilations=list(given["rhs_dilation"]),
        group=given["feature_group_count"],
    )
    return graph.transpose(result, [int(axis) for axis in np.argsort(numbers.out_spec)])


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """Returns padding in ONNX's order: all beginnings, then all ends."""
    return [low for low, _ in padding] + [high for _, high in padding]


@_rule("reduce_window_max", "reduce_window_sum")
def _window_pooling(graph: Graph, equation: Any, inputs: list[Value]) -> Value:
    given, shape = equation.params, equation.outvars[0].aval.shape
    window = given["window_dimensions"]
    if set(given["base_dilation"]) | set(given["window_dilation"]) != {1} or len(shape) != 4 or window[0] != 1:
        raise _refuse(equation, "dilation")
    if window[3] != 1 or given["padding"][3] != (0, 0) or given["window_strides"][3] != 1:
        raise _refuse(equation, "windows over channels")
    planes = graph.transpose(_full(graph, equation, inputs[:1])[0], (0, 3, 1, 2))
    settings = {
        "kernel_shape": list(window[1:3]),
        "strides": list(given["window_strides"][1:3]),
        "pads": _pads(given["padding"][1:3]),
    }
    out = (shape[0], shape[3], shape[1], shape[2])
    if equation.primitive.name == "reduce_window_max":
        pooled = graph.node("MaxPool", [planes], out, **settings)
    else:
        mean = graph.node("AveragePool", [planes], out, count_include_pad=1, **settings)
        count = onnx_graph.constant(np.full((1, 1, 1, 1), window[1] * window[2], planes.dtype))
        pooled = graph.node("Mul", [mean, count], out)
    return graph.transpose(pooled, (0, 2, 3, 1))
