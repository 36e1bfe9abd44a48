"""How scores and accuracies of one target's models agree: one function each, vectorised.

All take `scores` and `accuracies`, (..., m) float, and `count`, (..., m): how often each model is
there, which for a bank as it is says where there is one (bool), and for a resample (see
`resampling`) how often it was drawn. They broadcast against each other. The result is (...),
float64, and NaN if a score or an accuracy that is there is not finite, or, of correlations, if all
of one side are equal.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

Array = np.ndarray


def pearson(scores: Array, accuracies: Array, count: Array) -> Array:
    """Pearson's correlation, in [-1, 1]."""
    x, y, count, undefined = _checked(scores, accuracies, count)
    n = np.maximum(count.sum(-1, keepdims=True), 1)
    x, y = (a - (count * a).sum(-1, keepdims=True) / n for a in (x, y))
    norm = np.sqrt((count * x * x).sum(-1) * (count * y * y).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.clip((count * x * y).sum(-1) / norm, -1.0, 1.0)
    return np.where(undefined, np.nan, found)


def spearman(scores: Array, accuracies: Array, count: Array) -> Array:
    """Spearman's rank correlation, in [-1, 1]; equal values have their average rank."""
    x, y, count, undefined = _checked(scores, accuracies, count)
    found = pearson(_ranks(x, count), _ranks(y, count), count)
    return np.where(undefined, np.nan, found)


def kendall(scores: Array, accuracies: Array, count: Array) -> Array:
    """Kendall's tau-b, in [-1, 1]."""
    x, y, count, undefined = _checked(scores, accuracies, count)
    return np.where(undefined, np.nan, _tau(x, y, count, count))


def weighted_tau(scores: Array, accuracies: Array, count: Array) -> Array:
    """Kendall's tau with exchanges of the best weighing most (Vigna 2015), in [-1, 1].

    As `scipy.stats.weightedtau` by default: weights of 1 / (1 + rank) are added, and the tau with
    ranks by scores and the one with ranks by accuracies are averaged.
    """
    x, y, count, undefined = _checked(scores, accuracies, count)
    harmonic = np.concatenate(
        [[0.0], np.cumsum(1 / np.arange(1, 1 + count.sum(-1).max(initial=0)))]
    )
    taus = []
    for first, second in ((x, y), (y, x)):
        place = _places(first, second, count)
        # a model that is there several times has as many places in turn
        weights = harmonic[(place + count).astype(int)] - harmonic[place.astype(int)]
        taus.append(_tau(x, y, weights, count))
    return np.where(undefined, np.nan, (taus[0] + taus[1]) / 2)


def _best_of_top(k: int, scores: Array, accuracies: Array, count: Array) -> tuple[Array, Array]:
    """The best accuracy of the k highest scores, and the best of all.

    Of equal scores the worst model counts as chosen first: what scores do not tell apart, the
    selector does not get credit for.
    """
    x, y, count, undefined = _checked(scores, accuracies, count, correlation=False)
    there = count > 0
    chosen = there & (_places(x, -y, count) < k)
    best, found = (np.where(mask, y, -np.inf).max(-1, initial=-np.inf) for mask in (there, chosen))
    return np.where(undefined, np.nan, found), np.where(undefined, np.nan, best)


def hit(k: int) -> Callable[[Array, Array, Array], Array]:
    """1 where the best model is among the k highest scores, else 0."""

    def measure(scores: Array, accuracies: Array, count: Array) -> Array:
        found, best = _best_of_top(k, scores, accuracies, count)
        return np.where(np.isnan(best), np.nan, found == best)

    return measure


def regret(k: int) -> Callable[[Array, Array, Array], Array]:
    """The accuracy that is lost by trying the k highest scores alone; >= 0, in their unit."""

    def measure(scores: Array, accuracies: Array, count: Array) -> Array:
        found, best = _best_of_top(k, scores, accuracies, count)
        return best - found

    return measure


def share(k: int) -> Callable[[Array, Array, Array], Array]:
    """The best accuracy of the k highest scores as a part of the best of all, in [0, 1]."""

    def measure(scores: Array, accuracies: Array, count: Array) -> Array:
        found, best = _best_of_top(k, scores, accuracies, count)
        with np.errstate(invalid="ignore", divide="ignore"):
            return found / best

    return measure


class Measure(NamedTuple):
    """A measure and how it is shown.

    Attributes:
      function: of scores, accuracies and count, as the module says.
      title: for the head of a column.
      scale: by which tables multiply it.
      larger_is_better: False of regrets.
    """

    function: Callable[[Array, Array, Array], Array]
    title: str
    scale: float = 100.0
    larger_is_better: bool = True


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "pearson": Measure(pearson, "PC"),
        "spearman": Measure(spearman, "Spearman"),
        "kendall": Measure(kendall, "Kendall"),
        "weighted_tau": Measure(weighted_tau, "weighted tau"),
        "hit1": Measure(hit(1), "top-1 hit (%)"),
        "hit3": Measure(hit(3), "top-3 hit (%)"),
        "regret1": Measure(regret(1), "regret@1", 1.0, larger_is_better=False),
        "regret3": Measure(regret(3), "regret@3", 1.0, larger_is_better=False),
        "share1": Measure(share(1), "share of best (%)"),
    }
)


def _checked(
    scores: Array, accuracies: Array, count: Array, *, correlation: bool = True
) -> tuple[Array, Array, Array, Array]:
    """As floats, with 0 for what is not finite, and which results are undefined."""
    x, y = np.broadcast_arrays(np.asarray(scores, float), np.asarray(accuracies, float))
    count = np.asarray(count, float)
    there = count > 0
    finite = np.isfinite(x) & np.isfinite(y)
    undefined = (there & ~finite).any(-1) | ~there.any(-1)
    x, y = (np.where(finite, a, 0.0) for a in (x, y))
    if correlation:
        for a in (x, y):
            low = np.where(there, a, np.inf).min(-1, initial=np.inf)
            high = np.where(there, a, -np.inf).max(-1, initial=-np.inf)
            undefined = undefined | ~(low < high)
    return x, y, count, undefined


def _ranks(x: Array, count: Array) -> Array:
    """Average ranks among the models that are there, from 1."""
    less = _summed(x[..., None, :] < x[..., :, None], count)
    equal = _summed(x[..., None, :] == x[..., :, None], count)
    return less + (equal + 1) / 2


def _places(first: Array, second: Array, count: Array) -> Array:
    """Places from 0 by falling `first`, then falling `second`, then as they come."""
    m = first.shape[-1]
    a, b = first[..., None, :], first[..., :, None]
    c, d = second[..., None, :], second[..., :, None]
    earlier = np.arange(m)[None, :] < np.arange(m)[:, None]
    return _summed((a > b) | ((a == b) & ((c > d) | ((c == d) & earlier))), count)


def _summed(pairs: Array, count: Array) -> Array:
    """Of every model, the others that a relation (..., m, m) holds for."""
    return np.asarray((pairs.astype(float) @ count[..., None])[..., 0])


def _tau(x: Array, y: Array, weights: Array, count: Array) -> Array:
    """Concordant less discordant pairs over the geometric mean of untied ones.

    A pair weighs what its models do, `weights`, each times how often the other is there.
    """
    x, y = (np.sign(a[..., :, None] - a[..., None, :]) for a in (x, y))

    def total(pairs: Array) -> Array:
        return np.asarray((weights * _summed(pairs, count)).sum(-1))

    with np.errstate(invalid="ignore", divide="ignore"):
        tau = total(x * y) / np.sqrt(total(np.abs(x)) * total(np.abs(y)))
    return np.asarray(np.clip(tau, -1.0, 1.0))
