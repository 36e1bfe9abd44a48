"""The cost of an architecture for images of any size; no weights are read."""

import functools

CLASSES = 1000  # of the head, as published counts have it


@functools.cache
def gmacs_of(architecture: str, size: int) -> float:
    """Return how many billion multiply-adds an architecture needs per size x size image.

    XLA counts them, at two operations each. It leaves out multiplications with the zeros that pad
    the images, which makes up to 8 % less than published counts.

    Raises:
        InputError: the network does not take images of this size.
    """
    import jax
    import jax.numpy as jnp

    from jaxparc import backend, models
    from jaxparc.weights import torchvision

    module = models.get(architecture).module(num_classes=CLASSES)
    variables = torchvision.variable_shapes(architecture, num_classes=CLASSES)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with backend.using(backend.counted()):
        cost = jax.jit(module.apply).lower(variables, images).cost_analysis()  # not compiled
    assert cost is not None
    return float(cost["flops"]) / 2e9
