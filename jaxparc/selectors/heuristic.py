"""How much a model can hold: the capacity heuristic (eq. 4) and "+ layers" (eq. 6)."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc.selectors.probe import Probe


def heuristic(probe: Probe) -> Array:
    """Layers plus the logarithm of the images seen (the paper, eq. 4).

    Args:
        probe: needs `layers`, `source_images`, `target_images`; looks at no image.

    Returns:
        () float32.

    The authors' code has ln(source) - ln(target); the equation as printed is what reproduces the
    paper's numbers, and is what is computed here.
    """
    return probe.layers + jnp.log(probe.source_images + probe.target_images)


def plus_layers(scores: np.ndarray, layers: np.ndarray, ell_max: float = 50) -> np.ndarray:
    """Standardised scores plus relative depth (the paper, eq. 6).

    Args:
        scores: (m,) scores of the models of one target.
        layers: (m,) number of layers of each.
        ell_max: the depth that counts 1; 50 in the paper (a ResNet-101 then exceeds 1).

    Returns:
        (m,) float64; NaN where the score is, and everywhere if the defined scores are all equal.
    """
    scores = np.asarray(scores, np.float64)
    defined = scores[np.isfinite(scores)]
    if defined.size < 2 or np.all(defined == defined[0]):
        return np.full(scores.shape, np.nan)
    return (scores - defined.mean()) / defined.std() + np.asarray(layers) / ell_max
