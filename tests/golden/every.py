"""All registered networks: what shares its code with a quicker one is left to slow tests."""

import pytest

from jaxparc import models

SLOW = ("resnet101", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def model(slow=SLOW):
    """A parametrisation of "name" over `models.MODELS`."""
    names = [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in models.MODELS]
    return pytest.mark.parametrize("name", names)
