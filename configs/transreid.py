"""TransReID: a vision transformer with a camera embedding (SIE) and a jigsaw patch module (JPM), and its ViT baseline.

Reproduces: He et al., "TransReID: Transformer-based Object Re-Identification", ICCV 2021, arXiv 2102.04378; with
ImageNet weights of ViT-B/16 at 256 x 128 (mAP / Rank-1): MSMT17 67.4 / 85.3, Market-1501 88.9 / 95.2, DukeMTMC-reID
82.0 / 90.7, Occluded-Duke 59.2 / 66.4 (the last with `stride11`). The default is TransReID* with overlapping patches;
the rows of the tables are variants.

    python scripts/main.py --config configs/transreid.py                             # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/transreid.py:market1501                  # the published recipe
    python scripts/main.py --config configs/transreid.py:market1501,baseline         # a row, here the plain ViT
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib

PARTS = ("1", "2", "3", "4")


def recipe() -> ConfigDict:
    """Returns the published recipe of TransReID*: 256 x 128, 16 identities x 4 images, SGD, 120 epochs."""
    config = config_lib.defaults()
    config.system = "transreid"
    config.dtype = "auto"  # the authors' code trains in mixed precision
    config.seed = 1234
    config.model = {"name": "transreid", "size": "base", "stride": 12, "sie": "camera", "jpm": True}
    config.init.weights = "vit_base_imagenet"
    config.init.allow_missing = ("classifier", "sie_embed")
    config.data.interpolation = "bicubic"
    config.data.test_interpolation = "bilinear"
    config.data.augment = {
        "flip": {"probability": 0.5},
        "pad_crop": {"pad": 10},
        "erase": {"probability": 0.5, "area": (0.02, 1 / 3), "aspect": (0.3, 1 / 0.3), "log_aspect": True, "tries": 10},
    }
    config.preprocess = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "erase_fill": "noise"}
    # Each loss is half that of the global feature and half the mean over the four local ones.
    for name, weight in (("g", 0.5), *((part, 0.125) for part in PARTS)):
        config.losses[f"ce_{name}"] = {
            "loss": "cross_entropy",
            "on": f"logits/{name}",
            "weight": weight,
            "label_smoothing": 0.0,
        }
        config.losses[f"tri_{name}"] = {
            "loss": "triplet",
            "on": f"feature/{name}",
            "weight": weight,
            "margin": "soft",
            "normalize": False,
        }
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/g"}}
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
    config.evals.metric = "euclidean"
    config.evals.every_epochs = 40.0
    config.checkpoint.every_epochs = 10.0
    return config


ADAM = {"optimizer.name": "adam", "optimizer.momentum": None, "optimizer.learning_rate_multipliers": ((".*", 1.0),)}
HEADS = ("g", *PARTS)
# A small network from scratch: Adam, and normalized features in the triplet loss (see configs/bot.py).
DEMO = {
    **config_lib.DEMO,
    "seed": 0,
    "notes": "A small ViT of four blocks from scratch on SynthPed, minutes on two CPU cores.",
    **ADAM,
    "optimizer.learning_rate": 1e-3,
    "model.width": 96,
    "model.depth": 4,
    "model.heads": 3,
    "model.patch": 8,
    "model.stride": 8,
    **{f"losses.tri_{name}.normalize": True for name in HEADS},
}

# The same network as ViT-B; it differs in its weights and in more erasing.
DEIT = {"data.augment.erase.probability": 0.8}
PRESETS = {
    "demo": DEMO,
    **config_lib.DATASETS,
    "occluded_duke": {
        **config_lib.DATASETS["occluded_duke"],
        "notes": "Occluded-DukeMTMC with patches of stride 11; withdrawn with DukeMTMC.",
        "model.stride": 11,
    },
}

NO_JPM = {
    "model.jpm": False,
    **{f"losses.{loss}_{part}": None for loss in ("ce", "tri") for part in PARTS},
    "losses.ce_g.weight": 1.0,
    "losses.tri_g.weight": 1.0,
}
BASELINE = {**NO_JPM, "model.sie": "none", "model.stride": 16}
LARGE = {"data.height": 384}

VARIANTS = {
    "transreid_star": {"notes": "TransReID*: camera embedding, jigsaw patches, overlapping patches of stride 12."},
    # The configurations of the released code.
    "baseline": {"notes": "Baseline: plain ViT-B/16 without overlap, camera embedding and jigsaw patches.", **BASELINE},
    "transreid_jpm": {
        "notes": "Baseline with the jigsaw patch module (+JPM).",
        "model.sie": "none",
        "model.stride": 16,
    },
    "transreid_sie": {"notes": "Baseline with the camera embedding (+SIE).", **NO_JPM, "model.stride": 16},
    "transreid": {"notes": "TransReID: camera embedding and jigsaw patches without overlap.", "model.stride": 16},
    "transreid_384": {"notes": "TransReID at 384 x 128.", **LARGE, "model.stride": 16},
    "transreid_star_384": {"notes": "TransReID* at 384 x 128.", **LARGE},
    "stride16": {"notes": "Stride 16: patches do not overlap.", "model.stride": 16},
    "stride14": {"notes": "Stride 14: neighboring patches overlap by 2 pixels.", "model.stride": 14},
    "stride11": {"notes": "Stride 11: neighboring patches overlap by 5 pixels.", "model.stride": 11},
    # Other networks; combine with a row.
    "deit": {"notes": "The DeiT-B/16 recipe, for its weights: erasing with probability 0.8.", **DEIT},
    "deit_msmt17": {
        "notes": "The DeiT-B/16 recipe for MSMT17: learning rate 0.005.",
        **DEIT,
        "optimizer.learning_rate": 0.005,
    },
    "deit_small": {"notes": "DeiT-S/16: width 384, six heads.", **DEIT, "model.size": "small"},
    "vit_small": {"notes": "ViT-S of the released code: width 768, eight blocks.", "model.size": "small_wide"},
    # The ablation study of the baseline; combine with `baseline`.
    "adam": {
        "notes": "Baseline study: Adam with learning rate 1e-4 in place of SGD.",
        **ADAM,
        "optimizer.learning_rate": 1e-4,
    },
    "adamw": {
        "notes": "Baseline study: AdamW with learning rate 1e-4 in place of SGD.",
        **ADAM,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 1e-4,
    },
    "no_positions": {"notes": "Baseline study: no position embedding.", "model.positions": False},
    "no_drop_path": {"notes": "Baseline study: no stochastic depth.", "model.drop_path": 0.0},
    "dropout": {"notes": "Baseline study: dropout of 0.1.", "model.dropout": 0.1},
    "attention_dropout": {
        "notes": "Baseline study: dropout of 0.1 on attention weights.",
        "model.attention_dropout": 0.1,
    },
    "margin_triplet": {
        "notes": "Baseline study: triplet margin 0.3 in place of the soft margin.",
        **{f"losses.tri_{name}.margin": 0.3 for name in HEADS},
    },
    "label_smoothing": {
        "notes": "Baseline study: label smoothing of 0.1.",
        **{f"losses.ce_{name}.label_smoothing": 0.1 for name in HEADS},
    },
    # Single settings.
    "no_rearrange": {"notes": "Jigsaw parts without shift and shuffle: horizontal stripes.", "model.rearrange": False},
    "mim128": dict(config_lib.MIM128),
    "patch16": {"notes": "Patches of 16, a quarter of the demo's tokens.", "model.patch": 16, "model.stride": 16},
    "mim_cost": {
        "notes": "S1: `mim128` from scratch at the cost of pretraining and fine-tuning together, 26 epochs.",
        "train.epochs": 26.0,
    },
    "quarter_labels": {
        "notes": "A quarter of the training identities, as many epochs.",
        "data.sources": ("own@identities=0.25",),
    },
    "half_labels": {
        "notes": "Half of the training identities, as many epochs.",
        "data.sources": ("own@identities=0.5",),
    },
    "tenth_rate": {
        "notes": "A tenth of the demo's learning rate, for pretrained weights.",
        "optimizer.learning_rate": 1e-4,
    },
    "hap_finetune": {
        "notes": "HAP's fine-tuning: AdamW, layer decay 0.4, 100 epochs; combine with `baseline`.",
        "data.sampler": {"name": "identity_groups", "identities": 8, "images": 8},
        "optimizer.name": "adamw",
        "optimizer.momentum": None,
        "optimizer.learning_rate": 8e-3,
        "optimizer.weight_decays": (("(.*/)?(bias|scale)", 0.0), (".*", 0.05)),
        # From the last of twelve blocks down to the embedding, each a factor 0.4 below the next.
        "optimizer.learning_rate_multipliers": (
            *((f"backbone/blocks_{index}/.*", 0.4 ** (12 - index)) for index in range(12)),
            ("backbone/(patch_embed/.*|cls_token|pos_embed)", 0.4**13),
            (".*", 1.0),
        ),
        "schedule": {
            "name": "warmup_cosine",
            "warmup_epochs": 5,
            "warmup_start": 0.0,
            "floor": 0.0,
            "decay_from_warmup": True,
        },
        "train.epochs": 100.0,
        "losses.ce_g.weight": 0.5,
        "losses.tri_g.weight": 0.5,
        "losses.tri_g.normalize": True,
    },
    "after_neck": {"notes": "Compares features after the batch-normalization necks.", "model.test_feature": "neck"},
    "cudnn": {"notes": "Fused attention kernel of cuDNN, for NVIDIA GPUs.", "model.attention_kernel": "cudnn"},
}

# What rows with another network than ViT-B/16 start from, as the released code does.
WEIGHTS = {
    "deit": "deit_base_distilled",
    "deit_msmt17": "deit_base_distilled",
    "deit_small": "deit_small_distilled",
    "vit_small": "vit_small_imagenet",
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    config = config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
    for name in config.variants if config.init.weights else ():
        config.init.weights = WEIGHTS.get(name, config.init.weights)
    return config
