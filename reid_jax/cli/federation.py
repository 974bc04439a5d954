"""Flower apps of the server and the clients of a federation over a network, see `reid_jax.federated.flower`.

    pip install -e ".[flower]"          # without constraints.txt: Flower wants older protobuf, rich and packaging
    bash docs/federation/keys.sh keys 3 HOST
    flower-superlink --disable-runtime-dependency-installation --enable-supernode-auth --ssl-ca-certfile keys/ca.crt \\
        --ssl-certfile keys/server.pem --ssl-keyfile keys/server.key         # on the server, behind gate.conf
    flower-supernode --superlink HOST:9092 --root-certificates ca.crt \\
        --auth-supernode-private-key client0.key --node-config 'client="camera0"'       # on each client
    flwr run scripts/flower CONNECTION --run-config run.toml                            # starts the run

The server and the clients are started in the root of this repository; docs/federated.md says more of keys, of the
gate that keeps clients from starting runs, and of `--insecure` for a trial on one machine. A CONNECTION is a section
[superlink.CONNECTION] of Flower's config.toml with the server's `address`. `run.toml` replaces values of
scripts/flower/pyproject.toml: `config` as for main.py, `overrides` separated by blanks ("fed.rounds=4 seed=1"),
`workdir` of the server's run folder, and what the server waits for and believes (`reid_jax.federated.flower.Terms`). A
node's own configuration has `client`, the simulated client whose data it trains on; or `root`, the folder of its own
data, without `client`; and `keep`, a folder for its classifiers.
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
    terms = flower.Terms.of(run_config)
    config = config_of(run_config)
    folder = folder_lib.RunFolder(str(run_config.get("workdir") or folder_lib.default_path(config)))
    if folder.mirror is not None:
        raise errors.UserError(
            f"expected a folder of this machine as workdir of a federation, got {folder.place}; give one, and copy it "
            "to the store afterwards."
        )
    file_io.make_folder(folder.path, "the run folder")
    with folder_lock.held(folder.path):
        folder.claim(config)
        node = node_lib.Node(experiment.Experiment(config))
        rounds(node, every=round(config.evals.every_epochs), terms=terms)
        node.save(folder.checkpoints)
        launch.run(config, workdir=str(folder.path), mode="eval")


client_app = flower.client_app(client_node)
server_app = flower.server_app(serve)
