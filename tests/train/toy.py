"""A toy system for the trainer's tests: a network of two layers on 4 x 2 images, with dropout and batch statistics."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import extras, loop, objective, optimizer, state, step

CLASSES = 8
PATTERNS = np.random.default_rng(99).normal(size=(CLASSES, 4, 2, 3))
OPTIMIZER = {
    "name": "sgd",
    "learning_rate": 0.1,
    "learning_rate_multipliers": ((".*", 1.0),),
    "weight_decays": ((".*", 1e-4),),
    "options": {"momentum": 0.9},
}
TERMS = {
    "ce": {"loss": "cross_entropy", "on": "logits", "weight": 1.0},
    "tri": {"loss": "triplet", "on": "feature", "weight": 1.0, "margin": 0.3},
}


class Toy(nn.Module):
    """Dense, batch norm, dropout, classifier."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        x = batch["image"].reshape(batch["image"].shape[0], -1)
        feature = nn.Dense(6, name="embed")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="neck")(feature)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return {"feature": feature, "logits": nn.Dense(CLASSES, name="classifier")(x)}


class Linear(nn.Module):
    """A classifier alone: every image's output depends on that image only."""

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        x = batch["image"].reshape(batch["image"].shape[0], -1)
        return {"logits": nn.Dense(CLASSES, name="classifier")(x)}


def batch(number: int, size: int = 16, views: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Batch `number`: identities in groups of four, images that follow the identity."""
    rng = np.random.default_rng(number)
    label = np.repeat(rng.permutation(CLASSES)[: size // 4], 4).astype(np.int32)
    image = lambda: (PATTERNS[label] + rng.normal(0, 0.5, (size, 4, 2, 3))).astype(np.float32)
    return {"image": image(), "label": label} | {f"image_{view}": image() for view in views}


class Batches:
    """An input stream that starts at a step."""

    def __init__(self, start: int, size: int = 16, views: tuple[str, ...] = ()) -> None:
        self.at, self.size, self.views = start, size, views

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        self.at += 1
        return batch(self.at, self.size, self.views)

    def close(self) -> None:
        pass


def objective_of(model: nn.Module, terms=TERMS, passes=None, monitors=None) -> objective.Objective:
    """The objective without preprocessing."""
    passes = passes or {"main": objective.Pass()}
    return objective.Objective(model.apply, lambda batch, key: dict(batch), passes, terms, monitors or {})


def initial_state(model: nn.Module, mesh) -> state.TrainState:
    """A fresh state, replicated."""
    variables = model.init(jax.random.key(0), {"image": jnp.zeros((1, 4, 2, 3))}, train=False)
    return mesh_lib.replicate(state.create(variables), mesh)


def phase(
    model: nn.Module,
    params,
    mesh,
    *,
    name: str = "",
    steps: tuple[int, int] = (0, 10),
    terms=TERMS,
    passes=None,
    extra=None,
    settings=None,
    size: int = 16,
    views: tuple[str, ...] = (),
    accumulate: int = 1,
    seed: int = 0,
) -> loop.Phase:
    """A phase of the toy run."""
    first, last = steps
    transformation, groups = optimizer.build(settings or OPTIMIZER, {"name": "constant"}, params, last - first, 5)
    owned = extras.build(extra or {}, num_classes=CLASSES)
    return loop.Phase(
        name=name,
        first_step=first,
        last_step=last,
        steps_per_epoch=5,
        batch_size=size,
        begin=lambda old: state.begin_phase(old, transformation, owned, jax.random.key(7)),
        step=step.make_train_step(
            objective_of(model, terms, passes),
            transformation,
            owned,
            seed=seed,
            mesh=mesh,
            accumulate=accumulate,
        ),
        open_batches=lambda start: Batches(first + start, size, views),
        learning_rates=groups.learning_rates,
        margins={"loss/tri": 0.3},
    )
