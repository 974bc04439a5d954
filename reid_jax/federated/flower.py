"""A federation over a network with Flower as transport.

Flower connects the nodes, chooses and awaits them, and computes the weighted average; `node.Node` does everything else.
Between rounds a client's classifiers are stored in Flower's context of that node and nowhere else.
`reid_jax.cli.federation` builds the two apps from these parts and describes how to start them.

References:
    Beutel et al., "Flower: a friendly federated learning research framework", 2020.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from reid_jax import errors
from reid_jax.federated import node as node_lib

LOG = logging.getLogger(__name__)

Settings = Mapping[str, Any]
# Largest weight of a client in the average: more images than any person re-identification data set has.
LARGEST_WEIGHT = 1e9


class Rounds(Protocol):
    """Runs all rounds of a server's node."""

    def __call__(self, node: node_lib.Node, *, every: int, nodes: int) -> None:
        """Waits for `nodes` nodes and runs the rounds; evaluates theta every `every` rounds (0: at the end only)."""


def to_record(arrays: node_lib.Arrays) -> ArrayRecord:
    """Returns arrays by path in Flower's format."""
    return ArrayRecord({path: Array(value) for path, value in arrays.items()})


def from_record(record: Mapping[str, Array], expected: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a record; the inverse of `to_record`.

    Args:
        record: arrays in Flower's format.
        expected: shapes by path. A record from the network that claims other shapes is refused before its arrays are
            built, since a claim of a few bytes can ask for any amount of memory.

    Raises:
        UserError: arrays that are not those expected, or that cannot be read.
    """
    if expected is not None:
        for path in sorted({*record, *expected}):
            claimed = _claimed_shape(path, record[path]) if path in record else None
            here = tuple(expected[path].shape) if path in expected else None
            if claimed != here:
                raise errors.UserError(
                    f"expected the arrays of this node's model, but {path[:100]!r} is {here} here and was received as "
                    f"{claimed}; give all nodes of the federation the same config."
                )
    return {path: array.numpy() for path, array in record.items()}


def _claimed_shape(path: str, array: Array) -> tuple[int, ...]:
    """Returns the shape in the header of a serialized array."""
    try:
        if array.stype != "numpy.ndarray":
            raise errors.MalformedError(f"serialized as {str(array.stype)[:40]}")
        stream = io.BytesIO(array.data)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if dtype.hasobject:
            raise errors.MalformedError("Python objects")
    except Exception as error:
        raise errors.UserError(
            f"expected a NumPy array at {path[:100]!r}, what was received cannot be read ({errors.fault(error)}); "
            "give all nodes of the federation the same version of this package."
        ) from error
    return tuple(shape)


class CheckedAverage(FedAvg):  # type: ignore[misc]  # Flower may be absent when types are checked
    """Weighted average of the clients' theta that leaves out replies that cannot be meant.

    Args:
        shapes: shape and type of the arrays that are exchanged, by path.
        **options: of Flower's `FedAvg`.
    """

    def __init__(self, shapes: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.shapes = shapes

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Returns the average of the usable replies, after a warning for each other one.

        Raises:
            UserError: replies came and none can be used.
        """
        usable, refused = [], []
        for reply in replies:
            try:
                if not reply.has_error():
                    self._check(reply.content)
                usable.append(reply)
            except errors.UserError as error:
                client = reply.metadata.src_node_id
                LOG.warning("round %d: the reply of client %s is left out: %s", server_round, client, error)
                refused.append(error)
        if refused and all(reply.has_error() for reply in usable):
            raise errors.UserError(f"no client sent weights that can be used in round {server_round}: {refused[0]}")
        return super().aggregate_train(server_round, usable)

    def _check(self, content: Any) -> None:
        """Raises a `UserError` for a reply that must not enter the average."""
        try:
            arrays, weight = content["arrays"], float(content["metrics"]["num-examples"])
        except Exception as error:
            raise errors.UserError(
                f"expected `arrays` and `num-examples`, got another reply ({errors.fault(error)}); give all nodes of "
                "the federation the same version of this package."
            ) from error
        if not (math.isfinite(weight) and 0 < weight <= LARGEST_WEIGHT):
            raise errors.UserError(f"expected a number of images above 0 and up to {LARGEST_WEIGHT:.0e}, got {weight}.")
        node_lib.check_theta(from_record(arrays, self.shapes), self.shapes)


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
        metrics = node.train(from_record(message.content["arrays"], node.shapes()), number)
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

            strategy = CheckedAverage(
                node.shapes(),
                fraction_train=node.options.fraction,
                fraction_evaluate=0.0,
                min_train_nodes=min(2, nodes),
                min_available_nodes=nodes,
            )
            strategy.start(grid, to_record(node.theta()), num_rounds=total, evaluate_fn=evaluate)

        serve(context.run_config, rounds)

    return app
