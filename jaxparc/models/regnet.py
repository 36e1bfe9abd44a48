"""RegNetYs, with timm's names; those whose names end in "_tv" are torchvision's alone.

Radosavovic et al. 2020, "Designing network design spaces": four stages of bottlenecks whose 3x3
convolutions are grouped, with squeeze-and-excitation after them (section 5, "Y"). The channels of
all blocks follow from a line with four parameters (equations 2 to 4).
"""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxparc.models import layers
from jaxparc.models.spec import ModelSpec

# Every layer is padded: no map is ever empty.
MIN_SIZE: Mapping[str, int] = {"imagenet": 1, "small": 1}


class Architecture(NamedTuple):
    """How the networks differ.

    Attributes:
      blocks: number of blocks in each stage.
      channels: of all maps of each stage.
      group_channels: channels of each group of the 3x3 convolutions.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    group_channels: int


def _architecture(
    depth: int,
    initial: int,
    slope: float,
    ratio: float,
    group_channels: int,
    *,
    torchvision: bool = False,
) -> Architecture:
    """Return an architecture by the parameters of its line.

    Args:
      depth: number of blocks, d.
      initial: channels at the beginning of the line, w_0.
      slope: by which it rises per block, w_a.
      ratio: of the channels of successive stages before they are rounded, w_m.
      group_channels: of which the channels are multiples, g.
      torchvision: whether they are not rounded to less than 0.9 times.
    """
    exponents = (
        round(math.log((initial + slope * j) / initial) / math.log(ratio)) for j in range(depth)
    )
    stages = [
        (8 * round(initial * ratio**exponent / 8), len([*blocks]))
        for exponent, blocks in itertools.groupby(exponents)
    ]
    channels = [group_channels * max(1, round(c / group_channels)) for c, _ in stages]
    if torchvision:
        channels = [layers.divisible(c, group_channels) for c, _ in stages]
    return Architecture(tuple(n for _, n in stages), tuple(channels), group_channels)


# Radosavovic et al., table of RegNetYs in appendix D, as in their code.
ARCHITECTURES: Mapping[str, Architecture] = {
    "regnety_002": _architecture(13, 24, 36.44, 2.49, 8),
    "regnety_004": _architecture(16, 48, 27.89, 2.09, 8),
    "regnety_006": _architecture(15, 48, 32.54, 2.32, 16),
    "regnety_008": _architecture(14, 56, 38.84, 2.4, 16),
    "regnety_008_tv": _architecture(14, 56, 38.84, 2.4, 16, torchvision=True),
    "regnety_016": _architecture(27, 48, 20.71, 2.65, 24),
    "regnety_032": _architecture(21, 80, 42.63, 2.66, 24),
    "regnety_040": _architecture(22, 96, 31.41, 2.24, 64),
    "regnety_064": _architecture(25, 112, 33.22, 2.27, 72),
    "regnety_080": _architecture(17, 192, 76.82, 2.19, 56),
    "regnety_080_tv": _architecture(17, 192, 76.82, 2.19, 56, torchvision=True),
    "regnety_120": _architecture(19, 168, 73.36, 2.37, 112),
    "regnety_160": _architecture(18, 200, 106.23, 2.48, 112),
    "regnety_320": _architecture(20, 232, 115.89, 2.53, 232),
}


class Block(nn.Module):
    """A bottleneck of one width, with squeeze-and-excitation in it, and a shortcut.

    Attributes:
      channels: of the output, after the width multiplier.
      groups: number of groups of the 3x3 convolution, after the width multiplier.
      group_channels: channels of each group.
      stride: of the 3x3 convolution.
      conv: builds convolutions.
      norm: builds batch norms.
    """

    channels: int
    groups: int
    group_channels: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Map (b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), channels)."""

        def norm(name: str, x: jax.Array) -> jax.Array:
            y: jax.Array = self.norm(name=name)(x, train=train, mask=mask)
            return y

        inner, groups = self.groups * self.group_channels, self.groups
        y = self.conv(inner, (1, 1), padding=0, name="conv1")(x)
        y = nn.relu(norm("bn1", y))
        y = self.conv(
            inner, (3, 3), self.stride, padding=1, feature_group_count=groups, name="conv2"
        )(y)
        y = nn.relu(norm("bn2", y))
        # a quarter of the channels of the block's input
        y = layers.SqueezeExcite(layers.scaled(x.shape[-1], 0.25), self.conv, name="se")(y)
        y = self.conv(self.channels, (1, 1), padding=0, name="conv3")(y)
        y = norm("bn3", y)
        if x.shape != y.shape:
            x = self.conv(self.channels, (1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = norm("downsample_bn", x)
        return nn.relu(x + y)


class RegNet(nn.Module):
    """A RegNetY; see the package docstring for the fields that all networks share.

    Attributes:
      architecture: a key of `ARCHITECTURES`.
      width: multiplier of all numbers of channels. Of 3x3 convolutions it multiplies the number of
        groups, whose channels remain.
      stem: "imagenet" (3x3, stride 2) or "small" (3x3, stride 1).
    """

    architecture: str
    num_classes: int
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    stem: str = "imagenet"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (b, c) and activations: "stem", "stage1" to "stage4", "features"."""
        layers.check_images(images, self.architecture, self.stem, MIN_SIZE)
        architecture = ARCHITECTURES[self.architecture]
        conv = functools.partial(
            layers.Conv, use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal_fan_out
        )
        norm = functools.partial(layers.BatchNorm, dtype=self.dtype, axis_name=self.axis_name)
        scaled = functools.partial(layers.scaled, width=self.width)
        out = {}

        stride = 2 if self.stem == "imagenet" else 1
        x = conv(scaled(32), (3, 3), stride, padding=1, name="stem_conv")(images)
        x = out["stem"] = nn.relu(norm(name="stem_bn")(x, train=train, mask=mask))
        rows = zip(architecture.blocks, architecture.channels, strict=True)
        for stage, (blocks, channels) in enumerate(rows, start=1):
            for i in range(blocks):
                x = Block(
                    scaled(channels),
                    scaled(channels // architecture.group_channels),
                    architecture.group_channels,
                    2 if i == 0 else 1,
                    conv,
                    norm,
                    name=f"stage{stage}_block{i}",
                )(x, train=train, mask=mask)
            out[f"stage{stage}"] = x

        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = out["features"] = x.mean(axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


def _spec(
    name: str, crop: float, layers: int, width: int, parameters: int, gmacs: float
) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(RegNet, name),
        feature_width=width,
        layers=layers,
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
        interpolation="bicubic",
        crop=crop,
        resize="shortest",
    )


SPECS = (
    _spec("regnety_002", 0.875, 41, 368, 3_162_996, 0.2019),
    _spec("regnety_004", 0.965, 50, 440, 4_344_144, 0.4067),
    _spec("regnety_006", 0.875, 47, 608, 6_055_160, 0.6022),
    _spec("regnety_008", 0.875, 44, 768, 6_263_168, 0.7992),
    _spec("regnety_008_tv", 0.965, 44, 784, 6_432_512, 0.8361),
    _spec("regnety_016", 0.965, 83, 888, 11_202_430, 1.6),
    _spec("regnety_032", 0.95, 65, 1512, 19_436_338, 3.164),
    _spec("regnety_040", 0.95, 68, 1088, 20_646_656, 3.901),
    _spec("regnety_064", 0.95, 77, 1296, 30_583_252, 6.236),
    _spec("regnety_080", 0.95, 53, 2016, 39_180_068, 7.883),
    _spec("regnety_080_tv", 0.965, 53, 2016, 39_381_472, 8.394),
    _spec("regnety_120", 0.95, 59, 2240, 51_822_544, 11.86),
    _spec("regnety_160", 0.95, 56, 3024, 83_590_140, 15.63),
    _spec("regnety_320", 0.965, 62, 3712, 145_046_770, 31.41),
)
