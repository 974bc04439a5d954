"""Rounds against numpy: a linear classifier whose gradient is written out, local SGD, and the server's average."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest

from reid_jax import trees
from reid_jax.federated import clients as clients_lib
from reid_jax.federated import federation_options as options_lib
from reid_jax.federated import rounds as rounds_lib
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import optimizer, step
from tests.federated import test_rounds as base
from tests.helpers import numpy_networks as twin
from tests.train import toy

ROUNDS, RATE, DECAY, MOMENTUM = 4, 0.1, 1e-4, 0.9
TERMS = {"ce": {"loss": "cross_entropy", "on": "logits"}}
# The second camera saw half of the people: its client has fewer images and fewer steps.
KEPT = (base.CAMERAS != 1) | (base.LABELS < 4)
LABELS, CAMERAS, IMAGES = base.LABELS[KEPT], base.CAMERAS[KEPT], base.IMAGES[KEPT]


def batch_of(indices):
    return IMAGES[indices].reshape(len(indices), -1).astype(np.float64), LABELS[indices]


def gradient(w, x, labels):
    """Of the mean cross-entropy; the bias is the last row of w."""
    x = np.concatenate((x, np.ones((len(x), 1))), 1)
    return x.T @ (twin.softmax(x @ w, axis=1) - np.eye(toy.CLASSES)[labels]) / len(x)


def logits(w, x):
    return x @ w[:-1] + w[-1]


def moved(w, v, x):
    """How far training moved the features of a batch: mean of one minus cosine."""
    before, after = twin.unit(logits(w, x)), twin.unit(logits(v, x))
    return max((1.0 - (before * after).sum(1)).mean(), 0.0)


def expected(federation, theta, options):
    """Theta after every round."""
    kept, history = {}, []
    for number in range(ROUNDS):
        # The rate falls to a tenth after half of the rounds, and again after three quarters.
        rate = RATE * 0.1 ** sum(number >= drop for drop in (2, 3))
        results, weights = [], []
        for k in federation.participants(number):
            client = federation.clients[k]
            buffer = kept.get(k, 0.0) if options.optimizer_state == "kept" else 0.0
            w = theta
            for local in range(client.steps):
                x, labels = batch_of(client.sampler.indices(number * client.steps + local))
                slope = gradient(w, x, labels) + options.prox_mu * (w - theta) + DECAY * w
                buffer = MOMENTUM * buffer + slope
                w = w - rate * buffer
            kept[k] = buffer
            x, _ = batch_of(client.sampler.indices(number * client.steps))
            results.append(w)
            weights.append({"samples": client.images, "uniform": 1, "cdw": moved(theta, w, x)}[options.weights])
        theta = np.tensordot(np.array(weights) / np.sum(weights), results, 1)
        history.append(theta)
    return history


@pytest.mark.parametrize(
    ("changes", "federated"),
    [
        ({"weights": "samples", "optimizer_state": "kept"}, {}),
        # Shards of two, three and three people have local batches of as many: a mean over images is no sum.
        ({"weights": "cdw", "prox_mu": 0.3}, {"clients": "shard", "local_epochs": 2}),
        ({"weights": "uniform"}, {"fraction": 0.67}),
    ],
    ids=["by images, moments kept", "by distance, proximal, two local epochs", "two of three clients"],
)
def test_theta_is_that_of_the_formulas_after_every_round(changes, federated):
    federation = clients_lib.build(
        base.split(LABELS, CAMERAS),
        LABELS,
        **{"clients": "camera", "num_clients": 3, "fraction": 1.0, "local_epochs": 1, **federated},
        sampler=base.SAMPLER,
        seed=0,
    )
    shards = federated.get("clients") == "shard"
    assert [client.steps for client in federation.clients] == ([2, 2, 2] if shards else [2, 1, 2])
    assert sorted(client.sampler.batch_size for client in federation.clients) == ([4, 6, 6] if shards else [8, 8, 8])
    assert federation.per_round == (2 if "fraction" in federated else 3)
    options = options_lib.Options(personal="none", rounds=ROUNDS, lr_drops=(0.5, 0.75), **changes)
    mesh, model = mesh_lib.create_mesh(jax.devices()[:1]), toy.Linear()
    initial = toy.initial_state(model, mesh)
    transformation, _ = optimizer.build(
        toy.OPTIMIZER, options.schedule({}), initial.params, ROUNDS * federation.steps, federation.steps
    )
    rounds = rounds_lib.Rounds(
        federation,
        toy.objective_of(model, TERMS),
        transformation,
        initial.variables,
        options,
        features=lambda variables, batch: model.apply(variables, batch, train=False)["logits"],
        mesh=mesh,
    )
    layer = lambda state: jax.device_get(state.params["classifier"])
    of = lambda state: np.vstack((layer(state)["kernel"], layer(state)["bias"])).astype(np.float64)
    state = mesh_lib.replicate(rounds.begin(initial), mesh)
    wanted = expected(federation, of(state), options)
    stream = clients_lib.RoundBatches(federation, Stream(federation))
    for theta in wanted:
        state, _ = rounds(state, mesh_lib.to_global(next(stream), mesh))
        np.testing.assert_allclose(of(state), theta, rtol=2e-4, atol=2e-5)


class Stream(base.Stream):
    """Local batches of the smaller split."""

    def __init__(self, federation):
        super().__init__(federation, 0)

    def __next__(self):
        self.at += 1
        indices = self.sampler.indices(self.at - 1)
        return {"image": IMAGES[indices], "label": LABELS[indices].astype(np.int32)}


def test_defaults_and_the_schedule_of_the_rounds():
    options = options_lib.Options()
    assert (options.clients, options.num_clients, options.fraction) == ("camera", 8, 1.0)
    assert (options.rounds, options.local_epochs) == (300, 1)
    assert (options.personal, options.weights, options.bn) == ("classifiers", "samples", "average")
    assert (options.optimizer_state, options.prox_mu, options.side_by_side) == ("fresh", 0.0, 1)
    assert options.schedule({}) == {"name": "multistep", "milestones_epochs": (240, 278), "factor": 0.1}
    assert options_lib.Options(lr_drops=()).schedule({"name": "constant"}) == {"name": "constant"}


def test_what_stays_on_a_client():
    """Classifiers (FedPav); with local normalization its gains and shifts, too, not its statistics alone (FedBN)."""
    variables = {
        "params": {
            "embed": {"kernel": 0},
            "reduction_g": {"kernel": 0},
            "neck": {"scale": 0, "bias": 0},
            "classifier_g": {"kernel": 0},
        },
        "batch_stats": {"neck": {"mean": 0, "var": 0}},
    }
    neck = {"params/neck/scale", "params/neck/bias", "batch_stats/neck/mean", "batch_stats/neck/var"}
    paths = lambda **changes: rounds_lib.personal_paths(variables, options_lib.Options(**changes))
    assert paths() == {"params/classifier_g/kernel"}
    assert paths(personal="none") == set()
    assert paths(bn="local") == {"params/classifier_g/kernel", *neck}


@pytest.mark.parametrize("bn", ["average", "local"])
def test_running_statistics_are_averaged_with_the_parameters_and_classifiers_are_not(bn):
    """With local normalization, too: the average is what evaluation reads."""
    made, state = base.rounds_of(base.plan(), mesh_lib.create_mesh(jax.devices()[:1]), bn=bn)
    everything = set(trees.flatten(jax.device_get(state.variables)))
    assert made.averaged == {path for path in everything if "classifier" not in path}
    assert {"batch_stats/neck/mean", "batch_stats/neck/var", "params/neck/scale"} < made.averaged


def test_weights_go_by_images_and_keys_by_client_and_step(monkeypatch):
    """Not by identities: the second camera has as many people as the others, and half of their images."""
    kept = (base.CAMERAS != 1) | (np.arange(len(base.LABELS)) % 4 < 2)
    made, _ = base.rounds_of(base.plan(base.LABELS[kept], base.CAMERAS[kept]), mesh_lib.create_mesh(jax.devices()[:1]))
    np.testing.assert_allclose(made._weights(0), [0.4, 0.2, 0.4], rtol=1e-6)
    monkeypatch.setattr(rounds_lib.step_lib, "make_update", lambda *_: lambda local, batch, key: key)
    drawn = set()
    for seed, at in ((3, 0), (3, 1), (4, 0)):
        client = {"seed": np.uint32(seed), "classes": np.ones(toy.CLASSES, bool)}
        key = made._update_client({}, types.SimpleNamespace(step=np.int32(at)), client, None)
        assert jax.random.key_data(key).tolist() == jax.random.key_data(step.step_key(seed, np.int32(at))).tolist()
        drawn.add(tuple(jax.random.key_data(key).tolist()))
    assert len(drawn) == 3


def test_clients_draw_other_numbers_and_have_their_own_classes():
    federation = base.plan(clients="shard", num_clients=3)
    assert len({client.seed for client in federation.clients}) == 3
    seen = np.stack([client.classes for client in federation.clients])
    assert np.all(seen.sum(axis=0) == 1)
    assert sorted(seen.sum(axis=1)) == [2, 3, 3]
    shards = {base.plan(clients="shard", seed=seed).clients[0].classes.tobytes() for seed in range(4)}
    assert len(shards) > 1  # divided at random
    rounds = [base.plan(fraction=0.67).participants(number).tolist() for number in range(8)]
    assert len({tuple(chosen) for chosen in rounds}) > 1
    of_round = lambda number: clients_lib.SlotSampler(federation).indices(number * federation.steps)
    assert of_round(0).tolist() != of_round(1).tolist()
