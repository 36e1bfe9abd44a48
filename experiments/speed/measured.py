"""Measure, describe the machine, print and write, for all speed tables."""

import argparse
import contextlib
import ctypes
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from jaxparc import files

R = TypeVar("R")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def console() -> Console:
    """Return a console, with a fixed width if the output is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


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


def command(commands: "Commands", name: str, about: str, fewer: str) -> argparse.ArgumentParser:
    """Add a command with the flags that all commands share, and return its parser.

    Args:
        commands: the commands of `experiments.speed`.
        name: name of the command.
        about: description for --help.
        fewer: noun for the things that --quick measures fewer of.
    """
    parser = commands.add_parser(name, help=about)
    parser.add_argument("--quick", action="store_true", help=f"fewer {fewer} and repeats")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write FILE.md and FILE.json")
    return parser


def run(
    command: str,
    packages: Sequence[str],
    sizes: Any,
    rows: Iterable[R],
    header: Sequence[str],
    cells: Callable[[R], tuple[str, ...]],
    title: str,
    out: Path | None,
    *,
    note: str = "",
    about: Mapping[str, Any] = MappingProxyType({}),
) -> list[R]:
    """Print rows as they are measured, then their table, and write OUT.md and OUT.json.

    Args:
        command: name of the command of `experiments.speed`.
        packages: packages whose versions are recorded.
        sizes: a dataclass of the sizes to measure.
        rows: dataclasses, each of which is measured when it is requested.
        header: column headers of the table.
        cells: function that returns the cells of a row.
        title: title of the table.
        out: path without a suffix; None to write nothing.
        note: printed first, and above the table in OUT.md.
        about: further values to record in OUT.json.

    Returns:
        All rows.
    """
    terminal = console()
    recorded = settings(packages) | dict(about)
    started = time.monotonic()
    terminal.print(f"{recorded['device']}, {recorded['processor']}, {recorded['cores']} cores")
    if note:
        terminal.print(note, highlight=False)
    done, lines = [], []
    for row in rows:
        done.append(row)
        lines.append(cells(row))
        terminal.print("  ".join(lines[-1]), highlight=False)
    printed = Table(*header, title=title)
    for line in lines:
        printed.add_row(*line)
    terminal.print(printed)
    recorded |= {"sizes": dataclasses.asdict(sizes), "seconds": time.monotonic() - started}
    terminal.print(f"measured in {recorded['seconds']:.0f} s")
    if out is not None:
        text = "\n\n".join(
            [ran(command, recorded), *filter(None, [note]), "\n".join(table(header, lines))]
        )
        kept = [dataclasses.asdict(cast(Any, row)) for row in done]
        terminal.print(write(out, recorded, kept, text + "\n"))
    return done


def forget_peak() -> bool:
    """Reset the high-water mark of resident memory; return whether that is possible."""
    try:
        # Freed memory that the allocator retains would hide the needs of the next call.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
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


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def matrix_rate(dtype: Any, size: int | None = None) -> float:
    """Return the operations per second of a matrix product on one device, at highest precision.

    Args:
        dtype: dtype of both matrices.
        size: number of rows and columns of both; by default 2,048 on a CPU, and 8,192 to fill an
            accelerator.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    a = jnp.ones((size, size), dtype)
    product(a).block_until_ready()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


_PAUSE = 0.5  # seconds until the other side's threads, which spin waiting for work, sleep


def alternate(
    sides: Mapping[str, tuple[Callable[[], Any], int]], images: int, repeats: int
) -> dict[str, list[float]]:
    """Return images per second of every repeat, by side; each repeat starts with a warm-up call.

    Args:
        sides: name -> a blocking function, and the number of images that a call processes.
        images: minimum number of images per repeat.
        repeats: repeats of each side; the sides alternate.
    """
    rates: dict[str, list[float]] = {what: [] for what in sides}
    for _ in range(repeats):
        for what, (call, of_call) in sides.items():
            time.sleep(_PAUSE)
            call()
            calls = -(-images // of_call)
            started = time.perf_counter()
            for _ in range(calls):
                call()
            rates[what].append(calls * of_call / (time.perf_counter() - started))
    return rates


def spread(values: Sequence[float]) -> str:
    """Return the median and, in brackets, the lowest and highest values; a dash if empty."""
    if not values:
        return "–"
    low, middle, high = min(values), statistics.median(values), max(values)
    digits = 2 if middle < 10 else 1 if middle < 100 else 0
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def ran(command: str, about: dict[str, Any]) -> str:
    """Return the line above a table that says how it was measured."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"`python -m experiments.speed {command}`, {about['date']}: {about['device']}, "
        f"{about['processor']}, {about['cores']} cores; Python {about['python']}, {packages}; "
        f"{'; '.join(about['blas'])}."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, with numbers aligned right."""
    return [
        "| " + " | ".join(header) + " |",
        "| --- " + "| ---: " * (len(header) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def write(out: Path, about: dict[str, Any], rows: list[Any], markdown: str) -> str:
    """Write OUT.json and OUT.md; return the line that says so."""
    text = json.dumps({"about": about, "rows": rows}, indent=1)
    files.write_text(out.with_suffix(".json"), text)
    files.write_text(out.with_suffix(".md"), markdown)
    return f"written: {out.with_suffix('.md')}, {out.with_suffix('.json')}"
