"""Micro-batches: a step's update in less memory, for a batch that is larger than what the devices hold at once.

The losses of re-identification couple the images of a batch, so a mean of the gradients of smaller batches would be
another method. Here the losses are those of the whole batch:

1. the network runs on one micro-batch after another, and only the outputs that the losses read are kept;
2. the losses of the whole batch are computed from these outputs, and their gradients with respect to them;
3. the network runs on each micro-batch again and passes its share of those gradients on to the parameters.

The update equals that of the whole batch to rounding, for one more forward pass. Two things differ. Dropout draws other
numbers. And batch normalization, which no order of events can compute over images that are not there, takes the
statistics of the images of one micro-batch on one device, as `train.batch_statistics="device"` does on as many devices
as there are such parts; running statistics are then means over the parts. A micro-batch takes the same share of each
device's images, so that nothing is sent between devices and the parts are those of a run on more devices.

References:
    Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from reid_jax import errors, losses
from reid_jax.train import objective as objective_lib
from reid_jax.train import state as state_lib

AUTO = "auto"


def count(setting: int | str, images: int, devices: int, device_batch: int) -> int:
    """Returns the number of micro-batches.

    Args:
        setting: `train.accumulate`; "auto" is the least number with which no device holds more than `device_batch`
            images at once.
        images: images of a batch, a multiple of `devices`.
        devices: devices of all processes.
        device_batch: images.

    Raises:
        UserError: the batch cannot be divided into so many equal parts.
    """
    if setting == AUTO:
        local = images // devices
        return next(number for number in range(1, local + 1) if local % number == 0 and local // number <= device_batch)
    if images % (int(setting) * devices):
        raise errors.UserError(
            f"expected a batch divisible into {setting} micro-batches on {devices} device{'s' * (devices > 1)}, got "
            f"{images} images; change train.accumulate or data.sampler."
        )
    return int(setting)


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a batch is divided into micro-batches.

    Attributes:
        count: number of micro-batches.
        mesh: devices that the batch is split over; None for one device.
    """

    count: int
    mesh: Mesh | None = None

    def divide(self, x: jax.Array) -> jax.Array:
        """Returns [B, ...] as [count, B / count, ...]; each micro-batch has an equal share of every device's images."""
        devices = 1 if self.mesh is None else self.mesh.size
        count(self.count, x.shape[0], devices, 0)
        size = x.shape[0] // (devices * self.count)
        parts = jnp.swapaxes(x.reshape(devices, self.count, size, *x.shape[1:]), 0, 1)
        return self._placed(parts.reshape(self.count, devices * size, *x.shape[1:]), 1)

    def join(self, x: jax.Array) -> jax.Array:
        """Returns [count, b, ...] as [count * b, ...], in the order of the batch that was divided."""
        devices = 1 if self.mesh is None else self.mesh.size
        parts = jnp.swapaxes(x.reshape(self.count, devices, -1, *x.shape[2:]), 0, 1)
        return self._placed(parts.reshape(-1, *x.shape[2:]), 0)

    def _placed(self, x: jax.Array, axis: int) -> jax.Array:
        """Returns the array split over the devices on an axis."""
        if self.mesh is None or self.mesh.size == 1:
            return x
        spec = PartitionSpec(*(None,) * axis, self.mesh.axis_names[0])
        placed: jax.Array = jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))
        return placed


def gradients(
    objective: objective_lib.Objective,
    state: state_lib.TrainState,
    learned: Sequence[str],
    batch: objective_lib.Batch,
    key: jax.Array,
    parts: Parts,
) -> Any:
    """Returns loss and gradients of a batch, in the form of `jax.value_and_grad(objective, has_aux=True)`.

    Args:
        objective: the objective.
        state: state before the step.
        learned: names of the extras that are trained by gradients.
        batch: images (uint8) and labels, by name.
        key: random key of the step.
        parts: the micro-batches.

    Raises:
        UserError: the batch cannot be divided, or an output that a loss reads is not one row per image.
    """
    batch, keys = objective.prepare(batch, key)
    micro_batches = (jnp.arange(parts.count), jax.tree.map(parts.divide, dict(batch)))
    trained = (state.params, {name: state.extra[name] for name in learned})
    read = losses.read_arrays(objective.terms) | losses.read_arrays(objective.monitors)

    def forward(trained: Any, micro_batch: tuple[jax.Array, objective_lib.Batch]) -> Any:
        """Returns the outputs that losses read and that have gradients, the others, and the batch statistics."""
        index, images = micro_batch
        variables = {**state.variables, "params": trained[0]}
        own_keys = {name: jax.random.fold_in(pass_key, index) for name, pass_key in keys.items()}
        outputs, batch_stats = objective.outputs(variables, {**state.extra, **trained[1]}, images, own_keys)
        outputs = {name: value for name, value in outputs.items() if name in read}
        smooth = {name: value for name, value in outputs.items() if jnp.issubdtype(value.dtype, jnp.inexact)}
        return smooth, {name: value for name, value in outputs.items() if name not in smooth}, batch_stats

    whole = jax.eval_shape(lambda trained, batch: forward(trained, (jnp.int32(0), batch))[:2], trained, dict(batch))
    _, (smooth, other, batch_stats) = jax.lax.scan(lambda _, part: (None, forward(trained, part)), None, micro_batches)
    batch_stats = jax.tree.map(lambda x: x.mean(axis=0), batch_stats)
    shapes = {**whole[0], **whole[1]}
    images = jax.tree.leaves(micro_batches[1])[0].shape[1]
    joined = {name: _joined(name, value, shapes[name], images, parts) for name, value in {**smooth, **other}.items()}

    def loss(smooth: Mapping[str, jax.Array], learned_extra: Mapping[str, Any]) -> Any:
        return objective.loss({**joined, **smooth}, {**state.extra, **learned_extra}, batch)

    (total, metrics), (outer, direct) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        {name: joined[name] for name in smooth}, trained[1]
    )
    outer = {name: _divided(value, smooth[name], parts) for name, value in outer.items()}

    def add(sums: Any, scanned: Any) -> tuple[Any, None]:
        part, cotangents = scanned
        _, back = jax.vjp(lambda trained: forward(trained, part)[0], trained)
        return jax.tree.map(jnp.add, sums, back(cotangents)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, trained)
    (param_grads, extra_grads), _ = jax.lax.scan(add, zeros, (micro_batches, outer))
    return (total, (batch_stats, metrics)), (param_grads, jax.tree.map(jnp.add, extra_grads, direct))


def _joined(name: str, stacked: jax.Array, whole: jax.ShapeDtypeStruct, images: int, parts: Parts) -> jax.Array:
    """Returns an output of all micro-batches [count, ...] as that of the whole batch.

    One that has the same shape for any number of images depends on parameters alone, or is a mean over the images.
    """
    own = stacked.shape[1:]
    if own == whole.shape:
        return stacked.mean(axis=0).astype(stacked.dtype)
    if whole.shape == (images * parts.count, *own[1:]):
        return parts.join(stacked)
    raise errors.UserError(
        f"expected outputs with a row per image for train.accumulate={parts.count}, {name!r} has the shape "
        f"{whole.shape} for the whole batch and {own} for a part of it; set train.accumulate=1."
    )


def _divided(cotangent: jax.Array, stacked: jax.Array, parts: Parts) -> jax.Array:
    """Returns the gradient with respect to a joined output as those with respect to its parts [count, ...]."""
    if cotangent.shape == stacked.shape[1:]:
        return jnp.broadcast_to(cotangent / parts.count, stacked.shape)
    return parts.divide(cotangent)
