"""Convolution layer over `reid_jax.ops.convolution`: PyTorch's padding, flax's parameter names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax.nn import initializers
from reid_jax.ops import convolution


class Conv(nn.Module):
    """Two-dimensional convolution.

    Attributes:
        features: output channels D.
        kernel_size: side of the square kernel, or (rows, columns).
        strides: step of the window.
        padding: zeros on every side; None means (k - 1) // 2 per axis, which keeps the size at stride 1.
        dilation: distance between the kernel's taps.
        groups: channel groups; equal to the channels for a depthwise convolution.
        use_bias: adds a [D] bias.
        dtype: compute dtype; parameters are float32.
        kernel_init: initial kernel [kh, kw, C / groups, D].
        bias_init: initial bias; `initializers.torch_default_bias(fan_in)` for PyTorch's.
        formulation: see `reid_jax.ops.convolution.convolution`.
    """

    features: int
    kernel_size: int | tuple[int, int] = 1
    strides: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = initializers.kaiming_fan_out
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    formulation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H', W', D]."""
        rows, columns = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else self.kernel_size
        shape = (rows, columns, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x = convolution.convolution(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=None if self.padding is None else ((self.padding, self.padding),) * 2,
            dilation=self.dilation,
            groups=self.groups,
            formulation=self.formulation,
        )
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype)[None, None, None]
        return x
