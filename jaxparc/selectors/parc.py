"""PARC: pairwise annotation representation comparison."""

import numpy as np
from jax import Array

from jaxparc import labels, stats
from jaxparc.selectors.probe import Probe


def parc(probe: Probe, *, n_dims: int | None = None, target: Array | None = None) -> Array:
    """Score whether images with similar labels have similar features (the paper, eq. 7 and 8).

    Features are standardised per column. D_theta is one minus the Pearson correlation between the
    features of two images, D_y one minus that between their annotations; the score is the rank
    correlation of D_theta and D_y. Labels that are values, which the paper does not have, are
    standardised per column, and D_y is their Euclidean distance.

    Args:
        probe: needs `features` (n, d) and `labels` of any kind.
        n_dims: f, reduce the features by PCA first ("parc_f32" is f = 32); None for no reduction.
            Standardisation follows the reduction, so the components are whitened.
        target: the result of `annotation_ranks`, if several models share it.

    Returns:
        () float32 in [-100, 100], 100 times the Spearman correlation over pairs i < j with
        average ranks for ties; NaN if the standardised features of an image are constant.

    Differs from the authors' code in three ways: pairs of equal annotations have equal distances
    (theirs differ by rounding, which costs 18 points at 37 classes), the PCA is exact, and
    components without rank are left out (theirs scale rounding noise to unit variance).
    """
    if target is None:
        target = annotation_ranks(probe)
    return 100.0 * stats.cosine(probe.dissimilarity_ranks(n_dims), target)


def contributions(probe: Probe, *, n_dims: int | None = None, target: Array | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    Ranks, and the components of the PCA, are taken as given; see `stats.pair_contributions`.
    Options as in `parc`.
    """
    if target is None:
        target = annotation_ranks(probe)
    return 100.0 * stats.pair_contributions(probe.dissimilarity_ranks(n_dims), target)


def check(encoded: labels.Labels) -> str | None:
    """Return why PARC is not defined on these labels, or None if it is."""
    if encoded.kind == "classes":
        alone = labels.no_two_of_a_class(encoded)
        return alone and f"compares images of one class with others; {alone}"
    if encoded.kind == "values":
        return None
    y = encoded.values
    constant = np.flatnonzero((y == y[:, :1]).all(axis=1))
    if not constant.size:
        return None
    i = int(constant[0])
    what = "one value in all columns"
    if encoded.kind == "multi_label":
        what = f"{int(y[i].sum())} of {y.shape[1]} labels"
    return (
        f"compares annotations by correlation; image {i} has {what}, which has no correlation with "
        "others"
    )


def annotation_ranks(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return the ranks of D_y, which are the same for every model.

    Args:
        probe: needs `labels`.
        n_dims: ignored; labels are not reduced.

    Returns:
        (n * (n - 1) / 2,) float32, see `stats.standard_ranks`.
    """
    d_y = labels.distances(probe.labels, probe.num_classes, probe.kind)
    return stats.standard_ranks(stats.upper_triangle(d_y))
