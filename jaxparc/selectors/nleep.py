"""N-LEEP: LEEP of the clusters of the features."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.labels import Labels
from jaxparc.selectors.leep import contributions as contributions_of_leep
from jaxparc.selectors.leep import leep
from jaxparc.selectors.probe import Probe

N_DIMS = 64
GAUSSIANS = 5  # per class
ROUNDS = 30

# Smallest variance of a Gaussian, over that of the images.
LEAST_VARIANCE = 1e-4


def nleep(probe: Probe, *, n_dims: int = N_DIMS, seed: int = 0) -> Array:
    """Score how probable the labels are under a classifier built from clusters of the features.

    Li et al., CVPR 2021: after PCA, a mixture of 5 c Gaussians is fitted to the images, and
    the score is `leep` with the posterior probabilities of the Gaussians as those of the source
    classes. The Gaussians are spherical. They start from k-means++ (Arthur and Vassilvitskii 2007)
    and the images nearest to each centre, and are fitted by 30 rounds of expectation maximisation.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, number of principal components, 64 by default.
        seed: of the choice of the first centres; it changes the score by a few hundredths if there
            are several images for each Gaussian.

    Returns:
        () float32 <= 0: the mean log probability of the labels. 0 if every image has a Gaussian of
        its own, as there are at most n of them. Classes without images do not count.

    Differs from published code in the reduction, which keeps 80 % of the variance there, and in the
    covariance matrices, which have f (f + 1) / 2 parameters there, more than the few images of a
    Gaussian determine.
    """
    return leep(_clustered(probe, n_dims, seed))


def contributions(probe: Probe, *, n_dims: int = N_DIMS, seed: int = 0) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    The mixture, which is fitted without the labels, is taken as given; see `leep.contributions`.
    Options as in `nleep`.
    """
    return contributions_of_leep(_clustered(probe, n_dims, seed))


def _clustered(probe: Probe, n_dims: int, seed: int) -> Probe:
    """Return a probe with the posterior probabilities of the Gaussians as `probs`."""
    return probe.once(("nleep", n_dims, seed), lambda: _fitted(probe, n_dims, seed))


def _fitted(probe: Probe, n_dims: int, seed: int) -> Probe:
    x, _ = probe.reduced(n_dims)
    n = len(x)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.sum(jnp.square(x), axis=1)))
    present = jnp.zeros(probe.num_classes, bool).at[probe.labels].set(True)
    k = min(GAUSSIANS * probe.num_classes, n)
    used = jnp.arange(k) < GAUSSIANS * jnp.sum(present)
    # Drawn outside of JAX, so that float64 has the same numbers as float32.
    drawn = jnp.asarray(np.random.default_rng(seed).random(k), x.dtype)
    distances = _squared_distances(x, x)
    nearest = distances[_spread(distances, drawn)]
    nearest = jnp.argmin(jnp.where(used[:, None], nearest, jnp.inf), axis=0)
    start = jax.nn.one_hot(nearest, k, dtype=x.dtype)
    f = probe.num_columns(n_dims).astype(x.dtype)
    posterior = jax.lax.fori_loop(0, ROUNDS, lambda _, found: _improved(x, f, found), start)
    return Probe(labels=probe.labels, probs=posterior, num_classes=probe.num_classes)


def caveat(score: float, d: int, labels: Labels) -> str | None:
    """Return a warning if the mixture has about as many Gaussians as there are images, or None."""
    n, k = len(labels.values), GAUSSIANS * len(np.unique(labels.values))
    if 2 * k <= n or np.isnan(score):
        return None
    return (
        f"{k} Gaussians, {GAUSSIANS} per class, for {n} images: most have one image, whose class "
        "they predict whatever the features; use more images"
    )


def _spread(distances: Array, drawn: Array) -> Array:
    """Choose images by k-means++: at random, by their squared distances from those chosen.

    Args:
        distances: (n, n) float32, squared distances.
        drawn: (k,) float32 in [0, 1), random numbers.

    Returns:
        (k,) int32, indices.
    """

    def choose(nearest: Array, number: Array) -> tuple[Array, Array]:
        upto = jnp.cumsum(nearest)
        image = jnp.sum(upto <= number * upto[-1], dtype=jnp.int32)
        image = jnp.minimum(image, len(nearest) - 1)
        return jnp.minimum(nearest, distances[image]), image

    first = (drawn[0] * len(distances)).astype(jnp.int32)
    _, others = jax.lax.scan(choose, distances[first], drawn[1:])
    return jnp.concatenate([first[None], others])


def _improved(x: Array, f: Array, posterior: Array) -> Array:
    """Return the posterior probabilities (n, k) after a round of expectation maximisation.

    Args:
        x: (n, columns) float32, with a mean squared length of 1.
        f: () float32, the number of columns that are not 0 throughout.
        posterior: (n, k) float32, rows summing to 1.
    """
    images = jnp.sum(posterior, axis=0)
    divisor = jnp.where(images > 0, images, 1.0)
    means = stats.matmul(posterior.T, x) / divisor[:, None]
    distances = _squared_distances(x, means)
    variances = jnp.sum(posterior * distances, axis=0) / (divisor * f)
    variances = jnp.maximum(variances, LEAST_VARIANCE / f)
    logs = jnp.log(images) - jnp.log(variances) * f / 2.0
    return jax.nn.softmax(logs[None, :] - distances / (2.0 * variances[None, :]), axis=1)


def _squared_distances(a: Array, b: Array) -> Array:
    """Return the squared distances of rows, (n, k)."""
    squares = jnp.sum(jnp.square(a), axis=1)[:, None] + jnp.sum(jnp.square(b), axis=1)[None, :]
    return jnp.maximum(squares - 2.0 * stats.matmul(a, b.T), 0.0)
