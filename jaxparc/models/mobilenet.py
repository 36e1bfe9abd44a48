"""MobileNets V2 and V3, and EfficientNets: chains of inverted residuals.

MobileNetV2 (Sandler et al. 2018) is torchvision's. EfficientNet-Lite0 to -2 are the published ones:
no squeeze-and-excitation, TensorFlow's padding ("SAME", which pads the bottom and right first),
batch norm with eps 1e-3, and a first and last stage that are not scaled. MobileNetV3 (Howard et al.
2019), EfficientNet-B0 to -B7 (Tan and Le 2019) and EfficientNetV2 (Tan and Le 2021) are timm's of
the same names, with symmetric padding and eps 1e-5; the fields `eps` and `same_padding` turn them
into TensorFlow's or torchvision's. Stochastic depth in training is left out.
"""

import functools
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxparc.models import layers
from jaxparc.models.inverted_residuals import (
    Architecture,
    InvertedResidual,
    Squeeze,
    Stage,
    blocks_of,
)
from jaxparc.models.spec import ModelSpec

IMAGENET_MEAN, IMAGENET_STD = ModelSpec.mean, ModelSpec.std

# Every layer is padded: no map is ever empty.
MIN_SIZE: Mapping[str, int] = {"imagenet": 1, "small": 1}


def _efficientnet_lite(channels: tuple[int, ...], blocks: tuple[int, ...]) -> Architecture:
    """Return the architecture with channels and blocks after scaling (Tan and Le, table 1)."""
    strides, kernels = (1, 2, 2, 2, 1, 2, 1), (3, 3, 5, 3, 5, 5, 3)
    rows = zip((1, 6, 6, 6, 6, 6, 6), channels, blocks, strides, kernels, strict=True)
    return Architecture(tuple(Stage(*row) for row in rows), eps=1e-3, same_padding=True)


_SQUEEZE_INPUT = Squeeze(lambda outer, inner: layers.scaled(outer, 0.25), nn.silu, nn.sigmoid)
_SQUEEZE_INNER = Squeeze(lambda outer, inner: layers.divisible(inner / 4), nn.relu, nn.hard_sigmoid)


def _efficientnet(width: float, depth: float) -> Architecture:
    """Return an EfficientNet (Tan and Le 2019, table 1) by its scaling."""
    b0 = _efficientnet_lite((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1))
    return Architecture(
        tuple(
            stage._replace(
                channels=layers.divisible(width * stage.channels),
                blocks=math.ceil(depth * stage.blocks),
                squeezed=True,
            )
            for stage in b0.stages
        ),
        activation=nn.silu,
        squeeze=_SQUEEZE_INPUT,
        stem=layers.divisible(width * 32),
        last=layers.divisible(width * 1280),
    )


def _efficientnet_v2(channels: tuple[int, ...], blocks: tuple[int, ...]) -> Architecture:
    """Return an EfficientNetV2 (Tan and Le 2021, table 4) by the channels and blocks of stages."""
    rows = zip((1, 4, 4, 4, 6, 6, 6), channels, blocks, (1, 2, 2, 2, 1, 2, 1), strict=False)
    return Architecture(
        tuple(Stage(*row, squeezed=i > 2, fused=i <= 2) for i, row in enumerate(rows)),
        activation=nn.silu,
        squeeze=_SQUEEZE_INPUT,
        stem=channels[0],
    )


def _mobilenet_v3(stages: tuple[Stage, ...], last: int, neck: int) -> Architecture:
    return Architecture(
        stages, activation=nn.hard_swish, squeeze=_SQUEEZE_INNER, stem=16, last=last, neck=neck
    )


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
    "efficientnet_b0": _efficientnet(1.0, 1.0),
    "efficientnet_b1": _efficientnet(1.0, 1.1),
    "efficientnet_b2": _efficientnet(1.1, 1.2),
    "efficientnet_b3": _efficientnet(1.2, 1.4),
    "efficientnet_b4": _efficientnet(1.4, 1.8),
    "efficientnet_b5": _efficientnet(1.6, 2.2),
    "efficientnet_b6": _efficientnet(1.8, 2.6),
    "efficientnet_b7": _efficientnet(2.0, 3.1),
    "efficientnetv2_s": _efficientnet_v2((24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15)),
    "efficientnetv2_m": _efficientnet_v2((24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5)),
    "efficientnetv2_l": _efficientnet_v2(
        (32, 64, 96, 192, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7)
    ),
    # Howard et al. 2019, tables 1 and 2
    "mobilenetv3_large_100": _mobilenet_v3(
        (
            Stage(1, 16, 1, 1, 3, activation=nn.relu),
            Stage(4, 24, 1, 2, 3, activation=nn.relu),
            Stage(3, 24, 1, 1, 3, activation=nn.relu),
            Stage(3, 40, 3, 2, 5, squeezed=True, activation=nn.relu),
            Stage(6, 80, 1, 2, 3),
            Stage(2.5, 80, 1, 1, 3),
            Stage(2.3, 80, 2, 1, 3),
            Stage(6, 112, 2, 1, 3, squeezed=True),
            Stage(6, 160, 3, 2, 5, squeezed=True),
        ),
        last=960,
        neck=1280,
    ),
    "mobilenetv3_small_100": _mobilenet_v3(
        (
            Stage(1, 16, 1, 2, 3, squeezed=True, activation=nn.relu),
            Stage(4.5, 24, 1, 2, 3, activation=nn.relu),
            Stage(3.67, 24, 1, 1, 3, activation=nn.relu),
            Stage(4, 40, 1, 2, 5, squeezed=True),
            Stage(6, 40, 2, 1, 5, squeezed=True),
            Stage(3, 48, 2, 1, 5, squeezed=True),
            Stage(6, 96, 3, 2, 5, squeezed=True),
        ),
        last=576,
        neck=1024,
    ),
}


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

        These are "stem", "stage1" and so on, "last" and "features".
        """
        layers.check_images(images, self.architecture, self.stem, MIN_SIZE)
        architecture = ARCHITECTURES[self.architecture]
        activation = architecture.activation
        eps = architecture.eps if self.eps is None else self.eps
        same_padding = architecture.same_padding
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
        x = out["stem"] = activation(
            conv_norm(images, scaled(architecture.stem), 3, stride, "stem")
        )
        for block, (i, _, stage) in enumerate(blocks_of(architecture)):
            x = out[f"stage{i + 1}"] = InvertedResidual(
                stage,
                scaled(stage.channels),
                stage.activation or activation,
                architecture.squeeze,
                conv_norm,
                self.dtype,
                name=f"block{block}",
            )(x)
        x = out["last"] = activation(conv_norm(x, scaled(architecture.last), 1, 1, "last"))

        # what follows is small: in float32 it costs nothing and the logits are not rounded
        x = x.mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)
        if architecture.neck is not None:
            x = activation(layers.Conv(scaled(architecture.neck), (1, 1), name="neck")(x))
        x = x.reshape(len(x), -1)
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


def _timm(
    name: str,
    layers: int,
    size: int,
    parameters: int,
    gmacs: float,
    *,
    dropout: float = 0.2,
    width: int = 1280,
    crop: float = 0.875,
    resize: str = "shortest",
    half: bool = False,
) -> ModelSpec:
    """Return timm's specification; with `half`, images are in [-1, 1]."""
    scaling = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)} if half else {}
    return ModelSpec(
        name=name,
        module=functools.partial(MobileNet, name, dropout_rate=dropout),
        feature_width=width,
        layers=layers,
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
        input_size=size,
        interpolation="bicubic",
        crop=crop,
        resize=resize,
        **scaling,
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
    _timm("efficientnet_b0", 50, 224, 5_288_548, 0.4095),
    _timm("efficientnet_b1", 70, 240, 7_794_184, 0.7251, crop=0.9, half=True),
    _timm("efficientnet_b2", 70, 256, 9_109_994, 0.9049, dropout=0.3, width=1408),
    _timm("efficientnet_b3", 79, 288, 12_233_232, 1.665, dropout=0.3, width=1536),
    _timm("efficientnet_b4", 97, 320, 19_341_616, 3.187, dropout=0.4, width=1792),
    _timm(
        "efficientnet_b5",
        117,
        448,
        30_389_784,
        9.735,
        dropout=0.4,
        width=2048,
        crop=1.0,
        resize="squash",
    ),
    _timm("efficientnet_b6", 135, 528, 43_040_704, 19.66, dropout=0.5, width=2304, crop=0.942),
    _timm("efficientnet_b7", 164, 600, 66_347_960, 38.77, dropout=0.5, width=2560, crop=0.949),
    # with the images of tf_efficientnetv2_*: timm has no weights of the other ones
    _timm("efficientnetv2_s", 111, 300, 21_458_488, 5.332, crop=1.0, half=True),
    _timm(
        "efficientnetv2_m",
        158,
        384,
        54_139_356,
        15.83,
        dropout=0.3,
        crop=1.0,
        resize="squash",
        half=True,
    ),
    _timm(
        "efficientnetv2_l",
        218,
        384,
        118_515_272,
        36.0,
        dropout=0.4,
        crop=1.0,
        resize="squash",
        half=True,
    ),
    _timm("mobilenetv3_large_100", 48, 224, 5_483_032, 0.2283),
    _timm("mobilenetv3_small_100", 36, 224, 2_542_856, 0.06096, width=1024),
)
