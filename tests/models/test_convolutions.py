"""Convolutions whose gradients are our own, against sums in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxparc import backend
from jaxparc.models import convolutions

# kernel, padding, stride, height, width, c, d. On a CPU, SHIFTED take the kernel's gradient as one
# product of shifted maps, and SMALL are one product, as their result is smaller than their window;
# OTHERS are a 1x1 and those just short of one condition.
SHIFTED = [
    (5, 2, 1, 24, 24, 8, 3),
    (3, 1, 1, 24, 31, 14, 5),
    (7, 3, 1, 26, 24, 6, 1),
]
SMALL = [
    (3, 1, 1, 1, 1, 5, 4),
    (3, 1, 1, 2, 7, 6, 3),
    (3, 1, 2, 9, 4, 4, 5),
    (2, 0, 2, 2, 3, 4, 6),
    (3, 0, 1, 4, 3, 2, 5),
]
OTHERS = [
    (1, 0, 2, 9, 6, 7, 5),
    (3, 1, 1, 3, 3, 5, 4),
    (5, 2, 1, 4, 4, 3, 7),
    (5, 2, 1, 23, 24, 8, 3),
    (5, 2, 1, 24, 24, 7, 3),
    (5, 2, 2, 24, 24, 8, 3),
    (5, 1, 1, 24, 24, 8, 3),
]


def _reference(x, kernel, cotangent, stride, padding):
    """Result, and both gradients, tap by tap in float64."""
    size = kernel.shape[0]
    x, kernel, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    y, to_kernel, to_padded = (np.zeros(a.shape) for a in (cotangent, kernel, padded))
    h, w = cotangent.shape[1:3]
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + stride * (h - 1) + 1, stride)
            columns = slice(j, j + stride * (w - 1) + 1, stride)
            y += padded[:, rows, columns] @ kernel[i, j]
            to_kernel[i, j] = np.einsum("bhwc,bhwd->cd", padded[:, rows, columns], cotangent)
            to_padded[:, rows, columns] += cotangent @ kernel[i, j].T
    inside = slice(padding, -padding or None)
    return y, to_padded[:, inside, inside], to_kernel


@pytest.mark.parametrize("shape", SHIFTED + SMALL + OTHERS)
def test_results_and_gradients_of_convolutions(shape):
    size, padding, stride, height, width, c, d = shape
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, height, width, c)), jnp.float32)
    layer = convolutions.Conv(d, (size, size), stride, padding=padding, use_bias=False)
    kernel = jnp.asarray(rng.normal(size=(size, size, c, d)), jnp.float32)
    y, pull = jax.vjp(lambda k, x: layer.apply({"params": {"kernel": k}}, x), kernel, x)
    cotangent = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    to_kernel, to_x = pull(cotangent)
    expected = _reference(x, kernel, cotangent, stride, padding)
    for found, wanted in zip((y, to_x, to_kernel), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("shape", SHIFTED + OTHERS)
def test_which_convolutions_have_the_shifted_gradient(shape):
    size, padding, stride, height, width, c, d = shape
    x, kernel = jnp.zeros((1, height, width, c)), jnp.zeros((size, size, c, d))
    slow = convolutions._has_slow_gradient(x, kernel, (stride, stride), [(padding, padding)] * 2)
    assert slow == (shape in SHIFTED)


# window, stride, height, width, c, d, groups
LAYERS = [
    ((3, 3), 1, 2, 7, 6, 3, 1),
    ((2, 3), 1, 2, 3, 4, 5, 1),
    ((3, 3), 2, 2, 3, 4, 5, 1),  # by "VALID", without a row
    ((5, 5), 1, 3, 6, 2, 4, 1),
    ((3, 3), 2, 8, 8, 6, 6, 1),
    ((1, 1), 2, 9, 6, 7, 5, 1),
    ((1, 1), 1, 4, 4, 6, 4, 2),
    ((3, 3), 1, 2, 2, 6, 4, 2),
    ((3, 3), 2, 2, 5, 4, 4, 4),
]


PADDINGS = [{"padding": "SAME"}, {"padding": "VALID"}, {"padding": 0}]
DILATIONS = [
    {"padding": "SAME", "kernel_dilation": 2},
    {"padding": 2, "kernel_dilation": 2},
    {"padding": 1, "input_dilation": 2},
]


@pytest.mark.parametrize("options", PADDINGS + DILATIONS)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_are_those_of_flax(layer, options):
    window, stride, height, width, c, d, groups = layer
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(2, height, width, c)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*window, c // groups, d)), jnp.float32)
    found, wanted = (
        kind(
            d,
            window,
            stride,
            feature_group_count=groups,
            use_bias=False,
            **options,
        ).apply({"params": {"kernel": kernel}}, x)
        for kind in (convolutions.Conv, nn.Conv)
    )
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHIFTED + SMALL + OTHERS)
def test_which_convolutions_are_one_product(shape):
    size, padding, stride, height, width, c, d = shape
    layer = convolutions.Conv(d, (size, size), stride, padding=padding, use_bias=False)
    params = {"params": {"kernel": jnp.zeros((size, size, c, d))}}
    with backend.using(backend.CPU):
        program = jax.make_jaxpr(layer.apply)(params, jnp.zeros((1, height, width, c)))
    products = "dot_general" in str(program)
    assert products == (shape in SMALL or size == 1) == ("conv_general" not in str(program))


@pytest.mark.parametrize(("window", "side"), [(5, 24), (3, 2)])
def test_gradients_of_several_kernels_at_once(window, side):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, side, side, 8)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(3, window, window, 8, 4)), jnp.float32)
    layer = convolutions.Conv(4, (window, window), padding=window // 2, use_bias=False)

    def squares(kernel):
        return jnp.square(layer.apply({"params": {"kernel": kernel}}, x)).sum()

    together = jax.vmap(jax.grad(squares))(kernels)
    apart = [jax.grad(squares)(kernel) for kernel in kernels]
    np.testing.assert_allclose(together, jnp.stack(apart), rtol=1e-4, atol=1e-2)  # of 6,000


@pytest.mark.parametrize("shape", [(5, 24, 8), (1, 9, 7), (3, 2, 7)])
def test_gradients_in_bfloat16_are_those_of_lax_and_keep_their_type(shape):
    size, side, c = shape
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(2, side, side, c)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(size, size, c, 4)), jnp.float32)
    layer = convolutions.Conv(
        4, (size, size), padding=size // 2, use_bias=False, dtype=jnp.bfloat16
    )

    def ours(kernel):
        return layer.apply({"params": {"kernel": kernel}}, x).astype(jnp.float32).sum()

    def plain(kernel):
        pads = [(size // 2, size // 2)] * 2
        dims = ("NHWC", "HWIO", "NHWC")
        wide = x.astype(jnp.float32)
        return lax.conv_general_dilated(wide, kernel, (1, 1), pads, dimension_numbers=dims).sum()

    found, wanted = jax.grad(ours)(kernel), jax.grad(plain)(kernel)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=2e-2 * np.abs(wanted).max())


# size of the window, height, width, channels, dtype, relative error
DEPTHWISE = [(7, 9, 6, 5, jnp.float32, 1e-5), (9, 3, 4, 2, jnp.float32, 1e-5)]
DEPTHWISE += [(7, 8, 8, 4, jnp.bfloat16, 2e-2)]


@pytest.mark.parametrize("shape", DEPTHWISE)
def test_results_and_gradients_of_wide_depthwise_convolutions(shape):
    size, height, width, c, dtype, error = shape
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(3, height, width, c)), dtype)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, c)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=x.shape), dtype)
    layer = convolutions.Conv(
        c, (size, size), padding=size // 2, feature_group_count=c, use_bias=False, dtype=dtype
    )
    y, pull = jax.vjp(lambda k, x: layer.apply({"params": {"kernel": k}}, x), kernel, x)
    # one channel at a time, as a full convolution
    one = [
        _reference(x[..., [i]], kernel[..., [i]], cotangent[..., [i]], 1, size // 2)
        for i in range(c)
    ]
    expected = [np.concatenate(parts, axis=-1) for parts in zip(*one, strict=True)]
    for found, wanted in zip((y, *pull(cotangent)[::-1]), expected, strict=True):
        atol = error * np.abs(wanted).max()
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=atol)


def test_which_depthwise_convolutions_have_their_own_gradient():
    def text(size, stride=1, padding=None):
        padding = size // 2 if padding is None else padding
        options = {"padding": padding, "feature_group_count": 2, "use_bias": False}
        layer = convolutions.Conv(2, (size, size), stride, **options)
        x, kernel = jnp.zeros((1, 9, 9, 2)), jnp.zeros((size, size, 1, 2))
        return str(jax.make_jaxpr(lambda x: layer.apply({"params": {"kernel": kernel}}, x))(x))

    assert "custom_vjp_call" in text(7)
    others = (text(5), text(7, stride=2), text(7, padding=2), text(8))
    assert not any("custom_vjp_call" in other for other in others)
