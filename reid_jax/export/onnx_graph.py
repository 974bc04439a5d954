"""The ONNX graph of a traced function.

The function is traced to JAX's primitives with a batch size left open; each is written as ONNX nodes by a rule of
`onnx_rules`. What depends on constants alone (most of a normalization, positions, queries) is computed here.

A converter of whole JAX programs, jax2onnx 0.17, was tried: it replaces functions of jax and Flax while it traces,
wrote pooling for OSNet that ONNX Runtime refuses, and refused MFV and TransReID. The networks here need some forty
primitives.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core
from onnx import helper, numpy_helper

from reid_jax import errors

Shape = tuple[Any, ...]  # whole numbers, and the symbol of the batch size

OPSET = 17
IR_VERSION = 10
BATCH = "batch"

# Primitives that call a traced function, and where it is among their parameters.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
}


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the function: a constant or the result of a node.

    Attributes:
        shape: the shape it has in the graph, of the rank it has in JAX. A dimension of one may stand for a larger one:
            ONNX broadcasts by itself, and `Graph.full` writes it out.
        dtype: NumPy's type.
        name: of the node's result; None for a constant.
        array: the constant.
    """

    shape: Shape
    dtype: np.dtype[Any]
    name: str | None = None
    array: np.ndarray | None = None


Rule = Callable[["Graph", Any, list[Value]], Value | list[Value]]


def constant(array: Any) -> Value:
    """Returns the value of a constant."""
    array = np.asarray(array)
    return Value(array.shape, array.dtype, array=array)


class Graph:
    """Nodes and constants of one ONNX graph.

    Args:
        images: the input; its first dimension is the batch size.
        name: of the input.
    """

    def __init__(self, images: jax.ShapeDtypeStruct, name: str = "images") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[Any, onnx.TensorProto] = {}
        self.batch = images.shape[0]
        self.input = Value(images.shape, np.dtype(images.dtype), name)
        self._batch_size: str | None = None

    def reference(self, value: Value) -> str:
        """Returns the name of a value; a constant becomes part of the file, once."""
        if value.name is not None:
            return value.name
        array = np.asarray(value.array)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self.initializers:
            whole = np.ascontiguousarray(array).reshape(array.shape)
            self.initializers[key] = numpy_helper.from_array(whole, f"constant_{len(self.initializers)}")
        return str(self.initializers[key].name)

    def integers(self, numbers: Sequence[int]) -> Value:
        """Returns a constant list of int64, as axes and shapes are given."""
        return constant(np.asarray(numbers, np.int64))

    def node(self, kind: str, inputs: Sequence[Value], shape: Shape, dtype: Any = None, **attributes: Any) -> Value:
        """Adds a node with one result and returns it; without a dtype it is that of the first input."""
        return self.nodes_of(kind, inputs, [shape], dtype, **attributes)[0]

    def nodes_of(
        self, kind: str, inputs: Sequence[Value], shapes: Sequence[Shape], dtype: Any = None, **attributes: Any
    ) -> list[Value]:
        """Adds a node with several results of one type and returns them."""
        number = len(self.nodes)
        names = [f"{kind.lower()}_{number}" + (f"_{index}" if index else "") for index in range(len(shapes))]
        self.nodes.append(
            helper.make_node(kind, [self.reference(value) for value in inputs], names, f"{kind}_{number}", **attributes)
        )
        found = np.dtype(inputs[0].dtype if dtype is None else dtype)
        return [Value(tuple(shape), found, name) for name, shape in zip(names, shapes)]

    def reshape(self, value: Value, shape: Shape) -> Value:
        """Returns the value in another shape with as many elements; the batch size is worked out by ONNX."""
        if tuple(value.shape) == tuple(shape):
            return value
        if value.array is not None:
            return constant(value.array.reshape(shape))
        return self.node("Reshape", [value, self.integers([self._size(size, -1) for size in shape])], shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Returns the value with its dimensions in another order."""
        if list(order) == list(range(len(order))):
            return value
        if value.array is not None:
            return constant(value.array.transpose(order))
        return self.node("Transpose", [value], tuple(value.shape[axis] for axis in order), perm=list(order))

    def full(self, value: Value, shape: Shape) -> Value:
        """Returns the value in the shape it has in JAX."""
        if tuple(value.shape) == tuple(shape):
            return value
        known = all(isinstance(size, int) for size in shape)
        if value.array is not None and known:
            return constant(np.broadcast_to(value.array, shape))
        target = self.integers(
            [1 if size is not self.batch and size == self.batch else self._size(size, 1) for size in shape]
        )
        if any(size == self.batch and own != self.batch for size, own in zip(shape, value.shape)):
            target = self._with_batch_size(shape)
        return self.node("Expand", [value, target], shape)

    def _with_batch_size(self, shape: Shape) -> Value:
        """Returns a shape as the result of nodes, for it contains the batch size."""
        parts = []
        for size in shape:
            parts.append(self.batch_size() if size == self.batch else self.integers([self._size(size, 1)]))
        return self.node("Concat", parts, (len(shape),), np.int64, axis=0)

    def batch_size(self) -> Value:
        """Returns the batch size [1] int64 as the result of nodes."""
        if self._batch_size is None:
            sizes = self.node("Shape", [self.input], (len(self.input.shape),), np.int64)
            first = self.node("Slice", [sizes, *(self.integers([number]) for number in (0, 1))], (1,))
            self._batch_size = first.name
        return Value((1,), np.dtype(np.int64), self._batch_size)

    def _size(self, size: Any, symbol: int) -> int:
        """Returns a dimension as a number, the given one for the batch size."""
        if isinstance(size, (int, np.integer)):
            return int(size)
        if size == self.batch or symbol == -1:
            return symbol
        raise errors.UserError(f"a size of {size} has no counterpart in ONNX; export StableHLO.")


def trace(
    function: Callable[..., Any], images: jax.ShapeDtypeStruct, rules: dict[str, Rule]
) -> tuple[Graph, list[Value]]:
    """Returns the graph of a function of images and its results.

    Args:
        function: from images to a tuple of arrays; it may close over weights.
        images: shape and type; the first dimension is a symbol of `jax.export.symbolic_shape`.
        rules: how each primitive is written.

    Raises:
        UserError: a primitive without a rule.
    """
    closed = jax.make_jaxpr(function)(images)
    graph = Graph(images)
    values = _walk(graph, closed.jaxpr, [constant(each) for each in closed.consts], [graph.input], rules)
    results = [graph.full(value, variable.aval.shape) for value, variable in zip(values, closed.jaxpr.outvars)]
    return graph, results


def _walk(
    graph: Graph, jaxpr: Any, consts: Sequence[Value], arguments: Sequence[Value], rules: dict[str, Rule]
) -> list[Value]:
    """Writes the equations of a traced function and returns the values of its results."""
    known: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(atom: Any) -> Value:
        if not isinstance(atom, core.Literal):
            return known[atom]
        aval: Any = atom.aval
        return constant(np.asarray(atom.val, aval.dtype))

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        results = _write(graph, equation, inputs, rules)
        known.update(zip(equation.outvars, results))
    return [read(atom) for atom in jaxpr.outvars]


def _write(graph: Graph, equation: Any, inputs: list[Value], rules: dict[str, Rule]) -> list[Value]:
    """Writes one equation: the body of a call, a constant computed now, or nodes."""
    name = equation.primitive.name
    if name in _CALLS:
        inner = equation.params[_CALLS[name]]
        body, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
        return _walk(graph, body, [constant(each) for each in consts], inputs, rules)
    if _is_constant(equation, inputs):
        outcome = equation.primitive.bind(*(value.array for value in inputs), **equation.params)
        return [constant(each) for each in (outcome if equation.primitive.multiple_results else [outcome])]
    if name not in rules:
        raise errors.UserError(f"the operation {name!r} of this model has no counterpart in ONNX; export StableHLO.")
    outcome = rules[name](graph, equation, inputs)
    return outcome if isinstance(outcome, list) else [outcome]


def _is_constant(equation: Any, inputs: Sequence[Value]) -> bool:
    """Returns whether an equation depends neither on the images nor on the batch size."""
    if equation.primitive.name == "dim_as_value":
        return False
    shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
    return (
        all(value.array is not None for value in inputs)
        and all(isinstance(size, int) for shape in shapes for size in shape)
        and all(tuple(value.shape) == tuple(atom.aval.shape) for value, atom in zip(inputs, equation.invars))
    )


def model_of(graph: Graph, results: Sequence[Value], names: Sequence[str]) -> onnx.ModelProto:
    """Returns the ONNX model.

    Args:
        graph: the nodes.
        results: their results.
        names: names of the results in the file.
    """
    for value, name in zip(results, names, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.reference(value)], [name], name))
    nodes, used = _needed(graph.nodes, names)
    built = helper.make_graph(
        nodes,
        "embedding",
        [_described(str(graph.input.name), graph.input, graph.batch)],
        [_described(name, value, graph.batch) for name, value in zip(names, results)],
        [each for each in graph.initializers.values() if each.name in used],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "reid_jax"
    return model


def _needed(nodes: Sequence[onnx.NodeProto], results: Sequence[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """Returns the nodes that results depend on, in order, and the names that they use; classifiers are left out."""
    used, kept = set(results), []
    for node in reversed(nodes):
        if not used.isdisjoint(node.output):
            kept.append(node)
            used.update(node.input)
    return kept[::-1], used


def _described(name: str, value: Value, batch: Any) -> onnx.ValueInfoProto:
    shape = [BATCH if size == batch else int(size) for size in value.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)


def element_type(dtype: Any) -> int:
    """Returns ONNX's number of a NumPy type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
