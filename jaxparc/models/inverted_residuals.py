"""The blocks of MobileNets and EfficientNets, and the tables that describe chains of them."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jaxparc.models import layers

Activation = Callable[[jax.Array], jax.Array]


class Stage(NamedTuple):
    """A row of the papers' tables: equal blocks, of which only the first has the stride.

    Attributes:
      expansion: inner channels, relative to the input's.
      channels: of the output.
      blocks: their number.
      stride: of the first.
      kernel: height and width of the spatial convolution.
      squeezed: whether blocks have squeeze-and-excitation.
      fused: whether one convolution takes the place of the expansion and the depthwise convolution.
      activation: the architecture's if None.
    """

    expansion: float
    channels: int
    blocks: int
    stride: int
    kernel: int = 3
    squeezed: bool = False
    fused: bool = False
    activation: Activation | None = None


class Squeeze(NamedTuple):
    """How squeeze-and-excitation differs.

    Attributes:
      channels: function from the channels of a block's input, and its inner ones, to the squeezed
        ones.
      activation: of the squeezed channels.
      gate: of the weights of the inner channels.
    """

    channels: Callable[[int, int], int]
    activation: Activation
    gate: Activation


class Architecture(NamedTuple):
    """How the networks differ.

    Attributes:
      stages: in order, between the first convolution and the last; rows of equal channels, of which
        the second has stride 1, are one stage.
      eps: of batch norm.
      same_padding: whether padding is TensorFlow's "SAME" instead of symmetric.
      activation: of all layers whose stage has none of its own.
      squeeze: of the blocks that have squeeze-and-excitation.
      stem: channels of the first convolution.
      last: channels of the last convolution before pooling.
      neck: channels of the linear layer between pooling and head; None if there is none.
    """

    stages: tuple[Stage, ...]
    eps: float = 1e-5
    same_padding: bool = False
    activation: Activation = nn.relu6
    squeeze: Squeeze | None = None
    stem: int = 32
    last: int = 1280
    neck: int | None = None


def blocks_of(architecture: Architecture) -> Iterator[tuple[int, int, Stage]]:
    """Return, of every block, the index of its stage, its own within it, and its `Stage`."""
    by_channels = itertools.groupby(architecture.stages, key=lambda stage: stage.channels)
    for i, (_, rows) in enumerate(by_channels):
        blocks = [
            row._replace(blocks=1, stride=row.stride if j == 0 else 1)
            for row in rows
            for j in range(row.blocks)
        ]
        for j, block in enumerate(blocks):
            yield i, j, block


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation, and projection.

    Sandler et al., figure 3b; Howard et al., figure 4; with `stage.fused`, Tan and Le 2021,
    figure 2. Without expansion, the fused form is one convolution.

    Attributes:
      stage: of this block alone.
      channels: of the output, after the width multiplier.
      activation: of inner maps.
      squeeze: of squeeze-and-excitation, if the stage has any.
      conv_norm: function from a map, channels, kernel, stride and name to the convolved map.
      dtype: of the computation.
    """

    stage: Stage
    channels: int
    activation: Activation
    squeeze: Squeeze | None
    conv_norm: Any
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, h, w, c) to (b, ceil(h / stride), ceil(w / stride), channels)."""
        y, stage = x, self.stage
        inner = layers.scaled(x.shape[-1], stage.expansion)
        spatial = stage.kernel, stage.stride
        if stage.fused:
            width = inner if stage.expansion > 1 else self.channels
            y = self.activation(self.conv_norm(y, width, *spatial, "expand"))
        else:
            if stage.expansion > 1:
                y = self.activation(self.conv_norm(y, inner, 1, 1, "expand"))
            y = self.activation(self.conv_norm(y, inner, *spatial, "depthwise", groups=inner))
        if stage.squeezed and self.squeeze is not None:
            squeezed = self.squeeze.channels(x.shape[-1], inner)
            conv = functools.partial(layers.Conv, dtype=self.dtype)
            y = layers.SqueezeExcite(squeezed, conv, *self.squeeze[1:], name="se")(y)
        if not stage.fused or stage.expansion > 1:
            y = self.conv_norm(y, self.channels, 1, 1, "project")
        return x + y if x.shape == y.shape else y
