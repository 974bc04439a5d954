"""BoT: the ResNet-50 "bag of tricks" baseline that most ReID papers start from.

Reproduces: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPR Workshops 2019,
arXiv 1903.07071; with ImageNet weights 85.9 mAP / 94.5 Rank-1 on Market-1501 and 76.4 / 86.4 on DukeMTMC-reID
(256 x 128, without re-ranking).

    python scripts/main.py --config configs/bot.py                                   # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/bot.py:market1501                        # the published recipe
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib


def recipe() -> ConfigDict:
    """Returns the published recipe: 256 x 128, 16 identities x 4 images, Adam, 120 epochs."""
    config = config_lib.defaults()
    config.system = "bot"
    config.dtype = "float32"  # the authors' code has no mixed precision
    config.model = {"name": "bot"}
    config.init.weights = "resnet50_imagenet"
    config.losses = {
        "ce": {"loss": "cross_entropy", "on": "logits/b", "weight": 1.0, "label_smoothing": 0.1},
        "tri": {"loss": "triplet", "on": "feature/b", "weight": 1.0, "margin": 0.3},
    }
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/b"}}
    config.optimizer.update(
        {
            "name": "adam",
            "learning_rate": 3.5e-4,
            "learning_rate_multipliers": ((".*", 1.0),),
            "weight_decays": ((".*", 5e-4),),
        }
    )
    config.schedule = {
        "name": "warmup_multistep",
        "warmup_epochs": 10,
        "warmup_start": 0.1,
        "milestones_epochs": (40, 70),
        "factor": 0.1,
    }
    config.train.epochs = 120.0
    config.evals.metric = "cosine"
    config.evals.every_epochs = 40.0
    config.checkpoint.every_epochs = 10.0
    return config


# From scratch, the triplet loss of unnormalized features dominates the identity loss, so the demo normalizes them.
DEMO = {
    **config_lib.DEMO,
    "notes": "A narrow, shallow ResNet from scratch on SynthPed, minutes on two CPU cores.",
    "model.width": 24,
    "model.depths": (1, 1, 1, 1),
    "losses.tri.normalize": True,
}

PRESETS = {"demo": DEMO, **config_lib.DATASETS}

VARIANTS = {
    # One trick at a time, from the last row of the paper's Table 1 to the first.
    "bot_center": {
        "notes": "Adds the center loss, the last trick of the paper.",
        "losses.center": {"loss": "center", "on": ("feature/b", "extra/centers"), "weight": 5e-4},
        "extras.centers": {"kind": "centers", "dimension": 2048, "learning_rate": 0.5, "scale": 2000.0},
    },
    "bot_stride2": {"notes": "Stride 2 in the last stage, without the last-stride trick.", "model.last_stride": 2},
    "bot_no_smoothing": {"notes": "Identity loss without label smoothing.", "losses.ce.label_smoothing": 0.0},
    "bot_no_erasing": {"notes": "Trains without random erasing.", "data.augment.erase": None},
    "bot_no_warmup": {"notes": "Trains without warm-up of the learning rate.", "schedule.warmup_epochs": 0},
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    return config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
