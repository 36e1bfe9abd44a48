"""What a stage shows on the terminal, or in a log."""

import time

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Column

from jaxparc import printing


def say(line: str) -> None:
    """One line to the terminal, without breaking a live display."""
    _CONSOLE.print(printing.lines(line), highlight=False, soft_wrap=True, markup=False)


_CONSOLE = Console()


class Progress:
    """Units done of all, the current one, images per second and time left.

    Live on a terminal; elsewhere one line for each unit, so that a log stays readable.
    """

    def __init__(self, stage: str, total: int, done: int) -> None:
        self._stage, self._total, self._done = stage, total, done
        self._made, self._started = 0, time.monotonic()
        self._unit, self._images, self._unit_started = "", 0, self._started
        self._live = rich.progress.Progress(
            rich.progress.TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            rich.progress.BarColumn(bar_width=10),
            rich.progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
            rich.progress.TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            # What gives way where the terminal is narrow.
            rich.progress.TextColumn(
                "{task.fields[unit]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=_CONSOLE,
            disable=not _CONSOLE.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._live.add_task(stage, total=total, completed=done, left="", unit="")

    def __enter__(self) -> "Progress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def start(self, name: str) -> None:
        """A unit begins."""
        self._unit, self._images, self._unit_started = name, 0, time.monotonic()
        self._show()

    def images(self, count: int) -> None:
        """So many more of its images are done."""
        self._images += count
        self._show()

    def finish(self, name: str, seconds: float, error: str | None) -> None:
        """A unit is done, or has failed."""
        self._done += 1
        self._made += 1
        self._show()
        if error is not None:
            say(f"{self._stage}: {name} FAILED: {error}")
        elif not _CONSOLE.is_terminal:
            say(
                f"{self._stage} {self._done}/{self._total} {name}: {seconds:.1f} s"
                f"{self._rate()}{self._left()}"
            )

    def _show(self) -> None:
        unit = escape(printing.shown(f"{self._unit}{self._rate()}"))
        self._live.update(self._task, completed=self._done, left=self._left()[2:], unit=unit)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._unit_started, 1e-9)
        return f", {self._images / seconds:.0f} images/s" if self._images else ""

    def _left(self) -> str:
        if not self._made:
            return ""
        per_unit = (time.monotonic() - self._started) / self._made
        return f", {per_unit * (self._total - self._done):.0f} s left"
