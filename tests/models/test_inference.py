import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import every
from jax import lax

from jaxparc import models
from jaxparc.models import inference, layers, mobilenet

CLASSES = 7


def network(name, **options):
    """A narrow network, and drawn variables of which every part matters."""
    module = models.get(name).module(num_classes=CLASSES, width=0.125, **options)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)

    def draw(path, shape):
        if path[-1] == "kernel":
            gain = np.sqrt(2 / np.prod(shape.shape[:-1]))
            return np.asarray(gain * rng.standard_normal(shape.shape), np.float32)
        if path[-1] in ("scale", "var"):
            return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
        return rng.normal(0, 0.1, shape.shape).astype(np.float32)

    return module, flax.traverse_util.path_aware_map(draw, shapes)


def images(b, size=64):
    return np.random.default_rng(b).standard_normal((b, size, size, 3), np.float32)


def paths(tree):
    return {"/".join(path) for path in flax.traverse_util.flatten_dict(tree)}


@every.model([name for name in models.MODELS if name != "resnet18"])
def test_a_prepared_network_is_the_same_function(name, monkeypatch):
    monkeypatch.setattr(inference, "_MIN_CHANNELS", 4)
    module, variables = network(name)
    prepared = inference.prepare(module, variables, winograd=True)
    norms = paths(variables.get("batch_stats", {}))
    assert paths(prepared["folded"]) == {n.replace("/mean", "/bias") for n in norms if "mean" in n}
    assert not any("scale" in path for path in paths(prepared["params"]))
    # MobileNets have no 3x3 convolutions but the stem, of stride 2, and depthwise ones
    assert bool(prepared["winograd"]) == (name not in mobilenet.ARCHITECTURES)
    x = images(2)
    logits, activations = jax.jit(module.apply)(variables, x)
    features, found = jax.jit(functools.partial(inference.apply, module))(prepared, x)
    for ours, expected in ((features, activations["features"]), (found, logits)):
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
        assert ours.dtype == jnp.float32


@pytest.mark.slow
def test_chunks_are_the_whole_batch(monkeypatch):
    module, variables = network("resnet18", stem="small")
    prepared = inference.prepare(module, variables)
    apply = functools.partial(inference.apply, module, prepared)
    for b in (inference.CHUNK + 1, 2 * inference.CHUNK):
        x = images(b, 16)
        chunked = jax.jit(apply)(x)
        monkeypatch.setattr(inference, "CHUNK", b)
        whole = jax.jit(apply)(x)
        monkeypatch.undo()
        for a, e in zip(chunked, whole, strict=True):
            assert a.shape == e.shape
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_returns_float32():
    module, variables = network("resnet18", stem="small", dtype=jnp.bfloat16)
    prepared = inference.prepare(module, variables)
    assert not prepared["winograd"]
    expected, _ = inference.apply(module.clone(dtype=jnp.float32), prepared, images(2, 16))
    features, logits = inference.apply(module, prepared, images(2, 16))
    assert features.dtype == logits.dtype == jnp.float32
    error = np.abs(np.asarray(features - expected)).max() / np.abs(expected).max()
    assert 1e-4 < error < 5e-2


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (12, 9)])
def test_winograd_is_the_convolution(size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 5), np.float32)
    kernel = rng.standard_normal((3, 3, 5, 6), np.float32)
    found = jax.jit(inference._winograd)(x, jax.jit(inference._winograd_kernel)(kernel))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
    h, w = size
    expected = sum(
        padded[:, i : i + h, j : j + w] @ kernel[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("padding", [1, "SAME", ((0, 2), (1, 0))])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_and_its_gradient(padding, stride):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 9, 6, 4), np.float32)
    kernel = rng.standard_normal((3, 3, 1, 4), np.float32)
    layer = layers.Conv(4, (3, 3), stride, padding=padding, feature_group_count=4, use_bias=False)

    def ours(x, kernel):
        return layer.apply({"params": {"kernel": kernel}}, x)

    def theirs(x, kernel):
        pads = ((padding, padding),) * 2 if padding == 1 else padding
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=numbers, feature_group_count=4
        )

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(convolve, x, kernel):
        y, pull = jax.vjp(convolve, x, kernel)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    found, expected = (values_and_gradients(f, x, kernel) for f in (ours, theirs))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=1e-4), found, expected)
