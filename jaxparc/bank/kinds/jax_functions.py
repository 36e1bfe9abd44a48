"""jax = "package.module:function": a JAX network that a function returns.

The function returns an apply function of (variables, images), and variables. Images are (b, size,
size, 3) float32, normalised by the entry's mean and std; the apply function returns features
(b, d), or features and logits (b, z).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxparc import extraction
from jaxparc.bank.entry import Counts, Entry, Model
from jaxparc.bank.kinds import packages
from jaxparc.errors import InputError
from jaxparc.geometry import Geometry


def load(entry: Entry) -> Model:
    """See `entry.Implementation`."""
    found = packages.called(entry.architecture)
    if not isinstance(found, tuple) or len(found) != 2 or not callable(found[0]):
        raise InputError(
            f"{entry.architecture}() returned a {type(found).__name__}; expected a pair of an "
            "apply function and variables"
        )
    apply_fn, variables = found
    mean, std = entry.normalisation
    start = functools.partial(running, apply_fn, variables, mean, std)
    params = variables
    if hasattr(variables, "keys") and "params" in variables:  # Flax has statistics as well
        params = variables["params"]
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    return Model(entry.geometry(Geometry(224)), start, Counts(parameters=size or None))


def fingerprint(entry: Entry) -> Any:
    """See `entry.Implementation`: the function, and not what it reads."""
    return packages.source_of(entry.architecture)


def counts(entry: Entry) -> Counts:
    """See `entry.Implementation`: nothing is known of what a function returns."""
    return Counts()


def running(
    apply_fn: Callable[..., Any],
    variables: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Callable[[np.ndarray], Any]:
    """Return a function of uint8 images that runs a JAX network on all local devices."""

    def network(variables: Any, images: Any) -> Any:
        from jaxparc.models.layers import normalise

        return apply_fn(variables, normalise(images, mean, std))

    return extraction.compile_function(network, variables)
