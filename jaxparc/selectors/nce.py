"""NCE: negative conditional entropy."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe

# The authors' code adds this to every joint and marginal frequency. With many empty cells the score
# depends on it, and so on the number of target classes.
SMOOTHING = np.float32(1e-5)


def nce(probe: Probe) -> Array:
    """Score how well the predicted source classes determine the target classes.

    Tran, Nguyen and Hassner, ICCV 2019 (eq. 4): the negated conditional entropy of the labels given
    the most probable source class of each image.

    Args:
        probe: needs `probs` (n, z) and `labels` (n,) classes; all c classes count, and the further
            `absent` ones.

    Returns:
        () float32, at most about 0: the sum over all z x c cells of p(z, y) log(p(z, y) / p(z)).
    """
    joint, marginal, _ = _frequencies(probe)
    # All cells of a class without images are empty, so one sum serves every absent class.
    empty = jnp.sum(SMOOTHING * jnp.log(SMOOTHING / marginal))
    return jnp.sum(joint * jnp.log(joint / marginal)) + probe.absent * empty


def contributions(probe: Probe) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    This is log(p(z, y) / p(z)) of its label y and its most probable source class z.
    """
    joint, marginal, predicted = _frequencies(probe)
    logs = jnp.log(joint / marginal)
    return jnp.sum(predicted * logs.T[probe.labels], axis=1)


def _frequencies(probe: Probe) -> tuple[Array, Array, Array]:
    """Return p(z, y), (z, c), p(z), (z, 1), and the most probable z, one-hot, (n, z)."""
    n, z = probe.probs.shape
    # The first maximum of each row; on a CPU two reductions are several times faster than argmax.
    highest = jnp.max(probe.probs, axis=1, keepdims=True)
    places = jnp.arange(z, dtype=jnp.int32)
    first = jnp.min(jnp.where(probe.probs == highest, places, z), axis=1)
    predicted = jax.nn.one_hot(first, z, dtype=probe.probs.dtype)
    y = probe.targets(probe.probs.dtype)
    counts = stats.matmul(predicted.T, y)
    joint = counts / n + SMOOTHING
    marginal = jnp.sum(counts, axis=1, keepdims=True) / n + SMOOTHING
    return joint, marginal, predicted
