"""How far a number can be trusted: bootstrap intervals, paired tests, and what chance gives.

The models of a bank, the targets and the probe sets are all samples: other ones would have given
another number. Efron's percentile bootstrap (Efron and Tibshirani 1993, chapter 13) draws each
with replacement; all methods are measured on the same draws, so that their differences are paired.
With few targets an interval over them is too narrow; it says at least how much these ones disagree.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from jaxparc.errors import InputError
from jaxparc.evaluation.measures import Measure
from jaxparc.evaluation.outcomes import Outcomes, by_target

OVER = ("models", "targets", "probe sets")
_AT_ONCE = 250  # resamples, which bounds the memory


class Draws(NamedTuple):
    """Which models, targets and probe sets every resample has.

    Attributes:
      models: (s, m) int, s resamples.
      targets: (s, t) int.
      runs: (s, r) int; a method of one probe set has all its draws from that one.
    """

    models: np.ndarray
    targets: np.ndarray
    runs: np.ndarray


class Interval(NamedTuple):
    """A number and its 95 % interval.

    Attributes:
      value: of all models, targets and probe sets; NaN if a part of it is undefined.
      low: the 2.5th percentile of the resamples; NaN with `value`.
      high: the 97.5th.
      undefined: resamples in which the number is undefined, and which do not count.
    """

    value: float
    low: float
    high: float
    undefined: int


def draw(
    outcomes: Outcomes, resamples: int = 2000, seed: int = 0, over: Collection[str] = OVER
) -> Draws:
    """Draws with replacement.

    Args:
      outcomes: what is resampled.
      resamples: s.
      seed: of the draws.
      over: which of `OVER` are drawn; the others stay as they are.

    Raises:
      ValueError: something else is in `over`.
    """
    if unknown := set(over) - set(OVER):
        raise InputError(f"cannot resample {min(unknown)!r}; known: {', '.join(OVER)}")
    rng = np.random.default_rng(seed)
    runs = max((len(scores) for scores in outcomes.scores.values()), default=1)
    sizes = dict(zip(OVER, (*outcomes.where.shape, runs), strict=True))
    return Draws(
        *(
            rng.integers(0, n, (resamples, n))
            if what in over
            else np.broadcast_to(np.arange(n), (resamples, n))
            for what, n in sizes.items()
        )
    )


def resampled(outcomes: Outcomes, scores: np.ndarray, measure: Measure, draws: Draws) -> np.ndarray:
    """A measure, averaged over targets and probe sets, of every resample.

    Args:
      outcomes: the accuracies, and which transfers count.
      scores: (r, m, t).
      measure: one of `MEASURES`.
      draws: from `draw`.

    Returns:
      (s,) float64; NaN where the measure is undefined for a part of the resample.
    """
    found = np.empty(len(draws.models))
    accuracies, where = outcomes.accuracies.T[:, None], outcomes.where.T[:, None]
    m = len(outcomes.models)
    for start in range(0, len(found), _AT_ONCE):
        models, targets, runs = (d[start : start + _AT_ONCE] for d in draws)
        drawn = np.stack([np.bincount(row, minlength=m) for row in models])  # (s, m)
        values = measure.function(
            scores.transpose(0, 2, 1)[:, :, None], accuracies, where * drawn
        )  # (r, t, s)
        resample = np.arange(len(models))[:, None, None]
        chosen = values[(runs % len(scores))[:, :, None], targets[:, None, :], resample]
        found[start : start + _AT_ONCE] = chosen.mean((1, 2))
    return found


def interval(value: float, samples: np.ndarray) -> Interval:
    """The percentile interval of a number out of its resamples."""
    undefined = int(np.isnan(samples).sum())
    if np.isnan(value) or undefined == len(samples):
        return Interval(value, np.nan, np.nan, undefined)
    low, high = np.nanpercentile(samples, (2.5, 97.5))
    return Interval(value, float(low), float(high), undefined)


def p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided, that two methods' numbers differ, from paired resamples; NaN without any.

    Twice the smaller share of resamples in which the difference is not of one sign, or of the
    other; at least 2 / s, as fewer cannot be told.
    """
    difference = first - second
    difference = difference[~np.isnan(difference)]
    if not len(difference):
        return float("nan")
    smaller = min(np.mean(difference <= 0), np.mean(difference >= 0))
    return float(min(1.0, 2 * max(smaller, 1 / len(difference))))


def chance(
    outcomes: Outcomes, measure: Measure, draws: int = 2000, seed: int = 0, *, same: bool = True
) -> Interval:
    """What a measure's mean over targets comes to when scores are permuted at random.

    Args:
      outcomes: the accuracies, and which transfers count.
      measure: one of `MEASURES`.
      draws: number of permutations.
      seed: of the permutations.
      same: whether one random order of the models serves all targets. A bank's good models are
        good on most targets, so an order that is lucky once is lucky often, and this band is the
        wider one; False draws for each target anew.

    Returns:
      The mean, and the interval that holds 95 % of them.
    """
    rng = np.random.default_rng(seed)
    m, t = outcomes.where.shape
    orders = rng.permuted(np.broadcast_to(np.arange(m), (draws, 1 if same else t, m)), axis=-1)
    found = np.empty(draws)
    for start in range(0, draws, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        values = measure.function(orders[part], outcomes.accuracies.T, outcomes.where.T)
        found[part] = values.mean(-1)
    defined = found[~np.isnan(found)]
    return interval(float(defined.mean()) if len(defined) else float("nan"), found)


def compare(
    outcomes: Outcomes, measure: Measure, draws: Draws
) -> tuple[dict[str, Interval], Mapping[str, np.ndarray]]:
    """The interval of every method, and its resamples for `p_value`."""
    samples = {
        method: resampled(outcomes, scores, measure, draws)
        for method, scores in outcomes.scores.items()
    }
    values = {method: float(by_target(outcomes, method, measure).mean()) for method in samples}
    return {method: interval(values[method], s) for method, s in samples.items()}, samples
