"""Statistics of one sample, as pure functions.

Every function takes one model's arrays, is neither jitted nor mapped (the caller does both), works
in float32 with the highest matrix precision, and returns NaN where the quantity is undefined.
n images are rows, d features are columns.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import rankdata as rankdata

# Directions whose singular value is below this share of the first carry rounding noise only:
# float32 leaves a few 1e-7 of the first in every direction, and real spectra end well above.
RANK_CUT = 1e-5


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def standardize(x: Array) -> Array:
    """Columns with mean 0 and population standard deviation 1; a constant column becomes zeros.

    Args:
        x: (n, d) float32.

    Returns:
        (n, d) float32.
    """
    # Constancy is decided on the values: the computed deviation of equal floats is often not 0.
    constant = jnp.max(x, axis=0) == jnp.min(x, axis=0)
    centred = x - jnp.mean(x, axis=0)
    std = jnp.sqrt(jnp.mean(jnp.square(centred), axis=0))
    return jnp.where(constant, 0.0, centred / jnp.where(constant, 1.0, std))


def corrcoef(x: Array, where: Array | None = None) -> Array:
    """Pearson correlation of the rows with each other.

    A correlation within 1e-6 of 1 or -1 is 1 or -1: with two columns every one is, and must tie.

    Args:
        x: (n, d) float32.
        where: (d,) bool, the columns that count; None counts all.

    Returns:
        (n, n) float32 in [-1, 1]; NaN in the row and column of a constant row.
    """
    if where is not None:
        x = jnp.where(where, x, 0.0)
    # Constancy is decided on the values here too: a subtracted mean is off by rounding.
    highest = jnp.max(x, axis=1, where=where, initial=-jnp.inf)
    lowest = jnp.min(x, axis=1, where=where, initial=jnp.inf)
    centred = x - jnp.mean(x, axis=1, where=where, keepdims=True)
    if where is not None:
        centred = jnp.where(where, centred, 0.0)
    norm = jnp.sqrt(jnp.sum(jnp.square(centred), axis=1))
    norm = jnp.where(highest > lowest, norm, jnp.nan)
    # Normalising after the product reads x once and costs n * n divisions instead of n * d.
    r = _matmul(centred, centred.T) / (norm[:, None] * norm[None, :])
    return jnp.where(jnp.abs(r) > 1.0 - 1e-6, jnp.sign(r), r)


def represent(features: Array, n_dims: int | None) -> tuple[Array, Array | None]:
    """Features as representations are compared: reduced, if asked for, then standardised.

    Args:
        features: (n, d) float32.
        n_dims: f of a PCA before the standardisation, which then whitens; None for none.

    Returns:
        (n, d) or (n, f) float32, and which columns count: None for all, or (f,) bool.
    """
    kept = None
    if n_dims is not None:
        features, kept = pca(features, n_dims)
    return standardize(features), kept


def cka(a: Array, b: Array) -> Array:
    """Centred kernel alignment of two symmetric matrices, by the unbiased statistic.

    The matrices are U-centred (Szekely and Rizzo 2014, definition 2): the diagonal does not count,
    and rows sum to 0. What is returned is their cosine.

    Args:
        a: (n, n) float32, n > 3.
        b: (n, n) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant off the diagonal.
    """

    def centred(x: Array) -> Array:
        n = x.shape[0]
        off = jnp.where(jnp.eye(n, dtype=bool), 0.0, x)
        rows = jnp.sum(off, axis=1) / (n - 2)
        total = jnp.sum(rows) / (n - 1)
        return jnp.where(jnp.eye(n, dtype=bool), 0.0, off - rows[:, None] - rows[None, :] + total)

    # Decided on the values: centring a constant leaves rounding noise, which has a cosine.
    pairs = upper_triangle(a), upper_triangle(b)
    defined = [jnp.max(v) > jnp.min(v) for v in pairs]
    a, b = centred(a), centred(b)
    norms = jnp.sqrt(jnp.sum(jnp.square(a)) * jnp.sum(jnp.square(b)))
    cosine = jnp.clip(jnp.sum(a * b) / norms, -1.0, 1.0)
    return jnp.where(defined[0] & defined[1], cosine, jnp.nan)


def upper_triangle(square: Array) -> Array:
    """The entries above the diagonal, row by row.

    Args:
        square: (n, n).

    Returns:
        (n * (n - 1) / 2,), one value per pair i < j.
    """
    rows, columns = np.triu_indices(square.shape[0], k=1)
    return square[rows, columns]


def pearson(a: Array, b: Array) -> Array:
    """Pearson correlation of two samples.

    Args:
        a: (k,) float32.
        b: (k,) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant or holds a NaN.
    """
    defined = (jnp.max(a) > jnp.min(a)) & (jnp.max(b) > jnp.min(b))
    a = a - jnp.mean(a)
    b = b - jnp.mean(b)
    r = jnp.sum(a * b) / jnp.sqrt(jnp.sum(jnp.square(a)) * jnp.sum(jnp.square(b)))
    return jnp.where(defined, jnp.clip(r, -1.0, 1.0), jnp.nan)


def spearman(a: Array, b: Array) -> Array:
    """Spearman rank correlation, with average ranks for ties.

    Args:
        a: (k,) float32.
        b: (k,) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant or holds a NaN.
    """
    # A NaN would be ranked last and give a legal-looking number.
    defined = jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b))
    # Ranks over their count: squares of raw ranks of 124,750 pairs lose digits in float32.
    ranks = [rankdata(v).astype(jnp.float32) / np.float32(v.size) for v in (a, b)]
    return jnp.where(defined, pearson(*ranks), jnp.nan)


def pca(x: Array, n_dims: int) -> tuple[Array, Array]:
    """Scores on the leading principal components, exact up to rounding.

    A singular value decomposition of the centred features, after a QR decomposition where d > n:

        x^T = Q R       x = R^T Q^T,  R^T = U S W^T       scores U S, the n x n part alone

    The Gram matrix x x^T would be cheaper and is wrong: it holds squares, so behind one dominating
    component those under about 1e-3 of it drown in float32.

    The sign of a component is free and changes row correlations. Convention (scikit-learn's
    before 1.5): the image with the largest absolute score on a component is positive.

    Args:
        x: (n, d) float32; centred here.
        n_dims: f, the number of components; more than min(n, d) becomes min(n, d).

    Returns:
        Scores (n, f) float32, largest component first, and (f,) bool that is False for a
        component under RANK_CUT times the first, which is rounding noise; its scores are 0.

    Differs from the authors' code, which takes a randomised SVD with one power iteration: that is
    up to 0.4 points of PARC away from the components it approximates.
    """
    n, d = x.shape
    f = min(n_dims, n, d)
    constant = jnp.max(x, axis=0) == jnp.min(x, axis=0)
    x = jnp.where(constant, 0.0, x - jnp.mean(x, axis=0))
    small = x if d <= n else jnp.linalg.qr(x.T, mode="r").T
    left, values, _ = jnp.linalg.svd(small, full_matrices=False)
    left = left[:, :f]
    values = values[:f]
    top = jnp.argmax(jnp.abs(left), axis=0)
    sign = jnp.sign(left[top, jnp.arange(f)])
    kept = values > RANK_CUT * values[0]
    return jnp.where(kept, left * sign * values, 0.0), kept
