"""Layer normalisation, attention, squeeze-and-excitation and GELU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxparc import backend
from jaxparc.models import layers


@pytest.mark.parametrize("choices", [backend.CPU, backend.ACCELERATOR], ids=["cpu", "accelerator"])
def test_layer_norm_of_a_mean_of_a_thousand_deviations(choices):
    x = np.random.default_rng(0).standard_normal((5, 3, 96), np.float32) + np.float32(1000)
    layer = layers.LayerNorm(1e-6)
    variables = {"params": {"scale": jnp.full(96, 1.5), "bias": jnp.full(96, 0.5)}}
    exact = x.astype(np.float64)
    mean, var = exact.mean(-1, keepdims=True), exact.var(-1, keepdims=True)
    expected = (exact - mean) / np.sqrt(var + 1e-6) * 1.5 + 0.5
    with backend.using(choices):
        np.testing.assert_allclose(layer.apply(variables, x), expected, atol=2e-3)
        half = layers.LayerNorm(1e-6, jnp.bfloat16).apply(variables, x)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("windows", [(), (4,)], ids=["whole", "windows"])
@pytest.mark.parametrize(
    ("dtype", "spread", "tolerance"), [(jnp.float32, 6, 1e-3), (jnp.bfloat16, 1, 5e-2)]
)
def test_attention(windows, dtype, spread, tolerance):
    rng = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(scale * rng.standard_normal((2, *windows, 3, n, 8)), dtype)
        for n, scale in ((5, spread), (7, spread), (7, 1))
    )
    bias = rng.standard_normal((*windows, 3, 5, 7)).astype(np.float32)
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(8) + bias
    assert spread == 1 or scores.max() > 89  # whose exponential is infinite in float32
    means = scipy.special.softmax(scores, axis=-1) @ v
    expected = np.concatenate([means[..., head, :, :] for head in range(3)], axis=-1)
    found = layers.attend(query, key, value, jnp.asarray(bias))
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=tolerance)


@pytest.mark.parametrize(
    "functions", [(), (nn.silu, nn.sigmoid), (nn.relu, nn.hard_sigmoid)], ids=["paper", "b", "v3"]
)
def test_squeeze_and_excitation(functions):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4, 8), np.float32)
    module = layers.SqueezeExcite(2, layers.Conv, *functions)
    params = {
        name: {
            "kernel": rng.standard_normal((1, 1, c, d), np.float32),
            "bias": rng.standard_normal(d, np.float32),
        }
        for name, c, d in (("fc1", 8, 2), ("fc2", 2, 8))
    }
    activation, gate = functions or (nn.relu, nn.sigmoid)
    fc1, fc2 = params["fc1"], params["fc2"]
    hidden = activation(x.mean((1, 2)) @ fc1["kernel"][0, 0] + fc1["bias"])
    weights = gate(hidden @ fc2["kernel"][0, 0] + fc2["bias"])
    found = module.apply({"params": params}, x)
    np.testing.assert_allclose(found, x * weights[:, None, None], rtol=1e-5, atol=1e-6)


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-9, 9, 1001)
    np.testing.assert_allclose(layers.gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
    assert layers.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
