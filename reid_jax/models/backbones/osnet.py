"""OSNet: residual blocks of four streams with growing receptive field, mixed by one shared gate.

    block:  x ─ 1×1 ─ h ─┬─ light 3×3 ────────────────────── g ─┐         g: unified aggregation gate, one per block,
                         ├─ light 3×3 ×2 ─────────────────── g ─┤            applied to each stream on its own
                         ├─ light 3×3 ×3 ─────────────────── g ─+─ 1×1 ─ + ─ ReLU
                         └─ light 3×3 ×4 ─────────────────── g ─┘        │
            └───────────────────────────── (1×1 where channels change) ──┘

    trunk:  conv1, max pool | conv2: block, block, transition | conv3: likewise | conv4: block, block | conv5: 1×1

Papers: Zhou et al., "Omni-scale feature learning for person re-identification", ICCV 2019 (arXiv 1905.00953); Zhou et
al., "Learning generalizable omni-scale representations for person re-identification", TPAMI 2021 (OSNet-AIN).

Submodules carry torchreid's names with a number joined to the part before it: `conv2.0.conv2b.1.bn` is
`conv2_0/conv2b_1/bn`. Three kinds exist: "plain"; "ibn" with instance normalization (IN) in the stem and after the
residual sum of conv2's blocks; "ain" with IN in the stem and inside some blocks, at places found by search.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.nn import conv, norm
from reid_jax.ops import batch_parts, descriptors, fusion, outlined, platforms, pooling, taps

# torchreid's names are ours, see `reid_jax.weights.convert`.
TORCH_RULES: tuple[tuple[str, str], ...] = ()
TORCH_IGNORED: tuple[tuple[str, str], ...] = ()

# Channels of conv1 .. conv4 (conv5 keeps conv4's) for each published width multiplier.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}

# For each kind, where the two blocks of conv2, conv3 and conv4 normalize by image: "none", "sum" (after the residual
# sum) or "inside" (before the sum, in place of the last batch normalization).
KINDS: dict[str, tuple[tuple[str, str], tuple[str, str], tuple[str, str]]] = {
    "plain": (("none", "none"), ("none", "none"), ("none", "none")),
    "ibn": (("sum", "sum"), ("none", "none"), ("none", "none")),
    "ain": (("inside", "inside"), ("none", "inside"), ("inside", "none")),
}

DEPTHS = (2, 2, 2)  # of conv2, conv3 and conv4
STREAMS = 4  # the paper's T; stream t sees 2t + 1 pixels
REDUCTION = 4  # channels of a block / channels inside it
GATE_REDUCTION = 16

_linear = nn.initializers.normal(0.01)


class ConvLayer(nn.Module):
    """Convolution without bias, normalization, ReLU.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel; padded by half of it with zeros on every side.
        strides: step of the window.
        normalization: "batch", "instance" (also called "bn") or "none".
        activate: applies ReLU.
        dtype: compute dtype.
    """

    features: int
    kernel_size: int = 1
    strides: int = 1
    normalization: str = "batch"
    activate: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / strides, W / strides, features]."""
        x = conv.Conv(self.features, self.kernel_size, self.strides, dtype=self.dtype, name="conv")(x)
        if self.normalization == "batch":
            x = norm.BatchNorm(dtype=self.dtype, name="bn")(x, train=train)
        elif self.normalization == "instance":
            x = norm.InstanceNorm(dtype=self.dtype, name="bn")(x)
        return nn.relu(x) if self.activate else x


class LightConv3x3(nn.Module):
    """Factorized 3×3 convolution: 1×1 without activation, depthwise 3×3, batch normalization, ReLU (section 3.1).

    Attributes:
        features: channels in and out.
        dtype: compute dtype.
    """

    features: int
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, m] to [B, H, W, m]."""
        if train and not self.is_initializing() and platforms.target() == "cpu":
            return self._called(x)
        return self.written(x, train=train)

    @nn.compact
    def written(self, x: jax.Array, *, train: bool = True) -> jax.Array:
        """Returns the same by operations in place."""
        x = outlined.keep(conv.Conv(self.features, 1, dtype=self.dtype, name="conv1")(x))
        x = outlined.keep(conv.Conv(self.features, 3, groups=self.features, dtype=self.dtype, name="conv2")(x))
        return outlined.keep(nn.relu(norm.BatchNorm(dtype=self.dtype, name="bn")(x, train=train)))

    def _called(self, x: jax.Array) -> jax.Array:
        """Trains by a computation that all light convolutions of these shapes share."""
        function = _shared(LightConv3x3, self.features, self.dtype, batch_parts.of(x.shape[0]))
        variables = self.variables
        result, statistics = function((variables["params"], x), variables["batch_stats"])
        for name, value in statistics.items():
            self.put_variable("batch_stats", name, value)
        return result


class LightConvStream(nn.Module):
    """A sequence of light convolutions; AIN's files name a stream's layers inside a module of its own.

    Attributes:
        depth: number of light convolutions t.
        features: channels in and out.
        dtype: compute dtype.
    """

    depth: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, m] to [B, H, W, m]."""
        for index in range(self.depth):
            x = LightConv3x3(self.features, dtype=self.dtype, name=f"layers_{index}")(x, train=train)
        return x


class UnifiedAggregationGate(nn.Module):
    """Weights in (0, 1) per channel and image from a stream's average over positions (section 3.2, equation 3).

    Attributes:
        features: channels m of a stream; the hidden layer has m // 16.
        dtype: compute dtype.
    """

    features: int
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps a stream [B, H, W, m] to its gate [B, 1, 1, m]."""
        pooled = pooling.global_average(x).astype(self.dtype)[:, None, None]
        if train and not self.is_initializing() and platforms.target() == "cpu":
            function = _shared(UnifiedAggregationGate, self.features, self.dtype, None)
            return function((self.variables["params"], pooled), {})[0]
        return self.written(pooled)

    @nn.compact
    def written(self, pooled: jax.Array) -> jax.Array:
        """Returns the gate from averages [B, 1, 1, m] by operations in place."""
        dense = functools.partial(conv.Conv, kernel_size=1, use_bias=True, dtype=self.dtype)
        hidden = nn.relu(outlined.keep(dense(self.features // GATE_REDUCTION, name="fc1")(pooled)))
        return nn.sigmoid(outlined.keep(dense(self.features, name="fc2")(hidden)))


@functools.lru_cache
def _shared(
    layer: type[LightConv3x3] | type[UnifiedAggregationGate],
    features: int,
    dtype: Any,
    parts: batch_parts.Parts | None,
) -> outlined.Function:
    """Returns the train pass of a layer on a CPU, (parameters, x), statistics -> y, new statistics, to be called.

    Args:
        layer: see there.
        features: see the layer.
        dtype: see the layer.
        parts: the parts of the batch that is being traced.
    """
    module = layer(features, dtype=dtype, parent=None)

    def train(given: tuple[Any, jax.Array], statistics: Any) -> tuple[jax.Array, Any]:
        params, x = given
        variables = {"params": params, "batch_stats": statistics}
        y, updated = module.apply(variables, x, mutable="batch_stats", method="written")
        return y, updated.get("batch_stats", {})

    return outlined.outlined(train)


class OSBlock(nn.Module):
    """Omni-scale residual block (figure 4 of the paper).

    Attributes:
        features: output channels.
        instance: where the block normalizes by image: "none", "sum" or "inside", see `KINDS`.
        stream_modules: names the streams "conv2_<t>/layers_<i>" as AIN's files, not "conv2a" .. "conv2d_<i>".
        dtype: compute dtype.
    """

    features: int
    instance: str = "none"
    stream_modules: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, features]."""
        inside = self.features // REDUCTION
        h = ConvLayer(inside, dtype=self.dtype, name="conv1")(x, train=train)
        gate = UnifiedAggregationGate(inside, dtype=self.dtype, name="gate")
        streams = [self._stream(h, depth, train=train) for depth in range(1, STREAMS + 1)]
        mixed = functools.reduce(jnp.add, [gate(stream, train=train) * stream for stream in streams])
        linear = "none" if self.instance == "inside" else "batch"
        residual = ConvLayer(self.features, normalization=linear, activate=False, dtype=self.dtype, name="conv3")(
            mixed, train=train
        )
        if self.instance == "inside":
            residual = norm.InstanceNorm(dtype=self.dtype, name="IN")(residual)
        shortcut = x
        if x.shape[-1] != self.features:
            shortcut = ConvLayer(self.features, activate=False, dtype=self.dtype, name="downsample")(x, train=train)
        y = residual + shortcut
        if self.instance == "sum":
            y = norm.InstanceNorm(dtype=self.dtype, name="IN")(y)
        return fusion.materialize(nn.relu(y))

    def _stream(self, h: jax.Array, depth: int, *, train: bool) -> jax.Array:
        """Applies `depth` light convolutions to h, under the names of the published files."""
        if self.stream_modules:
            return LightConvStream(depth, h.shape[-1], dtype=self.dtype, name=f"conv2_{depth - 1}")(h, train=train)
        name = f"conv2{'abcd'[depth - 1]}"
        for index in range(depth):
            layer = name if depth == 1 else f"{name}_{index}"
            h = LightConv3x3(h.shape[-1], dtype=self.dtype, name=layer)(h, train=train)
        return h


class Trunk(nn.Module):
    """conv1 to conv5, to be run as a whole (`maps`) or stage by stage; a stage run twice uses the same weights.

    Attributes:
        size: a row of `SIZES`.
        kind: a row of `KINDS`.
        dtype: compute dtype; parameters and statistics are float32.
        depths: blocks of conv2, conv3 and conv4, each 1 or 2; published files have (2, 2, 2).
    """

    size: str = "x1_0"
    kind: str = "plain"
    dtype: Any = jnp.float32
    depths: tuple[int, int, int] = DEPTHS

    def setup(self) -> None:
        if self.size not in SIZES:
            raise errors.unknown("OSNet size", self.size, SIZES)
        if self.kind not in KINDS:
            raise errors.unknown("kind of OSNet", self.kind, KINDS)
        if len(self.depths) != 3 or not set(self.depths) <= {1, 2}:
            raise errors.UserError(
                f"expected 1 or 2 blocks for each of conv2, conv3 and conv4, got {tuple(self.depths)}; the published "
                f"OSNet has {DEPTHS}."
            )
        channels, ain = SIZES[self.size], self.kind == "ain"
        stem = "batch" if self.kind == "plain" else "instance"
        self.conv1 = ConvLayer(channels[0], 7, 2, normalization=stem, dtype=self.dtype)
        # Blocks of a list are named after it: conv2_0, conv2_1.
        self.conv2, self.conv3, self.conv4 = (
            [OSBlock(width, instance, stream_modules=ain, dtype=self.dtype) for instance in places[:count]]
            for width, places, count in zip(channels[1:], KINDS[self.kind], self.depths, strict=True)
        )
        transitions = ("pool2_0", "pool3_0") if ain else ("conv2_2_0", "conv3_2_0")
        self.transition2 = ConvLayer(channels[1], dtype=self.dtype, name=transitions[0])
        self.transition3 = ConvLayer(channels[2], dtype=self.dtype, name=transitions[1])
        self.conv5 = ConvLayer(channels[3], dtype=self.dtype)

    @property
    def channels(self) -> tuple[int, ...]:
        """Number of channels of the outputs of conv1 .. conv5."""
        return (*SIZES[self.size], SIZES[self.size][3])

    def stem(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Applies conv1 and the max pool: normalized images [B, H, W, 3] to [B, H/4, W/4, c0]."""
        return self._pool(self.conv1(images.astype(self.dtype), train=train))

    def stage(self, x: jax.Array, number: int, *, train: bool) -> jax.Array:
        """Runs conv<number>, 2 to 5, with its transition; conv2 and conv3 halve height and width.

        Args:
            x: [B, h, w, C] output of the previous stage (of `stem` for conv2).
            number: 2, 3, 4 or 5.
            train: mode of the batch normalization.
        """
        if number == 5:
            return self.conv5(x, train=train)
        for block in (self.conv2, self.conv3, self.conv4)[number - 2]:
            x = block(x, train=train)
        if number < 4:
            transition = self.transition2 if number == 2 else self.transition3
            x = pooling.average_pool(transition(x, train=train), 2)
        return taps.tap(f"conv{number}", x)

    def maps(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Runs the whole trunk on normalized images [B, H, W, 3].

        Returns:
            "conv1" [B, H/2, W/2, c0] (before the max pool), "conv2" [B, H/8, W/8, c1], "conv3" [B, H/16, W/16, c2],
            "conv4" and "conv5" [B, H/16, W/16, c3].
        """
        maps = {"conv1": self.conv1(images.astype(self.dtype), train=train)}
        x = self._pool(maps["conv1"])
        for number in (2, 3, 4, 5):
            x = maps[f"conv{number}"] = self.stage(x, number, train=train)
        return maps

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps normalized images [B, H, W, 3] to conv5's map [B, H/16, W/16, c3]."""
        return self.maps(images, train=train)["conv5"]

    @staticmethod
    def _pool(x: jax.Array) -> jax.Array:
        return pooling.max_pool(x, 3, strides=2, padding=1)


class OSNet(nn.Module):
    """Trunk, average pool, one hidden layer, classifier; the hidden layer's output (after ReLU) is the feature.

    Attributes:
        num_classes: training identities N.
        dtype: compute dtype; parameters, statistics and the head are float32.
        size: a row of `SIZES`.
        kind: a row of `KINDS`.
        feature_width: length of the feature; 512 at every published width.
        depths: see `Trunk`; fewer make a small network for trials.
    """

    num_classes: int
    dtype: Any = jnp.float32
    size: str = "x1_0"
    kind: str = "plain"
    feature_width: int = 512
    depths: tuple[int, int, int] = DEPTHS

    def setup(self) -> None:
        # The trunk's parameters stand beside the head's, as in the published files.
        self.trunk = Trunk(self.size, self.kind, dtype=self.dtype, depths=self.depths)
        nn.share_scope(self, self.trunk)
        self.fc = nn.Dense(self.feature_width, kernel_init=_linear, name="fc_0")
        self.fc_norm = norm.BatchNorm(name="fc_1")
        self.classifier = nn.Dense(self.num_classes, kernel_init=_linear)

    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Maps `batch["image"]` [B, H, W, 3] (normalized) to named float32 outputs.

        Returns:
            "map/conv5" [B, H/16, W/16, c3], "feature/b" [B, feature_width] (not negative) and "logits/b" [B, N].
        """
        conv5 = taps.tap("conv5", self.trunk(batch["image"], train=train).astype(jnp.float32), cut=True)
        feature = nn.relu(self.fc_norm(self.fc(pooling.global_average(conv5)), train=train))
        return {"map/conv5": conv5, "feature/b": feature, "logits/b": self.classifier(feature)}

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the test feature [B, feature_width] as it is, to be compared by Euclidean distance."""
        return descriptors.Descriptor(outputs["feature/b"])
