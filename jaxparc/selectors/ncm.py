"""NCM: the nearest class mean, with every image left out in turn."""

import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors import outcomes
from jaxparc.selectors.probe import Probe

# Squared distances closer than this, over the mean squared distance of an image from the mean of
# all, tie: float32 does not tell them apart.
SLACK = {4: 4e-6, 8: 1e-12}  # by the item size of the dtype

# Mean squared distance from the mean below which float32 rounds directions too much.
SPREAD = 1e-6


def ncm(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return the accuracy of the nearest class mean (leave one out).

    The features of every image are divided by their Euclidean length (features of 0 remain 0). An
    image is assigned to the class whose mean is nearest, the mean of its own class being that of
    the other images.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, reduce the features by PCA before they are divided; None for no reduction.

    Returns:
        () float32 in [0, 100], the percentage of images whose class is nearest; t equally near ones
        count 1 / t. The only image of a class counts 0. NaN if all features point in the same
        direction.
    """
    return outcomes.score(probe, contributions(probe, n_dims=n_dims))


def contributions(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32; options as in `ncm`.

    The mean is the score: 100 if the class is nearest, 100 / t if t are. NaN throughout if the
    score is.
    """
    products = probe.directions(n_dims)
    y = probe.targets(products.dtype)
    images = jnp.sum(y, axis=0)
    means = y / jnp.maximum(images, 1.0)[None, :]
    # ||x - m||^2 = x x - 2 x m + m m; centring keeps the terms about as large as the distances.
    with_means = stats.matmul(products, means)
    squares = jnp.diagonal(products)
    distances = squares[:, None] - 2.0 * with_means + jnp.sum(means * with_means, axis=0)[None, :]
    # Without the image itself the mean of its class is n_c / (n_c - 1) times as far from it.
    further = jnp.where(images > 1, images / jnp.maximum(images - 1.0, 1.0), jnp.inf)
    distances = jnp.where(y > 0, jnp.square(further)[None, :] * distances, distances)
    distances = jnp.where(images[None, :] > 0, distances, jnp.inf)
    size = jnp.mean(squares)
    right = stats.hits(-distances, probe.labels, SLACK[products.dtype.itemsize] * size)
    return jnp.where(size > 0, 100.0 * right, jnp.nan)


def needs_float64(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return whether float32 is too coarse for the distances, () bool; options as in `ncm`."""
    products = probe.directions(n_dims)
    squares = jnp.diagonal(products)
    distances = squares[:, None] + squares[None, :] - 2.0 * products
    size = jnp.mean(squares)
    narrow = (size > 0) & (size < SPREAD)
    return narrow | stats.crowded(distances, squares, stats.CROWDED[4])


def summaries(*, n_dims: int | None = None) -> tuple[str, ...]:
    """Return the summaries that the score follows from; options as in `ncm`."""
    return ("directions",) if n_dims is None else ("centred_gram",)
