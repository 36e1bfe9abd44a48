"""H-Score: the separation of the classes relative to the spread of the features."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.labels import Labels
from jaxparc.selectors import components
from jaxparc.selectors.probe import Probe


def hscore(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Score how much of the features' variance lies between the classes.

    Bao et al., ICIP 2019: tr(cov(F)^+ cov(E[F | y])), F the standardised features. With
    F = U S V^T and P the projection that replaces every image by the mean of its class, this is

        tr(V S^-2 V^T  V S U^T P U S V^T) = tr(U^T P U) = ||P U||^2,

    over the left singular vectors U that are not rounding noise. So no covariance, inverse or d x d
    matrix is computed.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, use only the f leading principal components; None for all features.

    Returns:
        () float32 in [0, min(rank, c - 1)], with c the number of classes present; NaN if the rank
        is 0. If the features have rank n - 1, which is possible from d = n - 1 on, the score is
        c - 1 for any images; use "hscore_f32" then.

    Differs from the authors' code in the cutoff of the pseudo-inverse: theirs is 1e-15 of the
    largest singular value of the covariance matrix, so for rank n - 1 it inverts rounding noise.
    """
    if n_dims is None:
        left, kept = components.basis(probe.represented(None)[0])
    else:
        left, _, kept = probe.principal(n_dims)
    y = probe.targets(left.dtype)
    images = jnp.sum(y, axis=0)
    sums = stats.matmul(y.T, left)
    between = jnp.sum(jnp.square(sums), axis=1) / jnp.maximum(images, 1.0)
    return jnp.where(kept[0], jnp.sum(between), jnp.nan)


def caveat(score: float, d: int, labels: Labels) -> str | None:
    """Return a warning if an H-Score over d features is at its limit for any images, or None.

    See `hscore`.
    """
    n, limit = len(labels.values), len(np.unique(labels.values)) - 1
    if d < n - 1 or not score > limit * (1 - 1e-4):
        return None
    return (
        f"features of rank n - 1 = {n - 1} always score {limit}, the number of classes minus one; "
        "hscore_f32 reduces them first"
    )
