"""Check that all pairs of images can be compared in the available memory."""

import os
from collections.abc import Iterable
from pathlib import Path

from jaxparc.errors import InputError
from jaxparc.selectors import Method

# Bytes per pair of images that every method on features needs: products and distances.
GRAM = 12

# Above this, the number of pairs overflows int32.
MOST_IMAGES = 46_340

_GIB = 2**30


def bytes_per_pair(methods: Iterable[Method]) -> list[int]:
    """Return the measured bytes per n^2 that scoring a model holds: in common, and per method."""
    # Methods that differ only in "+ layers" share their computation.
    reading = {method.function: method.selector for method in methods if method.reads_images}
    return [GRAM, *(selector.bytes_per_pair for selector in reading.values())]


def check(n: int, bytes_per_pair: Iterable[int]) -> None:
    """Refuse more images than fit into memory.

    Args:
        n: number of images.
        bytes_per_pair: for each method, the measured bytes that it holds per n^2.

    Raises:
        InputError: more than half of the memory would be needed, or n exceeds MOST_IMAGES.
    """
    needed, limit = sum(bytes_per_pair) * n**2, available() // 2
    if n > MOST_IMAGES or needed > limit:
        raise InputError(
            f"comparing {n:,} images with each other takes about {needed / _GIB:,.1f} GiB; the "
            f"limit is half of the memory, {limit / _GIB:,.1f} GiB, and {MOST_IMAGES:,} images: "
            "pass fewer; 500 are enough"
        )


def available() -> int:
    """Return the bytes of memory of this machine, or of the container if that has fewer."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(sizes)
