"""What CFAT's generator can learn from a student's features, and what pulls it away: results/cfat-generator.json.

python docs/generator_study.py TITLE=RUN [TITLE=RUN ...]    # runs of configs/cfat.py, before or after their alignment

Teacher and student stay as the run left them; their features of an epoch's images are computed once. A generator of the
demo is trained on most of them, as in the demo's phase `bridge` and then for as long as a short alignment, and measured
on the others. Half a minute on one core.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import RESULTS

from reid_jax import config as config_lib
from reid_jax import losses
from reid_jax.config import files, phases
from reid_jax.models import cfat
from reid_jax.ops import distances
from reid_jax.runs import experiment
from reid_jax.runs import folder as folder_lib

BATCHES, HELD_OUT = 24, 4
ERROR = 48.0  # weight of the squared error, the demo's
BRIDGE, ALIGN = (96, 5e-3), (144, 1e-3)  # steps and rate: four epochs of the demo's phase, and six of the alignment
# Weights of L_KL, and of the triplet loss on generated features in the second phase.
CASES = ((1.0, 0.0), (1.0, 4.0), (1.0, 1.0), (0.1, 0.0), (0.01, 0.0), (0.01, 1.0))
Features = tuple[jax.Array, jax.Array, jax.Array]
Weights = dict[str, jax.Array]


def features(run: str) -> Features:
    """Unit features of teacher and student [N, B, D], and labels [N, B], of an epoch's batches of a run."""
    data = folder_lib.RunFolder(run).read_config()["data"]
    config = files.load_config(f"configs/cfat.py:demo,{data['name']},cfat,started")
    own = {f"data.{key}": data[key] for key in ("root", "height", "width")}
    config_lib.override(config, {"init.trained": run, **own})
    trained = experiment.Experiment(config)
    state, (_, settings) = trained.initial_state(), phases.resolve(trained.settings)[0]
    goal = trained.plan.objective_of(settings, settings.losses)

    @jax.jit
    def compute(batch: Any, key: jax.Array) -> Features:
        batch, keys = goal.prepare(batch, key)
        outputs, _ = goal.outputs(state.variables, state.extra, batch, keys)
        pair = (outputs[cfat.TEACHER_FEATURE], outputs["feature/align"])
        return (*map(distances.normalize_rows, pair), batch["label"])

    with trained.plan.open_batches(dataclasses.replace(settings.data, workers=0), 0, 0) as batches:
        found = [jax.device_get(compute(next(batches), jax.random.key(number))) for number in range(BATCHES)]
    teacher, student, labels = (jnp.stack(values) for values in zip(*found, strict=True))
    return teacher, student, labels


def triplet(feature: jax.Array, labels: jax.Array) -> jax.Array:
    """The demo's hard triplets; ln 2 where all features are equal."""
    value: jax.Array = losses.LOSSES["triplet"](feature, labels=labels, margin="soft", normalize=True)
    return value


def loss(params: Any, weights: Weights, teacher: Any, student: Any, labels: Any, key: jax.Array) -> jax.Array:
    """The generator's loss on a batch."""
    generator = cfat.Generator(teacher.shape[-1])
    place, *keys = jax.random.split(key, 3)
    bridge = cfat.bridge(teacher, student, jax.random.uniform(place))
    generated, *code = generator.apply({"params": params}, student, keys[0])
    _, *bridge_code = generator.apply({"params": params}, bridge, keys[1])
    error = ERROR * losses.LOSSES["mean_squared"](generated, bridge)
    divergence = losses.LOSSES["gaussian_divergence"](*code, *bridge_code)
    return error + weights["kl"] * divergence + weights["triplet"] * triplet(generated, labels)


@jax.jit
def train(params: Any, steps: jax.Array, rate: jax.Array, weights: Weights, given: Features) -> Any:
    """The generator's parameters after steps of Adam on all batches but the last ones."""
    adam = optax.scale_by_adam()

    def step(number: jax.Array, carry: Any) -> Any:
        params, state = carry
        batch = (values[number % (BATCHES - HELD_OUT)] for values in given)
        gradient = jax.grad(loss)(params, weights, *batch, jax.random.fold_in(jax.random.key(1), number))
        updates, state = adam.update(gradient, state, params)
        return jax.tree.map(lambda old, update: old - rate * update, params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, adam.init(params)))[0]


@jax.jit
def measure(params: Any, given: Features) -> dict[str, jax.Array]:
    """Of features generated without noise: cosine to the teacher's, length of their mean, and triplet loss."""
    teacher, student, labels = (values[BATCHES - HELD_OUT :] for values in given)
    generator = cfat.Generator(teacher.shape[-1])
    generated = distances.normalize_rows(generator.apply({"params": params}, student)[0])
    return {
        "cosine": jnp.mean(jnp.sum(generated * teacher, axis=-1)),
        "mean_length": jnp.mean(jnp.linalg.norm(jnp.mean(generated, axis=1), axis=-1)),
        "triplet": jnp.mean(jax.vmap(triplet)(generated, labels)),
        "student_cosine": jnp.mean(jnp.sum(student * teacher, axis=-1)),
        "student_triplet": jnp.mean(jax.vmap(triplet)(student, labels)),
        "teacher_triplet": jnp.mean(jax.vmap(triplet)(teacher, labels)),
    }


def study(run: str) -> list[dict[str, float]]:
    """What a generator learns from a run's features, by the weights of its terms."""
    given = features(run)
    first = cfat.Generator(given[0].shape[-1]).init(jax.random.key(0), given[0][0])["params"]
    lines = []
    for divergence, hard in CASES:
        weights = {"kl": jnp.float32(divergence), "triplet": jnp.float32(0.0)}
        bridged = train(first, jnp.int32(BRIDGE[0]), jnp.float32(BRIDGE[1]), weights, given)
        weights["triplet"] = jnp.float32(hard)
        aligned = train(bridged, jnp.int32(ALIGN[0]), jnp.float32(ALIGN[1]), weights, given)
        found = measure(bridged, given), measure(aligned, given)
        before, after = ({name: round(float(np.asarray(value)), 4) for name, value in each.items()} for each in found)
        lines.append({"kl": divergence, "tri_generated": hard, "cosine_bridge": before["cosine"], **after})
    return lines


if __name__ == "__main__":
    runs = dict(word.split("=", 1) for word in sys.argv[1:])
    content = {title: study(run) for title, run in runs.items()}
    (RESULTS / "cfat-generator.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
