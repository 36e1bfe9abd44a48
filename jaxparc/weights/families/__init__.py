"""The families of networks, in the order in which weights are tried to be recognised."""

from jaxparc import models
from jaxparc.weights.families import (
    alexnet,
    efficientnet,
    googlenet,
    mobilenet,
    resnet,
    squeezenet,
)
from jaxparc.weights.family import Family

# The first that recognises names keeps them: those with the plainest names are last.
FAMILIES: tuple[Family, ...] = (
    resnet.FAMILY,
    googlenet.FAMILY,
    squeezenet.FAMILY,
    efficientnet.FAMILY,
    mobilenet.FAMILY,
    alexnet.FAMILY,
)


def of(name: str) -> Family:
    """Return the family of an architecture.

    Raises:
        InputError: the architecture is unknown.
    """
    return next(f for f in FAMILIES if models.get(name).name in f.architectures)
