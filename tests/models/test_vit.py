import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxparc import models
from jaxparc.models.vit import ACTIVATIONS, ARCHITECTURES

CLASSES = 7
TINY = functools.partial(
    models.get("vit_tiny_patch16_224").module, num_classes=CLASSES, width=1 / 3
)


def shapes_of(module, height, width, **options):
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    return variables, jax.eval_shape(functools.partial(module.apply, **options), variables, images)


def test_width_multiplies_the_heads():
    for width, heads in [(0.0625, 1), (0.5, 2)]:
        module = models.get("vit_tiny_patch16_224").module(num_classes=CLASSES, width=width)
        variables, (_, activations) = shapes_of(module, 32, 32)
        assert activations["features"].shape == (2, 64 * heads)
        assert variables["params"]["block0"]["qkv"]["kernel"].shape == (64 * heads, 3 * 64 * heads)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("vit_tiny_patch16_224", 1),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("vit_base_patch16_siglip_224", 0),
    ],
)
def test_tokens_of_images_of_any_size(name, extra):
    """What does not fill a patch is ignored; parameters do not depend on the size."""
    spec = models.get(name)
    module = spec.module(num_classes=CLASSES)
    expected, _ = shapes_of(module, spec.input_size, spec.input_size)
    variables, (_, activations) = shapes_of(module, 50, 100)
    assert variables == expected
    patch = ARCHITECTURES[name].patch
    tokens = extra + (50 // patch) * (100 // patch)
    for key in ("stem", "block0", "block11"):
        assert activations[key].shape == (2, tokens, spec.feature_width)


def test_the_small_stem_has_patches_of_four_pixels():
    variables, (_, activations) = shapes_of(TINY(stem="small"), 32, 32)
    assert variables["params"]["patch_embed"]["kernel"].shape == (4, 4, 3, 64)
    assert variables["params"]["pos_embed"].shape == (1, 65, 64)
    assert activations["stem"].shape == (2, 65, 64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "relu"}, "unknown activation 'relu'; known: gelu, gelu_tanh, quick_gelu"),
        ({"positions": "jax"}, "unknown positions 'jax'; known: timm, huggingface, dinov2"),
        ({"pooling": "max"}, "unknown pooling 'max'; known: avg"),
    ],
)
def test_unknown_fields(fields, message):
    with pytest.raises(ValueError, match=f"vit_tiny_patch16_224: {message}"):
        shapes_of(TINY(**fields), 32, 32)


def test_activations_are_the_published_formulas():
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    quick = x / (1 + np.exp(-1.702 * x))
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(ACTIVATIONS["quick_gelu"](jnp.asarray(x)), quick, atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS["gelu_tanh"](jnp.asarray(x)), tanh, atol=1e-6)
    # Phi(1)
    np.testing.assert_allclose(ACTIVATIONS["gelu"](jnp.ones(())), 0.8413447, atol=1e-6)


def test_dropout_is_off_by_default():
    options = {"train": True}
    shapes_of(TINY(), 32, 32, **options)
    with pytest.raises(flax.errors.InvalidRngError):
        shapes_of(TINY(dropout_rate=0.5), 32, 32, **options)
