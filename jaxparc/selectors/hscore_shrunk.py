"""Shrunk H-Score: H-Score with a well-conditioned covariance matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors.hscore import left_out
from jaxparc.selectors.probe import Probe

# By the item size of the dtype: the square of a pivot, over the largest diagonal entry, below which
# it holds more rounding noise than the score tolerates.
PIVOT = {4: 1e-3, 8: 1e-12}


def hscore_shrunk(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Score how much of the features' variance lies between the classes, with shrinkage.

    Ibrahim et al., ECML PKDD 2022: (1 - delta) tr(M^-1 S_b), with
    M = (1 - delta) S + delta mu I, S the covariance matrix of the features, S_b that of their class
    means, mu = tr(S) / d, and delta the shrinkage of Ledoit and Wolf (2004), which minimises the
    expected error of M; `sklearn.covariance.ledoit_wolf` has the same. With K = X X^T the inner
    products of the centred features, a = (1 - delta) / n, b = delta mu, and P the projection that
    replaces every image by the mean of its class,

        a tr((a X^T X + b I)^-1 X^T P X) = a tr(P K (a K + b I)^-1)
                                         = tr(P) - b tr(P (a K + b I)^-1).

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, reduce the features by PCA first; None for no reduction.

    Returns:
        () float32 in [0, c - 1], with c the number of classes present; 0 if delta is 1. It depends
        on the relative scale of the columns, unlike `hscore`, which standardises them. NaN if delta
        is 0, as it is for a single column and for two points that all images lie on equally often.
    """
    return _scored(probe, n_dims).score


def needs_float64(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return whether float32 is too coarse, () bool; options as in `hscore_shrunk`."""
    return _scored(probe, n_dims).noisy


def contributions(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    This is n times the change of the score if the image is left out: of S and S_b, see
    `hscore.left_out`; and to first order of delta and mu, by which the score has the derivatives
    -mu T and -(1 - delta) delta T, with T = tr(M^-2 S_b). Options as in `hscore_shrunk`.
    """
    found = _scored(probe, n_dims)
    n, y = len(found.products), probe.targets(found.products.dtype)
    a, b = (1.0 - found.delta) / n, found.delta / found.d
    solved = jax.scipy.linalg.solve_triangular(found.lower, found.solved, lower=True, trans=1)
    along = stats.matmul(found.products, solved)  # of sums over the square roots of class sizes
    twice = jnp.sum(solved * along) / n
    # K (a K + b I)^-1 = (I - b (a K + b I)^-1) / a
    inverse = jax.scipy.linalg.solve_triangular(found.lower, jnp.eye(n, dtype=y.dtype), lower=True)
    leverages = 1.0 - b * jnp.sum(jnp.square(inverse), axis=0)
    sums = along * jnp.sqrt(jnp.sum(y, axis=0))
    squares = jnp.diagonal(found.products)
    moved = n * (found.delta - _without(found.products, found.d))
    share = moved + (1.0 - found.delta) * found.delta * squares
    return left_out(sums, leverages, a, y) - share / found.d * twice


class _Scored(NamedTuple):
    """The score and what it is computed from.

    Attributes:
        score: ().
        noisy: () bool, whether it is inaccurate in the precision of the features.
        products: (n, n), K, scaled to a covariance matrix of trace 1.
        d: (), the number of features.
        delta: ().
        lower: (n, n), Cholesky factor L of a K + b I.
        solved: (n, c), L^-1 of the centred indicators of the classes, of length 1.
    """

    score: Array
    noisy: Array
    products: Array
    d: Array
    delta: Array
    lower: Array
    solved: Array


def _scored(probe: Probe, n_dims: int | None) -> _Scored:
    def compute() -> _Scored:
        products, _ = probe.centred_gram(n_dims)
        n, size = len(products), products.dtype.itemsize
        products = products / (jnp.trace(products) / n)  # a covariance matrix of trace 1
        d = jnp.asarray(probe.num_columns(n_dims), products.dtype)
        delta = shrinkage(products, d)
        a, b = (1.0 - delta) / n, delta / d
        # Centring makes the vector of ones an eigenvector of K, with eigenvalue 0. The centred
        # indicators of the classes, which P minus its mean is made of, are orthogonal to it, so
        # any other eigenvalue does too, and does not pass for a direction without variance.
        eye = jnp.eye(n, dtype=products.dtype)
        shifted = a * (products + 1.0 / n) + b * eye
        y = probe.targets(products.dtype)
        images = jnp.sum(y, axis=0, keepdims=True)
        centred = (y - images / n) * jax.lax.rsqrt(jnp.maximum(images, 1.0))
        lower = jnp.linalg.cholesky(shifted)
        solved = jax.scipy.linalg.solve_triangular(lower, centred, lower=True)
        score = jnp.sum(jnp.square(centred)) - b * jnp.sum(jnp.square(solved))
        score = jnp.where(delta < 1.0, score, 0.0)  # not a rounding error, which would be ranked
        pivots = jnp.square(jnp.diagonal(lower))
        # NaN, of a failed decomposition, compares false.
        noisy = ~jnp.all(pivots > PIVOT[size] * jnp.max(jnp.diagonal(shifted)))
        if size == 8:  # there is no wider dtype to fall back on
            score = jnp.where(noisy, jnp.nan, score)
        return _Scored(score, noisy, products, d, delta, lower, solved)

    return probe.once(("hscore_shrunk", n_dims), compute)


def shrinkage(products: Array, d: Array) -> Array:
    """Return the shrinkage of a covariance matrix by Ledoit and Wolf (2004), from inner products.

    Args:
        products: (n, n), inner products of the centred features.
        d: (), the number of features.

    Returns:
        () in [0, 1]: the share of the covariance matrix that is replaced by a multiple of the
        identity.
    """
    squares = jnp.diagonal(products)
    powers = jnp.sum(squares), jnp.sum(jnp.square(squares)), jnp.sum(jnp.square(products))
    return _share(len(products), *powers, d)


def _without(products: Array, d: Array) -> Array:
    """Return the shrinkage without each of the images, (n,), their mean being taken as given."""
    squares = jnp.diagonal(products)
    rows = jnp.square(products)
    return _share(
        len(products) - 1,
        jnp.sum(squares) - squares,
        jnp.sum(jnp.square(squares)) - jnp.square(squares),
        jnp.sum(rows) - 2.0 * jnp.sum(rows, axis=1) + jnp.square(squares),
        d,
    )


def _share(n: int, lengths: Array, fourth: Array, pairs: Array, d: Array) -> Array:
    """Return the shrinkage from sums of |x|^2, of |x|^4, and of squared inner products."""
    trace = lengths / n
    norm = pairs / n**2  # of the covariance matrix, squared
    spread = (fourth / n - norm) / n
    away = norm - jnp.square(trace) / d  # from the multiple of the identity, squared
    share = jnp.where(spread < away, spread / away, 1.0)
    return jnp.where((spread > 0) & (d > 1), share, 0.0)
