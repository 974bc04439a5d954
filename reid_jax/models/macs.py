"""Multiply-accumulate operations of a model, counted layer by layer from shapes, as in the papers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from reid_jax.nn import conv

# Training alone needs it; descriptors are taken before it.
CLASSIFIERS = (r"(^|/)classifier(_\w+)?$",)


def count_macs(
    model: nn.Module, height: int = 256, width: int = 128, *, ignore: Sequence[str] = CLASSIFIERS, **fields: Any
) -> int:
    """Counts the multiply-accumulates (one per added bias) of convolutions and linear layers for an image in eval mode.

    A layer that runs several times counts each time. Products between activations (attention) and everything
    element-wise are left out, as in the published counts. Nothing is computed: the model runs on shapes, so the count
    does not depend on how a layer is formulated on this machine.

    Args:
        model: takes `batch` and `train`, see `reid_jax.models`.
        height: rows of the image.
        width: columns.
        ignore: patterns of paths ("head_b/classifier") of layers that do not count.
        **fields: further entries of the batch, with a leading axis of 1.

    Returns:
        The count, of `nn.conv.Conv`, `flax.linen.Dense` and `flax.linen.DenseGeneral`.
    """
    total = 0

    def count(next_function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal total
        result = next_function(*args, **kwargs)
        layer = context.module
        if context.method_name != "__call__" or not isinstance(layer, conv.Conv | nn.Dense | nn.DenseGeneral):
            return result
        if not any(re.search(pattern, "/".join(layer.path)) for pattern in ignore):
            kernel: jax.Array = layer.get_variable("params", "kernel")
            outputs = result.shape[-1] if not isinstance(layer, nn.DenseGeneral) else _features(layer)
            per_output = int(np.prod(kernel.shape)) // outputs
            total += result.size * (per_output + bool(layer.use_bias))
        return result

    with nn.intercept_methods(count):
        _shapes(model, height, width, fields)
    return total


def _features(layer: nn.DenseGeneral) -> int:
    features = layer.features
    return int(np.prod(features)) if isinstance(features, Sequence) else features


def count_parameters(model: nn.Module, height: int = 256, width: int = 128, **fields: Any) -> int:
    """Returns the number of trainable parameters of a model; arguments as for `count_macs`."""
    shapes = _shapes(model, height, width, fields)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))


def _shapes(model: nn.Module, height: int, width: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the shapes of the variables, by an abstract run in eval mode on one image."""
    batch = {
        "image": jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32),
        "camid": jax.ShapeDtypeStruct((1,), jnp.int32),
        **fields,
    }
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    init = lambda keys, batch: model.init(keys, batch, train=False)
    shapes: dict[str, Any] = jax.eval_shape(init, keys, batch)
    return shapes
