"""What the tests of OSFA and MSPF share: images, random variables, quick compilation."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import models

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(4, 64, 32, 3)).astype(np.float32)

# Compiling is what these cost: the optimizer of machine code stays off.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def randomized(variables: Any) -> Any:
    """The same tree with random values, statistics and gains near 1 so that activations stay moderate."""
    random = np.random.default_rng(3)

    def fill(path: Any, leaf: Any) -> jax.Array:
        name = path[-1].key
        if name in ("var", "scale"):
            return jnp.asarray(random.uniform(0.6, 1.4, leaf.shape), jnp.float32)
        if name == "kernel":
            fan = math.prod(leaf.shape[:-1])
            return jnp.asarray(random.normal(size=leaf.shape) / math.sqrt(fan), jnp.float32)
        return jnp.asarray(0.1 * random.normal(size=leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, variables)


def initial(module: Any, *arguments: Any, **options: Any) -> Any:
    keys = {"params": jax.random.key(0)}
    return randomized(jax.eval_shape(functools.partial(module.init, **options), keys, *arguments))


@functools.cache
def shapes(image: tuple[int, int] = (256, 128), **options: Any) -> tuple[dict, dict]:
    """Shapes of outputs and variables of the whole model with one block per stage, without computing anything."""
    model = models.build("mspf", **{"num_classes": 751, "depths": (1, 1, 1), **options})
    images = {"image": jax.ShapeDtypeStruct((2, *image, 3), jnp.float32)}
    return jax.eval_shape(functools.partial(model.init_with_output, train=False), jax.random.key(0), images)
