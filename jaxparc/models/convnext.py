"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s") and ConvNeXt V2 (Woo et al. 2023).

Both are stages of blocks of a depthwise 7x7 convolution, layer norm, and two linear layers with
GELU (Liu et al., figure 4). A block's output is scaled per channel ("layer scale") in V1; V2 has
global response normalisation between the linear layers instead. The average of the last map is
normalised before the head. The networks are timm's of the same names: "atto" to "nano", which the
first paper lacks, have 1x1 convolutions in place of linear layers, which is the same function.
Stochastic depth in training is left out.
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

# The side of the stem's patches; each of three later layers halves the map, without padding.
PATCH: Mapping[str, int] = {"imagenet": 4, "small": 2}
MIN_SIZE: Mapping[str, int] = {stem: 8 * patch for stem, patch in PATCH.items()}


class Architecture(NamedTuple):
    """How the networks differ.

    Attributes:
      blocks: number of blocks of each stage.
      channels: of the first stage; each later stage has twice as many.
      v2: whether blocks are ConvNeXt V2's.
      pointwise: whether the linear layers of a block are stored as 1x1 convolutions.
    """

    blocks: tuple[int, int, int, int]
    channels: int
    v2: bool = False
    pointwise: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "convnext_atto": Architecture((2, 2, 6, 2), 40, pointwise=True),
    "convnext_femto": Architecture((2, 2, 6, 2), 48, pointwise=True),
    "convnext_pico": Architecture((2, 2, 6, 2), 64, pointwise=True),
    "convnext_nano": Architecture((2, 2, 8, 2), 80, pointwise=True),
    "convnext_tiny": Architecture((3, 3, 9, 3), 96),
    "convnext_small": Architecture((3, 3, 27, 3), 96),
    "convnext_base": Architecture((3, 3, 27, 3), 128),
    "convnext_large": Architecture((3, 3, 27, 3), 192),
    "convnext_xlarge": Architecture((3, 3, 27, 3), 256),
    "convnextv2_atto": Architecture((2, 2, 6, 2), 40, v2=True, pointwise=True),
    "convnextv2_femto": Architecture((2, 2, 6, 2), 48, v2=True, pointwise=True),
    "convnextv2_pico": Architecture((2, 2, 6, 2), 64, v2=True, pointwise=True),
    "convnextv2_nano": Architecture((2, 2, 8, 2), 80, v2=True, pointwise=True),
    "convnextv2_tiny": Architecture((3, 3, 9, 3), 96, v2=True),
    "convnextv2_base": Architecture((3, 3, 27, 3), 128, v2=True),
    "convnextv2_large": Architecture((3, 3, 27, 3), 192, v2=True),
    "convnextv2_huge": Architecture((3, 3, 27, 3), 352, v2=True),
}

_kernel_init = nn.initializers.truncated_normal(0.02)
_LayerNorm = functools.partial(layers.LayerNorm, eps=1e-6)


class GlobalResponseNorm(nn.Module):
    """Global response normalisation (Woo et al., section 3.2 and algorithm 1).

    Attributes:
      dtype: of the result; the norms are computed in float32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scale each channel by its norm over the map, relative to the mean norm: (b, h, w, c)."""
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        x = x.astype(jnp.float32)
        norms = jnp.sqrt(jnp.square(x).sum(axis=(1, 2), keepdims=True))
        relative = norms / (norms.mean(axis=-1, keepdims=True) + 1e-6)
        return (x * (1 + scale * relative) + bias).astype(self.dtype)


class Block(nn.Module):
    """A residual block, of (b, h, w, c) to the same shape (Liu et al., figure 4; Woo, figure 5)."""

    v2: bool
    pointwise: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return x and what the block adds to it."""
        channels = x.shape[-1]
        conv = functools.partial(layers.Conv, dtype=self.dtype, kernel_init=_kernel_init)
        linear: Any = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_kernel_init)
        if self.pointwise:
            linear = functools.partial(conv, kernel_size=(1, 1), padding=0)
        y = conv(channels, (7, 7), padding=3, feature_group_count=channels, name="depthwise_conv")(
            x
        )
        y = _LayerNorm(dtype=self.dtype, name="norm")(y)
        y = layers.gelu(linear(4 * channels, name="fc1")(y))
        if self.v2:
            y = GlobalResponseNorm(self.dtype, name="grn")(y)
        y = linear(channels, name="fc2")(y)
        if not self.v2:
            gamma = self.param("gamma", nn.initializers.constant(1e-6), (channels,), jnp.float32)
            y = y * gamma.astype(self.dtype)
        return x + y


class ConvNeXt(nn.Module):
    """ConvNeXt; see the package docstring for the fields that all networks share.

    It has no batch norm, so that `axis_name`, `train` and `mask` have no effect.

    Attributes:
      architecture: a key of `ARCHITECTURES`.
      stem: "imagenet" (patches of 4x4 pixels) or "small" (of 2x2).
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
        del train, mask
        layers.check_images(images, self.architecture, self.stem, MIN_SIZE)
        architecture = ARCHITECTURES[self.architecture]
        out = {}

        def patches(x: jax.Array, stage: int, size: int, name: str) -> jax.Array:
            return layers.Conv(
                layers.scaled(architecture.channels * 2**stage, self.width),
                (size, size),
                size,
                padding=0,
                dtype=self.dtype,
                kernel_init=_kernel_init,
                name=name,
            )(x)

        x = patches(images, 0, PATCH[self.stem], "stem_conv")
        x = out["stem"] = _LayerNorm(dtype=self.dtype, name="stem_norm")(x)
        for stage, blocks in enumerate(architecture.blocks):
            if stage:
                x = _LayerNorm(dtype=self.dtype, name=f"stage{stage}_norm")(x)
                x = patches(x, stage, 2, f"stage{stage}_conv")
            for i in range(blocks):
                block = Block(
                    architecture.v2,
                    architecture.pointwise,
                    self.dtype,
                    name=f"stage{stage}_block{i}",
                )
                x = block(x)
            out[f"stage{stage + 1}"] = x

        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        x = out["features"] = _LayerNorm(name="norm")(x)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


def _spec(name: str, parameters: int, gmacs: float, **images: Any) -> ModelSpec:
    architecture = ARCHITECTURES[name]
    return ModelSpec(
        name=name,
        module=functools.partial(ConvNeXt, name),
        feature_width=8 * architecture.channels,
        layers=5 + 3 * sum(architecture.blocks),
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
        interpolation="bicubic",
        **{"resize": "shortest", **images},
    )


SPECS = (
    _spec("convnext_atto", 3_695_520, 0.558),
    _spec("convnext_femto", 5_217_784, 0.792),
    _spec("convnext_pico", 9_045_672, 1.38),
    _spec("convnext_nano", 15_593_560, 2.47, crop=0.95),
    _spec("convnext_tiny", 28_589_128, 4.49, crop=0.95),
    _spec("convnext_small", 50_223_688, 8.74, crop=0.95),
    _spec("convnext_base", 88_591_464, 15.4),
    _spec("convnext_large", 197_767_336, 34.5),
    _spec("convnext_xlarge", 350_196_968, 61.1),
    _spec("convnextv2_atto", 3_708_400, 0.562),
    _spec("convnextv2_femto", 5_233_240, 0.797),
    _spec("convnextv2_pico", 9_066_280, 1.39),
    _spec("convnextv2_nano", 15_623_800, 2.48),
    _spec("convnextv2_tiny", 28_635_496, 4.51),
    _spec("convnextv2_base", 88_717_800, 15.5),
    _spec("convnextv2_large", 197_956_840, 34.5),
    _spec("convnextv2_huge", 660_289_640, 339, input_size=384, crop=1.0, resize="squash"),
)
