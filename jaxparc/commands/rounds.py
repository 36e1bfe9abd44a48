"""Rounds of feature extraction for `rank --race` and `--budget`."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from jaxparc.bank import features, racing, scoring
from jaxparc.bank.folder import Bank
from jaxparc.bank.scores import BankScores
from jaxparc.commands import jobs
from jaxparc.commands.jobs import Job
from jaxparc.errors import UndefinedScoreWarning
from jaxparc.units.options import Execution
from jaxparc.units.unit import Made


class Raced(NamedTuple):
    """The features that a race ended with.

    Attributes:
        bank: features of the models that are left, for the images of the last round.
        rounds: the rounds.
        failed: name of the unit of each model that failed -> the error.
    """

    bank: Bank
    rounds: Sequence[racing.Round]
    failed: Mapping[str, str]


def run(job: Job, method: str, execution: Execution, until: float) -> Raced:
    """Extract features of more and more images, of fewer and fewer models.

    Args:
        job: the job.
        method: the method that models are compared by.
        execution: how to run it.
        until: time of `time.monotonic` at which the race ends, with what is then known.

    Raises:
        OperationError: the folder cannot be written.
        KeyboardInterrupt: as `jobs.run` raises it.
    """
    probe, failed = job.probe, dict[str, str]()
    entries = {entry.name: entry for entry in job.entries}
    units = {features.unit_name(entry): entry.name for entry in job.entries}
    clock = _Clock(until)
    sizes = racing.sizes_of(
        len(probe.labels),
        probe.label_kind,
        probe.num_classes or 0,
        # So that every image is in the same batch as without a race.
        multiple=math.lcm(job.batch_size, jax.local_device_count()),
    )

    def bank(names: Sequence[str], size: int) -> Bank:
        wanted = [entry for name, entry in entries.items() if name in names]
        return features.read(wanted, probe.first(size), job.folder_of(size))

    def extracted(names: Sequence[str], size: int) -> Mapping[str, str]:
        seconds: dict[str, float] = {}

        def watch(made: Made) -> None:
            seconds[units[made.name]] = made.seconds

        started = time.monotonic()
        found = jobs.run(
            job,
            execution,
            entries=[entries[name] for name in names],
            first=size,
            until=until,
            watch=watch,
        )
        failed.update(found)
        clock.record(seconds, size, time.monotonic() - started)
        out = {name: racing.NO_TIME for name in names if name not in seconds}
        return out | {units[unit]: "failed" for unit in found}

    def score(names: Sequence[str], size: int, level: float) -> BankScores:
        these = bank(names, size)
        with warnings.catch_warnings():  # an undefined score is the reason of a drop
            warnings.simplefilter("ignore", UndefinedScoreWarning)
            return scoring.score_bank(
                these.features,
                these.labels,
                methods=method,
                num_classes=probe.num_classes,
                label_kind=these.label_kind,
                intervals=level,
            )

    def affordable(names: Sequence[str], size: int) -> int:
        return clock.affordable(names, size, sum(s >= size for s in sizes))

    order = [entry.name for entry in jobs.in_order(job.entries)]
    rounds = racing.run(order, sizes, extracted, score, affordable=affordable)
    left = [name for name in rounds[-1].scores if name not in rounds[-1].dropped]
    last = rounds[-1].images or sizes[0]
    return Raced(bank(left, last), rounds, failed)


class _Clock:
    """How long models take, to say how many of them there is time for.

    Args:
        until: time of `time.monotonic` at which everything must be done.
    """

    def __init__(self, until: float) -> None:
        self._until = until
        self._per_image: dict[str, float] = {}
        self._parallel = 1.0
        self._seen = 0

    def record(self, seconds: Mapping[str, float], size: int, wall: float) -> None:
        """Record a round.

        Args:
            seconds: model -> the time that its images of this round took; 0 if they were there.
            size: number of images that the models have seen after it.
            wall: the time that the round took.
        """
        new, self._seen = size - self._seen, size
        for name, taken in seconds.items():
            if taken:
                self._per_image[name] = taken / new
        total = sum(seconds.values())
        if total:  # several machines do several models at once
            self._parallel = max(1.0, total / wall)

    def affordable(self, names: Sequence[str], size: int, rounds: int) -> int:
        """Return how many of the models, the first ones, there is time for in the next round.

        Args:
            names: the models.
            size: the next round's number of images.
            rounds: number of rounds that are left, among which the time is divided equally.
        """
        if self._until == math.inf:
            return len(names)
        known = list(self._per_image.values())
        mean = sum(known) / len(known) if known else 0.0
        left = (self._until - time.monotonic()) / rounds * self._parallel
        for count, name in enumerate(names):
            left -= self._per_image.get(name, mean) * (size - self._seen)
            if left < 0:
                return count
        return len(names)
