"""MSPF: OSFA's global and local features with a multi-patch module; OSFA itself is a variant.

Reproduces: "MSPF", Journal of Intelligent & Fuzzy Systems, doi 10.3233/JIFS-237113. The absolute scores of its tables
are in no public text that we found; it reports, against OSFA, +1.2 Rank-1 / +0.9 mAP on Market-1501, +0.5 / +0.6 on
DukeMTMC-reID and +2.8 / +1.2 on CUHK03-NP labeled, and that two and four patches are best. OSFA's own logs, without its
attention: 94.7 Rank-1 / 87.4 mAP on Market-1501.

    python scripts/main.py --config configs/mspf.py                                  # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/mspf.py:market1501                       # the published recipe
    python scripts/main.py --config configs/mspf.py:market1501,mspf_p2               # a row of the ablation table

The paper starts from a trained OSFA: train `:market1501,osfa` first, then `:market1501,mspf_from_osfa` with
`--config.init.trained=runs/mspf-market1501-osfa` beside the weights of OSNet, which fill the patch levels.
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib

CENTER_WEIGHT = 0.0007  # a2 of the paper


def recipe() -> ConfigDict:
    """Returns the published recipe: 256 x 128, 16 identities x 4 images, Adam, 200 epochs."""
    config = config_lib.defaults()
    config.system = "mspf"
    config.dtype = "float32"  # neither the text nor the parent's code names mixed precision
    config.model = {"name": "mspf"}
    config.init.weights = "osnet_x1_0_imagenet"
    config.data.augment = {
        "flip": {"probability": 0.5},
        "erase": {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 3.33), "tries": 100},
    }
    # The released code fills erased boxes after normalization, where this value is a light gray.
    config_lib.override(config, {"preprocess.erase_fill": (0.4914, 0.4822, 0.4465)})
    for head in ("g", "l"):  # all losses are means over the two heads
        config.losses[f"ce_{head}"] = {
            "loss": "cross_entropy",
            "on": f"logits/{head}",
            "weight": 0.5,
            "label_smoothing": 0.1,
        }
        config.losses[f"tri_{head}"] = {"loss": "triplet", "on": f"feature/{head}", "weight": 0.5, "margin": 0.3}
        config.losses[f"center_{head}"] = {
            "loss": "center",
            "on": (f"feature/{head}", f"extra/centers_{head}"),
            "weight": 0.5 * CENTER_WEIGHT,
        }
        config.extras[f"centers_{head}"] = {
            "kind": "centers",
            "dimension": f"neck_{head}/bias",
            "learning_rate": 0.5,
            # Makes the step of the centers independent of the weight of the loss term.
            "scale": 1 / (0.5 * CENTER_WEIGHT),
            "trainable": True,
        }
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/g"}}
    config.optimizer.update(
        {
            "name": "adam",  # weight decay is coupled (L2 added to the gradient) and covers every parameter
            "learning_rate": 3.5e-4,
            "learning_rate_multipliers": ((".*", 1.0),),
            "weight_decays": ((".*", 5e-4),),
        }
    )
    # The paper's 3.5e-5 is the start of the warm-up, which reaches 3.5e-4 in epoch 40; the rate falls to a tenth in
    # epoch 101 and to a hundredth in epoch 131.
    config.schedule = {
        "name": "warmup_multistep",
        "warmup_epochs": 39,
        "warmup_start": 0.1,
        "milestones_epochs": (100, 130),
        "factor": 0.1,
    }
    config.train.epochs = 200.0
    config.evals.every_epochs = 10.0
    config.checkpoint.every_epochs = 10.0
    return config


# Half the width at 64 x 32. From scratch, the triplet loss of unnormalized features dominates the identity losses, so
# the demo normalizes them. Eight patches are then 16 x 16 pixels each, one cell of the last map.
DEMO = {
    "data.augment.pad_crop": {"pad": 2},
    **config_lib.DEMO,
    "notes": "MSPF of half width, one block a stage, from scratch on SynthPed, minutes on two CPU cores.",
    "data.augment.pad_crop.pad": 2,
    "data.height": 64,
    "data.width": 32,
    "model.size": "x0_5",
    "model.depths": (1, 1, 1),  # three OSNets: two blocks a stage take two thirds longer to compile
    **{f"losses.tri_{head}.normalize": True for head in ("g", "l")},
}

PRESETS = {"demo": DEMO, **config_lib.DATASETS}

OSFA = {"model.mpf_patches": (), "model.attention": "spatial_channel", "model.attention_kind": "osfa"}

# The bare backbone under the same losses; it has one head.
OSNET = {
    "model.name": "osnet",
    "monitors.accuracy.on": "logits/b",
    **{f"losses.{loss}_l": None for loss in ("ce", "tri", "center")},
    "extras.centers_l": None,
    **{f"losses.{loss}_g.weight": 1.0 for loss in ("ce", "tri")},
    "losses.center_g.weight": CENTER_WEIGHT,
    "losses.ce_g.on": "logits/b",
    "losses.tri_g.on": "feature/b",
    "losses.center_g.on": ("feature/b", "extra/centers_g"),
    "extras.centers_g.dimension": 512,
    "extras.centers_g.scale": 1 / CENTER_WEIGHT,
}

VARIANTS = {
    "mspf": {"notes": "The full system: patches of two levels, channel before spatial attention."},
    "mspf_osnet": {"notes": "The bare OSNet backbone under the same losses.", **OSNET},
    "osfa": {"notes": "The parent OSFA: its own attention, no multi-patch module.", **OSFA},
    # Table 5 of the paper: patches per level.
    "mspf_p0": {"notes": "Table 5: no patches.", "model.mpf_patches": ()},
    "mspf_p2": {"notes": "Table 5: one level of two patches.", "model.mpf_patches": (2,)},
    "mspf_p248": {"notes": "Table 5: levels of two, four and eight patches.", "model.mpf_patches": (2, 4, 8)},
    # Table 6: attention after conv3.
    "mspf_att_none": {"notes": "Table 6: no attention.", "model.attention": "none"},
    "mspf_att_sam": {"notes": "Table 6: spatial attention (SAM) alone.", "model.attention": "spatial"},
    "mspf_att_cam": {"notes": "Table 6: channel attention (CAM) alone.", "model.attention": "channel"},
    "mspf_att_sam_cam": {
        "notes": "Table 6: channel after spatial attention (CAM after SAM).",
        "model.attention": "spatial_channel",
    },
    "mspf_local": {
        "notes": "The local branch alone, without global path, attention and patches.",
        "model.branches": ("l",),
        "model.mpf_patches": (),
        "model.attention": "none",
        "monitors.accuracy.on": "logits/l",
        **{f"losses.{loss}_g": None for loss in ("ce", "tri", "center")},
        "extras.centers_g": None,
        **{f"losses.{loss}_l.weight": 1.0 for loss in ("ce", "tri")},
        "losses.center_l.weight": CENTER_WEIGHT,
        "extras.centers_l.scale": 1 / CENTER_WEIGHT,
    },
    # Other readings of the text.
    "mspf_map": {"notes": "Adds the maps of the patch levels in place, before pooling.", "model.mpf_fuse": "map"},
    "mspf_stripes": {"notes": "Horizontal stripes in place of a grid of patches.", "model.patch_layout": "stripes"},
    "mspf_shared": {
        "notes": "One OSNet for all patch levels in place of one per level.",
        "model.mpf_share_levels": True,
    },
    "mspf_sam2": {"notes": "Smooth aggregation of two maps in place of three.", "model.sam_maps": (2, 3)},
    "mspf_att_twice": {"notes": "Attention after conv2 as well as after conv3.", "model.attention_at": (2, 3)},
    "mspf_osfa_att": {
        "notes": "OSFA's own attention modules in place of CBAM's.",
        "model.attention": "spatial_channel",
        "model.attention_kind": "osfa",
    },
    # CBAM's attention is not OSFA's, and the global head is wider with patches.
    "mspf_from_osfa": {
        "notes": "Starts from a trained OSFA, as the paper: the run of row osfa, or another init.trained.",
        "init.allow_missing": ("classifier", "^neck_g/", "^mpf/", "^osfa/attention"),
        "init.ignore": ("/osfa/attention",),
    },
    "mspf_frozen_centers": {
        "notes": "Centers of the center loss stay at their random start, as in OSFA's code.",
        **{f"extras.centers_{head}.trainable": False for head in ("g", "l")},
    },
    "mspf_no_centers": {
        "notes": "Without the center loss.",
        **{key: None for head in ("g", "l") for key in (f"losses.center_{head}", f"extras.centers_{head}")},
    },
    "mspf_soft_triplet": {
        "notes": "Triplet loss with a soft margin in place of 0.3.",
        **{f"losses.tri_{head}.margin": "soft" for head in ("g", "l")},
    },
    "mspf_constant_rate": {
        "notes": "The learning rate that the paper prints, 3.5e-5, throughout.",
        "schedule": {"name": "constant"},
        "optimizer.learning_rate": 3.5e-5,
    },
    "osfa_released": {
        "notes": "OSFA as in its last released logs: two maps, attention twice.",
        **OSFA,
        "model.sam_maps": (2, 3),
        "model.attention_at": (2, 3),
    },
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    config = config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
    if "mspf_from_osfa" in config.variants:
        config.init.trained = f"runs/mspf-{config.preset}-osfa"  # where the row osfa of this preset is trained
    return config
