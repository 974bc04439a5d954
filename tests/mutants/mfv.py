"""Deliberate mistakes in MFV."""

from tests.mutants import entries

_TESTS = ("tests/models/mfv/test_mfv_twin.py", "tests/models/mfv/test_release_layout.py")
network = entries.group("mfv", "reid_jax/models/mfv/mfv.py", *_TESTS)
extractor = entries.group("mfv", "reid_jax/models/mfv/transformer_extractor.py", *_TESTS)
layout = entries.group("mfv", "reid_jax/models/mfv/release_layout.py", *_TESTS)

MUTANTS = (
    # ---- the network
    network(
        "jnp.concatenate((level, carried), axis=-1)",
        "jnp.concatenate((level, 0 * carried), axis=-1)",
        "the carried T(k-1) is zero",
    ),
    network(
        "jnp.concatenate((level, carried), axis=-1)",
        "jnp.concatenate((carried, level), axis=-1)",
        "the carried T(k-1) comes before the level",
    ),
    network("carried = results[k][0]", "carried = merged[..., : stage.width]", "the stage's input is carried on"),
    network("carried = results[k][0]", "carried = carried if k > 1 else results[k][0]", "T1 reaches stage 3, not T2"),
    network("depth=self.depths[k - 1]", "depth=self.depths[-k]", "depths of the stages are reversed"),
    network(
        "return pooling.max_pool(x, self.pool)", "return pooling.average_pool(x, self.pool)", "levels: average pool"
    ),
    network("pool=2 ** max(3 - k, 0)", "pool=2 ** max(k - 1, 0)", "levels are pooled in reverse"),
    network('maps[f"stage{k}"], train=train)  # [B', 'maps["stage3"], train=train)  # [B', "every level reads stage 3"),
    network(
        'self._head("b", pooling.global_average(stage4)',
        'self._head("b", pooling.global_max(stage4)',
        "head b: maximum instead of average",
    ),
    network(
        "return pooling.global_average(stage_map)", "return pooling.global_max(stage_map)", "stage: maximum of tokens"
    ),
    network("stage_map[:, ::2, ::2, ::4]", "stage_map[:, 1::2, ::2, ::4]", "grid head takes odd rows"),
    network(
        'f"triplet/{name}": descriptor,', 'f"triplet/{name}": neck,', "the triplet loss reads the vector after the neck"
    ),
    network(
        'f"logits/{name}": classifier(neck),', 'f"logits/{name}": classifier(descriptor),', "classifier before neck"
    ),
    network('f"feature/{name}": descriptor,', 'f"feature/{name}": neck,', "the feature is the neck's"),
    network('norm.BatchNorm(use_bias=False, name=f"bottleneck', 'norm.BatchNorm(name=f"bottleneck', "neck with shift"),
    network(
        "self.num_classes, use_bias=False, kernel_init=initializers.classifier",
        "self.num_classes, use_bias=True, kernel_init=initializers.classifier",
        "classifier with bias",
    ),
    network('outputs[f"triplet/t{k}"] = stage_map', "pass", "release: the triplet loss reads the descriptor"),
    network('"stage_triplet_on": "descriptor",', '"stage_triplet_on": "map",', "tokens: the triplet loss reads maps"),
    network('"prenorm": True,', '"prenorm": False,', "tokens: no normalization before the parts"),
    network(
        '"shared_stage_classifier": False,', '"shared_stage_classifier": True,', "tokens: one classifier for stages"
    ),
    network('"test_fusion": "per_part",', '"test_fusion": "concat",', "tokens: parts of the test feature unscaled"),
    network('"stage_head": "gap",', '"stage_head": "grid",', "tokens: grid descriptor"),
    network('parts = [outputs["neck/b"]]', 'parts = [outputs["feature/b"]]', "test feature before the neck"),
    network('outputs[f"neck/t{self.stages[-1]}"]', 'outputs[f"neck/t{self.stages[0]}"]', "test feature of stage 1"),
    network("stem_relu: bool = False", "stem_relu: bool = True", "backbone stem with ReLU"),
    network("last_stride: int = 2", "last_stride: int = 1", "last stride 1"),
    network("slots: int = 128", "slots: int = 64", "64 slots"),
    network("tfe_depths: tuple[int, ...] = (3, 3, 6)", "tfe_depths: tuple[int, ...] = (6, 3, 3)", "depths 6, 3, 3"),
    network("ffn_width: int = 2048", "ffn_width: int = 1024", "FFN of 1024"),
    network("dropout: float = 0.1", "dropout: float = 0.0", "no dropout"),
    network("self.width, kernel_init=initializers.torch_default", "self.width", "levels start with He's values"),
    network("else token\n", "else stage_map[:, 0, 0]\n", "class token is a corner of the map"),
    # ---- TFE
    extractor("axis=tuple(range(1, scores.ndim - 1))", "axis=-1", "softmax over slots"),
    extractor("axis=tuple(range(1, scores.ndim - 1))", "axis=1", "softmax over rows alone"),
    extractor(
        "return attention / (1e-9 + jnp.sum(attention, axis=-1, keepdims=True))",
        "return attention",
        "no second normalization",
    ),
    extractor(
        "(1e-9 + jnp.sum(attention, axis=-1", "(1e-9 + jnp.sum(attention, axis=1", "second normalization over tokens"
    ),
    extractor(
        "jax.nn.softmax(scores, axis=1)", "jax.nn.softmax(scores, axis=2)", "release: softmax over the other axis"
    ),
    extractor(
        "jnp.sum(attention, axis=2, keepdims=True)", "jnp.sum(attention, axis=3, keepdims=True)", "release: slots"
    ),
    extractor("query * self.head_width**-0.5", "query * self.head_width**-1.0", "attention scale 1 / d"),
    extractor("query * self.head_width**-0.5", "query * self.heads**-0.5", "attention scale by heads"),
    extractor(
        "attention = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)",
        "attention = jax.nn.softmax(scores.astype(jnp.float32), axis=-2)",
        "self-attention: softmax over queries",
    ),
    extractor('"bhts,bshd->bthd"', '"bhst,bshd->bthd"', "self-attention: weights transposed"),
    extractor("x = nn.gelu(x, approximate=False)", "x = nn.gelu(x, approximate=True)", "approximate GELU"),
    extractor("x = nn.gelu(x, approximate=False)", "x = nn.relu(x)", "ReLU in the FFN"),
    extractor("if index == 0:\n", "if index == 1:\n", "GELU after the second layer"),
    extractor('(self._normalize(x, f"norm{index}_attention"))', "(x)", "no normalization before the attention"),
    extractor(
        'ffn(self._normalize(x, f"norm{index}_ffn"), train=train)', "ffn(x, train=train)", "no normalization before FFN"
    ),
    extractor("x = x + self._attend(index)(", "x = self._attend(index)(", "attention without residual path"),
    extractor("x = x + ffn(", "x = ffn(", "FFN without residual path"),
    extractor("nn.LayerNorm(epsilon=1e-5", "nn.LayerNorm(epsilon=1e-3", "layer normalization's epsilon 1e-3"),
    extractor("((1, 1), (3, 1), (1, self.expansion))", "((3, 1), (1, 1), (1, self.expansion))", "stem: 3, 1, 1"),
    extractor(
        'x = nn.relu(norm.BatchNorm(dtype=self.dtype, name=f"bn{index}")(convolve(x), train=train))',
        'x = norm.BatchNorm(dtype=self.dtype, name=f"bn{index}")(convolve(x), train=train)',
        "stem without ReLU",
    ),
    extractor(
        "return x[..., :: self.expansion]",
        "return x[..., : x.shape[-1] // self.expansion]",
        "release: first channels kept",
    ),
    extractor(
        "partial(nn.Dense, use_bias=False, dtype", "partial(nn.Dense, use_bias=True, dtype", "memories with biases"
    ),
    extractor(
        "x = nn.Dropout(self.dropout, deterministic=not train)(x)",
        "x = nn.Dropout(self.dropout, deterministic=train)(x)",
        "dropout in evaluation",
    ),
    extractor("token = x[:, 0] if self.cls_token", "token = x[:, -1] if self.cls_token", "class token is the last"),
    extractor('x + self.param("pos_embed"', 'x - self.param("pos_embed"', "positions are subtracted"),
    # ---- the release's layout
    layout("halves = [reinterpret(x)[:, ::2]", "halves = [reinterpret(x)[:, 1::2]", "the other half is kept"),
    layout("for x in (level, carried)]", "for x in (carried, level)]", "halves in reverse"),
    layout("merged.transpose(0, 2, 3, 1)", "merged.transpose(0, 3, 2, 1)", "no map of NHWC"),
    layout("return tokens.swapaxes(1, 2)", "return tokens", "tokens are not transposed back"),
    layout(
        "level = level[..., :: level.shape[-1] // channels]",
        "level = level[..., :channels]",
        "first channels of a level",
    ),
)
