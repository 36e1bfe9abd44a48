"""Describe the machine, and measure and release its memory."""

import contextlib
import datetime
import gc
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments import memory


def settings(packages: Sequence[str]) -> dict[str, Any]:
    """Return a description of the machine and the versions of Python, packages and BLAS."""
    import threadpoolctl

    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": _versions(packages),
        "blas": sorted(
            {
                f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"
                for pool in threadpoolctl.threadpool_info()
            }
        ),
    }


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def forget_peak() -> bool:
    """Reset the high-water mark of resident memory; return whether that is possible."""
    # Freed memory that the allocator retains would hide the needs of the next call.
    if not memory.release():
        return False
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak() -> float | None:
    """Return the high-water mark of resident memory in MiB; None if unknown."""
    return _status("VmHWM")


def resident() -> float | None:
    """Return resident memory in MiB; None if unknown."""
    return _status("VmRSS")


def _status(key: str) -> float | None:
    """Return a value of /proc/self/status in MiB; None if it does not exist."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) / 1024
    return None


def share_device() -> None:
    """Let JAX leave the memory of an accelerator that it does not need to torch.

    Call this before any other use of JAX; it does not override the environment.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def release() -> None:
    """Free unreachable arrays, and return the device memory that torch keeps for later use."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch._dynamo.reset()  # compiled functions hold their networks
        torch.cuda.empty_cache()
