"""The families of networks, in the order in which weights are tried to be recognised."""

from jaxparc import models
from jaxparc.weights.families import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    mobilenet,
    regnet,
    resnet,
    squeezenet,
    swin,
    vgg,
    vit,
)
from jaxparc.weights.family import Family

# The first that recognises names keeps them: those with the plainest names are last.
FAMILIES: tuple[Family, ...] = (
    vit.FAMILY,
    resnet.FAMILY,
    googlenet.FAMILY,
    squeezenet.FAMILY,
    efficientnet.FAMILY,
    mobilenet.FAMILY,
    regnet.FAMILY,
    convnext.FAMILY,
    swin.FAMILY,
    densenet.FAMILY,
    vgg.FAMILY,
    alexnet.FAMILY,
)


def of(name: str) -> Family:
    """Return the family of an architecture.

    Raises:
        InputError: the architecture is unknown.
    """
    return next(f for f in FAMILIES if models.get(name).name in f.architectures)
