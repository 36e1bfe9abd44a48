"""Encoded images to RGB pixels, the same way wherever one is opened."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def open_rgb(file: str | Path | bytes, *, side: int | None = None) -> Image.Image:
    """Opens and decodes an image whole.

    Args:
        file: a path, or the encoded bytes.
        side: if every side will be shrunk to this many pixels anyway; a JPEG is then decoded at a
            half, quarter or eighth of its size, as long as no side falls below that.

    Returns:
        An RGB image; grey is repeated, 16-bit grey scaled to 8 bits, transparency dropped, and of
        an animation the first frame taken. Orientation tags are not looked at.

    Raises:
        OSError: it is not there, or is no image, or is cut off.
        ValueError: its pixels are floating-point numbers.
    """
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        if side is not None:
            image.draft("RGB", (side, side))
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, of no known range")
        if image.mode.startswith("I"):  # PIL's own conversion would clip them at 255
            return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert(
                "RGB"
            )
        return image.convert("RGB")
