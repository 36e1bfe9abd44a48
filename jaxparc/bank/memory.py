"""Whether as many images can be compared with each other in the memory that there is."""

import os
from collections.abc import Iterable
from pathlib import Path

from jaxparc.errors import InputError

# Beyond, counts of pairs leave int32.
MOST_IMAGES = 46_340

_GIB = 2**30


def check(n: int, bytes_per_pair: Iterable[int]) -> None:
    """Refuse more images than can be compared here.

    Args:
        n: images.
        bytes_per_pair: of each method, what it keeps per n^2, as measured.

    Raises:
        InputError: that takes more than half of the memory.
    """
    needed, limit = sum(bytes_per_pair) * n**2, available() // 2
    if n > MOST_IMAGES or needed > limit:
        raise InputError(
            f"comparing {n:,} images with each other takes about {needed / _GIB:,.1f} GiB; the "
            f"limit is half of the memory, {limit / _GIB:,.1f} GiB, and {MOST_IMAGES:,} images: "
            "give fewer, 500 are enough"
        )


def available() -> int:
    """Bytes of memory that this machine, or the container that the process is in, has."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # not there; "max"
            continue
    return min(sizes)
