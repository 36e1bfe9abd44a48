"""H-Score: the separation of the classes relative to the spread of the features."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.labels import Labels
from jaxparc.selectors import components
from jaxparc.selectors.probe import Probe

MOST_LEVERAGE = 0.8  # see `contributions`


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
    _, kept, means, images = _of_classes(probe, n_dims)
    between = jnp.sum(jnp.square(means), axis=1) * images
    return jnp.where(kept[0], jnp.sum(between), jnp.nan)


def contributions(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    The reduction is taken as given; see `left_out`. NaN if the rank is above `MOST_LEVERAGE` times
    the number of images: without an image there are then too few for the score. Options as in
    `hscore`.
    """
    left, _, means, images = _of_classes(probe, n_dims)
    along = stats.matmul(left, means.T) * images
    leverages = jnp.sum(jnp.square(left), axis=1)
    found = left_out(along, leverages, jnp.ones((), left.dtype), probe.targets(left.dtype))
    return jnp.where(jnp.mean(leverages) > MOST_LEVERAGE, jnp.nan, found)


def left_out(along: Array, leverages: Array, a: Array, y: Array) -> Array:
    """Return n times the change of a tr(M^-1 B) if an image is left out (the jackknife).

    M = a X^T X + b I for the centred features X, and B = sum_y s_y s_y^T / n_y for the sums s_y
    of the n_y images of a class. Without the image z, M^-1 = W becomes
    W + a W z z^T W / (1 - a z^T W z) (Sherman and Morrison); the mean of all images is taken as
    given.

    Args:
        along: (n, c), z^T W s_y of every image and class.
        leverages: (n,), h = a z^T W z.
        a: ().
        y: (n, c), classes, one-hot.

    Returns:
        (n,).
    """
    images = jnp.sum(y, axis=0)
    divisor, rest = jnp.maximum(images, 1.0), jnp.maximum(images - 1.0, 1.0)
    square = leverages / jnp.where(a > 0, a, 1.0)  # z^T W z
    # Of the class of each image: its size, that without the image, s^T W s, and z^T W s.
    size, other, whole = (stats.matmul(y, one) for one in (divisor, rest, jnp.sum(y * along, 0)))
    own = jnp.sum(y * along, axis=1)
    between = whole / size - (whole - 2.0 * own + square) / other
    remaining = stats.matmul(jnp.square(along), 1.0 / divisor)
    remaining = remaining - jnp.square(own) / size + jnp.square(own - square) / other
    free = jnp.maximum(1.0 - leverages, jnp.finfo(along.dtype).eps)
    return len(y) * a * (between - a * remaining / free)


def _of_classes(probe: Probe, n_dims: int | None) -> tuple[Array, Array, Array, Array]:
    """Return U, (n, f), which columns count, their means in the classes, (c, f), and n_y, (c,)."""

    def compute() -> tuple[Array, Array, Array, Array]:
        if n_dims is None:
            left, kept = components.basis(probe.represented(None)[0])
        else:
            left, _, kept = probe.principal(n_dims)
        y = probe.targets(left.dtype)
        images = jnp.sum(y, axis=0)
        return left, kept, stats.matmul(y.T, left) / jnp.maximum(images, 1.0)[:, None], images

    return probe.once(("hscore", n_dims), compute)


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
