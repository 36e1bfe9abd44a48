"""ResNets and their variants, with torchvision's names and timm's (the "d" networks, "se").

He et al. 2016, "Deep residual learning for image recognition"; ResNeXts: Xie et al. 2017,
"Aggregated residual transformations"; Wide ResNets: Zagoruyko and Komodakis 2016; ResNet-Ds: He et
al. 2019, "Bag of tricks", figure 2; squeeze-and-excitation: Hu et al. 2018.

In a bottleneck the 3x3 convolution has the stride, as in torchvision ("v1.5"); with `stride_in_1x1`
the first 1x1 has it, as in the paper and Caffe.
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

# Every layer is padded: no map is ever empty.
MIN_SIZE: Mapping[str, int] = {"imagenet": 1, "small": 1}


class Architecture(NamedTuple):
    """How the networks differ.

    Attributes:
      blocks: number of blocks in each of the four stages (He et al. 2016, table 1).
      bottleneck: whether blocks are bottlenecks instead of two 3x3 convolutions.
      groups: number of groups of the 3x3 convolutions in bottlenecks, ResNeXt's cardinality.
      group_channels: channels of each group in the first stage; they double in every stage.
      deep: whether it is a ResNet-D: the stem is three 3x3 convolutions, and an average pool has
        the stride of shortcuts.
      squeeze_excite: whether squeeze-and-excitation ends each block.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    group_channels: int = 64
    deep: bool = False
    squeeze_excite: bool = False


_50, _101, _152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)

ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture(_50, bottleneck=False),
    "resnet50": Architecture(_50),
    "resnet101": Architecture(_101),
    "resnet152": Architecture(_152),
    "resnext50_32x4d": Architecture(_50, groups=32, group_channels=4),
    "resnext101_32x8d": Architecture(_101, groups=32, group_channels=8),
    "wide_resnet50_2": Architecture(_50, group_channels=128),
    "wide_resnet101_2": Architecture(_101, group_channels=128),
    "resnet18d": Architecture((2, 2, 2, 2), bottleneck=False, deep=True),
    "resnet50d": Architecture(_50, deep=True),
    "resnet101d": Architecture(_101, deep=True),
    "seresnet50": Architecture(_50, squeeze_excite=True),
}


class Block(nn.Module):
    """Convolutions and a shortcut (He et al. 2016, figure 5).

    Attributes:
      architecture: of the network.
      stage: 0 to 3.
      stride: of the block.
      width: multiplier of all numbers of channels. Of grouped convolutions it multiplies the number
        of groups, whose channels remain.
      conv: builds convolutions.
      norm: builds batch norms.
      stride_in_1x1: whether the first convolution of bottlenecks has the stride.
    """

    architecture: Architecture
    stage: int
    stride: int
    width: float
    conv: Any
    norm: Any
    stride_in_1x1: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Map (b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), c')."""

        def norm(name: str, x: jax.Array) -> jax.Array:
            y: jax.Array = self.norm(name=name)(x, train=train, mask=mask)
            return y

        scaled = functools.partial(layers.scaled, width=self.width)
        channels = 64 * 2**self.stage * (4 if self.architecture.bottleneck else 1)
        outer = scaled(channels)
        branch = self._bottleneck if self.architecture.bottleneck else self._basic
        y = branch(norm, x, outer)
        if self.architecture.squeeze_excite:
            y = layers.SqueezeExcite(scaled(channels / 16), self.conv, name="se")(y)
        if x.shape != y.shape:
            stride = self.stride
            if self.architecture.deep and stride == 2:
                x, stride = layers.avg_pool(x, ceil_mode=True), 1
            x = self.conv(outer, (1, 1), stride, padding=0, name="downsample_conv")(x)
            x = norm("downsample_bn", x)
        return nn.relu(x + y)

    def _basic(self, norm: Any, x: jax.Array, outer: int) -> jax.Array:
        y = self.conv(outer, (3, 3), self.stride, padding=1, name="conv1")(x)
        y = nn.relu(norm("bn1", y))
        y = self.conv(outer, (3, 3), padding=1, name="conv2")(y)
        return norm("bn2", y)

    def _bottleneck(self, norm: Any, x: jax.Array, outer: int) -> jax.Array:
        inner, groups = self._inner()
        strides = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        y = self.conv(inner, (1, 1), strides[0], padding=0, name="conv1")(x)
        y = nn.relu(norm("bn1", y))
        y = self.conv(
            inner, (3, 3), strides[1], padding=1, feature_group_count=groups, name="conv2"
        )(y)
        y = nn.relu(norm("bn2", y))
        y = self.conv(outer, (1, 1), padding=0, name="conv3")(y)
        return norm("bn3", y)

    def _inner(self) -> tuple[int, int]:
        """Return the number of channels of a bottleneck's 3x3 convolution, and of its groups."""
        of_group = self.architecture.group_channels * 2**self.stage
        if self.architecture.groups == 1:
            return layers.scaled(of_group, self.width), 1
        groups = layers.scaled(self.architecture.groups, self.width)
        return groups * of_group, groups


class ResNet(nn.Module):
    """A residual network; see the package docstring for the fields that all networks share.

    Attributes:
      architecture: a key of `ARCHITECTURES`.
      stem: "imagenet" (7x7, or 3x3 three times, of stride 2, and a max pool) or "small" (3x3 of
        stride 1, once or three times, no pool).
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
        architecture = ARCHITECTURES[self.architecture]
        conv = functools.partial(
            layers.Conv, use_bias=False, dtype=self.dtype, kernel_init=layers.he_normal_fan_out
        )
        norm = functools.partial(layers.BatchNorm, dtype=self.dtype, axis_name=self.axis_name)
        out = {}

        imagenet = self.stem == "imagenet"
        channels = layers.scaled(64, self.width)
        kernel, convolutions = (7 if imagenet else 3), [channels]
        if architecture.deep:
            half = layers.scaled(32, self.width)
            kernel, convolutions = 3, [half, half, channels]
        x = images
        for i, features in enumerate(convolutions, start=1):
            stride = 2 if imagenet and i == 1 else 1
            x = conv(features, (kernel, kernel), stride, padding=kernel // 2, name=f"conv{i}")(x)
            x = nn.relu(norm(name=f"bn{i}")(x, train=train, mask=mask))
        out["stem"] = x
        if imagenet:
            x = layers.max_pool(x, 3, 2, padding=1)

        for stage, blocks in enumerate(architecture.blocks):
            for i in range(blocks):
                x = Block(
                    architecture,
                    stage,
                    2 if stage > 0 and i == 0 else 1,
                    self.width,
                    conv,
                    norm,
                    self.stride_in_1x1,
                    name=f"layer{stage + 1}_{i}",
                )(x, train=train, mask=mask)
            out[f"layer{stage + 1}"] = x

        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = out["features"] = x.mean(axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


def _spec(
    name: str, layers: int, width: int, parameters: int, gmacs: float, **images: Any
) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(ResNet, name),
        feature_width=width,
        layers=layers,
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
        **images,
    )


_CROPPED: Mapping[str, Any] = {"resize": "shortest"}
_BICUBIC = {**_CROPPED, "interpolation": "bicubic"}

SPECS = (
    _spec("resnet18", 18, 512, 11_689_512, 1.688),
    _spec("resnet34", 34, 512, 21_797_672, 3.385, **_CROPPED),
    _spec("resnet50", 50, 2048, 25_557_032, 3.975),
    _spec("resnet101", 101, 2048, 44_549_160, 7.516),
    _spec("resnet152", 152, 2048, 60_192_808, 11.08, **_CROPPED),
    _spec("resnext50_32x4d", 50, 2048, 25_028_904, 4.245, **_CROPPED),
    _spec("resnext101_32x8d", 101, 2048, 88_791_336, 16.32, **_CROPPED),
    _spec("wide_resnet50_2", 50, 2048, 68_883_240, 10.87, **_CROPPED),
    _spec("wide_resnet101_2", 101, 2048, 126_886_696, 21.51, **_CROPPED),
    _spec("resnet18d", 20, 512, 11_708_744, 1.927, **_BICUBIC),
    _spec("resnet50d", 52, 2048, 25_576_264, 4.215, **_BICUBIC),
    _spec("resnet101d", 103, 2048, 44_568_392, 10.18, **_BICUBIC, crop=0.95, input_size=256),
    _spec("seresnet50", 50, 2048, 28_088_024, 3.983, **_BICUBIC, crop=0.95),
)
