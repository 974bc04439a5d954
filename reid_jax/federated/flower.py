"""A federation over a network, carried by Flower: the two apps that its server and its clients run.

    pip install -e ".[flower]"          # without constraints.txt: Flower wants older protobuf, rich and packaging
    flower-superlink --insecure --disable-runtime-dependency-installation                # on the server
    flower-supernode --insecure --superlink HOST:8000 --node-config 'client="camera0"'   # on each client
    flwr run scripts/flower CONNECTION --run-config run.toml                             # where it is started from

The server and the clients are started in the root of this repository; without `--insecure` they want certificates. A
CONNECTION is a section [superlink.CONNECTION] of Flower's config.toml with the server's `address`. `run.toml` replaces
values of scripts/flower/pyproject.toml: `config` as for main.py, `overrides` separated by blanks ("fed.rounds=4
seed=1"), `workdir` of the server's run folder, `nodes` that have to be there before the first round. Of a node's own
configuration are read: `client`, which of the simulated clients' data it trains on; or `root`, the folder of its own
data, with `client` left out.

What Flower does: connections, choice of nodes, waiting for them, the weighted average. What `federation_node.Node`
does: everything else. Between rounds a client's classifiers lie in Flower's context of that node and nowhere else.

References:
    Beutel et al., "Flower: a friendly federated learning research framework", 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.cli import common
from reid_jax.federated import node as node_lib
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import launch

client_app = ClientApp()
server_app = ServerApp()


def config_of(run_config: Mapping[str, Any], node_config: Mapping[str, Any] | None = None) -> ConfigDict:
    """The resolved config of the server, or with a node's configuration of that client.

    Raises:
        UserError: unknown config, preset or key; no config named.
    """
    if not run_config.get("config"):
        raise errors.UserError("expected a config, got none; add --run-config 'config=\"configs/mgaf.py:demo\"'.")
    config = common.load_config(str(run_config["config"]))
    pairs = str(run_config.get("overrides", "")).split()
    overrides: dict[str, Any] = {"train.mode": "federated", **common.parse_options(pairs)}
    for key, target in (("client", "fed.client"), ("root", "data.root")):
        if node_config and key in node_config:
            overrides[target] = str(node_config[key])
    config_lib.override(config, overrides)
    return config


def to_record(arrays: node_lib.Arrays) -> ArrayRecord:
    """Arrays by path as Flower sends them."""
    return ArrayRecord({path: Array(value) for path, value in arrays.items()})


def from_record(record: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """The inverse of `to_record`."""
    return {path: array.numpy() for path, array in record.items()}


@functools.lru_cache(maxsize=1)
def _node(run_config: tuple[tuple[str, Any], ...], node_config: tuple[tuple[str, Any], ...]) -> node_lib.Node:
    """Built once per process: a process may serve one round or all of them."""
    return node_lib.Node(config_of(dict(run_config), dict(node_config)))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One round on a client."""
    node = _node(tuple(context.run_config.items()), tuple(context.node_config.items()))
    if "kept" in context.state:
        node.recall(from_record(context.state["kept"]))
    number = int(message.content["config"]["server-round"]) - 1
    told = node.train(from_record(message.content["arrays"]), number)
    context.state["kept"] = to_record(node.kept())
    # "num-examples" is what Flower weighs the average by.
    metrics = MetricRecord({**told, "num-examples": node.weight})
    return Message(RecordDict({"arrays": to_record(node.theta()), "metrics": metrics}), reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """All rounds: initial theta, averages, scores every `evals.every_epochs` rounds, and the run folder at the end."""
    config = config_of(context.run_config)
    folder = folder_lib.RunFolder(str(context.run_config.get("workdir") or launch.default_workdir(config)))
    folder.claim(config)
    node = node_lib.Node(config)
    rounds, every = node.options.rounds, round(config.evals.every_epochs)
    nodes = int(context.run_config.get("nodes", 2))

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        node.receive(from_record(arrays), number)
        if number and (number == rounds or (every and number % every == 0)):
            return MetricRecord(node.scores())
        return None

    strategy = FedAvg(
        fraction_train=node.options.fraction,
        fraction_evaluate=0.0,
        min_train_nodes=min(2, nodes),
        min_available_nodes=nodes,
    )
    strategy.start(grid, to_record(node.theta()), num_rounds=rounds, evaluate_fn=evaluate)
    node.save(folder)
    launch.run(config, workdir=str(folder.path), mode="eval")
