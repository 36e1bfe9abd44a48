"""GoogLeNet (Szegedy et al. 2015, "Going deeper with convolutions").

The variant is torchvision's: batch norm (eps 1e-3) after every convolution, max pools in ceil
mode, and 3x3 convolutions in the branch that the paper gives 5x5. The auxiliary
classifiers, which have no effect at inference, are left out.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxparc.models import layers
from jaxparc.models.spec import ModelSpec

# With smaller images, a max pool of stride 2 has an empty output.
MIN_SIZE: Mapping[str, int] = {"imagenet": 15, "small": 2}

# Channels of the four branches (table 1): 1x1; 1x1, 3x3; 1x1, "5x5"; the 1x1 after the pool.
INCEPTIONS: Mapping[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class ConvNorm(nn.Module):
    """Convolution, batch norm, relu."""

    features: int  # at width 1
    kernel: int
    stride: int = 1
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Map (b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), c')."""
        x = layers.Conv(
            layers.scaled(self.features, self.width),
            (self.kernel, self.kernel),
            self.stride,
            padding=self.kernel // 2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=layers.he_normal_fan_in,
            name="conv",
        )(x)
        norm = layers.BatchNorm(eps=1e-3, dtype=self.dtype, axis_name=self.axis_name, name="bn")
        return nn.relu(norm(x, train=train, mask=mask))


class Inception(nn.Module):
    """Four branches side by side (figure 2b)."""

    features: tuple[int, int, int, int, int, int]
    conv: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Map (b, h, w, c) to (b, h, w, c'), the concatenated channels of the branches."""

        def conv(x: jax.Array, features: int, kernel: int, name: str) -> jax.Array:
            return self.conv(features, kernel, name=name)(x, train=train, mask=mask)

        one, three_in, three, five_in, five, pooled = self.features
        return jnp.concatenate(
            [
                conv(x, one, 1, "branch1"),
                conv(conv(x, three_in, 1, "branch2_0"), three, 3, "branch2_1"),
                conv(conv(x, five_in, 1, "branch3_0"), five, 3, "branch3_1"),
                conv(layers.max_pool(x, 3, 1, padding=1), pooled, 1, "branch4_1"),
            ],
            axis=-1,
        )


class GoogLeNet(nn.Module):
    """GoogLeNet; see the package docstring for the fields that all networks share.

    Attributes:
      stem: "imagenet" (7x7, stride 2, and two max pools) or "small" (3x3, stride 1, no pools).
      dropout_rate: for the input of the last linear layer, in training.
    """

    num_classes: int
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    stem: str = "imagenet"
    axis_name: str | None = None
    dropout_rate: float = 0.2

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (b, c) and activations.

        These are "conv1" to "conv3", "inception3a" to "inception5b" and "features".
        """
        layers.check_images(images, "googlenet", self.stem, MIN_SIZE)
        conv = functools.partial(
            ConvNorm, width=self.width, dtype=self.dtype, axis_name=self.axis_name
        )
        pool = functools.partial(layers.max_pool, stride=2, ceil_mode=True)
        imagenet = self.stem == "imagenet"
        out = {}

        kernel, stride = (7, 2) if imagenet else (3, 1)
        x = out["conv1"] = conv(64, kernel, stride, name="conv1")(images, train=train, mask=mask)
        x = pool(x, 3) if imagenet else x
        x = out["conv2"] = conv(64, 1, name="conv2")(x, train=train, mask=mask)
        x = out["conv3"] = conv(192, 3, name="conv3")(x, train=train, mask=mask)
        x = pool(x, 3) if imagenet else x

        for letters, features in INCEPTIONS.items():
            if letters == "4a":
                x = pool(x, 3)
            elif letters == "5a":
                x = pool(x, 2)
            name = f"inception{letters}"
            x = out[name] = Inception(features, conv, name=name)(x, train=train, mask=mask)

        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        x = out["features"] = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


SPECS = (
    ModelSpec(
        name="googlenet",
        module=GoogLeNet,
        feature_width=1024,
        layers=22,
        parameters=6_624_904,
        gmacs=1.454,
        min_size=MIN_SIZE,
    ),
)
