"""Where and with what a speed table was measured, and how it is written."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console


def console() -> Console:
    """The terminal; a log has no width of its own."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


def settings(packages: Sequence[str]) -> dict[str, Any]:
    """Where and with what this is measured."""
    import threadpoolctl

    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in packages},
        "blas": sorted(
            {
                f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"
                for pool in threadpoolctl.threadpool_info()
            }
        ),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def spread(values: Sequence[float]) -> str:
    """Median and, in brackets, the lowest and the highest."""
    if not values:
        return "–"
    low, middle, high = min(values), statistics.median(values), max(values)
    digits = 2 if middle < 10 else 1 if middle < 100 else 0
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def ran(command: str, about: dict[str, Any]) -> str:
    """The line above a table that says what it is of."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"`python -m experiments.speed {command}`, {about['date']}: {about['device']}, "
        f"{about['processor']}, {about['cores']} cores; Python {about['python']}, {packages}; "
        f"{'; '.join(about['blas'])}."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, numbers to the right."""
    return [
        "| " + " | ".join(header) + " |",
        "| --- " + "| ---: " * (len(header) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def write(out: Path, about: dict[str, Any], rows: list[Any], markdown: str) -> str:
    """Write OUT.json and OUT.md; returns the line that says so."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"about": about, "rows": rows}, indent=1)
    out.with_suffix(".json").write_text(text)
    out.with_suffix(".md").write_text(markdown)
    return f"written: {out.with_suffix('.md')}, {out.with_suffix('.json')}"
