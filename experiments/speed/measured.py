"""Measure rows, print them and write their tables: the part that all speed tables share."""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.speed import machine
from jaxparc import files, printing


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows that are measured together.

    Attributes:
        name: what is measured.
        kind: cases of one kind take about as long as each other.
        measure: returns the rows: dataclasses.
        priority: lower numbers are measured first, if time is limited.
    """

    name: str
    kind: str
    measure: Callable[[], Iterable[Any]]
    priority: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A table to measure.

    Attributes:
        name: name of the command.
        packages: packages whose versions are recorded.
        sizes: a dataclass of the sizes to measure; None without any.
        cases: the cases, in the order of the table.
        header: column headers of the table.
        cells: function that returns the cells of a row.
        title: title of the table.
        note: printed first, and above the table in OUT.md.
        about: further values to record in OUT.json.
        free: releases what the cases share; called when other sections follow.
    """

    name: str
    packages: Sequence[str]
    sizes: Any
    cases: Sequence[Case]
    header: Sequence[str]
    cells: Callable[[Any], tuple[str, ...]]
    title: str
    note: str = ""
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    free: Callable[[], None] = lambda: None


class Budget:
    """The time that a command may take."""

    def __init__(self, seconds: float | None = None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._took: dict[str, float] = {}

    def refusal(self, kind: str) -> str | None:
        """Return why no case of a kind can end in time; None if it may, or if nothing is known."""
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            return "the time is over"
        last = self._took.get(kind, 0.0)
        if last > left:
            return f"the last similar case took {last:.0f} s; {left:.0f} s are left"
        return None

    def took(self, kind: str, seconds: float) -> None:
        """Record the duration of a case."""
        self._took[kind] = seconds


class Record:
    """The rows of a section that are measured so far; OUT.md and OUT.json have them at any time.

    Attributes:
        section: the section.
        rows: its rows.
        failed: name -> error, of the cases that failed.
        left_out: name -> reason, of the cases that were not started.
    """

    def __init__(
        self, section: Section, out: Path | None, ran: str, about: Mapping[str, Any] | None = None
    ) -> None:
        """Start without rows.

        Args:
            section: the section.
            out: path without a suffix; None to write nothing.
            ran: the command line, to record.
            about: further values to record in OUT.json.
        """
        self.section = section
        self.rows: list[Any] = []
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._lines: list[tuple[str, ...]] = []
        self._out = out
        self._seconds = 0.0
        self._about = {"command": ran, **machine.settings(section.packages), **section.about}
        self._about |= dict(about or {})
        self._terminal = _console()
        about_ = self._about
        self._print(f"{about_['device']}, {about_['processor']}, {about_['cores']} cores")
        if section.note:
            self._print(section.note)

    def measure(self, case: Case, budget: Budget | None = None) -> None:
        """Measure a case, and write the table after each of its rows.

        Args:
            case: the case; it is left out if it cannot end in time.
            budget: the time; by default unlimited.
        """
        budget = budget or Budget()
        if (reason := budget.refusal(case.kind)) is not None:
            self.left_out[case.name] = reason
            self._print(f"left out: {case.name}: {reason}")
        else:
            started = time.monotonic()
            try:
                self._measure(case)
            # Whatever a case raises, the others may succeed: out of memory, a missing package.
            except Exception as error:
                self.failed[case.name] = f"{type(error).__name__}: {printing.line(error)}"
                self._print(f"failed: {case.name}: {self.failed[case.name]}")
            machine.release()
            seconds = time.monotonic() - started
            self._seconds += seconds
            if case.name not in self.failed:  # which may have taken less than it would have
                budget.took(case.kind, seconds)
        self.write()

    def _measure(self, case: Case) -> None:
        for row in case.measure():
            self.rows.append(row)
            self._lines.append(self.section.cells(row))
            self._print("  ".join(self._lines[-1]))
            self.write()

    def _print(self, text: str) -> None:
        self._terminal.print(text, highlight=False, markup=False)
        self._terminal.file.flush()  # a log has every row, whenever the process ends

    def write(self) -> None:
        """Write the table and all rows."""
        if self._out is None:
            return
        about = self._about | {
            "sizes": self.section.sizes and dataclasses.asdict(self.section.sizes),
            "seconds": self._seconds,
            "failed": self.failed,
            "left_out": self.left_out,
        }
        rows = [dataclasses.asdict(row) for row in self.rows]
        text = json.dumps({"about": about, "rows": rows}, indent=1)
        files.write_text(self._out.with_suffix(".json"), text)
        parts = [ran(about), self.section.note, "\n".join(table(self.section.header, self._lines))]
        for title, cases in (("Failed", self.failed), ("Left out", self.left_out)):
            lines = [f"- {name}: {printing.markdown(reason)}" for name, reason in cases.items()]
            parts.append("\n".join([f"{title}:\n", *lines]) if lines else "")
        files.write_text(self._out.with_suffix(".md"), "\n\n".join(filter(None, parts)) + "\n")

    def show(self) -> None:
        """Print the table, and where it was written."""
        show(self.section.header, self._lines, self.section.title)
        self._print(f"measured in {self._seconds:.0f} s")
        if self._out is not None:
            names = (self._out.with_suffix(suffix) for suffix in (".md", ".json"))
            self._print(f"written: {', '.join(map(str, names))}")


def _console() -> Console:
    """Return a console, with a fixed width if the output is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


def show(header: Sequence[str], lines: Iterable[Sequence[str]], title: str) -> None:
    """Print a table."""
    printed = Table(*header, title=title)
    for line in lines:
        printed.add_row(*line)
    _console().print(printed)


def add_out(command: argparse.ArgumentParser) -> None:
    """Add the flag that names the files."""
    command.add_argument("--out", type=Path, metavar="FILE", help="write FILE.md and FILE.json")


def add_quick(command: argparse.ArgumentParser, fewer: str) -> None:
    """Add the flag for a shorter table.

    Args:
        command: the command.
        fewer: noun for the things that it measures fewer of.
    """
    command.add_argument("--quick", action="store_true", help=f"fewer {fewer} and repeats")


def run(section: Section, out: Path | None = None, ran: str = "") -> list[Any]:
    """Measure all cases of a section, print them, and write OUT.md and OUT.json after each row.

    Args:
        section: the section.
        out: path without a suffix; None to write nothing.
        ran: the command line, to record.

    Returns:
        All rows.

    Raises:
        SystemExit: some cases failed; the others are measured and written first.
    """
    record = Record(section, out, ran or f"python -m experiments.speed {section.name}")
    for case in section.cases:
        record.measure(case)
    record.show()
    if record.failed:
        count = printing.count(len(record.failed), "case")
        raise SystemExit(f"{count} failed: {printing.some(list(record.failed))}")
    return record.rows


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


def ran(about: Mapping[str, Any]) -> str:
    """Return the line above a table that says how it was measured."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"`{about['command']}`, {about['date']}: {about['device']}, "
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
