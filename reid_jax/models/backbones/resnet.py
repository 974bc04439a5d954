"""Residual networks (v1, stride in the 3×3 convolution), plain and IBN-a, as backbones.

Submodules carry torchvision's names with a number joined to the part before it: `layer1.0.conv1.weight` is
`layer1_0/conv1/kernel`, `downsample.0` is `downsample_0`.

References:
    He et al., "Deep residual learning for image recognition", CVPR 2016.
    Pan et al., "Two at once: enhancing learning and generalization capacities via IBN-Net", ECCV 2018.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.nn import conv, initializers, norm
from reid_jax.ops import fusion, pooling, taps

# Block kind and blocks per stage: He et al., table 1.
SIZES: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
for _name in tuple(SIZES):
    SIZES[f"{_name}_ibn_a"] = SIZES[_name]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut.

    Attributes:
        width: channels inside and out.
        strides: step of the first convolution and of the shortcut.
        ibn: half instance normalization after the first convolution.
        kernel_init: initial convolution kernels.
        dtype: compute dtype.
    """

    width: int
    strides: int = 1
    ibn: bool = False
    kernel_init: nn.initializers.Initializer = initializers.kaiming_fan_out
    dtype: Any = jnp.float32

    expansion = 1  # out channels / width

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / strides, W / strides, width]."""
        convolve = functools.partial(conv.Conv, kernel_init=self.kernel_init, dtype=self.dtype)
        first_norm = norm.InstanceBatchNorm if self.ibn else norm.BatchNorm
        y = convolve(self.width, 3, self.strides, name="conv1")(x)
        y = nn.relu(first_norm(dtype=self.dtype, name="bn1")(y, train=train))
        y = convolve(self.width, 3, name="conv2")(y)
        y = norm.BatchNorm(dtype=self.dtype, name="bn2")(y, train=train)
        return fusion.materialize(nn.relu(y + _shortcut(self, x, self.width, train=train)))


class Bottleneck(nn.Module):
    """1×1 down, 3×3, 1×1 up, with a shortcut; the stride sits in the 3×3 ("v1.5").

    Attributes:
        width: channels of the 3×3 convolution; the block returns four times as many.
        strides: step of the 3×3 convolution and of the shortcut.
        ibn: half instance normalization after the first convolution.
        kernel_init: initial convolution kernels.
        dtype: compute dtype.
    """

    width: int
    strides: int = 1
    ibn: bool = False
    kernel_init: nn.initializers.Initializer = initializers.kaiming_fan_out
    dtype: Any = jnp.float32

    expansion = 4  # out channels / width

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / strides, W / strides, 4 width]."""
        convolve = functools.partial(conv.Conv, kernel_init=self.kernel_init, dtype=self.dtype)
        first_norm = norm.InstanceBatchNorm if self.ibn else norm.BatchNorm
        y = convolve(self.width, 1, name="conv1")(x)
        y = nn.relu(first_norm(dtype=self.dtype, name="bn1")(y, train=train))
        y = convolve(self.width, 3, self.strides, name="conv2")(y)
        y = nn.relu(norm.BatchNorm(dtype=self.dtype, name="bn2")(y, train=train))
        y = convolve(4 * self.width, 1, name="conv3")(y)
        y = norm.BatchNorm(dtype=self.dtype, name="bn3")(y, train=train)
        return fusion.materialize(nn.relu(y + _shortcut(self, x, 4 * self.width, train=train)))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def _shortcut(block: BasicBlock | Bottleneck, x: jax.Array, channels: int, *, train: bool) -> jax.Array:
    """Returns the block's input or, where the shape changes, its 1×1 projection (submodules of the calling block)."""
    if block.strides == 1 and x.shape[-1] == channels:
        return x
    projection = conv.Conv(
        channels, 1, block.strides, kernel_init=block.kernel_init, dtype=block.dtype, name="downsample_0"
    )
    return norm.BatchNorm(dtype=block.dtype, name="downsample_1")(projection(x), train=train)


def stage(
    x: jax.Array,
    number: int,
    *,
    block: str,
    depth: int,
    width: int,
    strides: int,
    ibn: bool,
    dtype: Any,
    train: bool,
    first: int = 0,
) -> jax.Array:
    """Runs the blocks of one stage, as submodules `layer<number>_<i>` of the module whose compact method calls this.

    Args:
        x: [B, H, W, C] input of block `first`.
        number: 1 to 4.
        block: "basic" or "bottleneck".
        depth: one past the last block to run; the stage's length for all of it.
        width: channels inside the stage's blocks.
        strides: step of the stage's first block.
        ibn: half instance normalization; only stages 1 to 3 have it.
        dtype: compute dtype.
        train: mode of the batch normalization.
        first: first block to run; 0 is the one that changes the shape.

    Returns:
        [B, H', W', expansion width] output of the last block.
    """
    for index in range(first, depth):
        make = BLOCKS[block]
        step = strides if index == 0 else 1
        x = make(width, step, ibn=ibn and number < 4, dtype=dtype, name=f"layer{number}_{index}")(x, train=train)
    return x


class ResNet(nn.Module):
    """Residual network without classifier, or a slice of one.

    Attributes:
        block: "bottleneck" or "basic".
        depths: blocks per stage; ResNet-50 by default.
        width: channels of the stem; 64 is the published size, 16 a narrow demonstration.
        last_stride: step of stage 4; 1 doubles the last map's height and width.
        third_stride: step of stage 3; 1 doubles its map and those after it.
        stem_relu: False leaves out the stem's ReLU, as one ReID baseline was trained.
        ibn: IBN-a normalization in stages 1 to 3.
        start: (stage, block) of the first residual block to run, (0, 0) for the stem as well. A branch that copies
            layer3[1:] and layer4 has start (3, 1) and takes a map instead of images.
        stop: (stage, block) of the first block not to run; (5, 0) for the whole network.
        dtype: compute dtype; parameters and statistics are float32.
    """

    block: str = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    last_stride: int = 2
    third_stride: int = 2
    stem_relu: bool = True
    ibn: bool = False
    start: tuple[int, int] = (0, 0)
    stop: tuple[int, int] = (5, 0)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Maps normalized images [B, H, W, 3] (or the map that block `start` takes) to the maps by name.

        Returns:
            "stem" [B, H/4, W/4, width], "stage1" [B, H/4, W/4, 4 width], "stage2" [B, H/8, W/8, 8 width],
            "stage3" [B, H/16, W/16, 16 width], "stage4" [B, H/32, W/32, 32 width] (bottleneck blocks); those that run.
        """
        maps = {}
        if self.start <= (0, 0):
            x = conv.Conv(self.width, 7, 2, dtype=self.dtype, name="conv1")(x)  # [B, H/2, W/2, width]
            x = norm.BatchNorm(dtype=self.dtype, name="bn1")(x, train=train)
            if self.stem_relu:
                x = nn.relu(x)
            x = maps["stem"] = pooling.max_pool(x, 3, strides=2, padding=1)  # [B, H/4, W/4, width]
        strides = (1, 2, self.third_stride, self.last_stride)
        for number, depth in enumerate(self.depths, start=1):
            first = self.start[1] if number == self.start[0] else 0
            end = min(depth, self.stop[1]) if number == self.stop[0] else depth
            if number < self.start[0] or number > self.stop[0] or first >= end:
                continue
            x = stage(
                x,
                number,
                block=self.block,
                depth=end,
                width=self.width * 2 ** (number - 1),
                strides=strides[number - 1],
                ibn=self.ibn,
                dtype=self.dtype,
                train=train,
                first=first,
            )
            x = maps[f"stage{number}"] = taps.tap(f"{self.name}/stage{number}", x)
        return maps

    @property
    def channels(self) -> dict[str, int]:
        """Number of channels of each named map."""
        expansion = BLOCKS[self.block].expansion
        stages = {f"stage{i + 1}": expansion * self.width * 2**i for i in range(len(self.depths))}
        return {"stem": self.width, **stages}


def resnet(size: str = "resnet50", **fields: Any) -> ResNet:
    """Builds a backbone of a known size; `fields` are those of `ResNet` and override those of the size.

    Raises:
        UserError: the size is in no table.
    """
    if size not in SIZES:
        raise errors.unknown("ResNet size", size, SIZES)
    block, depths = SIZES[size]
    return ResNet(**{"block": block, "depths": depths, "ibn": size.endswith("_ibn_a"), **fields})
