"""AMFOR: a ViT whose part features stay comparable when body parts are occluded.

Reproduces: "Adaptive Multi-Granularity Fusion and Occlusion Reconstruction for Person Re-Identification", IEEE TMM
2025; published with HAP weights (mAP / Rank-1): Occluded-Duke 72.1 / 81.7, Occluded-REID 84.1 / 88.8, P-DukeMTMC-reID
87.4 / 94.2, Market-1501 94.0 / 97.4, DukeMTMC-reID 89.0 / 94.5. With ImageNet weights the article has 66.3 mAP on
Occluded-Duke and 62.8 for its baseline: most of the gain comes from the weights. The rows of the ablation table are
variants.

    python scripts/main.py --config configs/amfor.py                                 # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/amfor.py:occluded_duke                   # the recipe, text bank learned
    python scripts/main.py --config configs/amfor.py:occluded_duke,clip \
        --config.init.text_weights=clip.pth                                          # both stages, as the article
    python scripts/main.py --config configs/amfor.py:amfor_b3                        # a row, here of the demo
    python scripts/main.py --config configs/amfor.py:pixel                           # also draws masked patches

The recipe starts from HAP's weights (`reid-jax weights list` says where their file is); with
`--config.init.weights=vit_base_imagenet` (or `mae_vit_base`) it starts from ImageNet weights. The part decoder and the
mask generator learn from label files of body parts (datasets/README.md); without these files, use the variant `strips`.
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib

# Heads with a triplet loss (global, student, teacher, pooled parts), and whether distances are taken part by part.
PARTS = {"g": False, "s": True, "t": True, "b": True}
PARSING_TERMS = ("ce_f", "ce_b", "tri_b", "parsing", "diversity")
TEACHER_STUDENT_TERMS = ("ce_s", "tri_s", "ce_t", "tri_t", "visibility")


def recipe() -> ConfigDict:
    """Returns the published recipe: 256 x 128, stride 11, 16 identities x 4 images, SGD, 120 epochs.

    All loss terms have weight 1.
    """
    config = config_lib.defaults()
    config.system = "amfor"
    config.dtype = "auto"  # its parent trains in mixed precision
    config.model = {"name": "amfor", "size": "base", "stride": 11, "sie": "camera"}
    config.init.weights = "hap_vit_base"
    config.init.text_weights = ""
    config.init.allow_missing = ("classifier", "sie_embed")
    config.data.maps = ("parts",)
    config.data.augment = {
        "flip": {"probability": 0.5},
        "pad_crop": {"pad": 10},
        "erase": {"probability": 0.5, "area": (0.02, 0.33), "aspect": (0.3, 3.33), "log_aspect": True},
    }
    config.preprocess = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "erase_fill": "noise"}
    config.losses = losses()
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/g"}}
    config.optimizer.update(
        {
            "name": "sgd",
            "learning_rate": 0.004,
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
    config.seed = 1234
    config.phases = phases()
    return config


def losses() -> dict[str, dict]:
    """Returns the loss terms of stage 2."""
    terms = {}
    for name in ("g", "s", "b", "t", "f"):
        terms[f"ce_{name}"] = {
            "loss": "cross_entropy",
            "on": f"logits/{name}",
            "weight": 1.0,
            "label_smoothing": 0.0,
        }
    for name, parts in PARTS.items():
        terms[f"tri_{name}"] = {
            "loss": "triplet",
            "on": f"feature/{name}",
            "weight": 1.0,
            "margin": "soft",
            "normalize": False,
            "parts": parts,
        }
    terms["visibility"] = {
        "loss": "focal",
        "on": ("visibility/s", "visibility/target"),
        "weight": 1.0,
        "alpha": 0.25,
        "gamma": 2.0,
    }
    terms["distil"] = {
        "loss": "generative_distillation",
        "on": ("generated", "feature/t"),
        "weight": 1.0,
        "granularities": ("part",),
    }
    terms["parsing"] = {"loss": "parsing", "on": ("parsing/logits", "parsing/labels"), "weight": 1.0}
    terms["diversity"] = {"loss": "part_diversity", "on": "diversity", "weight": 1.0}
    return terms


def phases() -> dict[str, dict]:
    """Returns the two stages of the variant `clip`: prompts with frozen encoders, then everything but the prompts."""
    contrast = {"loss": "supcon", "weight": 1.0, "temperature": 1.0}
    prompts = {
        "losses": {
            "image_to_text": {**contrast, "on": ("prompt/image", "prompt/text")},
            "text_to_image": {**contrast, "on": ("prompt/text", "prompt/image")},
        },
        "monitors": {},
        # Features of the frozen encoder in test mode, of images without augmentation, are computed once.
        "extras": {
            "image_features": {
                "kind": "image_features",
                "dimension": "head_g/bottleneck/scale",
                "output": "feature/g",
                "mode": "plain",
            }
        },
        "passes": {
            "main": {
                "view": "",
                "network": "params",
                "train": False,
                "prefix": "",
                "mode": "prompts",
                "reads": ("extra/image_features",),
            }
        },
        "data": {"augment": {}, "views": {}, "maps": ()},
        "optimizer": {
            "name": "adam",
            "learning_rate": 3.5e-4,
            "learning_rate_multipliers": ((".*", 1.0),),
            "weight_decays": ((".*", 1e-4),),
            "momentum": None,
            "frozen": ("(?!prompts/(vectors|text_proj/)).*",),
        },
        # Warm-up from 1e-5 to 3.5e-4, cosine decay to 1e-6.
        "schedule": {
            "name": "warmup_cosine",
            "warmup_epochs": 5,
            "warmup_start": 1e-5 / 3.5e-4,
            "floor": 1e-6 / 3.5e-4,
            "first_epoch": 1,
        },
        "train": {"epochs": 120.0},
    }
    joint = {"start_from": "model/fill_text_bank", "optimizer": {"frozen": ("prompts/.*",)}}
    return {"prompts": prompts, "joint": joint}


# ---- presets --------------------------------------------------------------------------------------------------------

# Horizontal bands, as of a person who fills the image, in place of label files.
STRIPS = {"model.parsing_source": "strips", "data.maps": ()}
DRAWN = {"model.parsing_source": "synthetic"}
# The cameras of these data sets are query and gallery; a camera embedding would separate the two.
PSEUDO_CAMERAS = {"model.sie": "none"}
ADAMW = {
    "optimizer.name": "adamw",
    "optimizer.momentum": None,
    "optimizer.learning_rate_multipliers": ((".*", 1.0),),
}


def labeled(name: str) -> dict:
    """Returns the preset of a data set with the label files of its body parts."""
    preset = config_lib.DATASETS[name]
    title = preset["notes"].partition(":")[0]
    return {**preset, "notes": f"{title} with label files of body parts.", "data.options": {"part_labels": True}}


# Small networks from scratch. A generator that lags behind drives the student, and with it the teacher, to features of
# ever larger norm: under AdamW, whose steps do not depend on the gradient's scale, it needs a higher learning rate.
SMALL = {
    **config_lib.DEMO,
    **config_lib.DATASETS["synthped_occluded"],
    **DRAWN,
    **ADAMW,
    "optimizer.learning_rate_multipliers": (("amgd/.*", 10.0), (".*", 1.0)),
    "model.hpr_depths": (1, 1),
    "model.hpr_heads": 4,
    "model.amgd_hidden": 8,
    "model.pixel_width": 128,
    "model.pixel_heads": 4,
    "log.every_steps": 24,
}
# The triplet loss applies to the features compared at test time, the normalized outputs of the necks. Before the necks,
# features of an untrained ViT are nearly parallel for all images: there the loss stays at its margin, and parts stay
# alike.
ON_NECKS = {
    f"losses.tri_{name}.{key}": value
    for name in PARTS
    for key, value in (("on", f"neck/{name}"), ("normalize", True), ("parts", False))
}
DEMO = {
    **SMALL,
    **ON_NECKS,
    "notes": "A ViT of four blocks from scratch on occluded SynthPed, minutes on two CPU cores.",
    "optimizer.learning_rate": 1e-3,
    "model.patch": 12,
    "model.stride": 10,
    "model.width": 128,
    "model.depth": 4,
    "model.heads": 4,
    "model.drop_path": 0.0,
    "model.attention_heads": 4,
    "model.amff_layers": (1, 2, 3),
    "model.hpr_width": 64,
    "model.pixel_patch": 16,
}
# What the tables of AMFOR's parts are made with: people that colors alone do not tell apart, tokens fine enough for
# arms and feet, and parts that a run of some hundred steps can train. The published initial values are for a width of
# 768 and 27,000 steps. At a width of 128, HPR's change of its input begins at 1.6 %, positions at a fifth of a token.
# The mask generator has neither bias nor scale at the start: at the others' rate it does not even learn in 384 steps
# that most tokens are background. Beside five cross-entropies, labels of tokens and visibility with weight 1 are 3 % of
# the loss.
STREET = {
    **DEMO,
    **config_lib.DATASETS["synthped_street_occluded"],
    **config_lib.MIM128,
    "model.kernels": "xavier",
    "model.position_init": "sincos",
    "model.hpr_gain_init": 1.0,
    "model.pixel_patch": 8,
    "model.pixel_copies": True,
    "model.masks_positions": True,
    "model.masks_apart": True,
    "model.ts_vis_apart": True,
    "losses.parsing.weight": 10.0,
    "losses.visibility.weight": 50.0,
    "data.augment.erase.probability": 0.25,
    "optimizer.learning_rate_multipliers": (("(amgd|mask_generator|visibility)/.*", 10.0), (".*", 1.0)),
    "notes": "The demo on occluded SynthPed street, patches of 8, of masked pretraining's size.",
    "model.amff_layers": (1, 2, 3),
}
TINY = {
    **SMALL,
    "notes": "A ViT of six blocks and width 192 from scratch on occluded SynthPed, 60 epochs.",
    "data.sampler": {"name": "identity_groups", "identities": 8, "images": 4},
    "optimizer.learning_rate": 3e-4,
    "optimizer.weight_decays": ((".*", 0.05),),
    "model.width": 192,
    "model.depth": 6,
    "model.heads": 3,
    "model.stride": 16,
    "model.attention_heads": 6,
    "model.amff_layers": (1, 2, 3, 4),
    "model.hpr_width": 128,
    "train.epochs": 60.0,
}

PRESETS = {
    "demo": DEMO,
    "street": STREET,
    "amfor_tiny": TINY,
    **{name: {**data, **STRIPS} for name, data in config_lib.DATASETS.items()},
    **{name: labeled(name) for name in ("market1501", "dukemtmc_reid", "occluded_duke")},
    "market1501_part_labels": {
        **labeled("market1501_part_labels"),
        "notes": "The same as market1501 here; the name that other configs use.",
    },
    "p_dukemtmc_reid": {**labeled("p_dukemtmc_reid"), **PSEUDO_CAMERAS},
    "occluded_reid": {
        "notes": "Occluded-REID, a test set; trains on Market-1501 with label files of body parts.",
        "data.name": "occluded_reid",
        "data.sources": ("market1501_part_labels",),
        **PSEUDO_CAMERAS,
    },
    **{name: {**data, **DRAWN} for name, data in config_lib.DATASETS.items() if name.startswith("synthped")},
}

# ---- variants -------------------------------------------------------------------------------------------------------

COSINE = {"loss": "cosine_distillation", "on": ("feature/s", "feature/t"), "weight": 1.0}
CLEAN = {"data.views.clean": {"geometry": "shared"}}
FROM_TEACHER = {"losses.distil.on": ("generated", "teacher/feature/t")}
STUDENT_PASS = {"view": "", "network": "params", "train": True, "prefix": ""}
LEVELS = ("part", "group", "body")
PIXEL = {
    **CLEAN,
    "model.pixel": True,
    "losses.pixels": {
        "loss": "masked_patches",
        "on": ("pixels/predicted", "batch/image_clean", "pixels/mask"),
        "weight": 0.1,
        "normalize": False,
    },
}


def row(
    notes: str, *, amff: bool = True, parsing: bool = True, ts: bool = True, hpr: bool = True, amgd: str = "amgd"
) -> dict[str, object]:
    """Returns the full system without some components and their parameters, loss terms and labels.

    Args:
        notes: the sentence that describes the row.
        amff: fusion of depths.
        parsing: mask generator and pooled parts.
        ts: teacher-student part decoder.
        hpr: reconstruction of part features.
        amgd: distillation, "amgd", "cos" or "none".
    """
    dropped = (*(() if parsing else PARSING_TERMS), *(() if ts else TEACHER_STUDENT_TERMS))
    return {
        "notes": notes,
        **{f"model.{name}": value for name, value in (("amff", amff), ("parsing", parsing), ("ts", ts))},
        "model.hpr": hpr,
        "model.amgd": amgd,
        **({} if parsing else {"data.maps": ()}),
        **{f"losses.{name}": None for name in dropped},
        **({} if amgd == "amgd" else {"losses.distil": COSINE if amgd == "cos" else None}),
    }


def passes(teacher: dict) -> dict[str, dict]:
    """Returns the passes of a teacher with its own forward pass and of the student."""
    return {"teacher": {"train": True, "prefix": "teacher/", **teacher}, "student": STUDENT_PASS}


VARIANTS = {
    "amfor": {"notes": "The full system (F): AMFF, mask generator, part decoder, HPR and AMGD."},
    # The rows of the table: baselines, single components, leave-one-out. A setting goes before the row it is combined
    # with, as in no_erasing,amfor_b3.
    "amfor_b0": row(
        "B0: ViT with a batch-normalization neck, the global feature alone.",
        amff=False,
        parsing=False,
        ts=False,
        hpr=False,
        amgd="none",
    ),
    "amfor_b1": row("B1: B0 with mask generator and pooled parts.", amff=False, ts=False, hpr=False, amgd="none"),
    "amfor_b2": row(
        "B2: B1 with the teacher-student part decoder, without distillation.", amff=False, hpr=False, amgd="none"
    ),
    "amfor_b3": row(
        "B3: B2 with cosine distillation, likely the authors' baseline (TSD).", amff=False, hpr=False, amgd="cos"
    ),
    "amfor_a1": row("A1: B0 with fusion of depths (AMFF).", parsing=False, ts=False, hpr=False, amgd="none"),
    "amfor_a2": row("A2: B3 with fusion of depths (AMFF).", hpr=False, amgd="cos"),
    "amfor_a3": row("A3: B3 with reconstruction of part features (HPR).", amff=False, amgd="cos"),
    "amfor_a4": row(
        "A4: B3 with generative distillation (AMGD) in place of cosine distillation.", amff=False, hpr=False
    ),
    "amfor_a5": row("A5: the full system with cosine distillation in place of AMGD.", amgd="cos"),
    "amfor_no_amff": row("The full system without fusion of depths (AMFF).", amff=False),
    "amfor_no_hpr": row("The full system without reconstruction of part features (HPR).", hpr=False),
    "mim128": {**config_lib.MIM128, "model.amff_layers": (1, 2, 3)},
    # Text features; the default is a learned bank.
    "clip": {
        "notes": "Text features from CLIP (init.text_weights); a first phase learns a prompt per identity.",
        "model.text_source": "clip",
        "phase_order": ("prompts", "joint"),
    },
    "text_none": {"notes": "AMFF without text features.", "model.text_source": "none"},
    # Fusion of depths; `amff_figure` undoes our choices.
    "amff_last": {"notes": "AMFF after one block alone, the last of the published six.", "model.amff_layers": "last"},
    "amff_all": {"notes": "AMFF after every shared block.", "model.amff_layers": "all"},
    "amff_shut": {"notes": "AMFF with its gates closed: tokens pass unchanged.", "model.amff_alpha": 0.0},
    "amff_query_value": {
        "notes": "AMFF: values of the text attention from the queries, as in figure 3.",
        "model.amff_text_value": "query",
    },
    "amff_no_residual": {
        "notes": "AMFF: attention without residual paths, as in figure 3.",
        "model.amff_residual": False,
    },
    "amff_raw_weights": {
        "notes": "AMFF: weights of depths without softmax, as in figure 3.",
        "model.amff_normalize": "none",
    },
    "amff_no_head_start": {
        "notes": "AMFF: no head start for a token's own depth, gates half open.",
        "model.amff_beta": 0.0,
        "model.amff_gate_init": 0.0,
    },
    "amff_reuse_fused": {
        "notes": "AMFF: later modules mix tokens that earlier ones have fused.",
        "model.amff_reuse_fused": True,
    },
    "amff_figure": {
        "notes": "AMFF as figure 3 draws it, without our three choices.",
        "model.amff_text_value": "query",
        "model.amff_residual": False,
        "model.amff_normalize": "none",
    },
    # Labels of body parts.
    "strips": {"notes": "Bands of a person who fills the image in place of label files of body parts.", **STRIPS},
    "flip_maps_only": {
        "notes": "Flips part maps without exchanging left and right, as in TSD's code.",
        "data.augment.flip.flip_swap_lr": False,
    },
    # The teacher.
    "ts_ema": {
        "notes": "The teacher is a moving average of the student's weights.",
        **FROM_TEACHER,
        "extras.teacher": {"kind": "moving_average", "decay": 0.999},
        "passes": passes({"view": "", "network": "extra/teacher"}),
    },
    "ts_clean": {
        "notes": "The teacher sees the image before erasing.",
        **FROM_TEACHER,
        **CLEAN,
        "passes": passes({"view": "clean", "network": "params"}),
    },
    "ts_vis_teacher": {
        "notes": "The visibility loss applies to the teacher as well.",
        "model.ts_vis_teacher": True,
        "losses.visibility.weight": 0.5,
        "losses.visibility_t": {"loss": "focal", "on": ("visibility/t", "visibility/target"), "weight": 0.5},
    },
    "focal_even": {
        "notes": "The visibility loss weighs visible and hidden parts alike (focal alpha 0.5, not 0.25).",
        "losses.visibility.alpha": 0.5,
    },
    # Reconstruction of features and of pixels.
    "hpr_depth_1": {"notes": "HPR with one block per stage.", "model.hpr_depths": (1, 1)},
    "hpr_depth_3": {"notes": "HPR with three blocks per stage, as in figure 4.", "model.hpr_depths": (3, 3)},
    "hpr_depth_8": {"notes": "HPR with eight blocks per stage, as in the published run.", "model.hpr_depths": (8, 8)},
    "hpr_no_map": {"notes": "HPR without the map tokens of the foreground feature.", "model.hpr_map_tokens": False},
    "hpr_open": {"notes": "HPR whose gains begin at 1 in place of 0.1.", "model.hpr_gain_init": 1.0},
    "hpr_no_residual": {"notes": "HPR without its residual path, as in figure 4.", "model.hpr_residual": False},
    "pixel": {"notes": "Extension of ours: a small decoder also draws hidden patches.", **PIXEL},
    "pixel_masked": {
        "notes": "Pixel extension that hides half of the patches, in blocks and body parts.",
        **PIXEL,
        "model.pixel_ratio": 0.5,
    },
    "pixel_norm": {
        "notes": "Pixel extension with pixels normalized patch by patch.",
        **PIXEL,
        "losses.pixels": {**PIXEL["losses.pixels"], "normalize": True},
    },
    # Distillation.
    "amgd_random": {
        "notes": "AMGD with a random mask, as in masked generative distillation.",
        "model.amgd_mask": "random",
    },
    "amgd_no_mask": {"notes": "AMGD without a mask.", "model.amgd_mask": "none"},
    "amgd_const": {
        "notes": "AMGD with a constant threshold of its mask, as in figure 5.",
        "model.amgd_lambda_mode": "const",
    },
    "amgd_no_ste": {"notes": "AMGD with a mask that receives no gradient.", "model.amgd_ste": False},
    "amgd_hidden_1": {"notes": "AMGD with one channel between its convolutions.", "model.amgd_hidden": 1},
    "amgd_ratio_15": {"notes": "AMGD hides 15 % of each part in place of half.", "model.amgd_ratio": 0.15},
    "amgd_ratio_65": {"notes": "AMGD hides 65 % of each part in place of half.", "model.amgd_ratio": 0.65},
    "amgd_levels": {
        "notes": "AMGD for parts, groups of parts and the whole body.",
        "model.amgd_granularities": LEVELS,
        "losses.distil.granularities": LEVELS,
    },
    # Test time.
    "slots_global": {"notes": "Compares the global feature alone.", "model.eval_slots": "global"},
    "slots_parts": {"notes": "Compares the eight part features alone.", "model.eval_slots": "parts"},
    "no_visibility": {"notes": "Compares hidden parts like visible ones.", "model.eval_use_visibility": False},
    "soft_visibility": {
        "notes": "Parts count by the predicted probability that they can be seen, in place of 0 or 1.",
        "model.eval_soft_visibility": True,
    },
    # Images.
    "occluder": {
        "notes": "Pastes occluders into half of the training images.",
        "data.augment.occlude": {"probability": 0.5},
    },
    "no_erasing": {"notes": "Trains without random erasing.", "data.augment.erase": None},
    "no_sie": {"notes": "Without the camera embedding (SIE).", "model.sie": "none"},
    "sie": {"notes": "With the camera embedding (SIE).", "model.sie": "camera"},
    "stride12": {"notes": "Stride 12: neighboring patches overlap by 4 pixels.", "model.stride": 12},
    "stride16": {"notes": "Stride 16: patches do not overlap.", "model.stride": 16},
    "margin_triplet": {
        "notes": "Triplet margin 0.3 in place of the soft margin, which can overflow.",
        **{f"losses.tri_{name}.margin": 0.3 for name in PARTS},
    },
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    config = config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
    if "parts" not in config.data.maps:
        # No part of the model reads label files, so they are not required.
        sources = tuple(name.removesuffix("_part_labels") for name in config.data.sources)
        config_lib.override(config, {"data.options.part_labels": None, "data.sources": sources})
    if "clean" in config.data.views:
        # References, so that the clean view follows the flip and crop of the main view, also from the command line.
        moved = {name: config.data.augment.get_ref(name) for name in ("flip", "pad_crop")}
        config.data.views.clean.augment = moved
    return config
