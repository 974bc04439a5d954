"""From a batch to one number: forward passes, then the loss terms that the config lists.

A *pass* runs one network on one view of the batch. The default is a single pass of the trained network on the only
view. A teacher and a student on two views are two passes:

    passes.student = dict(view="corrupted", network="params", train=True, prefix="")
    passes.teacher = dict(view="clean", network="extra/teacher", train=False, prefix="teacher/")

Loss terms then name what they read: outputs ("logits/b", "teacher/feature/b"), the batch ("batch/camid") and extras
("extra/centres").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from reid_jax import errors, losses

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        view: "" for the batch's `image`, a name for `image_<name>`.
        network: "params" (trained) or "extra/<name>" (no gradient reaches it).
        train: whether dropout and batch statistics are in training mode.
        prefix: put before the names of its outputs.
    """

    view: str = ""
    network: str = "params"
    train: bool = True
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.network != "params" and not self.network.startswith("extra/"):
            raise errors.UserError(f"expected a pass's network to be 'params' or 'extra/<name>', got {self.network!r}.")


@dataclasses.dataclass(frozen=True)
class Objective:
    """A pure function of variables and batch; hashable by identity, so one instance is compiled once.

    Attributes:
        apply: `model.apply`.
        preprocess: `(batch, key) -> batch`, from uint8 images to normalised float32 ones.
        passes: by name, in the order they run.
        terms: by name, the weighted losses.
        monitors: by name, terms that are logged and not trained on.
    """

    apply: Callable[..., Any]
    preprocess: Callable[[Batch, jax.Array], Batch]
    passes: Mapping[str, Pass]
    terms: Mapping[str, Mapping[str, Any]]
    monitors: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __call__(
        self, params: Any, batch_stats: Any, extra: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Computes the loss of a batch.

        Returns:
            The total loss [] and `(new batch statistics, metrics by name)`.
        """
        preprocess_key, *pass_keys = jax.random.split(key, 1 + len(self.passes))
        batch = self.preprocess(batch, preprocess_key)
        values = {f"batch/{name}": value for name, value in batch.items()} | _named_extras(extra)
        for each, pass_key in zip(self.passes.values(), pass_keys, strict=True):
            outputs, batch_stats = self._run(each, params, batch_stats, extra, batch, pass_key)
            values |= {f"{each.prefix}{name}": value for name, value in outputs.items()}
        total, metrics = losses.evaluate_terms(self.terms, values)
        _, monitored = losses.evaluate_terms(self.monitors, jax.lax.stop_gradient(values))
        metrics |= {name.replace("loss/", "monitor/", 1): value for name, value in monitored.items()}
        return total, (batch_stats, metrics)

    def _run(
        self, each: Pass, params: Any, batch_stats: Any, extra: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, jax.Array], Any]:
        """One pass; only the trained network in training mode moves the batch statistics."""
        images = f"image_{each.view}" if each.view else "image"
        if images not in batch:
            raise errors.unknown("view", each.view, [name for name in batch if name.startswith("image")])
        batch = {**batch, "image": batch[images]}
        trained = each.network == "params"
        if trained:
            variables = {"params": params, "batch_stats": batch_stats}
        else:
            name = each.network.removeprefix("extra/")
            if name not in extra:
                raise errors.unknown("extra to run as a network", name, extra)
            variables = jax.lax.stop_gradient(extra[name])
        if not each.train:
            outputs = self.apply(variables, batch, train=False)
            return (outputs if trained else jax.lax.stop_gradient(outputs)), batch_stats
        outputs, updated = self.apply(variables, batch, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        if trained:
            return outputs, updated.get("batch_stats", batch_stats)
        return jax.lax.stop_gradient(outputs), batch_stats


def _named_extras(extra: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Extras that are a single array, under the name a loss term uses."""
    return {f"extra/{name}": value for name, value in extra.items() if isinstance(value, jax.Array)}
