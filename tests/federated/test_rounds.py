"""Federated rounds on a toy network: against joint training, the average, what stays on clients, waves of clients."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors, losses, trees
from reid_jax.data import records, samplers
from reid_jax.federated import clients as clients_lib
from reid_jax.federated import federation_options as options_lib
from reid_jax.federated import rounds as rounds_lib
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import checkpoints, loop, metrics, optimizer, state, step
from tests.train import toy

# Eight people, each seen four times by each of three cameras.
LABELS = np.repeat(np.arange(toy.CLASSES), 12)
CAMERAS = np.tile(np.repeat(np.arange(3), 4), toy.CLASSES)
IMAGES = (toy.PATTERNS[LABELS] + np.random.default_rng(5).normal(0, 0.5, (96, 4, 2, 3))).astype(np.float32)
SAMPLER = {"name": "identity_epoch", "identities": 4, "images": 2}
NO_DECAY = {**toy.OPTIMIZER, "weight_decays": ((".*", 0.0),)}


def split(labels: np.ndarray = LABELS, camids: np.ndarray = CAMERAS, name: str = "toy/train") -> records.Split:
    names = tuple(f"{'ab'[i % 2]}/{i}.png" for i in range(len(labels)))
    return records.Split(name, [None] * len(labels), labels, camids, names)


def plan(labels: np.ndarray = LABELS, camids: np.ndarray = CAMERAS, **changes: Any) -> clients_lib.Federation:
    options = {"clients": "camera", "num_clients": 3, "fraction": 1.0, "local_epochs": 1, "sampler": SAMPLER, "seed": 0}
    return clients_lib.build(split(labels, camids), labels, **{**options, **changes})


class Stream:
    """Local batches of a federation from a step on."""

    def __init__(self, federation: clients_lib.Federation, first: int) -> None:
        self.sampler, self.at = clients_lib.SlotSampler(federation), first

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        self.at += 1
        return images(self.sampler.indices(self.at - 1))

    def close(self) -> None:
        pass


def images(indices: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": IMAGES[indices], "label": LABELS[indices].astype(np.int32)}


def open_rounds(federation: clients_lib.Federation, first: int = 0) -> clients_lib.RoundBatches:
    return clients_lib.RoundBatches(federation, Stream(federation, first * federation.steps))


def features(model: toy.Toy, variables: Any, batch: Any) -> jax.Array:
    return model.apply(variables, batch, train=False)["feature"]


def rounds_of(
    federation: clients_lib.Federation, mesh, *, model=None, settings=toy.OPTIMIZER, terms=toy.TERMS, **changes: Any
) -> tuple[rounds_lib.Rounds, state.TrainState]:
    """The rounds, and the state before the first."""
    model = model or toy.Toy()
    options = options_lib.Options(**{"lr_drops": (), **changes})
    initial = toy.initial_state(model, mesh)
    schedule = {"name": "warmup_multistep", "warmup_epochs": 2, "milestones_epochs": (3,)}
    transformation, _ = optimizer.build(
        settings, options.schedule(schedule), initial.params, options.rounds * federation.steps, federation.steps
    )
    made = rounds_lib.Rounds(
        federation,
        toy.objective_of(model, terms),
        transformation,
        initial.variables,
        options,
        features=functools.partial(features, model),
        mesh=mesh,
    )
    return made, mesh_lib.replicate(made.begin(initial), mesh)


def run(federation, mesh=None, rounds: int = 2, **changes: Any) -> tuple[state.TrainState, dict[str, float]]:
    """The state after some rounds, on the host, and the last round's metrics."""
    mesh = mesh or mesh_lib.create_mesh(jax.devices()[:1])
    made, train_state = rounds_of(federation, mesh, **changes)
    batches = open_rounds(federation)
    for _ in range(rounds):
        train_state, told = made(train_state, mesh_lib.to_global(next(batches), mesh))
    return jax.device_get(train_state), {name: float(value) for name, value in told.items()}


def assert_close(left: Any, right: Any, tolerance: float = 2e-6) -> None:
    right = trees.flatten(right)
    flat = trees.flatten(left)
    assert flat.keys() == right.keys()
    for path, value in flat.items():
        np.testing.assert_allclose(value, right[path], rtol=tolerance, atol=tolerance, err_msg=path)


# ---- clients --------------------------------------------------------------------------------------------------------


def test_clients_are_cameras_shards_or_data_sets():
    cameras = plan()
    assert [client.name for client in cameras.clients] == ["camera0", "camera1", "camera2"]
    assert [client.images for client in cameras.clients] == [32] * 3
    assert {int(CAMERAS[i]) for i in cameras.clients[1].sampler.indices(3)} == {1}

    shards = plan(clients="shard", num_clients=3)
    classes = np.stack([client.classes for client in shards.clients])
    assert classes.sum(0).tolist() == [1] * toy.CLASSES
    assert sorted(classes.sum(1)) == [2, 3, 3]
    # P shrinks to the shard's identities: two sizes of local batches, side by side in the stream.
    assert [(group.size, group.slots) for group in shards.groups] == [(6, 2), (4, 1)]
    assert shards.rows == 16

    joined = split(name="a+b/train")
    numbers, names = clients_lib.assign("dataset", joined, LABELS, num_clients=1, seed=0)
    assert names == ("a", "b")
    assert numbers.tolist() == [0, 1] * 48
    with pytest.raises(
        errors.UserError, match=r"several data sets, got those of toy/train; name them in data\.sources"
    ):
        plan(clients="dataset")
    with pytest.raises(errors.UserError, match="did you mean 'camera'"):
        plan(clients="cameras")
    with pytest.raises(errors.UserError, match=r"fed\.num_clients between 1 and the 8 identities"):
        plan(clients="shard", num_clients=9)


def test_a_client_with_one_identity_is_skipped(caplog):
    kept = (CAMERAS != 1) | (LABELS == 3)
    federation = plan(LABELS[kept], CAMERAS[kept])
    assert [client.name for client in federation.clients] == ["camera0", "camera2"]
    assert "client camera1 has 1 identity, which is too few to learn from: it is skipped." in caplog.text
    # The others' draws do not depend on who was skipped.
    assert [client.seed for client in federation.clients] == [plan().clients[k].seed for k in (0, 2)]
    with pytest.raises(errors.UserError, match="no client of toy/train has two identities"):
        plan(np.zeros(96, int), CAMERAS)


def test_a_round_is_a_pure_function_of_its_number():
    federation = plan(fraction=0.67)
    assert federation.per_round == 2
    drawn = [tuple(federation.participants(number)) for number in range(12)]
    assert drawn == [tuple(plan(fraction=0.67).participants(number)) for number in range(12)]
    assert set(drawn) == {(0, 1), (0, 2), (1, 2)}
    straight = open_rounds(federation)
    later = [next(straight) for _ in range(3)][2]
    again = next(open_rounds(federation, 2))
    for name, value in later.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
    assert later["image"].shape == (16, 2, 4, 2, 3)


def test_clients_of_unequal_length_rest():
    """A camera that saw half of the people makes half of the steps."""
    kept = (CAMERAS != 1) | (LABELS < 4)
    federation = plan(LABELS[kept], CAMERAS[kept])
    assert [client.steps for client in federation.clients] == [2, 1, 2]
    assert [slots.tolist() for slots in federation.slots(0)] == [[0, 1, 2]]
    assert federation.images_per_round == 5 * 8


# ---- rounds ---------------------------------------------------------------------------------------------------------


def test_one_client_with_kept_optimizer_state_is_the_joint_trainer():
    """Nothing personal, momentum kept, dropout and a schedule: the same numbers after every round."""
    mesh, model = mesh_lib.create_mesh(jax.devices()[:1]), toy.Toy(dropout=0.2)
    federation = plan(camids=np.zeros_like(CAMERAS))
    made, clients = rounds_of(federation, mesh, model=model, personal="none", optimizer_state="kept", rounds=4)
    schedule = {"name": "warmup_multistep", "warmup_epochs": 2, "milestones_epochs": (3,)}
    joint = toy.initial_state(model, mesh)
    transformation, _ = optimizer.build(toy.OPTIMIZER, schedule, joint.params, 4 * 2, 2)
    joint = mesh_lib.replicate(state.begin_phase(joint, transformation, {}, jax.random.key(7)), mesh)
    train_step = step.make_train_step(toy.objective_of(model), transformation, {}, seed=0, mesh=mesh)
    sampler, batches = samplers.build(SAMPLER, LABELS, 0), open_rounds(federation)
    for number in range(4):
        clients, told = made(clients, mesh_lib.to_global(next(batches), mesh))
        told_jointly = []
        for at in range(2 * number, 2 * number + 2):
            joint, metrics_ = train_step(joint, mesh_lib.to_global(images(sampler.indices(at)), mesh))
            told_jointly.append(float(metrics_["loss"]))
        assert float(told["loss"]) == pytest.approx(np.mean(told_jointly), rel=1e-6)
        assert int(clients.step) == number + 1
        kept = jax.tree.map(lambda x: x[0], clients.extra["clients"]["opt_state"])
        assert_close(clients.variables, joint.variables, 1e-6)
        assert_close(kept, joint.opt_state, 1e-6)
    begun = toy.initial_state(model, mesh).params
    for layer in ("embed", "classifier"):
        assert np.abs(joint.params[layer]["kernel"] - begun[layer]["kernel"]).max() > 0.1


def test_weights_sum_to_one():
    for weights in ([3.0, 1.0, 2.0], [5.0], [0.1] * 7, np.random.default_rng(0).uniform(0, 1e4, 100)):
        shares = np.asarray(rounds_lib.normalized(weights))
        assert shares.sum() == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(shares, np.asarray(weights) / np.sum(weights), rtol=1e-6)
    assert float(rounds_lib.normalized([7.0])[0]) == 1.0
    assert np.asarray(rounds_lib.normalized([0.0, 0.0])).tolist() == [0, 0]


@pytest.mark.parametrize("weights", ["samples", "cdw"])
def test_equal_clients_average_to_themselves(weights):
    """Three clients with one client's data and seed give what that client alone gives."""
    one = plan(camids=np.zeros_like(CAMERAS)).clients[0]
    alone, _ = run(clients_lib.Federation([one], 1.0, 0), weights=weights)
    three, told = run(clients_lib.Federation([one] * 3, 1.0, 0), weights=weights)
    assert_close(three.variables, alone.variables)
    assert told["fed/clients"] == 3


def test_personal_classifiers_are_never_averaged():
    """The server's stays as it began; a client's learns its own people's columns and no others."""
    federation = plan(clients="shard", num_clients=2)
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    initial = jax.device_get(toy.initial_state(toy.Toy(), mesh))
    after, told = run(federation, settings=NO_DECAY)
    np.testing.assert_array_equal(after.params["classifier"]["kernel"], initial.params["classifier"]["kernel"])
    own = after.extra["clients"]["own"]["params"]["classifier"]
    assert set(after.extra["clients"]["own"]) == {"params"}
    for k, client in enumerate(federation.clients):
        moved = np.any(own["kernel"][k] != initial.params["classifier"]["kernel"], axis=0)
        np.testing.assert_array_equal(moved, client.classes)
    # A client's softmax is over its own four people: guessing costs log 4, not log 8.
    classes = federation.clients[0].classes
    first = np.flatnonzero(classes)[:1]
    outputs = rounds_lib.own_classes(lambda: {"logits": jnp.zeros((1, 8)), "feature": jnp.ones((1, 8))}, classes)()
    assert float(losses.LOSSES["cross_entropy"](outputs["logits"], labels=first)) == pytest.approx(np.log(4))
    assert np.all(outputs["feature"] == 1)
    # The classifier's 6 x 8 + 8 numbers do not travel.
    numbers = trees.count_parameters(initial.variables) - 6 * 8 - 8
    assert told["fed/bytes_up"] == told["fed/bytes_down"] == 4 * numbers * 2
    everything, told = run(federation, personal="none")
    assert told["fed/bytes_up"] == 4 * trees.count_parameters(initial.variables) * 2
    assert np.any(everything.params["classifier"]["kernel"] != initial.params["classifier"]["kernel"])


def test_local_batch_normalization_stays_and_the_average_goes_by_images():
    federation = plan(clients="shard", num_clients=3)
    sizes = np.array([client.images for client in federation.clients])
    assert sorted(sizes) == [24, 36, 36]
    mean = lambda x: np.tensordot(sizes / sizes.sum(), x, 1)
    after, told = run(federation, bn="local")
    own = after.extra["clients"]["own"]
    assert set(own["params"]) == {"classifier", "neck"}
    statistics = own["batch_stats"]["neck"]["mean"]
    assert np.abs(statistics[0] - statistics[1]).max() > 1e-3
    # What evaluation reads.
    np.testing.assert_allclose(after.batch_stats["neck"]["mean"], mean(statistics), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.params["neck"]["scale"], mean(own["params"]["neck"]["scale"]), rtol=1e-5)
    # Only the embedding travels.
    assert told["fed/bytes_up"] == 4 * (24 * 6 + 6) * 3


def test_proximity_pulls_towards_the_rounds_theta():
    """FedProx: mu / 2 |theta_k - theta|², over what travels alone."""
    made, _ = rounds_of(plan(), mesh_lib.create_mesh(jax.devices()[:1]), prox_mu=0.5)
    shared = {"params/embed/kernel": jnp.ones((2, 3)), "batch_stats/neck/mean": jnp.ones(3)}
    params = {"embed": {"kernel": jnp.full((2, 3), 3.0)}, "classifier": {"kernel": jnp.full((3, 3), 7.0)}}
    nothing = lambda variables, *rest: (jnp.float32(2.0), ({}, {"loss/ce": 2.0}))
    loss = lambda params: made._with_proximity(nothing, shared, {"params": params}, {}, None, None)
    (total, (_, told)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    assert float(total) == pytest.approx(2.0 + 0.25 * 6 * 4)
    assert float(told["fed/proximity"]) == pytest.approx(24.0)
    np.testing.assert_allclose(gradient["embed"]["kernel"], 0.5 * 2.0)
    assert not np.any(gradient["classifier"]["kernel"])


def test_who_does_not_take_part_keeps_what_it_has():
    federation = plan(fraction=0.34, clients="shard", num_clients=4)
    assert federation.per_round == 1
    (chosen,) = federation.participants(0)
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    before = jax.device_get(rounds_of(federation, mesh)[1]).extra["clients"]["own"]["params"]["classifier"]["kernel"]
    after = run(federation, rounds=1)[0].extra["clients"]["own"]["params"]["classifier"]["kernel"]
    changed = [bool(np.any(before[k] != after[k])) for k in range(4)]
    assert changed == [k == chosen for k in range(4)]


UNEQUAL = np.where(LABELS < 4, np.arange(96) % 4, np.arange(96) % 3)
EVERYTHING = {"bn": "local", "optimizer_state": "kept", "weights": "cdw", "prox_mu": 0.1}


@pytest.mark.parametrize(
    ("clients", "side_by_side", "devices"),
    [("camera", 4, 1), ("camera", 3, 1), ("shard", 4, 1), ("camera", 1, 8), ("camera", 4, 8), ("camera", 8, 8)],
    ids=[
        "all together",
        "two waves of two",
        "two sizes of batches",
        "images over eight devices",
        "a wave's images over eight devices",
        "clients over eight devices, some empty",
    ],
)
def test_waves_of_clients_and_devices_compute_what_one_client_after_another_computes(clients, side_by_side, devices):
    """Unequal clients, one of them resting; every kind of state: kept moments, local normalization, feature weights."""
    federation = plan(camids=UNEQUAL) if clients == "camera" else plan(clients="shard", num_clients=3)
    if clients == "camera":
        assert [client.steps for client in federation.clients] == [2, 2, 2, 1]
    else:
        assert len(federation.groups) == 2
    expected, expected_metrics = run(federation, **EVERYTHING)
    mesh = mesh_lib.create_mesh(jax.devices()[:devices])
    got, got_metrics = run(federation, mesh, side_by_side=side_by_side, **EVERYTHING)
    assert_close(got, expected, 1e-4)
    assert got_metrics == pytest.approx(expected_metrics, rel=1e-3)


@pytest.mark.parametrize(
    ("side_by_side", "devices", "widths"),
    [
        (1, 1, [None] * 5),
        (2, 1, [2, 2, 2]),
        (3, 1, [3, 3]),
        (4, 1, [3, 3]),
        (8, 1, [5]),
        (8, 8, [8]),
        (2, 8, [2, 2, 2]),
    ],
)
def test_waves_hold_every_client_once(side_by_side, devices, widths):
    federation = plan(camids=np.arange(96) % 5)
    mesh = mesh_lib.create_mesh(jax.devices()[:devices])
    made, _ = rounds_of(federation, mesh, side_by_side=side_by_side)
    waves = list(made._waves(0))
    assert [len(wave.clients) if np.ndim(wave.clients) else None for wave in waves] == widths
    clients = np.concatenate([np.atleast_1d(wave.clients) for wave in waves])
    rows = np.concatenate([np.atleast_1d(wave.rows) for wave in waves])
    assert clients[clients != clients_lib.NOBODY].tolist() == list(range(5))
    assert rows[clients != clients_lib.NOBODY].tolist() == [8 * k for k in range(5)]


@pytest.mark.parametrize("side_by_side", [1, 4])
def test_a_round_is_traced_on_shapes(side_by_side):
    """The rehearsal sees the round's states and metrics, and mistakes in the loss, without a number computed."""
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    federation = plan(camids=UNEQUAL)
    made, train_state = rounds_of(federation, mesh, side_by_side=side_by_side, **EVERYTHING)
    batch = mesh_lib.to_global(next(open_rounds(federation)), mesh)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    traced, traced_metrics = jax.eval_shape(made, train_state, batch)
    computed, computed_metrics = made(train_state, batch)
    assert shapes(traced) == shapes(computed)
    assert traced_metrics.keys() == computed_metrics.keys()
    terms = {"ce": {"loss": "cross_entropy", "on": "logit"}}
    made, train_state = rounds_of(federation, mesh, terms=terms, side_by_side=side_by_side)
    with pytest.raises(errors.UserError, match="did you mean 'logits'"):
        jax.eval_shape(made, train_state, batch)


def test_resumed_in_mid_federation_it_ends_alike(tmp_path):
    """Through the training loop: four rounds at once, and two, a checkpoint, and two more, bit for bit."""
    mesh = mesh_lib.create_mesh(jax.devices()[:1])
    federation = plan(fraction=0.67)
    made, initial = rounds_of(federation, mesh, optimizer_state="kept")
    fresh = jax.device_get(toy.initial_state(toy.Toy(), mesh))

    def go(folder: str, last: int, first: int = 0, start: Any = None) -> state.TrainState:
        phase = loop.Phase(
            name="",
            first_step=0,
            last_step=last,
            steps_per_epoch=1,
            batch_size=federation.images_per_round,
            begin=made.begin,
            step=made,
            open_batches=functools.partial(open_rounds, federation),
            learning_rates=lambda number: {},
        )
        path = tmp_path / folder
        with (
            checkpoints.Checkpoints(path / "checkpoints") as saved,
            metrics.MetricWriter(path, resume_step=first, tensorboard=False) as writer,
        ):
            every = loop.Every(log=1, evaluate=0, save=1)
            trainer = loop.Loop(mesh, [phase], every, writer=writer, checkpoints=saved)
            if first:
                start, _ = saved.restore(jax.tree.map(jnp.asarray, start), first)
            return trainer.run(mesh_lib.replicate(start or fresh, mesh), first)

    whole = jax.device_get(go("whole", 4))
    go("torn", 2)
    torn = jax.device_get(go("torn", 4, first=2, start=initial))
    jax.tree.map(np.testing.assert_array_equal, whole, torn)
    assert int(torn.step) == 4
    lines = metrics.read(tmp_path / "torn")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "loss/ce", "fed/bytes_up", "fed/bytes_down", "fed/clients"} <= set(lines[0])
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "sample"}, r"unknown value of fed\.weights 'sample'; did you mean 'samples'"),
        ({"fraction": 0.0}, r"fed\.fraction must be above 0"),
        ({"rounds": 0}, r"fed\.rounds must be a whole number above 0"),
        ({"lr_drops": (1.5,)}, r"fed\.lr_drops between 0 and 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_options_are_answered(changes, message):
    with pytest.raises(errors.UserError, match=message):
        options_lib.Options(**changes)
    with pytest.raises(errors.UserError, match="did you mean 'rounds'"):
        options_lib.Options.of({"round": 3})
    options = dataclasses.replace(options_lib.Options(), rounds=400)
    assert options.schedule({})["milestones_epochs"] == (320, 370)
