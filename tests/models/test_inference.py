import dataclasses
import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import every
from jax import lax

from jaxparc import backend, models
from jaxparc.models import (
    convnext,
    convolutions,
    densenet,
    inference,
    layers,
    mobilenet,
    regnet,
    resnet,
    swin,
    vit,
)

CLASSES = 7


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Two blocks per stage at most: further ones are of the same code, and take long to compile."""
    for file in (convnext, densenet, regnet, resnet, swin):
        monkeypatch.setattr(
            file,
            "ARCHITECTURES",
            {
                name: full._replace(blocks=tuple(min(blocks, 2) for blocks in full.blocks))
                for name, full in file.ARCHITECTURES.items()
            },
        )
    monkeypatch.setattr(
        mobilenet,
        "ARCHITECTURES",
        {
            name: full._replace(
                stages=tuple(stage._replace(blocks=min(stage.blocks, 2)) for stage in full.stages)
            )
            for name, full in mobilenet.ARCHITECTURES.items()
        },
    )


def network(name, **options):
    """A narrow network, and drawn variables of which every part matters."""
    module = models.get(name).module(num_classes=CLASSES, width=0.125, **options)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return module, drawn(jax.eval_shape(module.init, jax.random.key(0), image))


def drawn(shapes):
    rng = np.random.default_rng(0)

    def draw(path, shape):
        if path[-1] == "kernel":
            gain = np.sqrt(2 / np.prod(shape.shape[:-1]))
            return np.asarray(gain * rng.standard_normal(shape.shape), np.float32)
        if path[-1] in ("scale", "var"):
            return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
        return rng.normal(0, 0.1, shape.shape).astype(np.float32)

    return flax.traverse_util.path_aware_map(draw, shapes)


def images(b, size=64):
    return np.random.default_rng(b).standard_normal((b, size, size, 3), np.float32)


def paths(tree):
    return {"/".join(path) for path in flax.traverse_util.flatten_dict(tree)}


@every.model(
    slow=[name for name in every.REPRESENTATIVES if name != "resnet18"],
    # of the blocks of quicker ones
    without=("resnet50", "efficientnet_lite0", "efficientnet_b0", "convnextv2_atto")
    + ("swin_base_patch4_window12_384",),
)
def test_a_prepared_network_is_the_same_function(name, monkeypatch):
    monkeypatch.setattr(inference, "_MIN_CHANNELS", 4)
    module, variables = network(name)
    prepared = inference.prepare(module, variables, winograd=True)
    norms = paths(variables.get("batch_stats", {}))
    folded = {path for path in paths(prepared["folded"]) if path.endswith("/bias")}
    assert folded == {n.replace("/mean", "/bias") for n in norms if "mean" in n}
    kept = {n.replace("/mean", "/scale") for n in norms} & paths(prepared["params"])
    assert not kept
    # MobileNets have no 3x3 convolutions but the stem, of stride 2, depthwise ones, and those of
    # EfficientNetV2's first blocks; those of RegNets are grouped
    files = (mobilenet, regnet, convnext, swin, vit)
    without = any(name in file.ARCHITECTURES for file in files)
    assert bool(prepared["winograd"]) == (name.startswith("efficientnetv2") or not without)
    x = images(2)
    logits, activations = jax.jit(module.apply)(variables, x)
    features, found = jax.jit(functools.partial(inference.apply, module))(prepared, x)
    for ours, expected in ((features, activations["features"]), (found, logits)):
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
        assert ours.dtype == jnp.float32


class Several(nn.Module):
    """Batch norm in every place: after the images, after convolutions, and beside a shortcut."""

    dtype = jnp.float32

    @nn.compact
    def __call__(self, images):
        x = layers.BatchNorm(name="first")(images)
        x = layers.BatchNorm(name="after")(layers.Conv(4, (3, 3), name="conv")(x))
        x = layers.Conv(4, (1, 1), name="used_twice")(nn.relu(x))
        x = x + nn.relu(layers.BatchNorm(name="beside")(x))
        y = layers.Conv(4, (1, 1), name="seen")(x)
        x = layers.BatchNorm(eps=0.1, name="last")(y)
        features = x.mean((1, 2))
        return features, {"features": features, "seen": y}


def test_batch_norm_is_folded_where_nothing_else_takes_the_convolution():
    module = Several()
    x = images(2, 8)
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), x))
    prepared = inference.prepare(module, variables, winograd=False)
    scales = {path for path in paths(prepared["folded"]) if path.endswith("/scale")}
    assert scales == {"first/scale", "beside/scale", "last/scale"}
    expected, _ = module.apply(variables, x)
    found, _ = inference.apply(module, prepared, x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_chunks_are_the_whole_batch(monkeypatch):
    module, variables = network("resnet18", stem="small")
    prepared = inference.prepare(module, variables)

    def applied(x, chunk):
        choices = dataclasses.replace(backend.choices(), chunk=chunk)
        with monkeypatch.context() as patch:
            patch.setattr(backend, "choices", lambda: choices)
            # a new function: compiled programs are cached by function
            return jax.jit(functools.partial(inference.apply, module, prepared))(x)

    for b in (9, 16):
        x = images(b, 16)
        for a, e in zip(applied(x, 8), applied(x, None), strict=True):
            assert a.shape == e.shape
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


@pytest.fixture
def forms(monkeypatch):
    """Calls a function once with the choices of a CPU, and once with those of an accelerator."""
    # for the own gradient of every convolution that can have it
    monkeypatch.setattr(convolutions, "_LARGE_MAP", 1)
    monkeypatch.setattr(convolutions, "_WIDE", 1)

    def call(function):
        results = []
        for choices in (backend.CPU, backend.ACCELERATOR):
            monkeypatch.setattr(backend, "choices", lambda choices=choices: choices)
            results.append(function())
        return results

    return call


# ConvNeXt's own form is tested in test_convolutions.py; Swin has none
@every.model(
    slow=("resnet18", "resnet50", "mobilenet_v2", "vgg11_bn"),
    # GoogLeNet and DenseNet have the convolutions of ResNet-50, and take long to compile;
    # MobileNetV3 and EfficientNets have those of MobileNetV2; those of RegNet are tested by
    # themselves. With these weights, gradients of EfficientNetV2 grow to millions, and depend on
    # the order of sums.
    without=(
        "googlenet",
        "densenet121",
        "mobilenetv3_small_100",
        "efficientnet_lite0",
        "efficientnet_b0",
        "efficientnetv2_s",
        *regnet.ARCHITECTURES,
        *convnext.ARCHITECTURES,
        *swin.ARCHITECTURES,
        *vit.ARCHITECTURES,
    ),
)
def test_the_forms_of_all_backends_have_the_same_features_and_gradients(name, forms):
    module, variables = network(name, stem="small")
    x, weights = images(2, 32), np.random.default_rng(1).standard_normal((2, CLASSES), np.float32)

    def computed():
        def loss(params, x):
            logits, activations = module.apply({**variables, "params": params}, x)
            return (weights * logits).sum(), activations["features"]

        def inferred(variables, x):
            return inference.apply(module, variables, x)

        gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        texts = [str(jax.make_jaxpr(f)(variables["params"], x)) for f in (loss, gradient)]
        (_, features), gradients = jax.jit(gradient)(variables["params"], x)
        prepared = inference.prepare(module, variables)
        return features, gradients, jax.jit(inferred)(prepared, x), prepared, texts

    (*ours, _, texts), (*plain, prepared, plain_texts) = forms(computed)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, atol=1e-3 * np.abs(e).max()), ours, plain
    )
    # XLA's operations alone: one convolution per kernel, and two for its gradients
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if np.ndim(leaf) == 4]
    assert plain_texts[1].count("conv_general_dilated[") == 3 * len(kernels)
    assert "custom_vjp_call" in texts[0]
    assert "custom_vjp_call" not in plain_texts[0]
    assert not prepared["winograd"]


def test_the_whole_batch_at_once_on_an_accelerator(forms):
    module, variables = network("alexnet", stem="small")

    def text():
        prepared = inference.prepare(module, variables)
        apply = functools.partial(inference.apply, module)
        return str(jax.make_jaxpr(apply)(prepared, images(16, 32)))

    chunked, whole = forms(text)
    assert "scan[" in chunked
    assert "scan[" not in whole


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


@pytest.mark.parametrize(
    ("side", "padding"), [(3, 1), (3, "SAME"), (3, ((0, 2), (1, 0))), (5, ((2, 2), (2, 2)))]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_and_its_gradient(side, padding, stride):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 9, 6, 4), np.float32)
    kernel = rng.standard_normal((side, side, 1, 4), np.float32)
    layer = layers.Conv(
        4, (side, side), stride, padding=padding, feature_group_count=4, use_bias=False
    )

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


@pytest.mark.parametrize(("groups", "channels"), [(32, 4), (16, 6), (3, 24), (2, 32)])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolution_and_its_gradient(groups, channels, stride, forms):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 7, 6, groups * channels), np.float32)
    kernel = rng.standard_normal((3, 3, channels, groups * 2), np.float32)
    layer = layers.Conv(
        groups * 2, (3, 3), stride, padding=1, feature_group_count=groups, use_bias=False
    )

    def values_and_gradients():
        def convolve(x, kernel):
            return layer.apply({"params": {"kernel": kernel}}, x)

        y, pull = jax.vjp(convolve, x, kernel)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    with convolutions.at_inference():
        found, expected = forms(lambda: jax.jit(values_and_gradients)())
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, atol=1e-5 * np.abs(e).max()), found, expected
    )
