"""Every formulation of the convolution computes the same values and gradients as the native one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from reid_jax.ops import convolution, platforms


def _native(images, kernel, *, strides=1, padding=((0, 0), (0, 0)), groups=1):
    return lax.conv_general_dilated(
        images,
        kernel,
        (strides, strides),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _arrays(images_shape, kernel_shape, dtype=jnp.float32):
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=images_shape), dtype)
    kernel = jnp.asarray(random.normal(size=kernel_shape) / np.sqrt(np.prod(kernel_shape[:3])), dtype)
    return images, kernel


CASES = {
    "pointwise": ((2, 6, 5, 7), (1, 1, 7, 4), {}),
    "pointwise, odd number of positions": ((3, 5, 3, 7), (1, 1, 7, 4), {}),
    "pointwise, stride 2, even size": ((2, 6, 4, 3), (1, 1, 3, 4), {"strides": 2}),
    "pointwise, stride 2, odd size": ((2, 7, 5, 3), (1, 1, 3, 4), {"strides": 2}),
    "depthwise 3x3": ((3, 6, 5, 4), (3, 3, 1, 4), {"groups": 4, "padding": ((1, 1), (1, 1))}),
    "depthwise 5x3, uneven padding": ((2, 7, 6, 4), (5, 3, 1, 4), {"groups": 4, "padding": ((2, 1), (0, 2))}),
    "dense 3x3, stride 2": ((2, 7, 6, 3), (3, 3, 3, 4), {"strides": 2, "padding": ((1, 1), (1, 1))}),
    "of pictures to 24 maps": ((2, 9, 7, 3), (5, 3, 3, 24), {"strides": 2, "padding": ((2, 2), (1, 1))}),
    "wide 3x3": ((2, 5, 6, 48), (3, 3, 48, 50), {"padding": ((1, 1), (1, 1))}),
    "wide 2x3, uneven padding": ((2, 5, 6, 50), (2, 3, 50, 48), {"padding": ((1, 0), (0, 2))}),
    "grouped 3x3": ((2, 6, 5, 4), (3, 3, 2, 6), {"groups": 2, "padding": ((1, 1), (1, 1))}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("formulation", ["auto", "cpu"])
def test_values_and_gradients_equal_the_native_convolution(case, formulation):
    images_shape, kernel_shape, options = CASES[case]
    images, kernel = _arrays(images_shape, kernel_shape)
    expected, expected_pullback = jax.vjp(lambda a, b: _native(a, b, **options), images, kernel)
    value, pullback = jax.vjp(
        jax.jit(lambda a, b: convolution.convolution(a, b, formulation=formulation, **options)), images, kernel
    )
    np.testing.assert_allclose(value, expected, atol=1e-5)
    slope = jnp.cos(jnp.arange(expected.size, dtype=jnp.float32)).reshape(expected.shape)
    for ours, theirs in zip(pullback(slope), expected_pullback(slope), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("case", ["pointwise, stride 2, odd size", "depthwise 3x3"])
def test_bfloat16_stays_bfloat16_and_near_float32(case):
    images_shape, kernel_shape, options = CASES[case]
    images, kernel = _arrays(images_shape, kernel_shape, jnp.bfloat16)

    def loss(images, kernel):
        return jnp.sum(jnp.square(convolution.convolution(images, kernel, **options).astype(jnp.float32)))

    def reference(images, kernel):
        return jnp.sum(jnp.square(_native(images, kernel, **options)))

    assert convolution.convolution(images, kernel, **options).dtype == jnp.bfloat16
    gradients = jax.grad(loss, (0, 1))(images, kernel)
    exact = jax.grad(reference, (0, 1))(images.astype(jnp.float32), kernel.astype(jnp.float32))
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.03 * float(jnp.abs(theirs).max()))


def test_default_padding_is_symmetric():
    images, kernel = _arrays((1, 8, 4, 3), (7, 7, 3, 2))
    expected = _native(images, kernel, strides=2, padding=((3, 3), (3, 3)))
    np.testing.assert_allclose(convolution.convolution(images, kernel, strides=2), expected, atol=1e-5)
    assert convolution.symmetric_padding((3, 5), dilation=2) == ((2, 2), (4, 4))


def test_tracing_chooses_by_platform():
    images, kernel = _arrays((2, 4, 4, 8), (3, 3, 1, 8))

    def program():
        return jax.jit(lambda a, b: convolution.convolution(a, b, groups=8)).trace(images, kernel)

    assert "convolution" not in program().lower().as_text()
    for platform in ("cuda", "tpu"):
        with platforms.tracing_for(platform):
            traced = program()
        assert "stablehlo.convolution" in traced.lower(lowering_platforms=(platform,)).as_text()
        # Nothing but the convolution and its own derivatives, which an exporter can differentiate again.
        assert "custom_vjp" not in str(traced.jaxpr)


def test_unknown_formulation_is_refused():
    images, kernel = _arrays((1, 2, 2, 1), (1, 1, 1, 1))
    with pytest.raises(ValueError, match="formulation"):
        convolution.convolution(images, kernel, formulation="fast")


@pytest.mark.parametrize("taps", [(3, 3), (5, 3)])
def test_weight_gradient_of_small_and_of_large_images_is_equal_to_the_last_bit(monkeypatch, taps):
    images, gradient = _arrays((2, 8, 6, 4), (2, 8, 6, 4))
    padding = convolution.symmetric_padding(taps)
    compute = functools.partial(convolution._depthwise_kernel_gradient, taps=taps, padding=padding)
    small = jax.jit(lambda *arrays: compute(*arrays))(images, gradient)
    monkeypatch.setattr(convolution, "NEAR", 0)
    large = jax.jit(lambda *arrays: compute(*arrays))(images, gradient)
    np.testing.assert_array_equal(small, large)
