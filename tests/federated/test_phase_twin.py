"""The phase of a federated config: its length in rounds, and rates that follow the rounds, not the local steps."""

import jax
import numpy as np

from reid_jax import config as config_lib
from reid_jax.config import files
from reid_jax.federated import phase
from reid_jax.ops import descriptors
from reid_jax.runtime import mesh as mesh_lib
from tests.federated import test_rounds as base
from tests.train import toy


def test_rates_fall_after_the_named_shares_of_the_rounds(root):
    run_config = files.load_config(f"{root}/configs/mgaf.py:demo,mgaf_federated")
    fed = {"rounds": 10, "lr_drops": (0.5, 0.8), "local_epochs": 3, "clients": "shard", "num_clients": 2}
    config_lib.override(run_config, {f"fed.{key}": value for key, value in fed.items()})
    config_lib.override(run_config, {"data.sampler": base.SAMPLER, "optimizer.learning_rate": 1.0})
    settings = config_lib.Settings.of(config_lib.to_dict(run_config))
    mesh, model = mesh_lib.create_mesh(jax.devices()[:1]), toy.Linear()
    variables = toy.initial_state(model, mesh).variables
    goal = toy.objective_of(model)
    planned = phase.phase(
        settings, base.split(), base.LABELS, goal, None, variables, mesh, lambda *_: None, lambda *_: None, {}
    )
    assert (planned.first_step, planned.last_step, planned.steps_per_epoch) == (0, 10, 1)
    assert planned.about["local_steps_per_round"] == 3  # one batch of 4 x 2 an epoch, four people a client
    rates = [planned.learning_rates(number)["learning_rate"] for number in range(10)]
    np.testing.assert_allclose(rates, [1.0] * 5 + [0.1] * 3 + [0.01] * 2)
    # The compiled update reads the same table, at the position that a round starts from.
    optimizer = planned.step._optimizer
    params = variables["params"]
    ones = jax.tree.map(np.ones_like, params)
    for number in (0, 4, 5, 8):
        at = planned.step._start_client(params_of(params), np.int32(number), {"steps": 3}, {"own": {}}).opt_state
        updates, _ = optimizer.update(ones, at, params)
        size = float(np.abs(updates["classifier"]["bias"]).max())
        np.testing.assert_allclose(size, 10.0 ** -sum(number >= drop for drop in (5, 8)), rtol=1e-3)


def test_distances_of_cdw_are_of_features_in_test_mode(root):
    run_config = files.load_config(f"{root}/configs/mgaf.py:demo,mgaf_fed_cdw")
    config_lib.override(run_config, {"data.sampler": base.SAMPLER})
    settings = config_lib.Settings.of(config_lib.to_dict(run_config))
    mesh, model = mesh_lib.create_mesh(jax.devices()[:1]), toy.Toy()
    variables = toy.initial_state(model, mesh).variables
    describe = lambda outputs: descriptors.Descriptor(outputs["logits"])
    nothing = lambda *_: None
    planned = phase.phase(
        *(settings, base.split(), base.LABELS, toy.objective_of(model), describe, variables),
        *(mesh, nothing, nothing, {}),
    )
    images = {"image": base.IMAGES[:4]}
    expected = model.apply(variables, images, train=False)["logits"]
    np.testing.assert_allclose(planned.step._features_of(variables, images), expected, rtol=1e-5)


def params_of(params):
    return {f"params/classifier/{name}": value for name, value in params["classifier"].items()}
