"""Layers and networks in numpy, written to be read: float64, evaluation mode, no code of the package.

Each function takes the parameters of its layer, a nested dict as Flax keeps it, and the running statistics of layers
that have some. Maps are [B, H, W, C].
"""

from __future__ import annotations

import functools
import math

import jax
import numpy as np

from reid_jax import trees
from tests.helpers.numpy_layers import batch_norm, dense, gelu, layer_norm, softmax  # noqa: F401, as parts of this module


def random_variables(shapes, seed=0):
    """Random variables of given shapes, none of them neutral, of a size that keeps activations near one."""
    rng = np.random.default_rng(seed)

    def fill(path, shape):
        if path.endswith(("scale", "var")):
            value = rng.uniform(0.5, 1.5, shape)
        elif path.endswith(("bias", "mean")):
            value = 0.3 * rng.normal(size=shape)
        else:
            value = rng.normal(size=shape) * 1.4 / math.sqrt(max(math.prod(shape[:-1]), 1))
        return value.astype(np.float32)

    return trees.unflatten({path: fill(path, leaf.shape) for path, leaf in trees.flatten(shapes).items()})


def compiled(function, **options):
    """`jax.jit` of a function with its options filled in, without optimization: tests here run once."""
    return jax.jit(functools.partial(function, **options), compiler_options={"xla_backend_optimization_level": 0})


def close(found, expected, name=""):
    """Asserts equality up to float32's rounding, relative to the largest value."""
    scale = max(np.abs(expected).max(), 1e-6)
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=2e-5, err_msg=name)


# ---- functions ------------------------------------------------------------------------------------------------------


def relu(x):
    return np.maximum(x, 0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# ---- layers ---------------------------------------------------------------------------------------------------------


def conv(x, p, stride=1, groups=1):
    """Padding by half of the kernel, zeros."""
    kernel = p["kernel"].astype(np.float64)
    rows, columns = kernel.shape[:2]
    pad = rows // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((x.shape[axis] - rows) // stride + 1 for axis in (1, 2))
    out = 0.0
    for i in range(rows):
        for j in range(columns):
            seen = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            if groups > 1:  # depthwise
                out = out + seen * kernel[i, j, 0]
            else:
                out = out + seen @ kernel[i, j]
    return out + p.get("bias", 0.0)


def max_pool(x, window, stride=None, pad=0):
    stride = stride or window
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=-np.inf)
    height, width = ((x.shape[axis] - window) // stride + 1 for axis in (1, 2))
    return np.stack(
        [
            x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            for i in range(window)
            for j in range(window)
        ]
    ).max(0)


# ---- networks -------------------------------------------------------------------------------------------------------


def bottleneck(x, p, s, stride=1):
    """1×1, 3×3 with the stride, 1×1, each normalized; ReLU after the first two and after the sum."""
    y = relu(batch_norm(conv(x, p["conv1"]), p["bn1"], s["bn1"]))
    y = relu(batch_norm(conv(y, p["conv2"], stride), p["bn2"], s["bn2"]))
    y = batch_norm(conv(y, p["conv3"]), p["bn3"], s["bn3"])
    if "downsample_0" in p:
        x = batch_norm(conv(x, p["downsample_0"], stride), p["downsample_1"], s["downsample_1"])
    return relu(y + x)


def resnet_stem(image, p, s, with_relu):
    x = batch_norm(conv(image, p["conv1"], 2), p["bn1"], s["bn1"])
    return max_pool(relu(x) if with_relu else x, 3, 2, 1)


def resnet_stage(x, p, s, number, stride, first=0):
    """Blocks of a stage from `first` on; the stride is that of block 0."""
    index = first
    while f"layer{number}_{index}" in p:
        name = f"layer{number}_{index}"
        x = bottleneck(x, p[name], s[name], stride if index == 0 else 1)
        index += 1
    return x
