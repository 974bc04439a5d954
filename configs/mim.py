"""Masked image pretraining: a ViT learns from person crops without labels by drawing the patches that it does not see.

Reproduces the method of He et al., "Masked autoencoders are scalable vision learners", CVPR 2022, with the choices for
people of Yuan et al., "HAP: structure-aware masked image modeling for human-centric perception", NeurIPS 2023: half of
the patches hidden, body parts first, then blocks; two masks of every image, whose class tokens are aligned. HAP's
weights are what AMFOR is published with (94.0 mAP on Market-1501 against 90.6 from ImageNet). Their fine-tuned scores
are those of other systems and recipes; nothing here reproduces a number of theirs.

    python scripts/main.py --config configs/mim.py                          # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/mim.py:demo,hap                 # the same with HAP's masks and two views
    python scripts/main.py --config configs/mim.py:folder                   # a prepared pool of your own crops
    python scripts/main.py --config configs/mim.py:market1501               # training images of a data set

The encoder of a run is `weights/encoder.npz` in its folder. Fine-tune it where the network has its size:

    python scripts/main.py --config configs/transreid.py:demo,baseline,mim128 \
        --config.init.weights=runs/mim-demo/weights/encoder.npz

Training images come from `data.sources`, labels are not read. `data.name` is the labeled set of the probes: ranking by
the frozen encoder (`knn`), drawings and their PSNR; it decides nothing.
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib

VIEW = {"view": "", "network": "params", "train": True}
MAIN = {**VIEW, "prefix": "", "mode": ""}
SECOND = {**VIEW, "prefix": "second/", "mode": "second"}
DRAWN = ("pixels/predicted", "batch/image", "pixels/mask")


def recipe() -> ConfigDict:
    """Returns HAP's recipe for a batch of 1,024: ViT-B/16 at 256 x 128 from MAE's encoder, AdamW, 400 epochs."""
    config = config_lib.defaults()
    config.system = "mim"
    config.dtype = "auto"  # the authors train in mixed precision
    config.model = {
        "name": "mim",
        "size": "base",
        "mask_kind": "parts",
        "mask_ratio": 0.5,
        "part_share": (0.0, 0.3),
        "statistics": True,
        "kernels": "xavier",
    }
    config.init.weights = "mae_vit_base"
    config.data.maps = ("parts",)
    config.data.interpolation = "bicubic"
    config.data.sampler = {"name": "pool", "batch_size": 1024, "order": "cipher"}
    config.data.augment = {
        # Half of the usual aspects, for upright crops: 3/8 to 2/3.
        "resized_crop": {"area": (0.8, 1.0), "aspect": (0.375, 2 / 3), "tries": 10},
        "flip": {"probability": 0.5},
        "mask_seed": {},
    }
    # What the systems that start from the encoder use; HAP has ImageNet's constants.
    config.preprocess = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    config.passes = {"main": MAIN, "second": SECOND}
    config.losses = {
        "main": {"loss": "masked_patches", "on": DRAWN, "weight": 0.5, "normalize": True},
        "second": {
            "loss": "masked_patches",
            "on": ("second/pixels/predicted", "batch/image", "second/pixels/mask"),
            "weight": 0.5,
            "normalize": True,
        },
        "align": {"loss": "align", "on": ("feature/g", "second/feature/g"), "weight": 0.05, "temperature": 0.2},
        # Learns the scale of the drawings and nothing else.
        "statistics": {
            "loss": "patch_statistics",
            "on": ("pixels/statistics", "batch/image", "pixels/mask"),
            "weight": 1.0,
        },
    }
    config.monitors = {"rank": {"loss": "effective_rank", "on": "feature/g"}}
    config.optimizer.update(
        {
            "name": "adamw",
            "learning_rate": 6e-4,  # 1.5e-4 for 256 images
            "weight_decays": (("(.*/)?(bias|scale)", 0.0), (".*", 0.05)),
            "b1": 0.9,
            "b2": 0.95,
            "frozen": ("backbone/pos_embed",),
        }
    )
    config.schedule = {
        "name": "warmup_cosine",
        "granularity": "step",
        "warmup_epochs": 40,
        "warmup_start": 0.0,
        "floor": 0.0,
        "decay_from_warmup": True,
    }
    config.train.epochs = 400.0
    config.evals.metric = "cosine"
    config.evals.every_epochs = 20.0
    config.evals.baselines = True
    config.evals.descriptors = {"cls": {"probe": "cls"}}
    config.checkpoint.every_epochs = 10.0
    return config


# ---- parts of presets -----------------------------------------------------------------------------------------------

# One mask of each image.
ONE_VIEW = {
    "passes": {"main": MAIN},
    "losses.main.weight": 1.0,
    "losses.second": None,
    "losses.align": None,
}
TWO_VIEWS = {
    "passes": {"main": MAIN, "second": SECOND},
    "losses.main.weight": 0.5,
    "losses.second": {
        "loss": "masked_patches",
        "on": ("second/pixels/predicted", "batch/image", "second/pixels/mask"),
        "weight": 0.5,
        "normalize": True,
    },
}
ALIGN = {
    "losses.align": {"loss": "align", "on": ("feature/g", "second/feature/g"), "weight": 0.05, "temperature": 0.2},
}
RANDOM = {"model.mask_kind": "random", "data.maps": ()}
STRIPS = {"model.parts_source": "strips", "data.maps": ()}


def unlabeled(name: str) -> dict:
    """Returns the preset of a data set: its training images without their labels."""
    data = config_lib.DATASETS[name]
    parts = {} if name.startswith("synthped") or name == "market1501_part_labels" else STRIPS
    notes = f"The training images of {name} without their labels."
    return {**data, **parts, "data.sources": (), "notes": notes}


DEMO = {
    **{key: value for key, value in config_lib.DEMO.items() if not key.startswith("data.augment")},
    **ONE_VIEW,
    **RANDOM,
    "notes": "A ViT of four blocks on 12,000 crops of SynthPed without labels; probes of other people.",
    "data.sources": ("synthped_large@seed=1",),
    # More steps for as many images helped a little at this length.
    "data.sampler": {"name": "pool", "batch_size": 64, "order": "cipher"},
    "data.augment.resized_crop.area": (0.6, 1.0),
    "model.size": "demo",
    "model.patch": 8,
    "model.mask_ratio": 0.75,
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decays": (("(.*/)?(bias|scale)", 0.0), (".*", 0.05)),
    "schedule": {
        "name": "warmup_cosine",
        "granularity": "step",
        "warmup_epochs": 0.25,
        "warmup_start": 0.0,
        "floor": 0.0,
        "decay_from_warmup": True,
    },
    "train.epochs": 4.0,
    "evals.every_epochs": 1.0,
    "evals.verification": False,
    "evals.ranked_lists": 200,
}
POOL = {"data.name": "synthped", "data.options": {"size": "demo", "seed": 0}, "data.sources": ("unlabelled",)}

PRESETS = {
    "demo": DEMO,
    "street": {
        **DEMO,
        **config_lib.DATASETS["synthped_street"],
        "data.sources": ("synthped_street_large@seed=107",),
        "notes": "The demo on crops of SynthPed street, where AMFOR's preset of that name starts.",
    },
    "demo_wide": {
        **DEMO,
        "notes": "The demo with six blocks of width 192, 16 epochs: an hour or two on two CPU cores.",
        "model.size": "demo_wide",
        "train.epochs": 16.0,
        "schedule.warmup_epochs": 1,
        "evals.every_epochs": 4.0,
    },
    "smoke": {
        **DEMO,
        "notes": "A network that draws within seconds, for tests.",
        "data.options": {"size": "tiny", "seed": 0},
        "data.sources": (),
        "data.sampler": {"name": "pool", "batch_size": 16, "order": "cipher"},
        "model.width": 32,
        "model.depth": 2,
        "model.decoder_width": 32,
        "train.epochs": 10.0,
        "evals.every_epochs": 0.0,
        "evals.baselines": False,
    },
    "lup_hap": {
        **POOL,
        "notes": "HAP's recipe on a pool with maps of body parts: 400 epochs, made for two million crops.",
        "data.sampler": {"name": "pool", "batch_size": 4096, "order": "cipher"},
        "optimizer.learning_rate": 2.4e-3,
    },
    "lup_mae": {
        **POOL,
        **ONE_VIEW,
        **RANDOM,
        "notes": "MAE's choices on the same pool: random masks of three quarters, one view, small crops.",
        "model.mask_ratio": 0.75,
        "data.augment.resized_crop.area": (0.2, 1.0),
        # 512 images, four times accumulated, which MALE's rate does not count.
        "data.sampler": {"name": "pool", "batch_size": 2048, "order": "cipher"},
        "optimizer.learning_rate": 3e-4,
        "train.accumulate": 4,
        "schedule.warmup_epochs": 20,
    },
    "folder": {
        **POOL,
        **ONE_VIEW,
        # Nobody published the case of a small pool: 20 million / images of the pool as train.epochs, 50 at least.
        "notes": "A pool of your own crops, one view, blocks of half, 50 epochs.",
        "model.mask_kind": "block",
        "data.maps": (),
        "train.epochs": 50.0,
        "schedule.warmup_epochs": 5,
        "evals.every_epochs": 10.0,
    },
    **{name: unlabeled(name) for name in config_lib.DATASETS},
}


def masks(kind: str, ratio: float, notes: str, **more: object) -> dict:
    """Returns a row with other masks of one view."""
    maps = () if kind == "random" else ("parts",)
    return {"notes": notes, "model.mask_kind": kind, "model.mask_ratio": ratio, "data.maps": maps, **more}


VARIANTS = {
    # The rows of the table; the demo itself is M0.
    "random75": masks("random", 0.75, "M0: random masks of three quarters, one view (MAE).", **ONE_VIEW),
    "random50": masks("random", 0.5, "M1: random masks of half, one view.", **ONE_VIEW),
    "block50": masks("block", 0.5, "M2: blocks of half, one view.", **ONE_VIEW),
    "parts50": masks("parts", 0.5, "M3: body parts and blocks of half, one view.", **ONE_VIEW),
    "two_views": masks("parts", 0.5, "M4 without alignment: M3 with two masks of every image.", **TWO_VIEWS),
    "hap_images": masks(
        "parts", 0.5, "M4: two masks of every image and alignment, as many images as M3.", **TWO_VIEWS, **ALIGN
    ),
    "hap": masks(
        "parts",
        0.5,
        "M4 at the cost of M0 in the demo: two masks, alignment, a third of the images.",
        **TWO_VIEWS,
        **ALIGN,
        **{"train.epochs": 1.34, "schedule.warmup_epochs": 0.08, "evals.every_epochs": 0.33},
    ),
    "strong_parts": masks(
        "parts", 0.5, "M5: M3 with half to all of a drawn part.", **ONE_VIEW, **{"model.part_share": (0.5, 1.0)}
    ),
    "raw_target": {
        "notes": "M6: pixels as they are, not normalized in each patch.",
        "losses.main.normalize": False,
        "losses.statistics": None,
        "model.statistics": False,
    },
    "patch16": {
        "notes": "Patches of 16, half of them hidden, 3 epochs: minutes of a core, for tables.",
        "model.patch": 16,
        "model.mask_ratio": 0.5,
        "train.epochs": 3.0,
        "evals.every_epochs": 0.0,
        "evals.baselines": False,
    },
    "normal_init": {
        "notes": "Initial values of TransReID's ViT, made for a width of 768: a narrow encoder starts blind.",
        "model.kernels": "normal",
    },
    "wide_crop": {"notes": "M7: crops of a fifth of the image and more.", "data.augment.resized_crop.area": (0.2, 1.0)},
    "pool_own": {
        "notes": "M8: the training images of the labeled set itself, as many steps.",
        "data.sources": (),
        "train.epochs": 31.0,
        "schedule.warmup_epochs": 2,
        "evals.every_epochs": 8.0,
    },
    # The second table, and single settings.
    "decoder2": {"notes": "A decoder of two blocks.", "model.decoder_depth": 2},
    "decoder4": {"notes": "A decoder of four blocks.", "model.decoder_depth": 4},
    "half_steps": {"notes": "Half the demo's steps.", "train.epochs": 2.0},
    "double_steps": {"notes": "Twice the demo's steps.", "train.epochs": 8.0},
    "strips": {"notes": "Body parts as bands of the image, where there are no maps.", **STRIPS},
    "keypoints": {
        "notes": "Body parts from key points, for a pool that was prepared with them.",
        "model.parts_source": "keypoints",
        "data.maps": ("limbs",),
    },
    "parts_reference": {
        "notes": "The number of parts as HAP's released code draws it, which decays within a batch.",
        "model.parts_reference": True,
    },
    "parallel_blocks": {
        "notes": "Eight boxes of which the first come count, in place of the published loop.",
        "model.block_rule": "parallel",
    },
    "align_tracks": {
        "notes": "Other images of a track are no negatives of the alignment; for pools with tracks.",
        "losses.align": {
            "loss": "align_tracks",
            "on": ("feature/g", "second/feature/g"),
            "weight": 0.05,
            "temperature": 0.2,
        },
    },
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    return config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
