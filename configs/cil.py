"""CIL: a ResNet-50 trained for corruption invariance without any of the test corruptions.

Reproduces: Chen, Wang and Zheng, "Benchmarks for Corruption Invariant Person Re-identification", NeurIPS 2021 Datasets
and Benchmarks, arXiv 2111.00880; with ImageNet weights on Market-1501 84.04 mAP / 93.38 Rank-1 on clean images, 28.03 /
55.57 on corrupted ones (the authors' table).

It obeys the benchmark's rule: AugMix shares no operation with the twenty test corruptions. Identity and triplet loss
apply to the main view alone; the consistency loss compares its class probabilities with those of two AugMix views of
the same crop. The three views pass through the network as one batch.

    python scripts/main.py --config configs/cil.py                                   # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/cil.py:market1501                        # the published recipe
    python scripts/evaluate.py --run runs/cil-demo --corruptions --rounds 10         # its scores under corruptions
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib


def recipe() -> ConfigDict:
    """Returns the published recipe: 256 x 128, 16 identities x 4 images, SGD, 120 epochs."""
    config = config_lib.defaults()
    config.system = "cil"
    config.dtype = "float32"  # no mixed precision is named
    config.model = {"name": "bot", "pooling": "gem", "test_feature": "feature"}
    config.init.weights = "resnet50_imagenet"
    config.data.augment = {
        "flip": {"probability": 0.5},
        "pad_crop": {"pad": 10},
        "soft_erase": {"probability": 0.5},
        "self_patch": {"probability": 0.5},
    }
    # All three views share flip, crop and mixed regions.
    shared = {name: config.data.augment.get_ref(name) for name in config.data.augment}
    augmented = {"augment": {**shared, "augmix": {"width": 3, "depth": (1, 3), "severity": 3.0}}, "geometry": "shared"}
    config.data.views = {"augmix1": augmented, "augmix2": augmented}
    config.passes = {"main": {"view": ("", "augmix1", "augmix2"), "network": "params", "train": True, "prefix": ""}}
    config.losses = {
        "ce": {"loss": "cross_entropy", "on": "logits/b", "weight": 1.0, "label_smoothing": 0.1},
        "tri": {"loss": "triplet", "on": "feature/b", "weight": 1.0, "margin": "soft"},
        "consistency": {
            "loss": "consistency",
            "on": ("logits/b", "augmix1/logits/b", "augmix2/logits/b"),
            "weight": 12.0,
        },
    }
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/b"}}
    config.optimizer.update(
        {
            "name": "sgd",
            "learning_rate": 0.008,
            "learning_rate_multipliers": ((".*bias", 2.0), (".*", 1.0)),
            "weight_decays": ((".*", 1e-4),),
            "momentum": 0.9,
        }
    )
    config.schedule = {"name": "warmup_cosine", "warmup_epochs": 5, "first_epoch": 1}
    config.train.epochs = 120.0
    config.evals.metric = "cosine"
    config.evals.every_epochs = 40.0
    config.evals.corruption_rounds = 10
    config.checkpoint.every_epochs = 10.0
    return config


# From scratch it needs Adam, and normalized features in the triplet loss (see configs/bot.py). It has as many epochs as
# the networks without a teacher in the demo of configs/cfat.py.
DEMO = {
    **config_lib.DEMO,
    "notes": "A narrow, shallow ResNet from scratch on SynthPed, minutes on two CPU cores.",
    "optimizer.name": "adam",
    "optimizer.momentum": None,
    "optimizer.learning_rate_multipliers": ((".*", 1.0),),
    "model.width": 24,
    "model.depths": (1, 1, 1, 1),
    "losses.tri.normalize": True,
    "train.epochs": 12.0,
    "evals.corruption_rounds": 0,
}

PRESETS = {"demo": DEMO, **config_lib.DATASETS}

ONE_VIEW = {"data.views": {}, "losses.consistency": None, "passes.main.view": ""}


def without(*transforms: str) -> dict[str, None]:
    """Returns overrides that remove transforms from all views."""
    chains = ("data.augment", "data.views.augmix1.augment", "data.views.augmix2.augment")
    return {f"{chain}.{name}": None for chain in chains for name in transforms}


VARIANTS = {
    "cil": {"notes": "The full recipe: consistency over AugMix views, soft erasing, self-patch mixing."},
    # One component at a time; without the consistency loss nothing needs the AugMix views.
    "cil_no_consistency": {"notes": "The main view alone, without AugMix views and the consistency loss.", **ONE_VIEW},
    "cil_no_soft_erase": {"notes": "Without soft random erasing.", **without("soft_erase")},
    "cil_no_self_patch": {"notes": "Without self-patch mixing.", **without("self_patch")},
    "cil_hard_erase": {
        "notes": "Ordinary random erasing: the erased region is noise alone.",
        "data.augment.soft_erase": {"probability": 0.5, "mix": None},
    },
    "cil_clean": {
        "notes": "Flips and crops on the main view alone: the baseline of the recipe.",
        **without("soft_erase", "self_patch"),
        **ONE_VIEW,
    },
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    return config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
