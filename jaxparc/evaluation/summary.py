"""Every method by every measure, each with its interval, test and chance level."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxparc.errors import InputError
from jaxparc.evaluation import resampling
from jaxparc.evaluation.measures import MEASURES, Measure
from jaxparc.evaluation.outcomes import Outcomes, by_target
from jaxparc.evaluation.resampling import Interval


class Cell(NamedTuple):
    """A measure of one method.

    Attributes:
        interval: mean over targets and probe sets, and its 95 % interval.
        targets: (t,) mean over probe sets per target.
        std: sample standard deviation, over probe sets, of the mean over targets; NaN for one
            probe set.
        worse: the method ranked next below by this measure, and the p-value of the paired
            difference; None if this method is the last or the next one is undefined.
    """

    interval: Interval
    targets: np.ndarray
    std: float
    worse: tuple[str, float] | None

    @property
    def significant(self) -> bool:
        """Whether the next method below differs significantly at 5 %; true if `worse` is None."""
        return self.worse is None or self.worse[1] < 0.05


class Summary(NamedTuple):
    """The result of `summarise`.

    Attributes:
        outcomes: the outcomes that are summarised.
        cells: measure -> method -> its cell, best method first, undefined ones last.
        chance: measure -> its value for a random order of the models, one for all targets.
        undefined: method -> number of undefined scores; methods without any are left out.
        resamples: number of resamples of every interval.
    """

    outcomes: Outcomes
    cells: dict[str, dict[str, Cell]]
    chance: dict[str, Interval]
    undefined: dict[str, int]
    resamples: int


def summarise(
    outcomes: Outcomes,
    measures: Sequence[str] = tuple(MEASURES),
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Measure all methods on the same resamples of models, targets and probe sets.

    Args:
        outcomes: the scores of every method, baselines included, and the accuracies.
        measures: keys of `MEASURES`.
        resamples: number of bootstrap resamples, and of random orders.
        seed: seed of both.

    Raises:
        InputError: a measure is unknown.
    """
    if unknown := [name for name in measures if name not in MEASURES]:
        raise InputError(f"unknown measure {unknown[0]!r}; known: {', '.join(MEASURES)}")
    draws = resampling.draw(outcomes, resamples, seed)
    cells, chance = {}, {}
    for name in measures:
        measure = MEASURES[name]
        cells[name] = _ranked(outcomes, measure, draws)
        chance[name] = resampling.chance(outcomes, measure, resamples, seed)
    undefined = {method: outcomes.undefined(method) for method in outcomes.scores}
    return Summary(
        outcomes, cells, chance, {method: n for method, n in undefined.items() if n}, resamples
    )


def _ranked(outcomes: Outcomes, measure: Measure, draws: resampling.Draws) -> dict[str, Cell]:
    intervals, samples = resampling.compare(outcomes, measure, draws)
    sign = 1 if measure.larger_is_better else -1

    def place(method: str) -> tuple[bool, float]:
        value = intervals[method].value
        return bool(np.isnan(value)), -sign * value

    order = sorted(intervals, key=place)
    cells = {}
    for method, below in zip(order, [*order[1:], None], strict=True):
        values = by_target(outcomes, method, measure)
        worse = None
        if below is not None and not np.isnan(intervals[below].value):
            worse = below, resampling.p_value(samples[method], samples[below])
        of_runs = values.mean(1)
        std = float(np.std(of_runs, ddof=1)) if len(of_runs) > 1 else float("nan")
        cells[method] = Cell(intervals[method], values.mean(0), std, worse)
    return cells
