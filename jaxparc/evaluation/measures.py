"""Measures of agreement between the scores and accuracies of one target's models, vectorised.

Every measure takes `scores` and `accuracies`, (..., m) float, and `count`, (..., m), which
broadcast against each other. `count` is the multiplicity of each model: a bool mask of the models
of a bank, or the number of times each was drawn in a bootstrap resample (see `resampling`). The
result is (...) float64. It is NaN if a counted score or accuracy is not finite, if no model is
counted, and, for correlations, if all counted scores or all counted accuracies are equal.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

Array = np.ndarray


def pearson(scores: Array, accuracies: Array, count: Array) -> Array:
    """Return Pearson's correlation, in [-1, 1].

    Examples:
        >>> accuracies = np.array([90.0, 80.0, 85.0])
        >>> scores = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])  # of two methods
        >>> pearson(scores, accuracies, np.ones(3)).round(2).tolist()
        [0.5, 1.0]
    """
    x, y, count, undefined = _checked(scores, accuracies, count)
    n = np.maximum(count.sum(-1, keepdims=True), 1)
    x, y = (a - (count * a).sum(-1, keepdims=True) / n for a in (x, y))
    norm = np.sqrt((count * x * x).sum(-1) * (count * y * y).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.clip((count * x * y).sum(-1) / norm, -1.0, 1.0)
    return np.where(undefined, np.nan, found)


def spearman(scores: Array, accuracies: Array, count: Array) -> Array:
    """Return Spearman's rank correlation, in [-1, 1]; ties have their average rank."""
    x, y, count, undefined = _checked(scores, accuracies, count)
    found = pearson(_ranks(x, count), _ranks(y, count), count)
    return np.where(undefined, np.nan, found)


def kendall(scores: Array, accuracies: Array, count: Array) -> Array:
    """Return Kendall's tau-b, in [-1, 1]."""
    x, y, count, undefined = _checked(scores, accuracies, count)
    return np.where(undefined, np.nan, _tau(x, y, count, count))


def weighted_tau(scores: Array, accuracies: Array, count: Array) -> Array:
    """Return the weighted Kendall's tau of Vigna (2015), in [-1, 1].

    This is the default of `scipy.stats.weightedtau`: additive weights 1 / (1 + rank), so that
    exchanges at the top count most, averaged over ranking by scores and by accuracies.
    """
    x, y, count, undefined = _checked(scores, accuracies, count)
    harmonic = np.concatenate(
        [[0.0], np.cumsum(1 / np.arange(1, 1 + count.sum(-1).max(initial=0)))]
    )
    taus = []
    for first, second in ((x, y), (y, x)):
        place = _places(first, second, count)
        # A model that is counted several times occupies as many successive places.
        weights = harmonic[(place + count).astype(int)] - harmonic[place.astype(int)]
        taus.append(_tau(x, y, weights, count))
    return np.where(undefined, np.nan, (taus[0] + taus[1]) / 2)


def _best_of_top(k: int, scores: Array, accuracies: Array, count: Array) -> tuple[Array, Array]:
    """Return the best accuracy among the k highest scores, and the best of all.

    Ties are broken towards the worst model, so that a selector gets no credit for models that its
    scores do not separate.
    """
    x, y, count, undefined = _checked(scores, accuracies, count, correlation=False)
    counted = count > 0
    chosen = counted & (_places(x, -y, count) < k)
    best, found = (
        np.where(mask, y, -np.inf).max(-1, initial=-np.inf) for mask in (counted, chosen)
    )
    return np.where(undefined, np.nan, found), np.where(undefined, np.nan, best)


def hit(k: int) -> Callable[[Array, Array, Array], Array]:
    """Return the measure that is 1 if the best model is among the k highest scores, else 0."""

    def measure(scores: Array, accuracies: Array, count: Array) -> Array:
        found, best = _best_of_top(k, scores, accuracies, count)
        return np.where(np.isnan(best), np.nan, found == best)

    return measure


def regret(k: int) -> Callable[[Array, Array, Array], Array]:
    """Return the accuracy lost by fine-tuning only the k highest scores, >= 0, as a measure.

    Examples:
        >>> scores, accuracies = np.array([3.0, 2.0, 1.0]), np.array([80.0, 90.0, 85.0])
        >>> float(regret(1)(scores, accuracies, np.ones(3)))
        10.0
        >>> float(regret(2)(scores, accuracies, np.ones(3)))
        0.0
    """

    def measure(scores: Array, accuracies: Array, count: Array) -> Array:
        found, best = _best_of_top(k, scores, accuracies, count)
        return best - found

    return measure


def share(k: int) -> Callable[[Array, Array, Array], Array]:
    """Return the best accuracy among the k highest scores over the best of all, as a measure."""

    def measure(scores: Array, accuracies: Array, count: Array) -> Array:
        found, best = _best_of_top(k, scores, accuracies, count)
        with np.errstate(invalid="ignore", divide="ignore"):
            return found / best

    return measure


class Measure(NamedTuple):
    """A measure and how tables print it.

    Attributes:
        function: (scores, accuracies, count) -> values, as described in the module's docstring.
        title: column header.
        scale: factor by which tables multiply the values.
        larger_is_better: False for regrets.
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
    """Return broadcast floats, 0 where not finite, and the mask of undefined results."""
    x, y = np.broadcast_arrays(np.asarray(scores, float), np.asarray(accuracies, float))
    count = np.asarray(count, float)
    counted = count > 0
    finite = np.isfinite(x) & np.isfinite(y)
    undefined = (counted & ~finite).any(-1) | ~counted.any(-1)
    x, y = (np.where(finite, a, 0.0) for a in (x, y))
    if correlation:
        for a in (x, y):
            low = np.where(counted, a, np.inf).min(-1, initial=np.inf)
            high = np.where(counted, a, -np.inf).max(-1, initial=-np.inf)
            undefined = undefined | ~(low < high)
    return x, y, count, undefined


def _ranks(x: Array, count: Array) -> Array:
    """Return average ranks among the counted models, from 1."""
    less = _summed(x[..., None, :] < x[..., :, None], count)
    equal = _summed(x[..., None, :] == x[..., :, None], count)
    return less + (equal + 1) / 2


def _places(first: Array, second: Array, count: Array) -> Array:
    """Return places from 0 by descending `first`, then descending `second`, then index."""
    m = first.shape[-1]
    a, b = first[..., None, :], first[..., :, None]
    c, d = second[..., None, :], second[..., :, None]
    earlier = np.arange(m)[None, :] < np.arange(m)[:, None]
    return _summed((a > b) | ((a == b) & ((c > d) | ((c == d) & earlier))), count)


def _summed(pairs: Array, count: Array) -> Array:
    """Return, for every model, how many others a relation (..., m, m) holds for."""
    return np.asarray((pairs.astype(float) @ count[..., None])[..., 0])


def _tau(x: Array, y: Array, weights: Array, count: Array) -> Array:
    """Return concordant minus discordant pairs over the geometric mean of untied pairs.

    A pair weighs the sum, over its two models, of `weights` times the count of the other model.
    """
    x, y = (np.sign(a[..., :, None] - a[..., None, :]) for a in (x, y))

    def total(pairs: Array) -> Array:
        return np.asarray((weights * _summed(pairs, count)).sum(-1))

    with np.errstate(invalid="ignore", divide="ignore"):
        tau = total(x * y) / np.sqrt(total(np.abs(x)) * total(np.abs(y)))
    return np.asarray(np.clip(tau, -1.0, 1.0))
