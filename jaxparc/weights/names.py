"""torchvision's names of our modules, and efficientnet_lite_pytorch's of EfficientNet-Lite's.

A short table of regular expressions rewrites each module's path.
"""

from collections.abc import Mapping

from jaxparc.weights.translation import Renames, renamed

# The index of each fire module in torchvision's list of layers, which also counts pools.
_FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}

_EFFICIENTNET: Renames = (
    (r"^stem_conv$", "_conv_stem"),
    (r"^stem_bn$", "_bn0"),
    (r"^last_conv$", "_conv_head"),
    (r"^last_bn$", "_bn1"),
    (r"^head$", "_fc"),
    (r"^block(\d+)", r"_blocks.\1"),
    (r"\.(\w+)_conv$", r"._\1_conv"),
    (r"\.expand_bn$", "._bn0"),
    (r"\.depthwise_bn$", "._bn1"),
    (r"\.project_bn$", "._bn2"),
)

# Substitutions, applied in turn, from the path of our module, joined by dots, to torchvision's.
RENAMES: Mapping[str, Renames] = {
    "alexnet": (
        (r"^conv1$", "features.0"),
        (r"^conv2$", "features.3"),
        (r"^conv3$", "features.6"),
        (r"^conv4$", "features.8"),
        (r"^conv5$", "features.10"),
        (r"^fc1$", "classifier.1"),
        (r"^fc2$", "classifier.4"),
        (r"^head$", "classifier.6"),
    ),
    "googlenet": ((r"^head$", "fc"), (r"(branch\d)_(\d)", r"\1.\2")),
    "squeezenet1_1": (
        (r"^conv1$", "features.0"),
        (r"^fire(\d)_", lambda m: f"features.{_FIRES[int(m[1])]}."),
        (r"^head$", "classifier.1"),
    ),
    "mobilenet_v2": (
        (r"^stem_conv$", "features.0.0"),
        (r"^stem_bn$", "features.0.1"),
        (r"^last_conv$", "features.18.0"),
        (r"^last_bn$", "features.18.1"),
        (r"^head$", "classifier.1"),
        # the first block has no expansion, and its layers are numbered without one
        (r"^block0\.depthwise", "block0.expand"),
        (r"^block0\.project_conv$", "features.1.conv.1"),
        (r"^block0\.project_bn$", "features.1.conv.2"),
        (r"^block(\d+)", lambda m: f"features.{int(m[1]) + 1}.conv"),
        (r"\.expand_conv$", ".0.0"),
        (r"\.expand_bn$", ".0.1"),
        (r"\.depthwise_conv$", ".1.0"),
        (r"\.depthwise_bn$", ".1.1"),
        (r"\.project_conv$", ".2"),
        (r"\.project_bn$", ".3"),
    ),
    "efficientnet_lite0": _EFFICIENTNET,
    "efficientnet_lite1": _EFFICIENTNET,
    "efficientnet_lite2": _EFFICIENTNET,
}


def module_key(name: str, module: str) -> str:
    """Return torchvision's name of a module, whose path in our network is joined by dots."""
    return renamed(module, RENAMES[name])
