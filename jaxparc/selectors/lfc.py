"""LFC: label-feature correlation."""

import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe


def lfc(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Score whether images of one class have larger inner products than others.

    Deshpande et al. 2021 (arXiv 2102.00084): the Pearson correlation, over pairs of images i < j,
    of the inner product of their centred features with whether they are of the same class.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, reduce the features by PCA first; None for no reduction.

    Returns:
        () float32 in [-100, 100], 100 times the correlation; NaN if all pairs, or no pair, are of
        the same class, or all inner products are equal.
    """
    return 100.0 * stats.cosine(*_standard(probe, n_dims))


def contributions(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    See `stats.pair_contributions`; options as in `lfc`.
    """
    return 100.0 * stats.pair_contributions(*_standard(probe, n_dims))


def _standard(probe: Probe, n_dims: int | None) -> tuple[Array, Array]:
    """Return the inner products, and which are of one class, (n, n) of mean 0 and length 1."""

    def compute() -> tuple[Array, Array]:
        products, _ = probe.centred_gram(n_dims)
        same = probe.labels[:, None] == probe.labels[None, :]
        # Every pair is there twice, which does not change a correlation.
        pairs = ~jnp.eye(len(same), dtype=bool)
        return stats.standard(products, pairs), stats.standard(same.astype(products.dtype), pairs)

    return probe.once(("lfc", n_dims), compute)
