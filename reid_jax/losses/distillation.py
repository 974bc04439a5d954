"""Distillation of part features from a teacher with given parts to a student that predicts them.

No gradient reaches the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from reid_jax import errors
from reid_jax.ops import distances, parts


def level_weights(values: jax.Array) -> jax.Array:
    """Returns weights [G] of the levels' losses [G], largest for the largest loss, with the sum 1 and no gradient.

    Learned weights would collapse onto the easiest level.
    """
    values = jax.lax.stop_gradient(values)
    return jax.nn.softmax(values / jnp.maximum(jnp.mean(values), 1e-12))


def generative_distillation(
    generated: jax.Array, teacher: jax.Array, *, granularities: Sequence[str] = ("part",)
) -> jax.Array:
    """Returns the mean squared error between features generated from masked student parts and the teacher's parts.

    Args:
        generated: [B, G, D], the groups of all granularities concatenated.
        teacher: [B, 8, D] part features.
        granularities: keys of `ops.parts.GRANULARITIES`; several are weighted, see `level_weights`.

    Returns:
        float32 scalar.

    References:
        AMFOR, figure 5; Yang et al., "Masked generative distillation", ECCV 2022, equation 5.
    """
    teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))
    targets = [parts.grouped(teacher, granularity) for granularity in granularities]
    if generated.shape[1] != sum(target.shape[1] for target in targets):
        raise errors.UserError(
            f"expected the generated features of the granularities {tuple(granularities)}, got {generated.shape[1]} "
            "slots; give the loss term and the model (amgd_granularities) the same."
        )
    losses, start = [], 0
    for target in targets:
        student = generated[:, start : start + target.shape[1]].astype(jnp.float32)
        losses.append(jnp.mean(jnp.square(student - target)))
        start += target.shape[1]
    values = jnp.stack(losses)
    return jnp.sum(level_weights(values) * values)


def cosine_distillation(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Returns one minus the cosine between the concatenated parts of student and teacher, averaged over the batch.

    Args:
        student: [B, P, D].
        teacher: [B, P, D].

    Returns:
        float32 scalar in [0, 2].
    """
    flat = [distances.normalize_rows(x.reshape(len(x), -1)) for x in (student, jax.lax.stop_gradient(teacher))]
    return jnp.mean(1.0 - jnp.sum(flat[0] * flat[1], axis=-1))
