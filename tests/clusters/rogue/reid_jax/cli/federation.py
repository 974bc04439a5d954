"""A client that sends what no client should: it stands in the place of `reid_jax.cli.federation` on its node.

The variable ROGUE names what it does in each round, separated by commas.
"""

from __future__ import annotations

import io
import os
import pathlib

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp

client_app = ClientApp()


class Planted:
    """Writes a file where it is unpickled."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(os.environ["ROGUE_PLANT"]),)


def serialized(value, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, **options)
    return stream.getvalue()


def as_array(data: bytes, stype: str = "numpy.ndarray") -> Array:
    return Array("float32", (1,), stype, data)


def first(change):
    """Changes the first array."""

    def act(arrays, metrics):
        path = min(arrays)
        value = change(arrays[path].numpy())
        return {**arrays, path: value if isinstance(value, Array) else Array(np.asarray(value))}, metrics

    return act


ACTS = {
    "NaN": first(lambda x: np.full_like(x, np.nan)),
    "infinite values": first(lambda x: np.full_like(x, np.inf)),
    "values of 3e38": first(lambda x: np.full_like(x, 3e38)),
    "another shape": first(lambda x: np.zeros((3, 5), np.float32)),
    "another type": first(lambda x: x.astype(np.float64)),
    "a missing array": lambda arrays, metrics: ({path: arrays[path] for path in sorted(arrays)[1:]}, metrics),
    "a further array": lambda arrays, metrics: ({**arrays, "../../up": Array(np.zeros(2))}, metrics),
    "a header that claims petabytes": first(
        lambda x: as_array(serialized(x).replace(b"'shape': (", b"'shape': (9999999"))
    ),
    "a pickle that writes a file": first(
        lambda x: as_array(serialized(np.array([Planted()], object), allow_pickle=True))
    ),
    "a cut array": first(lambda x: as_array(serialized(x)[:-2])),
    "an array of 4 MB": first(lambda x: np.zeros(1 << 20, np.float32)),
    "1e15 images": lambda arrays, metrics: (arrays, {**metrics, "num-examples": 1e15}),
    "-5 images": lambda arrays, metrics: (arrays, {**metrics, "num-examples": -5}),
    "a list of numbers of images": lambda arrays, metrics: (arrays, {**metrics, "num-examples": [5.0, 6.0]}),
    "no number of images": lambda arrays, metrics: (arrays, {}),
}


@client_app.train()
def train(message, context):
    """Answers with theta as it came, damaged."""
    acts = os.environ["ROGUE"].split(",")
    act = acts[min(int(message.content["config"]["server-round"]), len(acts)) - 1].strip()
    arrays, metrics = dict(message.content["arrays"]), {"loss": 1.0, "num-examples": 50.0}
    if act == "an error of a megabyte":
        raise RuntimeError("x" * 1_000_000)
    more = {"more": ArrayRecord({"x": Array(np.zeros(3))})} if act == "a further record" else {}
    if act in ACTS:
        arrays, metrics = ACTS[act](arrays, metrics)
    content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics), **more}
    return FlowerMessage(RecordDict(content), reply_to=message)
