"""Show the progress of a training: a bar on a terminal, lines of a log elsewhere."""

import time
from collections.abc import Callable

import numpy as np
import rich.progress
from rich.console import Console
from rich.markup import escape

from jaxparc import printing
from jaxparc.training.history import Steps
from jaxparc.units.progress import say

EVERY = 30.0  # seconds between lines of a log


class TrainingProgress:
    """A display of steps, loss, images per second and the time left, over all learning rates.

    Attributes:
        done: number of steps whose metrics are known.

    Args:
        title: the model and the target.
        total: number of steps over all learning rates.
        clock: returns the time in seconds.
    """

    def __init__(
        self, title: str, total: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.done = 0
        self._title, self._total, self._clock = printing.shown(title), total, clock
        self._of_rate: dict[float, int] = {}
        self._measured = [0, 0, 0.0]  # steps, images, seconds; without the first call
        self._first = True
        self._said = clock()
        self._bar = printing.progress_bar(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(escape(self._title), total=total, state="compiling")

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def watch(self, rate: float, steps: Steps) -> None:
        """Count steps that were trained with a learning rate."""
        losses = steps.metrics["loss"]
        self.reach(rate, steps.first + losses.shape[1])
        if steps.images and not self._first:  # the first call compiles
            for place, amount in enumerate((losses.shape[1], steps.images, steps.seconds)):
                self._measured[place] += amount
        self._first = self._first and not steps.images
        state = f"learning rate {rate:g}, loss {float(np.mean(losses)):.3f}{self._speed()}"
        self._bar.update(self._task, completed=self.done, state=state)
        if self._bar.disable and self._clock() - self._said >= EVERY:
            self._said = self._clock()
            say(f"{self._title}: step {self.done} of {self._total}, {state}")

    def reach(self, rate: float, steps: int) -> None:
        """Count all steps with a learning rate up to a number, also if an earlier command did."""
        self._of_rate[rate] = max(steps, self._of_rate.get(rate, 0))
        self.done = sum(self._of_rate.values())

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        if self._bar.disable:
            say(line)
        else:
            self._bar.console.print(printing.shown(line), highlight=False, markup=False)

    def _speed(self) -> str:
        steps, images, seconds = self._measured
        if not steps or not seconds:
            return ""
        left = (self._total - self.done) * seconds / steps
        return f", {images / seconds:.0f} images/s, {printing.duration(left)} left"
