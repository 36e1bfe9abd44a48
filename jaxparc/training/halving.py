"""Choose a learning rate by accuracy on validation images, stopping hopeless ones early.

All learning rates are trained for a quarter of the steps; the better half goes on to half of them,
and the better half of these to the end (successive halving, Jamieson and Talwalkar 2016). A rate at
which the loss becomes infinite or NaN is hopeless, not a failure.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from jaxparc import files
from jaxparc.training import loop
from jaxparc.training.decoding import Source
from jaxparc.training.history import Steps
from jaxparc.training.loop import DivergedError
from jaxparc.training.program import Point
from jaxparc.training.steps import Recipe, Task, Variables

K = TypeVar("K")

RECORD = "validation.json"


class Tried(NamedTuple):
    """A learning rate and how far it was trained.

    Attributes:
        learning_rate: the peak learning rate.
        steps: number of steps that it was trained for.
        validation: accuracy on the validation images after these, in percent; None if the loss
            became infinite or NaN.
    """

    learning_rate: float
    steps: int
    validation: float | None


class Chosen(NamedTuple):
    """The result of `search`.

    Attributes:
        learning_rate: the learning rate with the best accuracy.
        variables: the variables that were trained with it for all steps, on the devices.
        tried: all learning rates, in their order.
    """

    learning_rate: float
    variables: Variables
    tried: tuple[Tried, ...]


def rungs(steps: int) -> tuple[int, ...]:
    """Return the numbers of steps after which half of the learning rates are stopped."""
    return steps // 4, steps // 2


def better_half(accuracies: Mapping[K, float]) -> list[K]:
    """Return the better half of some keys, rounded up, in their order; ties go to the first."""
    best = sorted(accuracies, key=lambda key: -accuracies[key])[: -(-len(accuracies) // 2)]
    return [key for key in accuracies if key in best]


def total_steps(rates: int, steps: int) -> int:
    """Return the number of steps that `search` trains, over all learning rates.

    Args:
        rates: number of learning rates, of which none diverges.
        steps: number of steps of a whole training.
    """
    total = done = 0
    for rung in rungs(steps):
        if rates > 1:
            total += rates * (rung - done)
            rates, done = -(-rates // 2), rung
    return total + steps - done


def search(
    task: Task,
    variables: Variables,
    source: Source,
    validation: Source,
    recipe: Recipe,
    rates: Sequence[float],
    *,
    size: int,
    seed: int = 0,
    mirror: bool = False,
    partial: Path,
    watch: Callable[[float, Steps], None] | None = None,
    report: Callable[[Tried], None] = lambda tried: None,
) -> Chosen:
    """Train a network with the best of some learning rates.

    Args:
        task: the network.
        variables: the weights that all trainings start from.
        source: the training images.
        validation: the images that decide, which must not be among the training images.
        recipe: the hyperparameters besides the learning rate.
        rates: the peak learning rates.
        size: side of the images, in pixels.
        seed: seed of order, augmentation and dropout.
        mirror: whether training may mirror images left to right.
        partial: folder of accuracies and training states, from which an interrupted search
            resumes. Its name must identify everything that determines these, and the caller removes
            it.
        watch: called with a learning rate and its steps, as soon as their metrics are known.
        report: called with each accuracy, also if it was known from before an interruption.

    Raises:
        DivergedError: the loss became infinite or NaN with all learning rates.
        OSError: the folder cannot be written.
    """
    known = _read(partial)

    def train(rate: float, until: int | None) -> loop.Fitted:
        (fitted,) = loop.fit_together(
            task,
            variables,
            source,
            [Point(dataclasses.replace(recipe, learning_rate=rate), seed)],
            size=size,
            mirror=mirror,
            until=until,
            watch=None if watch is None else lambda steps: watch(rate, steps),
            partial=partial / f"{rate:g}",
            every=math.inf,  # saving to a full disk would end the training
        )
        return fitted

    def measure(fitted: loop.Fitted) -> float | None:
        if fitted.diverged is not None:
            return None
        return loop.accuracy(
            task, fitted.variables, validation, size=size, batch_size=recipe.batch_size
        )

    tried: dict[float, Tried] = {}
    running = list(rates)
    for steps in filter(None, rungs(recipe.steps)):
        if len(running) < 2:
            break
        for rate in running:
            key = f"{rate:g} {steps}"
            if key not in known:
                known[key] = measure(train(rate, steps))
                files.write_sealed(partial / RECORD, known)
            tried[rate] = Tried(rate, steps, known[key])
            report(tried[rate])
        running = better_half({rate: _number(tried[rate].validation) for rate in running})
        running = [rate for rate in running if tried[rate].validation is not None]
    # Should the last one diverge, the next best takes its place.
    others = [rate for rate in rates if rate not in running]
    if tried:
        others = [rate for rate in others if tried[rate].validation is not None]
        others.sort(key=lambda rate: -_number(tried[rate].validation))
    chosen = _first_finite([*running, *others], train)
    if chosen is None:
        names = ", ".join(f"{rate:g}" for rate in rates)
        raise DivergedError(
            f"the loss is not finite with any learning rate of {names}; expected smaller ones"
        )
    rate, fitted = chosen
    tried[rate] = Tried(rate, recipe.steps, measure(fitted))
    report(tried[rate])
    return Chosen(rate, fitted.variables, tuple(tried[r] for r in rates if r in tried))


def _first_finite(
    rates: Iterable[float], train: Callable[[float, None], loop.Fitted]
) -> tuple[float, loop.Fitted] | None:
    """Train to the end with the first learning rate that does not diverge."""
    for rate in rates:
        fitted = train(rate, None)
        if fitted.diverged is None:
            return rate, fitted
    return None


def _number(accuracy: float | None) -> float:
    return -math.inf if accuracy is None else accuracy


def _read(partial: Path) -> dict[str, float | None]:
    """Return the accuracies of an interrupted search."""
    try:
        return dict(files.read_sealed(partial / RECORD))
    except (FileNotFoundError, files.DamagedFileError):
        return {}
