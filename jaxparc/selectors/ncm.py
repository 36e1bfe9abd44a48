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
    return outcomes.score(probe, _outcomes(probe, n_dims))


def contributions(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32; options as in `ncm`.

    This is 100 if its class is nearest, 100 / t if t are, and to first order by how much the image
    improves the outcomes of others (see `outcomes.slopes`): without image i, the squared distance
    of j from the mean m of n_y images of its class changes by 2 (i - m)(j - m) / (n_y - 1). NaN
    throughout if the score is.
    """
    products = probe.directions(n_dims)
    distances, means = _distances(probe, n_dims)
    y = probe.targets(products.dtype)
    images = jnp.sum(y, axis=0)
    finite = jnp.isfinite(distances)
    distances = jnp.where(finite, distances, jnp.max(distances, where=finite, initial=0.0))
    slopes = outcomes.slopes(probe, -distances)
    with_means = stats.matmul(products, means)
    squares = jnp.sum(means * with_means, axis=0)
    total, along = jnp.sum(slopes, axis=0), jnp.sum(slopes * with_means, axis=0)
    # Of every image and class: the sum of slope_j (i - m)(j - m) over all j, and over i alone.
    summed = stats.matmul(products, slopes) - total * with_means - along + total * squares
    alone = jnp.diagonal(products)[:, None] - 2.0 * with_means + squares
    change = y * (summed - slopes * alone) * (2.0 / jnp.maximum(images - 1.0, 1.0))
    return _outcomes(probe, n_dims) + jnp.sum(change, axis=1)


def _outcomes(probe: Probe, n_dims: int | None) -> Array:
    size = jnp.mean(jnp.diagonal(probe.directions(n_dims)))
    distances, _ = _distances(probe, n_dims)
    right = stats.hits(-distances, probe.labels, SLACK[size.dtype.itemsize] * size)
    return jnp.where(size > 0, 100.0 * right, jnp.nan)


def _distances(probe: Probe, n_dims: int | None) -> tuple[Array, Array]:
    """Return squared distances from the class means, and the weights of images in these, (n, c)."""

    def compute() -> tuple[Array, Array]:
        products = probe.directions(n_dims)
        y = probe.targets(products.dtype)
        images = jnp.sum(y, axis=0)
        means = y / jnp.maximum(images, 1.0)[None, :]
        # ||x - m||^2 = x x - 2 x m + m m; centring keeps the terms about as large as the distances.
        with_means = stats.matmul(products, means)
        distances = jnp.diagonal(products)[:, None] - 2.0 * with_means
        distances = distances + jnp.sum(means * with_means, axis=0)[None, :]
        # Without the image itself the mean of its class is n_c / (n_c - 1) times as far from it.
        further = jnp.where(images > 1, images / jnp.maximum(images - 1.0, 1.0), jnp.inf)
        distances = jnp.where(y > 0, jnp.square(further)[None, :] * distances, distances)
        return jnp.where(images[None, :] > 0, distances, jnp.inf), means

    return probe.once(("ncm", n_dims), compute)


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
