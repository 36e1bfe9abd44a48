"""MobileNetV2 (Sandler et al. 2018) and EfficientNet-Lite0 to -2 (Tan and Le 2019, their variant).

Both are chains of inverted residuals with relu6. The variants are torchvision's `mobilenet_v2`, and
the published EfficientNet-Lites: no squeeze-and-excitation, TensorFlow's padding ("SAME", which
pads the bottom and right first), batch norm with eps 1e-3, and a first and last stage that are not
scaled. EfficientNet's stochastic depth in training is left out.
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


class Stage(NamedTuple):
    """A row of the papers' tables: equal blocks, of which only the first has the stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int = 3


class Architecture(NamedTuple):
    """How the networks differ.

    Attributes:
      stages: in order, between the first convolution (32 channels) and the last (1,280).
      eps: of batch norm.
      same_padding: whether padding is TensorFlow's "SAME" instead of symmetric.
    """

    stages: tuple[Stage, ...]
    eps: float
    same_padding: bool


def _efficientnet_lite(channels: tuple[int, ...], blocks: tuple[int, ...]) -> Architecture:
    """Return the architecture with channels and blocks after scaling (Tan and Le, table 1)."""
    strides, kernels = (1, 2, 2, 2, 1, 2, 1), (3, 3, 5, 3, 5, 5, 3)
    rows = zip((1, 6, 6, 6, 6, 6, 6), channels, blocks, strides, kernels, strict=True)
    return Architecture(tuple(Stage(*row) for row in rows), eps=1e-3, same_padding=True)


ARCHITECTURES: Mapping[str, Architecture] = {
    "mobilenet_v2": Architecture(
        (
            Stage(1, 16, 1, 1),
            Stage(6, 24, 2, 2),
            Stage(6, 32, 3, 2),
            Stage(6, 64, 4, 2),
            Stage(6, 96, 3, 1),
            Stage(6, 160, 3, 2),
            Stage(6, 320, 1, 1),
        ),
        eps=1e-5,
        same_padding=False,
    ),
    "efficientnet_lite0": _efficientnet_lite(
        (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)
    ),
    "efficientnet_lite1": _efficientnet_lite(
        (16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)
    ),
    "efficientnet_lite2": _efficientnet_lite(
        (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)
    ),
}


class InvertedResidual(nn.Module):
    """Expansion (1x1), depthwise convolution, and projection (1x1; Sandler et al., figure 3b)."""

    channels: int
    expansion: int
    stride: int
    kernel: int
    conv_norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), channels)."""
        y = x
        inner = x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = nn.relu6(self.conv_norm(y, inner, 1, 1, "expand"))
        y = self.conv_norm(y, inner, self.kernel, self.stride, "depthwise", groups=inner)
        y = self.conv_norm(nn.relu6(y), self.channels, 1, 1, "project")
        return x + y if x.shape == y.shape else y


class MobileNet(nn.Module):
    """A chain of inverted residuals; see the package docstring for the fields that all share.

    Attributes:
      architecture: a key of `ARCHITECTURES`.
      stem: "imagenet" (3x3, stride 2) or "small" (3x3, stride 1).
      dropout_rate: for the input of the last linear layer, in training.
      eps: of batch norm; the architecture's if None.
      same_padding: whether padding is TensorFlow's "SAME"; the architecture's if None.
    """

    architecture: str
    num_classes: int
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    stem: str = "imagenet"
    axis_name: str | None = None
    dropout_rate: float = 0.2
    eps: float | None = None
    same_padding: bool | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (b, c) and activations.

        These are "stem", "stage1" to "stage7", "last" and "features".
        """
        layers.check_images(images, self.architecture, self.stem, MIN_SIZE)
        stages, eps, same_padding = ARCHITECTURES[self.architecture]
        eps = eps if self.eps is None else self.eps
        same_padding = same_padding if self.same_padding is None else self.same_padding
        out = {}

        def conv_norm(
            x: jax.Array, channels: int, kernel: int, stride: int, name: str, groups: int = 1
        ) -> jax.Array:
            x = layers.Conv(
                channels,
                (kernel, kernel),
                stride,
                padding="SAME" if same_padding and kernel > 1 else kernel // 2,
                feature_group_count=groups,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=layers.he_normal_fan_out,
                name=f"{name}_conv",
            )(x)
            norm = layers.BatchNorm(
                eps=eps, dtype=self.dtype, axis_name=self.axis_name, name=f"{name}_bn"
            )
            return norm(x, train=train, mask=mask)

        scaled = functools.partial(layers.scaled, width=self.width)
        stride = 2 if self.stem == "imagenet" else 1
        x = out["stem"] = nn.relu6(conv_norm(images, scaled(32), 3, stride, "stem"))
        block = 0
        for i, stage in enumerate(stages, start=1):
            for j in range(stage.blocks):
                x = InvertedResidual(
                    scaled(stage.channels),
                    stage.expansion,
                    stage.stride if j == 0 else 1,
                    stage.kernel,
                    conv_norm,
                    name=f"block{block}",
                )(x)
                block += 1
            out[f"stage{i}"] = x
        x = out["last"] = nn.relu6(conv_norm(x, scaled(1280), 1, 1, "last"))

        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        x = out["features"] = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


def _lite(
    name: str, layers: int, size: int, dropout: float, parameters: int, gmacs: float
) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(MobileNet, name, dropout_rate=dropout),
        feature_width=1280,
        layers=layers,
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
        input_size=size,
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        interpolation="bicubic",
    )


SPECS = (
    ModelSpec(
        name="mobilenet_v2",
        module=functools.partial(MobileNet, "mobilenet_v2"),
        feature_width=1280,
        layers=53,
        parameters=3_504_872,
        gmacs=0.3158,
        min_size=MIN_SIZE,
    ),
    _lite("efficientnet_lite0", 50, 224, 0.2, 4_652_008, 0.4004),
    _lite("efficientnet_lite1", 65, 240, 0.2, 5_416_680, 0.623),
    _lite("efficientnet_lite2", 65, 260, 0.3, 6_092_072, 0.8888),
)
