"""k-nearest-neighbour cross-validation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.errors import InputError
from jaxparc.selectors.probe import Probe

METRICS = ("euclidean", "cosine", "l1")


def knn(probe: Probe, *, n_dims: int | None = None, k: int = 1, metric: str = "euclidean") -> Array:
    """Are the nearest other images of the same class? Leave one out.

    The baseline "1-NN CV" of the paper (section 5.1), on unscaled features; with annotation
    vectors that of section 6.2.

    Args:
        probe: needs `features` (n, d) and `labels` of any kind.
        n_dims: f, reduce the features by PCA first.
        k: neighbours that vote, less than n.
        metric: of the features, one of `METRICS`; l1 reads n times as much memory.

    Returns:
        () float32. Classes: percent of images whose class has most votes, an image counting 1 / t
        where t classes have equally many (so where no class repeats, it is the share of neighbours
        that are right). Multi-label: percent of label entries that the majority has right, half
        where votes are equal. Annotation vectors: minus the L1 distance from the neighbours' mean
        vector, averaged over images, in [-2, 0] for shares that sum to 1. NaN if an image has no
        direction (cosine) or distances leave float32.

    Raises:
        InputError: k or the metric is none of these.
    """
    n = probe.features.shape[0]
    if not 1 <= k < n:
        raise InputError(f"knn: k is {k}; expected 1 to {n - 1} for {n} images")
    distances = _distances(probe, n_dims, metric)
    # The image itself is left out by position: by distance, a duplicate could take its place.
    away = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, distances)
    # top_k takes the first of equally near images
    nearest = jnp.argmin(away, axis=1)[:, None] if k == 1 else jax.lax.top_k(-away, k)[1]
    score = _agreement(probe, nearest)
    return jnp.where(jnp.all(jnp.isfinite(distances)), score, jnp.nan)


def needs_float64(
    probe: Probe, *, n_dims: int | None = None, k: int = 1, metric: str = "euclidean"
) -> Array:
    """Whether float32 is too coarse for the distances; options as of `knn`."""
    del k
    if metric == "euclidean":
        return probe.crowded(n_dims)
    if metric == "cosine":  # of vectors of length 1, half the squared distance
        distances = _distances(probe, n_dims, metric)
        return stats.crowded(distances, jnp.ones(len(distances)), stats.CROWDED[4])
    return jnp.bool_(False)


def _distances(probe: Probe, n_dims: int | None, metric: str) -> Array:
    """Distances, or what orders images likewise, (n, n)."""
    if metric == "euclidean":
        return probe.distances(n_dims)
    x, _ = probe.reduced(n_dims)
    if metric == "l1":
        return jax.lax.map(lambda image: jnp.sum(jnp.abs(x - image), axis=1), x)
    if metric == "cosine":
        x = x / jnp.max(jnp.abs(x))
        product = stats.gram(x)
        norm = jnp.sqrt(jnp.diagonal(product))
        return 1.0 - product / (norm[:, None] * norm[None, :])
    raise InputError(f"knn: unknown metric {metric!r}; known: {', '.join(METRICS)}")


def _agreement(probe: Probe, nearest: Array) -> Array:
    """How well the labels of the (n, k) nearest images foretell each image's own."""
    k = nearest.shape[1]
    if probe.labels.ndim == 1:
        votes = jnp.sum(
            jax.nn.one_hot(probe.labels[nearest], probe.num_classes, dtype=jnp.float32), axis=1
        )
        most = votes == jnp.max(votes, axis=1, keepdims=True)
        own = jnp.take_along_axis(most, probe.labels[:, None], axis=1)[:, 0]
        winners = jnp.sum(most, axis=1).astype(jnp.float32)
        right = jnp.mean(own.astype(jnp.float32) / winners)
    else:
        share = jnp.sum(probe.labels[nearest], axis=1) / np.float32(k)
        if probe.vectors:
            return -jnp.mean(jnp.sum(jnp.abs(share - probe.labels), axis=1))
        # 1 for the majority, 1/2 for a draw: 0 and 1 agree with themselves, 1/2 with half of each
        voted = (jnp.sign(share - 0.5) + 1.0) / 2.0
        right = jnp.mean(1.0 - jnp.abs(voted - probe.labels))
    return jnp.minimum(100.0 * right, 100.0)
