"""Deliberate mistakes in AMFOR: fusion of depths, encoder, masks, HPR, part decoder."""

from tests.mutants import entries

_FOLDER = "tests/models/amfor"
_WHOLE = (
    f"{_FOLDER}/test_amfor_twin.py",
    f"{_FOLDER}/test_amfor_modules.py",
    f"{_FOLDER}/test_erasing.py",
    f"{_FOLDER}/test_amfor.py",
    f"{_FOLDER}/test_amfor_text.py",
)
network = entries.group("amfor", "reid_jax/models/amfor/amfor.py", *_WHOLE)
fusion = entries.group("amfor", "reid_jax/models/amfor/depth_fusion.py", *_WHOLE)
hpr = entries.group("amfor", "reid_jax/models/amfor/feature_decoder.py", *_WHOLE)
parts = entries.group("amfor", "reid_jax/models/amfor/part_decoder.py", *_WHOLE)
patches = entries.group("amfor", "reid_jax/losses/masked_patches.py", "tests/losses/test_masked_patches.py")
attention = entries.group("amfor", "reid_jax/nn/attention.py", *_WHOLE[:2])

MUTANTS = (
    # ---- AMFF
    fusion(
        "for depth, tokens in enumerate(depths))",
        "for depth, tokens in enumerate(depths[::-1]))",
        "AMFF: weights on the wrong depth",
    ),
    fusion(
        "jnp.stack([tokens[:, 0] for tokens in depths], axis=1)",
        "jnp.stack([tokens[:, 1] for tokens in depths], axis=1)",
        "AMFF: keys from a patch",
    ),
    fusion(
        "jnp.stack([tokens[:, 0] for tokens in depths], axis=1)",
        "jnp.stack([tokens.mean(1) for tokens in depths], axis=1)",
        "AMFF: keys from the mean token",
    ),
    fusion(
        "jnp.stack([tokens[:, 0] for tokens in depths], axis=1)",
        "jnp.stack([depths[-1][:, 0]] * len(depths), axis=1)",
        "AMFF: keys of the last depth alone",
    ),
    fusion(
        "self.ask_image(queries, classes, queries)",
        "self.ask_image(queries, classes, classes)",
        "AMFF: values are class tokens",
    ),
    fusion(
        "self.ask_image(queries, classes, queries)",
        "self.ask_image(queries, queries, queries)",
        "AMFF: the image is not asked",
    ),
    fusion(
        "self.ask_text(queries, text, text)[0]",
        "self.ask_text(queries, queries, queries)[0]",
        "AMFF: the text is not asked",
    ),
    fusion(
        "return self.queries + answer if self.residual else",
        "return answer if self.residual else",
        "AMFF: no residual around the text",
    ),
    fusion(
        "self.norm(queries + answer if self.residual else answer)",
        "self.norm(answer)",
        "AMFF: no residual around the image",
    ),
    fusion(
        "self.norm(queries + answer if self.residual else answer)",
        "queries + self.norm(answer)",
        "AMFF: normalization before the residual",
    ),
    fusion("self.norm(queries + answer if self.residual else answer)", "queries + answer", "AMFF: no normalization"),
    fusion("last[None, :, None], axis=1)", "last[None, :, None], axis=2)", "AMFF: softmax over channels"),
    fusion(
        "jnp.arange(self.layer + 1) == self.layer",
        "jnp.arange(self.layer + 1) == 0",
        "AMFF: head start for the embedding",
    ),
    fusion("scores + self.beta * last", "scores - self.beta * last", "AMFF: head start subtracted"),
    fusion("scores + self.beta * last", "scores + 0 * self.beta * last", "AMFF: no head start"),
    fusion(
        "alpha * mixed + (1 - alpha) * depths[-1]",
        "(1 - alpha) * mixed + alpha * depths[-1]",
        "AMFF: the gate turned around",
    ),
    fusion("alpha * mixed + (1 - alpha) * depths[-1]", "alpha * mixed + depths[-1]", "AMFF: the token is not reduced"),
    fusion(
        "alpha * mixed + (1 - alpha) * depths[-1]",
        "alpha * mixed + (1 - alpha) * depths[0]",
        "AMFF: the gate leads to the embedding",
    ),
    fusion("return nn.sigmoid(self.gate) if", "return self.gate if", "AMFF: the gate without sigmoid"),
    fusion(
        "        if self.reuse_fused:\n", "        if not self.reuse_fused:\n", "AMFF: later modules read fused tokens"
    ),
    fusion("        layer = len(depths)\n", "        layer = len(depths) + 1\n", "AMFF: after the block before"),
    fusion(
        "return tokens\n        text =", "return depths[0]\n        text =", "AMFF: other blocks read the embedding"
    ),
    fusion(
        "text = self.text_bank if text is None", "text = 0 * self.text_bank if text is None", "AMFF: the bank is zero"
    ),
    fusion('        if self.normalize == "none":\n', '        if self.normalize != "none":\n', "AMFF: raw weights"),
    fusion(
        "self.ask_text(queries, keys, queries)[0]",
        "self.ask_text(queries, keys, keys)[0]",
        "AMFF, figure: values from the text",
    ),
    fusion(
        '    text_value: str = "text"\n    residual: bool = True\n    normalize: str = "softmax"\n    beta: float = 2.0\n    gate_init: float = -2.0\n    alpha: float | None = None\n    dtype: Any = jnp.float32\n\n    def setup(self) -> None:\n        self.queries',
        '    text_value: str = "query"\n    residual: bool = True\n    normalize: str = "softmax"\n    beta: float = 2.0\n    gate_init: float = -2.0\n    alpha: float | None = None\n    dtype: Any = jnp.float32\n\n    def setup(self) -> None:\n        self.queries',
        "AMFF: values from the queries by default, of the module",
    ),
    network(
        "amff_gate_init: float = -2.0",
        "amff_gate_init: float = 2.0",
        "AMFF: gates open at the start",
        tests=("tests/recipes",),
        level="config",
    ),
    network("amff_beta: float = 2.0", "amff_beta: float = 0.0", "AMFF: no head start by default"),
    network(
        "amff_layers: tuple[int, ...] | str = (1, 2, 4, 6, 8, 10)",
        "amff_layers: tuple[int, ...] | str = (1, 2, 4, 6, 8, 11)",
        "AMFF: after the eleventh block",
        tests=("tests/recipes",),
        level="config",
    ),
    # ---- the encoder
    network(
        'fuse = self.amff and (mode == "" or self.is_initializing())',
        'fuse = self.amff and (mode != "" or self.is_initializing())',
        "AMFF: in the wrong mode",
    ),
    network(
        'transreid.Branch(backbone.block_fields(last), name="b1")(memory, train=train)',
        'transreid.Branch(backbone.block_fields(0), name="b1")(memory, train=train)',
        "b1 has the stochastic depth of the first block",
    ),
    network(
        "feature, patches = tokens[:, 0], tokens[:, 1:]",
        "feature, patches = tokens[:, -1], tokens[:, 1:]",
        "the global feature is a patch",
    ),
    network(
        "feature, patches = tokens[:, 0], tokens[:, 1:]",
        "feature, patches = tokens[:, 0], memory[:, 1:]",
        "GWAP reads block 11",
    ),
    network(
        "self._teacher_student(memory, masks, train)",
        "self._teacher_student(tokens, masks, train)",
        "the part decoder reads b1",
    ),
    network(
        'last = fields["depth"] - 1\n        backbone',
        'last = fields["depth"] - 2\n        backbone',
        "a block is skipped",
    ),
    network("sie_weight: float = 3.0", "sie_weight: float = 1.0", "camera embedding of weight 1"),
    # ---- masks, pooling, HPR
    network(
        "steady = part_decoder.pool(patches, jax.lax.stop_gradient(masks))",
        "steady = part_decoder.pool(patches, masks)",
        "diversity moves the masks",
    ),
    network("diverse.append(steady[:, 1:])", "diverse.append(steady[:, :-1])", "diversity of the foreground"),
    network(
        "        pooled, steady = batch_parts.separate(decoder(batch_parts.join((pooled, steady)), train=train), 2)",
        "        steady, pooled = batch_parts.separate(decoder(batch_parts.join((pooled, steady)), train=train), 2)",
        "the copy for diversity is what the heads read",
    ),
    network(
        'diverse += [outputs["feature/t"]] if training else []',
        'diverse += [outputs["feature/s"]] if training else []',
        "diversity of the student",
    ),
    network('self._head("f", pooled[:, 0], train)', 'self._head("f", pooled[:, 1], train)', "head f reads the head"),
    network(
        'self._head("b", pooled[:, 1:], train)', 'self._head("b", pooled[:, :-1], train)', "head b reads the foreground"
    ),
    parts(
        "jnp.concatenate((parts.sum(axis=-1, keepdims=True), parts), axis=-1)",
        "jnp.concatenate((masks.sum(axis=-1, keepdims=True), parts), axis=-1)",
        "the foreground holds the background",
    ),
    parts("    parts = masks[..., 1:]\n", "    parts = masks[..., :-1]\n", "parts begin at the background"),
    parts(
        "return total / jnp.maximum(weights.sum(axis=1), 1e-6)[..., None]",
        "return total / weights.shape[1]",
        "pooling: sums, not means",
    ),
    parts(
        "return logits, nn.softmax(logits, axis=-1)",
        "return logits, nn.softmax(logits, axis=1)",
        "masks: softmax over tokens",
    ),
    parts(
        "        logits = classify(normalized)\n",
        "        logits = classify(tokens.astype(jnp.float32))\n",
        "masks: no normalization",
    ),
    hpr("slots = slots + position_code", "slots = slots + 0 * position_code", "HPR: no positions"),
    hpr(
        "return np.concatenate((np.sin(angles), np.cos(angles)), axis=1)",
        "return np.concatenate((np.cos(angles), np.sin(angles)), axis=1)",
        "HPR: cosines first",
    ),
    hpr(
        "10000.0 ** (-np.arange(width // 2) / (width // 2))",
        "10000.0 ** (-np.arange(width // 2) / width)",
        "HPR: rates of positions",
    ),
    hpr(
        "return pooled + gain[None, :, None] * decoded",
        "return slots + gain[None, :, None] * decoded",
        "HPR: residual from the slots",
    ),
    hpr("return pooled + gain[None, :, None] * decoded", "return gain[None, :, None] * decoded", "HPR: no residual"),
    hpr(
        "return pooled + gain[None, :, None] * decoded",
        "return pooled + gain.mean() * decoded",
        "HPR: one gain for all slots",
    ),
    hpr(
        "jnp.concatenate((foreground, pooled[:, 1:]",
        "jnp.concatenate((pooled[:, :1].astype(self.dtype), pooled[:, 1:]",
        "HPR: stage A is not used",
    ),
    hpr(
        "jnp.concatenate((foreground[:, None], patches), axis=1)",
        "jnp.concatenate((patches, foreground[:, None]), axis=1)",
        "HPR: the foreground comes last",
    ),
    hpr('"linear")\n', '"nearest")\n', "HPR: the map is enlarged by repetition"),
    hpr(
        '        x = vit.layer_norm("norm", self.dtype)(x)\n        return vit.dense(tokens',
        '        vit.layer_norm("norm", self.dtype)(x)\n        return vit.dense(tokens',
        "HPR: no normalization at the end of a stage",
    ),
    hpr(
        "self.foreground_tokens(pooled[:, 0])",
        "self.foreground_tokens(pooled[:, 1])",
        "HPR: the map is that of the head",
    ),
    hpr("nn.initializers.constant(self.gain_init)", "nn.initializers.constant(10 * self.gain_init)", "HPR: gains of 1"),
    hpr("return upright[-1]", "return upright[0]", "HPR: a narrow map"),
    # ---- part decoder and visibility
    parts(
        "jnp.concatenate((jax.lax.stop_gradient(memory[:, :1]), table), axis=1)",
        "jnp.concatenate((memory[:, :1], table), axis=1)",
        "the class token gets a gradient",
    ),
    parts(
        "jnp.concatenate((jax.lax.stop_gradient(memory[:, :1]), table), axis=1)",
        "jnp.concatenate((jax.lax.stop_gradient(memory[:, 1:2]), table), axis=1)",
        "a patch speaks in place of the class token",
    ),
    parts("nn.relu(hidden)", "nn.gelu(hidden)", "part decoder: GELU"),
    parts(
        "decoded = (gathered + self._dense",
        "decoded = (queries + gathered + self._dense",
        "part decoder: a residual around the attention",
    ),
    parts(
        'decoded = (gathered + self._dense(width, "fc2")(nn.relu(hidden)))',
        'decoded = self._dense(width, "fc2")(nn.relu(hidden))',
        "part decoder: no residual around the feed-forward layer",
    ),
    parts(
        '(self._norm("norm_ffn")(gathered))',
        '(0 * self._norm("norm_ffn")(gathered) + gathered)',
        "part decoder: no normalization before the feed-forward layer",
    ),
    parts(
        'queries = queries + attention.MultiHead(self.heads, dtype=self.dtype, name="self")',
        'queries = attention.MultiHead(self.heads, dtype=self.dtype, name="self")',
        "part decoder: no residual around the queries",
    ),
    parts(
        "student = decoded[:, 1 : NUM_PARTS + 1]",
        "student = decoded[:, :NUM_PARTS]",
        "the student's first slot is the background",
    ),
    parts(
        "decoded[:, NUM_PARTS + 2 :]", "decoded[:, NUM_PARTS + 1 : -1]", "the teacher's first slot is the background"
    ),
    parts(
        "jnp.concatenate((jnp.ones_like(allowed), allowed), axis=1)",
        "jnp.concatenate((allowed, jnp.ones_like(allowed)), axis=1)",
        "the student is masked, the teacher is not",
    ),
    parts(
        "        tokens = memory[:, 1:]\n",
        "        tokens = jnp.concatenate((memory[:, :1], memory[:, 2:]), axis=1)\n",
        "queries attend to the class token",
    ),
    parts("    return masks > (0.5 if", "    return masks < (0.5 if", "masks open what they should close"),
    parts(
        "masks = jax.lax.stop_gradient(jnp.swapaxes(masks, 1, 2))\n    return masks > (0.5 if key is None else jax.random.uniform(key, masks.shape))",
        "masks = jax.lax.stop_gradient(jnp.swapaxes(masks, 1, 2))\n    return masks > 0.5",
        "masks are not drawn",
    ),
    attention(
        "jnp.where(allowed[:, None], logits, -1e4)",
        "jnp.where(allowed[:, None], logits, -1e4 + logits)",
        "a part without tokens attends by its logits",
    ),
    attention(
        "jnp.where(allowed[:, None], logits, -1e4)",
        "jnp.where(allowed[:, None], logits, 0.0)",
        "masked tokens have the logit 0",
    ),
    attention(
        "logits = logits * (width // self.heads) ** -0.5",
        "logits = logits * width**-0.5",
        "attention is scaled by the whole width",
    ),
    parts(
        "normalized = normalize(parts, train=train)",
        "normalized = parts + 0 * normalize(parts, train=train)",
        "visibility: no normalization",
    ),
    network(
        'outputs["visibility/t"] = see(teacher, train=train)',
        'outputs["visibility/t"] = see(student, train=train)',
        "the teacher's visibility is the student's",
    ),
    network(
        '{"visibility/s": see(student, train=train)}',
        '{"visibility/s": see(teacher, train=train)}',
        "visibility of the teacher's parts",
    ),
    parts("return jnp.argmax(counts, axis=0)", "return jnp.argmin(counts, axis=0)", "labels: the rarest"),
    parts(
        "(place >= start) & (place < start + patch)",
        "(place >= start) & (place < start + 1)",
        "labels: the corner of each token",
    ),
    parts(
        "stride * np.arange(count)[:, None]", "patch * np.arange(count)[:, None]", "labels: patches that do not overlap"
    ),
    parts(
        "(jnp.stack(counts, axis=1) >= least)",
        "(jnp.stack(counts, axis=1) > 0)",
        "visibility: a single pixel is enough",
    ),
    parts(
        "pixels * height * width / (VISIBLE_AT[0] * VISIBLE_AT[1])",
        "pixels",
        "visibility: the same pixels at every size",
    ),
    parts(
        "for label in range(1, NUM_PARTS + 1)]", "for label in range(NUM_PARTS)]", "visibility: from the background on"
    ),
    parts(
        "jnp.where(images.box_mask(boxes, height, width), 0, bands[None])",
        "jnp.where(images.box_mask(boxes, height, width), bands[None], bands[None])",
        "strips: erased places keep their part",
    ),
    network("visible_pixels: float = 20.0", "visible_pixels: float = 200.0", "visibility from 200 pixels on"),
)
