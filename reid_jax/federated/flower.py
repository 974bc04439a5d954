"""A federation over a network with Flower as transport.

Flower connects the nodes, chooses and awaits them, and computes the weighted average; `node.Node` does everything else.
Between rounds a client's classifiers are stored in Flower's context of that node and nowhere else.
`reid_jax.cli.federation` builds the two apps from these parts and describes how to start them.

References:
    Beutel et al., "Flower: a friendly federated learning research framework", 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from reid_jax.federated import node as node_lib

Settings = Mapping[str, Any]


class Rounds(Protocol):
    """Runs all rounds of a server's node."""

    def __call__(self, node: node_lib.Node, *, every: int, nodes: int) -> None:
        """Waits for `nodes` nodes and runs the rounds; evaluates theta every `every` rounds (0: at the end only)."""


def to_record(arrays: node_lib.Arrays) -> ArrayRecord:
    """Returns arrays by path in Flower's format."""
    return ArrayRecord({path: Array(value) for path, value in arrays.items()})


def from_record(record: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Returns the arrays of a record; the inverse of `to_record`."""
    return {path: array.numpy() for path, array in record.items()}


def client_app(make_node: Callable[[Settings, Settings], node_lib.Node]) -> ClientApp:
    """Returns the app of a client.

    Args:
        make_node: `(run config, node config) -> node`; called before each round.
    """
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]  # Flower's decorators have no types
    def train(message: Message, context: Context) -> Message:
        """Trains one round on a client."""
        node = make_node(context.run_config, context.node_config)
        if "kept" in context.state:
            node.recall(from_record(context.state["kept"]))
        number = int(message.content["config"]["server-round"]) - 1
        metrics = node.train(from_record(message.content["arrays"]), number)
        context.state["kept"] = to_record(node.kept())
        # Flower weights the average by "num-examples".
        record = MetricRecord({**metrics, "num-examples": node.weight})
        return Message(RecordDict({"arrays": to_record(node.theta()), "metrics": record}), reply_to=message)

    return app


def server_app(serve: Callable[[Settings, Rounds], None]) -> ServerApp:
    """Returns the app of the server.

    Args:
        serve: `(run config, rounds)`; calls `rounds` once with the server's node.
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]  # as above
    def run(grid: Grid, context: Context) -> None:
        def rounds(node: node_lib.Node, *, every: int, nodes: int) -> None:
            total = node.options.rounds

            def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord | None:
                node.receive(from_record(arrays), number)
                if number and (number == total or (every and number % every == 0)):
                    return MetricRecord(node.scores())
                return None

            strategy = FedAvg(
                fraction_train=node.options.fraction,
                fraction_evaluate=0.0,
                min_train_nodes=min(2, nodes),
                min_available_nodes=nodes,
            )
            strategy.start(grid, to_record(node.theta()), num_rounds=total, evaluate_fn=evaluate)

        serve(context.run_config, rounds)

    return app
