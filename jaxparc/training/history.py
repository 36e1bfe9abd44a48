"""Metrics of training steps, including those that the devices are still computing."""

import collections
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

METRICS = ("loss", "accuracy")  # of each step, as `steps.train_step` returns them


class Steps(NamedTuple):
    """Completed steps of g runs.

    Attributes:
        first: number of the first step.
        metrics: `loss`, `accuracy` (in [0, 1]) and `learning_rate`, (g, k) float32 each.
        images: number of images in these steps, over all runs; 0 for steps before an interruption.
        seconds: seconds since the previous report, or since the start.
    """

    first: int
    metrics: dict[str, np.ndarray]
    images: int
    seconds: float


class History:
    """The metrics of all steps of g runs.

    Attributes:
        watch: called with steps as soon as their metrics are known; None to report nothing.
        dispatched: number of steps that were dispatched to the devices.
        done: number of steps whose metrics are known.
    """

    def __init__(
        self,
        learning_rates: np.ndarray,
        images_per_step: int,
        watch: Callable[[Steps], None] | None = None,
    ) -> None:
        """Start with no steps.

        Args:
            learning_rates: (g, steps) float32.
            images_per_step: number of images in a step, over all runs.
            watch: see the attribute.
        """
        self.watch = watch
        self.dispatched = self.done = 0
        self._learning_rates, self._images_per_step = learning_rates, images_per_step
        self._pending: collections.deque[tuple[int, Mapping[str, Any]]] = collections.deque()
        nothing = np.empty((len(learning_rates), 0), np.float32)
        self._known: dict[str, list[np.ndarray]] = {name: [nothing] for name in METRICS}
        self._reported = time.monotonic()

    def resume(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Restore the metrics, (g, k) float32 each, of the steps before an interruption."""
        self._report(dict(metrics), images=0)
        self.dispatched = self.done

    def dispatch(self, count: int, metrics: Mapping[str, Any]) -> None:
        """Record that `count` steps were dispatched to the devices, which compute `metrics`."""
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
        """Return the metrics of all completed steps, (g, done) float32 each."""
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
