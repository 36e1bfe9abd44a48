"""RSA: representation similarity analysis."""

from jax import Array

from jaxparc import stats
from jaxparc.probe import Probe


def rsa(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Are images alike to the model that are alike to a model trained on the target?

    Dwivedi and Roig, CVPR 2019, as the paper takes it (section 3.2): features of both models are
    standardised per column; dissimilarity is one minus the Pearson correlation of two images'
    features; the score is the rank correlation of the dissimilarities.

    Args:
        probe: needs `features` (n, d) and `reference` (n, d').
        n_dims: f, reduce the features of both by PCA first, each by its own.

    Returns:
        () float32 in [-100, 100], 100 times the Spearman correlation over pairs i < j; NaN if an
        image's features are constant in either.
    """
    distances = []
    for looked in (probe.features, probe.reference):
        features, kept = stats.represent(looked, n_dims)
        distances.append(stats.upper_triangle(1.0 - stats.corrcoef(features, where=kept)))
    return 100.0 * stats.spearman(*distances)
