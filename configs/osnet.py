"""OSNet: omni-scale features from a network of 2.2 million parameters, by its authors' recipe.

Reproduces: Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019, arXiv 1905.00953;
"Learning Generalizable Omni-Scale Representations for Person Re-Identification", TPAMI 2021 (OSNet-AIN). Rank-1 / mAP
of torchreid's models with this recipe from ImageNet weights (flip only, Euclidean distance, without re-ranking):

    width    Market-1501    DukeMTMC-reID
    x1_0     94.2 / 82.6    87.0 / 70.2
    x0_75    93.7 / 81.2    85.8 / 69.8
    x0_5     92.5 / 79.8    85.1 / 67.4
    x0_25    91.2 / 75.0    82.0 / 61.4

    python scripts/main.py --config configs/osnet.py                                 # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/osnet.py:market1501                      # the published recipe
    python scripts/main.py --config configs/osnet.py:market1501,osnet_x0_25 ...      # another width
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib


def recipe() -> ConfigDict:
    """Returns the published recipe: 256 x 128, 64 shuffled images, AMSGrad, 150 epochs.

    The first ten epochs train the classifier alone.
    """
    config = config_lib.defaults()
    config.system = "osnet"
    config.dtype = "float32"  # torchreid trains without mixed precision
    config.model = {"name": "osnet", "size": "x1_0", "kind": "plain"}
    config.init.weights = "osnet_x1_0_imagenet"
    config.data.sampler = {"name": "shuffle", "batch_size": 64}
    config.data.augment = {"flip": {"probability": 0.5}}
    config.losses = {"ce": {"loss": "cross_entropy", "on": "logits/b", "weight": 1.0, "label_smoothing": 0.1}}
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/b"}}
    config.optimizer.update(
        {
            "name": "amsgrad",
            "learning_rate": 1.5e-3,
            "learning_rate_multipliers": ((".*", 1.0),),
            "weight_decays": ((".*", 5e-4),),
        }
    )
    config.train.epochs = 150.0
    # Only the classifier is new, the rest comes from ImageNet: it trains alone first, on features of eval mode.
    config.phase_order = ("classifier", "all")
    config.phases = {
        "classifier": {
            "train": {"epochs": 10.0},
            "optimizer": {"frozen": ("(?!classifier/).*",)},
            "passes": {"main": {"view": "", "network": "params", "train": False, "prefix": ""}},
            "schedule": {"name": "constant"},
        },
        # The rate falls at epochs 60 and 120 of the whole run.
        "all": {
            "train": {"epochs": 140.0},
            "schedule": {"name": "multistep", "milestones_epochs": (50, 110), "factor": 0.1},
        },
    }
    config.evals.every_epochs = 50.0
    config.checkpoint.every_epochs = 10.0
    return config


# The narrowest width at 128 x 64 in a single phase, with the batches and crops of the other demos.
DEMO = {
    "phase_order": (),
    "phases": {},
    "data.sampler": {"name": "identity_groups", "identities": 16, "images": 4},
    "data.augment.pad_crop": {"pad": 4},
    **config_lib.DEMO,
    "notes": "OSNet x0.25 with one block a stage from scratch on SynthPed, minutes on two CPU cores.",
    "model.size": "x0_25",
    "model.depths": (1, 1, 1),  # two blocks a stage take half as long again to compile
}

PRESETS = {"demo": DEMO, **config_lib.DATASETS}

VARIANTS = {
    "osnet_x1_0": {"notes": "Full width, 2.2 million parameters.", "model.size": "x1_0"},
    "osnet_x0_75": {"notes": "Three quarters of the width.", "model.size": "x0_75"},
    "osnet_x0_5": {"notes": "Half the width.", "model.size": "x0_5"},
    "osnet_x0_25": {"notes": "A quarter of the width.", "model.size": "x0_25"},
    # Instance normalization at any width: after osnet_<width>, or at the width of the preset.
    "osnet_ibn": {
        "notes": "OSNet-IBN: instance normalization in the stem and after the blocks of conv2.",
        "model.kind": "ibn",
    },
    "osnet_ain": {"notes": "OSNet-AIN: instance normalization inside blocks that a search found.", "model.kind": "ain"},
    "osnet_one_phase": {
        "notes": "All layers learn from the first epoch on, for starts from random weights.",
        "phase_order": (),
        "phases": {},
        "schedule": {"name": "multistep", "milestones_epochs": (60, 120), "factor": 0.1},
    },
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    config = config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
    if config.init.weights:
        kind = "" if config.model.kind == "plain" else f"{config.model.kind}_"
        config.init.weights = f"osnet_{kind}{config.model.size}_imagenet"  # the file of this width and kind
    return config
