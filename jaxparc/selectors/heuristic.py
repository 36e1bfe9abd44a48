"""The capacity of a model: the heuristic (eq. 4) and "+ layers" (eq. 6)."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc.selectors.probe import Probe

# Spread of scores, over the largest, that is rounding: some are computed in float64.
ROUNDING = 5e-7


def heuristic(probe: Probe) -> Array:
    """Return the number of layers plus the logarithm of the training images (the paper, eq. 4).

    Args:
        probe: needs `layers`, `source_images`, `target_images`; no image is used.

    Returns:
        () float32.

    Differs from the authors' code, which has ln(source) - ln(target): the equation as printed
    reproduces the paper's numbers.
    """
    return probe.layers + jnp.log(probe.source_images + probe.target_images)


def contributions(probe: Probe) -> Array:
    """Return NaN, (n,) float32: no image is read, so images say nothing about how sure it is."""
    return jnp.full(len(probe.labels), jnp.nan, jnp.float32)


def plus_layers(scores: np.ndarray, layers: np.ndarray, ell_max: float = 50) -> np.ndarray:
    """Return standardised scores plus relative depth (the paper, eq. 6).

    Args:
        scores: (m,) scores of the models of one target.
        layers: (m,) number of layers of each model.
        ell_max: number of layers with relative depth 1; 50 in the paper, so that a ResNet-101
            exceeds 1.

    Returns:
        (m,) float64; NaN where the score is, and throughout if the finite scores are all equal or
        fewer than two.
    """
    return standardised(scores) + np.asarray(layers) / ell_max


def standardised(scores: np.ndarray) -> np.ndarray:
    """Return scores minus their mean, over their standard deviation (the paper, eq. 6).

    Args:
        scores: (m,) scores of the models of one target.

    Returns:
        (m,) float64; NaN where the score is, and throughout if the finite scores are all equal, up
        to rounding in float32, or fewer than two.
    """
    scores = np.asarray(scores, np.float64)
    deviation = deviation_of(scores)
    if np.isnan(deviation):  # whatever the mean of no scores
        return np.full(scores.shape, np.nan)
    return np.asarray((scores - scores[np.isfinite(scores)].mean()) / deviation)


def deviation_of(scores: np.ndarray) -> float:
    """Return the population standard deviation of the finite scores of `standardised`, or NaN."""
    defined = scores[np.isfinite(scores)]
    if defined.size < 2 or np.ptp(defined) <= ROUNDING * np.abs(defined).max():
        return np.nan
    return float(defined.std())
