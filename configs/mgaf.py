"""MGAF: three branches of different granularity over one trunk, with attention on each branch's map.

Reproduces: Mo et al., "Multi-granularity person re-identification with attention mechanism fusion", Journal of
University of Electronic Science and Technology of China, doi 10.12178/1001-0548.2024091. Published mAP / Rank-1 without
re-ranking: Market-1501 88.42 / 95.82, DukeMTMC-reID 78.86 / 88.83, CUHK03-NP detected 76.30 / 78.39, labeled 76.70 /
78.94 (single NVIDIA RTX 4090). The available text describes neither the attention module nor sampler, epoch length
and order of heads: those are ours or MGN's (see reid_jax/models/mgaf.py).

    python scripts/main.py --config configs/mgaf.py                                  # demo: SynthPed, minutes on a CPU
    python scripts/main.py --config configs/mgaf.py:market1501                       # the published recipe
    python scripts/main.py --config configs/mgaf.py:market1501,mgaf_g_p2             # a row of the ablation table
    python scripts/main.py --config configs/mgaf.py:market1501,mgaf_federated        # cameras as clients, rounds

The paper's abstract mentions federated learning. We read it as joint learning, by several losses over all branches:
nothing else in the text has clients or rounds. Federated training is available all the same, as `train.mode`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib

GLOBALS = ("g1", "g2", "g3")
PARTS = ("p2_0", "p2_1", "p3_0", "p3_1", "p3_2")


def weights(heads: tuple[str, ...], triplet: float = 1.0, reduce: str = "mean") -> Mapping[str, Any]:
    """Returns the overrides of loss weights for the given heads; the other heads have no loss.

    The loss is mean_h CE(h) + triplet * mean_g Tri(g) over heads h and global heads g, or a sum in place of each mean.

    Args:
        heads: heads of the model, from `GLOBALS` and `PARTS`.
        triplet: weight of the triplet losses.
        reduce: "mean" or "sum".
    """
    present = [head for head in GLOBALS if head in heads]
    overrides: dict[str, Any] = {}
    for head in (*GLOBALS, *PARTS):
        share = 1.0 / len(heads) if reduce == "mean" else 1.0
        overrides |= {f"losses.ce_{head}.weight": share} if head in heads else {f"losses.ce_{head}": None}
    for head in GLOBALS:
        share = triplet / len(present) if reduce == "mean" else triplet
        overrides |= {f"losses.tri_{head}.weight": share} if head in heads else {f"losses.tri_{head}": None}
    return overrides


def recipe() -> ConfigDict:
    """Returns the published recipe: 384 x 128, 8 identities x 4 images, Adam with beta2 0.99, 400 epochs."""
    config = config_lib.defaults()
    config.system = "mgaf"
    config.dtype = "float32"  # the text names no mixed precision
    config.model = {"name": "mgaf"}
    config.init.weights = "resnet50_imagenet"
    config.data.update({"height": 384, "width": 128, "interpolation": "bicubic"})
    # Every identity once per epoch, as in MGN's public recipe: 93 batches on Market-1501.
    config.data.sampler = {"name": "identity_epoch", "identities": 8, "images": 4}
    config.data.augment = {
        "flip": {"probability": 0.5},
        "erase": {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 3.33), "tries": 100},
    }
    config.preprocess.erase_fill = "zero"
    for head in (*GLOBALS, *PARTS):
        config.losses[f"ce_{head}"] = {"loss": "cross_entropy", "on": f"logits/{head}", "weight": 1.0}
    for head in GLOBALS:
        config.losses[f"tri_{head}"] = {"loss": "triplet", "on": f"feature/{head}", "weight": 1.0, "margin": 1.2}
    config_lib.override(config, weights((*GLOBALS, *PARTS)))
    config.monitors = {"accuracy": {"loss": "accuracy", "on": "logits/g1"}}
    config.optimizer.update(
        {
            "name": "adam",  # weight decay is coupled: L2 added to the gradient
            "learning_rate": 2e-4,
            "b2": 0.99,
            "learning_rate_multipliers": ((".*", 1.0),),
            "weight_decays": ((".*", 5e-4),),
        }
    )
    config.schedule = {"name": "multistep", "milestones_epochs": (320, 370), "factor": 0.1}
    config.train.epochs = 400.0
    config_lib.override(config, config_lib.FEDERATED)
    # Features of the image and its mirror image are averaged, then compared at unit length.
    config.evals.flip = True
    config.evals.metric = "cosine"
    config.evals.every_epochs = 50.0
    config.checkpoint.every_epochs = 10.0
    return config


# Narrow branches at 192 x 64, whose last maps have twelve rows, divisible into two and three stripes; batches and crops
# of the other demos. From scratch, the triplet loss of unnormalized features dominates the identity losses, so the demo
# normalizes them. As many federated rounds as joint epochs show the same number of images.
DEMO = {
    "data.augment.pad_crop": {"pad": 4},
    **config_lib.DEMO,
    "notes": "Three narrow branches from scratch on SynthPed, minutes on two CPU cores.",
    "data.height": 192,
    "data.sampler": {"name": "identity_groups", "identities": 16, "images": 4},
    "model.width": 16,
    "model.depths": (1, 1, 2, 1),
    "model.feature_width": 64,
    **{f"losses.tri_{head}.normalize": True for head in GLOBALS},
    **{f"losses.tri_{head}.margin": 0.3 for head in GLOBALS},
    "fed.rounds": 16,
    "fed.num_clients": 4,
    "fed.lr_drops": (),
}

PRESETS = {"demo": DEMO, **config_lib.DATASETS}

G, G_P2, P2_P3 = ("g1",), ("g1", "g2", "p2_0", "p2_1"), (*GLOBALS[1:], *PARTS)

FEDERATED = {"train.mode": "federated", "evals.every_epochs": 10.0, "log.every_steps": 1}

VARIANTS = {
    # The rows of the ablation table.
    "mgaf_base": {
        "notes": '"Baseline": the global branch without attention.',
        "model.branches": ("g",),
        "model.attention": "none",
        **weights(G),
    },
    "mgaf_base_att": {"notes": '"+L_att": the global branch with attention.', "model.branches": ("g",), **weights(G)},
    "mgaf_g_p2": {
        "notes": '"+L2": global and two-stripe branch without attention.',
        "model.branches": ("g", "p2"),
        "model.attention": "none",
        **weights(G_P2),
    },
    "mgaf_p2_p3": {
        "notes": '"L2+L3": both stripe branches without attention.',
        "model.branches": ("p2", "p3"),
        "model.attention": "none",
        "monitors.accuracy.on": "logits/g2",
        **weights(P2_P3),
    },
    "mgaf_noatt": {"notes": '"+L2+L3": all three branches without attention.', "model.attention": "none"},
    "mgaf": {"notes": "The full system: three branches, attention on each."},
    # Other kinds and places of attention.
    "mgaf_se": {"notes": "Channel gates (SE) in place of CBAM.", "model.attention": "se"},
    "mgaf_nonlocal": {"notes": "Non-local attention in place of CBAM.", "model.attention": "nonlocal"},
    "mgaf_stripe_att": {
        "notes": "An attention module per stripe in place of one per branch.",
        "model.attention_scope": "stripe",
    },
    "mgaf_att_torch": {
        "notes": "Gates of the attention start with PyTorch's default values in place of He's.",
        "model.attention_init": "torch",
    },
    "mgaf_att_alone": {"notes": "Attention without its residual path.", "model.attention_residual": False},
    # Where the text gives no answer or the public recipes of MGN differ.
    "mgaf_average": {"notes": "Average pooling in place of max pooling.", "model.pooling": "average"},
    "mgaf_gem": {"notes": "Generalized-mean (GeM) pooling in place of max pooling.", "model.pooling": "gem"},
    "mgaf_pooled_ce": {
        "notes": "Global identity losses on pooled 2048-d vectors, as in MGN's paper.",
        "model.global_ce_input": "pooled",
    },
    "mgaf_p3_large": {"notes": "A 48 x 16 map in the three-stripe branch in place of 24 x 8.", "model.p3_map": "48x16"},
    "mgaf_p3_four": {
        "notes": "Four stripes in the third branch in place of three.",
        "model.p3_stripes": 4,
        "losses.ce_p3_3": {"loss": "cross_entropy", "on": "logits/p3_3"},
        **{f"losses.ce_{head}.weight": 1 / 9 for head in (*GLOBALS, *PARTS, "p3_3")},
    },
    "mgaf_triplet2": {
        "notes": "Twice the weight on triplet losses, as in MGN's public code.",
        **weights((*GLOBALS, *PARTS), triplet=2.0),
    },
    "mgaf_sum": {
        "notes": "Losses summed over heads in place of averaged.",
        **weights((*GLOBALS, *PARTS), reduce="sum"),
    },
    "mgaf_amsgrad": {"notes": "AMSGrad in place of Adam, as in MGN's public code.", "optimizer.name": "amsgrad"},
    "mgaf_image_epoch": {
        "notes": "An epoch shows as many images as there are, not every identity once.",
        "data.sampler.name": "image_epoch",
    },
    "mgaf_no_flip_test": {"notes": "Test features without the mirror image.", "evals.flip": False},
    # Clients in place of one trainer, scored every tenth round: a round counts as an epoch.
    "mgaf_federated": {"notes": "Federated: cameras as clients, classifiers stay on the client (FedPav).", **FEDERATED},
    "mgaf_fed_shard": {
        "notes": "Federated: disjoint shards of identities as clients.",
        **FEDERATED,
        "fed.clients": "shard",
    },
    "mgaf_fed_average": {
        "notes": "Federated: classifiers are averaged as well (FedAvg).",
        **FEDERATED,
        "fed.personal": "none",
    },
    "mgaf_fed_bn": {
        "notes": "Federated: batch normalization stays on the client (FedBN).",
        **FEDERATED,
        "fed.bn": "local",
    },
    "mgaf_fed_prox": {"notes": "Federated: proximal term of weight 0.01 (FedProx).", **FEDERATED, "fed.prox_mu": 0.01},
    "mgaf_fed_cdw": {
        "notes": "Federated: clients weighted by cosine distance (CDW).",
        **FEDERATED,
        "fed.weights": "cdw",
    },
    # A camera client takes few sequential steps of a round: more of them, and moments that outlive the round.
    "mgaf_fed_epochs4": {"notes": "Federated: four local epochs a round.", **FEDERATED, "fed.local_epochs": 4},
    "mgaf_fed_kept": {
        "notes": "Federated: clients keep the state of their optimizer from round to round.",
        **FEDERATED,
        "fed.optimizer_state": "kept",
    },
    "mgaf_fed_rounds8": {"notes": "Federated: 8 rounds.", **FEDERATED, "fed.rounds": 8},
    "mgaf_fed_rounds32": {"notes": "Federated: 32 rounds.", **FEDERATED, "fed.rounds": 32},
    # With `num_clients` equal clients, each takes that share of the steps of an epoch in a local one.
    "mgaf_joint_share": {
        "notes": "Joint training with as many steps as one of `fed.num_clients` clients takes.",
    },
    "mgaf_joint_share4": {
        "notes": "Joint training with as many steps as such a client takes in four local epochs a round.",
        "fed.local_epochs": 4,
    },
    # A client's steps are few: rows of a table may start from a network that other people have trained.
    "other_people": {
        "notes": "What rows of a table start from: trained on other people of SynthPed street.",
        "data.sources": ("synthped_street_large@seed=107,identities=0.25",),
    },
    "new_people": {
        "notes": "A quarter of the people, six clients; goes on from a run without its classifiers.",
        "data.sources": ("own@identities=0.25",),
        "fed.num_clients": 6,  # as many as there are cameras
        "init.ignore": ("classifier",),
    },
    "mgaf_fed_sgd": {
        "notes": "Federated: the SGD of FedReID, with a ten times higher rate for the heads.",
        **FEDERATED,
        "optimizer.name": "sgd",
        "optimizer.b2": None,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.learning_rate": 0.005,
        "optimizer.learning_rate_multipliers": (("(classifier|reduction).*", 10.0), (".*", 1.0)),
    },
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names; empty is the demo."""
    config = config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
    if {"mgaf_joint_share", "mgaf_joint_share4"} & set(config.variants):
        _shorten_to_client(config)
    return config


def _shorten_to_client(config: ConfigDict) -> None:
    """Shortens joint training, and its schedule with it, to the steps that one of several equal clients takes.

    What the command line sets comes later and counts no more: other clients belong into a variant.
    """
    share = config.fed.local_epochs / config.fed.num_clients
    config.train.epochs *= share
    schedule = config.schedule.to_dict()
    if "warmup_epochs" in schedule:
        schedule["warmup_epochs"] *= share
    if "milestones_epochs" in schedule:
        schedule["milestones_epochs"] = tuple(epoch * share for epoch in schedule["milestones_epochs"])
    config.schedule = schedule
