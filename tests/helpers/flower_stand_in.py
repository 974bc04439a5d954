"""The part of Flower's interface that `reid_jax.federated.flower` uses, without a network.

Flower is an extra that pins older versions of other packages, so the suite does without it. Arrays travel as bytes, as
in Flower; an app keeps the function that it was given; the strategy only evaluates each round.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


class Array:
    """An array in NumPy's format, as bytes."""

    stype = "numpy.ndarray"

    def __init__(self, value: np.ndarray) -> None:
        stream = io.BytesIO()
        np.save(stream, value, allow_pickle=False)
        self.data = stream.getvalue()

    def numpy(self) -> np.ndarray:
        return np.load(io.BytesIO(self.data), allow_pickle=False)

    @classmethod
    def inflate(cls, object_content: bytes, children: dict[str, Any] | None = None) -> bytes:
        """Returns the pieces, joined."""
        pieces = list((children or {}).values())
        return b"".join(pieces[index].data for index in json.loads(object_content)["arraychunk_ids"])


class Record(dict):
    """ArrayRecord, MetricRecord and RecordDict."""


@dataclasses.dataclass
class Context:
    run_config: dict[str, Any]
    node_config: dict[str, Any]
    run_id: int = 5
    state: Record = dataclasses.field(default_factory=Record)


@dataclasses.dataclass
class Message:
    content: Record
    reply_to: Any = None
    error: Any = None

    @property
    def metadata(self) -> Any:
        return types.SimpleNamespace(src_node_id=99)

    def has_error(self) -> bool:
        return self.error is not None


class App:
    """ClientApp and ServerApp."""

    function: Callable

    def train(self) -> Callable:
        return self._register

    main = train

    def _register(self, function: Callable) -> Callable:
        self.function = function
        return function


class FedAvg:
    """Strategy without clients."""

    started: list[FedAvg] = []  # noqa: RUF012  # of the class: the code under test makes the objects

    def __init__(self, **options: Any) -> None:
        self.options, self.scores = options, {}

    def start(self, grid: Any, arrays: Record, num_rounds: int, timeout: float, evaluate_fn: Callable) -> None:
        self.started.append(self)
        for number in range(num_rounds + 1):
            self.scores[number] = evaluate_fn(number, arrays)


class Grid:
    """Connections to clients that answer what is given here: a reply, an error of unpacking it, or None."""

    def __init__(self, answers: dict[int, Any]) -> None:
        self.answers = answers

    def get_node_ids(self) -> list[int]:
        return list(self.answers)

    def push_messages(self, messages: list[Any]) -> list[str]:
        return [f"to {message.metadata.dst_node_id}" for message in messages]

    def pull_messages(self, identifiers: list[str]) -> list[Any]:
        answer = self.answers[int(identifiers[0].split()[1])]
        if isinstance(answer, Exception):
            raise answer
        return [] if answer is None else [answer]


MODULES: dict[str, dict[str, Any]] = {
    "flwr": {},
    "flwr.app": {
        "Array": Array,
        "ArrayRecord": Record,
        "ConfigRecord": Record,
        "Context": Context,
        "Message": Message,
        "MetricRecord": Record,
        "RecordDict": Record,
    },
    "flwr.clientapp": {"ClientApp": App},
    "flwr.serverapp": {"Grid": Grid, "ServerApp": App},
    "flwr.serverapp.strategy": {"FedAvg": FedAvg},
    "flwr.supercore": {},
    "flwr.supercore.inflatable": {
        "inflatable_object": types.SimpleNamespace(get_object_body=lambda content, cls: content)
    },
}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the stand-in in Flower's place; modules imported against it are forgotten afterwards."""
    for name, members in MODULES.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("reid_jax.federated.flower", "reid_jax.cli.federation"):
        # First set, then deleted: undoing restores the absence of what is imported in between.
        package, _, leaf = name.rpartition(".")
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setattr(importlib.import_module(package), leaf, None, raising=False)
        del sys.modules[name]
    monkeypatch.setattr(FedAvg, "started", [])
