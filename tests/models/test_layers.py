"""Layer normalisation and GELU."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxparc.models import layers


def test_layer_norm_of_a_mean_of_a_thousand_deviations():
    x = np.random.default_rng(0).standard_normal((5, 3, 64), np.float32) + np.float32(1000)
    layer = layers.LayerNorm(1e-6)
    variables = {"params": {"scale": jnp.full(64, 1.5), "bias": jnp.full(64, 0.5)}}
    exact = x.astype(np.float64)
    mean, var = exact.mean(-1, keepdims=True), exact.var(-1, keepdims=True)
    expected = (exact - mean) / np.sqrt(var + 1e-6) * 1.5 + 0.5
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=2e-3)
    half = layers.LayerNorm(1e-6, jnp.bfloat16).apply(variables, x)
    assert half.dtype == jnp.bfloat16


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-9, 9, 1001)
    np.testing.assert_allclose(layers.gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
    assert layers.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
