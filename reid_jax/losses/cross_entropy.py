"""Identity classification: softmax cross-entropy with label smoothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, *, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the mean cross-entropy of the logits against `(1 - eps) * onehot + eps / N`.

    The smoothing covers all N classes, the correct class included (Szegedy et al. 2016; the strong ReID baseline).
    A class whose logit is minus infinity is excluded from the softmax and from the smoothing. A label outside 0..N-1
    gives NaN, so a run with a wrong number of classes stops instead of learning from part of the data.

    Args:
        logits: [B, N], or [B, S, N] where S heads (body parts) share the label of the image.
        labels: [B] int32 classes in 0..N-1.
        label_smoothing: eps in [0, 1].

    Returns:
        float32 scalar, mean over images (and heads); computed in float32 for inputs of any type.

    References:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision (CVPR 2016), section 7.
    """
    num_classes = logits.shape[-1]
    present = logits > -jnp.inf
    log_probabilities = jnp.where(present, jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1), 0.0)
    labels = jnp.broadcast_to(labels.reshape(labels.shape + (1,) * (logits.ndim - 2)), logits.shape[:-1])
    # A product with the one-hot code instead of a gather: it is sharded over devices without communication.
    right = jnp.sum(log_probabilities * jax.nn.one_hot(labels, num_classes), axis=-1)
    mean = jnp.sum(log_probabilities, axis=-1) / jnp.sum(present, axis=-1)
    loss = -(1.0 - label_smoothing) * right - label_smoothing * mean
    known = (labels >= 0) & (labels < num_classes)
    return jnp.mean(jnp.where(known, loss, jnp.nan))
