"""Annotations g(y) and the distances between them (the paper, sections 4.1 and 6.2).

Pairs of equal annotations must have bitwise equal distances, because Spearman ranks any difference.
Computing the distances of one-hot vectors by a floating-point correlation gives up to seven values
where there should be two, and so ranks rounding noise.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.errors import InputError

# Correlations of annotation vectors are rounded to multiples of the inverse of this.
VECTOR_GRID = np.float32(1 << 14)

# Distances of standardised values are rounded to multiples of the inverse, by the item size of the
# dtype.
VALUE_GRID = {4: 1 << 12, 8: 1 << 24}


def from_boxes(boxes: Sequence[Any], classes: Sequence[Any], num_classes: int) -> np.ndarray:
    """Compute annotation vectors of detection: the share of box area that each class has.

    Args:
        boxes: for each of n images, (k, 4) as (x0, y0, x1, y1), in pixels or any other unit, which
            may differ between images; or as (y0, x0, y1, x1), the order of TFDS.
        classes: for each image, (k,) integers in [0, c).
        num_classes: c.

    Returns:
        (n, c) float32, rows summing to 1, or 0 for an image without a box (which `encode` then
        refuses, naming its index). Pixels covered by two boxes count twice.

    Raises:
        InputError: an image's boxes or classes are invalid; the message has its index.

    Examples:
        >>> from_boxes([[(0, 0, 4, 4), (0, 0, 2, 2)], [(1, 1, 3, 3)]], [[0, 1], [2]], 3)
        array([[0.8, 0.2, 0. ],
               [0. , 0. , 1. ]], dtype=float32)
    """
    if len(boxes) != len(classes):
        raise InputError(
            f"boxes are of {len(boxes)} images and classes of {len(classes)}; expected one number"
        )
    vectors = np.zeros((len(boxes), num_classes))
    for i, (given, of) in enumerate(zip(boxes, classes, strict=True)):
        corners = np.asarray(given, np.float64).reshape(-1, 4) if len(given) else np.zeros((0, 4))
        kinds = _classes_of(of, i)
        if len(corners) != len(kinds):
            raise InputError(
                f"image {i}: {len(corners)} boxes and {len(kinds)} classes; expected one number"
            )
        if not ((kinds >= 0) & (kinds < num_classes)).all():
            raise InputError(
                f"image {i}: classes {kinds.tolist()}; expected 0 to {num_classes - 1}"
            )
        sides = corners[:, 2:] - corners[:, :2]
        if not (sides >= 0).all():  # also true for NaN
            raise InputError(f"image {i}: a box ends before it starts, or is not finite")
        np.add.at(vectors[i], kinds, sides.prod(axis=1))
    return _shares(vectors)


def from_masks(
    masks: Sequence[Any] | np.ndarray, num_classes: int, *, ignore: int | None = 255
) -> np.ndarray:
    """Compute annotation vectors of segmentation: the share of pixels that each class has.

    Args:
        masks: for each of n images, (h, w) integers in [0, c), or `ignore`; sizes may differ.
        num_classes: c.
        ignore: value of pixels that do not count; None to count all pixels.

    Returns:
        (n, c) float32, rows summing to 1, or 0 for an image without a pixel that counts.

    Raises:
        InputError: a pixel's class is outside [0, c); the message has the image's index.

    Examples:
        >>> from_masks([[[0, 0, 1], [0, 255, 255]]], 2)
        array([[0.75, 0.25]], dtype=float32)
    """
    vectors = np.zeros((len(masks), num_classes))
    for i, mask in enumerate(masks):
        pixels = _classes_of(mask, i)
        if ignore is not None:
            pixels = pixels[pixels != ignore]
        if pixels.size and not (pixels.min() >= 0 and pixels.max() < num_classes):
            worst = pixels.min() if pixels.min() < 0 else pixels.max()
            raise InputError(
                f"image {i}: a pixel has class {worst}; expected 0 to {num_classes - 1}"
            )
        vectors[i] = np.bincount(pixels, minlength=num_classes)
    return _shares(vectors)


def _classes_of(image: Any, i: int) -> np.ndarray:
    """Return the classes of boxes or pixels, (k,) int64, without masked ones."""
    if isinstance(image, np.ma.MaskedArray):
        image = image.compressed()
    found = np.asarray(image).ravel()
    try:
        with np.errstate(invalid="ignore"):  # NaN becomes an integer that it differs from
            whole = found.astype(np.int64)
        same = bool((whole == found).all())
    except (TypeError, ValueError):
        same = False
    if not same:
        raise InputError(f"image {i}: classes are {found.dtype}; expected integers")
    return whole


def _shares(amounts: np.ndarray) -> np.ndarray:
    """Divide the rows of (n, c) by their sums; rows of zeros are unchanged."""
    totals = amounts.sum(axis=1, keepdims=True)
    return (amounts / np.where(totals > 0, totals, 1)).astype(np.float32)


def distances(labels: Array, num_classes: int, kind: str) -> Array:
    """Return D_y, the distances of the annotations of two images.

    One minus the correlation of their annotation vectors (eq. 7), or, for values, the Euclidean
    distance of the values, standardised per column.

    Args:
        labels: (n,) int32 classes, or (n, c) float32 or float64.
        num_classes: c.
        kind: one of `jaxparc.labels.KINDS`.

    Returns:
        (n, n), symmetric, in [0, 2] but for values. Classes: 0 for the same class, else
        c / (c - 1), the distance of two one-hot vectors. Multi-label: computed from the three
        integers that determine it. Annotation vectors: multiples of 1 / VECTOR_GRID. Values:
        multiples of 1 / VALUE_GRID. NaN for multi-label rows and annotation vectors whose entries
        are all equal.
    """
    if kind == "classes":
        other = np.float32(num_classes / (num_classes - 1))
        return jnp.where(labels[:, None] == labels[None, :], 0.0, other)
    if kind == "vectors":
        # Correlations that are mathematically equal, such as those of equal vectors or of vectors
        # that are permutations of each other, differ by rounding; on this grid they tie.
        return 1.0 - jnp.round(stats.corrcoef(labels) * VECTOR_GRID) / VECTOR_GRID
    if kind == "values":
        # So that equal differences, such as those of whole years, tie.
        grid = VALUE_GRID[labels.dtype.itemsize]
        y = stats.standardize(labels)
        squares = jax.lax.map(lambda row: jnp.sum(jnp.square(y - row[None, :]), axis=1), y)
        return jnp.round(jnp.sqrt(squares) * grid) / grid
    # For vectors with a and b ones, of which k are shared, the correlation is
    # (c k - a b) / sqrt(a (c - a) b (c - b)). Numerator and product are integers that float32
    # represents exactly up to c = 90, and division and root are correctly rounded, so equal ratios
    # give equal floats.
    c = np.float32(num_classes)
    ones = jnp.sum(labels, axis=1)
    shared = jnp.matmul(labels, labels.T)
    covariance = c * shared - ones[:, None] * ones[None, :]
    spread = ones * (c - ones)
    ratio = jnp.square(covariance) / (spread[:, None] * spread[None, :])
    return 1.0 - jnp.sign(covariance) * jnp.sqrt(ratio)
