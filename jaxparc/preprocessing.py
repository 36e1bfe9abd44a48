"""Preprocessing of images on the host: decode, resize, and take the central crop.

Normalisation is part of the compiled network (`models.layers.normalise`).
"""

import numpy as np
from PIL import Image

from jaxparc.datasets import images
from jaxparc.errors import InputError
from jaxparc.geometry import INTERPOLATIONS, Geometry


def central_crop(image: np.ndarray | bytes, geometry: Geometry) -> np.ndarray:
    """Return the central crop of an image, (size, size, 3) uint8.

    Args:
        image: (h, w, 3) uint8, or an encoded image.
        geometry: how it is resized.

    Raises:
        OSError: it cannot be decoded.
        InputError: likewise; or its sides differ so much that resizing would make it too large.
    """
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
    method = INTERPOLATIONS[interpolation]
    if isinstance(image, bytes):
        return images.open_square(image, side, method)
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), method))
