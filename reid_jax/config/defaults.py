"""The settings that every experiment starts from."""

from __future__ import annotations

from ml_collections import ConfigDict

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


def defaults() -> ConfigDict:
    """The settings that every experiment starts from; a config file states only what differs."""
    config = ConfigDict()
    config.system = ""
    config.preset = "demo"
    config.variants = ()
    config.notes = ""
    config.seed = 0
    config.data = {
        "name": "synthped",
        "root": "data",
        "options": {},
        # Presets of `DATASETS` to train on in place of the data set's own training images.
        "sources": (),
        "height": 256,
        "width": 128,
        "interpolation": "bilinear",
        # Of the test images where it is another one.
        "test_interpolation": None,
        "maps": (),
        # "auto" keeps decoded images in memory where they fit.
        "cache": "auto",
        "workers": 0,
        "threads": 2,
        "sampler": {"name": "identity_groups", "identities": 16, "images": 4},
        # Each further view is {"augment": {...}}: the same image through a chain of its own, emitted as `image_<view>`.
        "views": {},
        "augment": {
            "flip": {"probability": 0.5},
            "pad_crop": {"pad": 10},
            "erase": {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 1 / 0.3), "tries": 100},
        },
    }
    config.preprocess = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "erase_fill": "mean_raw"}
    # "auto": bfloat16 on GPU and TPU, float32 on CPU. Parameters, statistics and losses are float32 everywhere.
    config.dtype = "auto"
    config.model = {"name": ""}
    # Paths of ours that the file may lack: classifiers know the identities of another data set.
    config.init = {"weights": "", "allow_missing": ("classifier",)}
    # One forward pass by default; see reid_jax.train.objective for several views and networks.
    config.passes = {"main": {"view": "", "network": "params", "train": True, "prefix": ""}}
    config.losses = {}
    config.monitors = {}
    config.extras = {}
    config.optimizer = {
        "name": "adam",
        "learning_rate": 3.5e-4,
        "learning_rate_multipliers": ((".*", 1.0),),
        "weight_decays": ((".*", 5e-4),),
        "frozen": (),
        "clip_norm": None,
        # Options of single optimizers; None leaves the optimizer's own default.
        "b1": None,
        "b2": None,
        "epsilon": None,
        "momentum": None,
        "nesterov": None,
        "decay": None,
    }
    config.schedule = {"name": "constant"}
    config.train = {"epochs": 120.0, "accumulate": 1, "ema_decay": 0.0}
    # Named phases in order, each a set of sections that replace or refine the ones above while it lasts.
    config.phase_order = ()
    config.phases = {}
    config.evals = {
        "every_epochs": 0.0,
        "metric": "euclidean",
        "ap": "step",
        # At the end of a run also k-reciprocal re-ranking, and ROC, AUC, EER with thresholds.
        "rerank": False,
        "verification": True,
        "flip": False,
        "batch_size": 64,
        "same_camera_filter": True,
        "baselines": False,
        "ranked_lists": 40,
        # At the end of a run also clean and corrupted images on either side or both, this many times drawn anew.
        "corruption_rounds": 0,
        # Presets of `DATASETS` to be scored on as well.
        "datasets": (),
    }
    config.checkpoint = {"every_steps": 0, "every_epochs": 5.0, "keep_best": 1}
    config.log = {"every_steps": 50}
    return config
