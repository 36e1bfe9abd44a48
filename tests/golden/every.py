"""The networks that tests compute with: of each family, the quickest, and some that differ."""

import pytest

from jaxparc import models

# In fast tests: at least one of each file of networks.
REPRESENTATIVES = (
    "alexnet",
    "googlenet",
    "resnet18",
    "resnet50",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenetv3_small_100",
)
# In slow tests: what shares its code with a quicker one.
SLOW = (
    *("resnet101", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    *("efficientnet_b0", "efficientnetv2_s", "mobilenetv3_large_100"),
)


def model(slow=SLOW):
    """A parametrisation of "name" over both, in the order of `models.MODELS`."""
    tested = [name for name in models.MODELS if name in (*REPRESENTATIVES, *SLOW)]
    marked = {*slow, *SLOW}
    names = [pytest.param(n, marks=pytest.mark.slow) if n in marked else n for n in tested]
    return pytest.mark.parametrize("name", names)
