"""The networks that tests compute with: of each family, the quickest, and some that differ."""

import pytest

from jaxparc import models

# In fast tests: of each file of networks, but for RegNets, whose layers are those of others.
REPRESENTATIVES = (
    "alexnet",
    "googlenet",
    "resnet18",
    "resnet50",
    "squeezenet1_1",
    "mobilenet_v2",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "densenet121",
    "vgg11_bn",
    "vit_tiny_patch16_224",
    "mobilenetv3_small_100",
)
# In slow tests: what has code of its own beside a quicker one's. Larger networks of the same code
# are in goldens alone (`drawn.SIZES`).
SLOW = (
    "efficientnet_lite0",
    "convnextv2_atto",
    "swin_base_patch4_window12_384",
    "efficientnet_b0",
    "efficientnetv2_s",
    "regnety_002",
)

# The smallest network, where that is more than an eighth of the channels: one attention head.
NARROWEST = {"vit_tiny_patch16_224": 1 / 3}


def model(slow=SLOW, without=()):
    """A parametrisation of "name" over both, but for some, in the order of `models.MODELS`."""
    tested = [name for name in models.MODELS if name in {*REPRESENTATIVES, *SLOW} - {*without}]
    marked = {*slow, *SLOW}
    names = [pytest.param(n, marks=pytest.mark.slow) if n in marked else n for n in tested]
    return pytest.mark.parametrize("name", names)
