"""Weights and images for the goldens of the networks, drawn from their names: nothing to store.

Both the maker (with torch) and the tests (without) call this, so it imports NumPy alone. The
scales keep activations near 1 through a hundred layers while every parameter still matters.
"""

import hashlib
import re
import zlib
from collections.abc import Mapping

import numpy as np

CLASSES = 7
# Height and width. The odd size tells apart the ways of rounding a map's size.
SIZES = {
    "alexnet": ((96, 96),),
    "googlenet": ((96, 96), (97, 75)),
    "resnet18": ((96, 96),),
    "resnet50": ((96, 96),),
    "resnet101": ((96, 96),),
    "squeezenet1_1": ((96, 96), (97, 75)),
    "mobilenet_v2": ((96, 96),),
    "efficientnet_lite0": ((96, 96), (97, 75)),
    "efficientnet_lite1": ((96, 96),),
    "efficientnet_lite2": ((96, 96),),
    "convnext_atto": ((97, 75),),
    "convnext_tiny": ((64, 64),),
    "convnextv2_atto": ((97, 75),),
    "swin_tiny_patch4_window7_224": ((97, 75),),
    "swin_base_patch4_window12_384": ((160, 224),),
    "resnet18d": ((96, 96), (65, 79)),
    "resnet50d": ((96, 96),),
    "resnext50_32x4d": ((96, 96),),
    "wide_resnet50_2": ((96, 96),),
    "seresnet50": ((96, 96),),
    "densenet121": ((75, 97),),
    "vgg11_bn": ((75, 257),),
    "vgg13": ((96, 96),),
    "vit_tiny_patch16_224": ((96, 80),),
    "efficientnet_b0": ((97, 75),),
    "efficientnetv2_s": ((64, 64),),
    "mobilenetv3_large_100": ((64, 64),),
    "mobilenetv3_small_100": ((97, 75),),
    "regnety_002": ((65, 79),),
    "regnety_008_tv": ((64, 64),),
}
# Of the originals that have more than a hundred million weights, a network of fewer channels.
WIDTHS = {"vgg11_bn": 0.125, "vgg13": 0.125}

# Networks of which keys and shapes alone are compared.
NAMES = (
    *("resnet34", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2"),
    *("wide_resnet101_2", "resnet18d", "resnet50d", "resnet101d", "seresnet50"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
)


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The number of keys, without those of counters, and a hash of them with their shapes."""
    lines = sorted(
        f"{key} {shape}" for key, shape in shapes.items() if not key.endswith("num_batches_tracked")
    )
    return f"{len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


_TOKENS = (
    r"(pos_embed|position_embeddings?(\.weight)?|positional_embedding"
    r"|cls_token|class_embedding|reg_token|register_tokens|latent|probe)$"
)

# Height and width of images for networks in other libraries' names.
SCHEME_SIZE = 64


# The last batch norm of a bottleneck, or of a block of timm's or torchvision's EfficientNets or
# RegNets.
_LAST_NORM = re.compile(
    r"(layer\d\.\d+\.bn3|blocks\.\d+\.\d+\.bn3|features\.\d+\.\d+\.block\.3\.1"
    r"|features\.[23]\.\d+\.block\.1\.1"  # of EfficientNetV2's fused blocks
    r"|s\d\.b\d+\.conv3\.bn|.*\.f\.c\.1|.*\.layer\.3\.normalization)\.weight"
)


def images(height: int, width: int) -> np.ndarray:
    """Two images, (2, height, width, 3) float32, as if normalised already."""
    rng = np.random.default_rng([0, height, width])
    return rng.standard_normal((2, height, width, 3), np.float32)


def pixels(height: int, width: int) -> np.ndarray:
    """Two images, (2, height, width, 3) uint8."""
    rng = np.random.default_rng([1, height, width])
    return rng.integers(0, 256, (2, height, width, 3), np.uint8)


# Mean and variance of Keras's normalisation, in the published weights and in others.
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "adapted": ((0.4, 0.5, 0.6), (0.04, 0.09, 0.16)),
}


def keras_weights(shapes: Mapping[str, tuple[int, ...]], case: str) -> dict[str, np.ndarray]:
    """An array for every "layer/weight" of a network of Keras, in its layout.

    The layer "normalization" has the mean and the variance of a case of `NORMALISATIONS`.
    """
    found = {}
    for key, shape in shapes.items():
        layer, _, leaf = key.rpartition("/")
        if layer.startswith("normalization"):
            found[key] = np.float32(NORMALISATIONS[case][("mean", "variance").index(leaf)])
            continue
        theirs = {"moving_variance": "running_var", "gamma": "weight"}.get(leaf, leaf)
        # fan-in is all but the first axis: of depthwise kernels, the channels are the first
        axes = (2, 3, 0, 1) if "dwconv" in layer and len(shape) == 4 else (3, 2, 0, 1)
        axes = axes if len(shape) == 4 else (1, 0) if len(shape) == 2 else (0,)
        array = _weight(f"{layer}.{theirs}", tuple(shape[axis] for axis in axes))
        found[key] = array.transpose(np.argsort(axes))
    return found


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """An array for every key of a original's state dict."""
    return {key: _weight(key, shape) for key, shape in shapes.items()}


def _weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng([0, zlib.crc32(key.encode())])
    if key.endswith(("num_batches_tracked", "relative_position_index")):
        return np.zeros(shape, np.int64)
    if re.search(_TOKENS, key):  # of transformers
        return np.float32(0.5) * rng.standard_normal(shape, np.float32)
    if re.search(r"\.ls\d\.gamma$|\.lambda1$", key):  # factors of their branches
        return rng.uniform(0.3, 0.7, shape).astype(np.float32)
    if len(shape) > 1:  # He et al. 2015; fan-in is all but the first axis
        gain = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        return gain * rng.standard_normal(shape, np.float32)
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if key.endswith("gamma"):  # of a block of ConvNeXt
        return rng.uniform(0.2, 0.5, shape).astype(np.float32)
    if key.endswith("weight"):  # of a batch norm
        # 33 branches are added up in ResNet-101
        scale = 0.3 if _LAST_NORM.fullmatch(key) else 1.0
        return (scale * rng.uniform(0.8, 1.2, shape)).astype(np.float32)
    return np.float32(0.1) * rng.standard_normal(shape, np.float32)  # biases, running means
