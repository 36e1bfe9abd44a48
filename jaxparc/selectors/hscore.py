"""H-Score: how far the classes are apart, in units of the features' own spread."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.labels import Labels
from jaxparc.selectors import components
from jaxparc.selectors.probe import Probe


def hscore(probe: Probe, *, n_dims: int | None = None) -> Array:
    """How much of the features' variance lies between the classes?

    Bao et al., ICIP 2019: tr(cov(F)^+ cov(E[F | y])), F the standardised features. With
    F = U S V^T and P the projection that replaces every image by the mean of its class, this is

        tr(V S^-2 V^T  V S U^T P U S V^T) = tr(U^T P U) = ||P U||^2,

    over the left singular vectors U that are no rounding noise: no covariance, no inverse, and no
    d x d matrix.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, over the f leading principal components alone.

    Returns:
        () float32 in [0, min(rank, c - 1)], c the classes present. It is c - 1 whatever the images
        show where the features have rank n - 1, as they may from d = n - 1 on: reduce them then,
        to "hscore_f32".

    Differs from the authors' code in the cut of the inverse: theirs is 1e-15 of the first singular
    value of a covariance matrix, so where the rank is n - 1 it inverts rounding noise.
    """
    if n_dims is None:
        left, kept = components.basis(probe.represented(None)[0])
    else:
        left, _, kept = probe.principal(n_dims)
    y = jax.nn.one_hot(probe.labels, probe.num_classes, dtype=left.dtype)
    images = jnp.sum(y, axis=0)
    sums = stats.matmul(y.T, left)
    between = jnp.sum(jnp.square(sums), axis=1) / jnp.maximum(images, 1.0)
    return jnp.where(kept[0], jnp.sum(between), jnp.nan)


def caveat(score: float, d: int, labels: Labels) -> str | None:
    """Whether an H-Score over d features is at its limit whatever the images show, see `hscore`."""
    n, limit = len(labels.values), len(np.unique(labels.values)) - 1
    if d < n - 1 or not score > limit * (1 - 1e-4):
        return None
    return (
        f"features of rank n - 1 = {n - 1} score {limit}, one less than the classes, whatever they "
        "show; hscore_f32 reduces them first"
    )
