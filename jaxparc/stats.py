"""Statistics of one sample, as pure functions.

Every function takes one model's arrays, is neither jitted nor mapped (the caller does both), works
in their precision, float32 or float64, with the highest matrix precision, and returns NaN where the
quantity is undefined. n images are rows, d features are columns.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# The squared distance of an image from its nearest, over their squared lengths, under which their
# product has too few digits to tell; by the bytes of a number.
CROWDED = {4: 1e-3, 8: 1e-9}


def matmul(a: Array, b: Array) -> Array:
    """The product in full float32, also where a device would rather not."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def standardize(x: Array) -> Array:
    """Columns with mean 0 and population standard deviation 1; a constant column becomes zeros.

    Args:
        x: (n, d) float32.

    Returns:
        (n, d) float32.
    """
    # Minus one image first: that is exact where a large offset, or a constant, is all there is.
    # Over the largest distance from it: squares stay in range, whatever the column's size.
    y = x - x[:1]
    spread = jnp.max(jnp.abs(y), axis=0, keepdims=True)
    constant = spread == 0
    y = y * (1.0 / jnp.where(constant, 1.0, spread))
    centred = y - jnp.mean(y, axis=0, keepdims=True)
    std = jnp.sqrt(jnp.mean(jnp.square(centred), axis=0, keepdims=True))
    return jnp.where(constant, 0.0, centred * (1.0 / jnp.where(constant, 1.0, std)))


def corrcoef(x: Array, where: Array | None = None) -> Array:
    """Pearson correlation of the rows with each other.

    A correlation within 1e-6 of 1 or -1 is 1 or -1: with two columns every one is, and must tie.

    Args:
        x: (n, d) float32.
        where: (d,) bool, the columns that count; None counts all.

    Returns:
        (n, n) float32 in [-1, 1]; NaN in the row and column of a constant row.
    """
    return correlations(row_products(x, where)[0], varies(x, where))


def varies(x: Array, where: Array | None = None) -> Array:
    """Which rows of x (n, d) are not constant over the columns that count, (n,) bool."""
    if where is not None:
        where = where[None, :]
    # Decided on the values here too: a subtracted mean is off by rounding.
    highest = jnp.max(x, axis=1, where=where, initial=-jnp.inf)
    lowest = jnp.min(x, axis=1, where=where, initial=jnp.inf)
    return highest > lowest


def correlations(products: Array, defined: Array) -> Array:
    """Correlations from the products of centred rows (n, n); NaN where not `defined` (n,)."""
    norm = jnp.where(defined, jnp.sqrt(jnp.diagonal(products)), jnp.nan)
    # Normalising after the product reads x once and costs n * n divisions instead of n * d.
    r = products / (norm[:, None] * norm[None, :])
    return jnp.where(jnp.abs(r) > 1.0 - 1e-6, jnp.sign(r), r)


def row_products(x: Array, where: Array | None = None) -> tuple[Array, Array]:
    """Inner products of the rows, each minus its mean, and these means.

    Args:
        x: (n, d) float32.
        where: (d,) bool, the columns that count; None counts all.

    Returns:
        (n, n) float32 and (n,) float32. Those of the rows as they are: add the number of columns
        times the product of the means.
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
    """Inner products of the rows of x (n, d), (n, n) float32.

    All of them: half are enough, and making them in strips was 5 % faster at n = 500.
    """
    return matmul(x, x.T)


def centred_gram(x: Array) -> tuple[Array, Array]:
    """Gram matrix of the features, minus their column means, over their scale.

    Args:
        x: (n, d) float32.

    Returns:
        (n, n) float32, and the () float32 that features were divided by first, so that no square
        leaves float32: their largest distance from the first image's.
    """
    y, scale = centred(x)
    return gram(y), scale


def centred(x: Array) -> tuple[Array, Array]:
    """The features minus their column means, over their scale, and that, see `centred_gram`."""
    # Minus one image first: that is exact where a large offset, or a constant, is all there is.
    y = x - x[:1]
    scale = jnp.max(jnp.abs(y))
    scale = jnp.where(scale == 0, 1.0, scale)
    return (y - jnp.mean(y, axis=0, keepdims=True)) * (1.0 / scale), scale


def squared_distances(x: Array) -> Array:
    """Between the rows of x (n, d), (n, n): not by products, and so however close they are."""
    y, _ = centred(x)
    return jax.lax.map(lambda row: jnp.sum(jnp.square(y - row[None, :]), axis=1), y)


def crowded(distances: Array, squares: Array, share: float) -> Array:
    """Whether most images have another one near, for their lengths; () bool.

    So it is where a column, or a direction, dominates: images that agree in it differ by less than
    its square has digits for. Images that are the same do not count as near.

    Args:
        distances: (n, n), squared.
        squares: (n,), squared lengths.
        share: of the squared lengths of two images, which a distance is near under.
    """
    lengths = squares[:, None] + squares[None, :]
    apart = (distances > share * lengths) | (distances == 0)
    return jnp.mean(jnp.all(apart, axis=1).astype(jnp.float32)) < 0.5


def cka(a: Array, b: Array) -> Array:
    """Centred kernel alignment of two symmetric matrices, by the unbiased statistic.

    Args:
        a: (n, n) float32, n > 3.
        b: (n, n) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant off the diagonal.
    """
    return cosine(u_centred(a), u_centred(b))


def u_centred(x: Array) -> Array:
    """A symmetric matrix U-centred (Szekely and Rizzo 2014, definition 2), over its norm.

    The diagonal does not count and is 0, and rows sum to 0. The inner product of two such matrices
    is their `cka`.

    Args:
        x: (n, n) float32, n > 3.

    Returns:
        (n, n) float32; NaN throughout if x is constant off the diagonal.
    """
    n = x.shape[0]
    diagonal = jnp.eye(n, dtype=bool)
    # Decided on the values: centring a constant leaves rounding noise, which has a cosine.
    highest = jnp.max(x, where=~diagonal, initial=-jnp.inf)
    lowest = jnp.min(x, where=~diagonal, initial=jnp.inf)
    off = jnp.where(diagonal, 0.0, x)
    rows = jnp.sum(off, axis=1) / (n - 2)
    total = jnp.sum(rows) / (n - 1)
    centred = jnp.where(diagonal, 0.0, off - rows[:, None] - rows[None, :] + total)
    return jnp.where(highest > lowest, centred / jnp.linalg.norm(centred), jnp.nan)


def upper_triangle(square: Array) -> Array:
    """The entries above the diagonal, row by row.

    Args:
        square: (n, n).

    Returns:
        (n * (n - 1) / 2,), one value per pair i < j.
    """
    rows, columns = np.triu_indices(square.shape[0], k=1)
    return square[rows, columns]


def ranks(x: Array) -> Array:
    """Ranks from 1, equal values sharing the average of theirs.

    float64 is sorted. float32 is counted instead, for dissimilarities, which lie in [0, 2] and are
    rounded to about 2^-24 of it: a histogram of 4,096 bins of one width is the coarse rank. A bin
    that holds c values is cut into at least c slots of one width, and counting again gives the rank
    of a slot. Linear in k: XLA ranks 124,750 floats on two CPU cores in 32 ms by sorting, and in 2
    by counting.

    Args:
        x: (k,) float32 or float64.

    Returns:
        (k,) of the same type. Equal values have equal ranks. In float32, larger values have ranks
        at least as large, and values closer than 2^-24 of the range tie, as do the few that share a
        slot: under 1e-5 of a Spearman correlation where values spread over their range, as
        dissimilarities, normal and uniform numbers do, but 0.1 of heavy tails, such as lognormal
        numbers with sigma 6. NaN throughout if any value is not finite.
    """
    lowest, highest = jnp.min(x), jnp.max(x)
    return jnp.where(jnp.isfinite(highest - lowest), _finite_ranks(x, lowest, highest), jnp.nan)


def _finite_ranks(x: Array, lowest: Array, highest: Array) -> Array:
    if x.dtype == jnp.float64:
        return jax.scipy.stats.rankdata(x).astype(x.dtype)
    k = x.size
    finer = max(1, (1 << 17) // k)  # slots for every value
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
    # twice the average rank of a slot is an integer
    return ((2 * upto - in_slot + 1).astype(x.dtype) / 2)[slot]


def standard_ranks(x: Array) -> Array:
    """Ranks with mean 0 and length 1: the inner product of two such is their Spearman correlation.

    Args:
        x: (k,) float32.

    Returns:
        (k,) float32; NaN throughout if all values are equal or any is not finite.
    """
    # Ranks over their count: squares of raw ranks of 124,750 pairs lose digits in float32.
    centred = (ranks(x) - (x.size + 1) / 2) / x.size
    norm = jnp.sqrt(jnp.sum(jnp.square(centred)))
    return jnp.where(jnp.max(x) > jnp.min(x), centred / norm, jnp.nan)


def spearman(a: Array, b: Array) -> Array:
    """Spearman rank correlation, with average ranks for ties.

    Args:
        a: (k,) float32.
        b: (k,) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant or holds a value that is not finite.
    """
    return cosine(standard_ranks(a), standard_ranks(b))


def cosine(a: Array, b: Array) -> Array:
    """Inner product, in [-1, 1], of two arrays of one shape and length 1, in the first's type."""
    b = b.astype(a.dtype)
    return jnp.clip(jnp.sum(a * b), -1.0, 1.0)
