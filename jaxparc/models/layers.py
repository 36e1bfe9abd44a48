"""Layers that the networks share, with PyTorch's conventions where Flax's differ.

Images and feature maps are (b, h, w, c). Convolutions and pools are padded symmetrically: with
stride 2, Flax's "SAME" pads the bottom and right first, which shifts maps against torchvision's.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from jaxparc import backend
from jaxparc.errors import InputError
from jaxparc.geometry import scale_and_shift
from jaxparc.models.convolutions import Conv as Conv

he_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_linear = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def head_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw from torch.nn.Linear's default, uniform within 1 / sqrt(fan_in); c may be 0."""
    return _linear(key, shape, dtype) if 0 not in shape else jnp.zeros(shape, dtype)


def scaled(channels: int, width: float) -> int:
    """Return the number of channels after the width multiplier: rounded, at least 1."""
    return max(1, round(channels * width))


def divisible(channels: float, divisor: int = 8) -> int:
    """Return the nearest multiple of a number that is at most 10 % smaller."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def check_images(
    images: jax.Array, architecture: str, stem: str, min_size: Mapping[str, int]
) -> None:
    """Check that no layer turns the images into an empty map.

    Args:
      images: expected (b, h, w, 3).
      architecture: its name, for messages.
      stem: a key of `min_size`.
      min_size: stem -> the smallest h and w for which no map is empty.

    Raises:
      InputError: the stem is unknown, or the images have another shape or are too small.
    """
    if stem not in min_size:
        raise InputError(f"{architecture}: unknown stem {stem!r}; known: {', '.join(min_size)}")
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(f"{architecture}: images have shape {images.shape}; expected (b, h, w, 3)")
    height, width = images.shape[1:3]
    if min(height, width) < min_size[stem]:
        raise InputError(
            f"{architecture}: images have {height}x{width} pixels; expected at least "
            f"{min_size[stem]}x{min_size[stem]} for the stem {stem!r}"
        )


class BatchNorm(nn.Module):
    """Batch normalisation over devices and real rows (Ioffe and Szegedy 2015, algorithm 1).

    Flax's layer takes the unweighted average of the devices' means, which is wrong if devices have
    different numbers of real rows; this one sums values and counts over devices instead.

    Running statistics follow PyTorch: they are updated with weight 1 - `momentum` = 0.1 per batch,
    and the running variance is unbiased, while the batch is normalised by the population variance.
    The variance takes a second pass over the deviations from the mean: E[x^2] - E[x]^2 cancels in
    float32 if the mean is large compared with the deviation. Shifting by the running mean would
    save that pass, but does not help in the first steps, when it is still 0.

    Variables: "params" {scale, bias} and "batch_stats" {mean, var}, each (c,) and float32.
    """

    eps: float = 1e-5
    momentum: float = 0.9
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalise per channel.

        Args:
          x: (b, ..., c), of any float dtype; statistics are computed in float32.
          train: whether to use this batch's statistics, and update the running ones (the
            "batch_stats" collection must be mutable), instead of using the running ones.
          mask: (b,) bool, True for real rows; None if all are. Only used in training.

        Returns:
          (b, ..., c), `dtype`. Padded rows are normalised like the others.
        """
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)

        x = x.astype(jnp.float32)
        if train:
            mean, var, count = self._batch_statistics(x, mask)
            if not self.is_initializing():
                unbiased = var * (count / jnp.maximum(count - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        y = (x - mean) * (lax.rsqrt(var + self.eps) * scale) + bias
        return y.astype(self.dtype)

    def _batch_statistics(
        self, x: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return mean (c,), population variance (c,) and number of values per channel ()."""
        axes = tuple(range(x.ndim - 1))
        per_row = math.prod(x.shape[1:-1])
        if mask is None:
            rows = jnp.asarray(x.shape[0], jnp.float32)
        else:
            rows = mask.sum(dtype=jnp.float32)
            mask = mask.reshape(mask.shape + (1,) * (x.ndim - 1))

        def total(values: jax.Array) -> jax.Array:
            # where instead of a product: a padded row may hold NaN
            return jnp.sum(values if mask is None else jnp.where(mask, values, 0.0), axis=axes)

        # initialisation runs outside of the mapped axis, where its name is not bound
        over_devices = self.axis_name is not None and not self.is_initializing()
        sums = (rows * per_row, total(x))
        count, x_sum = lax.psum(sums, self.axis_name) if over_devices else sums
        count = jnp.maximum(count, 1.0)
        mean = x_sum / count
        # the variance does not depend on the mean to first order (deviations sum to 0), so that
        # stopping this gradient is exact and saves its backward pass
        squares = total(jnp.square(x - lax.stop_gradient(mean)))
        var = (lax.psum(squares, self.axis_name) if over_devices else squares) / count
        return mean, var, count


class LayerNorm(nn.Module):
    """Layer normalisation over channels (Ba et al. 2016), computed in float32.

    As in `BatchNorm`, the variance takes a second pass: E[x^2] - E[x]^2 cancels if the mean is
    large compared with the deviation.

    Variables: "params" {scale, bias}, each (c,) and float32.
    """

    eps: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise each position: (..., c) of any float dtype to (..., c), `dtype`."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        x = x.astype(jnp.float32)
        if backend.choices().means_as_products:
            x = x - x @ jnp.full((x.shape[-1], 1), 1 / x.shape[-1], jnp.float32)
        else:
            x = x - x.mean(axis=-1, keepdims=True)
        var = jnp.square(x).mean(axis=-1, keepdims=True)
        return (x * (lax.rsqrt(var + self.eps) * scale) + bias).astype(self.dtype)


class SqueezeExcite(nn.Module):
    """Channels weighted by a function of their means over the map (Hu et al. 2018, section 3).

    Attributes:
      channels: squeezed ones.
      conv: builds convolutions.
      activation: of the squeezed channels.
      gate: of the weights.
    """

    channels: int
    conv: Any
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, h, w, c) to the same shape."""
        conv = functools.partial(self.conv, kernel_size=(1, 1), padding=0, use_bias=True)
        y = conv(self.channels, name="fc1")(x.mean(axis=(1, 2), keepdims=True))
        y = conv(x.shape[-1], name="fc2")(self.activation(y))
        return x * self.gate(y)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Return the means of values, weighted by attention (Vaswani et al. 2017, section 3.2.1).

    The weighted sums are divided, in place of the weights, of which there are usually more.
    `jax.nn.dot_product_attention` fails on bfloat16 under strict dtype promotion.

    Args:
      query: (..., heads, n, s) of any float dtype; weights are computed in float32.
      key: (..., heads, n', s).
      value: (..., heads, n', s).
      bias: added to query key^T / sqrt(s), float32, broadcast to (..., heads, n, n').

    Returns:
      (..., n, heads * s), in the dtype of `value`.
    """
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("...qs,...ks->...qk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    sums = jnp.einsum(
        "...qk,...ks->...qs",
        weights.astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    means = (sums / weights.sum(axis=-1, keepdims=True)).astype(value.dtype).swapaxes(-2, -3)
    return means.reshape(*means.shape[:-2], -1)


def gelu(x: jax.Array) -> jax.Array:
    """Return x times the normal distribution function of x (Hendrycks and Gimpel 2016).

    `jax.nn.gelu` has erfc, which XLA on a CPU computes more slowly, for the relative precision of
    results that are 0 up to rounding.
    """
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


def max_pool(
    x: jax.Array, window: int, stride: int, *, padding: int = 0, ceil_mode: bool = False
) -> jax.Array:
    """Max pooling as in `torch.nn.MaxPool2d`, (b, h, w, c) to (b, h', w', c).

    Rows and then columns are pooled by elementwise maxima of shifted slices: the gradient of XLA's
    window reduction takes half of GoogLeNet's training time on a CPU, and XLA on a GPU adds it up
    in varying order. The first of equal values receives the gradient, and NaN propagates.

    Args:
      x: (b, h, w, c).
      window: height and width of the window.
      stride: in both directions.
      padding: rows and columns of -inf on every side.
      ceil_mode: whether the last window may exceed the bottom or right edge; it must start inside
        the map or its top or left padding.

    Returns:
      The maximum of each window, in the dtype of `x`.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        free = size + 2 * padding - window
        last = (-(free // -stride) if ceil_mode else free // stride) * stride  # window's start
        if last >= size + padding:
            last -= stride
        widths = [(0, 0)] * 4
        widths[axis] = (padding, max(0, last + window - size - padding))
        padded = jnp.pad(x, widths, constant_values=-jnp.inf)
        x = lax.slice_in_dim(padded, 0, last + 1, stride, axis)
        for start in range(1, window):
            other = lax.slice_in_dim(padded, start, start + last + 1, stride, axis)
            x = jnp.where((x >= other) | jnp.isnan(x), x, other)
    return x


def avg_pool(x: jax.Array, *, ceil_mode: bool = False) -> jax.Array:
    """Average 2x2 windows with stride 2, (b, h, w, c) to (b, h', w', c), in the dtype of `x`.

    Args:
      x: (b, h, w, c).
      ceil_mode: what becomes of the last row and column of maps of odd sizes: whether windows that
        exceed the map average what is inside, as in `torch.nn.AvgPool2d` with
        `count_include_pad=False`, or there are no such windows.
    """
    b, h, w, c = x.shape
    if ceil_mode:
        # a window whose second row repeats the first has the average of the first
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    rows, columns = (n // 2 for n in (x.shape[1], x.shape[2]))
    x = x[:, : 2 * rows, : 2 * columns].reshape(b, rows, 2, columns, 2, c)
    return x.mean(axis=(2, 4))


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Average pooling to (b, size, size, c) as in `torch.nn.AdaptiveAvgPool2d`.

    Window i covers rows floor(i h / size) to ceil((i + 1) h / size): windows overlap if h is not a
    multiple of `size`, and repeat rows if h is smaller. Each direction is one matrix product.
    """

    def weights(n: int) -> np.ndarray:
        matrix = np.zeros((size, n), np.float32)
        for i in range(size):
            start, stop = i * n // size, -((i + 1) * n // -size)
            matrix[i, start:stop] = 1 / (stop - start)
        return matrix

    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (jnp.asarray(weights(n), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x, precision=lax.Precision.HIGHEST)


def new_head(key: jax.Array, features: int, num_classes: int) -> dict[str, jax.Array]:
    """Initialise the parameters of a last linear layer, as the networks do.

    Args:
      key: PRNG key.
      features: d, the size of its input.
      num_classes: c, the size of its output.

    Returns:
      `kernel` (features, num_classes) and `bias` (num_classes,), float32.
    """
    return _compiled_new_head(features, num_classes)(key)


@functools.lru_cache(maxsize=32)
def _compiled_new_head(
    features: int, num_classes: int
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    def init(key: jax.Array) -> dict[str, jax.Array]:
        return {
            "kernel": head_init(key, (features, num_classes), jnp.float32),
            "bias": jnp.zeros((num_classes,), jnp.float32),
        }

    return jax.jit(init, compiler_options=dict(backend.choices().run_once))


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Return images (b, h, w, c) uint8 as float32, standardised per channel.

    Args:
      images: pixels, 0 to 255.
      mean: of each channel, of images in [0, 1].
      std: likewise.
    """
    scale, shift = scale_and_shift(mean, std)
    return images.astype(jnp.float32) * scale - shift
