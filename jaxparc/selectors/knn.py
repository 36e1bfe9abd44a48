"""k-nearest-neighbour cross-validation."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.probe import Probe


def knn(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Is the nearest other image of the same class? Leave one out, k = 1, Euclidean.

    The baseline "1-NN CV" of the paper (section 5.1), on unscaled features.

    Args:
        probe: needs `features` (n, d) and `labels`.
        n_dims: f, reduce the features by PCA first.

    Returns:
        () float32 in [0, 100]: percent of images whose nearest neighbour (the first of equally
        near ones) has their class; multi-label: percent of label entries that agree.
    """
    x = probe.features if n_dims is None else stats.pca(probe.features, n_dims)[0]
    # ||a - b||^2 = ||a||^2 + ||b||^2 - 2ab cancels; centring keeps the terms of the size of the
    # distances themselves.
    x = x / jnp.max(jnp.abs(x))  # squares of very large or small features leave float32
    x = x - jnp.mean(x, axis=0)
    squares = jnp.sum(jnp.square(x), axis=1)
    product = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    distances = squares[:, None] + squares[None, :] - 2.0 * product
    # The image itself is left out by position: by distance, a duplicate could take its place.
    distances = jnp.fill_diagonal(distances, jnp.inf, inplace=False)
    nearest = jnp.argmin(distances, axis=1)
    right = jnp.mean((probe.labels[nearest] == probe.labels).astype(jnp.float32))
    return jnp.minimum(100.0 * right, 100.0)
