"""How images become the input of a network: `Geometry`, and the normalisation of pixels.

`preprocessing` follows it, with Pillow, which files of features are ranked without.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Pillow's numbers of its filters.
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
