"""RSA: representation similarity analysis."""

from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe


def rsa(probe: Probe, *, n_dims: int | None = None, target: Array | None = None) -> Array:
    """Score whether the model finds the same images similar as a model trained on the target.

    Dwivedi and Roig, CVPR 2019, as in the paper (section 3.2): features of both models are
    standardised per column; dissimilarity is one minus the Pearson correlation between the features
    of two images; the score is the rank correlation of the dissimilarities.

    Args:
        probe: needs `features` (n, d) and `reference` (n, d').
        n_dims: f, reduce the features of both by PCA first, separately; None for no reduction.
        target: the result of `reference_ranks`, if several models share it.

    Returns:
        () float32 in [-100, 100], 100 times the Spearman correlation over pairs i < j; NaN if an
        image's standardised features are constant in either.
    """
    if target is None:
        target = reference_ranks(probe, n_dims=n_dims)
    return 100.0 * stats.cosine(probe.dissimilarity_ranks(n_dims), target)


def contributions(probe: Probe, *, n_dims: int | None = None, target: Array | None = None) -> Array:
    """Return what each image contributes to the score, as for `parc`; options as in `rsa`."""
    if target is None:
        target = reference_ranks(probe, n_dims=n_dims)
    return 100.0 * stats.pair_contributions(probe.dissimilarity_ranks(n_dims), target)


def reference_ranks(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return the ranks of the reference's dissimilarities, which are the same for every model.

    Args:
        probe: needs `reference` (n, d').
        n_dims: f, as in `rsa`.

    Returns:
        (n * (n - 1) / 2,) float32, see `stats.standard_ranks`.
    """
    return Probe(features=probe.reference).dissimilarity_ranks(n_dims)
