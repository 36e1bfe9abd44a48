"""Swin transformers (Liu et al. 2021, "Hierarchical vision transformer using shifted windows").

Attention is computed within windows of a map; in every other block the windows are shifted by half
their size (section 3.2). The networks are timm's of the same names. Images of any size are
accepted, as by timm's networks that are made for that size: maps that are no multiple of the
window are padded after the shift, and windows are no larger than the map. (Other libraries pad
before the shift, which differs for padded maps only.) The relative position biases of a smaller
window are those of the same distances. Stochastic depth in training is left out.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxparc.errors import InputError
from jaxparc.models import layers
from jaxparc.models.spec import ModelSpec

# The side of the stem's patches; later layers pad odd maps, so that none is ever empty.
PATCH: Mapping[str, int] = {"imagenet": 4, "small": 2}
MIN_SIZE = PATCH

_HEAD_SIZE = 32  # channels of an attention head


class Architecture(NamedTuple):
    """How the networks differ.

    Attributes:
      blocks: number of blocks of each stage.
      heads: attention heads of the first stage, of 32 channels; each later stage has twice as many.
      window: side of the windows.
    """

    blocks: tuple[int, int, int, int]
    heads: int
    window: int


ARCHITECTURES: Mapping[str, Architecture] = {
    "swin_tiny_patch4_window7_224": Architecture((2, 2, 6, 2), 3, 7),
    "swin_small_patch4_window7_224": Architecture((2, 2, 18, 2), 3, 7),
    "swin_base_patch4_window7_224": Architecture((2, 2, 18, 2), 4, 7),
    "swin_large_patch4_window7_224": Architecture((2, 2, 18, 2), 6, 7),
    "swin_base_patch4_window12_384": Architecture((2, 2, 18, 2), 4, 12),
    "swin_large_patch4_window12_384": Architecture((2, 2, 18, 2), 6, 12),
}

_kernel_init = nn.initializers.truncated_normal(0.02)
_LayerNorm = functools.partial(layers.LayerNorm, eps=1e-5)


def _distances(size: tuple[int, int], window: int) -> np.ndarray:
    """Return the row of the table of biases for each pair of positions in a window, (n, n).

    Args:
      size: h and w of the window; n is h w.
      window: side of the table's windows, at least h and w; the table has (2 window - 1)^2 rows.
    """
    rows, columns = np.indices(size).reshape(2, -1)
    down = rows[:, None] - rows + window - 1
    across = columns[:, None] - columns + window - 1
    return down * (2 * window - 1) + across


def _regions(n: int, size: int, shift: int) -> np.ndarray:
    """Return which positions of a shifted axis were neighbours before, (n,): equal numbers.

    Args:
      n: positions, a multiple of `size`.
      size: of the windows.
      shift: by which the axis was rolled; 0 for one that was not.
    """
    position = np.arange(n)
    return (position >= n - size).astype(int) + (position >= n - shift) if shift else 0 * position


def _into_windows(x: Any, size: tuple[int, int]) -> Any:
    """Return the windows of maps (b, h, w, c), (b, windows, positions, c)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size[0], size[0], w // size[1], size[1], c)
    return x.swapaxes(2, 3).reshape(b, -1, size[0] * size[1], c)


class WindowAttention(nn.Module):
    """Multi-head attention within windows (section 3.2, equation 4).

    Attributes:
      window: side of the windows, where the map is not smaller.
      shifted: whether windows are shifted by half their size.
      dtype: of the computation.
    """

    window: int
    shifted: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, h, w, c) to the same shape."""
        h, w = x.shape[1:3]
        size = min(self.window, h), min(self.window, w)
        down, across = (self.window // 2 if self.shifted and n > self.window else 0 for n in (h, w))
        x = jnp.roll(x, (-down, -across), axis=(1, 2))
        x = jnp.pad(x, ((0, 0), (0, -h % size[0]), (0, -w % size[1]), (0, 0)))
        b, rows, columns, c = x.shape
        mask = None
        if down or across:
            regions = 3 * _regions(rows, size[0], down)[:, None]
            regions = regions + _regions(columns, size[1], across)
            regions = _into_windows(regions[None, :, :, None], size)[0, :, :, 0]
            mask = regions[:, :, None] != regions[:, None, :]
        x = self._attention(_into_windows(x, size), _distances(size, self.window), mask)
        x = x.reshape(b, rows // size[0], columns // size[1], *size, c)
        x = x.swapaxes(2, 3).reshape(b, rows, columns, c)[:, :h, :w]
        return jnp.roll(x, (down, across), axis=(1, 2))

    def _attention(self, x: jax.Array, distances: np.ndarray, mask: np.ndarray | None) -> jax.Array:
        """Attend within windows.

        Args:
          x: (b, windows, n, c).
          distances: row of the table of biases for each pair of positions, (n, n).
          mask: True for pairs that do not attend to each other, (windows, n, n).
        """
        b, windows, n, c = x.shape
        heads = c // _HEAD_SIZE
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_kernel_init)
        table = self.param(
            "relative_position_bias_table",
            _kernel_init,
            ((2 * self.window - 1) ** 2, heads),
            jnp.float32,
        )
        qkv = dense(3 * c, name="qkv")(x).reshape(b, windows, n, 3, heads, _HEAD_SIZE)
        query, key, value = (qkv[..., i, :, :].swapaxes(-2, -3) for i in range(3))
        bias = table[distances].transpose(2, 0, 1)
        if mask is not None:
            bias = bias + jnp.where(mask[:, None], jnp.float32(-100), 0)  # timm's number
        return dense(c, name="proj")(layers.attend(query, key, value, bias))


class Block(nn.Module):
    """Window attention and two linear layers, each with a shortcut (figure 3b)."""

    window: int
    shifted: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, h, w, c) to the same shape."""
        channels = x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_kernel_init)
        norm = functools.partial(_LayerNorm, dtype=self.dtype)
        attention = WindowAttention(self.window, self.shifted, self.dtype, name="attn")
        x = x + attention(norm(name="norm1")(x))
        y = layers.gelu(dense(4 * channels, name="fc1")(norm(name="norm2")(x)))
        return x + dense(channels, name="fc2")(y)


class PatchMerging(nn.Module):
    """Concatenate 2x2 neighbours, and project them (section 3.1)."""

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, h, w, c) to (b, ceil(h / 2), ceil(w / 2), channels)."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        b, h, w, c = x.shape
        # the order of neighbours is that of columns, and then of rows
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)
        x = _LayerNorm(dtype=self.dtype, name="norm")(x.reshape(b, h // 2, w // 2, 4 * c))
        return nn.Dense(
            self.channels,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name="reduction",
        )(x)


class Swin(nn.Module):
    """A Swin transformer; see the package docstring for the fields that all networks share.

    It has no batch norm, so that `axis_name`, `train` and `mask` have no effect.

    Attributes:
      architecture: a key of `ARCHITECTURES`.
      width: multiplies the number of attention heads.
      stem: "imagenet" (patches of 4x4 pixels) or "small" (of 2x2).
      window: side of the windows; the architecture's if None.
    """

    architecture: str
    num_classes: int
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    stem: str = "imagenet"
    axis_name: str | None = None
    window: int | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (b, c) and activations: "stem", "stage1" to "stage4", "features"."""
        del train, mask
        layers.check_images(images, self.architecture, self.stem, MIN_SIZE)
        architecture = ARCHITECTURES[self.architecture]
        window = architecture.window if self.window is None else self.window
        if window < 1:
            raise InputError(f"{self.architecture}: window is {window}; expected at least 1")
        channels = [
            _HEAD_SIZE * layers.scaled(architecture.heads * 2**stage, self.width)
            for stage in range(4)
        ]
        patch = PATCH[self.stem]
        out = {}
        x = layers.Conv(
            channels[0],
            (patch, patch),
            patch,
            padding=0,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name="stem_conv",
        )(images)
        x = out["stem"] = _LayerNorm(dtype=self.dtype, name="stem_norm")(x)
        for stage, blocks in enumerate(architecture.blocks):
            if stage:
                x = PatchMerging(channels[stage], self.dtype, name=f"stage{stage}_merge")(x)
            for i in range(blocks):
                block = Block(window, i % 2 == 1, self.dtype, name=f"stage{stage}_block{i}")
                x = block(x)
            out[f"stage{stage + 1}"] = x

        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = _LayerNorm(name="norm")(x)
        x = out["features"] = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


def _spec(name: str, parameters: int, gmacs: float, **images: Any) -> ModelSpec:
    architecture = ARCHITECTURES[name]
    return ModelSpec(
        name=name,
        module=functools.partial(Swin, name),
        feature_width=8 * _HEAD_SIZE * architecture.heads,
        layers=5 + 4 * sum(architecture.blocks),
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
        interpolation="bicubic",
        resize="shortest",
        **{"crop": 0.9, **images},
    )


SPECS = (
    _spec("swin_tiny_patch4_window7_224", 28_288_354, 4.53),
    _spec("swin_small_patch4_window7_224", 49_606_258, 8.8),
    _spec("swin_base_patch4_window7_224", 87_768_224, 15.5),
    _spec("swin_large_patch4_window7_224", 196_532_476, 34.6),
    _spec("swin_base_patch4_window12_384", 87_903_584, 47.4, input_size=384, crop=1.0),
    _spec("swin_large_patch4_window12_384", 196_735_516, 104, input_size=384, crop=1.0),
)
