"""Deliberate mistakes in the losses and the distances that they use."""

from tests.mutants import entries


def _of(name, *tests):
    files = ("test_loss_twins", *tests)
    return entries.group("losses", f"reid_jax/losses/{name}.py", *(f"tests/losses/{test}.py" for test in files))


triplet, center, smoothing = (_of(name, "test_losses") for name in ("triplet", "center", "cross_entropy"))
consistency, contrastive, supcon = (
    _of("consistency", "test_contrastive"),
    _of("contrastive", "test_contrastive"),
    _of("supcon", "test_supcon"),
)
focal, masked, parsing = (
    _of("focal", "test_amfor_losses"),
    _of("masked_patches", "test_masked_patches"),
    _of("parsing", "test_amfor_losses"),
)
terms, accuracy, bridge = _of("terms", "test_terms"), _of("accuracy", "test_losses"), _of("bridge", "test_contrastive")
distillation, diversity = _of("distillation", "test_amfor_losses"), _of("diversity", "test_amfor_losses")
distances = entries.group(
    "losses", "reid_jax/ops/distances.py", "tests/ops/test_distances.py", "tests/losses/test_losses.py"
)
parts = entries.group("losses", "reid_jax/ops/parts.py", "tests/losses/test_amfor_losses.py")

MUTANTS = (
    # ---- triplet
    triplet(
        "positive = jnp.max(distance, axis=1, where=same, initial=0.0)",
        "positive = jnp.mean(distance, axis=1, where=same)",
        "mean positive",
    ),
    triplet(
        "positive = jnp.max(distance, axis=1, where=same",
        "positive = jnp.max(distance, axis=1, where=~same",
        "positive of another identity",
    ),
    triplet(
        "negative = jnp.min(distance, axis=1, where=~same, initial=jnp.inf)",
        "negative = jnp.mean(distance, axis=1, where=~same)",
        "mean negative",
    ),
    triplet(
        "gap = positive - jnp.where(has_negative, negative, 0.0)",
        "gap = jnp.where(has_negative, negative, 0.0) - positive",
        "gap reversed",
    ),
    triplet("jnp.maximum(gap + margin, 0.0)", "jnp.maximum(gap - margin, 0.0)", "margin subtracted"),
    triplet("jnp.maximum(gap + margin, 0.0)", "jnp.maximum(gap, 0.0) + margin", "margin outside the hinge"),
    triplet("jnp.maximum(gap + margin, 0.0)", "jax.nn.softplus(gap + margin)", "soft hinge with margin"),
    triplet("loss = jax.nn.softplus(gap)", "loss = jax.nn.softplus(-gap)", "soft margin reversed"),
    triplet(
        "/ jnp.maximum(jnp.sum(has_negative), 1)", "/ jnp.maximum(jnp.sum(loss > 0), 1)", "mean over active anchors"
    ),
    triplet("/ jnp.maximum(jnp.sum(has_negative), 1)", "", "sum over anchors"),
    triplet("normalize: bool = False", "normalize: bool = True", "unit length by default"),
    triplet(
        "labels: jax.Array, margin: float | str = 0.3, normalize",
        "labels: jax.Array, margin: float | str = 0.5, normalize",
        "default margin .5",
    ),
    triplet("if normalize:", "if not normalize:", "normalization reversed"),
    triplet("distances.pairwise_euclidean(x, x)", "distances.pairwise_squared_euclidean(x, x)", "squared distances"),
    triplet(
        "distances.pairwise_euclidean(x, x)",
        "distances.pairwise_euclidean(x, jax.lax.stop_gradient(x))",
        "no gradient to the mined images",
    ),
    triplet("jnp.mean(between, axis=0)", "jnp.sum(between, axis=0)", "parts: sum of distances"),
    triplet("jnp.mean(between, axis=0)", "jnp.min(between, axis=0)", "parts: nearest part"),
    # ---- cross-entropy
    smoothing(
        "loss = -(1.0 - label_smoothing) * right - label_smoothing * mean",
        "loss = -right - label_smoothing * mean",
        "smoothing is added",
    ),
    smoothing("loss = -(1.0 - label_smoothing) * right - label_smoothing * mean", "loss = -right", "no smoothing"),
    smoothing("/ jnp.sum(present, axis=-1)", "/ (jnp.sum(present, axis=-1) - 1)", "smoothing over N - 1 classes"),
    smoothing("/ jnp.sum(present, axis=-1)", "/ num_classes", "smoothing counts absent classes"),
    smoothing("label_smoothing: float = 0.0", "label_smoothing: float = 0.1", "smoothing by default"),
    smoothing(
        "return jnp.mean(jnp.where(known, loss, jnp.nan))",
        "return jnp.mean(jnp.where(known, loss, 0.0))",
        "unknown labels count nothing",
    ),
    smoothing("return jnp.mean(jnp.where", "return jnp.sum(jnp.where", "sum over images"),
    # ---- center
    center(
        "return jnp.mean(jnp.clip(squared, 1e-12, 1e12))",
        "return 0.5 * jnp.mean(jnp.clip(squared, 1e-12, 1e12))",
        "factor one half",
    ),
    center(
        "return jnp.mean(jnp.clip(squared, 1e-12, 1e12))",
        "return jnp.sum(jnp.clip(squared, 1e-12, 1e12))",
        "sum over images",
    ),
    center(
        "squared = jnp.sum(jnp.square(features.astype(jnp.float32) - own), axis=1)",
        "squared = jnp.mean(jnp.square(features.astype(jnp.float32) - own), axis=1)",
        "mean over dimensions",
    ),
    center(
        "jnp.square(features.astype(jnp.float32) - own)",
        "jnp.square(features.astype(jnp.float32) - jax.lax.stop_gradient(own))",
        "no gradient to the centers",
    ),
    center(
        "jnp.square(features.astype(jnp.float32) - own)",
        "jnp.square(jax.lax.stop_gradient(features.astype(jnp.float32)) - own)",
        "no gradient to the features",
    ),
    # ---- consistency
    consistency(
        "sum(jnp.exp(view) for view in logs) / len(logs), 1e-7", "jnp.exp(logs[0]), 1e-7", "mixture is the clean view"
    ),
    consistency("jnp.zeros((), jnp.float32)) / len(logs)", "jnp.zeros((), jnp.float32))", "sum of views"),
    # ---- contrastive
    contrastive("weight = 1.0 - agreement", "weight = 0.5 * (1.0 - agreement)", "weights halved"),
    contrastive(
        "lead = (cosine - agreement[:, None]) / temperature",
        "lead = (cosine - agreement[:, None]) * temperature",
        "temperature multiplies",
    ),
    contrastive("temperature: float = 0.5", "temperature: float = 0.07", "temperature .07"),
    contrastive(
        "excluded = jnp.eye(2 * count, dtype=bool)\n",
        "excluded = jnp.zeros((2 * count, 2 * count), bool)\n",
        "an image's own row is in the sum",
    ),
    contrastive(
        "jnp.roll(jnp.eye(2 * count, dtype=bool), count, axis=1)",
        "jnp.roll(jnp.eye(2 * count, dtype=bool), 1, axis=1)",
        "partner is the neighbor",
    ),
    contrastive("stop_weight: bool = False", "stop_weight: bool = True", "weights are constants by default"),
    contrastive("weighted: bool = True", "weighted: bool = False", "unweighted by default"),
    contrastive(
        "mask_same_identity: bool = False", "mask_same_identity: bool = True", "same identities masked by default"
    ),
    contrastive("(both[:, None] == both[None]) & ~partner", "(both[:, None] == both[None])", "the partner is masked"),
    contrastive(
        "distances.normalize_rows(jnp.concatenate((first, second)))",
        "jnp.concatenate((first, second))",
        "inner products",
    ),
    # ---- supcon
    supcon("products / temperature, axis=1", "products / temperature, axis=0", "softmax over anchors"),
    supcon("/ jnp.sum(same, axis=1)", "", "sum over positives"),
    supcon("temperature: float = 1.0", "temperature: float = 0.07", "temperature .07"),
    supcon(
        "same = labels[:, None] == labels[None, :]",
        "same = (labels[:, None] == labels[None, :]) & jnp.eye(len(labels), dtype=bool)",
        "only the own row is positive",
    ),
    supcon("return -jnp.mean(positive)", "return jnp.mean(positive)", "sign"),
    # ---- others
    focal("weight = 0.5 + sign * (alpha - 0.5)", "weight = 0.5 - sign * (alpha - 0.5)", "alpha weighs negatives"),
    focal("(1.0 - jnp.exp(log_correct)) ** gamma", "jnp.exp(log_correct) ** gamma", "easy decisions weigh more"),
    focal("gamma: float = 2.0", "gamma: float = 1.0", "gamma 1"),
    focal("alpha: float = 0.25", "alpha: float = 0.75", "alpha .75"),
    masked(
        "# [B, N]\n    return jnp.sum(jnp.where(mask, per_patch, 0.0)) / jnp.maximum(jnp.sum(mask), 1)",
        "# [B, N]\n    return jnp.sum(jnp.where(~mask, per_patch, 0.0)) / jnp.maximum(jnp.sum(~mask), 1)",
        "loss of the visible patches",
    ),
    masked(
        "# [B, N]\n    return jnp.sum(jnp.where(mask, per_patch, 0.0)) / jnp.maximum(jnp.sum(mask), 1)",
        "# [B, N]\n    return jnp.sum(jnp.where(mask, per_patch, 0.0)) / mask.size",
        "mean over all patches",
    ),
    masked("jnp.mean(jnp.square(predicted", "jnp.mean(jnp.abs(predicted", "absolute error"),
    masked(
        "return (patches - mean) / jnp.sqrt(variance + 1e-6)",
        "return (patches - mean) / (variance + 1e-6)",
        "divided by the variance",
    ),
    masked("normalize: bool = False", "normalize: bool = True", "normalized by default"),
    terms('metrics[f"loss/{name}"] = value', 'metrics[f"loss/{name}"] = weight * value', "weighted values are logged"),
    terms('weight = term.get("weight", 1.0)', 'weight = term.get("weight", 0.5)', "default weight"),
    terms('term.get("labels", "batch/label")', '"batch/label"', "labels of a term are ignored"),
    terms('if not turn or term.get("turn", turn) == turn}', "if True}", "turns are ignored"),
    accuracy("jnp.argmax(logits, axis=-1)", "jnp.argmin(logits, axis=-1)", "accuracy of the smallest logit"),
    bridge("jnp.log(t / s)", "jnp.log(s / t)", "divergence: logarithm reversed"),
    bridge("(2.0 * jnp.square(t)) - 0.5", "(2.0 * jnp.square(s)) - 0.5", "divergence: variance of the other"),
    bridge("jnp.square(m - n)", "jnp.abs(m - n)", "divergence: absolute difference"),
    bridge('mode: str = "mean"', 'mode: str = "reference"', "divergence: default mode"),
    distillation(
        "jax.nn.softmax(values / jnp.maximum",
        "jax.nn.softmax(-values / jnp.maximum",
        "levels: largest for the smallest loss",
    ),
    distillation(
        "values = jax.lax.stop_gradient(values)", "values = values * 1.0", "gradient through the levels' weights"
    ),
    distillation(
        "1.0 - jnp.sum(flat[0] * flat[1], axis=-1)", "jnp.sum(flat[0] * flat[1], axis=-1)", "cosine is minimized"
    ),
    diversity("SAME_KIND = ((1, 2), (4, 5), (6, 7))", "SAME_KIND = ((1, 2), (3, 4), (6, 7))", "pairs of other parts"),
    diversity("return parts.shape[1] * jnp.mean(", "return jnp.mean(", "mean over sets"),
    diversity(
        "compared[first, second] = compared[second, first] = False",
        "compared[first, second] = False",
        "pairs count once",
    ),
    # ---- distances
    distances(
        "return jnp.sqrt(jnp.maximum(pairwise_squared",
        "return jnp.sqrt(epsilon + jnp.maximum(pairwise_squared",
        "floor is added",
    ),
    distances("lengths - 2.0 * product", "lengths - product", "one product"),
    distances("return 1.0 - jnp.matmul(normalize", "return jnp.matmul(normalize", "cosine as distance"),
    distances("jnp.maximum(squared, epsilon**2)", "(squared + 1e-2)", "unit length approximately"),
    parts(
        '"group": ((0,), (1, 2), (3,), (4, 5), (6, 7))', '"group": ((0, 3), (1, 2), (4, 5), (6, 7))', "head with torso"
    ),
    parts("parts[:, list(group)].mean(axis=1)", "parts[:, list(group)].max(axis=1)", "maximum of a group"),
)
