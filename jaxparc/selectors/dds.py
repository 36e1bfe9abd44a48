"""DDS: duality diagram similarity."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.probe import Probe


def dds(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Do the model and one trained on the target arrange the images alike?

    Dwivedi et al., ECCV 2020, with the choices of the paper (section 3.2): features of both are
    standardised per column, the distance of two images is one minus the cosine of their features,
    and the two distance matrices are compared by the unbiased centred kernel alignment.

    Args:
        probe: needs `features` (n, d) and `reference` (n, d').
        n_dims: f, reduce the features of both by PCA first, each by its own.

    Returns:
        () float32 in [-100, 100]; NaN if an image's standardised features are all 0 in either.
    """
    return 100.0 * stats.cka(
        _distances(probe.features, n_dims), _distances(probe.reference, n_dims)
    )


def _distances(features: Array, n_dims: int | None) -> Array:
    # Components without rank are columns of zeros, which no cosine sees.
    x, _ = stats.represent(features, n_dims)
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return 1.0 - jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
