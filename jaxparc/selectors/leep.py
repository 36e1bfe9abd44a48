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
    return jnp.mean(jnp.log(_fitted(probe)[2]))


def contributions(probe: Probe) -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    This is the log probability of its label, and how those of other images change with the
    classifier that it is part of.
    """
    conditional, mass, predicted = _fitted(probe)
    y = probe.targets(predicted.dtype)
    # The derivative of the sum of log probabilities with respect to P(y | z).
    slope = stats.matmul(y.T, probe.probs / predicted[:, None])
    rise = (slope - jnp.sum(conditional * slope, axis=0, keepdims=True)) / mass
    return jnp.log(predicted) + jnp.sum(probe.probs * rise[probe.labels], axis=1)


def _fitted(probe: Probe) -> tuple[Array, Array, Array]:
    """Return P(y | z), (c, z), the mass of each z, (1, z), and P of the labels, (n,)."""
    y = probe.targets(probe.probs.dtype)
    joint = stats.matmul(y.T, probe.probs)
    mass = jnp.sum(probe.probs, axis=0, keepdims=True)
    mass = jnp.where(mass > 0, mass, 1.0)
    conditional = joint / mass
    return conditional, mass, jnp.sum(conditional[probe.labels] * probe.probs, axis=1)
