"""The model that a gallery belongs to: vectors of another one cannot be compared with it, and are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from reid_jax import errors
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib


@dataclasses.dataclass(frozen=True)
class Binding:
    """What the vectors of a gallery were made by.

    Attributes:
        model: fields of the model; empty where a features file does not name it.
        weights: SHA-256 of the weights, or how they were made ("seed 0"); empty where unknown.
        preprocessing: size, interpolation, normalization, averaging with the mirror image.
        metric: "euclidean", "cosine" or the path of a function.
        shape: shape of an image's features, (D,) or (S, D).
        visibility: whether slots come with their visibility.
    """

    model: Mapping[str, Any]
    weights: str
    preprocessing: Mapping[str, Any]
    metric: str
    shape: tuple[int, ...]
    visibility: bool

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any], shape: tuple[int, ...], visibility: bool) -> Binding:
        """Returns the binding of features with the meta data of a features file."""
        model = meta.get("model")
        model = dict(model) if isinstance(model, Mapping) else {"name": str(model)} if model else {}
        preprocessing = meta.get("preprocessing")
        preprocessing = dict(preprocessing) if isinstance(preprocessing, Mapping) else {}
        preprocessing.pop("erase_fill", None)  # used in training only
        if "flip" in meta:
            preprocessing["flip"] = bool(meta["flip"])
        return cls(
            _plain(model),
            _weights(meta.get("weights")),
            _plain(preprocessing),
            str(meta.get("metric") or "euclidean"),
            tuple(int(size) for size in shape),
            bool(visibility),
        )

    @classmethod
    def of_extractor(cls, extractor: extractor_lib.Extractor, variables: Any, metric: str | None = None) -> Binding:
        """Returns the binding of what an extractor describes."""
        meta = features_lib.model_meta(extractor, variables)
        empty = extractor.images(variables, [])
        meta = {**meta, "metric": metric or meta["metric"]}
        return cls.of_meta(meta, empty.features.shape[1:], empty.visibility is not None)

    @property
    def name(self) -> str:
        """Name of the model for people."""
        return str(self.model.get("name") or "an unnamed model")

    def as_json(self) -> str:
        """Returns the binding as JSON text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Binding:
        """Returns the binding of `as_json`."""
        values = json.loads(text)
        return cls(**{**values, "shape": tuple(values["shape"])})

    def refuse_other(self, other: Binding, what: str) -> None:
        """Raises a `UserError` unless another binding is the same.

        Args:
            other: the binding of what is compared with or added to the gallery.
            what: the thing it belongs to, with its article ("the query").
        """
        for field, noun in _NOUNS.items():
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                raise errors.UserError(
                    f"the gallery was made with {noun} {_shown(ours, theirs)}, {what} with {_shown(theirs, ours)}: "
                    "their features cannot be compared; use the gallery's model, or build another gallery."
                )


_NOUNS = {
    "model": "the model",
    "weights": "the weights",
    "shape": "features of shape",
    "visibility": "visibility",
    "preprocessing": "the preprocessing",
    "metric": "the metric",
}


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mapping as JSON gives it back: lists for tuples, text for keys."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(value), sort_keys=True, default=str))
    return plain


def _weights(origin: Any) -> str:
    """Returns the identity of weights from the meta data: their hash, else all that is said of them."""
    if isinstance(origin, Mapping):
        if origin.get("sha256"):
            return str(origin["sha256"])
        known = {key: value for key, value in origin.items() if key not in ("file", "run")}
        if known.get("random"):
            return f"random, seed {known.get('seed')}"
        return json.dumps(known, sort_keys=True, default=str) if known else ""
    return str(origin or "")


def _shown(value: Any, other: Any) -> str:
    """Returns a value for a message; of mappings only what differs from the other."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        keys = sorted(key for key in {*value, *other} if value.get(key) != other.get(key))
        if "name" in keys:
            keys = ["name"]
        return ", ".join(f"{key} {value.get(key)}" for key in keys[:3])[:120] or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return (text[:16] + "..." if len(text) > 60 else text) or "unknown"
