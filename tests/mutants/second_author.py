"""Deliberate mistakes of a second author, who wrote them without reading the other lists: those that no test noticed."""

from tests.mutants import entries

amfor = entries.group(
    "amfor",
    "reid_jax/models/amfor/amfor.py",
    "tests/models/amfor/test_amfor_twin.py",
    "tests/models/amfor/test_amfor_modules.py::test_named_choices_of_fused_blocks",
)
clip_text = entries.group("amfor", "reid_jax/models/backbones/clip_text.py", "tests/models/backbones/test_clip_text.py")
cfat = entries.group("cfat", "reid_jax/models/cfat.py", "tests/models/test_cfat_twin.py")
global_pool = entries.group("cil", "reid_jax/nn/global_pool.py", "tests/nn/test_heads.py")
pooling = entries.group("cil", "reid_jax/ops/pooling.py", "tests/ops/test_pooling.py")
augmentations = entries.group("data", "reid_jax/data/augmentations.py", "tests/data/test_augmentations.py")
elements = entries.group("data", "reid_jax/data/elements.py", "tests/data/test_transforms.py")
pipeline = entries.group(
    "data",
    "reid_jax/data/pipeline.py",
    "tests/data/test_pipeline.py::test_evaluation_covers_each_image_once",
    "tests/data/test_pipeline.py::test_views_are_independent_or_shared",
)
samplers = entries.group("data", "reid_jax/data/samplers.py", "tests/data/test_samplers.py")
transforms = entries.group("data", "reid_jax/data/transforms.py", "tests/data/test_transforms.py")
expansion = entries.group(
    "evaluation", "reid_jax/evaluation/expansion.py", "tests/evaluation/test_expansion_and_protocols.py"
)
reranking = entries.group("evaluation", "reid_jax/evaluation/reranking.py", "tests/evaluation/test_suite.py")
robustness = entries.group("evaluation", "reid_jax/evaluation/robustness.py", "tests/evaluation/test_robustness.py")
suite = entries.group("evaluation", "reid_jax/evaluation/suite.py", "tests/evaluation/test_suite.py")
extractor = entries.group("evaluation", "reid_jax/inference/extractor.py", "tests/inference/test_extractor.py")
results = entries.group("evaluation", "reid_jax/runs/results.py", "tests/runs/test_results.py")
clients = entries.group("federated", "reid_jax/federated/clients.py", "tests/federated/test_rounds_twin.py")
federation_options = entries.group(
    "federated", "reid_jax/federated/federation_options.py", "tests/federated/test_rounds_twin.py"
)
micro = entries.group("training", "reid_jax/train/micro_batches.py", "tests/train/test_micro_batches.py")
phase = entries.group("federated", "reid_jax/federated/phase.py", "tests/federated/test_phase_twin.py")
rounds = entries.group("federated", "reid_jax/federated/rounds.py", "tests/federated/test_rounds_twin.py")
terms = entries.group("losses", "reid_jax/losses/terms.py", "tests/losses/test_terms.py")
triplet = entries.group("losses", "reid_jax/losses/triplet.py", "tests/losses/test_loss_twins.py")
distances = entries.group("losses", "reid_jax/ops/distances.py", "tests/ops/test_distances.py")
mfv = entries.group("mfv", "reid_jax/models/mfv/mfv.py", "tests/models/mfv/test_mfv_twin.py")
transformer_extractor = entries.group(
    "mfv", "reid_jax/models/mfv/transformer_extractor.py", "tests/models/mfv/test_mfv_twin.py"
)
mspf = entries.group(
    "mspf",
    "reid_jax/models/mspf/mspf.py",
    "tests/models/mspf/test_mspf.py::test_a_few_steps_lower_the_loss_and_reach_every_parameter",
)
heads = entries.group("nn", "reid_jax/nn/heads.py", "tests/nn/test_heads.py")
initializers = entries.group("nn", "reid_jax/nn/initializers.py", "tests/nn/test_conv.py")
osnet = entries.group(
    "osnet",
    "reid_jax/models/backbones/osnet.py",
    "tests/models/backbones/test_osnet_twin.py",
    "tests/models/mspf/test_mspf.py::test_a_few_steps_lower_the_loss_and_reach_every_parameter",
)
build = entries.group("train", "reid_jax/build.py", "tests/test_build.py")
experiment = entries.group("train", "reid_jax/runs/experiment.py", "tests/runs/test_results.py")
plan = entries.group("train", "reid_jax/runs/plan.py", "tests/runs/test_plan_twin.py")
extras = entries.group("train", "reid_jax/train/extras.py", "tests/train/test_extras_twin.py")
objective = entries.group("train", "reid_jax/train/objective.py", "tests/train/test_passes.py")
state = entries.group("train", "reid_jax/train/state.py", "tests/train/test_extras_twin.py")
step = entries.group("train", "reid_jax/train/step.py", "tests/train/test_step.py", "tests/train/test_extras_twin.py")

MUTANTS = (
    amfor(
        "visible = jnp.concatenate((jnp.ones_like(seen[:, :1]), seen), axis=1)",
        "visible = jnp.concatenate((seen.max(1, keepdims=True), seen), axis=1)",
        "global slot hidden",
    ),
    amfor(
        'tuple(range(1, depth)) if layers == "all" else (depth - 2,)',
        'tuple(range(1, depth)) if layers == "all" else (depth - 1,)',
        "last is the last shared block",
    ),
    amfor(
        'transreid.Branch(backbone.block_fields(last), name="b1")(memory',
        'transreid.Branch(backbone.block_fields(0), name="b1")(memory',
        "b1 without stochastic depth",
    ),
    clip_text(
        "return jax.lax.stop_gradient(self.kept.value)",
        "return 0 * jax.lax.stop_gradient(self.kept.value)",
        "bank is empty",
    ),
    cfat(
        "_, bridge_mean, bridge_sigma = generator(between, keys[1])",
        "_, bridge_mean, bridge_sigma = jax.lax.stop_gradient(generator(between, keys[1]))",
        "code of the bridge is a constant",
    ),
    cfat(
        "between = bridge(teacher, student, t, self.bridge_norm)",
        "between = bridge(teacher, jax.lax.stop_gradient(student), t, self.bridge_norm)",
        "bridge does not move the student",
    ),
    cfat(
        "heads.BNNeck(self.num_classes, parent=None).apply(head, feature, train=False)",
        "heads.BNNeck(self.num_classes, parent=None).apply(jax.lax.stop_gradient(head), feature, train=False)",
        "head gets no gradient from generated features",
    ),
    cfat(
        "feature = self.joined(outputs, self.test_feature)",
        'feature = self.joined(outputs, "feature")',
        "test_feature not followed",
    ),
    global_pool(
        "return pooling.generalized_mean(x, power, self.epsilon)",
        "return pooling.generalized_mean(x, jax.lax.stop_gradient(power), self.epsilon)",
        "GeM's power not learned",
    ),
    pooling(
        "raised = jnp.maximum(images.astype(jnp.float32), epsilon)",
        "raised = jnp.abs(images.astype(jnp.float32))",
        "GeM of absolute values",
    ),
    augmentations("rng.uniform(0.1, self.severity) / 10, rng)", "self.severity / 10, rng)", "always the full severity"),
    augmentations(
        "return np.where(image < 256 - int(strength * 256), image, 255 - image)",
        "return np.where(image < int(strength * 256), image, 255 - image)",
        "solarizes the dark",
    ),
    augmentations("if bottom - top > 2 * (right - left):", "if bottom - top < 2 * (right - left):", "tall patches lie"),
    elements(
        "rng.integers(0, height - box_height + 1), rng.integers(0, width - box_width + 1)",
        "rng.integers(0, height - box_height), rng.integers(0, width - box_width)",
        "last place never drawn",
    ),
    pipeline(
        "first = step * self._sampler.batch_size + self._share.start",
        "first = self._share.start",
        "augmentation repeats each step",
    ),
    pipeline(
        'rng = samplers.generator(self._seed, f"appearance/{view}", position)',
        'rng = samplers.generator(self._seed, "appearance", position)',
        "views draw the same appearance",
    ),
    pipeline('"camid": np.full(rows, -1, np.int32),', '"camid": np.zeros(rows, np.int32),', "padding is camera 0"),
    samplers(
        "return rng.permutation(members)[:used].reshape(-1, self._images)",
        "return members[:used].reshape(-1, self._images)",
        "groups not shuffled",
    ),
    samplers(
        "return rng.choice(members, (1, self._images), replace=True)",
        "return np.resize(members, (1, self._images))",
        "short identities repeated in order",
    ),
    samplers(
        "order = rng.permutation(len(self._members))[: self.batches_per_epoch * self._identities]\n        return np.stack",
        "order = np.arange(len(self._members))[: self.batches_per_epoch * self._identities]\n        return np.stack",
        "identity epoch in order",
    ),
    transforms(
        "if rng.random() < self.probability:\n            height, width",
        "if rng.random() < 0.5:\n            height, width",
        "erasing with one half always",
    ),
    transforms(
        "geometric: ClassVar[bool] = False\n    probability: float = 0.5\n    area",
        "geometric: ClassVar[bool] = True\n    probability: float = 0.5\n    area",
        "views erased in the same box",
    ),
    expansion(
        "min(neighbors + 1, gallery.num_rows)).rows[:, 1:]",
        "min(neighbors, gallery.num_rows)).rows",
        "gallery counts itself",
    ),
    reranking(
        "k2: int = 6,\n        original_weight: float = 0.3,\n        mesh: Mesh | None = None,\n        share",
        "k2: int = 15,\n        original_weight: float = 0.3,\n        mesh: Mesh | None = None,\n        share",
        "k2 15 by default in build",
    ),
    robustness(
        'for side in sides for what in ("features", "visibility")]',
        'for side in sides for what in ("features",)]',
        "visibility of clean images",
    ),
    suite(
        "k1: int = 20\n    k2: int = 6\n    original_weight: float = 0.3",
        "k1: int = 50\n    k2: int = 15\n    original_weight: float = 0.3",
        "re-ranking with k1 50",
    ),
    suite(
        '"k1": protocol.k1, "k2": protocol.k2, "original_weight": protocol.original_weight}',
        '"k1": protocol.k1, "k2": protocol.k2}',
        "lambda not passed on",
    ),
    suite(
        "everything = dataclasses.replace(feature_set, query_visibility=None, gallery_visibility=None)",
        "everything = feature_set",
        "unweighted is weighted",
    ),
    suite("original_weight: float = 0.3\n    expand", "original_weight: float = 0.7\n    expand", "lambda .7"),
    extractor(
        "interpolation=data.test_interpolation or data.interpolation,",
        "interpolation=data.interpolation,",
        "test interpolation ignored",
    ),
    extractor(
        "(flip_average(once) if evals.flip else once)(preprocess(batch))", "once(preprocess(batch))", "flip ignored"
    ),
    results(
        "        same_camera_filter=evals.same_camera_filter,\n    ).as_dict()",
        "    ).as_dict()",
        "corrupted scores always filter cameras",
    ),
    clients(
        'shuffled = samplers.generator(seed, "shards", 0).permutation(classes)',
        "shuffled = classes",
        "shards not random",
    ),
    federation_options(
        'PERSONAL: dict[str, str] = {"classifiers": r"(^|/)classifier"',
        'PERSONAL: dict[str, str] = {"classifiers": r"(^|/)(classifier|reduction)"',
        "reductions stay on the client",
    ),
    phase(
        "outputs = goal.apply(variables, goal.preprocess(batch, None), train=False)",
        'outputs = goal.apply(variables, goal.preprocess(batch, None), train=True, mutable=["batch_stats"])[0]',
        "cdw features in training mode",
    ),
    rounds(
        'sizes = [client.images if options.weights == "samples" else 1 for client in clients]',
        'sizes = [int(client.classes.sum()) if options.weights == "samples" else 1 for client in clients]',
        "weighted by identities",
    ),
    rounds(
        'return update(local, batch, step_lib.step_key(client["seed"], local.step))',
        'return update(local, batch, step_lib.step_key(0 * client["seed"], local.step))',
        "clients draw the same",
    ),
    terms(
        'if not turn or term.get("turn", turn) == turn',
        'if not turn or term.get("turn") == turn',
        "terms without a turn dropped",
    ),
    triplet(
        "        vectors = distances.normalize_rows(vectors)",
        "        vectors = distances.normalize_rows(vectors.reshape(len(vectors), 1, -1)).reshape(vectors.shape)",
        "parts normalized together",
    ),
    distances(
        "jnp.sqrt(jnp.maximum(squared, epsilon**2))",
        "jnp.sqrt(squared + epsilon)",
        "zero vector divided",
    ),
    distances(
        "jnp.sqrt(jnp.maximum(squared, epsilon**2))",
        "jax.lax.stop_gradient(jnp.sqrt(jnp.maximum(squared, epsilon**2)))",
        "length is a constant",
    ),
    mfv(
        "            carried = results[k][0]",
        "            carried = jax.lax.stop_gradient(results[k][0])",
        "no gradient from stage to stage",
    ),
    mfv("dropout=self.dropout,\n            heads", "dropout=0.0,\n            heads", "dropout is not passed on"),
    transformer_extractor(
        "x = nn.Dropout(self.dropout, deterministic=not train)(x)",
        "x = nn.Dropout(self.dropout, deterministic=not train or index == 1)(x)",
        "one dropout of two",
    ),
    mspf(
        "x2 = trunk.stage(x1, 3, train=train) if twice else g2",
        "x2 = jax.lax.stop_gradient(trunk.stage(x1, 3, train=train) if twice else g2)",
        "no gradient from the local path",
    ),
    heads(
        'neck = norm.BatchNorm(use_bias=False, name="bottleneck")(feature.astype(jnp.float32), train=train)',
        'neck = norm.BatchNorm(use_bias=False, name="bottleneck")(jax.lax.stop_gradient(feature.astype(jnp.float32)), train=train)',
        "identity loss does not reach the encoder",
    ),
    heads(
        "kernel_init: nn.initializers.Initializer = initializers.classifier\n\n    @nn.compact",
        "kernel_init: nn.initializers.Initializer = initializers.kaiming_fan_out\n\n    @nn.compact",
        "classifier starts large",
    ),
    initializers(
        'variance_scaling(2.0, "fan_out", "normal")',
        'variance_scaling(2.0, "fan_out", "truncated_normal")',
        "truncated start",
    ),
    osnet(
        "self.conv1(images.astype(self.dtype), train=train))\n\n    def stage",
        "self.conv1(images.astype(self.dtype), train=False))\n\n    def stage",
        "stem in test mode",
    ),
    osnet(
        '"feature/b": feature, "logits/b": self.classifier(feature)',
        '"feature/b": feature, "logits/b": self.classifier(jax.lax.stop_gradient(feature))',
        "no gradient from the classifier",
    ),
    build("if key is not None and boxes is not None:", "if boxes is not None:", "erases at test time"),
    build("jax.random.fold_in(key, index))", "key)", "views erased with the same noise"),
    build('batch.get(name.replace("image", "erase_box", 1))', 'batch.get("erase_box")', "views erased in the main box"),
    build(
        "images = image_ops.normalize(batch[name], settings.mean, settings.std)\n",
        "images = image_ops.normalize(batch[name], settings.mean, (1.0, 1.0, 1.0))\n",
        "std ignored",
    ),
    build(
        'return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16',
        "return jnp.bfloat16",
        "auto is bfloat16",
    ),
    experiment(
        'average: build.Variables = train_state.extra.get("average", train_state.variables)',
        "average: build.Variables = train_state.variables",
        "average not evaluated",
    ),
    plan(
        'seed = samplers.derived_seed(settings.seed, "phase", index)',
        "seed = settings.seed",
        "phases draw the same batches",
    ),
    plan(
        "            seed=settings.seed,\n            mesh=self.mesh,",
        "            seed=0,\n            mesh=self.mesh,",
        "seed of the step is always 0",
    ),
    plan(
        "total = max(1, round(settings.train.epochs * steps_per_epoch))",
        "total = max(1, int(settings.train.epochs) * steps_per_epoch)",
        "fractions of epochs lost",
    ),
    plan(
        "            interpolation=data.interpolation,",
        "            interpolation=data.test_interpolation or data.interpolation,",
        "training resizes as in tests",
    ),
    plan("            maps=data.maps,", "            maps=(),", "maps not read"),
    plan("            views=data.views,", "            views={},", "views not made"),
    extras(
        "        return copied(self.load(variables, self.weights))",
        "        self.load(variables, self.weights)\n        return copied(variables)",
        "weights of the frozen copy ignored",
    ),
    objective(
        "outputs = self.apply(variables, batch, train=False, **options)\n            return (outputs if trained else jax.lax.stop_gradient(outputs)), batch_stats",
        'outputs, updated = self.apply(variables, batch, train=True, mutable=["batch_stats"], **options)\n            return (outputs if trained else jax.lax.stop_gradient(outputs)), batch_stats',
        "teacher in training mode",
    ),
    objective(
        "        if trained:\n            return outputs, updated",
        "        if True:\n            return outputs, updated",
        "teacher's statistics replace the student's",
    ),
    objective(
        "dict(zip(self.passes, pass_keys, strict=True))",
        "dict.fromkeys(self.passes, pass_keys[0])",
        "passes draw the same numbers",
    ),
    state(
        "jax.random.fold_in(cast(jax.Array, key), index), state.variables)",
        "cast(jax.Array, key), state.variables)",
        "all extras draw the same numbers",
    ),
    step(
        "extras[name].update(value, extra_grads.get(name), state.variables)",
        "extras[name].update(value, extra_grads.get(name), {**state.variables, 'params': param_grads})",
        "average of gradients",
    ),
    step(
        "return function(state, batch, step_key(seed, state.step))",
        "return function(state, batch, step_key(seed, 0 * state.step))",
        "same random numbers each step",
    ),
    micro("images // devices", "images", "as many micro-batches as on one device"),
    micro(
        "batch_stats = jax.tree.map(lambda x: x.mean(axis=0), batch_stats)",
        "batch_stats = state.batch_stats",
        "statistics stay",
    ),
)
