"""Deliberate mistakes in MGN, MGAF and the attention on maps."""

from tests.mutants import entries

network = entries.group("mgaf", "reid_jax/models/mgaf.py", "tests/models/test_mgaf_twin.py")
attention = entries.group("mgaf", "reid_jax/nn/attention.py", "tests/models/test_mgaf_twin.py")
pool = entries.group("mgaf", "reid_jax/nn/global_pool.py", "tests/models/test_mgaf_twin.py")
ops = entries.group("mgaf", "reid_jax/ops/pooling.py", "tests/models/test_mgaf_twin.py", "tests/ops/test_pooling.py")

MUTANTS = (
    network('pooling: str = "max"', 'pooling: str = "average"', "average pooling by default"),
    network('name=f"pool_{name}")(window)', 'name=f"pool_{name}")(window[:, :1])', "pooling of the first row alone"),
    network(
        'return nn.relu(norm.BatchNorm(scale_init=_around_one, name="bn")(x, train=train))',
        'return norm.BatchNorm(scale_init=_around_one, name="bn")(nn.relu(x), train=train)',
        "reduction: ReLU before the normalization",
    ),
    network(
        'return nn.relu(norm.BatchNorm(scale_init=_around_one, name="bn")(x, train=train))',
        'return norm.BatchNorm(scale_init=_around_one, name="bn")(x, train=train)',
        "reduction without ReLU",
    ),
    network(
        'self.features, 1, kernel_init=initializers.kaiming_fan_in, name="conv")(x[:, None, None])',
        'self.features, 1, use_bias=True, kernel_init=initializers.kaiming_fan_in, name="conv")(x[:, None, None])',
        "reduction with bias",
    ),
    network(
        'kernel_init=initializers.kaiming_fan_in, name="conv")(x[:, None, None])',
        'kernel_init=initializers.kaiming_fan_out, name="conv")(x[:, None, None])',
        "reduction starts by fan-out",
    ),
    network("return 1.0 + 0.02 * jax", "return 1.0 + 0.2 * jax", "gain of the reduction starts N(1, .2)"),
    network(
        'last_stride=2 if name == "g" else 1', 'last_stride=1 if name == "g" else 2', "small and large maps swapped"
    ),
    network("third_stride=1,", "third_stride=2,", "layer3 of a branch with a step"),
    network('"p2": ("g2", 2), "p3": ("g3", 3)', '"p2": ("g2", 3), "p3": ("g3", 2)', "2 and 3 stripes swapped"),
    network("jnp.split(x, count, axis=1)", "jnp.split(x, count, axis=2)", "vertical stripes"),
    network("enumerate(cut)}", "enumerate(reversed(cut))}", "stripes from the bottom"),
    network(
        'self.global_ce_input == "pooled" and name',
        'self.global_ce_input == "reduced" and name',
        "classifier's input swapped",
    ),
    network(
        'self.global_ce_input == "pooled" and name.startswith("g")',
        'self.global_ce_input == "pooled"',
        "stripes too are classified before the reduction",
    ),
    network('global_ce_input: str = "reduced"', 'global_ce_input: str = "pooled"', "MGAF classifies pooled vectors"),
    network('global_ce_input: str = "pooled"', 'global_ce_input: str = "reduced"', "MGN classifies reduced vectors"),
    network(
        "return (*(BRANCHES[branch][0] for branch in self.branches), *parts)",
        "return (*parts, *(BRANCHES[branch][0] for branch in self.branches))",
        "parts first in the test feature",
    ),
    network(
        'outputs[f"feature/{head}"] for head in self.heads',
        'outputs[f"logits/{head}"] for head in self.heads',
        "test feature of logits",
    ),
    network(
        "return x + attended if self.attention_residual else attended",
        "return attended",
        "attention without residual path",
    ),
    network(
        "return x + attended if self.attention_residual else attended",
        "return x * attended if self.attention_residual else attended",
        "attention multiplied",
    ),
    network(
        "return super().windows(branch, whole, train)",
        "return super().windows(branch, x, train)",
        "attention is not used",
    ),
    network(
        "{head: self._attend(head, stripe, train)",
        "{head: self._attend(branch, stripe, train)",
        "stripes share a module",
    ),
    network(
        "return {BRANCHES[branch][0]: whole, **stripes}",
        "return {BRANCHES[branch][0]: x, **stripes}",
        "scope stripe: whole map without attention",
    ),
    network("attention_reduction: int = 16", "attention_reduction: int = 8", "attention reduction 8"),
    network("use_max=False, use_bias=False, **options", "use_max=True, use_bias=False, **options", "SE with maximum"),
    network("attention.NonLocal(x.shape[-1] // 2", "attention.NonLocal(x.shape[-1] // 4", "non-local of a quarter"),
    network(
        'for name in params[f"branch_{branch}"]}',
        'for name in params[f"branch_{branch}"]} if branch == "x" else params[f"branch_{branch}"]',
        "branches start different",
    ),
    network("stop=(3, 1), dtype", "stop=(3, 0), dtype", "trunk ends one block early"),
    network(
        'maps["stage3" if start == (3, 1) else "stage2"]',
        'maps["stage3" if start != (3, 0) else "stage1"]',
        "larger branch 3 reads stage 1",
    ),
    # ---- attention
    attention(
        'x = ChannelAttention(self.reduction, name="channel", **options)(x)\n        return SpatialAttention(name="spatial", **options)(x, train=train)',
        'x = SpatialAttention(name="spatial", **options)(x, train=train)\n        return ChannelAttention(self.reduction, name="channel", **options)(x)',
        "CBAM: spatial before channel",
    ),
    attention("gate = gate + back(", "gate = gate * back(", "channel gate: product of the two pools"),
    attention(
        "gate + back(nn.relu(hidden(pooling.global_max(x)",
        "gate + back(nn.relu(hidden(pooling.global_average(x)",
        "channel gate: average twice",
    ),
    attention(
        "return x * nn.sigmoid(gate)[:, None, None]",
        "return x + nn.sigmoid(gate)[:, None, None]",
        "channel gate is added",
    ),
    attention(
        "return x * nn.sigmoid(gate)[:, None, None]",
        "return x * nn.softmax(gate)[:, None, None]",
        "channel gate: softmax",
    ),
    attention(
        "jnp.stack((x.max(-1), x.mean(-1)), axis=-1)",
        "jnp.stack((x.mean(-1), x.max(-1)), axis=-1)",
        "spatial gate: mean before maximum",
    ),
    attention(
        "jnp.stack((x.max(-1), x.mean(-1)), axis=-1)",
        "jnp.stack((x.max(-1), x.max(-1)), axis=-1)",
        "spatial gate: maximum twice",
    ),
    attention("kernel_size: int = 7", "kernel_size: int = 3", "spatial gate: 3 x 3"),
    attention("reduction: int = 16\n    use_max", "reduction: int = 4\n    use_max", "channel gate: reduction 4"),
    attention(
        'return x + norm.BatchNorm(scale_init=nn.initializers.zeros, dtype=self.dtype, name="bn")(out',
        'return norm.BatchNorm(scale_init=nn.initializers.zeros, dtype=self.dtype, name="bn")(out',
        "non-local without residual path",
    ),
    attention(
        "scale_init=nn.initializers.zeros",
        "scale_init=nn.initializers.ones",
        "non-local does not start as the identity",
    ),
    attention('"bqc,bkc->bqk", query, key', '"bqc,bkc->bqk", query, query', "non-local: keys are the queries"),
    attention(
        'jnp.einsum("bqk,bkc->bqc", weights, value)',
        'jnp.einsum("bqk,bkc->bqc", weights, key)',
        "non-local: values are the keys",
    ),
    attention(
        'weights = nn.softmax(logits, axis=-1).astype(self.dtype)\n        gathered = rearrange(jnp.einsum("bqk',
        'weights = nn.softmax(logits, axis=-2).astype(self.dtype)\n        gathered = rearrange(jnp.einsum("bqk',
        "non-local: softmax over queries",
    ),
    # ---- pooling
    pool(
        'if self.kind == "average":\n            return pooling.global_average(x)',
        'if self.kind == "average":\n            return pooling.global_max(x)',
        "average is maximum",
    ),
    pool(
        'if self.kind == "max":\n            return pooling.global_max(x)',
        'if self.kind == "max":\n            return pooling.global_average(x)',
        "maximum is average",
    ),
    pool("power: float = 3.0", "power: float = 1.0", "GeM starts with power 1"),
    ops("raised.mean((1, 2)) ** (1.0 / jnp.reshape(power, (1, -1)))", "raised.mean((1, 2))", "GeM without root"),
    ops(
        "jnp.maximum(images.astype(jnp.float32), epsilon) **",
        "jnp.abs(images.astype(jnp.float32)) **",
        "GeM of magnitudes",
    ),
    ops(
        "return images.astype(jnp.float32).max((1, 2))",
        "return images.astype(jnp.float32).max(1).mean(1)",
        "maximum over rows, mean over columns",
    ),
    ops(".mean((2, 4))", ".max((2, 4))", "average pool takes maxima"),
    ops("constant_values=-jnp.inf", "constant_values=0.0", "max pool pads zeros"),
)
