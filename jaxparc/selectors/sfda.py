"""SFDA: self-challenging Fisher discriminant analysis, cross-fitted."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors.logistic import halves
from jaxparc.selectors.probe import Probe

N_DIMS = 32

# Decay of the shrinkage with the largest variance within classes (a), as in the published code, and
# the smallest shrinkage over that variance.
DECAY = 5.0
LEAST_SHRINKAGE = 1e-6

# In float32: the smallest variance within classes, with shrinkage, over the largest, below which it
# holds more rounding noise than the score tolerates.
RESOLVED = 1e-4


def sfda(probe: Probe, *, n_dims: int = N_DIMS) -> Array:
    """Score how probable the classes are under a Fisher discriminant of other images.

    From Shao et al., ECCV 2022, are the regularised discriminant and the mean probability as the
    score: with S_W the covariance matrix within classes, sigma its largest
    eigenvalue, and W = (1 - lambda) S_W + lambda I with lambda = exp(-5 sigma), the probabilities
    of the classes are the softmax of

        x^T W^-1 mu_y - mu_y^T W^-1 mu_y / 2 + ln q_y,

    with mu_y the mean of a class and q_y its share of the images. The discriminant of each half of
    the images is evaluated on the other half; the halves are those of `logistic.halves`.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, number of principal components, of all images; 32 by default.

    Returns:
        () float32 in [0, 1]: the mean probability of an image's own class, 0 if the other half has
        no image of it. It depends on the scale of the features, as lambda does.

    Differs from the published score, which is evaluated on the images that the discriminant was
    fitted to: where d exceeds n it is 1 for every model. As the images of a half are not fitted,
    the second fit, to images that are moved towards their class means, is left out. As in the
    paper, W has lambda times the identity, where the published code has it times the mean variance
    and estimates sigma by three power iterations; lambda is replaced by 1e-6 sigma if that is
    larger, so that W has an inverse.
    """
    return jnp.mean(_scored(probe, n_dims)[0])


def contributions(probe: Probe, *, n_dims: int = N_DIMS) -> Array:
    """Return what each image contributes to the score, (n,) float32; options as in `sfda`.

    The mean is the score: that of the probabilities of the classes of the images. Their variance is
    multiplied by three, since the discriminants depend on the images as well (Nadeau and Bengio
    2003, with two splits into equal halves).
    """
    found = _scored(probe, n_dims)[0]
    mean = jnp.mean(found)
    return mean + (found - mean) * 3.0**0.5


def needs_float64(probe: Probe, *, n_dims: int = N_DIMS) -> Array:
    """Return whether float32 is too coarse for the features, () bool; options as in `sfda`."""
    return _scored(probe, n_dims)[1]


def _scored(probe: Probe, n_dims: int) -> tuple[Array, Array]:
    """Return the probability of each image's class, and whether float32 is too coarse, () bool."""

    def compute() -> tuple[Array, Array]:
        x, _ = probe.reduced(n_dims)
        x = x * probe.original_scale(jnp.ones((), x.dtype))
        order, half = halves(probe.labels), -(-len(x) // 2)
        x = x[order]
        y = jax.nn.one_hot(probe.labels[order], probe.num_classes, dtype=x.dtype)
        second, coarse = _own_probabilities(x[:half], y[:half], x[half:], y[half:])
        first, coarse_too = _own_probabilities(x[half:], y[half:], x[:half], y[:half])
        found = jnp.concatenate([first, second])
        return jnp.zeros_like(found).at[order].set(found), coarse | coarse_too

    return probe.once(("sfda", n_dims), compute)


def _own_probabilities(x: Array, y: Array, others: Array, classes: Array) -> tuple[Array, Array]:
    """Fit a discriminant, and return what it gives the classes of other images.

    Args:
        x: (h, f) float32, the images to fit.
        y: (h, c) float32, their classes, one-hot.
        others: (k, f) float32.
        classes: (k, c) float32, their classes, one-hot.

    Returns:
        (k,) float32 probabilities, and () bool, whether float32 is too coarse for them.
    """
    images = jnp.sum(y, axis=0)
    means = stats.matmul(y.T, x) / jnp.maximum(images, 1.0)[:, None]
    centred = x - stats.matmul(y, means)
    within = stats.matmul(centred.T, centred) / len(x)
    variances, axes = jnp.linalg.eigh(within)
    sigma = variances[-1]
    shrinkage = jnp.exp(-DECAY * sigma)
    # Rounding may leave negative variances.
    regularised = (1.0 - shrinkage) * jnp.maximum(variances, 0.0)
    regularised = regularised + jnp.maximum(shrinkage, LEAST_SHRINKAGE * sigma)
    whitening = axes * jax.lax.rsqrt(regularised)[None, :]
    centres, points = stats.matmul(means, whitening), stats.matmul(others, whitening)
    # ln 0 leaves classes without images out.
    offsets = jnp.log(images / len(x)) - jnp.sum(jnp.square(centres), axis=1) / 2.0
    logits = stats.matmul(points, centres.T) + offsets[None, :]
    found = jnp.sum(jax.nn.softmax(logits, axis=1) * classes, axis=1)
    coarse = ~(jnp.min(regularised) > RESOLVED * jnp.max(regularised))
    if x.dtype == jnp.float64:
        coarse = jnp.bool_(False)
    return found, coarse | ~jnp.all(jnp.isfinite(found))
