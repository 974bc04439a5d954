"""Flower apps of the server and the clients of a federation over a network, see `reid_jax.federated.flower`.

    pip install -e ".[flower]"          # without constraints.txt: Flower wants older protobuf, rich and packaging
    flower-superlink --disable-runtime-dependency-installation --enable-supernode-auth \\
        --ssl-ca-certfile ca.crt --ssl-certfile server.pem --ssl-keyfile server.key     # on the server
    flower-supernode --superlink HOST:PORT --root-certificates ca.crt \\
        --auth-supernode-private-key client0.key --node-config 'client="camera0"'       # on each client
    flwr run scripts/flower CONNECTION --run-config run.toml                            # starts the run

The server and the clients are started in the root of this repository; docs/federated.md says more of keys and
certificates, and of `--insecure` for a trial on one machine. A CONNECTION is a section [superlink.CONNECTION] of
Flower's config.toml with the server's `address`. `run.toml` replaces values of scripts/flower/pyproject.toml:
`config` as for main.py, `overrides` separated by blanks ("fed.rounds=4 seed=1"), `workdir` of the server's run
folder, `nodes` that must have joined before the first round. A node's own configuration has `client`, the simulated
client whose data it trains on; or `root`, the folder of its own data, without `client`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors, file_io
from reid_jax.cli import command_line
from reid_jax.config import files
from reid_jax.federated import flower
from reid_jax.federated import node as node_lib
from reid_jax.runs import experiment, launch
from reid_jax.runs import folder as folder_lib
from reid_jax.runtime import folder_lock


def config_of(run_config: Mapping[str, Any], node_config: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the resolved config of the server, or of the client with a node's configuration.

    Raises:
        UserError: no config is named, or a config, preset or key is unknown.
    """
    if not run_config.get("config"):
        raise errors.UserError("expected a config, got none; add --run-config 'config=\"configs/mgaf.py:demo\"'.")
    config = files.load_config(str(run_config["config"]))
    pairs = str(run_config.get("overrides", "")).split()
    overrides: dict[str, Any] = {"train.mode": "federated", **command_line.parse_options(pairs)}
    for key, target in (("client", "fed.client"), ("root", "data.root")):
        if node_config and key in node_config:
            overrides[target] = str(node_config[key])
    config_lib.override(config, overrides)
    return config


@functools.lru_cache(maxsize=1)
def _node(run_config: tuple[tuple[str, Any], ...], node_config: tuple[tuple[str, Any], ...]) -> node_lib.Node:
    """Returns the node of this process, built once: a process may serve one round or all of them."""
    return node_lib.Node(experiment.Experiment(config_of(dict(run_config), dict(node_config))))


def client_node(run_config: Mapping[str, Any], node_config: Mapping[str, Any]) -> node_lib.Node:
    """Returns the node of a client, from Flower's configurations of the run and of that client."""
    return _node(tuple(run_config.items()), tuple(node_config.items()))


def serve(run_config: Mapping[str, Any], rounds: flower.Rounds) -> None:
    """Runs the server: claims the run folder, runs the rounds, saves and evaluates the result."""
    config = config_of(run_config)
    folder = folder_lib.RunFolder(str(run_config.get("workdir") or folder_lib.default_path(config)))
    file_io.make_folder(folder.path, "the run folder")
    with folder_lock.held(folder.path):
        folder.claim(config)
        node = node_lib.Node(experiment.Experiment(config))
        rounds(node, every=round(config.evals.every_epochs), nodes=int(run_config.get("nodes", 2)))
        node.save(folder.checkpoints)
        launch.run(config, workdir=str(folder.path), mode="eval")


client_app = flower.client_app(client_node)
server_app = flower.server_app(serve)
