"""DenseNets (Huang et al. 2017, "Densely connected convolutional networks"), as in torchvision.

These are the paper's DenseNet-BC networks: every layer has a 1x1 convolution before its 3x3, and
transitions halve the number of channels. Batch norm comes before convolutions.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxparc.models import layers
from jaxparc.models.spec import ModelSpec

# With smaller images, the last transition has an empty output.
MIN_SIZE: Mapping[str, int] = {"imagenet": 29, "small": 8}


class Architecture(NamedTuple):
    """How the networks differ.

    Attributes:
      blocks: number of layers in each of the four dense blocks (table 1).
      growth: number of channels that each layer adds.
    """

    blocks: tuple[int, int, int, int]
    growth: int = 32


ARCHITECTURES: Mapping[str, Architecture] = {
    "densenet121": Architecture((6, 12, 24, 16)),
    "densenet161": Architecture((6, 12, 36, 24), growth=48),
    "densenet169": Architecture((6, 12, 32, 32)),
    "densenet201": Architecture((6, 12, 48, 32)),
}


class DenseLayer(nn.Module):
    """Batch norm, relu and convolution, 1x1 and then 3x3 (section 3, "bottleneck layers").

    Attributes:
      growth: number of channels that the layer adds.
      conv: builds convolutions.
      norm_relu: function from a map and the name of a batch norm to the map after it and relu.
    """

    growth: int
    conv: Any
    norm_relu: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, h, w, c) to (b, h, w, c + growth): the input and what the layer adds."""
        y = self.conv(4 * self.growth, (1, 1), name="conv1")(self.norm_relu(x, "bn1"))
        y = self.conv(self.growth, (3, 3), padding=1, name="conv2")(self.norm_relu(y, "bn2"))
        return jnp.concatenate([x, y], axis=-1)


class DenseNet(nn.Module):
    """A densely connected network; see the package docstring for the fields that all share.

    Attributes:
      architecture: a key of `ARCHITECTURES`.
      stem: "imagenet" (7x7, stride 2, and a max pool) or "small" (3x3, stride 1, no pool).
      dropout_rate: for the input of the last linear layer, in training.
    """

    architecture: str
    num_classes: int
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    stem: str = "imagenet"
    axis_name: str | None = None
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (b, c) and activations: "stem", "block1" to "block4", "features"."""
        layers.check_images(images, self.architecture, self.stem, MIN_SIZE)
        architecture = ARCHITECTURES[self.architecture]
        growth = layers.scaled(architecture.growth, self.width)
        conv = functools.partial(
            layers.Conv,
            padding=0,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=layers.he_normal_fan_in,
        )
        out = {}

        def norm_relu(x: jax.Array, name: str) -> jax.Array:
            norm = layers.BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=name)
            return nn.relu(norm(x, train=train, mask=mask))

        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        stem = conv(2 * growth, (kernel, kernel), stride, padding=kernel // 2, name="stem_conv")
        x = out["stem"] = norm_relu(stem(images), "stem_bn")
        if self.stem == "imagenet":
            x = layers.max_pool(x, 3, 2, padding=1)

        for block, n_layers in enumerate(architecture.blocks, start=1):
            if block > 1:
                name = f"transition{block - 1}"
                halved = conv(x.shape[-1] // 2, (1, 1), name=f"{name}_conv")
                x = layers.avg_pool(halved(norm_relu(x, f"{name}_bn")))
            for i in range(n_layers):
                x = DenseLayer(growth, conv, norm_relu, name=f"block{block}_layer{i}")(x)
            out[f"block{block}"] = x
        x = norm_relu(x, "last_bn")

        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        x = out["features"] = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


def _spec(name: str, layers: int, width: int, parameters: int, gmacs: float) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(DenseNet, name),
        feature_width=width,
        layers=layers,
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
        interpolation="bicubic",
        resize="shortest",
    )


SPECS = (
    _spec("densenet121", 121, 1024, 7_978_856, 2.812),
    _spec("densenet161", 161, 2208, 28_681_000, 7.643),
    _spec("densenet169", 169, 1664, 14_149_480, 3.334),
    _spec("densenet201", 201, 1920, 20_013_928, 4.266),
)
