"""TransRate: the coding rate of the features that the classes explain."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
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


def contributions(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    This is n - 1 times the change of the score if the image is left out (the jackknife):
    det(A) without a row and column i is det(A) (A^-1)_ii. Options as in `transrate`.
    """
    whole, of_class, same = _scored(probe, n_dims)[2:]
    images = jnp.sum(same, axis=1, dtype=whole.dtype)
    rest, rest_of_class = _inverse_diagonal(whole), _inverse_diagonal(of_class)
    # Without an image the others of its class are coded at a smaller distortion, n_y eps.
    finer = stats.matmul(same.astype(whole.dtype), 1.0 - rest_of_class) / images
    lost = jnp.log(rest) - (jnp.log(rest_of_class) + finer) / _count(images)
    return -(len(whole) - 1) / 2 * lost


def _count(images: Array) -> Array:
    """Return the number of classes, (), from the number of images of the class of each image."""
    return jnp.round(jnp.sum(1.0 / images))


def _inverse_diagonal(lower: Array) -> Array:
    """Return the diagonal of the inverse of L L^T, (n,)."""
    eye = jnp.eye(len(lower), dtype=lower.dtype)
    inverse = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
    return jnp.sum(jnp.square(inverse), axis=0)


def _scored(probe: Probe, n_dims: int | None) -> tuple[Array, Array, Array, Array, Array]:
    """Return the score, whether the precision of the features is too coarse, () bool, and factors.

    The third and fourth results are the Cholesky factors of I + K / (n eps) and I + B, and the last
    is which images have the same class, (n, n) bool.
    """

    def compute() -> tuple[Array, Array, Array, Array, Array]:
        products, scale = probe.centred_gram(n_dims)
        n = len(products)
        products = products * (jnp.square(probe.original_scale(scale)) / EPS)
        same = probe.labels[:, None] == probe.labels[None, :]
        images = jnp.sum(same, axis=1, dtype=products.dtype)
        classes = _count(images)
        # Centring makes the vector of ones an eigenvector, whose eigenvalue 0 is rounding noise:
        # set to the mean one, it does not pass for a direction without variance.
        typical = jnp.mean(jnp.diagonal(products)) / n
        whole, error, lower = _log_det((products + typical) / n)
        of_class, error_of_class, lower_of_class = _log_det(
            jnp.where(same, products / images[:, None], 0.0)
        )
        score = (whole - jnp.log1p(typical) - of_class / classes) / 2.0
        error = (error + error_of_class / classes) / 2.0
        # NaN, of a failed decomposition, compares false.
        coarse = ~(error < TOLERANCE * jnp.maximum(jnp.abs(score), LEAST * whole))
        if score.dtype == jnp.float64:  # there is no wider dtype to fall back on
            score = jnp.where(coarse, jnp.nan, score)
        return score, coarse, lower, lower_of_class, same

    return probe.once(("transrate", n_dims), compute)


def _log_det(square: Array) -> tuple[Array, Array, Array]:
    """Return ln det(I + K) of a positive semidefinite K, an estimate of its error, and a factor.

    The factor is that of Cholesky, of I + K.
    """
    shifted = square + jnp.eye(len(square), dtype=square.dtype)
    lower = jnp.linalg.cholesky(shifted)
    pivots = jnp.square(jnp.diagonal(lower))
    rounding = jnp.finfo(square.dtype).eps * jnp.max(jnp.diagonal(shifted))
    return jnp.sum(jnp.log(pivots)), rounding * jnp.sum(1.0 / pivots), lower
