"""Memory of a command on a CPU: huge pages for training, and returning what a stage has freed.

Training on a CPU allocates and frees its temporaries in every step. glibc returns them to the
system and asks for them again in pages of 4 KiB, and each page that is touched again is a fault:
for small images much of the time of a step. In pages of 2 MiB there are far fewer.

Compiling GoogLeNet's training step takes about a gigabyte, in small pieces. glibc keeps them when
they are freed, yet the next program, compiled by other threads, needs as much again.
"""

import ctypes
import functools
import importlib.util
import os
import platform
import sys

TUNABLE = "glibc.malloc.hugetlb"
LONG = 2.0  # seconds of a compilation that leaves enough memory to be worth returning


def use_huge_pages() -> None:
    """Start this process again with huge pages in malloc, where training on a CPU can use them.

    glibc reads the variable GLIBC_TUNABLES before Python starts. Nothing happens where it has the
    tunable already (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0` keeps small pages), without glibc 2.35,
    and where JAX has a plugin for an accelerator, unless JAX_PLATFORMS says "cpu".
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or _glibc() < (2, 35) or not _on_cpu():
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{TUNABLE}=1".removeprefix(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def release() -> bool:
    """Return freed memory to the system, where malloc is glibc's; return whether it is."""
    if not _glibc():
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


@functools.cache
def release_after_compiling() -> None:
    """Call `release` after every long compilation of this process from now on."""
    import jax

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and duration_secs > LONG:
            release()

    jax.monitoring.register_event_duration_secs_listener(note)


def _glibc() -> tuple[int, ...]:
    """Return the version of glibc, such as (2, 35); () for another library or system."""
    library, version = platform.libc_ver()
    if sys.platform != "linux" or library != "glibc":
        return ()
    return tuple(int(n) for n in version.split(".")[:2] if n.isdigit())


def _on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS")
    return platforms == "cpu" if platforms else importlib.util.find_spec("jax_plugins") is None
