"""Deliberate mistakes in CFAT's config and corruptions, and in CIL."""

from tests.mutants import entries

_LOSSES = ("tests/losses/test_contrastive.py",)
_DRAWN = ("tests/data/test_corruptions.py", "tests/data/test_augmentations.py")
config = entries.group("cfat", "configs/cfat.py", "tests/models/test_cfat_twin.py", "tests/recipes")
recipe = entries.group("cfat", "configs/cfat.py", "tests/recipes", "tests/models/test_cfat_twin.py", level="config")
scores = entries.group(
    "cfat", "reid_jax/runs/further_descriptors.py", "tests/runs/test_further_descriptors.py", level="generic"
)
corrupt = entries.group("cfat", "reid_jax/data/corruptions/training.py", *_DRAWN)
sampling = entries.group("cfat", "reid_jax/data/corruptions/sampling.py", *_DRAWN)
augment = entries.group("cil", "reid_jax/data/augmentations.py", "tests/data/test_augmentations.py")
consistency = entries.group("cil", "reid_jax/losses/consistency.py", *_LOSSES)
baseline = entries.group("cil", "reid_jax/models/bot.py", "tests/models/test_bot.py", "tests/models/test_cil_twin.py")
cil = entries.group("cil", "configs/cil.py", "tests/models/test_cil_twin.py", "tests/recipes", level="config")

MUTANTS = (
    # ---- the config
    config(
        'TEACHER = {"view": "", "network": "extra/teacher"',
        'TEACHER = {"view": "", "network": "params"',
        "the teacher is the trained network",
    ),
    config(
        'TEACHER = {"view": "", "network"',
        'TEACHER = {"view": "corrupted", "network"',
        "the teacher sees the corrupted image",
    ),
    config(
        '"extra/teacher", "train": False,',
        '"extra/teacher", "train": True,',
        "the teacher runs in training mode by default",
    ),
    config('    "view": "corrupted",\n', '    "view": "",\n', "the student sees the clean image"),
    config(
        '"on": (TEACHER_FEATURE, "feature/align"),',
        '"on": ("feature/align", "feature/align"),',
        "the contrast of the student with itself",
    ),
    config('"temperature": 0.5,', '"temperature": 0.1,', "tau 0.1"),
    config('"weighted": True,', '"weighted": False,', "pairs of the same weight"),
    config('"turn": "coarse",', '"turn": "fine",', "the contrast in the fine update"),
    config(
        '{"loss": "mean_squared", "on": ("generated/g", "bridge/g"), "weight": 1.0, "turn": "fine"}',
        '{"loss": "mean_squared", "on": ("generated/g", "bridge/g"), "weight": 1.0, "turn": "coarse"}',
        "the bridge's error in the coarse update",
    ),
    config(
        '"mean_squared", "on": ("generated/g", "bridge/g")',
        '"mean_squared", "on": ("generated/teacher", "bridge/g")',
        "the error of the teacher's generated feature",
    ),
    config(
        '"mean_squared", "on": ("generated/g", "bridge/g")',
        '"mean_squared", "on": ("generated/g", TEACHER_FEATURE)',
        "the error against the teacher",
    ),
    config(
        '("generated/mean", "generated/sigma", "bridge/mean", "bridge/sigma")',
        '("bridge/mean", "bridge/sigma", "generated/mean", "generated/sigma")',
        "KL: arguments exchanged",
    ),
    config(
        '"mode": "mean",\n            "turn": "fine"',
        '"mode": "mean",\n            "turn": "coarse"',
        "KL in the coarse update",
    ),
    config(
        '**same, "turn": "fine"}', '**same, "turn": "coarse"}', "triplet of generated features in the coarse update"
    ),
    config(
        'for name in ("margin", "normalize")}\n    tri',
        'for name in ("margin",)}\n    tri',
        "generated features are not normalized like the student's",
    ),
    config(
        '"on": "generated/g", "weight": 1.0, **same',
        '"on": "bridge/g", "weight": 1.0, **same',
        "the triplet of bridges",
    ),
    config('"start_from": "extra/initial",', '"start_from": "",', "the student starts from the trained teacher"),
    config(
        '"teacher": {**untrained, "extras": {"initial": initial},',
        '"teacher": {**untrained, "extras": {"initial": initial, "teacher": teacher},',
        "the teacher is the untrained network",
    ),
    config(
        '"data": {"augment": corrupted},\n        },\n        "bridge"',
        '"data": {"augment": flip_and_crop},\n        },\n        "bridge"',
        "the student is trained on clean images",
    ),
    config(
        '{"augment": corrupted, "geometry": "independent"}',
        '{"augment": corrupted, "geometry": "shared"}',
        "pairs share flip and crop",
    ),
    config(
        '{"augment": corrupted, "geometry": "independent"}',
        '{"augment": flip_and_crop, "geometry": "independent"}',
        "the corrupted view is clean",
    ),
    config(
        '"student": {**STUDENT, "train": False}', '"student": STUDENT', "bridge phase: the student in training mode"
    ),
    config(
        '"optimizer": {"frozen": ("(?!bfg/).*",)},',
        '"optimizer": {"frozen": ()},',
        "bridge phase: everything is trained",
    ),
    config(
        'untrained = {"optimizer": {"frozen": ("bfg/.*",)}}',
        'untrained = {"optimizer": {"frozen": ()}}',
        "the generator decays in the first phases",
    ),
    config(
        '"losses": {**identity, **coarse}, "train"',
        '"losses": {**identity, **coarse, **fine}, "train"',
        "two phases: the first has all terms",
    ),
    config(
        'config.phase_order = ("teacher", "student", "bridge", "align")',
        'config.phase_order = ("teacher", "student", "align")',
        "no bridge phase",
    ),
    config("shared.weight = 0.5", "shared.weight = 1.0", "JPM: the global head weighs twice"),
    config('"weight": 0.125}', '"weight": 0.5}', "JPM: each local head weighs as the global one"),
    config(
        'for phase in ("align", "coarse", "fine"):',
        "for phase in ():",
        "JPM: local heads are not trained in the alignment",
    ),
    config(
        '"phases.align.train.turns": ("coarse", "fine"),',
        '"phases.align.train.turns": ("fine", "coarse"),',
        "alternate: fine before coarse",
    ),
    recipe('"policy": "all20"', '"policy": "augmix"', "trained on AugMix"),
    recipe('"refresh": "once", "probability": 0.5', '"refresh": "epoch", "probability": 0.5', "corruptions drawn anew"),
    recipe('"probability": 0.5}\n    # As', '"probability": 1.0}\n    # As', "every image is corrupted"),
    recipe('"learning_rate": 0.001,\n', '"learning_rate": 0.01,\n', "ten times the rate"),
    recipe('((".*bias", 2.0), (".*", 1.0))', '((".*", 1.0),)', "biases at the rate of weights"),
    recipe('"weight_decays": ((".*", 1e-4),),', '"weight_decays": ((".*", 0.0),),', "no decay"),
    recipe('"momentum": 0.9,', '"momentum": 0.5,', "momentum 0.5"),
    recipe('"margin": "soft", "normalize": False}', '"margin": 0.3, "normalize": False}', "triplet margin 0.3"),
    recipe('config.data.interpolation = "bicubic"', 'config.data.interpolation = "bilinear"', "bilinear in training"),
    recipe('"label_smoothing": 0.0}', '"label_smoothing": 0.1}', "label smoothing"),
    recipe(
        '"optimizer.learning_rate_multipliers": ((".*", 50.0),)',
        '"optimizer.learning_rate_multipliers": ((".*", 5.0),)',
        "the released rate is 0.005",
    ),
    recipe(
        '{"patch_mean": {"test_feature": "patch_mean"}}\n',
        '{"patch_mean": {"test_feature": "feature"}}\n',
        "both scores are of the class token",
        tests=("tests/models/test_cfat_twin.py", "tests/recipes"),
    ),
    scores("**options}", "}", "both scores are of one descriptor"),
    scores(
        'f"{dataset.name}/{name}/corrupted"',
        'f"{dataset.name}/corrupted"',
        "the second descriptor's scores replace the first's",
    ),
    # ---- corruptions of training
    corrupt("if name not in left_out)", "if name in left_out)", "trains on the family that is left out"),
    corrupt(
        "if rng.random() >= self.probability:",
        "if rng.random() < self.probability:",
        "the other share of images is corrupted",
    ),
    corrupt('        if self.refresh == "once":\n', '        if self.refresh != "once":\n', "once and anew exchanged"),
    corrupt('        if self.policy == "none":\n', '        if self.policy == "augmix":\n', "augmix changes nothing"),
    sampling(
        "severity = self.severities[int(rng.integers(len(self.severities)))]",
        "severity = self.severities[0]",
        "always the first severity",
    ),
    sampling(
        "return self.types[int(rng.integers(len(self.types)))], severity",
        "return self.types[0], severity",
        "always the first corruption",
    ),
    sampling(
        'text = "\\0".join((str(int(seed)), str(int(round_)), split, filename))',
        'text = "\\0".join((str(int(seed)), split, filename))',
        "every round draws the same",
    ),
    # ---- CIL
    consistency(
        "for view in logs) / len(logs), 1e-7, 1.0))", "for view in logs), 1e-7, 1.0))", "CIL: the mixture is a sum"
    ),
    consistency(
        "jnp.exp(view) * (view - mixture)",
        "jnp.exp(mixture) * (mixture - view)",
        "CIL: divergence of the mixture from the view",
    ),
    consistency(
        "start=jnp.zeros((), jnp.float32)) / len(logs)",
        "start=jnp.zeros((), jnp.float32))",
        "CIL: a sum over the views",
    ),
    augment("share = rng.beta(self.alpha, self.alpha)\n", "share = 1.0\n", "AugMix: nothing of the image is kept"),
    augment(
        "mixed = np.float32(1 - share) * image", "mixed = np.float32(share) * image", "AugMix: the shares exchanged"
    ),
    augment(
        "rng.integers(self.depth[0], self.depth[1] + 1)",
        "rng.integers(self.depth[0], self.depth[1])",
        "AugMix: chains of at most two operations",
    ),
    augment(
        "changed = OPERATIONS[name](changed,",
        "changed = OPERATIONS[name](image,",
        "AugMix: only the last operation counts",
    ),
    augment(
        "np.float32(1 - share) * image[top:bottom, left:right] + np.float32(share) * fill",
        "np.float32(share) * image[top:bottom, left:right] + np.float32(1 - share) * fill",
        "CIL: soft erasing blended the other way",
    ),
    augment(
        "return 255 * rng.standard_normal",
        "return rng.standard_normal",
        "CIL: soft erasing with noise of one gray level",
    ),
    augment(
        "mix: Sequence[float] | None = (0.5, 1.0)", "mix: Sequence[float] | None = (1.0, 0.5)", "CIL: Beta(1, 0.5)"
    ),
    cil('"weight": 12.0,', '"weight": 1.0,', "CIL: consistency of weight 1"),
    cil(
        '("logits/b", "augmix1/logits/b", "augmix2/logits/b")',
        '("logits/b", "augmix1/logits/b", "augmix1/logits/b")',
        "CIL: one view twice",
    ),
    cil('"geometry": "shared"}', '"geometry": "independent"}', "CIL: views of other crops"),
    cil('"pooling": "gem"', '"pooling": "average"', "CIL: average pooling"),
    cil('"test_feature": "feature"', '"test_feature": "neck"', "CIL: test feature after the neck"),
    cil('"margin": "soft"', '"margin": 0.3', "CIL: margin 0.3"),
    cil('"learning_rate": 0.008', '"learning_rate": 0.08', "CIL: ten times the rate"),
    cil('"label_smoothing": 0.1', '"label_smoothing": 0.0', "CIL: no label smoothing"),
    baseline('outputs[f"{self.test_feature}/b"]', 'outputs["neck/b"]', "CIL: the test feature is always the neck's"),
    baseline(
        'feature = global_pool.GlobalPool(self.pooling, name="pool")(stage4)',
        'feature = global_pool.GlobalPool("average", name="pool")(stage4)',
        "CIL: GeM is ignored",
    ),
)
