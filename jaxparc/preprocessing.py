"""Preprocessing of images on the host: decode, resize, and take the central crop.

Normalisation is part of the compiled network (`models.layers.normalise`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxparc.errors import InputError

# Pillow's numbers of its filters. It is imported where images are resized: `Geometry` is part of
# every bank, and files of features are ranked without it.
INTERPOLATIONS = {"nearest": 0, "bilinear": 2, "bicubic": 3, "lanczos": 1}
RESIZES = ("squash", "shortest")


class Geometry(NamedTuple):
    """How an image becomes a square; all but nearest interpolation average where it shrinks.

    Attributes:
        size: side of the central crop, in pixels.
        crop: side of the crop, relative to the side that images are resized to; in (0, 1].
        resize: "squash": to a square, whatever the aspect ratio; "shortest": the shorter side is
            resized, and the aspect ratio kept.
        interpolation: a key of `INTERPOLATIONS`.
    """

    size: int
    crop: float = 0.875
    resize: str = "squash"
    interpolation: str = "bilinear"

    @property
    def resized(self) -> int:
        """The side that images are resized to, in pixels.

        Of squashed images, it is rounded so that the margins of the crop are equal; of others it is
        rounded down, as in timm.
        """
        if self.resize == "squash":
            return self.size + 2 * round(self.size * (1 / self.crop - 1) / 2)
        return math.floor(self.size / self.crop)


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return what normalises pixels x from 0 to 255, as x * scale - shift.

    Args:
        mean: of each channel, of images in [0, 1].
        std: likewise.

    Returns:
        Scale and shift, (c,) float32.
    """
    scale = np.float32(1.0) / (np.float32(255.0) * np.asarray(std, np.float32))
    return scale, np.asarray(mean, np.float32) / np.asarray(std, np.float32)


def central_crop(image: np.ndarray | bytes, geometry: Geometry) -> np.ndarray:
    """Return the central crop of an image, (size, size, 3) uint8.

    Args:
        image: (h, w, 3) uint8, or an encoded image.
        geometry: how it is resized.

    Raises:
        OSError: it cannot be decoded.
        InputError: likewise; or its sides differ so much that resizing would make it too large.
    """
    from PIL import Image

    from jaxparc.datasets import images

    side = geometry.resized
    if geometry.resize == "squash":
        square = resized_square(image, side, geometry.interpolation)
        margin = (side - geometry.size) // 2
        inner = slice(margin, margin + geometry.size)
        return square[inner, inner]
    # A JPEG is decoded at a half, a quarter or an eighth only where that is twice what is needed:
    # resizing then averages over pixels anyway.
    rgb = (
        images.open_rgb(image, side=2 * side)
        if isinstance(image, bytes)
        else Image.fromarray(image)
    )
    shorter, longer = sorted(rgb.size)
    long = side * longer // shorter  # rounded down, as in torchvision
    if side * long > images.MAX_PIXELS:
        raise InputError(f"it has {rgb.width}x{rgb.height} pixels, too thin to be resized")
    target = (side, long) if rgb.width <= rgb.height else (long, side)
    if target != rgb.size:
        rgb = rgb.resize(target, INTERPOLATIONS[geometry.interpolation])
    left, top = (round((n - geometry.size) / 2) for n in rgb.size)
    return np.asarray(rgb.crop((left, top, left + geometry.size, top + geometry.size)))


def resized_square(
    image: np.ndarray | bytes, side: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """Decode an image if necessary, and resize it to (side, side, 3) uint8.

    Args:
        image: (h, w, 3) uint8, or an encoded image; a JPEG is decoded at a half, a quarter or an
            eighth of its size where that is enough.
        side: in pixels.
        interpolation: a key of `INTERPOLATIONS`.
    """
    from PIL import Image

    from jaxparc.datasets import images

    method = INTERPOLATIONS[interpolation]
    if isinstance(image, bytes):
        return images.open_square(image, side, method)
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), method))
