"""The config of the system in `my_project`.

reid-jax train --config tiny.py
reid-jax train --config tiny.py:tiny_no_ring           # a row
"""

from ml_collections import ConfigDict

from reid_jax import config as config_lib


def recipe() -> ConfigDict:
    """Everything that is named by path, on top of the shared defaults."""
    config = config_lib.defaults()
    config.system = "tiny"
    config.model = {"name": "my_project.nets:Tiny"}
    config.losses = {
        "ce": {"loss": "cross_entropy", "on": "logits/b", "weight": 1.0},
        "ring": {"loss": "my_project.losses:ring", "on": "feature/b", "weight": 0.01, "radius": 1.0},
    }
    config.data.update({"name": "my_project.data:open_people", "height": 32, "width": 16})
    config.data.sampler = {"name": "my_project.data:Balanced", "batch_size": 16}
    config.data.augment = {
        "flip": {"probability": 0.5},
        "gray": {"name": "my_project.data:grayscale", "probability": 0.2},  # the key is a label of one's own
    }
    config.optimizer.learning_rate = 3e-3
    config.train.epochs = 20.0
    config.evals.metric = "my_project.metrics:angular"
    config.evals.scores = ("my_project.metrics:hit_at_3",)
    config.checkpoint.every_epochs = 1.0
    return config


PRESETS = {"demo": {"notes": "The data set of my_project, twenty epochs."}}
VARIANTS = {
    "tiny": {"notes": "The full system."},
    "tiny_no_ring": {"notes": "Without the ring loss.", "losses.ring": None},
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names."""
    return config_lib.compose(argument, recipe=recipe, presets=PRESETS, variants=VARIANTS)
