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
    """Score how well the nearest other images predict the label of each image (leave one out).

    This is the baseline "1-NN CV" of the paper (section 5.1), on unscaled features; with annotation
    vectors it is that of section 6.2.

    Args:
        probe: needs `features` (n, d) and `labels` of any kind.
        n_dims: f, reduce the features by PCA first; None for no reduction.
        k: number of neighbours that vote, in [1, n).
        metric: distance between features, one of `METRICS`; "l1" reads n times as much memory.

    Returns:
        () float32. Classes: percentage of images whose class gets the most votes; an image counts
        1 / t if t classes tie (so if all neighbours differ in class, it counts the share of them
        that are right). Multi-label: percentage of label entries that the majority predicts
        correctly, half if votes are tied. Annotation vectors: minus the L1 distance from the mean
        vector of the neighbours, averaged over images, in [-2, 0] for shares that sum to 1. NaN if
        an image's features are all 0 (cosine) or distances overflow.

    Raises:
        InputError: k is out of range, or the metric is unknown.
    """
    n = len(probe.labels)
    if not 1 <= k < n:
        raise InputError(f"knn: k is {k}; expected 1 to {n - 1} for {n} images")
    distances = _distances(probe, n_dims, metric)
    # The image itself is excluded by index: by distance, a duplicate could be excluded instead.
    away = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, distances)
    # Like argmin, top_k prefers the first of equally near images.
    nearest = jnp.argmin(away, axis=1)[:, None] if k == 1 else jax.lax.top_k(-away, k)[1]
    score = _agreement(probe, nearest)
    return jnp.where(jnp.all(jnp.isfinite(distances)), score, jnp.nan)


def needs_float64(
    probe: Probe, *, n_dims: int | None = None, k: int = 1, metric: str = "euclidean"
) -> Array:
    """Return whether float32 is too coarse for the distances, () bool; options as in `knn`."""
    del k
    if metric == "euclidean":
        return probe.crowded(n_dims)
    if metric == "cosine":  # half the squared distance of vectors of length 1
        distances = _distances(probe, n_dims, metric)
        return stats.crowded(distances, jnp.ones(len(distances)), stats.CROWDED[4])
    return jnp.bool_(False)


def summaries(
    *, n_dims: int | None = None, k: int = 1, metric: str = "euclidean"
) -> tuple[str, ...] | None:
    """Return the summaries that the score follows from, or None; options as in `knn`."""
    del n_dims, k
    return ("centred_gram",) if metric == "euclidean" else None


def _distances(probe: Probe, n_dims: int | None, metric: str) -> Array:
    """Return distances, (n, n), or for "euclidean" their squares, which have the same order."""
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
    """Return how well the labels of the (n, k) nearest images predict each image's own."""
    k = nearest.shape[1]
    if probe.kind == "classes":
        votes = jnp.sum(
            jax.nn.one_hot(probe.labels[nearest], probe.num_classes, dtype=jnp.float32), axis=1
        )
        right = jnp.mean(stats.hits(votes, probe.labels))
    else:
        share = jnp.sum(probe.labels[nearest], axis=1) / np.float32(k)
        if probe.kind == "vectors":
            return -jnp.mean(jnp.sum(jnp.abs(share - probe.labels), axis=1))
        # A tied vote is 1/2, which agrees by half with either label.
        voted = (jnp.sign(share - 0.5) + 1.0) / 2.0
        right = jnp.mean(1.0 - jnp.abs(voted - probe.labels))
    return jnp.minimum(100.0 * right, 100.0)
