"""Deliberate mistakes in CFAT: bridges, generator, losses, encoder, and the machinery of its teacher."""

from tests.mutants import entries

_TWIN = ("tests/models/test_cfat_twin.py", "tests/models/test_cfat.py")
_VIT = ("tests/models/test_cfat_twin.py", "tests/models/amfor/test_amfor_twin.py", "tests/models/backbones/test_vit.py")
_JPM = ("tests/models/test_cfat_twin.py", "tests/models/test_transreid.py")
_LOSSES = ("tests/losses/test_contrastive.py",)
network = entries.group("cfat", "reid_jax/models/cfat.py", *_TWIN)
contrast = entries.group("cfat", "reid_jax/losses/contrastive.py", *_LOSSES)
bridge = entries.group("cfat", "reid_jax/losses/bridge.py", *_LOSSES)
encoder = entries.group("cfat", "reid_jax/models/backbones/vit.py", *_VIT)
jigsaw = entries.group("cfat", "reid_jax/models/transreid.py", *_JPM)
extra = entries.group("cfat", "reid_jax/train/extras.py", "tests/models/test_cfat_twin.py", "tests/train/test_state.py")
passes = entries.group("cfat", "reid_jax/train/objective.py", "tests/models/test_cfat_twin.py")
terms = entries.group(
    "cfat", "reid_jax/losses/terms.py", "tests/models/test_cfat_twin.py", "tests/losses/test_terms.py"
)
phase = entries.group("cfat", "reid_jax/train/state.py", "tests/models/test_cfat_twin.py", "tests/train/test_state.py")
update = entries.group("cfat", "reid_jax/train/step.py", "tests/train/test_passes.py", "tests/train/test_step.py")

MUTANTS = (
    # ---- bridges and generator
    network(
        "distances.normalize_rows(t * teacher + (1.0 - t) * student, epsilon=1e-6)",
        "distances.normalize_rows((1.0 - t) * teacher + t * student, epsilon=1e-6)",
        "bridge: from the other end",
    ),
    network(
        "distances.normalize_rows(t * teacher + (1.0 - t) * student, epsilon=1e-6)",
        "t * teacher + (1.0 - t) * student",
        "bridge: of any length",
    ),
    network(
        "teacher, student = distances.normalize_rows(teacher), distances.normalize_rows(student)\n",
        "teacher, student = teacher, student\n",
        "bridge: between features of any length",
    ),
    network('if norm == "true_norm":', 'if norm != "true_norm":', "bridge: the two norms exchanged"),
    network("2.0 * t * (1.0 - t) * agreement", "t * (1.0 - t) * agreement", "bridge: the code's formula without the 2"),
    network("self.decoder(mean + noise * sigma)", "self.decoder(mean)", "generator: nothing is drawn"),
    network("self.decoder(mean + noise * sigma)", "self.decoder(mean + noise)", "generator: noise of unit size"),
    network(
        "return self.decoder(mean + noise * sigma), mean, sigma",
        "return self.decoder(mean + noise * sigma), sigma, mean",
        "generator: mean and deviation exchanged",
    ),
    network(
        'x = nn.relu(_dense(self.hidden, feature, "linear"))',
        'x = _dense(self.hidden, feature, "linear")',
        "generator: no ReLU in the encoder",
    ),
    network(
        'nn.relu(_dense(self.hidden, code, "linear1"))',
        '_dense(self.hidden, code, "linear1")',
        "generator: no ReLU in the decoder",
    ),
    network("nn.softplus(raw) + 1e-4 if", "nn.softplus(raw) if", "generator: no floor of the deviation"),
    network('nn.softplus(raw) + 1e-4 if self.sigma == "softplus" else raw', "raw", "generator: raw deviations"),
    network(
        '    bfg_sigma: str = "softplus"\n    bfg_out: str = "linear"\n',
        '    bfg_sigma: str = "raw"\n    bfg_out: str = "linear"\n',
        "generator: raw deviations by default",
    ),
    network(
        '    bfg_sigma: str = "softplus"\n    bfg_out: str = "linear"\n',
        '    bfg_sigma: str = "softplus"\n    bfg_out: str = "sigmoid"\n',
        "generator: sigmoid output by default",
    ),
    network(
        "generated, mean, sigma = generator(feed(student), keys[0])",
        "generated, mean, sigma = generator(feed(teacher), keys[0])",
        "generator reads the teacher's feature: a leak",
    ),
    network(
        'held = jax.lax.stop_gradient(self.variables["params"]["bfg"])',
        'held = self.variables["params"]["bfg"]',
        "generator: held features train it",
    ),
    network(
        "generated, mean, sigma = generator(feed(student), keys[0])",
        "generated, mean, sigma = generator(between, keys[0])",
        "generator reads the bridge: a leak",
    ),
    network(
        "_, bridge_mean, bridge_sigma = generator(between, keys[1])",
        "_, bridge_mean, bridge_sigma = generator(feed(teacher), keys[1])",
        "the bridge's code is the teacher's",
    ),
    network(
        "_, bridge_mean, bridge_sigma = generator(between, keys[1])",
        "_, bridge_mean, bridge_sigma = generator(feed(student), keys[1])",
        "the bridge's code is the student's",
    ),
    network(
        '"generated/teacher": generator(feed(teacher), keys[2])[0]',
        '"generated/teacher": generator(feed(student), keys[2])[0]',
        "generated/teacher from the student",
    ),
    network(
        "between = bridge(teacher, student, t, self.bridge_norm)",
        "between = bridge(student, student, t, self.bridge_norm)",
        "a bridge between the student and itself",
    ),
    network(
        "between = bridge(teacher, student, t, self.bridge_norm)",
        "between = bridge(teacher, student, jnp.float32(1.0), self.bridge_norm)",
        "the bridge is the teacher",
    ),
    network("t = jax.random.uniform(t_key)", "t = jnp.float32(0.5)", "every bridge is in the middle"),
    network(
        "t = jax.random.uniform(t_key)",
        "t = jax.random.uniform(t_key, (len(student), 1))",
        "a place of its own for each image",
    ),
    network('"bridge/g": between,', '"bridge/g": generated,', "the target is what was generated"),
    network('"generated/mean": mean,', '"generated/mean": bridge_mean,', "both codes are the bridge's"),
    network(
        'outputs["feature/align"] = self.joined(outputs, self.align)',
        'outputs["feature/align"] = self.joined(outputs, "neck")',
        "alignment after the neck",
    ),
    network(
        'aligned["generated/g"][:, : outputs',
        'aligned["generated/teacher"][:, : outputs',
        "classified is the teacher's generated feature",
    ),
    network(
        ".apply(head, feature, train=False)",
        '.apply(head, feature, train=True, mutable=["batch_stats"])[0]',
        "generated features move the statistics of their batch",
    ),
    network(
        'feature = outputs["tokens"].mean(axis=1)',
        'feature = outputs["tokens"].max(axis=1)',
        "test: maximum of patches",
    ),
    network(
        "feature = self.joined(outputs, self.test_feature)",
        'feature = self.joined(outputs, "neck")',
        "test feature after the neck",
    ),
    network(
        "return descriptors.Descriptor(distances.normalize_rows(feature))",
        "return descriptors.Descriptor(feature)",
        "test feature of any length",
    ),
    network(
        'feed = distances.normalize_rows if self.bfg_input == "unit"',
        'feed = distances.normalize_rows if self.bfg_input == "raw"',
        "generator reads unit features",
    ),
    # ---- losses
    contrast("weight = 1.0 - agreement", "weight = agreement", "contrast: near pairs weigh more"),
    contrast("weight = 1.0 - agreement", "weight = 1.0 + agreement", "contrast: weight 1 + s"),
    contrast(
        "(cosine - agreement[:, None]) / temperature",
        "(cosine - agreement[:, None]) * temperature",
        "contrast: tau multiplies",
    ),
    contrast(
        "    excluded = jnp.eye(2 * count, dtype=bool)\n",
        "    excluded = jnp.zeros((2 * count, 2 * count), bool)\n",
        "contrast: an image is its own negative",
    ),
    contrast(
        "    excluded = jnp.eye(2 * count, dtype=bool)\n",
        "    excluded = jnp.eye(2 * count, dtype=bool) | partner\n",
        "contrast: the positive is not in the sum",
    ),
    contrast(
        "jax.lax.stop_gradient(weight) if stop_weight else weight",
        "weight if stop_weight else jax.lax.stop_gradient(weight)",
        "contrast: no gradient through the weight",
    ),
    contrast("return jnp.mean(loss)", "return jnp.sum(loss)", "contrast: a sum"),
    contrast(
        "vectors = distances.normalize_rows(jnp.concatenate((first, second)))",
        "vectors = jnp.concatenate((first, second))",
        "contrast: vectors of any length",
    ),
    contrast("temperature: float = 0.5", "temperature: float = 0.1", "contrast: tau 0.1 by default", level="config"),
    contrast(
        "(both[:, None] == both[None]) & ~partner",
        "(both[:, None] != both[None]) & ~partner",
        "contrast: other identities are left out",
    ),
    bridge(
        "jnp.log(t / s) + (jnp.square(s) + jnp.square(m - n)) / (2.0 * jnp.square(t))",
        "jnp.log(s / t) + (jnp.square(t) + jnp.square(m - n)) / (2.0 * jnp.square(s))",
        "KL: the other direction",
    ),
    bridge(
        "jnp.square(m - n)) / (2.0 * jnp.square(t)) - 0.5",
        "jnp.square(m - n)) / (2.0 * jnp.square(t))",
        "KL: without the one half",
    ),
    bridge(
        "per_image = jnp.sum(divergence, axis=-1)",
        "per_image = jnp.mean(divergence, axis=-1)",
        "KL: a mean over dimensions",
    ),
    bridge(
        'jnp.sum(per_image) if mode == "reference" else jnp.mean(per_image)',
        "jnp.mean(per_image)",
        "KL: the code's form averaged",
    ),
    bridge("return jnp.mean(jnp.square(values", "return jnp.sum(jnp.square(values", "MSE: a sum"),
    # ---- the encoder and the jigsaw patch module
    encoder(
        "scale = query.shape[-1] ** -0.5 if scale is None else scale",
        "scale = 1.0 if scale is None else scale",
        "attention without scale",
    ),
    encoder(
        "change = branch(layer_norm(norm, self.dtype)(x), train=train)",
        "change = layer_norm(norm, self.dtype)(branch(x, train=train))",
        "blocks: normalization after the branch",
    ),
    encoder(
        "nn.gelu(enter(x), approximate=False)",
        "nn.relu(enter(x))",
        "MLP: ReLU",
    ),
    encoder("branch / (1.0 - rate)", "branch", "stochastic depth: survivors are not scaled"),
    encoder(
        "(branch.shape[0], 1, 1))",
        "(1, 1, 1))",
        "stochastic depth: whole batches",
        tests=("tests/models/backbones/test_vit.py",),
    ),
    encoder(
        "np.linspace(0.0, self.drop_path, self.depth)[index]",
        "np.linspace(self.drop_path, 0.0, self.depth)[index]",
        "stochastic depth: falls with depth",
        tests=("tests/models/backbones/test_vit.py",),
    ),
    encoder(
        "jnp.concatenate((first, patches), axis=1)",
        "jnp.concatenate((patches, first), axis=1)",
        "the class token comes last",
    ),
    encoder(
        "tokens = tokens + self.pos_embed.astype(self.dtype)",
        "tokens = tokens + 0 * self.pos_embed.astype(self.dtype)",
        "no positions",
    ),
    encoder("self.sie_weight * self.sie_embed[index]", "self.sie_embed[index]", "camera embedding of weight 1"),
    encoder(
        "LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)",
        "LayerNorm(epsilon=1e-3, use_fast_variance=False, dtype=dtype, name=name)",
        "epsilon 1e-3",
    ),
    encoder(
        "index = index * count + jnp.clip",
        "index = index + jnp.clip",
        "cameras and views share embeddings",
        tests=("tests/models/backbones/test_vit.py", "tests/models/test_transreid.py"),
    ),
    jigsaw("jnp.roll(tokens, 1 - shift, axis=1)", "jnp.roll(tokens, -shift, axis=1)", "JPM: shift by 5"),
    jigsaw('"b (group n) d -> b (n group) d"', '"b (n group) d -> b (group n) d"', "JPM: shuffled the other way"),
    jigsaw("tokens[:, -2:-1]), axis=1)", "tokens[:, -1:]), axis=1)", "JPM: the last token is repeated"),
    jigsaw(
        "shuffle(rotate(patches, shift), groups)",
        "rotate(shuffle(patches, groups), shift)",
        "JPM: shuffled before the shift",
    ),
    jigsaw(
        "jnp.concatenate((memory[:, :1], piece), axis=1)",
        "jnp.concatenate((tokens[:, :1], piece), axis=1)",
        "JPM: local branches read the class token of the global one",
    ),
    jigsaw(
        'outputs[f"{kind}/{part + 1}"] / self.parts', 'outputs[f"{kind}/{part + 1}"]', "JPM: local features unscaled"
    ),
    jigsaw("tokens[:, 0]), *(", "tokens.mean(axis=1)), *(", "global feature: mean of tokens"),
    # ---- machinery of teachers, passes, updates and phases
    extra(
        '    def update(self, value: Any, gradient: Any, variables: Mapping[str, Any]) -> Any:\n        """Returns the value unchanged."""\n        return value\n',
        '    def update(self, value: Any, gradient: Any, variables: Mapping[str, Any]) -> Any:\n        """Returns the value unchanged."""\n        return dict(variables)\n',
        "the frozen teacher is the trained network",
    ),
    passes('batch = {**batch, "image": images[0]}', "batch = {**batch}", "passes ignore their view"),
    passes(
        "outputs = self.apply(variables, batch, train=False, **options)",
        'outputs, _ = self.apply(variables, batch, train=True, mutable=["batch_stats"], **options)',
        "the teacher runs in training mode",
    ),
    terms(
        'if not turn or term.get("turn", turn) == turn}',
        'if not turn or term.get("turn", turn) != turn}',
        "updates exchange their terms",
    ),
    terms("total = total + weight * value", "total = total + value", "weights of terms are ignored"),
    phase(
        "        state = state.with_variables(_variables_in_extra(state, start_from))\n",
        "        pass\n",
        "the student starts from the teacher",
    ),
    phase("if name not in state.extra or extra.restart", "if True", "the teacher is copied anew in every phase"),
    update("jax.random.fold_in(key, turn)", "key", "both updates draw the same", level="generic"),
    update(
        "            state, more = updated(state, gradients(state, batch, jax.random.fold_in(key, turn) if turn else key))",
        "            after, more = updated(state, gradients(state, batch, jax.random.fold_in(key, turn) if turn else key))\n"
        "            state = state if turn else after",
        "the second update is lost",
    ),
)
