"""Metrics of training steps: those that are known, and those still computed on the devices."""

import collections
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

METRICS = ("loss", "accuracy")  # of a step; those of `steps.train_step`


class Steps(NamedTuple):
    """Steps of g runs that are done.

    Attributes:
        first: number of the first one.
        metrics: `loss`, `accuracy` (in [0, 1]) and `learning_rate`, (g, k) float32 each.
        images: that the runs were trained on in these steps; 0 for steps before an interruption.
        seconds: since the previous steps were reported, or since the start.
    """

    first: int
    metrics: dict[str, np.ndarray]
    images: int
    seconds: float


class History:
    """The metrics of all steps of g runs.

    Attributes:
        watch: called with steps as soon as their metrics are known; None for nobody.
        dispatched: number of steps that were handed to the devices.
        done: number of steps whose metrics are known.
    """

    def __init__(
        self,
        learning_rates: np.ndarray,
        images_per_step: int,
        watch: Callable[[Steps], None] | None = None,
    ) -> None:
        """Start before the first step.

        Args:
            learning_rates: (g, steps) float32.
            images_per_step: of all runs together.
            watch: the attribute.
        """
        self.watch = watch
        self.dispatched = self.done = 0
        self._learning_rates, self._images_per_step = learning_rates, images_per_step
        self._pending: collections.deque[tuple[int, Mapping[str, Any]]] = collections.deque()
        nothing = np.empty((len(learning_rates), 0), np.float32)
        self._known: dict[str, list[np.ndarray]] = {name: [nothing] for name in METRICS}
        self._reported = time.monotonic()

    def resume(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Take over the metrics, (g, k) float32 each, of steps before an interruption."""
        self._report(dict(metrics), images=0)
        self.dispatched = self.done

    def dispatch(self, count: int, metrics: Mapping[str, Any]) -> None:
        """Note that `count` steps were handed to the devices, which compute these metrics."""
        self._pending.append((count, metrics))
        self.dispatched += count

    def wait(self, all_but: int = 0) -> None:
        """Wait for the metrics of all calls but the last `all_but`, and report them."""
        while len(self._pending) > all_but:
            count, metrics = self._pending.popleft()
            known = {name: np.asarray(metrics[name], np.float32) for name in METRICS}
            self._report(known, count * self._images_per_step)

    def all_diverged(self) -> bool:
        """Return whether the last known loss of every run is infinite or NaN."""
        last = self._known["loss"][-1]
        return self.done > 0 and not np.isfinite(last[:, -1]).any()

    def metrics(self) -> dict[str, np.ndarray]:
        """Return what is known, (g, done) float32 each."""
        return {name: np.concatenate(parts, axis=1) for name, parts in self._known.items()}

    def _report(self, metrics: dict[str, np.ndarray], images: int) -> None:
        first = self.done
        for name, values in metrics.items():
            self._known[name].append(values)
        self.done += metrics["loss"].shape[1]
        seconds, self._reported = time.monotonic() - self._reported, time.monotonic()
        if self.watch is not None:
            rates = self._learning_rates[:, first : self.done]
            self.watch(Steps(first, metrics | {"learning_rate": rates}, images, seconds))
