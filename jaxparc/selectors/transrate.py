"""TransRate: the coding rate of the features that the classes explain."""

import jax.numpy as jnp
from jax import Array

from jaxparc.selectors.probe import Probe

# Distortion at which features are coded.
EPS = 1e-4

# Estimated relative error of a score that is not precise enough; errors are about a tenth of the
# estimate. A score below LEAST times the rate of all images passes for 0.
TOLERANCE = 1e-3
LEAST = 1e-6


def transrate(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Score the mutual information of features and labels, by coding rates.

    Huang et al., ICML 2022: with the rate of n rows Z,
    R(Z) = ln det(I + Z^T Z / (n eps)) / 2 and eps = 1e-4, the score is the rate of the centred
    features minus the mean over the classes of the rates of their rows. As
    det(I + Z^T Z) = det(I + Z Z^T), the inner products K of the centred features suffice, and

        score = ln det(I + K / (n eps)) / 2 - ln det(I + B) / (2 c),

    where B has K_ij / (n_y eps) for two images of one class y of n_y images, and 0 elsewhere: its
    determinant is the product of those of all c classes.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, reduce the features by PCA first; None for no reduction.

    Returns:
        () float32, in nats. It depends on the scale of the features, since eps does not. NaN if
        they are so large that rounding errors exceed eps in directions where they do not vary, or
        so small that 1 + x rounds to 1.

    As in the program that the paper lists, the mean over the classes is not weighted by their
    images; with weights the score of unbalanced classes differs severalfold. Differs from it where
    classes have no images, which do not count here.
    """
    return _scored(probe, n_dims)[0]


def needs_float64(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return whether float32 is too coarse for the features, () bool; options as in `transrate`."""
    return _scored(probe, n_dims)[1]


def _scored(probe: Probe, n_dims: int | None) -> tuple[Array, Array]:
    """Return the score, and whether the precision of the features is too coarse, () bool."""

    def compute() -> tuple[Array, Array]:
        products, scale = probe.centred_gram(n_dims)
        n = len(products)
        products = products * (jnp.square(probe.original_scale(scale)) / EPS)
        same = probe.labels[:, None] == probe.labels[None, :]
        images = jnp.sum(same, axis=1, dtype=products.dtype)
        classes = jnp.round(jnp.sum(1.0 / images))
        # Centring makes the vector of ones an eigenvector, whose eigenvalue 0 is rounding noise:
        # set to the mean one, it does not pass for a direction without variance.
        typical = jnp.mean(jnp.diagonal(products)) / n
        whole, error = _log_det((products + typical) / n)
        of_class, error_of_class = _log_det(jnp.where(same, products / images[:, None], 0.0))
        score = (whole - jnp.log1p(typical) - of_class / classes) / 2.0
        error = (error + error_of_class / classes) / 2.0
        # NaN, of a failed decomposition, compares false.
        coarse = ~(error < TOLERANCE * jnp.maximum(jnp.abs(score), LEAST * whole))
        if score.dtype == jnp.float64:  # there is no wider dtype to fall back on
            score = jnp.where(coarse, jnp.nan, score)
        return score, coarse

    return probe.once(("transrate", n_dims), compute)


def _log_det(square: Array) -> tuple[Array, Array]:
    """Return ln det(I + K) of a positive semidefinite matrix, and an estimate of its error."""
    shifted = square + jnp.eye(len(square), dtype=square.dtype)
    pivots = jnp.square(jnp.diagonal(jnp.linalg.cholesky(shifted)))
    rounding = jnp.finfo(square.dtype).eps * jnp.max(jnp.diagonal(shifted))
    return jnp.sum(jnp.log(pivots)), rounding * jnp.sum(1.0 / pivots)
