"""Per-image outcomes of predicted labels, whose mean is a score."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe

# The largest score by kind of label, which rounding of a mean might exceed.
BEST = {"classes": 100.0, "multi_label": 100.0, "vectors": 0.0, "values": 1.0}


def bounds(kind: str) -> tuple[float, float]:
    """Return the lowest and the highest possible score for a kind of labels."""
    return 0.0 if kind in ("classes", "multi_label") else -math.inf, BEST[kind]


def of_predictions(probe: Probe, predicted: Array) -> Array:
    """Return what each image contributes to the score of predictions: the score is the mean.

    Args:
        probe: needs `labels` (n,) or (n, c).
        predicted: (n, c) float32, predictions for the columns of `Probe.targets`, each made
            without the image itself.

    Returns:
        (n,) float32. Classes: 100 if the largest prediction is that of the class, 100 / t if t
        classes tie, else 0; classes without images do not count. Multi-label: the percentage of
        entries on the right side of 0.5, half for those on it. Annotation vectors: minus the L1
        distance from the prediction. Values: with e the error and v the variance of a column,

            R^2 + ((1 - R^2) (y - mean(y))^2 - e^2) / v,   R^2 = 1 - mean(e^2) / v,

        averaged over columns: the linear part of R^2 in the weights of the images, so that sums
        over resampled images approximate the R^2 of these. NaN in columns without variance.
    """
    if probe.kind != "values":
        return gains(probe, predicted)
    y = probe.targets(predicted.dtype)
    spread = jnp.square(y - jnp.mean(y, axis=0, keepdims=True))
    variance = jnp.mean(spread, axis=0, keepdims=True)
    lost = jnp.mean(jnp.square(predicted - y), axis=0, keepdims=True) / variance
    return jnp.mean(1.0 - lost + lost * spread / variance, axis=1) + gains(probe, predicted)


def gains(probe: Probe, predicted: Array) -> Array:
    """Return the part of `of_predictions` that depends on the prediction for an image, (n,)."""
    if probe.kind == "classes":
        present = jnp.any(probe.targets(predicted.dtype) > 0, axis=0, keepdims=True)
        return 100.0 * stats.hits(jnp.where(present, predicted, -jnp.inf), probe.labels)
    y = probe.targets(predicted.dtype)
    if probe.kind == "multi_label":
        # A prediction of 1/2 agrees by half with either label.
        side = (jnp.sign(predicted - 0.5) + 1.0) / 2.0
        return 100.0 * jnp.mean(1.0 - jnp.abs(side - y), axis=1)
    if probe.kind == "vectors":
        return -jnp.sum(jnp.abs(predicted - y), axis=1)
    variance = jnp.mean(jnp.square(y - jnp.mean(y, axis=0, keepdims=True)), axis=0, keepdims=True)
    return -jnp.mean(jnp.square(predicted - y) / variance, axis=1)


def slopes(probe: Probe, predicted: Array) -> Array:
    """Return the derivative of the sum of outcomes with respect to the predictions, (n, c).

    An outcome that is right or wrong jumps where a margin is 0: the derivative of its expectation
    is the density of margins there, which is estimated by a Gaussian kernel over those of all
    images (of the width of Silverman 1986, eq. 3.31, without its factor 0.85).

    Args:
        probe: as for `of_predictions`.
        predicted: as for `of_predictions`.
    """
    y = probe.targets(predicted.dtype)
    if probe.kind == "classes":
        present = jnp.any(y > 0, axis=0, keepdims=True)
        own = jnp.sum(predicted * y, axis=1)
        others = jnp.where(present & (y == 0), predicted, -jnp.inf)
        second = jax.nn.one_hot(jnp.argmax(others, axis=1), y.shape[1], dtype=y.dtype)
        density = _density(own - jnp.max(others, axis=1))
        return 100.0 * density[:, None] * (y - second)
    if probe.kind == "multi_label":
        sides = 2.0 * y - 1.0
        return 100.0 * _density(sides * (predicted - 0.5)) * sides / y.shape[1]
    if probe.kind == "vectors":
        return -jnp.sign(predicted - y)
    variance = jnp.mean(jnp.square(y - jnp.mean(y, axis=0, keepdims=True)), axis=0, keepdims=True)
    return -2.0 * (predicted - y) / variance / y.shape[1]


def _density(margins: Array) -> Array:
    """Return a Gaussian kernel at each margin, whose mean estimates their density at 0."""
    low, high = jnp.quantile(margins, jnp.asarray([0.25, 0.75], margins.dtype))
    width = 1.06 * jnp.minimum(jnp.std(margins), (high - low) / 1.34) * len(margins) ** -0.2
    width = jnp.where(width > 0, width, jnp.inf)
    return jnp.exp(-jnp.square(margins / width) / 2.0) / (width * np.sqrt(2.0 * np.pi))


def score(probe: Probe, contributions: Array) -> Array:
    """Return the mean of (n,) contributions, () float32, at most the `BEST` of the kind."""
    return jnp.minimum(jnp.mean(contributions), BEST[probe.kind])
