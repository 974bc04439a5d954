"""The training objective: forward passes over a batch, then the weighted loss terms that the config lists.

A *pass* runs a network on a view of the batch. The default is a single pass of the trained network on the only
view. A teacher and a student on two views are two passes:

    passes.teacher = dict(view="clean", network="extra/teacher", train=False, prefix="teacher/")
    passes.student = dict(view="corrupted", network="params", after=("teacher",), reads=("teacher/feature/b",))

Here the student runs after the teacher and finds the teacher's feature in its batch, under that name. Loss terms name
what they read: outputs ("logits/b", "teacher/feature/b"), the batch ("batch/camid") and extras ("extra/centers").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from reid_jax import errors, losses

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        view: "" for the batch's `image`, a name for `image_<name>`. Several views form one batch of the network and
            share its batch statistics; outputs of a named view then have its name as prefix, "<view>/logits/b".
        network: "params" (trained) or "extra/<name>" (no gradient reaches it).
        train: whether dropout and batch statistics are in training mode.
        prefix: prefix of the names of its outputs.
        after: names of the passes that run before this one.
        reads: outputs of earlier passes that the model finds in its batch.
        mode: passed to the model as its argument `mode` unless empty, for models that run in more ways than one.
    """

    view: str | tuple[str, ...] = ""
    network: str = "params"
    train: bool = True
    prefix: str = ""
    after: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    mode: str = ""

    def __post_init__(self) -> None:
        if self.network != "params" and not self.network.startswith("extra/"):
            raise errors.UserError(f"expected a pass's network to be 'params' or 'extra/<name>', got {self.network!r}.")


@dataclasses.dataclass(frozen=True)
class Objective:
    """A pure function of variables and batch; hashable by identity, so one instance is compiled once.

    Attributes:
        apply: `model.apply`.
        preprocess: `(batch, key) -> batch`, from uint8 images to normalized float32 ones.
        passes: by name, in the order they run.
        terms: by name, the weighted losses.
        monitors: by name, terms that are logged but not minimized.
        join: `(batches) -> batch`, of the views that pass as one.
        separate: `(batch, n) -> batches`, undoes it.
    """

    apply: Callable[..., Any]
    preprocess: Callable[[Batch, jax.Array | None], Batch]
    passes: Mapping[str, Pass]
    terms: Mapping[str, Mapping[str, Any]]
    monitors: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    join: Callable[[Sequence[jax.Array]], jax.Array] = jnp.concatenate
    separate: Callable[[jax.Array, int], Sequence[jax.Array]] = jnp.split

    def __call__(
        self, variables: Mapping[str, Any], extra: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns the loss of a batch.

        Args:
            variables: variables of the trained network, by collection.
            extra: arrays of the method in addition to the model, by name.
            batch: images (uint8) and labels, by name.
            key: random key of this step.

        Returns:
            The total loss [] and `(new batch statistics, metrics by name)`.
        """
        batch, keys = self.prepare(batch, key)
        outputs, batch_stats = self.outputs(variables, extra, batch, keys)
        total, metrics = self.loss(outputs, extra, batch)
        return total, (batch_stats, metrics)

    def prepare(self, batch: Batch, key: jax.Array) -> tuple[Batch, dict[str, jax.Array]]:
        """Returns the normalized batch and the random key of each pass, from the key of a step."""
        preprocess_key, *pass_keys = jax.random.split(key, 1 + len(self.passes))
        return self.preprocess(batch, preprocess_key), dict(zip(self.passes, pass_keys, strict=True))

    def outputs(
        self, variables: Mapping[str, Any], extra: Mapping[str, Any], batch: Batch, keys: Mapping[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], Any]:
        """Returns the outputs of all passes over a batch of `prepare` by name, and the batch statistics after them."""
        outputs: dict[str, jax.Array] = {}
        for name, each in in_order(self.passes):
            values = _given(extra, batch) | outputs
            seen = {**batch, **{output: _read(name, output, values) for output in each.reads}}
            found, batch_stats = self._run(each, variables, extra, seen, keys[name])
            variables = {**variables, "batch_stats": batch_stats}
            outputs |= {f"{each.prefix}{name}": value for name, value in found.items()}
        return outputs, variables.get("batch_stats", {})

    def loss(
        self, outputs: Mapping[str, jax.Array], extra: Mapping[str, Any], batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the total loss [] and the metrics by name, from the outputs of all passes."""
        values = {**_given(extra, batch), **outputs}
        total, metrics = losses.evaluate_terms(self.terms, values)
        _, monitored = losses.evaluate_terms(self.monitors, jax.lax.stop_gradient(values))
        metrics |= {name.replace("loss/", "monitor/", 1): value for name, value in monitored.items()}
        return total, metrics

    def _run(
        self, each: Pass, variables: Mapping[str, Any], extra: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, jax.Array], Any]:
        """Runs a pass over its views; only the trained network in training mode updates the batch statistics."""
        views = (each.view,) if isinstance(each.view, str) else tuple(each.view)
        images = [_images(view, batch) for view in views]
        if len(views) == 1:
            batch = {**batch, "image": images[0]}
        else:
            batch = {name: self.join([value] * len(views)) for name, value in batch.items()}
            batch["image"] = self.join(images)
        outputs, batch_stats = self._apply(each, variables, extra, batch, key)
        if len(views) == 1:
            return outputs, batch_stats
        parts = {name: self.separate(value, len(views)) for name, value in outputs.items()}
        named = enumerate(f"{view}/" if view else "" for view in views)
        return {f"{place}{name}": part[index] for index, place in named for name, part in parts.items()}, batch_stats

    def _apply(
        self, each: Pass, variables: Mapping[str, Any], extra: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, jax.Array], Any]:
        """Returns the outputs of a pass's network, and the batch statistics after it."""
        trained = each.network == "params"
        batch_stats = variables.get("batch_stats", {})
        if not trained:
            name = each.network.removeprefix("extra/")
            if name not in extra:
                raise errors.unknown("extra to run as a network", name, extra)
            variables = jax.lax.stop_gradient(extra[name])
        options: dict[str, Any] = {"rngs": {"dropout": key}, **({"mode": each.mode} if each.mode else {})}
        if not each.train:
            outputs = self.apply(variables, batch, train=False, **options)
            return (outputs if trained else jax.lax.stop_gradient(outputs)), batch_stats
        outputs, updated = self.apply(variables, batch, train=True, mutable=["batch_stats"], **options)
        if trained:
            return outputs, updated.get("batch_stats", batch_stats)
        return jax.lax.stop_gradient(outputs), batch_stats


def in_order(passes: Mapping[str, Pass]) -> list[tuple[str, Pass]]:
    """Returns the passes by name, each after those it runs `after`; otherwise in the order given.

    Raises:
        UserError: an unknown name in `after`, or passes that wait for each other.
    """
    for name, each in passes.items():
        for earlier in each.after:
            if earlier not in passes:
                raise _in_pass(name, errors.unknown("pass to run after", earlier, passes))
    waiting, ordered = dict(passes), []
    while waiting:
        ready = next((name for name, each in waiting.items() if not waiting.keys() & set(each.after)), None)
        if ready is None:
            raise errors.UserError(
                f"expected passes that can run one after another, but {', '.join(waiting)} wait for each other; take a "
                "name out of `after`."
            )
        ordered.append((ready, waiting.pop(ready)))
    return ordered


def _read(reader: str, output: str, values: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the output of an earlier pass."""
    if output not in values:
        raise _in_pass(reader, errors.unknown("output of an earlier pass (see `after`)", output, values))
    return values[output]


def _in_pass(name: str, error: errors.UserError) -> errors.UserError:
    """Returns the same error with the name of the pass."""
    return errors.UserError(f"pass {name!r}: {error}")


def _images(view: str, batch: Batch) -> jax.Array:
    """Returns the images of a view."""
    name = f"image_{view}" if view else "image"
    if name not in batch:
        raise errors.unknown("view", view, [key for key in batch if key.startswith("image")])
    return batch[name]


def _given(extra: Mapping[str, Any], batch: Batch) -> dict[str, jax.Array]:
    """Returns the arrays of the batch and the extras that are a single array, under the names for loss terms."""
    arrays = {f"extra/{name}": value for name, value in extra.items() if isinstance(value, jax.Array)}
    return {f"batch/{name}": value for name, value in batch.items()} | arrays
