"""ResNet-18, -50 and -101 (He et al. 2016, "Deep residual learning for image recognition").

In a bottleneck the 3x3 convolution has the stride, as in torchvision ("v1.5"); with `stride_in_1x1`
the first 1x1 has it, as in the paper and Caffe.
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

# Every layer is padded: no map is ever empty.
MIN_SIZE: Mapping[str, int] = {"imagenet": 1, "small": 1}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    features: int  # channels at width 1
    width: float
    stride: int
    conv: Any
    norm: Any

    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Map (b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), c')."""
        norm = functools.partial(_normalise, self.norm, train=train, mask=mask)
        channels = layers.scaled(self.features, self.width)
        y = self.conv(channels, (3, 3), self.stride, padding=1, name="conv1")(x)
        y = nn.relu(norm("bn1", y))
        y = self.conv(channels, (3, 3), padding=1, name="conv2")(y)
        y = norm("bn2", y)
        if x.shape != y.shape:
            x = self.conv(channels, (1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = norm("downsample_bn", x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right)."""

    features: int  # channels of the 3x3 convolution at width 1
    width: float
    stride: int
    conv: Any
    norm: Any
    stride_in_1x1: bool = False

    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Map (b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), c')."""
        norm = functools.partial(_normalise, self.norm, train=train, mask=mask)
        inner = layers.scaled(self.features, self.width)
        outer = layers.scaled(self.features * self.expansion, self.width)
        strides = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        y = self.conv(inner, (1, 1), strides[0], padding=0, name="conv1")(x)
        y = nn.relu(norm("bn1", y))
        y = self.conv(inner, (3, 3), strides[1], padding=1, name="conv2")(y)
        y = nn.relu(norm("bn2", y))
        y = self.conv(outer, (1, 1), padding=0, name="conv3")(y)
        y = norm("bn3", y)
        if x.shape != y.shape:
            x = self.conv(outer, (1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = norm("downsample_bn", x)
        return nn.relu(x + y)


def _normalise(
    norm: Any, name: str, x: jax.Array, *, train: bool, mask: jax.Array | None
) -> jax.Array:
    return norm(name=name)(x, train=train, mask=mask)


# Blocks per stage (table 1).
STAGES: Mapping[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """A residual network; see the package docstring for the fields that all networks share.

    Attributes:
      architecture: a key of `STAGES`.
      stem: "imagenet" (7x7, stride 2, and a max pool) or "small" (3x3, stride 1, no pool).
      stride_in_1x1: whether the first convolution of bottlenecks has the stride.
    """

    architecture: str
    num_classes: int
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    stem: str = "imagenet"
    axis_name: str | None = None
    stride_in_1x1: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (b, c) and activations: "stem", "layer1" to "layer4", "features"."""
        layers.check_images(images, self.architecture, self.stem, MIN_SIZE)
        kind, stage_sizes = STAGES[self.architecture]
        block: Any = kind
        if kind is Bottleneck:
            block = functools.partial(Bottleneck, stride_in_1x1=self.stride_in_1x1)
        conv = functools.partial(
            layers.Conv, use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal_fan_out
        )
        norm = functools.partial(layers.BatchNorm, dtype=self.dtype, axis_name=self.axis_name)
        out = {}

        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        channels = layers.scaled(64, self.width)
        x = conv(channels, (kernel, kernel), stride, padding=kernel // 2, name="conv1")(images)
        x = out["stem"] = nn.relu(norm(name="bn1")(x, train=train, mask=mask))
        if self.stem == "imagenet":
            x = layers.max_pool(x, 3, 2, padding=1)

        for stage, n_blocks in enumerate(stage_sizes, start=1):
            for i in range(n_blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                features = 64 * 2 ** (stage - 1)
                name = f"layer{stage}_{i}"
                x = block(features, self.width, stride, conv, norm, name=name)(
                    x, train=train, mask=mask
                )
            out[f"layer{stage}"] = x

        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = out["features"] = x.mean(axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


def _spec(name: str, layers: int, width: int, parameters: int, gmacs: float) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(ResNet, name),
        feature_width=width,
        layers=layers,
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
    )


SPECS = (
    _spec("resnet18", 18, 512, 11_689_512, 1.688),
    _spec("resnet50", 50, 2048, 25_557_032, 3.975),
    _spec("resnet101", 101, 2048, 44_549_160, 7.516),
)
