"""Statistics of one sample, as pure functions.

Every function takes the arrays of one model; the caller jits and vmaps. Functions compute in the
precision of their arguments, float32 or float64, with the highest matrix precision, and return NaN
where the quantity is undefined. n images are rows, d features are columns.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import backend

# Squared distance between two images, over the sum of their squared lengths, below which inner
# products have too few digits to resolve it; by the item size of the dtype.
CROWDED = {4: 1e-3, 8: 1e-9}


def matmul(a: Array, b: Array) -> Array:
    """Return the matrix product at the highest precision, also on accelerators."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def standardize(x: Array) -> Array:
    """Scale columns to mean 0 and population standard deviation 1; constant ones become zeros.

    Args:
        x: (n, d) float32.

    Returns:
        (n, d) float32.
    """
    # Subtracting one image first is exact for constant columns and for columns with a large offset.
    # Dividing by the largest distance from it keeps squares in range, whatever the column's scale.
    y = x - x[:1]
    spread = jnp.max(jnp.abs(y), axis=0, keepdims=True)
    constant = spread == 0
    y = y * (1.0 / jnp.where(constant, 1.0, spread))
    centred = y - jnp.mean(y, axis=0, keepdims=True)
    std = jnp.sqrt(jnp.mean(jnp.square(centred), axis=0, keepdims=True))
    return jnp.where(constant, 0.0, centred * (1.0 / jnp.where(constant, 1.0, std)))


def corrcoef(x: Array, where: Array | None = None) -> Array:
    """Return the Pearson correlations of the rows with each other.

    Correlations within 1e-6 of 1 or -1 are rounded to it: with two columns all are, and must tie.

    Args:
        x: (n, d) float32.
        where: (d,) bool, the columns that count; None for all.

    Returns:
        (n, n) float32 in [-1, 1]; NaN in the row and column of a constant row.
    """
    return correlations(row_products(x, where)[0], varies(x, where))


def varies(x: Array, where: Array | None = None) -> Array:
    """Return which rows of x (n, d) are not constant over the columns that count, (n,) bool."""
    if where is not None:
        where = where[None, :]
    # Decided on the values themselves: rows minus their mean have rounding errors.
    highest = jnp.max(x, axis=1, where=where, initial=-jnp.inf)
    lowest = jnp.min(x, axis=1, where=where, initial=jnp.inf)
    return highest > lowest


def correlations(products: Array, defined: Array) -> Array:
    """Return correlations from inner products of centred rows, (n, n).

    Args:
        products: (n, n) float32.
        defined: (n,) bool; the rows and columns of the others are NaN.
    """
    norm = jnp.where(defined, jnp.sqrt(jnp.diagonal(products)), jnp.nan)
    # Normalising after the product reads x once and costs n * n divisions instead of n * d.
    r = products / (norm[:, None] * norm[None, :])
    return jnp.where(jnp.abs(r) > 1.0 - 1e-6, jnp.sign(r), r)


def row_products(x: Array, where: Array | None = None) -> tuple[Array, Array]:
    """Return the inner products of the rows, each minus its mean, and the means.

    To get the inner products of the uncentred rows, add the number of columns times the product of
    the means.

    Args:
        x: (n, d) float32.
        where: (d,) bool, the columns that count; None for all.

    Returns:
        (n, n) float32 and (n,) float32.
    """
    if where is not None:
        where = where[None, :]
        x = jnp.where(where, x, 0.0)
    mean = jnp.mean(x, axis=1, where=where)
    centred = x - mean[:, None]
    if where is not None:
        centred = jnp.where(where, centred, 0.0)
    return gram(centred), mean


def gram(x: Array) -> Array:
    """Return the inner products of the rows of x (n, d), (n, n) float32.

    By symmetry half of them would do; on a CPU, computing these in strips was only 5 % faster at
    n = 500. On accelerators, float32 is multiplied in three parts; see `gram_of_parts`.
    """
    if x.dtype == jnp.float32 and backend.choices().gram_of_parts:
        return gram_of_parts(x)
    return matmul(x, x.T)


def gram_of_parts(x: Array) -> Array:
    """Return the inner products of the rows of x (n, d), by products of bfloat16 numbers.

    Matrix units multiply these ten times as fast as float32 numbers, and add in float32. With
    x = a + b up to 2^-17 of x, X X^T = A A^T + A B^T + (A B^T)^T + B B^T: by symmetry three
    products. The error is a few 1e-6 of the product of the lengths.
    """
    # Not by a conversion and back, which XLA may leave out.
    upper = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    a, b = upper.astype(jnp.bfloat16), (x - upper).astype(jnp.bfloat16)

    def product(left: Array, right: Array) -> Array:
        return jnp.matmul(left, right.T, preferred_element_type=jnp.float32)

    mixed = product(a, b)
    return product(a, a) + (mixed + mixed.T + product(b, b))


def centred_gram(x: Array) -> tuple[Array, Array]:
    """Return the Gram matrix of the centred and scaled features, and their scale.

    Args:
        x: (n, d) float32.

    Returns:
        (n, n) float32, and () float32, the largest difference from the first image. Features are
        divided by it, so that no square overflows or underflows.
    """
    y, scale = centred(x)
    return gram(y), scale


def centred(x: Array) -> tuple[Array, Array]:
    """Return the features minus their column means, over their scale, and the scale.

    See `centred_gram`.
    """
    # Subtracting one image first is exact for constant columns and for columns with a large offset.
    y = x - x[:1]
    scale = jnp.max(jnp.abs(y))
    scale = jnp.where(scale == 0, 1.0, scale)
    return (y - jnp.mean(y, axis=0, keepdims=True)) * (1.0 / scale), scale


def mean_products(x: Array) -> tuple[Array, Array]:
    """Return what the inner products of the rows have beyond those of the centred rows.

    With the result (v, s), x x^T = K + v 1^T + 1 v^T + s 1 1^T, K that of `centred_gram`.

    Args:
        x: (n, d) float32.

    Returns:
        (n,) float32, products of the centred rows with the mean of all rows, and () float32, the
        square of its length; both over the square of the scale of `centred_gram`.
    """
    y, scale = centred(x)
    mean = (x[0] + jnp.mean(x - x[:1], axis=0)) * (1.0 / scale)
    return matmul(y, mean), jnp.sum(jnp.square(mean))


def directions(x: Array) -> Array:
    """Return the Gram matrix of rows of length 1, minus their mean.

    Args:
        x: (n, d) float32; rows of zeros remain zeros.

    Returns:
        (n, n) float32. Zeros throughout if the rows have the same direction.
    """
    # In two steps, so that no square overflows or underflows.
    largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
    zero = largest == 0
    x = x * (1.0 / jnp.where(zero, 1.0, largest))
    length = jnp.sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True))
    x = x * (1.0 / jnp.where(zero, 1.0, length))
    y = x - x[:1]
    # Of the same direction but for rounding.
    least = 8.0 * jnp.finfo(x.dtype).eps
    y = jnp.where(jnp.max(jnp.abs(y)) > least, y, 0.0)
    return gram(y - jnp.mean(y, axis=0, keepdims=True))


def squared_distances(x: Array) -> Array:
    """Return squared distances between the rows of x (n, d), over the square of their scale.

    They are sums of squared differences, so they are accurate for rows of any closeness, unlike
    those from inner products. For the scale, see `centred_gram`.
    """
    y, _ = centred(x)
    return jax.lax.map(lambda row: jnp.sum(jnp.square(y - row[None, :]), axis=1), y)


def crowded(distances: Array, squares: Array, share: float) -> Array:
    """Return whether most images have a neighbour that is close relative to their lengths, () bool.

    This happens if one column or direction dominates: images that agree in it differ by less than
    the rounding error of its square. Identical images do not count as close.

    Args:
        distances: (n, n), squared distances.
        squares: (n,), squared lengths.
        share: two images are close if their squared distance is at most this share of the sum of
            their squared lengths.
    """
    lengths = squares[:, None] + squares[None, :]
    apart = (distances > share * lengths) | (distances == 0)
    return jnp.mean(jnp.all(apart, axis=1).astype(jnp.float32)) < 0.5


def cka(a: Array, b: Array) -> Array:
    """Return the centred kernel alignment of two symmetric matrices, by the unbiased statistic.

    Args:
        a: (n, n) float32, n > 3.
        b: (n, n) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant off the diagonal.
    """
    return cosine(u_centred(a), u_centred(b))


def u_centred(x: Array) -> Array:
    """U-centre a symmetric matrix (Szekely and Rizzo 2014, definition 2) and divide it by its norm.

    The diagonal is ignored and set to 0, and rows sum to 0. The inner product of two such matrices
    is their `cka`.

    Args:
        x: (n, n) float32, n > 3.

    Returns:
        (n, n) float32; NaN throughout if x is constant off the diagonal.
    """
    n = x.shape[0]
    diagonal = jnp.eye(n, dtype=bool)
    # Decided on the values: centring a constant leaves rounding noise, whose cosine is defined.
    highest = jnp.max(x, where=~diagonal, initial=-jnp.inf)
    lowest = jnp.min(x, where=~diagonal, initial=jnp.inf)
    off = jnp.where(diagonal, 0.0, x)
    rows = jnp.sum(off, axis=1) / (n - 2)
    total = jnp.sum(rows) / (n - 1)
    centred = jnp.where(diagonal, 0.0, off - rows[:, None] - rows[None, :] + total)
    return jnp.where(highest > lowest, centred / jnp.linalg.norm(centred), jnp.nan)


def upper_triangle(square: Array) -> Array:
    """Return the entries above the diagonal, row by row.

    Args:
        square: (n, n).

    Returns:
        (n * (n - 1) / 2,), one value per pair i < j.
    """
    rows, columns = np.triu_indices(square.shape[0], k=1)
    return square[rows, columns]


def ranks(x: Array) -> Array:
    """Return ranks from 1; equal values share their average rank.

    float64 is ranked by sorting. float32 is ranked by counting, which suits dissimilarities: these
    lie in [0, 2] with a resolution of about 2^-24 of the range. A histogram with 4,096 bins of
    equal width gives the coarse rank; a bin that holds c values is divided into at least c slots of
    equal width, and a second histogram gives the rank of a slot. This is linear in k: on two CPU
    cores XLA ranks 124,750 floats in 32 ms by sorting and in 2 ms by counting.

    Args:
        x: (k,) float32 or float64.

    Returns:
        (k,) of the same dtype. Equal values have equal ranks. In float32, ranks never decrease with
        the values, but values closer than 2^-24 of the range tie, as do the few that share a slot.
        That changes a Spearman correlation by less than 1e-5 for values spread over their range,
        such as dissimilarities, normal and uniform numbers, but by 0.1 for heavy tails, such as
        lognormal numbers with sigma 6. NaN throughout if any value is not finite.
    """
    lowest, highest = jnp.min(x), jnp.max(x)
    # Not by the largest and the smallest: on a CPU these may leave NaN out.
    return jnp.where(jnp.all(jnp.isfinite(x)), _finite_ranks(x, lowest, highest), jnp.nan)


def _finite_ranks(x: Array, lowest: Array, highest: Array) -> Array:
    if x.dtype == jnp.float64:
        return jax.scipy.stats.rankdata(x).astype(x.dtype)
    k = x.size
    finer = max(1, (1 << 17) // k)  # slots per value
    unit = (highest - lowest) / (1 << 24)
    key = ((x - lowest) / jnp.where(unit == 0, 1.0, unit)).astype(jnp.int32)
    coarse, fine = key >> 12, key & 0xFFF
    in_bin = jnp.zeros(4097, jnp.int32).at[coarse].add(1)
    below = jnp.cumsum(in_bin, dtype=jnp.int32) - in_bin
    share = fine.astype(jnp.float32) / (1 << 12)
    within = (finer * in_bin[coarse]).astype(jnp.float32) * share
    slot = finer * below[coarse] + within.astype(jnp.int32)
    in_slot = jnp.zeros(finer * k, jnp.int32).at[slot].add(1)
    upto = jnp.cumsum(in_slot, dtype=jnp.int32)
    # Twice the average rank of a slot is an integer.
    return ((2 * upto - in_slot + 1).astype(x.dtype) / 2)[slot]


def standard_ranks(x: Array) -> Array:
    """Return ranks with mean 0 and length 1, whose inner product is Spearman's correlation.

    Args:
        x: (k,) float32.

    Returns:
        (k,) float32; NaN throughout if all values are equal or any is not finite.
    """
    # Ranks are divided by k: the squares of raw ranks of 124,750 pairs lose digits in float32.
    centred = (ranks(x) - (x.size + 1) / 2) / x.size
    norm = jnp.sqrt(jnp.sum(jnp.square(centred)))
    return jnp.where(jnp.max(x) > jnp.min(x), centred / norm, jnp.nan)


def spearman(a: Array, b: Array) -> Array:
    """Return Spearman's rank correlation, with average ranks for ties.

    Args:
        a: (k,) float32.
        b: (k,) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant or holds a value that is not finite.
    """
    return cosine(standard_ranks(a), standard_ranks(b))


def hits(scores: Array, labels: Array, slack: Array | float = 0.0) -> Array:
    """Return by how much the largest score of each image is that of its class.

    Args:
        scores: (n, c).
        labels: (n,) int32 classes.
        slack: scores that are less than this below the largest tie with it.

    Returns:
        (n,) float32: 1 / t if the score of the class is among t tied largest ones, else 0.
    """
    highest = scores >= jnp.max(scores, axis=1, keepdims=True) - slack
    own = jnp.take_along_axis(highest, labels[:, None], axis=1)[:, 0]
    tied = jnp.maximum(jnp.sum(highest, axis=1), 1)  # none if the scores are NaN
    return own.astype(scores.dtype) / tied.astype(scores.dtype)


def standard(x: Array, where: Array) -> Array:
    """Return entries with mean 0 and length 1, whose inner product is Pearson's correlation.

    Args:
        x: float32.
        where: bool, the entries that count; the others become 0.

    Returns:
        float32, of the same shape; NaN throughout if the entries are equal, or one is not finite.
    """
    # Decided on the values: centring a constant leaves rounding noise.
    highest = jnp.max(x, where=where, initial=-jnp.inf)
    lowest = jnp.min(x, where=where, initial=jnp.inf)
    centred = jnp.where(where, x - jnp.mean(x, where=where), 0.0)
    norm = jnp.sqrt(jnp.sum(jnp.square(centred)))
    return jnp.where(highest > lowest, centred / norm, jnp.nan)


def pair_contributions(a: Array, b: Array) -> Array:
    """Return what each image contributes to `cosine(a, b)` over pairs of images, up to a constant.

    To first order, an average over pairs changes with the images as an average over images does, of
    twice the mean of the pairs that an image is in (the projection of a U-statistic, Hoeffding
    1948). Pairs are averaged here that contribute to a correlation of a and b, each of which has
    mean 0.

    Args:
        a: (n, n), symmetric with a diagonal of 0, or (n * (n - 1) / 2,), see `upper_triangle`;
            with mean 0 and length 1.
        b: as a.

    Returns:
        (n,), of the dtype of the first, with mean 0.
    """
    b = b.astype(a.dtype)
    change = a * b - jnp.sum(a * b) * (jnp.square(a) + jnp.square(b)) / 2.0
    if a.ndim == 2:
        return 2.0 * len(a) * jnp.sum(change, axis=1)
    n = (1 + math.isqrt(1 + 8 * len(a))) // 2
    first, second = np.triu_indices(n, k=1)
    return n * jnp.zeros(n, a.dtype).at[first].add(change).at[second].add(change)


def cosine(a: Array, b: Array) -> Array:
    """Return the inner product, in [-1, 1], of two arrays of the same shape and length 1.

    It is computed in the dtype of the first.
    """
    b = b.astype(a.dtype)
    return jnp.clip(jnp.sum(a * b), -1.0, 1.0)
