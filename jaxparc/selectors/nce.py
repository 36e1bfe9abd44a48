"""NCE: negative conditional entropy."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe

# Added to every joint and marginal frequency by the authors' code. With many empty cells it decides
# part of the number, which is why the number of target classes is an input.
SMOOTHING = np.float32(1e-5)


def nce(probe: Probe) -> Array:
    """How much do the source classes that the model sees say about the target classes?

    Tran, Nguyen and Hassner, ICCV 2019 (eq. 4): the conditional entropy of the labels given the
    most probable source class of each image, negated.

    Args:
        probe: needs `probs` (n, z) and `labels` (n,) classes; all c classes count, and those of
            `absent`.

    Returns:
        () float32, at most about 0: the sum over all z x c cells of p(z, y) log(p(z, y) / p(z)).
    """
    n, z = probe.probs.shape
    # The first of the largest; two reductions are several times faster than an argmax on a CPU.
    highest = jnp.max(probe.probs, axis=1, keepdims=True)
    places = jnp.arange(z, dtype=jnp.int32)
    first = jnp.min(jnp.where(probe.probs == highest, places, z), axis=1)
    seen = jax.nn.one_hot(first, z, dtype=probe.probs.dtype)
    y = jax.nn.one_hot(probe.labels, probe.num_classes, dtype=probe.probs.dtype)
    counts = stats.matmul(seen.T, y)
    joint = counts / n + SMOOTHING
    marginal = jnp.sum(counts, axis=1, keepdims=True) / n + SMOOTHING
    # cells of classes without an image are all alike
    empty = jnp.sum(SMOOTHING * jnp.log(SMOOTHING / marginal))
    return jnp.sum(joint * jnp.log(joint / marginal)) + probe.absent * empty
