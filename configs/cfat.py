"""CFAT: a ViT student of corrupted images, aligned with a frozen teacher of clean ones.

Reproduces: Zhang, Zhang and Shan, "Corruption-invariant Person Re-identification via Coarse-to-Fine Feature Alignment",
IEEE TCSVT 35(2), 2025; published on Market-1501, queries and gallery corrupted: mINP 32.96, mAP 69.74, Rank-1 85.68.
Those figures come from training on all twenty corruptions of the benchmark (`corruption.policy` all20), which the
benchmark's own rule forbids: compare them with others of that kind only. Every result states its policy.

One command runs all phases: a teacher on clean images, a student (from the same start) on corrupted ones, the generator
on the frozen features of both, and the alignment. The article gives no epochs for the first three; they are ours.

    python scripts/main.py --config configs/cfat.py                                  # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/cfat.py:market1501                       # the published recipe
    python scripts/main.py --config configs/cfat.py:market1501,cfat_coarse,augmix    # a row, under a fair policy
    python scripts/evaluate.py --run runs/cfat-demo --corruptions --rounds 10        # its scores under corruptions

With a teacher from a file: --config.phase_order="('student','bridge','align')"
--config.phases.student.extras.teacher.weights=FILE.
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib

FINE = ("bridge", "align", "fine")  # phases with the generator's terms
BEFORE = ("teacher", "student")  # phases that the rows of a table share, see `started`
PARTS = ("1", "2", "3", "4")  # local features of the jigsaw patch module
TEACHER_FEATURE = "teacher/feature/align"
TEACHER = {"view": "", "network": "extra/teacher", "train": False, "prefix": "teacher/"}
STUDENT = {
    "view": "corrupted",
    "network": "params",
    "train": True,
    "prefix": "",
    "after": ("teacher",),
    "reads": (TEACHER_FEATURE,),
}


def recipe() -> ConfigDict:
    """Returns the article's recipe: 256 x 128, 16 identities x 4 images, SGD, 120 epochs of alignment."""
    config = config_lib.defaults()
    config.system = "cfat"
    config.dtype = "float32"  # neither the article nor the notes on its code name mixed precision
    config.model = {"name": "cfat", "stride": 16, "sie": "camera", "jpm": False}
    config.init.weights = "vit_base_imagenet"
    config.init.allow_missing = ("classifier", "sie_embed", "^bfg/")
    # Corruptions of training, read by the references below: which, whether drawn once per image or in every epoch, and
    # with what probability.
    config.corruption = {"policy": "all20", "refresh": "once", "probability": 0.5}
    # As its parent TransReID: bicubic in training, bilinear in tests. Neither article nor code notes say otherwise.
    config.data.interpolation = "bicubic"
    config.data.test_interpolation = "bilinear"
    config.data.augment = {"flip": {"probability": 0.5}, "pad_crop": {"pad": 10}}
    config.losses = {
        "ce": {"loss": "cross_entropy", "on": "logits/g", "weight": 1.0, "label_smoothing": 0.0},
        "tri": {"loss": "triplet", "on": "feature/g", "weight": 1.0, "margin": "soft", "normalize": False},
    }
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/g"}}
    config.optimizer.update(
        {
            "name": "sgd",
            "learning_rate": 0.001,
            # Biases at twice the rate, and momentum, are its parent's; the article names rate and schedule alone.
            "learning_rate_multipliers": ((".*bias", 2.0), (".*", 1.0)),
            "weight_decays": ((".*", 1e-4),),
            "momentum": 0.9,
        }
    )
    config.schedule = {"name": "warmup_cosine", "warmup_epochs": 5, "first_epoch": 1}
    config.train.epochs = 120.0
    config.evals.metric = "cosine"
    config.evals.corruption_rounds = 10
    # The article compares the class token, which all losses train; the released code compares the mean of the patches.
    config.evals.descriptors = {"patch_mean": {"test_feature": "patch_mean"}}
    config.evals.networks = ("teacher",)
    config.checkpoint.every_epochs = 10.0
    _add_phases(config)
    return config


def _add_phases(config: ConfigDict) -> None:
    """Adds all phases in place; `phase_order` chooses among them."""
    flip_and_crop = {name: config.data.augment.get_ref(name) for name in config.data.augment}
    corrupt = {name: config.corruption.get_ref(name) for name in config.corruption}
    corrupted = {"corrupt": corrupt, **flip_and_crop}
    identity = {name: config.losses.get_ref(name) for name in config.losses}
    coarse = {
        "contrast": {
            "loss": "contrastive",
            "on": (TEACHER_FEATURE, "feature/align"),
            "weight": 1.0,
            "temperature": 0.5,
            "weighted": True,
            "stop_weight": False,
            "mask_same_identity": False,
            "turn": "coarse",
        }
    }
    generator = {
        "mse": {"loss": "mean_squared", "on": ("generated/g", "bridge/g"), "weight": 1.0, "turn": "fine"},
        "kl": {
            "loss": "gaussian_divergence",
            "on": ("generated/mean", "generated/sigma", "bridge/mean", "bridge/sigma"),
            "weight": 1.0,
            "mode": "mean",
            "turn": "fine",
        },
    }
    # The options of the triplet loss on the student's feature.
    same = {name: config.losses.tri.get_ref(name) for name in ("margin", "normalize")}
    tri_generated = {"loss": "triplet", "on": "generated/g", "weight": 1.0, **same, "turn": "fine"}
    fine = {"tri_generated": tri_generated, **generator}
    # These phases do not use the generator; freezing exempts it from weight decay.
    untrained = {"optimizer": {"frozen": ("bfg/.*",)}}
    # A pair is the clean and the corrupted image, each with its own flip and crop.
    pairs = {"views": {"corrupted": {"augment": corrupted, "geometry": "independent"}}}
    passes = {"teacher": TEACHER, "student": STUDENT}
    # How near the student's feature, and the generated one, come to the teacher's.
    near = {"student_teacher": {"loss": "cosine", "on": ("feature/align", TEACHER_FEATURE)}}
    generated = {"generated_teacher": {"loss": "cosine", "on": ("generated/g", TEACHER_FEATURE)}}
    accuracy = {name: config.monitors.get_ref(name) for name in config.monitors}
    initial, teacher = {"kind": "frozen_copy"}, {"kind": "frozen_copy", "weights": ""}
    align = {"data": pairs, "passes": passes, "monitors": {**accuracy, **near, **generated}}
    length = config.train.get_ref("epochs")
    half = length * 0.5
    config.phases = {
        # As long as each of the others, by default: what the teacher does not know cannot be aligned to.
        "teacher": {**untrained, "extras": {"initial": initial}, "train": {"epochs": length * 1.0}},
        "student": {
            **untrained,
            "extras": {"initial": initial, "teacher": teacher},
            "start_from": "extra/initial",
            "data": {"augment": corrupted},
        },
        "bridge": {
            "data": pairs,
            # As at test time: without stochastic depth, and without updates of the batch statistics.
            "passes": {"teacher": TEACHER, "student": {**STUDENT, "train": False}},
            "losses": generator,
            "monitors": {**near, **generated},
            "optimizer": {"frozen": ("(?!bfg/).*",)},
            "train": {"epochs": 10.0},
        },
        "align": {**align, "losses": {**identity, **coarse, **fine}, "train": {"turns": ()}},
        # The two halves of `align`, one after the other.
        "coarse": {**align, "losses": {**identity, **coarse}, "train": {"epochs": half}},
        "fine": {**align, "losses": {**identity, **fine}, "train": {"epochs": half}},
        # In place of `align` for networks without a teacher, with the same length and schedule.
        "clean_on": untrained,
        "corrupted_on": {**untrained, "data": {"augment": corrupted}},
    }
    config.phase_order = ("teacher", "student", "bridge", "align")


# The demo's generator reads features as long as a bridge. Averaged over the dimensions of unit vectors, a squared error
# of weight 1 has a hundredth of the identity loss's gradient at the class token (scripts/term_sizes.py), and L_KL of
# weight 1 holds the code so noisy that it says next to nothing of the feature: see docs/systems/cfat.md.
WEIGHTS = {
    **{f"phases.{phase}.losses.mse.weight": 48.0 for phase in FINE},
    **{f"phases.{phase}.losses.kl.weight": 0.01 for phase in FINE},
}
# The triplet loss on generated features trains the student alone. Hard triplets of a student from scratch are worse
# than those of equal features, to which a generator that follows this loss maps everything within an epoch.
HELD = {f"phases.{phase}.losses.tri_generated.on": "generated/held" for phase in FINE[1:]}
BRIDGE = {**WEIGHTS, **HELD}
# The small network of the demo in configs/transreid.py, from scratch, with Adam and normalized features in the triplet
# loss.
DEMO = {
    **config_lib.DEMO,
    "notes": "All phases with a ViT of four blocks, from scratch on SynthPed, on two CPU cores.",
    "optimizer.name": "adam",
    "optimizer.momentum": None,
    "optimizer.learning_rate": 1e-3,
    "optimizer.learning_rate_multipliers": ((".*", 1.0),),
    "model.width": 96,
    "model.depth": 4,
    "model.heads": 3,
    "model.patch": 8,
    "model.stride": 8,
    "losses.tri.normalize": True,
    "corruption.refresh": "epoch",
    "train.epochs": 6.0,
    # From scratch the network gains most of its score between the 6th and the 24th epoch, see docs/systems/cfat.md.
    "phases.teacher.train.epochs": 24.0,
    # From scratch, cosines of features before the neck are all above .9, and contrasts of them next to nothing.
    "model.align": "neck",
    "model.bfg_input": "unit",
    **BRIDGE,
    # After the neck its gradient is twelve times that of the identity loss.
    **{f"phases.{phase}.losses.contrast.weight": 0.5 for phase in ("align", "coarse")},
    "phases.bridge.train.epochs": 4.0,
    "phases.bridge.optimizer.learning_rate": 5e-3,
    "phases.bridge.schedule": {"name": "constant"},
    "evals.corruption_rounds": 0,
}

PRESETS = {"demo": DEMO, **config_lib.DATASETS}


def without(phase: str, *terms: str) -> dict[str, None]:
    """Returns overrides that remove loss terms from a phase."""
    return {f"phases.{phase}.losses.{term}": None for term in terms}


# Removes the generator: its loss terms, its phase and its parameters.
NO_GENERATOR = {
    "model.bridge": False,
    **{f"phases.{phase}.optimizer": None for phase in ("teacher", "student", "clean_on", "corrupted_on")},
}
COARSE = {
    **NO_GENERATOR,
    **without("align", "tri_generated", "mse", "kl"),
    "phases.align.monitors.generated_teacher": None,
    "phase_order": ("teacher", "student", "align"),
}
# A network without a teacher: as many steps as the student of the full method, under the same schedules.
ALONE = {
    **NO_GENERATOR,
    "evals.networks": (),
    "phases.teacher.extras": None,
    "phases.student.extras": None,
    "phases.student.start_from": None,
}
STUDENT_ALONE = {**ALONE, "phase_order": ("student", "corrupted_on")}
ID_REPEAT = {"phases.align.losses.ce_again": {"loss": "cross_entropy", "on": "logits/g", "turn": "fine"}}
# The settings of the released code that change what is learned.
CODE = {
    "model.bridge_norm": "unit_formula",
    "model.bfg_sigma": "raw",
    "model.bfg_out": "sigmoid",
    "phases.align.losses.mse.on": ("generated/teacher", "teacher/feature/align"),
    "phases.bridge.losses.mse.on": ("generated/teacher", "teacher/feature/align"),
    "phases.align.losses.kl.mode": "reference",
    "phases.align.passes.teacher.train": True,
    **ID_REPEAT,
    "corruption.probability": 20 / 21,
}
# Its optimizer: rates from 1e-5 over 0.05 to 2e-6, no momentum; 8 identities x 8 images.
RELEASED = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate_multipliers": ((".*", 50.0),),
    "optimizer.weight_decays": ((".*", 1e-3),),
    "optimizer.momentum": 0.0,
    "data.sampler": {"name": "identity_groups", "identities": 8, "images": 8},
}

VARIANTS = {
    "mim128": dict(config_lib.MIM128),
    "cfat": {"notes": "The full method: coarse and fine alignment in one update."},
    # The rows of the table.
    "cfat_clean": {
        "notes": "No teacher: a network trained on clean images as long as the student.",
        **ALONE,
        "phase_order": ("teacher", "clean_on"),
    },
    "cfat_student": {
        "notes": "No teacher: a network trained on corrupted images as long as the student.",
        **STUDENT_ALONE,
    },
    "cfat_student_long": {
        "notes": "No teacher: as cfat_student, with the teacher's epochs of training in addition.",
        **STUDENT_ALONE,
    },
    "cfat_augmix": {
        "notes": "No teacher: a network trained on AugMix images, which the benchmark's rule allows.",
        **STUDENT_ALONE,
        "corruption.policy": "augmix",
    },
    "cfat_con": {
        "notes": "Coarse alignment alone, all pairs with the same weight (L_con).",
        **COARSE,
        "phases.align.losses.contrast.weighted": False,
    },
    "cfat_coarse": {"notes": "Coarse alignment alone, distant pairs with a higher weight (L_WCL).", **COARSE},
    "cfat_mse": {
        "notes": "Both alignments, the generator by its squared error alone (without L_KL).",
        **without("align", "kl"),
        **without("bridge", "kl"),
    },
    "cfat_fine": {"notes": "Fine alignment alone, without the contrastive loss.", **without("align", "contrast")},
    # What the rows of a table share, see `started`.
    "cfat_start": {
        "notes": "What rows of a table share: teacher and student, before the alignment.",
        **NO_GENERATOR,
        "phase_order": BEFORE,
    },
    "started": {
        "notes": "Goes on from a run of cfat_start (init.trained): only the phases after it, its teacher.",
        "init.weights": "",
        "evals.networks": (),
    },
    # Ways to combine the two alignments.
    "cfat_alternate": {
        "notes": "Two updates per batch, coarse then fine, as in the article's algorithm.",
        "phases.align.train.turns": ("coarse", "fine"),
    },
    "cfat_two_phase": {
        "notes": "Coarse alignment in the first half of the epochs, fine in the second.",
        "phase_order": ("teacher", "student", "bridge", "coarse", "fine"),
    },
    "cfat_from_teacher": {
        "notes": "Starts from the trained teacher: the student, or with `started` the phase after it.",
        "phases.student.start_from": None,
    },
    "cfat_no_bridge_phase": {
        "notes": "Without the phase that trains the generator on frozen features.",
        "phase_order": ("teacher", "student", "align"),
    },
    # Training corruptions; combine with a row: cfat_coarse,augmix.
    "augmix": {
        "notes": "Trains on AugMix images, which share no operation with the test corruptions.",
        "corruption.policy": "augmix",
    },
    "no_corruption": {"notes": "Trains on images without corruptions.", "corruption.policy": "none"},
    **{
        f"leave_{family}_out": {
            "notes": f"Trains on the corruptions of all families but {family}.",
            "corruption.policy": f"leave_family_out({family})",
        }
        for family in ("noise", "blur", "weather", "digital")
    },
    "once": {"notes": "The corruption of a training image is drawn once.", "corruption.refresh": "once"},
    "anew": {"notes": "The corruption of a training image is drawn anew in each epoch.", "corruption.refresh": "epoch"},
    "always": {"notes": "Corrupts every training image.", "corruption.probability": 1.0},
    # Single settings.
    "cfat_tau_0_1": {
        "notes": "Contrastive temperature 0.1 in place of 0.5.",
        "phases.align.losses.contrast.temperature": 0.1,
    },
    "cfat_tau_1": {
        "notes": "Contrastive temperature 1 in place of 0.5.",
        "phases.align.losses.contrast.temperature": 1.0,
    },
    "cfat_stop_weight": {
        "notes": "No gradient through the weights of the contrastive pairs.",
        "phases.align.losses.contrast.stop_weight": True,
    },
    "cfat_mask_same_identity": {
        "notes": "Images of the anchor's identity are no negatives in the contrastive loss.",
        "phases.align.losses.contrast.mask_same_identity": True,
    },
    "cfat_shared_geometry": {
        "notes": "The same flip and crop for both images of a pair.",
        "phases.align.data.views.corrupted.geometry": "shared",
    },
    "cfat_id_repeat": {"notes": "Identity loss counted twice, as in the released code.", **ID_REPEAT},
    "cfat_id_through_head": {
        "notes": "Identity loss on the generated features as well.",
        "phases.align.losses.ce_generated": {"loss": "cross_entropy", "on": "logits/generated", "turn": "fine"},
    },
    "cfat_teacher_train_mode": {
        "notes": "Teacher in train mode, with stochastic depth, as in the released code.",
        "phases.align.passes.teacher.train": True,
    },
    "cfat_margin": {
        "notes": "Triplet margin 0.3 of the article in place of the soft margin.",
        "losses.tri.margin": 0.3,
    },
    "cfat_before_neck": {
        "notes": "Aligns the features before the neck, as article and code do.",
        "model.align": "feature",
    },
    "cfat_article_bridge": {
        "notes": "The recipe's generator in the demo: raw features, all its terms of weight 1.",
        **dict.fromkeys(WEIGHTS, 1.0),
        **dict.fromkeys(HELD, "generated/g"),
        "model.bfg_input": "raw",
    },
    "cfat_free_generator": {
        "notes": "The triplet loss on generated features trains the generator as well, as in the recipe.",
        **dict.fromkeys(HELD, "generated/g"),
    },
    "cfat_unit_input": {"notes": "The generator reads features of unit length.", "model.bfg_input": "unit"},
    "cfat_patch_mean": {
        "notes": "Compares the mean of the patch tokens, as the released code does.",
        "model.test_feature": "patch_mean",
        "evals.descriptors": {"class_token": {"test_feature": "feature"}},
    },
    "cfat_neck": {"notes": "Compares features after the batch-normalization neck.", "model.test_feature": "neck"},
    "cfat_no_sie": {"notes": "Without the camera embedding (SIE).", "model.sie": "none"},
    "cfat_jpm": {"notes": "With the jigsaw patch module (JPM) of TransReID.", "model.jpm": True},
    "cfat_stride12": {"notes": "Overlapping patches of stride 12.", "model.stride": 12},
    "cfat_released": {"notes": "Optimizer and batches of the released code.", **RELEASED},
    "cfat_code": {
        "notes": "The released code where it changes what is learned: optimizer, batches, losses.",
        **RELEASED,
        **CODE,
    },
    # As configs/transreid.py trains its baseline.
    "cfat_plain": {
        "notes": "TransReID's plain ViT on clean images in one phase, without any of CFAT.",
        **ALONE,
        "phase_order": (),
    },
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    config = config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
    if "cfat_student_long" in config.variants:
        own, teacher = (section.get_ref("epochs") for section in (config.train, config.phases.teacher.train))
        config.phases.corrupted_on.train = {"epochs": own + teacher}
    if "started" in config.variants:
        _start_after(config)
    if config.model.jpm:
        _add_local_terms(config)
    return config


def _start_after(config: ConfigDict) -> None:
    """Leaves out the phases that the run of `cfat_start` has behind it."""
    config.phase_order = tuple(name for name in config.phase_order if name not in BEFORE)
    config.init.extras = ("teacher",) if config.phases.student.get("extras") else ()
    config.init.network = "teacher" if "cfat_from_teacher" in config.variants else ""
    config.init.ignore = ("^params/bfg/",)  # of a run with a generator: the row trains its own


def _add_local_terms(config: ConfigDict) -> None:
    """Adds the identity losses of the local heads: half a loss is that of the global head, half their mean."""
    for name, output in (("ce", "logits"), ("tri", "feature")):
        shared = config.losses[name]
        for part in PARTS:
            options = {key: shared.get_ref(key) for key in shared if key not in ("on", "weight")}
            local = {**options, "on": f"{output}/{part}", "weight": 0.125}
            config.losses[f"{name}_{part}"] = local
            for phase in ("align", "coarse", "fine"):
                config.phases[phase].losses[f"{name}_{part}"] = config.losses.get_ref(f"{name}_{part}")
        shared.weight = 0.5
