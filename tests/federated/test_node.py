"""Nodes of a federation over a network compute the simulated federation; Flower passes configs and arrays on."""

from __future__ import annotations

import importlib
import re
import types

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import prepare
from reid_jax.federated import node as node_lib
from reid_jax.runs import experiment
from reid_jax.runs import folder as folder_lib
from reid_jax.train import checkpoints
from tests.federated import test_federated_run
from tests.helpers import flower_stand_in, tiny

pytestmark = pytest.mark.slow

NAME = "mgaf:synthped,mgaf_base,mgaf_federated"
# Without augmentation: its draws belong to the place in a global batch, which differs between one node and all of them.
SMALL = {**test_federated_run.SMALL, "data.augment": {}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare.prepare("synthped", folder, size="tiny")
    return folder


def node(data, client: str = "", **changes) -> node_lib.Node:
    return node_lib.Node(experiment.Experiment(tiny.config(data, NAME, {**SMALL, "fed.client": client, **changes})))


def averaged(nodes: list[node_lib.Node]) -> dict[str, np.ndarray]:
    """The server's part."""
    total = sum(one.weight for one in nodes)
    thetas = [one.theta() for one in nodes]
    return {
        path: sum(one.weight / total * theta[path] for one, theta in zip(nodes, thetas, strict=True))
        for path in thetas[0]
    }


def test_nodes_that_exchange_theta_are_the_simulated_federation(data, tmp_path):
    whole = node(data)
    cameras = [node(data, f"camera{number}") for number in range(3)]
    theta = whole.theta()
    assert all("classifier" not in path for path in theta)
    assert sum(one.weight for one in cameras) == whole.weight
    for number in range(2):
        whole.train(theta, number)
        for one in cameras:
            assert one.train(theta, number)["loss"] > 0
        theta = averaged(cameras)
        for path, value in whole.theta().items():
            np.testing.assert_allclose(theta[path], value, rtol=2e-4, atol=2e-5, err_msg=path)
    # Classifiers stayed where they are: each camera's own, as the simulation keeps them.
    together = whole.kept()
    for number, one in enumerate(cameras):
        for path, value in one.kept().items():
            np.testing.assert_allclose(value[0], together[path][number], rtol=2e-4, atol=2e-5, err_msg=path)

    # A process that comes and goes between rounds goes on as the one that stayed.
    restarted = node(data, "camera1")
    restarted.recall(cameras[1].kept())
    for one in (restarted, cameras[1]):
        one.train(theta, 2)
    for path, value in cameras[1].theta().items():
        np.testing.assert_array_equal(restarted.theta()[path], value, err_msg=path)

    # The server saves theta for the scripts that read runs.
    folder = folder_lib.RunFolder(tmp_path / "run")
    folder.claim(whole.experiment.config)
    whole.receive(theta, 3)
    scores = whole.scores()
    assert 0 < scores["synthped/mAP"] < 1
    whole.save(folder.checkpoints)
    arrays = checkpoints.restore_arrays(folder.checkpoints)
    for path, value in theta.items():
        np.testing.assert_array_equal(arrays[path], value)

    # Arrays of another model are refused by name.
    first = next(iter(theta))
    with pytest.raises(errors.UserError, match=f"{first} is .* here and was received as None"):
        whole.receive({path: value for path, value in theta.items() if path != first}, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.mode": "joint"}, r"expected train\.mode='federated'"),
        ({"fed.bn": "local"}, r"expected fed\.bn='average'"),
        ({"fed.weights": "cdw"}, "of 'samples' or 'uniform', got 'average' and 'cdw'"),
        ({"fed.client": "camera7"}, r"client \(fed\.client\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_federations_that_exchange_more_than_theta_are_refused(data, changes, message):
    with pytest.raises(errors.UserError, match=message):
        node(data, **changes)


@pytest.fixture
def flower(monkeypatch):
    """`reid_jax.federated.flower` and `reid_jax.cli.federation` over a stand-in for Flower."""
    flower_stand_in.install(monkeypatch)
    return importlib.import_module("reid_jax.federated.flower"), importlib.import_module("reid_jax.cli.federation")


def test_flower_gets_configs_and_arrays_through(flower):
    transport, command = flower
    made = command.config_of(
        {"config": "configs/mgaf.py:demo,mgaf_fed_shard", "overrides": "fed.rounds=4 seed=3"}, {"client": "shard2"}
    )
    assert (made.train.mode, made.fed.client, made.fed.rounds, made.seed) == ("federated", "shard2", 4, 3)
    with pytest.raises(errors.UserError, match="expected a config, got none"):
        command.config_of({})
    arrays = {"params/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.int32(3)[None]}
    for path, value in transport.from_record(transport.to_record(arrays)).items():
        np.testing.assert_array_equal(value, arrays[path])
        assert value.dtype == arrays[path].dtype


class Counter:
    """A node whose theta counts rounds and whose classifiers count the rounds of this client."""

    weight = 7

    def __init__(self) -> None:
        self.values, self.classifiers, self.received = np.zeros(2, np.float32), np.zeros(1, np.float32), []
        self.options = types.SimpleNamespace(rounds=3, fraction=0.5)

    def train(self, theta, number):
        self.values, self.classifiers = theta["a"] + number + 1, self.classifiers + 1
        return {"loss": 0.5}

    def theta(self):
        return {"a": self.values}

    def shapes(self):
        return {"a": np.zeros(2, np.float32)}

    def kept(self):
        return {"classifier": self.classifiers}

    def recall(self, kept):
        self.classifiers = kept["classifier"]

    def receive(self, theta, number):
        self.received.append((number, theta["a"].tolist()))

    def scores(self):
        return {"synthped/mAP": 0.25}


def test_a_client_keeps_its_classifiers_in_the_context_between_rounds(flower):
    transport, _ = flower
    seen = []
    app = transport.client_app(lambda run_config, node_config: seen.append((run_config, node_config)) or Counter())
    context = flower_stand_in.Context({"config": "c"}, {"client": "shard2"})
    theta = {"a": np.array([1, 2], np.float32)}
    for number in (1, 2):  # Flower counts rounds from 1, the node from 0
        content = {"arrays": transport.to_record(theta), "config": {"server-round": number}}
        reply = app.function(flower_stand_in.Message(content), context).content
        np.testing.assert_array_equal(transport.from_record(reply["arrays"])["a"], theta["a"] + number)
        assert reply["metrics"] == {"loss": 0.5, "num-examples": 7}
        assert transport.from_record(context.state["kept"])["classifier"] == number
    assert seen == [({"config": "c"}, {"client": "shard2"})] * 2


def test_the_server_evaluates_every_few_rounds_and_at_the_end(flower):
    transport, _ = flower
    node = Counter()
    app = transport.server_app(lambda run_config, rounds: rounds(node, every=2, nodes=5))
    app.function(None, flower_stand_in.Context({}, {}))
    (strategy,) = flower_stand_in.FedAvg.started
    assert strategy.scores == {0: None, 1: None, 2: {"synthped/mAP": 0.25}, 3: {"synthped/mAP": 0.25}}
    assert node.received == [(number, [0.0, 0.0]) for number in range(4)]
    assert strategy.options["min_available_nodes"] == 5
    assert strategy.options["fraction_train"] == 0.5


def test_the_server_averages_only_what_can_be_meant(flower, caplog):
    transport, _ = flower
    good = np.ones(2, np.float32)

    def reply(arrays, weight=3.0, damage=None, **options):
        record = transport.to_record(arrays)
        if damage:
            damage(record["a"])
        return flower_stand_in.Message({"arrays": record, "metrics": {"num-examples": weight}}, **options)

    def claim(array):
        """A header of a few bytes that asks for petabytes."""
        array.data = array.data.replace(b"(2,), ", b"(9" + b"9" * 14 + b",), ")

    fine = [reply({"a": good}), reply({"a": 2 * good}), reply({}, failed=True)]
    wrong = {
        "a is \\(2,\\) here and was received as \\(3,\\)": reply({"a": np.ones(3, np.float32)}),
        "a' is \\(2,\\) here and was received as None": reply({}),
        "b' is None here": reply({"a": good, "b": good}),
        "float32 here and was received as float64": reply({"a": np.ones(2)}),
        "a was received with values that are not": reply({"a": np.array([1, np.nan], np.float32)}),
        "999,\\)": reply({"a": good}, damage=claim),
        "cannot be read": reply({"a": good}, damage=lambda array: vars(array).update(data=b"\x93NUMPY")),
        "serialized as pickle": reply({"a": good}, damage=lambda array: vars(array).update(stype="pickle")),
        "number of images above 0 and up to 1e\\+09, got inf": reply({"a": good}, np.inf),
        "got -1.0": reply({"a": good}, -1),
        "got another reply": flower_stand_in.Message({"arrays": {}}),
    }
    average = transport.CheckedAverage({"a": good})
    assert average.aggregate_train(1, [*fine, *wrong.values()]) == fine
    said = [record.getMessage() for record in caplog.records]
    for sentence, words in zip(said, wrong, strict=True):
        assert re.search(words.replace("a is", "a' is"), sentence), (words, sentence)
        assert sentence.startswith("round 1: the reply of client 99 is left out: ")
    with pytest.raises(errors.UserError, match="no client sent weights that can be used in round 2: expected finite"):
        average.aggregate_train(2, [wrong["a was received with values that are not"]])
