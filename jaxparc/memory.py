"""How much memory there is, and whether as many images can be compared with each other."""

import os
from pathlib import Path

# What comparing n images with each other takes, measured: n x n float32 matrices, and pairs with
# their ranks, per n^2.
BYTES_PER_PAIR = 60

# Beyond, counts of pairs leave int32.
MOST_IMAGES = 46_340


def check(n: int) -> None:
    """Refuse more images than can be compared here.

    Raises:
        ValueError: n^2 numbers, several times, do not fit into memory.
    """
    needed, there = BYTES_PER_PAIR * n * n, available()
    if n > MOST_IMAGES or needed > there:
        raise ValueError(
            f"comparing {n:,} images with each other takes about {needed / 2**30:,.0f} GiB, of "
            f"{there / 2**30:,.0f} GiB of memory; give fewer images, 500 are enough"
        )


def available() -> int:
    """Bytes of memory of this machine, or of the container that this process is in."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # not there; "max"
            continue
    return min(sizes)
