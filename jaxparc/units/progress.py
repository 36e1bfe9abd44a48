"""Show the progress of units, live on a terminal or as lines of a log."""

import time
from collections.abc import Sequence

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Column

from jaxparc import printing


def say(line: str) -> None:
    """Print one line on stderr without disturbing a live display."""
    _CONSOLE.print(printing.lines(line), highlight=False, soft_wrap=True, markup=False)


_CONSOLE = Console(stderr=True)  # the output of a command is its result


class Progress:
    """A display of the units done, the current one, images per second and the time left.

    It is live on a terminal; elsewhere it prints one line per unit, so that logs stay readable.

    Args:
        title: title of the set of units.
        total: number of units.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._made, self._started = 0, time.monotonic()
        self._unit, self._images, self._unit_started = "", 0, self._started
        self._live = printing.progress_bar(
            rich.progress.TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            rich.progress.BarColumn(bar_width=10),
            rich.progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
            rich.progress.TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            # This column is truncated on a narrow terminal.
            rich.progress.TextColumn(
                "{task.fields[unit]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=_CONSOLE,
            transient=True,
            expand=True,
        )
        self._task = self._live.add_task(title, total=total, left="", unit="")

    def __enter__(self) -> "Progress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def keep(self) -> None:
        """Count a unit that is already done."""
        self._done += 1
        self._started = time.monotonic()  # units that are already done take no time
        self._show()

    def leave_out(self, count: int) -> None:
        """Reduce the expected number of units by `count`."""
        self._total -= count
        self._show()

    def start(self, name: str) -> None:
        """Show that a unit, or a check of one, has started."""
        self._unit, self._images, self._unit_started = name, 0, time.monotonic()
        self._show()

    def images(self, count: int) -> None:
        """Count `count` more images of the current unit."""
        self._images += count
        self._show()

    def finish(
        self, name: str, seconds: float, error: str | None, notes: Sequence[str] = ()
    ) -> None:
        """Count a unit that was made, or that failed with an error, and print its notes."""
        self._done += 1
        self._made += 1
        self._show()
        if error is not None:
            say(f"{self._title}: {name} FAILED: {error}")
        elif not _CONSOLE.is_terminal:
            say(
                f"{self._title} {self._done}/{self._total} {name}: {seconds:.1f} s"
                f"{self._rate()}{self._left()}"
            )
        for note in notes:
            say(f"{self._title}: {name}: {note}")

    def _show(self) -> None:
        unit = escape(printing.shown(f"{self._unit}{self._rate()}"))
        self._live.update(
            self._task, completed=self._done, total=self._total, left=self._left()[2:], unit=unit
        )

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._unit_started, 1e-9)
        return f", {self._images / seconds:.0f} images/s" if self._images else ""

    def _left(self) -> str:
        if not self._made:
            return ""
        per_unit = (time.monotonic() - self._started) / self._made
        return f", {per_unit * (self._total - self._done):.0f} s left"
