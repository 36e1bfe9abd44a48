"""Layers that the networks share, with PyTorch's conventions where Flax's differ.

Images and feature maps are (b, h, w, c). Convolutions and pools are padded symmetrically: with
stride 2, Flax's "SAME" pads the bottom and right first, which shifts maps against torchvision's.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from jaxparc import backend
from jaxparc.errors import InputError
from jaxparc.preprocessing import scale_and_shift

he_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_linear = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def head_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw from torch.nn.Linear's default, uniform within 1 / sqrt(fan_in); c may be 0."""
    return _linear(key, shape, dtype) if 0 not in shape else jnp.zeros(shape, dtype)


def scaled(channels: int, width: float) -> int:
    """Return the number of channels after the width multiplier: rounded, at least 1."""
    return max(1, round(channels * width))


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


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Convolve (b, h, w, c) by (h, w, c, c'), with the signature that `nn.Conv` expects."""
    choices = backend.choices()
    if choices.pointwise_products and kernel.shape[:2] == (1, 1) and not np.any(padding):
        x = x[:, :: strides[0], :: strides[1]]
        rows = _product(x.reshape(-1, x.shape[-1]), kernel[0, 0], options["precision"])
        return rows.reshape(*x.shape[:-1], -1)
    if choices.shifted_depthwise and kernel.shape[2] == 1 < x.shape[-1] == kernel.shape[3]:
        if kernel.shape[0] >= _WIDE_WINDOW and _keeps_size(kernel, strides, padding):
            return _wide_depthwise(x, kernel[:, :, 0])
        return _depthwise(x, kernel[:, :, 0], strides, padding)
    groups = options["feature_group_count"]
    if choices.joined_groups and _INFERENCE.get() and groups > 1 and kernel.shape[2] < _NARROW:
        ungrouped = {**options, "feature_group_count": 1}
        convolve_block = functools.partial(_convolve, strides=strides, padding=padding, **ungrouped)
        return _with_joined_groups(convolve_block, x, kernel, groups)

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    if choices.shifted_gradients and _has_slow_gradient(x, kernel, strides, padding):
        return _with_shifted_gradient(convolve, x, kernel)
    return convolve(x, kernel)


_INFERENCE: contextvars.ContextVar[bool] = contextvars.ContextVar("inference", default=False)


@contextlib.contextmanager
def at_inference() -> Iterator[None]:
    """Trace networks in this block that are not differentiated.

    Groups are joined for these alone: a program of XLA's for a CPU (jaxlib 0.10.2) with the
    gradient of joined groups ends the process.
    """
    token = _INFERENCE.set(True)
    try:
        yield
    finally:
        _INFERENCE.reset(token)


_NARROW = 32  # channels of a convolution; XLA is slow with fewer
_MOST_BLOCKS = 8  # more are slightly faster, and take seconds to compile


def _with_joined_groups(
    convolve: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array, groups: int
) -> jax.Array:
    """Convolve in groups, by ungrouped convolutions of several groups with zeros between them.

    Args:
      convolve: function of a map and a kernel; it is not grouped.
      x: (b, h, w, groups * c).
      kernel: (k, k, c, groups * c').
      groups: their number.
    """
    most = max(1, min(_MOST_BLOCKS, x.shape[-1] // _NARROW))
    blocks = max(n for n in range(1, most + 1) if groups % n == 0)
    joined = groups // blocks
    height, width, c, d = kernel.shape
    apart = kernel.reshape(height, width, 1, c, blocks, joined, d // groups)
    # the input channels of group m and the output channels of group n, with zeros unless m = n
    kernels = apart * jnp.eye(joined, dtype=kernel.dtype).reshape(joined, 1, 1, joined, 1)
    kernels = jnp.moveaxis(kernels, 4, 0).reshape(blocks, height, width, joined * c, d // blocks)
    maps = jnp.split(x, blocks, axis=-1)
    return jnp.concatenate([convolve(*pair) for pair in zip(maps, kernels, strict=True)], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    """Multiply (n, c) by (c, d), with a gradient that does not transpose (n, d) in memory.

    JAX's own does, which takes a quarter of ResNet-50's training time on a CPU.
    """
    return lax.dot(x, kernel, precision=precision)


def _product_forward(x: jax.Array, kernel: jax.Array, precision: Any) -> tuple[jax.Array, Any]:
    return _product(x, kernel, precision), (x, kernel)


def _product_backward(precision: Any, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    to_x = lax.dot_general(g, kernel, (((1,), (1,)), ((), ())), precision=precision)
    to_kernel = lax.dot_general(x, g, (((0,), (0,)), ((), ())), precision=precision)
    return to_x, to_kernel


_product.defvjp(_product_forward, _product_backward)


def _has_slow_gradient(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any
) -> bool:
    """Return whether XLA's gradient of a convolution's kernel is slower than the convolution.

    It is a convolution whose window is the whole map, which XLA on a CPU computes slowly for large
    maps.
    """
    size, _, channels, _ = kernel.shape
    return (
        _keeps_size(kernel, strides, padding)
        and channels == x.shape[-1]
        and min(x.shape[1:3]) >= _LARGE_MAP
        and size * channels >= _WIDE
    )


def _keeps_size(kernel: jax.Array, strides: Sequence[int], padding: Any) -> bool:
    """Return whether a convolution has a square window and a result of its input's size."""
    size = kernel.shape[0]
    return (
        kernel.shape[:2] == (size, size)
        and size % 2 == 1
        and tuple(strides) == (1, 1)
        and not isinstance(padding, str)
        and all(tuple(pad) == (size // 2, size // 2) for pad in padding)
    )


_LARGE_MAP = 24  # rows and columns; for smaller maps XLA's gradient is as fast
_WIDE = 40  # columns of the product; with fewer, copying takes longer than it saves
_WIDE_WINDOW = 7  # rows of a depthwise kernel; with fewer, JAX's own gradient compiles quickly


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_shifted_gradient(convolve: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with stride 1 and an unchanged map size; its gradient is `_kernel_gradient`."""
    return convolve(x, kernel)


def _shifted_forward(convolve: Any, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return convolve(x, kernel), (x, kernel)


def _shifted_backward(convolve: Any, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (to_x,) = jax.vjp(lambda x: convolve(x, kernel), x)[1](g)
    return to_x, _kernel_gradient(x, g, kernel.shape[0]).astype(kernel.dtype)


_with_shifted_gradient.defvjp(_shifted_forward, _shifted_backward)


def _kernel_gradient(x: jax.Array, g: jax.Array, size: int) -> jax.Array:
    """Return the gradient of a convolution's kernel, as one matrix product.

    sum_pq x[p + i, q + j] g[p, q] = sum_pq x[p, q + j] g[p - i, q]: with x shifted by all j and g
    shifted by all i, one product gives all i and j.

    Args:
      x: (b, h, w, c).
      g: gradient of the convolution's output, (b, h, w, d).
      size: k, odd.

    Returns:
      (k, k, c, d).
    """
    half, (b, h, w, c) = size // 2, x.shape
    across = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    across = jnp.concatenate([across[:, :, j : j + w] for j in range(size)], axis=-1)
    down = jnp.pad(g, ((0, 0), (2 * half, 2 * half), (0, 0), (0, 0)))
    rows = h + 2 * half
    down = jnp.concatenate(
        [down[:, 2 * half - i : 2 * half - i + rows] for i in range(size)], axis=-1
    )
    n = b * rows * w
    both = lax.dot_general(across.reshape(n, -1), down.reshape(n, -1), (((0,), (0,)), ((), ())))
    return both.reshape(size, c, size, -1).transpose(2, 0, 1, 3)


def _depthwise(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
) -> jax.Array:
    """Convolve each channel by its own kernel, (b, h, w, c) by (h, w, c): a sum of shifted maps."""
    height, width, _ = kernel.shape
    pads: Any = padding
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(x.shape[1:3], (height, width), strides, padding)
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    down, across = strides
    rows = (padded.shape[1] - height) // down + 1
    columns = (padded.shape[2] - width) // across + 1
    terms = [
        padded[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * across + 1 : across]
        * kernel[i, j]
        for i in range(height)
        for j in range(width)
    ]
    return functools.reduce(jnp.add, terms)


@jax.custom_vjp
def _wide_depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve as `_depthwise`, to a map of the same size.

    JAX's own gradient pads and adds a map for each of a window's positions, which takes more than
    twice as long, and four times as long to compile.
    """
    half = len(kernel) // 2
    return _depthwise(x, kernel, (1, 1), ((half, half), (half, half)))


def _wide_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _wide_depthwise(x, kernel), (x, kernel)


def _wide_backward(saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, half, (h, w) = len(kernel), len(kernel) // 2, g.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))

    def row(i: jax.Array) -> jax.Array:
        rows = lax.dynamic_slice_in_dim(padded, i, h, axis=1)
        sums = [
            (rows[:, :, j : j + w] * g).sum(axis=(0, 1, 2), dtype=jnp.float32) for j in range(size)
        ]
        return jnp.stack(sums)

    to_kernel = lax.map(row, jnp.arange(size)).astype(kernel.dtype)
    return _wide_depthwise(g, kernel[::-1, ::-1]), to_kernel


_wide_depthwise.defvjp(_wide_forward, _wide_backward)


# Flax's layer, with the same parameters; on a CPU, with faster convolutions (`backend.Choices`).
Conv = functools.partial(nn.Conv, conv_general_dilated=_convolve)


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
        x = x - x.mean(axis=-1, keepdims=True)
        var = jnp.square(x).mean(axis=-1, keepdims=True)
        return (x * (lax.rsqrt(var + self.eps) * scale) + bias).astype(self.dtype)


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
