"""Parameters and multiply-accumulate operations of a model, counted layer by layer from shapes, as in the papers."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from reid_jax import trees
from reid_jax.nn import conv

# Training alone needs it; descriptors are taken before it.
CLASSIFIERS = (r"(^|/)classifier(_\w+)?$",)


@dataclasses.dataclass(frozen=True)
class Size:
    """What a model holds and costs for one image.

    Attributes:
        macs: multiply-accumulates, see `measure`.
        outputs: shapes of the named outputs, with a leading axis of 1.
        variables: shapes of all variables.
    """

    macs: int
    outputs: Any
    variables: dict[str, Any]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return trees.count_parameters(self.variables["params"])


def measure(
    model: nn.Module, height: int = 256, width: int = 128, *, ignore: Sequence[str] = CLASSIFIERS, **fields: Any
) -> Size:
    """Measures a model in eval mode on one image, by shapes alone: nothing is computed.

    The multiply-accumulates (one per added bias) are those of convolutions and linear layers. A layer that runs several
    times counts each time. Products between activations (attention) and everything element-wise are left out, as in the
    published counts. The count does not depend on how a layer is formulated on this machine.

    Args:
        model: takes `batch` and `train`, see `reid_jax.models`.
        height: rows of the image.
        width: columns.
        ignore: patterns of paths ("head_b/classifier") of layers whose multiply-accumulates do not count.
        **fields: further entries of the batch, with a leading axis of 1.

    Returns:
        The size; its layers are `nn.conv.Conv`, `flax.linen.Dense` and `flax.linen.DenseGeneral`.
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

    batch = {
        "image": jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32),
        "camid": jax.ShapeDtypeStruct((1,), jnp.int32),
        **fields,
    }
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    with nn.intercept_methods(count):
        outputs, variables = jax.eval_shape(functools.partial(model.init_with_output, train=False), keys, batch)
    return Size(total, outputs, variables)


def _features(layer: nn.DenseGeneral) -> int:
    features = layer.features
    return int(np.prod(features)) if isinstance(features, Sequence) else features
