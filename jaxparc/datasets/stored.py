"""Notes on how the images of a data set are stored: very different sizes, or mixed channels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxparc.datasets.images import Stored

RATIO = 16
"""Ratio of the largest to the smallest area of images from which a note is made."""

_SEVERAL = {
    "grayscale": "are grayscale",
    "alpha": "have an alpha channel",
    "CMYK": "are CMYK",
    "RGB": "are RGB",
}
_ONE = {**_SEVERAL, "grayscale": "is grayscale", "alpha": "has an alpha channel", "CMYK": "is CMYK"}


def summary(found: Sequence[tuple[Path, Stored]]) -> dict[str, Any]:
    """Summarise images for `note`, in a form that JSON can hold.

    Args:
      found: path and how it is stored, of each image that can be decoded.

    Returns:
      `images`, their number; `sizes`, the width, height and path of the image with the smallest
      area and of that with the largest; and `channels`, kind -> number of images and the first
      path.
    """
    channels: dict[str, tuple[int, str]] = {}
    for path, stored in found:
        count, first = channels.get(stored.channels, (0, str(path)))
        channels[stored.channels] = count + 1, first
    by_area = sorted(found, key=lambda one: one[1].width * one[1].height)
    ends = [by_area[0], by_area[-1]] if by_area else []
    sizes = [(stored.width, stored.height, str(path)) for path, stored in ends]
    return {"images": len(found), "sizes": sizes, "channels": channels}


def note(known: Mapping[str, Any]) -> str:
    """Return one line if sizes differ by more than RATIO, or channels differ; "" otherwise.

    Args:
      known: what `summary` returned.
    """
    parts = []
    if known["sizes"]:
        (*small, small_path), (*large, large_path) = known["sizes"]
        if large[0] * large[1] > RATIO * small[0] * small[1]:
            parts.append(
                f"images from {small[0]}x{small[1]} ({_name(small_path)}) to {large[0]}x{large[1]} "
                f"pixels ({_name(large_path)}); all are resized to the input size of a network"
            )
    if len(known["channels"]) > 1:
        odd = [
            f"{count:,} {(_ONE if count == 1 else _SEVERAL)[kind]} (first: {_name(first)})"
            for kind, (count, first) in known["channels"].items()
            if kind != "RGB"
        ]
        parts.append(f"of {known['images']:,} images, {', '.join(odd)}; all are read as RGB")
    return "; ".join(parts)


def _name(path: str) -> str:
    """Return the name of a file with that of its folder, which is often its class."""
    return "/".join(Path(path).parts[-2:])
