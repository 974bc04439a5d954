"""MGN: one global and two part branches over one trunk, the parent of MGAF.

Reproduces: Wang et al., "Learning Discriminative Features with Multiple Granularities for Person Re-Identification",
ACM MM 2018, arXiv 1804.01438; from ImageNet weights 86.9 mAP / 95.7 Rank-1 on Market-1501 and 78.4 / 88.7 on
DukeMTMC-reID (384 x 128, without re-ranking). The paper does not define the length of an epoch; here it shows as many
images as there are. `mgn_public` is the recipe of the public PyTorch reimplementation, which MGAF's resembles.

    python scripts/main.py --config configs/mgn.py                                   # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/mgn.py:market1501                        # the published recipe
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib

GLOBALS = ("g1", "g2", "g3")
PARTS = ("p2_0", "p2_1", "p3_0", "p3_1", "p3_2")


def recipe() -> ConfigDict:
    """Returns the published recipe: 384 x 128, 16 identities x 4 images, flips alone, SGD, 80 epochs."""
    config = config_lib.defaults()
    config.system = "mgn"
    config.dtype = "float32"  # the paper names no mixed precision
    config.model = {"name": "mgn"}
    config.init.weights = "resnet50_imagenet"
    config.data.update({"height": 384, "width": 128, "interpolation": "bicubic"})
    config.data.sampler = {"name": "image_epoch", "identities": 16, "images": 4}
    config.data.augment = {"flip": {"probability": 0.5}}
    config.preprocess.erase_fill = "zero"
    for head in (*GLOBALS, *PARTS):
        config.losses[f"ce_{head}"] = {"loss": "cross_entropy", "on": f"logits/{head}", "weight": 1 / 8}
    for head in GLOBALS:
        config.losses[f"tri_{head}"] = {"loss": "triplet", "on": f"feature/{head}", "weight": 1 / 3, "margin": 1.2}
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/g1"}}
    config.optimizer.update(
        {
            "name": "sgd",
            "momentum": 0.9,
            "learning_rate": 0.01,
            "learning_rate_multipliers": ((".*", 1.0),),
            "weight_decays": ((".*", 5e-4),),
        }
    )
    config.schedule = {"name": "multistep", "milestones_epochs": (40, 60), "factor": 0.1}
    config.train.epochs = 80.0
    config_lib.override(config, config_lib.FEDERATED)
    # Features of image and mirror image are averaged, then compared at unit length.
    config.evals.flip = True
    config.evals.metric = "cosine"
    config.evals.every_epochs = 20.0
    return config


# Narrow branches at 192 x 64 from scratch; the optimizer, the batches and the triplets of MGAF's demo.
DEMO = {
    "data.augment.pad_crop": {"pad": 4},
    **config_lib.DEMO,
    "notes": "Three narrow branches from scratch on SynthPed, minutes on two CPU cores.",
    "data.height": 192,
    "data.sampler": {"name": "identity_groups", "identities": 16, "images": 4},
    "optimizer.name": "adam",
    "optimizer.momentum": None,
    "model.width": 16,
    "model.depths": (1, 1, 2, 1),
    "model.feature_width": 64,
    "model.global_ce_input": "reduced",
    **{f"losses.tri_{head}.normalize": True for head in GLOBALS},
    **{f"losses.tri_{head}.margin": 0.3 for head in GLOBALS},
    "fed.rounds": 16,
    "fed.num_clients": 4,
    "fed.lr_drops": (),
}

PRESETS = {"demo": DEMO, **config_lib.DATASETS}

VARIANTS = {
    # Its global classifiers read the reduced vectors, and the triplet loss has twice the weight.
    "mgn_public": {
        "notes": "The recipe of the public PyTorch reimplementation: AMSGrad, erasing, 400 epochs.",
        "model.global_ce_input": "reduced",
        "data.sampler": {"name": "identity_epoch", "identities": 16, "images": 4},
        "data.augment.erase": {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 3.33), "tries": 100},
        **{f"losses.tri_{head}.weight": 2 / 3 for head in GLOBALS},
        "optimizer.name": "amsgrad",
        "optimizer.momentum": None,
        "optimizer.learning_rate": 2e-4,
        "schedule": {"name": "multistep", "milestones_epochs": (320, 380), "factor": 0.1},
        "train.epochs": 400.0,
    },
    "mgn_average": {"notes": "Average pooling in place of max pooling.", "model.pooling": "average"},
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    return config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
