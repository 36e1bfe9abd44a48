"""Annotations g(y) and the distances between them (the paper, section 4.1).

Equal annotations must give equal distances bit for bit: Spearman ranks whatever differs, so
distances of one-hot vectors from a floating-point correlation, which take up to seven values where
there are two, rank rounding noise.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


def encode(
    labels: Sequence[Any] | np.ndarray | Array, num_classes: int | None = None
) -> tuple[np.ndarray, int]:
    """Labels as users have them to labels as `Probe` holds them.

    Args:
        labels: (n,) classes, non-negative integers or any hashable values, or (n, c) zeros and
            ones (multi-label).
        num_classes: c; by default max(labels) + 1 for non-negative integers, the number of
            distinct values otherwise, and the number of columns for (n, c).

    Returns:
        (n,) int32 or (n, c) float32, and c.

    Raises:
        ValueError: neither form, fewer than two classes present, a class outside [0, c), or an
            image whose annotation is constant (it correlates with nothing).
    """
    y = np.asarray(labels)
    if y.ndim == 2 and y.dtype.kind in "biuf":
        return _encode_multi_label(y, num_classes)
    if y.ndim == 2:  # NumPy takes a list of tuples for a matrix
        y = np.fromiter(map(tuple, y.tolist()), object, len(y))
    if y.ndim != 1:
        raise ValueError(f"labels have shape {y.shape}; expected (n,) classes or (n, c)")
    if not (np.issubdtype(y.dtype, np.integer) and y.size and y.min() >= 0 and y.max() < 2**31):
        if np.issubdtype(y.dtype, np.inexact) and not np.all(np.isfinite(y)):
            raise ValueError("labels hold values that are not finite")
        codes: dict[Any, int] = {}
        y = np.array([codes.setdefault(value, len(codes)) for value in y.tolist()], np.int64)
    present = np.unique(y)
    if present.size < 2:
        raise ValueError(f"labels hold {present.size} class; expected at least 2")
    c = int(present[-1]) + 1 if num_classes is None else num_classes
    if present[-1] >= c:
        raise ValueError(f"labels hold class {present[-1]}; num_classes={c} allows 0 to {c - 1}")
    return y.astype(np.int32), c


def _encode_multi_label(y: np.ndarray, num_classes: int | None) -> tuple[np.ndarray, int]:
    c = y.shape[1]
    if num_classes not in (None, c):
        raise ValueError(f"labels have {c} columns; num_classes={num_classes}")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("labels of shape (n, c) must be zeros and ones (multi-label)")
    positive = y.sum(axis=1)
    constant = np.flatnonzero((positive == 0) | (positive == c))
    if constant.size:
        raise ValueError(
            f"image {constant[0]} has {int(positive[constant[0]])} of {c} labels: its annotation "
            "is constant and has no correlation with others"
        )
    return y.astype(np.float32), c


def distances(labels: Array, num_classes: int) -> Array:
    """D_y: one minus the correlation of the annotation vectors of two images (eq. 7).

    Args:
        labels: (n,) int32 classes, or (n, c) float32 zeros and ones.
        num_classes: c.

    Returns:
        (n, n) float32 in [0, 2]. Classes: 0 for the same class, else c / (c - 1), which is what
        one-hot vectors give. Multi-label: from the three integers that fix it.
    """
    if labels.ndim == 1:
        other = np.float32(num_classes / (num_classes - 1))
        return jnp.where(labels[:, None] == labels[None, :], 0.0, other)
    # With a and b ones in two vectors and k shared ones, the correlation is
    # (c k - a b) / sqrt(a (c - a) b (c - b)). Numerator and product are integers that float32
    # holds exactly up to c = 90, and division and root round correctly: equal ratios, equal floats.
    c = np.float32(num_classes)
    ones = jnp.sum(labels, axis=1)
    shared = jnp.matmul(labels, labels.T)
    covariance = c * shared - ones[:, None] * ones[None, :]
    spread = ones * (c - ones)
    ratio = jnp.square(covariance) / (spread[:, None] * spread[None, :])
    return 1.0 - jnp.sign(covariance) * jnp.sqrt(ratio)
