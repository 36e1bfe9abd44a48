"""GBC: Gaussian Bhattacharyya coefficient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe

N_DIMS = 64

# Smallest variance of a class.
LEAST_VARIANCE = 1e-4


def gbc(probe: Probe, *, n_dims: int = N_DIMS) -> Array:
    """Score how little the classes overlap, each taken for a spherical Gaussian.

    Pandy et al., CVPR 2022, with spherical covariances: after PCA, every class has a mean mu and
    one variance, that of its images averaged over the components. With s the mean of the variances
    s_i and s_j, the Bhattacharyya distance of two classes is

        ||mu_i - mu_j||^2 / (8 s) + (ln s - (ln s_i + ln s_j) / 2) / 2,

    and the score is minus the sum of exp(-distance) over all ordered pairs of different classes.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, number of principal components, 64 by default, or the rank if that is smaller.

    Returns:
        () float32 in [-c (c - 1), 0]. It depends on the scale of the features only where a variance
        is raised to LEAST_VARIANCE, such as that of a class of one image. Classes without images do
        not count.

    As in the published code, the logarithms are not multiplied by f, as they would be in the
    distance of two f-dimensional Gaussians.
    """
    classes = _classes(probe, n_dims)
    return _score(classes.means, classes.variances, classes.images > 0)


def needs_float64(probe: Probe, *, n_dims: int = N_DIMS) -> Array:
    """Return whether float32 is too coarse for the features, () bool; options as in `gbc`."""
    return ~jnp.isfinite(gbc(probe, n_dims=n_dims))


def contributions(probe: Probe, *, n_dims: int = N_DIMS) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    By the chain rule: the score is a function of the means and variances of the classes, each of
    which is a mean over images. Options as in `gbc`.
    """
    found = _classes(probe, n_dims)
    of_mean, of_variance = jax.grad(_score, argnums=(0, 1))(
        found.means, found.variances, found.images > 0
    )
    of_variance = jnp.where(found.variances > LEAST_VARIANCE, of_variance, 0.0)
    y = probe.labels
    change = jnp.sum(of_mean[y] * (found.x - found.means[y]), axis=1)
    change = change + of_variance[y] * (found.squares - found.variances[y])
    return change * len(y) / found.images[y]


class _Classes(NamedTuple):
    """The classes of a probe.

    Attributes:
        x: (n, f), components in their original scale.
        squares: (n,), mean squared difference of their columns from those of the class mean.
        means: (c, f), class means.
        variances: (c,), one per class.
        images: (c,), number of images.
    """

    x: Array
    squares: Array
    means: Array
    variances: Array
    images: Array


def _classes(probe: Probe, n_dims: int) -> _Classes:
    def compute() -> _Classes:
        x, _ = probe.reduced(n_dims)
        x = x * probe.original_scale(jnp.ones((), x.dtype))
        y = probe.targets(x.dtype)
        images = jnp.sum(y, axis=0)
        divisor = jnp.maximum(images, 1.0)
        means = stats.matmul(y.T, x) / divisor[:, None]
        squares = jnp.sum(jnp.square(x - means[probe.labels]), axis=1)
        squares = squares / probe.num_columns(n_dims).astype(x.dtype)
        variances = jnp.maximum(stats.matmul(squares, y) / divisor, LEAST_VARIANCE)
        return _Classes(x, squares, means, variances, images)

    return probe.once(("gbc", n_dims), compute)


def _score(means: Array, variances: Array, present: Array) -> Array:
    # As the means are centred, cancellation in the squared distances is about that of one class.
    products = stats.matmul(means, means.T)
    lengths = jnp.diagonal(products)
    apart = jnp.maximum(lengths[:, None] + lengths[None, :] - 2.0 * products, 0.0)
    both = (variances[:, None] + variances[None, :]) / 2.0
    logs = jnp.log(variances)
    distance = apart / (8.0 * both) + (jnp.log(both) - (logs[:, None] + logs[None, :]) / 2.0) / 2.0
    pairs = present[:, None] & present[None, :] & ~jnp.eye(len(means), dtype=bool)
    return -jnp.sum(jnp.exp(-distance), where=pairs)
