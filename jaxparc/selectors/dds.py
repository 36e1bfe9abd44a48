"""DDS: duality diagram similarity."""

import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe


def dds(probe: Probe, *, n_dims: int | None = None, target: Array | None = None) -> Array:
    """Score how similarly the model and a model trained on the target arrange the images.

    Dwivedi et al., ECCV 2020, with the choices of the paper (section 3.2): features of both models
    are standardised per column, the distance of two images is one minus the cosine of their
    features, and the two distance matrices are compared by unbiased centred kernel alignment.

    Args:
        probe: needs `features` (n, d) and `reference` (n, d').
        n_dims: f, reduce the features of both by PCA first, separately; None for no reduction.
        target: the result of `reference_arrangement`, if several models share it.

    Returns:
        () float32 in [-100, 100]; NaN if an image's standardised features are all 0 in either.
    """
    if target is None:
        target = reference_arrangement(probe, n_dims=n_dims)
    return 100.0 * stats.cosine(_arrangement(probe, n_dims), target)


def contributions(probe: Probe, *, n_dims: int | None = None, target: Array | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    The centring is taken as given: to first order it does not matter. See
    `stats.pair_contributions`; options as in `dds`.
    """
    if target is None:
        target = reference_arrangement(probe, n_dims=n_dims)
    return 100.0 * stats.pair_contributions(_arrangement(probe, n_dims), target)


def reference_arrangement(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return the centred distances of the reference, which are the same for every model.

    Args:
        probe: needs `reference` (n, d').
        n_dims: f, as in `dds`.

    Returns:
        (n, n) float32, see `stats.u_centred`.
    """
    return _arrangement(Probe(features=probe.reference), n_dims)


def _arrangement(probe: Probe, n_dims: int | None) -> Array:
    def compute() -> Array:
        # PARC and RSA also need the inner products of the centred rows, so these are shared.
        # Components without rank are columns of zeros, which do not change a cosine.
        found = probe.products(n_dims)
        columns = probe.num_columns(n_dims).astype(found.means.dtype)
        products = found.centred + columns * found.means[:, None] * found.means[None, :]
        norm = jnp.where(found.nonzero, jnp.sqrt(jnp.diagonal(products)), jnp.nan)
        return stats.u_centred(1.0 - products / (norm[:, None] * norm[None, :]))

    return probe.once(("dds", n_dims), compute)
