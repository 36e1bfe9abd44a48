"""Bootstrap intervals, paired tests and chance levels of a measure.

The models of a bank, the targets and the probe sets are all samples, and other samples would give
other values. The percentile bootstrap (Efron and Tibshirani 1993, chapter 13) draws each of them
with replacement. All methods are measured on the same draws, so their differences are paired. With
few targets the intervals are too narrow, but they still show how much these targets disagree.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from jaxparc.errors import InputError
from jaxparc.evaluation.measures import Measure
from jaxparc.evaluation.outcomes import Outcomes, by_target

OVER = ("models", "targets", "probe sets")
_CHUNK = 250  # resamples measured at once, to bound memory


class Draws(NamedTuple):
    """The models, targets and probe sets of every resample.

    Attributes:
        models: (s, m) int, indices of the models of s resamples.
        targets: (s, t) int.
        runs: (s, r) int, probe sets; taken modulo the number of probe sets of a method.
    """

    models: np.ndarray
    targets: np.ndarray
    runs: np.ndarray


class Interval(NamedTuple):
    """A value and its 95 % interval.

    Attributes:
        value: value over all models, targets and probe sets; NaN if any part of it is undefined.
        low: 2.5th percentile of the resamples; NaN if `value` is.
        high: 97.5th percentile of the resamples; NaN if `value` is.
        undefined: number of resamples whose value is undefined; the interval ignores them.
    """

    value: float
    low: float
    high: float
    undefined: int


def draw(
    outcomes: Outcomes, resamples: int = 2000, seed: int = 0, over: Collection[str] = OVER
) -> Draws:
    """Draw resamples with replacement.

    Args:
        outcomes: the outcomes to resample.
        resamples: s, the number of resamples.
        seed: seed of the draws.
        over: which of `OVER` are drawn; the others are not resampled.

    Raises:
        InputError: `over` has an unknown element.
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
    """Return a measure of every resample, averaged over its targets and probe sets.

    Args:
        outcomes: the accuracies, and the transfers to evaluate.
        scores: (r, m, t).
        measure: one of `MEASURES`.
        draws: from `draw`.

    Returns:
        (s,) float64; NaN where the measure is undefined for any part of the resample.
    """
    found = np.empty(len(draws.models))
    accuracies, where = outcomes.accuracies.T[:, None], outcomes.where.T[:, None]
    m = len(outcomes.models)
    for start in range(0, len(found), _CHUNK):
        models, targets, runs = (d[start : start + _CHUNK] for d in draws)
        drawn = np.stack([np.bincount(row, minlength=m) for row in models])  # (s, m)
        values = measure.function(
            scores.transpose(0, 2, 1)[:, :, None], accuracies, where * drawn
        )  # (r, t, s)
        resample = np.arange(len(models))[:, None, None]
        chosen = values[(runs % len(scores))[:, :, None], targets[:, None, :], resample]
        found[start : start + _CHUNK] = chosen.mean((1, 2))
    return found


def interval(value: float, samples: np.ndarray) -> Interval:
    """Return a value with the percentile interval of its resamples, (s,)."""
    undefined = int(np.isnan(samples).sum())
    if np.isnan(value) or undefined == len(samples):
        return Interval(value, np.nan, np.nan, undefined)
    low, high = np.nanpercentile(samples, (2.5, 97.5))
    return Interval(value, float(low), float(high), undefined)


def p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Return the two-sided p-value of a difference between paired resamples, (s,) each.

    Twice the smaller fraction of resamples with a difference <= 0, or >= 0; at least 2 / s, the
    resolution of s resamples. NaN if all differences are undefined.
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
    """Return a measure's mean over targets for randomly permuted scores.

    Args:
        outcomes: the accuracies, and the transfers to evaluate.
        measure: one of `MEASURES`.
        draws: number of permutations.
        seed: seed of the permutations.
        same: whether to use one random order of the models for all targets. Good models tend to be
            good on most targets, so an order that is lucky on one is lucky on others, and this
            interval is the wider one. If false, each target has its own order.

    Returns:
        The mean over permutations, and the interval that holds 95 % of them.
    """
    rng = np.random.default_rng(seed)
    m, t = outcomes.where.shape
    orders = rng.permuted(np.broadcast_to(np.arange(m), (draws, 1 if same else t, m)), axis=-1)
    found = np.empty(draws)
    for start in range(0, draws, _CHUNK):
        part = slice(start, start + _CHUNK)
        values = measure.function(orders[part], outcomes.accuracies.T, outcomes.where.T)
        found[part] = values.mean(-1)
    defined = found[~np.isnan(found)]
    return interval(float(defined.mean()) if len(defined) else float("nan"), found)


def compare(
    outcomes: Outcomes, measure: Measure, draws: Draws
) -> tuple[dict[str, Interval], Mapping[str, np.ndarray]]:
    """Return the interval of every method, and its resamples for `p_value`."""
    samples = {
        method: resampled(outcomes, scores, measure, draws)
        for method, scores in outcomes.scores.items()
    }
    values = {method: float(by_target(outcomes, method, measure).mean()) for method in samples}
    return {method: interval(values[method], s) for method, s in samples.items()}, samples
