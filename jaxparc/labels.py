"""Annotations g(y) and the distances between them (the paper, sections 4.1 and 6.2).

Equal annotations must give equal distances bit for bit: Spearman ranks whatever differs, so
distances of one-hot vectors from a floating-point correlation, which take up to seven values where
there are two, rank rounding noise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats

# (n,) one class per image; (n, c) zeros and ones; (n, c) numbers such as shares of area.
KINDS = ("classes", "multi_label", "vectors")


# Integers from here on are names of classes, as strings are, not their positions.
NAMES_FROM = 1_000_000

# Correlations of annotation vectors are told apart to the inverse of this.
VECTOR_GRID = np.float32(1 << 14)


class Labels(NamedTuple):
    """Labels as `Probe` holds them.

    Attributes:
        values: (n,) int32, or (n, c) float32.
        num_classes: c.
        kind: one of `KINDS`.
    """

    values: np.ndarray
    num_classes: int
    kind: str


def encode(
    labels: Sequence[Any] | np.ndarray | Array,
    num_classes: int | None = None,
    kind: str | None = None,
) -> Labels:
    """Labels as users have them to labels as `Probe` holds them.

    Args:
        labels: (n,) classes, non-negative integers or any hashable values, or (n, c) numbers.
        num_classes: c; by default max(labels) + 1 for non-negative integers under a million, the
            number of distinct values otherwise, and the number of columns for (n, c).
        kind: one of `KINDS`; by default (n,) are classes, (n, c) of zeros and ones alone
            multi-label, and other (n, c) annotation vectors.

    Raises:
        ValueError: none of the forms, fewer than two classes present, a class outside [0, c), or an
            image whose annotation is constant (it correlates with nothing).
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown label kind {kind!r}; known: {', '.join(KINDS)}")
    y = np.asarray(labels)
    if y.ndim == 2 and y.dtype.kind not in "biuf":  # NumPy takes a list of tuples for a matrix
        y = np.fromiter(map(tuple, y.tolist()), object, len(y))
    if y.ndim not in (1, 2) or (kind is not None and y.ndim != (1 if kind == "classes" else 2)):
        expected = {None: "(n,) classes or (n, c)", "classes": "(n,) classes"}.get(kind, "(n, c)")
        raise ValueError(f"labels have shape {y.shape}; expected {expected}")
    return _encode_classes(y, num_classes) if y.ndim == 1 else _encode_rows(y, num_classes, kind)


def _encode_classes(y: np.ndarray, num_classes: int | None) -> Labels:
    counted = np.issubdtype(y.dtype, np.integer) and y.size and y.min() >= 0
    if not (counted and y.max() < NAMES_FROM):
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
    return Labels(y.astype(np.int32), c, "classes")


def _encode_rows(y: np.ndarray, num_classes: int | None, kind: str | None) -> Labels:
    c = y.shape[1]
    if num_classes not in (None, c):
        raise ValueError(f"labels have {c} columns; num_classes={num_classes}")
    if not np.isfinite(y).all():
        raise ValueError("labels hold values that are not finite")
    binary = bool(np.isin(y, (0, 1)).all())
    if kind is None:
        kind = "multi_label" if binary else "vectors"
    if kind == "multi_label" and not binary:
        raise ValueError("multi-label rows must be zeros and ones")
    y = y.astype(np.float32)
    constant = np.flatnonzero((y == y[:, :1]).all(axis=1))
    if constant.size:
        i = int(constant[0])
        what = f"has {int(y[i].sum())} of {c} labels" if kind == "multi_label" else "has one value"
        raise ValueError(
            f"image {i} {what}: its annotation is constant and has no correlation with others"
        )
    return Labels(y, c, kind)


def from_boxes(boxes: Sequence[Any], classes: Sequence[Any], num_classes: int) -> np.ndarray:
    """Annotation vectors of detection: the area of each class's boxes over that of all boxes.

    Args:
        boxes: of each of n images, (k, 4) as (x0, y0, x1, y1), in pixels or any other unit of the
            image's own; also (y0, x0, y1, x1), as TFDS has them.
        classes: of each image, (k,) integers in [0, c).
        num_classes: c.

    Returns:
        (n, c) float32, rows summing to 1, or 0 for an image without a box (which `encode` then
        refuses by its index). Pixels under two boxes count twice.

    Raises:
        ValueError: an image's boxes or classes are none; the message has its index.
    """
    if len(boxes) != len(classes):
        raise ValueError(f"boxes of {len(boxes)} images, classes of {len(classes)}")
    vectors = np.zeros((len(boxes), num_classes))
    for i, (given, of) in enumerate(zip(boxes, classes, strict=True)):
        corners = np.asarray(given, np.float64).reshape(-1, 4) if len(given) else np.zeros((0, 4))
        kinds = np.asarray(of, np.int64).reshape(-1)
        if len(corners) != len(kinds):
            raise ValueError(f"image {i}: {len(corners)} boxes and {len(kinds)} classes")
        if not ((kinds >= 0) & (kinds < num_classes)).all():
            raise ValueError(
                f"image {i}: classes {kinds.tolist()}; expected 0 to {num_classes - 1}"
            )
        sides = corners[:, 2:] - corners[:, :2]
        if not (sides >= 0).all():  # NaN is not either
            raise ValueError(f"image {i}: a box ends before it starts, or is not finite")
        np.add.at(vectors[i], kinds, sides.prod(axis=1))
    return _shares(vectors)


def from_masks(
    masks: Sequence[Any] | np.ndarray, num_classes: int, *, ignore: int | None = 255
) -> np.ndarray:
    """Annotation vectors of segmentation: the share of an image's pixels that each class has.

    Args:
        masks: of each of n images, (h, w) integers in [0, c), or `ignore`; sizes may differ.
        num_classes: c.
        ignore: the value of pixels that do not count; None if there is none.

    Returns:
        (n, c) float32, rows summing to 1, or 0 for an image without a pixel that counts.

    Raises:
        ValueError: a pixel's class is outside [0, c); the message has the image's index.
    """
    vectors = np.zeros((len(masks), num_classes))
    for i, mask in enumerate(masks):
        pixels = np.asarray(mask).ravel()
        if ignore is not None:
            pixels = pixels[pixels != ignore]
        if pixels.size and not (pixels.min() >= 0 and pixels.max() < num_classes):
            worst = pixels.min() if pixels.min() < 0 else pixels.max()
            raise ValueError(
                f"image {i}: a pixel has class {worst}; expected 0 to {num_classes - 1}"
            )
        vectors[i] = np.bincount(pixels.astype(np.int64), minlength=num_classes)
    return _shares(vectors)


def _shares(amounts: np.ndarray) -> np.ndarray:
    """Rows (n, c) over their sums; a row of zeros stays one."""
    totals = amounts.sum(axis=1, keepdims=True)
    return (amounts / np.where(totals > 0, totals, 1)).astype(np.float32)


def distances(labels: Array, num_classes: int, *, vectors: bool = False) -> Array:
    """D_y: one minus the correlation of the annotation vectors of two images (eq. 7).

    Args:
        labels: (n,) int32 classes, or (n, c) float32.
        num_classes: c.
        vectors: whether (n, c) are annotation vectors, not zeros and ones.

    Returns:
        (n, n) float32 in [0, 2], symmetric. Classes: 0 for the same class, else c / (c - 1), which
        is what one-hot vectors give. Multi-label: from the three integers that fix it. Annotation
        vectors: multiples of 1 / VECTOR_GRID.
    """
    if labels.ndim == 1:
        other = np.float32(num_classes / (num_classes - 1))
        return jnp.where(labels[:, None] == labels[None, :], 0.0, other)
    if vectors:
        # Correlations that are equal, as those of equal vectors and of vectors that differ in the
        # order of their classes, come out equal but for rounding; on this grid they tie.
        return 1.0 - jnp.round(stats.corrcoef(labels) * VECTOR_GRID) / VECTOR_GRID
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
