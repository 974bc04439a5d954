"""MGN and MGAF: one global and two part branches over a shared ResNet trunk; MGAF adds attention to each branch.

    image ─ stem, layer1, layer2, layer3[0] ─┬─ layer3[1:], layer4 / 2 ─ A ─ whole ─────────────── g1
                  (shared trunk)             ├─ layer3[1:], layer4     ─ A ─ whole, 2 stripes ──── g2, p2_0, p2_1
                                             └─ layer3[1:], layer4     ─ A ─ whole, 3 stripes ──── g3, p3_0, p3_1, p3_2

    each window: pooling ─ 1×1 to 256, BN, ReLU ─ classifier        A: MGAF's attention, absent in MGN

Papers: Wang et al., "Learning Discriminative Features with Multiple Granularities for Person Re-Identification", ACM MM
2018 (MGN); Mo et al., "Multi-granularity person re-identification with attention mechanism fusion", Journal of
University of Electronic Science and Technology of China, doi 10.12178/1001-0548.2024091 (MGAF).

The available text of MGAF does not describe its attention, except that it also improves the global branch alone and
that its time grows with the area of the map. The attention here is our choice (CBAM on each branch's last map, with a
residual path); the 1.14 mAP that the paper attributes to attention belongs to its own module, not to this one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import resnet
from reid_jax.nn import attention, conv, global_pool, initializers, norm
from reid_jax.ops import descriptors, taps
from reid_jax.weights import convert

# The head of each branch's whole map, and the number of stripes.
BRANCHES: dict[str, tuple[str, int]] = {"g": ("g1", 0), "p2": ("g2", 2), "p3": ("g3", 3)}

# Where branch 3 takes the trunk, by the size of its map at 384 x 128: after layer3[0], or before it with a first block
# of its own at stride 1.
P3_STARTS: dict[str, tuple[int, int]] = {"24x8": (3, 1), "48x16": (3, 0)}

CE_INPUTS = ("reduced", "pooled")
ATTENTIONS = ("cbam", "se", "nonlocal", "none")
SCOPES = ("map", "stripe")

# Initial weights of the attention's gates. He's, counted over the inputs, start a quarter of CBAM's channel gates below
# .05 and a quarter above .95, where a sigmoid hardly learns; PyTorch's default leaves them near one half.
GATE_INITS: dict[str, nn.initializers.Initializer] = {
    "he": initializers.kaiming_fan_in,
    "torch": initializers.torch_default,
}

_TORCH_BRANCHES = {"p1": "branch_g", "p2": "branch_p2", "p3": "branch_p3"}
_TORCH_HEADS = ("g1", "g2", "g3", "p2_0", "p2_1", "p3_0", "p3_1", "p3_2")
_TORCH_CLASSIFIERS = ("2048_0", "2048_1", "2048_2", "256_1_0", "256_1_1", "256_2_0", "256_2_1", "256_2_2")
_TORCH_TRUNK = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3.0"}

# Names of the public PyTorch reimplementation of MGN, see `reid_jax.weights.convert`. Its branches count the blocks of
# layer3 from the second one on.
TORCH_RULES: tuple[tuple[str, str], ...] = (
    *((rf"^backone\.{theirs}\.", f"trunk.{ours}.") for theirs, ours in _TORCH_TRUNK.items()),
    *(
        (rf"^{theirs}\.0\.{block}\.", f"{ours}.layer3.{block + 1}.")
        for theirs, ours in _TORCH_BRANCHES.items()
        for block in range(5)
    ),
    *((rf"^{theirs}\.1\.", f"{ours}.layer4.") for theirs, ours in _TORCH_BRANCHES.items()),
    *((rf"^reduction_{index}\.0\.", f"reduction_{ours}.conv.") for index, ours in enumerate(_TORCH_HEADS)),
    *((rf"^reduction_{index}\.1\.", f"reduction_{ours}.bn.") for index, ours in enumerate(_TORCH_HEADS)),
    *((rf"^fc_id_{theirs}\.", f"classifier_{ours}.") for theirs, ours in zip(_TORCH_CLASSIFIERS, _TORCH_HEADS)),
)
TORCH_IGNORED: tuple[tuple[str, str], ...] = ()

# The reverse renames, for `convert.to_torch`.
TORCH_EXPORT_RULES: tuple[tuple[str, str], ...] = (
    *((rf"^trunk\.{ours}\.".replace("3.0", r"3\.0"), f"backone.{theirs}.") for theirs, ours in _TORCH_TRUNK.items()),
    *(
        (rf"^{ours}\.layer3\.{block + 1}\.", f"{theirs}.0.{block}.")
        for theirs, ours in _TORCH_BRANCHES.items()
        for block in range(5)
    ),
    *((rf"^{ours}\.layer4\.", f"{theirs}.1.") for theirs, ours in _TORCH_BRANCHES.items()),
    *((rf"^reduction_{ours.replace('_', '[._]')}\.conv\.", f"reduction_{i}.0.") for i, ours in enumerate(_TORCH_HEADS)),
    *((rf"^reduction_{ours.replace('_', '[._]')}\.bn\.", f"reduction_{i}.1.") for i, ours in enumerate(_TORCH_HEADS)),
    *(
        (rf"^classifier_{ours.replace('_', '[._]')}\.", f"fc_id_{theirs}.")
        for theirs, ours in zip(_TORCH_CLASSIFIERS, _TORCH_HEADS)
    ),
)


def backbone_parts(variables: convert.Variables, names: Collection[str]) -> list[convert.Part]:
    """Returns where the weights of a plain ResNet go: the first layers into the trunk, the rest into every branch.

    Args:
        variables: variables of the model.
        names: names in the file.

    Returns:
        The submodules to fill; none if the file holds the whole model.
    """
    if not {"conv1.weight", "layer4.0.conv1.weight"} <= set(names):
        return []
    parts = [convert.Part("trunk", ((r"^layer(3\.(?!0\.)|4\.)", "of the branches"),))]
    for name in sorted(name for name in variables["params"] if name.startswith("branch_")):
        # A larger branch 3 has a first block of layer3 of its own.
        shared = (
            r"^(conv1|bn1|layer[12])\."
            if "layer3_0" in variables["params"][name]
            else (r"^(conv1|bn1|layer[12]|layer3\.0)\.")
        )
        parts.append(convert.Part(name, ((shared, "of the trunk"),)))
    return parts


def start_equal(variables: convert.Variables, branches: Sequence[str]) -> dict[str, Any]:
    """Returns initial variables in which every branch has the parameters of the first one.

    Branches of a pretrained network start as copies of the same layers; this does the same for training from scratch.

    Args:
        variables: initial variables, each branch drawn independently.
        branches: names of the branches, in their order.
    """
    params = dict(variables["params"])
    # A larger branch 3 begins with a block that the other branches share in the trunk.
    layers = {**params["trunk"], **params[f"branch_{branches[0]}"]}
    for branch in branches[1:]:
        params[f"branch_{branch}"] = {name: layers[name] for name in params[f"branch_{branch}"]}
    return {**variables, "params": params}


def _around_one(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draws the initial gain of the reductions' normalization: N(1, 0.02)."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class Reduction(nn.Module):
    """Reduction of a pooled vector: 1×1 convolution without bias, batch normalization, ReLU; all float32.

    Attributes:
        features: length of the reduced vector.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, C] to [B, features], never negative."""
        x = conv.Conv(self.features, 1, kernel_init=initializers.kaiming_fan_in, name="conv")(x[:, None, None])[:, 0, 0]
        return nn.relu(norm.BatchNorm(scale_init=_around_one, name="bn")(x, train=train))


class MGN(nn.Module):
    """The multiple granularity network.

    Attributes:
        num_classes: training identities N.
        dtype: compute dtype of trunk and branches; parameters, statistics and heads are float32.
        depths: residual blocks per stage; layer3 needs at least two, because its first block is shared.
        width: channels of the stem; 64 is the published size, 16 a narrow demonstration.
        branches: the branches to build, keys of `BRANCHES` in their order; ablations build fewer.
        p3_stripes: stripes of branch 3.
        p3_map: size of branch 3's map, a key of `P3_STARTS`.
        feature_width: length of each head's vector.
        pooling: "max", "average" or "gem".
        global_ce_input: what the classifiers of g1, g2, g3 read: "pooled" is the vector before the reduction (the
            paper of MGN), "reduced" the one after it (its public reimplementation, and MGAF).
    """

    num_classes: int
    dtype: Any = jnp.float32
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    branches: tuple[str, ...] = ("g", "p2", "p3")
    p3_stripes: int = 3
    p3_map: str = "24x8"
    feature_width: int = 256
    pooling: str = "max"
    global_ce_input: str = "pooled"

    @nn.nowrap
    def init(self, *arguments: Any, **options: Any) -> Any:
        """Returns initial variables in which all branches start equal (`start_equal`); arguments are those of Flax.

        `init_with_output` returns the independent draws, to which its output belongs.
        """
        return start_equal(super().init(*arguments, **options), self.branches)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Maps `batch["image"]` [B, H, W, 3] (normalized) to named float32 outputs.

        Returns:
            For each head h ("g1", "p2_0", ...) "feature/h" [B, feature_width] and "logits/h" [B, N]; the branches' maps
            "map/g" [B, H/32, W/32, C], "map/p2" and "map/p3" [B, H/16, W/16, C] before attention, C = 32 width.

        Raises:
            UserError: unknown option, or a map whose rows do not divide into the stripes.
        """
        self._check()
        trunk = resnet.ResNet(depths=self.depths, width=self.width, stop=(3, 1), dtype=self.dtype, name="trunk")
        maps = trunk(batch["image"].astype(self.dtype), train=train)
        outputs: dict[str, jax.Array] = {}
        for branch in self.branches:
            x = taps.tap(branch, self._branch(branch, maps, train), cut=True)
            outputs[f"map/{branch}"] = x.astype(jnp.float32)
            for head, window in self.windows(branch, x, train).items():
                feature, logits = self._head(head, window, train)
                outputs |= {f"feature/{head}": feature, f"logits/{head}": logits}
        return outputs

    def _check(self) -> None:
        for branch in self.branches:
            if branch not in BRANCHES:
                raise errors.unknown("branch", branch, BRANCHES)
        if self.p3_map not in P3_STARTS:
            raise errors.unknown("map of branch 3 (p3_map)", self.p3_map, P3_STARTS)
        if self.global_ce_input not in CE_INPUTS:
            raise errors.unknown("input of the global classifiers (global_ce_input)", self.global_ce_input, CE_INPUTS)
        if self.depths[2] < 2:
            raise errors.UserError(
                f"expected at least 2 blocks in stage 3 (the first is shared, the others are each branch's own), got "
                f"model.depths={self.depths}; raise its third number."
            )

    def _branch(self, name: str, maps: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """Returns the last map of a branch, in the compute dtype."""
        start = P3_STARTS[self.p3_map] if name == "p3" else (3, 1)
        branch = resnet.ResNet(
            depths=self.depths,
            width=self.width,
            last_stride=2 if name == "g" else 1,
            third_stride=1,
            start=start,
            dtype=self.dtype,
            name=f"branch_{name}",
        )
        return branch(maps["stage3" if start == (3, 1) else "stage2"], train=train)["stage4"]

    def windows(self, branch: str, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Returns what each head of a branch pools: the whole map [B, H, W, C] and its stripes [B, H / n, W, C]."""
        del train
        return {BRANCHES[branch][0]: x, **self.stripes(branch, x)}

    def stripes(self, branch: str, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the horizontal stripes of a branch's map, from the top, by head."""
        count = self.p3_stripes if branch == "p3" else BRANCHES[branch][1]
        if count and x.shape[1] % count:
            raise errors.UserError(
                f"expected the {x.shape[1]} rows of branch {branch}'s map to divide into {count} stripes; change "
                "data.height (384 has 24 rows) or model.p3_stripes."
            )
        cut = jnp.split(x, count, axis=1) if count else []
        return {f"{branch}_{index}": stripe for index, stripe in enumerate(cut)}

    def _head(self, name: str, window: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Applies pooling, reduction and classifier: (feature [B, feature_width], logits [B, N])."""
        pooled = global_pool.GlobalPool(self.pooling, name=f"pool_{name}")(window)
        feature = Reduction(self.feature_width, name=f"reduction_{name}")(pooled, train=train)
        from_pooled = self.global_ce_input == "pooled" and name.startswith("g")
        classifier = nn.Dense(
            self.num_classes,
            kernel_init=initializers.classifier if from_pooled else initializers.kaiming_fan_out,
            name=f"classifier_{name}",
        )
        return feature, classifier(pooled if from_pooled else feature)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads in the order of the test feature: whole maps, then stripes."""
        counts = {branch: self.p3_stripes if branch == "p3" else count for branch, (_, count) in BRANCHES.items()}
        parts = [f"{branch}_{index}" for branch in self.branches for index in range(counts[branch])]
        return (*(BRANCHES[branch][0] for branch in self.branches), *parts)

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the test feature [B, 2048]: all heads' vectors side by side.

        Not at unit length: the recipe adds the vectors of image and mirror image first (`evals.flip`), then compares
        by cosine, which orders a gallery as the Euclidean distance of unit vectors does.
        """
        return descriptors.Descriptor(jnp.concatenate([outputs[f"feature/{head}"] for head in self.heads], axis=-1))


class MGAF(MGN):
    """MGN with attention between the branches and their windows.

    Attributes:
        attention: "cbam" (Woo et al. 2018), "se" (channel gate alone, Hu et al. 2018), "nonlocal" (embedded Gaussian,
            Wang et al. 2018) or "none", which is MGN.
        attention_scope: "map": one module on each branch's map, before it is cut; "stripe": one on the whole map for
            the global head and one for each stripe.
        attention_residual: x + attended instead of attended alone, so that pretrained features pass unchanged at
            first. The non-local block has its residual path anyway.
        attention_reduction: channels / hidden channels of the channel gates.
        attention_init: initial weights of the gates of "cbam" and "se", a key of `GATE_INITS`.
    """

    global_ce_input: str = "reduced"
    attention: str = "cbam"
    attention_scope: str = "map"
    attention_residual: bool = True
    attention_reduction: int = 16
    attention_init: str = "he"

    def windows(self, branch: str, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Returns the windows of MGN after attention, see `attention_scope`."""
        if self.attention_scope not in SCOPES:
            raise errors.unknown("scope of the attention (attention_scope)", self.attention_scope, SCOPES)
        whole = self._attend(branch, x, train)
        if self.attention_scope == "map":
            return super().windows(branch, whole, train)
        stripes = {head: self._attend(head, stripe, train) for head, stripe in self.stripes(branch, x).items()}
        return {BRANCHES[branch][0]: whole, **stripes}

    def _attend(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        """Returns a map or a stripe [B, H, W, C] after the attention module `attention_<name>`."""
        options: dict[str, Any] = {"dtype": self.dtype, "name": f"attention_{name}"}
        if self.attention == "none":
            return x
        if self.attention == "nonlocal":
            return attention.NonLocal(x.shape[-1] // 2, **options)(x, train=train)
        if self.attention_init not in GATE_INITS:
            raise errors.unknown("initial values of the attention (attention_init)", self.attention_init, GATE_INITS)
        options["kernel_init"] = GATE_INITS[self.attention_init]
        if self.attention == "cbam":
            attended = attention.CBAM(self.attention_reduction, **options)(x, train=train)
        elif self.attention == "se":
            gate = attention.ChannelAttention(self.attention_reduction, use_max=False, use_bias=False, **options)
            attended = gate(x)
        else:
            raise errors.unknown("attention", self.attention, ATTENTIONS)
        return x + attended if self.attention_residual else attended
