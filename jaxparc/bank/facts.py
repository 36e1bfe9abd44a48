"""The size and the cost of a model, from its architecture alone: no weights are read."""

import functools

from jaxparc.bank.toml_file import Entry

CLASSES = 1000  # of the head, as published counts have it


def parameters(entry: Entry) -> int:
    """Return the number of parameters of a model's architecture, with a head of `CLASSES` classes.

    The weights of a narrower or wider network are not read, and count as of the usual width.
    """
    from jaxparc import models

    return models.get(entry.architecture).parameters


def gmacs(entry: Entry) -> float:
    """Return how many billion multiply-adds a model needs per image of its input size.

    XLA counts them, at two operations each. It leaves out multiplications with the zeros that pad
    the images, which makes up to 8 % less than published counts.

    Raises:
        InputError: the network does not take images of this size.
    """
    from jaxparc import models

    spec = models.get(entry.architecture)
    size = entry.size or spec.input_size
    return spec.gmacs if size == spec.input_size else gmacs_of(entry.architecture, size)


@functools.cache
def gmacs_of(architecture: str, size: int) -> float:
    """Return `gmacs` of an architecture, for images of size x size pixels."""
    import jax
    import jax.numpy as jnp

    from jaxparc import models
    from jaxparc.weights import torchvision

    module = models.get(architecture).module(num_classes=CLASSES)
    variables = torchvision.variable_shapes(architecture, num_classes=CLASSES)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    cost = jax.jit(module.apply).lower(variables, images).cost_analysis()  # not compiled
    assert cost is not None
    return float(cost["flops"]) / 2e9
