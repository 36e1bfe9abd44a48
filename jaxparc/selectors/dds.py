"""DDS: duality diagram similarity."""

import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe


def dds(probe: Probe, *, n_dims: int | None = None, target: Array | None = None) -> Array:
    """Do the model and one trained on the target arrange the images alike?

    Dwivedi et al., ECCV 2020, with the choices of the paper (section 3.2): features of both are
    standardised per column, the distance of two images is one minus the cosine of their features,
    and the two distance matrices are compared by the unbiased centred kernel alignment.

    Args:
        probe: needs `features` (n, d) and `reference` (n, d').
        n_dims: f, reduce the features of both by PCA first, each by its own.
        target: what `reference_arrangement` gives, where several models share it.

    Returns:
        () float32 in [-100, 100]; NaN if an image's standardised features are all 0 in either.
    """
    if target is None:
        target = reference_arrangement(probe, n_dims=n_dims)
    return 100.0 * stats.cosine(_arrangement(probe, n_dims), target)


def reference_arrangement(probe: Probe, *, n_dims: int | None = None) -> Array:
    """The centred distances of the reference, which are the same for every model.

    Args:
        probe: needs `reference` (n, d').
        n_dims: f, as in `dds`.

    Returns:
        (n, n) float32, see `stats.u_centred`.
    """
    return _arrangement(Probe(features=probe.reference), n_dims)


def _arrangement(probe: Probe, n_dims: int | None) -> Array:
    # Components without rank are columns of zeros, which no cosine sees.
    x, kept = probe.represented(n_dims)
    # The products of centred rows are what PARC and RSA need too.
    products, mean = probe.row_products(n_dims)
    columns = x.shape[1] if kept is None else jnp.sum(kept).astype(x.dtype)
    products = products + columns * mean[:, None] * mean[None, :]
    norm = jnp.sqrt(jnp.diagonal(products))
    norm = jnp.where(jnp.any(x != 0, axis=1), norm, jnp.nan)
    return stats.u_centred(1.0 - products / (norm[:, None] * norm[None, :]))
