"""A federation over a network with Flower as transport.

Flower connects the nodes, chooses and awaits them; `node.Node` trains, `updates` checks and averages what comes back.
Between rounds a client's classifiers are stored in Flower's context of that node, in a folder of that node where one is
given, and nowhere else. `reid_jax.cli.federation` builds the two apps from these parts and describes how to start them.

References:
    Beutel et al., "Flower: a friendly federated learning research framework", 2020.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.inflatable import inflatable_object

from reid_jax import array_files, errors, file_io
from reid_jax.federated import node as node_lib
from reid_jax.federated import updates as updates_lib

# Below Flower's own logger, whose lines reach the server's screen and `flwr log`.
LOG = logging.getLogger("flwr.reid_jax")
# Flower's client of HTTP writes a line for each request.
logging.getLogger("httpx").setLevel(logging.WARNING)

Settings = Mapping[str, Any]
# Seconds between two looks for clients and for replies.
PAUSE = 1.0


@dataclasses.dataclass(frozen=True)
class Terms:
    """What the server waits for, and what it believes.

    Attributes:
        nodes: clients that must have joined before the first round.
        minimum: clients whose weights a round needs; later rounds begin with as many.
        patience: seconds to wait for clients to join or to return.
        timeout: seconds to wait for the replies of a round.
        most_images: the largest number of images that a client may claim.
    """

    nodes: int = 2
    minimum: int = 2
    patience: float = 3600.0
    timeout: float = 3600.0
    most_images: float = updates_lib.MOST_IMAGES

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.nodes:
            raise errors.UserError(
                f"expected min-nodes from 1 to the {self.nodes} nodes of the federation, got {self.minimum}; change "
                "nodes or min-nodes in --run-config."
            )
        for name in ("patience", "timeout", "most_images"):
            if not getattr(self, name) > 0:
                shown = name.replace("_", "-")
                raise errors.UserError(f"expected {shown} above 0 in --run-config, got {getattr(self, name)}.")

    @classmethod
    def of(cls, run_config: Settings) -> Terms:
        """Returns the terms of a run's configuration (keys with hyphens, `min-nodes` for `minimum`).

        Raises:
            UserError: a value out of range.
        """
        nodes = int(run_config.get("nodes", cls.nodes))
        return cls(
            nodes=nodes,
            minimum=int(run_config.get("min-nodes", min(cls.minimum, nodes))),
            patience=float(run_config.get("patience", cls.patience)),
            timeout=float(run_config.get("timeout", cls.timeout)),
            most_images=float(run_config.get("most-images", cls.most_images)),
        )


class Rounds(Protocol):
    """Runs all rounds of a server's node."""

    def __call__(self, node: node_lib.Node, *, every: int, terms: Terms) -> None:
        """Waits for nodes and runs the rounds; evaluates theta every `every` rounds (0: at the end only)."""


def to_record(arrays: node_lib.Arrays) -> ArrayRecord:
    """Returns arrays by path in Flower's format."""
    return ArrayRecord({path: Array(np.asarray(value)) for path, value in arrays.items()})


def from_record(record: Mapping[str, Array], expected: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a record; the inverse of `to_record`.

    Args:
        record: arrays in Flower's format.
        expected: shapes and types by path. A record from the network that claims others is refused before its arrays
            are built, since a claim of a few bytes can ask for any amount of memory.

    Raises:
        UserError: arrays that are not those expected, or that cannot be read.
    """
    for path, array in record.items():
        if array.stype != "numpy.ndarray":
            raise errors.UserError(
                f"expected a NumPy array at {str(path)[:100]!r}, got one serialized as {str(array.stype)[:40]}; "
                f"{updates_lib.SAME_VERSION}"
            )
    return updates_lib.read_arrays({path: array.data for path, array in record.items()}, expected)


# ---- the server -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bounded_unpacking(most_bytes: int) -> Iterator[None]:
    """Makes Flower refuse arrays beyond a size before it puts them together.

    An array travels in pieces and a list of their numbers. The list may name one piece any number of times, so that a
    message of a few bytes could fill the memory of the server.

    Args:
        most_bytes: the largest size of an array.
    """
    original = Array.__dict__["inflate"]

    def inflate(cls: type, object_content: bytes, children: dict[str, Any] | None = None) -> Any:
        body = json.loads(inflatable_object.get_object_body(object_content, cls))
        largest = max((len(piece.data) for piece in (children or {}).values()), default=0)
        if len(body["arraychunk_ids"]) * largest > most_bytes + largest:
            raise errors.MalformedError(f"an array unfolds to more than {most_bytes:,} bytes")
        return original.__func__(cls, object_content, children)

    Array.inflate = classmethod(inflate)
    try:
        yield
    finally:
        Array.inflate = original


class CheckedGrid:
    """Flower's connections to the clients, with a limit to each wait, and without one client's fault ending the run.

    Args:
        grid: the connections.
        terms: the seconds to wait.
    """

    def __init__(self, grid: Grid, terms: Terms) -> None:
        self._grid, self._terms = grid, terms
        self._round = 0
        self._asked: dict[str, int] = {}

    def sender(self, reply: Message) -> int:
        """Returns the client whose reply it is: the one that was asked, since Flower itself answers for a lost one."""
        client: int = self._asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
        return client

    def get_node_ids(self) -> list[int]:
        """Returns the clients that are connected, in order."""
        return sorted(self._grid.get_node_ids())

    def await_nodes(self, count: int) -> None:
        """Waits until so many clients are connected.

        Raises:
            UserError: fewer came within the patience.
        """
        end = time.monotonic() + self._terms.patience
        while (here := len(self.get_node_ids())) < count:
            if time.monotonic() > end:
                raise errors.UserError(
                    f"expected {count} clients, {here} are connected after {self._terms.patience:.0f} s; start the "
                    "others, or lower nodes or min-nodes in --run-config."
                )
            time.sleep(PAUSE)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float) -> list[Message]:
        """Sends messages and returns the replies that came within `timeout` seconds and can be unpacked."""
        sent = list(messages)
        if not sent:
            return []
        self._round += 1
        receivers = {identifier: m.metadata.dst_node_id for identifier, m in self._pushed(sent)}
        self._asked = dict(receivers)
        replies, end = [], time.monotonic() + timeout
        while receivers and time.monotonic() < end:
            for identifier in tuple(receivers):
                # One at a time: what one client sent must not keep the others' replies away.
                try:
                    came = list(self._grid.pull_messages([identifier]))
                except Exception as error:
                    LOG.warning(
                        "round %d: the reply of client %s is left out: it cannot be unpacked (%s).",
                        *(self._round, receivers.pop(identifier), errors.reason(error)),
                    )
                    continue
                if came:
                    replies += came[:1]
                    del receivers[identifier]
            if receivers:
                time.sleep(PAUSE)
        for client in receivers.values():
            LOG.warning("round %d: client %s did not answer within %.0f s.", self._round, client, timeout)
        return replies

    def _pushed(self, messages: list[Message]) -> Iterator[tuple[str, Message]]:
        identifiers = self._grid.push_messages(messages)
        for identifier, message in zip(identifiers, messages, strict=False):
            if identifier is not None:
                yield identifier, message


class CheckedAverage(FedAvg):  # type: ignore[misc]  # Flower may be absent when types are checked
    """Weighted average of the clients' theta that leaves out replies that cannot be meant.

    Args:
        shapes: shape and type of the arrays that are exchanged, by path.
        terms: what a round needs and what is believed.
        **options: of Flower's `FedAvg`.
    """

    def __init__(self, shapes: Mapping[str, Any], terms: Terms, **options: Any) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=terms.minimum, min_available_nodes=terms.minimum, **options
        )
        self.shapes, self.terms = shapes, terms
        self._sender: Callable[[Message], int] = lambda reply: reply.metadata.src_node_id

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> Any:
        """Returns the messages of a round, after all clients (first round) or enough of them are connected."""
        self._sender = grid.sender
        grid.await_nodes(self.terms.nodes if server_round == 1 else self.terms.minimum)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Returns the average of the usable replies and of their metrics, after a warning for each other one.

        Raises:
            UserError: fewer replies than the minimum can be used.
        """
        usable, last = [], ""
        for reply in replies:
            try:
                usable.append(self._update(reply))
            except errors.UserError as error:
                last = f" (the last: {str(error).rstrip('.')})"
                LOG.warning(
                    "round %d: the reply of client %s is left out: %s", server_round, self._sender(reply), error
                )
        if len(usable) < self.terms.minimum:
            raise errors.UserError(
                f"expected weights from at least {self.terms.minimum} clients in round {server_round}, got "
                f"{len(usable)} that can be used{last}; see the warnings above for the others, or lower min-nodes in "
                "--run-config."
            )
        theta, metrics = updates_lib.average(usable)
        LOG.info("round %d: averaged %d clients", server_round, len(usable))
        return to_record(theta), MetricRecord(metrics)

    def _update(self, reply: Message) -> updates_lib.Update:
        """Returns the content of a reply; raises a `UserError` for one that must not enter the average."""
        if reply.has_error():
            raise errors.UserError(f"{_told(reply.error)}.")
        content = reply.content
        try:
            arrays, metrics = content["arrays"], dict(content["metrics"])
            claimed = metrics.pop("num-examples")
            others = set(content) - {"arrays", "metrics"}
            stypes = [array.stype for array in arrays.values()]
        except Exception as error:
            raise errors.UserError(
                f"expected `arrays` and `num-examples`, got another reply ({errors.fault(error)}); "
                f"{updates_lib.SAME_VERSION}"
            ) from error
        if others or not stypes:
            raise errors.UserError(
                f"expected `arrays` and `metrics` alone, got {len(others)} further records and {len(stypes)} arrays; "
                f"{updates_lib.SAME_VERSION}"
            )
        weight = updates_lib.check_weight(claimed, self.terms.most_images)
        return updates_lib.Update(from_record(arrays, self.shapes), weight, updates_lib.known_metrics(metrics))


# Flower's codes of errors whose text is its own.
_CODES = {3: "its reply did not arrive whole", 4: "it did not answer in time", 5: "it left the federation"}


def _told(error: Any) -> str:
    """Returns what Flower or a client says of a failure, on one short line."""
    reason = errors.reason(Exception(str(error.reason or "it does not say why")))
    return _CODES.get(error.code) or f"it failed ({reason})"


def server_app(serve: Callable[[Settings, Rounds], None]) -> ServerApp:
    """Returns the app of the server.

    Args:
        serve: `(run config, rounds)`; calls `rounds` once with the server's node.
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]  # Flower's decorators have no types
    def run(grid: Grid, context: Context) -> None:
        def rounds(node: node_lib.Node, *, every: int, terms: Terms) -> None:
            total, shapes = node.options.rounds, node.shapes()

            def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord | None:
                node.receive(from_record(arrays, shapes), number)
                if number and (number == total or (every and number % every == 0)):
                    return MetricRecord(node.scores())
                return None

            initial = to_record(node.theta())
            with bounded_unpacking(max(len(array.data) for array in initial.values())):
                CheckedAverage(shapes, terms, fraction_train=node.options.fraction).start(
                    CheckedGrid(grid, terms),
                    initial,
                    num_rounds=total,
                    timeout=terms.timeout,
                    evaluate_fn=evaluate,
                )

        try:
            serve(context.run_config, rounds)
        except errors.UserError as error:
            LOG.error("error: %s", error)  # the sentence by itself; Flower adds a traceback and the exit code
            raise

    return app


# ---- a client -------------------------------------------------------------------------------------------------------


def client_app(make_node: Callable[[Settings, Settings], node_lib.Node]) -> ClientApp:
    """Returns the app of a client.

    Args:
        make_node: `(run config, node config) -> node`; called before each round.
    """
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]  # as above
    def train(message: Message, context: Context) -> Message:
        """Trains one round on a client."""
        node = make_node(context.run_config, context.node_config)
        file = _kept_file(context)
        if "kept" in context.state:
            node.recall(from_record(context.state["kept"]))
        elif file is not None and file.exists():
            remedy = "remove it to begin with new classifiers."
            node.recall(array_files.load_npz(file, "the classifiers of this client", remedy))
        number = int(message.content["config"]["server-round"]) - 1
        metrics = node.train(from_record(message.content["arrays"], node.shapes()), number)
        kept = node.kept()
        context.state["kept"] = to_record(kept)
        if file is not None:
            file_io.write(
                file, lambda stream: np.savez(stream, allow_pickle=False, **kept), "the classifiers of this client"
            )
        # Flower weights the average by "num-examples".
        record = MetricRecord({**metrics, "num-examples": node.weight})
        return Message(RecordDict({"arrays": to_record(node.theta()), "metrics": record}), reply_to=message)

    return app


def _kept_file(context: Context) -> pathlib.Path | None:
    """Returns the file of a client's classifiers in the folder that its own configuration names (`keep`), if any."""
    if not context.node_config.get("keep"):
        return None
    folder = file_io.make_folder(str(context.node_config["keep"]), "the folder of this client's classifiers (keep)")
    return folder / f"run-{int(context.run_id)}.npz"
