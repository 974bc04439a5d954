"""Each of JAX's primitives in ONNX, against JAX, with a batch size left open."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax

from reid_jax import errors
from reid_jax.export import onnx_graph, onnx_rules

GENERATOR = np.random.default_rng(0)
KERNEL = GENERATOR.normal(size=(3, 2, 4, 6)).astype(np.float32)
DEPTHWISE = GENERATOR.normal(size=(3, 3, 1, 4)).astype(np.float32)
TABLE = GENERATOR.normal(size=(6, 5)).astype(np.float32)


def session(function, shape, dtype=np.float32):
    """Returns an ONNX session of a function of one array [batch, *shape]."""
    (batch,) = jax.export.symbolic_shape("batch")
    graph, results = onnx_graph.trace(function, jax.ShapeDtypeStruct((batch, *shape), dtype), onnx_rules.RULES)
    names = [f"out{number}" for number in range(len(results))]
    model = onnx_graph.model_of(graph, results, names)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def agree(function, shape, dtype=np.float32):
    """Compares a function with its ONNX form in batches of one and three."""
    compiled = session(function, shape, dtype)
    for batch in (1, 3):
        x = GENERATOR.normal(size=(batch, *shape)) * (20 if dtype == np.int32 else 1)
        x = x.astype(dtype)
        expected = jax.jit(function)(x)
        found = compiled.run(None, {"images": x})
        for ours, theirs in zip(expected, found, strict=True):
            assert theirs.dtype == ours.dtype
            np.testing.assert_allclose(theirs, ours, rtol=2e-5, atol=2e-6)


def images(x):
    """Convolutions and pooling of images [B, 9, 8, 4]."""
    layout = ("NHWC", "HWIO", "NHWC")
    first = lax.conv_general_dilated(x, KERNEL, (2, 1), ((1, 0), (0, 1)), dimension_numbers=layout)
    second = lax.conv_general_dilated(
        x, DEPTHWISE, (1, 1), "SAME", rhs_dilation=(2, 1), dimension_numbers=layout, feature_group_count=4
    )
    largest = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = lax.reduce_window(x, 0.0, lax.add, (1, 2, 3, 1), (1, 2, 1, 1), ((0, 0), (0, 1), (1, 0), (0, 0)))
    return first, second, largest, total


def products(x):
    """Contractions of [B, 4, 5]."""
    return (
        x @ jnp.asarray(TABLE).T,
        jnp.einsum("bij,bkj->bik", x, x),
        jnp.einsum("bij,kj->kbi", x, TABLE),
        jnp.einsum("bij,kij->bk", x, jnp.ones((2, 4, 5), jnp.float32) * 0.5),
        jnp.einsum("bij,bij->b", x, x),
    )


def shapes(x):
    """Rearrangements of [B, 4, 5]."""
    constant = jnp.broadcast_to(jnp.asarray(TABLE[:1]), (x.shape[0], 1, 5))  # a class token
    first, second = jnp.split(x, 2, axis=1)
    return (
        jnp.concatenate((constant, x), axis=1),
        jnp.stack((x[:, 0], x[:, -1]), axis=1),
        lax.slice(x, (0, 0, 1), (x.shape[0], 4, 4), (1, 1, 2)),
        x[:, ::3, ::2],
        jnp.take(x, jnp.asarray([[4, 0], [1, 1]]), axis=2),
        jnp.flip(x, 2),
        jnp.pad(x, ((0, 0), (1, 2), (0, 0)), constant_values=3.0),
        jnp.roll(x, 1, axis=1),
        x.reshape(x.shape[0], -1).T,
        first * second,
        x[:, jnp.asarray([3, 1, 1])],
        jnp.asarray(TABLE)[jnp.argmax(x, axis=1)],
        jnp.broadcast_to(x[:, :1], x.shape),
        lax.dynamic_slice_in_dim(x, 3, 2, axis=1),  # moved inside
    )


def elements(x):
    """Functions of single numbers and of axes, of [B, 4, 5]."""
    return (
        jax.nn.gelu(x, approximate=False),
        jax.nn.sigmoid(x) * jnp.tanh(x) - jnp.abs(x),
        lax.rsqrt(1 + jnp.square(x)) ** 3,
        jnp.where(x > 0, x, -1.0),
        jnp.clip(x, -0.5, 0.5),
        jax.nn.softmax(x, axis=(1, 2)),
        jnp.max(x, axis=-1, keepdims=True) - jnp.min(x),
        (x != 0) & (x < 1) | ~(x >= -1),
        jnp.exp(-x) / jnp.log(2 + x * x),
        jax.nn.relu(x) + jnp.arange(5, dtype=jnp.float32)[None, None],
        jnp.mean(jnp.broadcast_to(x[:, :, :1], x.shape), axis=2),
        jnp.argmin(x, axis=2).astype(jnp.int32),
        jnp.linalg.norm(x, axis=-1),
    )


@pytest.mark.parametrize(
    ("function", "shape"), [(images, (9, 8, 4)), (products, (4, 5)), (shapes, (4, 5)), (elements, (4, 5))]
)
def test_results_are_those_of_jax(function, shape):
    agree(function, shape)


def test_pixels_and_whole_numbers():
    agree(lambda x: (x.astype(jnp.float32) / 255, x.astype(jnp.int32) - 1), (2, 3), np.uint8)
    agree(lambda x: (jnp.asarray(TABLE)[jnp.clip(x, 0, 5)], jnp.maximum(x, 2)), (3,), np.int32)


def test_constants_are_computed_when_the_file_is_written():
    """A normalization with known statistics is one factor and one summand."""
    scale, mean, variance = (jnp.asarray(row) for row in np.abs(TABLE[:3]))

    def normalized(x):
        return ((x - mean[None]) * (scale * lax.rsqrt(variance + 1e-5))[None],)

    (batch,) = jax.export.symbolic_shape("batch")
    graph, _ = onnx_graph.trace(normalized, jax.ShapeDtypeStruct((batch, 5), np.float32), onnx_rules.RULES)
    assert [node.op_type for node in graph.nodes] == ["Sub", "Mul"]


def test_what_no_result_needs_is_left_out():
    """Such as classifiers, which belong to the training identities."""

    def embedded(x):
        hidden = x @ jnp.asarray(TABLE).T
        unused = hidden @ jnp.asarray(TABLE)
        return (hidden, unused)[:1]

    (batch,) = jax.export.symbolic_shape("batch")
    graph, results = onnx_graph.trace(embedded, jax.ShapeDtypeStruct((batch, 5), np.float32), onnx_rules.RULES)
    model = onnx_graph.model_of(graph, results, ["features"])
    assert [node.op_type for node in model.graph.node].count("MatMul") == 1
    assert len(model.graph.initializer) == 1


def test_what_has_no_counterpart_is_named():
    with pytest.raises(errors.UserError, match=r"'cumsum'.* export StableHLO"):
        session(lambda x: (jnp.cumsum(x, axis=1),), (4,))
    with pytest.raises(errors.UserError, match="batch size"):
        session(lambda x: (jnp.arange(x.shape[0]) + 0 * x[:, 0].astype(int),), (4,))
