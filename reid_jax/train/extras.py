"""Extras: arrays that a method updates in the train step in addition to its model, such as teachers and class centers.

A config names them: `config.extras.teacher = dict(kind="moving_average", decay=0.999)`. Losses read them as
`extra/<name>`, passes run them as networks (`network="extra/teacher"`).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp

from reid_jax import errors, trees
from reid_jax.plugins import names

Load = Callable[[Mapping[str, Any], str], Mapping[str, Any]]


class Extra(Protocol):
    """One entry of `TrainState.extra`.

    Attributes:
        differentiable: whether the step computes the gradient of the loss with respect to the value.
        restart: whether a phase that lists it initializes it again even if an earlier phase left a value.
    """

    differentiable: bool
    restart: bool

    def init(self, key: jax.Array, variables: Mapping[str, Any]) -> Any:
        """Returns the value at the beginning of a phase."""

    def update(self, value: Any, gradient: Any, variables: Mapping[str, Any]) -> Any:
        """Returns the value after a step that ends with the model variables `variables`."""


def copied(tree: Any) -> dict[str, Any]:
    """Returns a copy of a dictionary of arrays: the state is donated to the step, so no two entries share a buffer.

    Unlike `jnp.copy`, it compiles no program for each shape, except where other processes hold a part of the arrays.
    """
    copies: dict[str, Any]
    if jax.process_count() > 1:
        copies = jax.tree.map(jnp.copy, dict(tree))
    else:
        copies = jax.device_put(dict(tree), may_alias=False)
    return copies


@dataclasses.dataclass(frozen=True)
class MovingAverage:
    """Exponential moving average of parameters and batch statistics (mean teacher; weights for evaluation)."""

    decay: float = 0.999
    restart: bool = False
    differentiable = False

    def init(self, key: jax.Array, variables: Mapping[str, Any]) -> Any:
        """Returns a copy of the variables."""
        return copied(variables)

    def update(self, value: Any, gradient: Any, variables: Mapping[str, Any]) -> Any:
        """Returns the average after a step."""
        return jax.tree.map(lambda old, new: old + (1.0 - self.decay) * (new - old), value, dict(variables))


@dataclasses.dataclass(frozen=True)
class FrozenCopy:
    """Copy of the variables at the beginning of the phase, or those of a weights file: a fixed teacher.

    Attributes:
        weights: weights file that replaces the trained variables; "" for none.
        restart: see `Extra`.
        load: `(variables, path) -> variables`, reads such a file; passed by the trainer.
    """

    weights: str = ""
    restart: bool = False
    load: Load | None = None
    differentiable = False

    def init(self, key: jax.Array, variables: Mapping[str, Any]) -> Any:
        """Returns a copy of the variables, or those of the weights file."""
        if not self.weights:
            return copied(variables)
        if self.load is None:
            raise errors.UserError(
                f"expected a reader of weights files for {self.weights}, got none; leave the extra's weights empty."
            )
        return copied(self.load(variables, self.weights))

    def update(self, value: Any, gradient: Any, variables: Mapping[str, Any]) -> Any:
        """Returns the value unchanged."""
        return value


@dataclasses.dataclass(frozen=True)
class Centers:
    """One learned vector per class, updated by plain SGD on the loss that reads it.

    Attributes:
        num_classes: C.
        dimension: D, or the path of one of the model's parameters ("neck_g/bias") whose last axis is as long.
        learning_rate: learning rate of the centers' SGD, independent of the model's optimizer.
        scale: factor on the gradient; 1 / (weight of the loss term) cancels that weight, as in the usual recipe.
        trainable: False keeps the centers at their random initial values.

    References:
        Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016.
    """

    num_classes: int
    dimension: int | str
    learning_rate: float = 0.5
    scale: float = 1.0
    trainable: bool = True
    restart: bool = False

    @property
    def differentiable(self) -> bool:
        """Whether the centers are trained."""
        return self.trainable

    def init(self, key: jax.Array, variables: Mapping[str, Any]) -> jax.Array:
        """Returns standard normal centers, float32 [C, D]."""
        dimension = self.dimension
        if isinstance(dimension, str):
            dimension = _parameter(variables["params"], dimension).shape[-1]
        return jax.random.normal(key, (self.num_classes, dimension))

    def update(self, value: jax.Array, gradient: jax.Array | None, variables: Mapping[str, Any]) -> jax.Array:
        """Returns the centers after a step of SGD."""
        return value if gradient is None else value - self.learning_rate * self.scale * gradient


@dataclasses.dataclass(frozen=True)
class ImageFeatures:
    """Features of all training images by a network that the phase does not train, computed once at its beginning.

    The extra is an array [N, D] in the order of the training split. A pass that `reads` "extra/<name>" finds the
    features of its images at `batch["index"]`.

    Attributes:
        num_images: training images N.
        dimension: D, or the path of one of the model's parameters whose last axis is as long.
        output: output of the model that is kept.
        mode: mode of the model, see `reid_jax.train.objective.Pass`.
    """

    num_images: int
    dimension: int | str
    output: str = "feature/g"
    mode: str = ""
    restart: bool = True
    differentiable = False

    def init(self, key: jax.Array, variables: Mapping[str, Any]) -> jax.Array:
        """Returns zeros, which the trainer fills when the phase begins."""
        dimension = self.dimension
        if isinstance(dimension, str):
            dimension = _parameter(variables["params"], dimension).shape[-1]
        return jnp.zeros((self.num_images, dimension), jnp.float32)

    def update(self, value: jax.Array, gradient: Any, variables: Mapping[str, Any]) -> jax.Array:
        """Returns the value unchanged."""
        return value


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

EXTRAS: dict[str, type] = {
    "moving_average": MovingAverage,
    "frozen_copy": FrozenCopy,
    "centers": Centers,
    "image_features": ImageFeatures,
}


def _parameter(params: Mapping[str, Any], path: str) -> jax.Array:
    leaves = trees.flatten(params)
    if path not in leaves:
        raise errors.unknown("parameter as long as the vectors (dimension)", path, leaves)
    leaf: jax.Array = leaves[path]
    return leaf


def build(
    config: Mapping[str, Mapping[str, Any]], *, num_classes: int, num_images: int = 0, load: Load | None = None
) -> dict[str, Extra]:
    """Returns the extras that a config lists.

    Args:
        config: by name, `kind` (a key of `EXTRAS`, or `package.module:Name` of a class of the form `Extra`) and the
            options of its constructor.
        num_classes: training identities; passed to kinds with the option `num_classes`.
        num_images: training images; passed to kinds with the option `num_images`.
        load: reads weights files; passed to kinds with an argument `load`.

    Raises:
        UserError: an unknown kind, or an unknown or missing option.
    """
    given = {"num_classes": num_classes, "num_images": num_images, "load": load}
    return {name: _build(name, dict(options), given) for name, options in config.items()}


def _build(name: str, options: dict[str, Any], given: Mapping[str, Any]) -> Extra:
    kind = options.pop("kind", "")
    constructor = names.find(f"kind of extra {name!r}", kind, EXTRAS)
    parameters = inspect.signature(constructor).parameters
    for option in options:
        if option not in parameters or option == "load":
            raise errors.unknown(f"option of extra {name!r}", option, [key for key in parameters if key != "load"])
    options = {key: value for key, value in given.items() if key in parameters} | options
    required = [key for key, one in parameters.items() if one.default is one.empty and one.kind not in _VARIADIC]
    missing = [key for key in required if key not in options]
    if missing:
        raise errors.UserError(f"expected the option {missing[0]!r} of extra {name!r} ({kind}); add it to the config.")
    return cast(Extra, constructor(**options))
