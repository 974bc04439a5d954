"""Deliberate mistakes in OSNet, BoT, TransReID, and the transformer and residual networks below them."""

from tests.mutants import entries

TWIN = "tests/models/test_baselines_twin.py"
OSNET = ("tests/models/backbones/test_osnet_twin.py", "tests/models/backbones/test_osnet.py")
osnet = entries.group("osnet", "reid_jax/models/backbones/osnet.py", *OSNET)
bot = entries.group("bot", "reid_jax/models/bot.py", TWIN, "tests/models/test_bot.py")
heads = entries.group("bot", "reid_jax/nn/heads.py", TWIN, "tests/nn/test_heads.py")
norm = entries.group("bot", "reid_jax/nn/norm.py", "tests/nn/test_norm.py")
resnet = entries.group("bot", "reid_jax/models/backbones/resnet.py", "tests/models/backbones/test_resnet.py")
transreid = entries.group("transreid", "reid_jax/models/transreid.py", TWIN, "tests/models/test_transreid.py")
vit = entries.group("transreid", "reid_jax/models/backbones/vit.py", TWIN, "tests/models/backbones/test_vit.py")

MUTANTS = (
    # ---- OSNet
    osnet(
        "[gate(stream, train=train) * stream for stream in streams]",
        "[stream for stream in streams]",
        "streams without gates",
    ),
    osnet(
        "[gate(stream, train=train) * stream for stream in streams]",
        "[gate(sum(streams), train=train) * stream for stream in streams]",
        "one gate of the sum",
    ),
    osnet(
        "[gate(stream, train=train) * stream for stream in streams]",
        "[gate(stream, train=train) + stream for stream in streams]",
        "gates are added",
    ),
    osnet("REDUCTION = 4  #", "REDUCTION = 2  #", "channels inside a block"),
    osnet("GATE_REDUCTION = 16", "GATE_REDUCTION = 8", "gate's hidden channels"),
    osnet("pooled = pooling.global_average(x)", "pooled = pooling.global_max(x)", "gate of the maximum"),
    osnet(
        'return nn.sigmoid(outlined.keep(dense(self.features, name="fc2")(hidden)))',
        'return nn.softmax(outlined.keep(dense(self.features, name="fc2")(hidden)))',
        "gate: softmax",
    ),
    osnet("hidden = nn.relu(outlined.keep(dense(", "hidden = nn.gelu(outlined.keep(dense(", "gate: GELU"),
    osnet(
        'x = outlined.keep(conv.Conv(self.features, 1, dtype=self.dtype, name="conv1")(x))',
        'x = nn.relu(outlined.keep(conv.Conv(self.features, 1, dtype=self.dtype, name="conv1")(x)))',
        "light convolution: ReLU between",
    ),
    osnet(
        'activate=False, dtype=self.dtype, name="conv3"',
        'activate=True, dtype=self.dtype, name="conv3"',
        "ReLU before the sum",
    ),
    osnet(
        'activate=False, dtype=self.dtype, name="downsample"',
        'activate=True, dtype=self.dtype, name="downsample"',
        "ReLU on the shortcut",
    ),
    osnet("y = residual + shortcut", "y = residual", "no shortcut"),
    osnet("return fusion.materialize(nn.relu(y))", "return fusion.materialize(y)", "no ReLU after the sum"),
    osnet('"ibn": (("sum", "sum")', '"ibn": (("inside", "inside")', "IBN inside"),
    osnet(
        '"ain": (("inside", "inside"), ("none", "inside"), ("inside", "none"))',
        '"ain": (("inside", "inside"), ("inside", "none"), ("none", "inside"))',
        "AIN at other places",
    ),
    osnet(
        "feature = nn.relu(self.fc_norm(self.fc(pooling.global_average(conv5)), train=train))",
        "feature = self.fc_norm(self.fc(pooling.global_average(conv5)), train=train)",
        "feature without ReLU",
    ),
    osnet("self.fc(pooling.global_average(conv5))", "self.fc(pooling.global_max(conv5))", "global maximum"),
    osnet(
        "pooling.average_pool(transition(x, train=train), 2)",
        "pooling.max_pool(transition(x, train=train), 2)",
        "transition: maximum",
    ),
    osnet(
        "pooling.max_pool(x, 3, strides=2, padding=1)",
        "pooling.max_pool(x, 2, strides=2, padding=0)",
        "stem pool 2 x 2",
    ),
    osnet(
        "_linear = nn.initializers.normal(0.01)", "_linear = nn.initializers.normal(0.1)", "linear layers start at .1"
    ),
    # ---- BoT
    bot("last_stride: int = 1", "last_stride: int = 2", "last stride 2"),
    bot("stem_relu: bool = False", "stem_relu: bool = True", "stem with ReLU"),
    bot('pooling: str = "average"', 'pooling: str = "max"', "maximum pooling by default"),
    bot('test_feature: str = "neck"', 'test_feature: str = "feature"', "test feature before the neck"),
    bot(
        'heads.head_outputs("b", feature, neck, logits)',
        'heads.head_outputs("b", neck, neck, logits)',
        "metric losses read the neck",
    ),
    bot(
        'distances.normalize_rows(outputs[f"{self.test_feature}/b"])',
        'outputs[f"{self.test_feature}/b"]',
        "test feature without unit length",
    ),
    heads(
        'norm.BatchNorm(use_bias=False, name="bottleneck")',
        'norm.BatchNorm(use_bias=True, name="bottleneck")',
        "neck with shift",
    ),
    heads("return neck, classifier(neck)", "return neck, classifier(feature)", "classifier before the neck"),
    heads(
        "self.num_classes, use_bias=False, kernel", "self.num_classes, use_bias=True, kernel", "classifier with bias"
    ),
    heads(
        'f"feature/{name}": feature, f"neck/{name}": neck',
        'f"feature/{name}": neck, f"neck/{name}": feature',
        "feature and neck swapped",
    ),
    norm("momentum: float = 0.9", "momentum: float = 0.99", "momentum .99"),
    norm("epsilon: float = 1e-5\n    use_scale", "epsilon: float = 1e-3\n    use_scale", "epsilon 1e-3"),
    norm("(1 - self.momentum) * unbiased", "(1 - self.momentum) * variance", "running variance is the biased one"),
    norm(
        "variance = jnp.square(x - mean).mean(axes, keepdims=keepdims)",
        "variance = jnp.square(x - mean).mean(axes, keepdims=keepdims) * 1.01",
        "the batch's variance is not the biased one",
    ),
    norm(
        "self.momentum * running_mean.value + (1 - self.momentum) * mean",
        "(1 - self.momentum) * running_mean.value + self.momentum * mean",
        "momentum reversed",
    ),
    norm(
        "mean, variance = _moments(x, (1, 2), True)",
        "mean, variance = _moments(x, (0, 1, 2), True)",
        "instance normalization over the batch",
    ),
    norm(
        'first = InstanceNorm(dtype=self.dtype, name="IN")(x[..., :half])\n        second = BatchNorm(dtype=self.dtype, name="BN")(x[..., half:]',
        'first = InstanceNorm(dtype=self.dtype, name="IN")(x[..., half:])\n        second = BatchNorm(dtype=self.dtype, name="BN")(x[..., :half]',
        "IBN: halves swapped",
    ),
    # ---- TransReID
    transreid(
        "return jnp.roll(tokens, 1 - shift, axis=1)", "return jnp.roll(tokens, -shift, axis=1)", "shift by one more"
    ),
    transreid(
        "return jnp.roll(tokens, 1 - shift, axis=1)",
        "return jnp.roll(tokens, shift - 1, axis=1)",
        "shift the other way",
    ),
    transreid("tokens[:, -2:-1]", "tokens[:, -1:]", "shuffle repeats the last token"),
    transreid(
        "patches = shuffle(rotate(patches, shift), groups)",
        "patches = rotate(shuffle(patches, groups), shift)",
        "shuffle before shift",
    ),
    transreid("patches = shuffle(rotate(patches, shift), groups)", "patches = shuffle(patches, groups)", "no shift"),
    transreid(
        "patches[:, part * length : (part + 1) * length]", "patches[:, part :: parts][:, :length]", "parts interleaved"
    ),
    transreid("shift: int = 5", "shift: int = 8", "shift 8"),
    transreid("shuffle_groups: int = 2", "shuffle_groups: int = 4", "four groups"),
    transreid('last = fields["depth"] - 1', 'last = fields["depth"]', "local branches follow the last block"),
    transreid('test_feature: str = "feature"', 'test_feature: str = "neck"', "test feature after the neck"),
    transreid("sie_weight: float = 3.0", "sie_weight: float = 1.0", "camera embedding's weight 1"),
    transreid(
        "outputs |= heads.head_outputs(name, feature, neck, logits)",
        "outputs |= heads.head_outputs(name, neck, neck, logits)",
        "metric losses read the neck",
    ),
    transreid('(("g", tokens[:, 0])', '(("g", tokens.mean(1))', "global feature: average of tokens"),
    transreid(
        "distances.normalize_rows(self.joined(outputs, self.test_feature))",
        "self.joined(outputs, self.test_feature)",
        "test feature without unit length",
    ),
    vit(
        "index = index * count + jnp.clip(batch[key], 0, count - 1)",
        "index = index + jnp.clip(batch[key], 0, count - 1)",
        "camera and view share rows",
    ),
    vit(
        "jnp.where(known[:, None, None], self.sie",
        "jnp.where(known[:, None, None] | True, self.sie",
        "unknown cameras get a row",
    ),
    vit(
        "scale = query.shape[-1] ** -0.5 if scale is None",
        "scale = query.shape[-1] ** -1.0 if scale is None",
        "attention scale 1 / d",
    ),
    vit(
        "weights = nn.softmax(logits * scale, axis=-1)",
        "weights = nn.softmax(logits * scale, axis=-2)",
        "softmax over queries",
    ),
    vit(
        "nn.gelu(enter(x), approximate=False)",
        "nn.gelu(enter(x), approximate=True)",
        "approximate GELU",
    ),
    vit(
        "return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)",
        "return nn.LayerNorm(epsilon=1e-3, use_fast_variance=False, dtype=dtype, name=name)",
        "epsilon 1e-3",
    ),
    vit(
        "tokens = jnp.concatenate((first, patches), axis=1)",
        "tokens = jnp.concatenate((patches, first), axis=1)",
        "class token last",
    ),
    vit("jnp.where(keep, branch / (1.0 - rate)", "jnp.where(keep, branch", "stochastic depth is not scaled up"),
    vit("1.0 - rate, (branch.shape[0], 1, 1)", "1.0 - rate, branch.shape", "stochastic depth drops entries"),
    vit("return tokens if self.stop is not None else self.norm(tokens)", "return tokens", "no final normalization"),
    vit('"linear", antialias=False', '"nearest", antialias=False', "positions by nearest neighbor"),
    vit(
        "return np.concatenate((positions[:, :1], resized), axis=1)",
        "return np.concatenate((resized, positions[:, :1]), axis=1)",
        "class token's position last",
    ),
)
