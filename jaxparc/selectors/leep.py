"""LEEP: log expected empirical prediction."""

import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors.probe import Probe


def leep(probe: Probe) -> Array:
    """Score how probable the labels are under a classifier built from the source classes.

    Nguyen et al., ICML 2020 (eq. 2): P(y | z) is the empirical share of class y in the probability
    mass that the model assigns to source class z; the prediction for an image is the mean of
    P(y | z) under its own probabilities.

    Args:
        probe: needs `probs` (n, z) and `labels` (n,) classes.

    Returns:
        () float32 <= 0: the mean log probability of the labels. Source classes without any mass are
        ignored.
    """
    y = probe.targets(probe.probs.dtype)
    joint = stats.matmul(y.T, probe.probs)
    marginal = jnp.sum(probe.probs, axis=0, keepdims=True)
    conditional = joint / jnp.where(marginal > 0, marginal, 1.0)
    predicted = jnp.sum(conditional[probe.labels] * probe.probs, axis=1)
    return jnp.mean(jnp.log(predicted))
