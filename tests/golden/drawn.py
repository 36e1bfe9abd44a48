"""Weights and images for the goldens of the networks, drawn from their names: nothing to store.

Both the maker (with torch) and the tests (without) call this, so it imports NumPy alone. The
scales keep activations near 1 through a hundred layers while every parameter still matters.
"""

import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping

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
    "efficientnet_b0": ((97, 75),),
    "efficientnetv2_s": ((64, 64),),
    "mobilenetv3_large_100": ((64, 64),),
    "mobilenetv3_small_100": ((97, 75),),
}


# The last batch norm of a bottleneck, or of a block of timm's or torchvision's EfficientNets.
_LAST_NORM = re.compile(
    r"(layer\d\.\d+\.bn3|blocks\.\d+\.\d+\.bn3|features\.\d+\.\d+\.block\.3\.1)\.weight"
)


def images(height: int, width: int) -> np.ndarray:
    """Two images, (2, height, width, 3) float32, as if normalised already."""
    rng = np.random.default_rng([0, height, width])
    return rng.standard_normal((2, height, width, 3), np.float32)


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """An array for every key of a original's state dict."""
    return {key: _weight(key, shape) for key, shape in shapes.items()}


def _weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng([0, zlib.crc32(key.encode())])
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) > 1:  # He et al. 2015; fan-in is all but the first axis
        gain = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        return gain * rng.standard_normal(shape, np.float32)
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if key.endswith("weight"):  # of a batch norm
        # 33 branches are added up in ResNet-101
        scale = 0.3 if _LAST_NORM.fullmatch(key) else 1.0
        return (scale * rng.uniform(0.8, 1.2, shape)).astype(np.float32)
    return np.float32(0.1) * rng.standard_normal(shape, np.float32)  # biases, running means


def digest(lines: Iterable[str]) -> str:
    """Return a short digest of keys and shapes in any order, without counters."""
    kept = sorted(line for line in lines if "num_batches_tracked" not in line)
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]
