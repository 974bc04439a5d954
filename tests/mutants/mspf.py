"""Deliberate mistakes in OSFA and MSPF."""

from tests.mutants import entries

_TESTS = ("tests/models/mspf/test_mspf_twin.py",)
network = entries.group("mspf", "reid_jax/models/mspf/mspf.py", *_TESTS)
gates = entries.group("mspf", "reid_jax/models/mspf/channel_spatial.py", *_TESTS)
patches = entries.group("mspf", "reid_jax/models/mspf/multi_patch.py", *_TESTS)

MUTANTS = (
    gates(
        '"channel_spatial": ("channel", "spatial"),',
        '"channel_spatial": ("spatial", "channel"),',
        "spatial before channel",
    ),
    gates(
        '"spatial_channel": ("spatial", "channel"),',
        '"spatial_channel": ("channel", "spatial"),',
        "OSFA: channel before spatial",
    ),
    gates('order: str = "channel_spatial"', 'order: str = "spatial_channel"', "default order of the module"),
    gates("return x + gathered", "return gathered", "position attention without residual path"),
    gates(
        "x.shape[-1] // self.reduction, use_bias=True, dtype=self.dtype, name=name",
        "x.shape[-1] // self.reduction, use_bias=False, dtype=self.dtype, name=name",
        "queries without bias",
    ),
    gates('self.param("gamma", nn.initializers.zeros', 'self.param("gamma", nn.initializers.ones', "gamma starts at 1"),
    gates(
        "query, key), axis=-1)",
        "query, key), axis=-2)",
        "position attention: softmax over queries",
    ),
    gates(
        "query, key), axis=-1)",
        "query, key) * query.shape[-1] ** -0.5, axis=-1)",
        "position attention is scaled",
    ),
    gates(
        "(gamma * gathered.reshape(x.shape), train=train)",
        "(gathered.reshape(x.shape), train=train)",
        "gamma is not used",
    ),
    gates("return x * nn.sigmoid(layer(", "return x + nn.sigmoid(layer(", "pixel gate is added"),
    gates(
        "hidden = nn.relu(layer(x.shape[-1] // self.reduction",
        "hidden = (layer(x.shape[-1] // self.reduction",
        "pixel gate without ReLU",
    ),
    gates(
        '{"kernel_init": initializers.torch_default, "dtype"',
        '{"kernel_init": initializers.kaiming_fan_in, "dtype"',
        "CBAM starts with He's values",
    ),
    network(
        'attention: str = "channel_spatial"\n    attention_kind: str = "cbam"\n    attention_at: tuple[int, ...] = (3,)\n    sam_maps: tuple[int, ...] = (2, 3, 4)\n    mpf',
        'attention: str = "spatial_channel"\n    attention_kind: str = "cbam"\n    attention_at: tuple[int, ...] = (3,)\n    sam_maps: tuple[int, ...] = (2, 3, 4)\n    mpf',
        "default order of MSPF",
    ),
    network(
        "trunk.stage(g3, 5, train=train).astype(jnp.float32), cut=True).max((1, 2))",
        "trunk.stage(g3, 5, train=train).astype(jnp.float32), cut=True).mean((1, 2))",
        "global average",
    ),
    network(
        "g3 = trunk.stage(self._attend(g2, 3, train), 4, train=train)",
        "g3 = trunk.stage(g2, 4, train=train) + 0 * self._attend(g2, 3, train).sum()",
        "attention is not used",
    ),
    network(
        "maps[4] = trunk.stage(x2, 4, train=train) if attended else g3",
        "maps[4] = g3",
        "the local path reads the attended map",
    ),
    network(
        "maps = {2: x1, 3: x2}",
        "maps = {2: x1, 3: g2 if not attended else self._attend(g2, 3, train)}",
        "local map 3 is attended",
    ),
    network(
        "x2 = trunk.stage(x1, 3, train=train) if twice else g2", "x2 = g2", "attention after 2 reaches the local path"
    ),
    network("return striped.mean((2, 3))", "return striped.max((2, 3))", "stripes: maximum"),
    network("STRIPES = 4", "STRIPES = 2", "two stripes"),
    network(
        "reshape(batch, STRIPES, height // STRIPES, width, channels)",
        "reshape(batch, height // STRIPES, STRIPES, width, channels).swapaxes(1, 2)",
        "stripes interleaved",
    ),
    network(
        "for stage_map in aligned], axis=-1)",
        "for stage_map in reversed(aligned)], axis=-1)",
        "maps in reverse",
    ),
    network(
        'f_global = jnp.concatenate((f_global, outputs["feature/patches"]), axis=-1)',
        'f_global = jnp.concatenate((outputs["feature/patches"], f_global), axis=-1)',
        "f_P before f_G",
    ),
    network(
        'f_global = jnp.concatenate((f_global, outputs["feature/patches"]), axis=-1)',
        'f_global = f_global + outputs["feature/patches"]',
        "f_P is added to f_G",
    ),
    network(
        'kernel_init=_linear, name=f"classifier_{name}")(neck)',
        'kernel_init=_linear, name=f"classifier_{name}")(feature)',
        "classifier before the neck",
    ),
    network(
        'return {f"feature/{name}": feature, f"neck',
        'return {f"feature/{name}": neck, f"neck',
        "metric losses read the neck",
    ),
    network(
        'outputs[f"neck/{name}"]) for name in self.branches]',
        'outputs[f"feature/{name}"]) for name in self.branches]',
        "test feature before the neck",
    ),
    network(
        'halves = [distances.normalize_rows(outputs[f"neck/{name}"])',
        'halves = [(outputs[f"neck/{name}"])',
        "halves of the test feature unscaled",
    ),
    network(
        'norm.BatchNorm(name=f"neck_{name}")',
        'norm.BatchNorm(use_bias=False, name=f"neck_{name}")',
        "neck without shift",
    ),
    network("f_global = self.fc(maximum)", "f_global = nn.relu(self.fc(maximum))", "ReLU on f_G"),
    network(
        "_linear = nn.initializers.normal(0.01)",
        "_linear = nn.initializers.normal(0.001)",
        "linear layers start at .001",
    ),
    network("mpf_patches: tuple[int, ...] = (2, 4)", "mpf_patches: tuple[int, ...] = (2, 4, 8)", "patches 2, 4, 8"),
    network(
        "sam_maps: tuple[int, ...] = (2, 3, 4)\n    mpf",
        "sam_maps: tuple[int, ...] = (2, 3)\n    mpf",
        "two local maps",
    ),
    network(
        "attention_at: tuple[int, ...] = (3,)\n    sam_maps: tuple[int, ...] = (2, 3, 4)\n    mpf",
        "attention_at: tuple[int, ...] = (2, 3)\n    sam_maps: tuple[int, ...] = (2, 3, 4)\n    mpf",
        "attention after 2, too",
    ),
    patches("return sum(maxima[1:], maxima[0])", "return maxima[0]", "the finer level is not added"),
    patches("return sum(maxima[1:], maxima[0])", "return jnp.stack(maxima).max(0)", "maximum of levels"),
    patches("maxima = [level_map.max((1, 2)) for", "maxima = [level_map.mean((1, 2)) for", "patches: average"),
    patches(
        "return sum(maps[1:], maps[0]).max((1, 2))",
        "return sum(m.max((1, 2)) for m in maps)",
        "fusion of maps is that of vectors",
    ),
    patches("2: (2, 1), 4: (2, 2)", "2: (1, 2), 4: (2, 2)", "left and right halves"),
    patches("2: (2, 1), 4: (2, 2)", "2: (2, 1), 4: (4, 1)", "four stripes as quadrants"),
    patches("else (patches, 1)", "else (1, patches)", "vertical stripes"),
    patches('"b (r h) (c w) d -> (b r c) h w d"', '"b (h r) (w c) d -> (b r c) h w d"', "patches take every r-th row"),
    patches(
        '"b (r h) (c w) d -> (b r c) h w d"',
        '"b (r h) (c w) d -> (r c b) h w d"',
        "patches of an image are not adjacent",
    ),
    patches('"(b r c) h w d -> b (r h) (c w) d"', '"(b c r) h w d -> b (r h) (c w) d"', "reassembled by columns"),
    patches(
        'shared or osnet.Trunk(self.size, self.kind, self.dtype, self.depths, name=f"level{count}")',
        'osnet.Trunk(self.size, self.kind, self.dtype, self.depths, name=f"level{count}")',
        "levels do not share",
    ),
    network(
        "        g3 = trunk.stage(self._attend(g2, 3, train), 4, train=train)\n",
        "        if attended:\n            trunk.stage(x2, 4, train=train)\n        g3 = trunk.stage(self._attend(g2, 3, train), 4, train=train)\n",
        "the local path runs first, too",
    ),
)
