"""Convolutions with Flax's parameters, and on a CPU with faster forms (`backend.Choices`)."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxparc import backend


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Convolve (b, h, w, c) by (h, w, c, c'), with the signature that `nn.Conv` expects."""
    choices = backend.choices()

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    if max(*options["lhs_dilation"], *options["rhs_dilation"]) > 1:
        return convolve(x, kernel)
    window = kernel.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    groups = options["feature_group_count"]
    if groups == 1 and _is_a_product(choices, x, window, strides, padding):
        return _as_product(x, kernel, strides, padding, options["precision"])
    if choices.shifted_depthwise and kernel.shape[2] == 1 < x.shape[-1] == kernel.shape[3]:
        if kernel.shape[0] >= _WIDE_WINDOW and _keeps_size(kernel, strides, padding):
            return _wide_depthwise(x, kernel[:, :, 0])
        return _depthwise(x, kernel[:, :, 0], strides, padding)
    if choices.joined_groups and _INFERENCE.get() and groups > 1 and kernel.shape[2] < _NARROW:
        ungrouped = {**options, "feature_group_count": 1}
        convolve_block = functools.partial(_convolve, strides=strides, padding=padding, **ungrouped)
        return _with_joined_groups(convolve_block, x, kernel, groups)
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


def _is_a_product(
    choices: backend.Choices,
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    """Return whether XLA is slower at an ungrouped convolution than at one matrix product.

    So it is for windows of one pixel, and for results smaller than the window, or at the gradients
    of these.
    """
    if tuple(window) == (1, 1):
        return choices.pointwise_products and not np.any(padding)
    small = 0 < min(_result_size(x.shape[1:3], window, strides, padding)) < max(window)
    return choices.small_maps_as_products and small and max(window) <= _SMALL_WINDOW


_SMALL_WINDOW = 3  # rows or columns; with larger windows, the product was not measured


def _as_product(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    precision: Any,
) -> jax.Array:
    """Convolve (b, h, w, c) by (h, w, c, c'), without groups, as one matrix product."""
    maps = jnp.concatenate(_shifted_maps(x, kernel.shape[:2], strides, padding), axis=-1)
    columns = kernel.reshape(-1, kernel.shape[-1])
    rows = _product(maps.reshape(-1, maps.shape[-1]), columns, precision)
    return rows.reshape(*maps.shape[:3], -1)


def _shifted_maps(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> list[jax.Array]:
    """Return the pixels at each place of the window, row by row, each (b, h', w', c)."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    result = _result_size(x.shape[1:3], window, strides, padding)
    down, across = strides
    rows, columns = (
        max(0, (n - 1) * stride + 1) for n, stride in zip(result, strides, strict=True)
    )
    return [
        padded[:, i : i + rows : down, j : j + columns : across]
        for i in range(window[0])
        for j in range(window[1])
    ]


def _result_size(
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> list[int]:
    """Return the rows and columns of a convolution's result."""
    return [
        max(0, (n + sum(pad) - length) // stride + 1)
        for n, pad, length, stride in zip(size, padding, window, strides, strict=True)
    ]


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
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
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


def _keeps_size(
    kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> bool:
    """Return whether a convolution has a square window and a result of its input's size."""
    size = kernel.shape[0]
    return (
        kernel.shape[:2] == (size, size)
        and size % 2 == 1
        and tuple(strides) == (1, 1)
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
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Convolve each channel by its own kernel, (b, h, w, c) by (h, w, c): a sum of shifted maps."""
    height, width, c = kernel.shape
    maps = _shifted_maps(x, (height, width), strides, padding)
    terms = [part * weights for part, weights in zip(maps, kernel.reshape(-1, c), strict=True)]
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
