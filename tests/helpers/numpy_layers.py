"""Layers in float64 numpy, written to be read: what the twins of whole models are made of.

`p` is the parameter dictionary of the layer; arrays are [..., tokens, channels].
"""

from __future__ import annotations

import math

import numpy as np


def _array(p, name, default):
    return np.asarray(p.get(name, default), np.float64)


def dense(x, p):
    return x @ np.asarray(p["kernel"], np.float64) + _array(p, "bias", 0.0)


def layer_norm(x, p, epsilon):
    centered = x - x.mean(axis=-1, keepdims=True)
    normal = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + epsilon)
    return normal * np.asarray(p["scale"], np.float64) + np.asarray(p["bias"], np.float64)


def batch_norm(x, p, statistics=None, epsilon=1e-5):
    """Over all axes but the last; by the batch's own statistics unless running ones are given."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes) if statistics is None else np.asarray(statistics["mean"], np.float64)
    variance = ((x - mean) ** 2).mean(axis=axes) if statistics is None else np.asarray(statistics["var"], np.float64)
    return (x - mean) / np.sqrt(variance + epsilon) * _array(p, "scale", 1.0) + _array(p, "bias", 0.0)


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attend(query, key, value, heads, allowed=None):
    """Scaled dot products, head by head; what is not allowed gets the logit -1e4."""
    parts = []
    for q, k, v in zip(*(np.split(x, heads, axis=-1) for x in (query, key, value)), strict=True):
        logits = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
        parts.append(softmax(logits if allowed is None else np.where(allowed, logits, -1e4)) @ v)
    return np.concatenate(parts, axis=-1)


def multi_head(query, key, value, p, heads, allowed=None):
    """Attention with a projection each for query, key, value and result."""
    gathered = attend(dense(query, p["query"]), dense(key, p["key"]), dense(value, p["value"]), heads, allowed)
    return dense(gathered, p["out"])


def vit_block(x, p, heads):
    """Pre-norm: x + attention(LN(x)), then x + MLP(LN(x)), with an exact GELU."""
    qkv = np.split(dense(layer_norm(x, p["norm1"], 1e-6), p["attn"]["qkv"]), 3, axis=-1)
    x = x + dense(attend(*qkv, heads), p["attn"]["proj"])
    return x + dense(gelu(dense(layer_norm(x, p["norm2"], 1e-6), p["mlp"]["fc1"])), p["mlp"]["fc2"])


def patch_tokens(images, p, patch, stride):
    """Patches row after row, each as the product with the kernel of its convolution; [B, N, D]."""
    kernel, height, width = np.asarray(p["kernel"], np.float64), *images.shape[1:3]
    tokens = [
        np.einsum("byxc,yxcd->bd", images[:, top : top + patch, left : left + patch], kernel)
        for top in range(0, height - patch + 1, stride)
        for left in range(0, width - patch + 1, stride)
    ]
    return np.stack(tokens, axis=1) + np.asarray(p["bias"], np.float64)


def enlarge(x):
    """Twice as many rows and columns of [B, H, W], bilinear between the centers of pixels."""
    for axis in (1, 2):
        size = x.shape[axis]
        place = (np.arange(2 * size) + 0.5) / 2 - 0.5
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(3)])
        take = lambda index, x=x, axis=axis, size=size: np.take(x, np.clip(index, 0, size - 1), axis=axis)
        x = (1 - share) * take(low) + share * take(low + 1)
    return x


def convolve_volume(x, p):
    """3 x 3 x 3 convolution of [B, P, H, W, C] with zeros around it; the kernel is [3, 3, 3, C, F], P first."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    parts, rows, columns = x.shape[1:4]
    taps = [
        padded[:, a : a + parts, b : b + rows, c : c + columns] @ np.asarray(p["kernel"], np.float64)[a, b, c]
        for a in range(3)
        for b in range(3)
        for c in range(3)
    ]
    return sum(taps) + np.asarray(p["bias"], np.float64)


def sincos(count, width):
    """Sines, then cosines, of positions at rates 10000^(-2k / width)."""
    rates = [10000 ** (-2 * k / width) for k in range(width // 2)]
    return np.array([[math.sin(n * r) for r in rates] + [math.cos(n * r) for r in rates] for n in range(count)])
