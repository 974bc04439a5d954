"""Deliberate mistakes in AMFOR: distillation, losses, drawn patches, text, test features, teachers, recipe."""

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
parts = entries.group("amfor", "reid_jax/models/amfor/part_decoder.py", *_WHOLE)
amgd = entries.group("amfor", "reid_jax/models/amfor/generative_distillation.py", *_WHOLE)
pixels = entries.group(
    "amfor",
    "reid_jax/models/amfor/pixel_decoder.py",
    f"{_FOLDER}/test_amfor_twin.py",
    f"{_FOLDER}/test_pixel_decoder.py",
)
_LOSSES = "tests/losses/test_amfor_losses.py"
distillation = entries.group("amfor", "reid_jax/losses/distillation.py", _LOSSES)
diversity = entries.group("amfor", "reid_jax/losses/diversity.py", _LOSSES)
focal = entries.group("amfor", "reid_jax/losses/focal.py", _LOSSES)
parsing = entries.group("amfor", "reid_jax/losses/parsing.py", _LOSSES)
patches = entries.group("amfor", "reid_jax/losses/masked_patches.py", "tests/losses/test_masked_patches.py")
groups = entries.group("amfor", "reid_jax/ops/parts.py", _LOSSES)
extra = entries.group(
    "amfor", "reid_jax/train/extras.py", f"{_FOLDER}/test_amfor_objective.py", "tests/train/test_state.py"
)
passes = entries.group(
    "amfor", "reid_jax/train/objective.py", f"{_FOLDER}/test_amfor_objective.py", "tests/train/test_passes.py"
)
config = entries.group(
    "amfor", "configs/amfor.py", f"{_FOLDER}/test_amfor_objective.py", "tests/recipes/test_recipes.py",
    level="config",
)  # fmt: skip
images = entries.group("amfor", "reid_jax/runs/image_features.py", "tests/runs/test_image_features.py", level="generic")

MUTANTS = (
    # ---- AMGD
    amgd("(distance > 0)", "(distance < 0)", "AMGD: the mask turned around"),
    amgd(
        "jnp.quantile(scores, self.ratio, axis=-1, keepdims=True)",
        "jnp.quantile(scores, self.ratio)",
        "AMGD: one threshold for all parts",
    ),
    amgd(
        "jnp.quantile(scores, self.ratio, axis=-1, keepdims=True)",
        "jnp.quantile(scores, 1 - self.ratio, axis=-1, keepdims=True)",
        "AMGD: the share that is kept",
    ),
    amgd("return hard + (soft - jax.lax.stop_gradient(soft))", "return hard", "AMGD: the mask gets no gradient"),
    amgd("return hard + (soft - jax.lax.stop_gradient(soft))", "return soft", "AMGD: a soft mask"),
    amgd(
        "distance = scores - jax.lax.stop_gradient(threshold)",
        "distance = scores - threshold",
        "AMGD: a gradient through the threshold",
    ),
    amgd(
        "rearrange(parts * self._keep(parts, key)",
        "rearrange(parts + 0 * self._keep(parts, key)",
        "AMGD: nothing is masked",
    ),
    amgd(
        'x = nn.relu(VolumeConv(self.hidden, name="conv1")(x))',
        'x = VolumeConv(self.hidden, name="conv1")(x)',
        "AMGD: no ReLU",
    ),
    amgd(
        'return rearrange(VolumeConv(1, name="conv2")(x)',
        'return rearrange(nn.relu(VolumeConv(1, name="conv2")(x))',
        "AMGD: ReLU after the second convolution",
    ),
    amgd(
        '"b p (h w) -> b h w p 1", h=rows, w=columns',
        '"b p (w h) -> b h w p 1", h=rows, w=columns',
        "AMGD: the map is turned",
    ),
    amgd(
        "jax.random.bernoulli(key, 1.0 - self.ratio",
        "jax.random.bernoulli(key, self.ratio",
        "AMGD: the random mask keeps what it should hide",
    ),
    amgd("before - after + 1 ==", "after - before + 1 ==", "AMGD: slices of the kernel reversed"),
    network(
        'self._generator()(outputs["feature/s"], key)',
        'self._generator()(outputs["feature/t"], key)',
        "AMGD: generates from the teacher",
    ),
    network("self.amgd_mask, self.amgd_ratio,", "self.amgd_mask, 0.3,", "AMGD: another share is hidden"),
    # ---- losses
    distillation(
        "teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))",
        "teacher = teacher.astype(jnp.float32)",
        "AMGD: the teacher gets a gradient",
    ),
    distillation(
        "losses.append(jnp.mean(jnp.square(student - target)))",
        "losses.append(jnp.sum(jnp.square(student - target)))",
        "AMGD: a sum of squares",
    ),
    distillation(
        "losses.append(jnp.mean(jnp.square(student - target)))",
        "losses.append(jnp.mean(jnp.abs(student - target)))",
        "AMGD: absolute differences",
    ),
    distillation("    values = jax.lax.stop_gradient(values)\n", "", "AMGD: weights of levels get a gradient"),
    distillation("jax.nn.softmax(values / jnp", "jax.nn.softmax(-values / jnp", "AMGD: the easiest level weighs most"),
    distillation(
        "(student, jax.lax.stop_gradient(teacher))", "(student, teacher)", "cosine: the teacher gets a gradient"
    ),
    diversity("compared = ~np.eye", "compared = np.eye", "diversity of parts with themselves"),
    diversity(
        "compared[first, second] = compared[second, first] = False",
        "compared[first, second] = True",
        "diversity of left and right",
    ),
    diversity("jax.nn.relu(cosine)", "jnp.abs(cosine)", "diversity: opposed parts count"),
    diversity("return parts.shape[1] * jnp.mean", "return jnp.mean", "diversity: a mean over the sets"),
    focal("weight = 0.5 + sign", "weight = 0.5 - sign", "focal: alpha of the other class"),
    focal("** gamma * log_correct)", "* log_correct)", "focal: no gamma"),
    parsing("label_smoothing: float = 0.1", "label_smoothing: float = 0.0", "parsing without smoothing"),
    groups(
        '"group": ((0,), (1, 2), (3,), (4, 5), (6, 7))',
        '"group": ((0,), (1, 3), (2,), (4, 5), (6, 7))',
        "torso and arm are one group",
    ),
    patches(
        "# [B, N]\n    return jnp.sum(jnp.where(mask, per_patch, 0.0)) / jnp.maximum(jnp.sum(mask), 1)",
        "# [B, N]\n    return jnp.sum(jnp.where(mask, 0.0, per_patch)) / jnp.maximum(jnp.sum(mask), 1)",
        "drawn patches: the loss of visible ones",
    ),
    patches(
        "# [B, N]\n    return jnp.sum(jnp.where(mask, per_patch, 0.0)) / jnp.maximum(jnp.sum(mask), 1)",
        "# [B, N]\n    return jnp.mean(per_patch)",
        "drawn patches: the loss of all",
    ),
    # ---- the pixel decoder
    pixels(
        "jnp.where(extra[..., None], hidden.astype(x.dtype), x)",
        "jnp.where(extra[..., None], x, hidden.astype(x.dtype))",
        "pixel decoder: hides visible patches",
    ),
    pixels(
        "mask = damaged if extra is None else damaged | extra",
        "mask = damaged if extra is None else damaged & extra",
        "pixel decoder: damaged and masked patches alone",
    ),
    pixels(
        "mask = damaged if extra is None else damaged | extra",
        "mask = damaged if extra is None else extra",
        "pixel decoder: damaged patches are not drawn",
    ),
    pixels(
        "self._draw(local, grid, extra, batch",
        "self._draw(local, grid, None if extra is None else mask, batch",
        "pixel decoder: hides damaged patches, too",
    ),
    pixels(
        "patchify(changed, patch), axis=-1) >= 0.5",
        "patchify(changed, patch), axis=-1) < 0.5",
        "pixel decoder: undamaged patches",
    ),
    pixels(
        "for place in (y, x) for f in (np.sin, np.cos)",
        "for place in (x, y) for f in (np.sin, np.cos)",
        "pixel decoder: columns before rows",
    ),
    pixels(
        "x = x + jnp.asarray(sincos_positions(rows, columns, self.width), x.dtype)[None]",
        "x = x + 0 * jnp.asarray(sincos_positions(rows, columns, self.width), x.dtype)[None]",
        "pixel decoder: no positions",
    ),
    pixels(
        "axis=1), axis=1) < wanted", "axis=1), axis=1) >= wanted", "pixel decoder: hides the share that it should keep"
    ),
    pixels("place < jnp.floor(PART_SHARE *", "place < jnp.floor(2 * PART_SHARE *", "pixel decoder: more of a part"),
    pixels('        x = vit.layer_norm("norm", self.dtype)(x)\n', "", "pixel decoder: no normalization"),
    pixels(
        'damaged_tokens(batch["image"], batch[CLEAN], self.patch)',
        "damaged_tokens(batch[CLEAN], batch[CLEAN], self.patch)",
        "pixel decoder: nothing is damaged",
    ),
    # ---- text
    network(
        'return prompts.pairs(batch["label"], batch[IMAGE_FEATURES][batch["index"]])',
        'return prompts.pairs(batch["label"], batch[IMAGE_FEATURES][batch["label"]])',
        "prompts: features of other images",
    ),
    network(
        "text = None if prompts is None else prompts.bank()",
        'text = None if prompts is None else prompts.text_of(prompts.vectors[batch["label"]]) if "label" in batch else prompts.bank()',
        "the encoder reads the text of the true identity",
    ),
    # ---- test time
    network(
        'slots = distances.normalize_rows(outputs["neck/g"])',
        'slots = distances.normalize_rows(outputs["feature/g"])',
        "global slot before the neck",
    ),
    network('parts = outputs["neck/s"].reshape', 'parts = outputs["feature/s"].reshape', "part slots before the neck"),
    network(
        "jnp.concatenate((slots[:, None], distances.normalize_rows(parts)), axis=1)",
        "jnp.concatenate((slots[:, None], parts), axis=1)",
        "part slots of any length",
    ),
    network(
        'seen = (outputs["visibility/s"] > 0)',
        'seen = (outputs["visibility/s"] < 0)',
        "visibility turned around at test time",
    ),
    network(
        'seen = (outputs["visibility/s"] > 0)',
        'seen = (outputs["visibility/s"] > -99)',
        "every part is seen at test time",
    ),
    network(
        "jnp.concatenate((jnp.ones_like(seen[:, :1]), seen), axis=1)",
        "jnp.concatenate((jnp.zeros_like(seen[:, :1]), seen), axis=1)",
        "the global slot is hidden",
    ),
    network('first = 1 if self.eval_slots == "parts" else 0', "first = 0", "test: parts with the global slot"),
    # ---- teachers
    extra("old + (1.0 - self.decay) * (new - old)", "new", "the averaged teacher is the student"),
    extra(
        "old + (1.0 - self.decay) * (new - old)",
        "old + self.decay * (new - old)",
        "the averaged teacher follows at once",
    ),
    extra("old + (1.0 - self.decay) * (new - old)", "old", "the averaged teacher stays"),
    passes(
        "variables = jax.lax.stop_gradient(extra[name])",
        "jax.lax.stop_gradient(extra[name])",
        "a teacher's pass runs the student",
    ),
    # ---- recipe
    config(
        'FROM_TEACHER = {"losses.distil.on": ("generated", "teacher/feature/t")}',
        'FROM_TEACHER = {"losses.distil.on": ("generated", "feature/t")}',
        "a teacher of its own is not read",
        level="method",
    ),
    config(
        '"passes": passes({"view": "", "network": "extra/teacher"})',
        '"passes": passes({"view": "", "network": "params"})',
        "ts_ema: the teacher is the student",
        level="method",
    ),
    config(
        '"extras.teacher": {"kind": "moving_average", "decay": 0.999}',
        '"extras.teacher": {"kind": "moving_average", "decay": 0.0}',
        "ts_ema: the average is the student",
        level="method",
    ),
    config(
        '"passes": passes({"view": "clean", "network": "params"})',
        '"passes": passes({"view": "", "network": "params"})',
        "ts_clean: the teacher sees the erased image",
        level="method",
    ),
    config(
        '"on": ("generated", "feature/t"),',
        '"on": ("generated", "feature/s"),',
        "the student is its own target",
        level="method",
    ),
    config(
        'COSINE = {"loss": "cosine_distillation", "on": ("feature/s", "feature/t")',
        'COSINE = {"loss": "cosine_distillation", "on": ("feature/t", "feature/s")',
        "cosine: the teacher learns from the student",
        level="method",
    ),
    config(
        'PARTS = {"g": False, "s": True, "t": True, "b": True}',
        'PARTS = {"g": False, "s": True, "t": True, "b": False}',
        "triplet of the pooled parts joined",
    ),
    config('"on": f"feature/{name}",', '"on": f"neck/{name}",', "triplets after the neck"),
    config('"margin": "soft",', '"margin": 0.3,', "triplet margin 0.3"),
    config('"label_smoothing": 0.0,', '"label_smoothing": 0.1,', "label smoothing"),
    config(
        '"weight": 1.0,\n        "alpha": 0.25,',
        '"weight": 0.1,\n        "alpha": 0.25,',
        "visibility of weight 0.1",
    ),
    config('"learning_rate": 0.004,', '"learning_rate": 0.04,', "ten times the rate"),
    config(
        '"learning_rate_multipliers": ((".*bias", 2.0), (".*", 1.0)),',
        '"learning_rate_multipliers": ((".*", 1.0),),',
        "biases at the rate of weights",
    ),
    config(
        '"weight_decays": ((".*", 1e-4),),\n            "momentum": 0.9',
        '"weight_decays": ((".*", 0.0),),\n            "momentum": 0.9',
        "no decay",
    ),
    config(
        '"frozen": ("(?!prompts/(vectors|text_proj/)).*",)',
        '"frozen": ("(?!prompts/vectors).*",)',
        "prompts: the projection is frozen",
    ),
    config('"optimizer": {"frozen": ("prompts/.*",)}', '"optimizer": {"frozen": ()}', "stage 2 trains the prompts"),
    config(
        '{"start_from": "model/fill_text_bank", "optimizer"',
        '{"start_from": "", "optimizer"',
        "stage 2 starts with an empty bank",
    ),
    config('"stride": 11, "sie": "camera"', '"stride": 12, "sie": "camera"', "stride 12"),
    config(
        'PSEUDO_CAMERAS = {"model.sie": "none"}',
        'PSEUDO_CAMERAS = {"model.sie": "camera"}',
        "an embedding of query and gallery",
    ),
    config(
        'CLEAN = {"data.views.clean": {"geometry": "shared"}}',
        'CLEAN = {"data.views.clean": {"geometry": "independent"}}',
        "the clean image has another crop",
        level="method",
    ),
    config(
        'for name in ("flip", "pad_crop")}',
        'for name in ("flip", "pad_crop", "erase")}',
        "the clean image is erased",
        level="method",
    ),
    config(
        '"on": ("pixels/predicted", "batch/image_clean", "pixels/mask")',
        '"on": ("pixels/predicted", "batch/image", "pixels/mask")',
        "the target is the damaged image",
        level="method",
    ),
    config('"area": (0.02, 0.33)', '"area": (0.02, 0.4)', "larger erased boxes"),
    config('"erase_fill": "noise"', '"erase_fill": "mean"', "erased boxes filled with the mean"),
    config('"mean": (0.5, 0.5, 0.5)', '"mean": (0.485, 0.456, 0.406)', "ImageNet's mean"),
    # ---- features computed once
    images(
        "filled[name] = mesh_lib.replicate(features, mesh)",
        "filled[name] = mesh_lib.replicate(features[::-1].copy(), mesh)",
        "features of other images",
    ),
    images('options = {"mode": extra.mode} if extra.mode else {}', "options = {}", "features in another mode"),
)
