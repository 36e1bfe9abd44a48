"""k-nearest-neighbour cross-validation."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.errors import InputError
from jaxparc.selectors import outcomes
from jaxparc.selectors.probe import Probe

METRICS = ("euclidean", "cosine", "l1")

HELP = 0.5  # of what an image contributes to the predictions for others; see `contributions`


def knn(probe: Probe, *, n_dims: int | None = None, k: int = 1, metric: str = "euclidean") -> Array:
    """Score how well the nearest other images predict the label of each image (leave one out).

    This is the baseline "1-NN CV" of the paper (section 5.1), on unscaled features; with annotation
    vectors it is that of section 6.2, and with values k-NN regression.

    Args:
        probe: needs `features` (n, d) and `labels` of any kind.
        n_dims: f, reduce the features by PCA first; None for no reduction.
        k: number of neighbours that vote, or whose labels are averaged, in [1, n).
        metric: distance between features, "euclidean", "cosine" or "l1", which reads n times as
            much memory.

    Returns:
        () float32. Classes: percentage in [0, 100] of images whose class gets the most votes; an
        image counts 1 / t if t classes tie (so if all neighbours differ in class, it counts the
        share of them that are right). Multi-label: percentage of label entries that the majority
        predicts correctly, half if votes are tied. Annotation vectors: minus the L1 distance from
        the mean vector of the neighbours, averaged over images, in [-2, 0] for shares that sum to
        1. Values: R^2 of the mean of the neighbours, at most 1 and below 0 where the mean of all
        images predicts better, averaged over columns (scikit-learn's r2_score with its default
        multioutput="uniform_average"). NaN if an image's features are all 0 (cosine) or distances
        overflow.

    Raises:
        InputError: k is out of range, or the metric is unknown.
    """
    return outcomes.score(probe, _outcomes(probe, n_dims, k, metric))


def contributions(
    probe: Probe, *, n_dims: int | None = None, k: int = 1, metric: str = "euclidean"
) -> Array:
    """Return what each image contributes to the score, (n,) float32; options as in `knn`.

    This is the outcome of its own prediction, and half of how much it improves those for which it
    is a neighbour, over the next nearest image. With all of that it would be the pseudo-value of
    the jackknife, which counts what depends on two images with both (Efron and Stein 1981): its
    variance is 1.1 to 2.8 times that of the score, and with half 0.6 to 1.4 times. NaN throughout
    if the score is.
    """
    away, nearest, predicted = _neighbours(probe, n_dims, k, metric)
    images = jnp.arange(len(away))[:, None]
    following = jnp.argmin(away.at[images, nearest].set(jnp.inf), axis=1)
    y = probe.targets(predicted.dtype)
    gain = outcomes.gains(probe, predicted)
    found = _outcomes(probe, n_dims, k, metric)
    for place in range(k):
        without = predicted + (y[following] - y[nearest[:, place]]) / k
        found = found.at[nearest[:, place]].add(HELP * (gain - outcomes.gains(probe, without)))
    return found


def _outcomes(probe: Probe, n_dims: int | None, k: int, metric: str) -> Array:
    away, _, predicted = _neighbours(probe, n_dims, k, metric)
    found = outcomes.of_predictions(probe, predicted)
    return jnp.where(jnp.any(jnp.isnan(away)), jnp.nan, found)


def _neighbours(
    probe: Probe, n_dims: int | None, k: int, metric: str
) -> tuple[Array, Array, Array]:
    """Return distances, infinite from an image itself, the k nearest, (n, k), and predictions."""

    def compute() -> tuple[Array, Array, Array]:
        n = len(probe.labels)
        if not 1 <= k < n:
            raise InputError(f"knn: k is {k}; expected 1 to {n - 1} for {n} images")
        distances = _distances(probe, n_dims, metric)
        distances = jnp.where(jnp.all(jnp.isfinite(distances)), distances, jnp.nan)
        # The image itself is excluded by index: by distance, a duplicate could be excluded instead.
        away = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, distances)
        # Like argmin, top_k prefers the first of equally near images.
        nearest = jnp.argmin(away, axis=1)[:, None] if k == 1 else jax.lax.top_k(-away, k)[1]
        # Summed before division, so that equal numbers of votes tie.
        predicted = jnp.sum(probe.targets(distances.dtype)[nearest], axis=1) / k
        return away, nearest, predicted

    return probe.once(("knn", n_dims, k, metric), compute)


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
