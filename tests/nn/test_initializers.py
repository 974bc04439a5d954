"""Initial values that follow the width of a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.models.backbones import vit
from reid_jax.nn import initializers


@pytest.mark.parametrize(("shape", "inputs", "outputs"), [((128, 384), 128, 384), ((8, 8, 3, 128), 192, 128)])
def test_a_kernel_is_drawn_as_one_matrix(shape, inputs, outputs):
    kernel = np.asarray(initializers.xavier_matrix(jax.random.key(0), shape, jnp.float32))
    bound = np.sqrt(6 / (inputs + outputs))
    assert np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert abs(kernel.mean()) < 0.02 * bound


def test_layers_read_their_initial_values_by_name():
    assert vit.dense(4, "x", jnp.float32, kernels="xavier").kernel_init is initializers.xavier_matrix
    assert vit.dense(4, "x", jnp.float32).kernel_init is vit.normal_002
    with pytest.raises(errors.UserError, match="initial values"):
        vit.kernel_init("ones")
