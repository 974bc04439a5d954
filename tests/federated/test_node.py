"""Nodes of a federation over a network compute the simulated federation; Flower passes configs and arrays on."""

from __future__ import annotations

import importlib
import json
import re
import types

import numpy as np
import pytest

from reid_jax import errors
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
    tiny.draw(folder)
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
    with pytest.raises(errors.UserError, match=f"{first}' is .* here and was received as None"):
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
    app = transport.server_app(lambda run_config, rounds: rounds(node, every=2, terms=transport.Terms.of(run_config)))
    app.function(None, flower_stand_in.Context({"nodes": 5, "timeout": 60}, {}))
    (strategy,) = flower_stand_in.FedAvg.started
    assert strategy.scores == {0: None, 1: None, 2: {"synthped/mAP": 0.25}, 3: {"synthped/mAP": 0.25}}
    assert node.received == [(number, [0.0, 0.0]) for number in range(4)]
    assert strategy.options["fraction_train"] == 0.5
    assert strategy.options["min_available_nodes"] == 2
    assert strategy.terms == transport.Terms(nodes=5, minimum=2, timeout=60.0)
    with pytest.raises(errors.UserError, match="expected min-nodes from 1 to the 2 nodes"):
        transport.Terms.of({"min-nodes": 3})


def test_the_server_averages_only_what_can_be_meant(flower, caplog):
    transport, _ = flower
    good = np.ones(2, np.float32)

    def reply(arrays, weight=3.0, damage=None, **options):
        record = transport.to_record(arrays)
        if damage:
            damage(record["a"])
        return flower_stand_in.Message({"arrays": record, "metrics": {"loss": 1.0, "num-examples": weight}}, **options)

    fine = [reply({"a": good}), reply({"a": 2 * good})]
    flood = types.SimpleNamespace(code=0, reason="x" * 5000)
    gone = types.SimpleNamespace(code=5, reason="")
    wrong = {
        "a' is \\(2,\\) here and was received as None": reply({"b": good}),
        "serialized as pickle": reply({"a": good}, damage=lambda array: vars(array).update(stype="pickle")),
        "got another reply": flower_stand_in.Message({"arrays": {}}),
        "got 1 further records and 1 arrays": flower_stand_in.Message({**fine[0].content, "more": {}}),
        "got 1e\\+15|got 1000000000000000": reply({"a": good}, 1e15),
        "it failed \\(x{157}\\.\\.\\.\\)": flower_stand_in.Message({}, error=flood),
        "left the federation": flower_stand_in.Message({}, error=gone),
    }
    average = transport.CheckedAverage({"a": good}, transport.Terms())
    theta, metrics = average.aggregate_train(1, [*fine, *wrong.values()])
    np.testing.assert_array_equal(transport.from_record(theta)["a"], 1.5 * good)
    assert metrics == {"loss": 1.0}
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for sentence, words in zip(said, wrong, strict=True):
        assert re.search(words, sentence), (words, sentence)
        assert sentence.startswith("round 1: the reply of client 99 is left out: ")
    with pytest.raises(errors.UserError, match="at least 2 clients in round 2, got 1 that can be used"):
        average.aggregate_train(2, [fine[0], wrong["got another reply"]])


def test_no_client_can_hold_up_the_others(flower, caplog, monkeypatch):
    """A reply that cannot be unpacked, and one that never comes."""
    transport, _ = flower
    monkeypatch.setattr(transport, "PAUSE", 0.0)
    grid = transport.CheckedGrid(flower_stand_in.Grid({7: "fine", 8: ValueError("no such chunk"), 9: None}), "terms")
    messages = [types.SimpleNamespace(metadata=types.SimpleNamespace(dst_node_id=node)) for node in (7, 8, 9)]
    assert grid.send_and_receive(messages, timeout=0.05) == ["fine"]
    lost = types.SimpleNamespace(reply_to_message_id="to 9", src_node_id=1)  # answered by the server itself
    assert grid.sender(types.SimpleNamespace(metadata=lost)) == 9
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "round 1: the reply of client 8 is left out: it cannot be unpacked (no such chunk).",
        "round 1: client 9 did not answer within 0 s.",
    ]
    grid = transport.CheckedGrid(flower_stand_in.Grid({}), transport.Terms(patience=0.01))
    with pytest.raises(errors.UserError, match="expected 2 clients, 0 are connected after 0 s"):
        grid.await_nodes(2)


def test_an_array_does_not_unfold_beyond_its_size(flower):
    transport, _ = flower
    unfold = lambda indices: transport.Array.inflate(
        json.dumps({"arraychunk_ids": indices}).encode(), {"x": types.SimpleNamespace(data=b"12345678")}
    )
    with transport.bounded_unpacking(20):
        assert unfold([0, 0, 0]) == b"12345678" * 3
        with pytest.raises(errors.MalformedError, match="unfolds to more than 20 bytes"):
            unfold([0] * 100_000)
    assert unfold([0] * 4) == b"12345678" * 4


def test_a_client_that_returns_finds_its_classifiers(flower, tmp_path):
    transport, _ = flower
    app = transport.client_app(lambda run_config, node_config: Counter())
    for number in (1, 2):  # each time with an empty context, as after a restart
        context = flower_stand_in.Context({}, {"keep": str(tmp_path / "own")})
        content = {"arrays": transport.to_record({"a": np.zeros(2, np.float32)}), "config": {"server-round": number}}
        app.function(flower_stand_in.Message(content), context)
        assert transport.from_record(context.state["kept"])["classifier"] == number
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["run-5.npz"]
