"""Shrunk H-Score: H-Score with a well-conditioned covariance matrix."""

import jax
import jax.numpy as jnp
from jax import Array

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
    return _scored(probe, n_dims)[0]


def needs_float64(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return whether float32 is too coarse, () bool; options as in `hscore_shrunk`."""
    return _scored(probe, n_dims)[1]


def _scored(probe: Probe, n_dims: int | None) -> tuple[Array, Array]:
    """Return the score, and whether it is inaccurate in the precision of the features, () bool."""

    def compute() -> tuple[Array, Array]:
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
        return score, noisy

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
    n = len(products)
    squares = jnp.diagonal(products)
    trace = jnp.sum(squares) / n
    norm = jnp.sum(jnp.square(products)) / n**2  # of the covariance matrix, squared
    spread = (jnp.sum(jnp.square(squares)) / n - norm) / n
    away = norm - jnp.square(trace) / d  # from the multiple of the identity, squared
    share = jnp.where(spread < away, spread / away, 1.0)
    return jnp.where((spread > 0) & (d > 1), share, 0.0)
