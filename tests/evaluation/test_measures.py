"""Every measure against SciPy or a restatement, with ties, models that are absent, and NaN."""

import itertools

import numpy as np
import pytest
import scipy.stats

from jaxparc.evaluation import measures
from jaxparc.evaluation.measures import MEASURES

every_measure = pytest.mark.parametrize("name", MEASURES)


def drawn(seed, m=9, ties=False):
    """Scores, accuracies and which models are there."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 5, (2, m)).astype(float) if ties else rng.standard_normal((2, m))
    where = rng.random(m) < 0.8
    where[:3] = True
    x[:3], y[:3] = (0, 1, 1), (0, 1, 0)  # never all equal
    return x, y + 10, where


def scipys(name, x, y):
    if name == "pearson":
        return scipy.stats.pearsonr(x, y).statistic
    if name == "spearman":
        return scipy.stats.spearmanr(x, y).statistic
    if name == "kendall":
        return scipy.stats.kendalltau(x, y).statistic
    if name == "weighted_tau":
        return scipy.stats.weightedtau(x, y).statistic
    kind, k = name[:-1], int(name[-1])
    # the worst of all orders that the scores allow
    worst = min(
        max(y[i] for i in order[:k])
        for order in itertools.permutations(range(len(x)))
        if all(x[a] >= x[b] for a, b in itertools.pairwise(order))
    )
    return {"hit": float(worst == y.max()), "regret": y.max() - worst, "share": worst / y.max()}[
        kind
    ]


@every_measure
@pytest.mark.parametrize("ties", [False, True])
def test_against_scipy_or_every_order(name, ties):
    for seed in range(20):
        x, y, where = drawn(seed, 7, ties)
        x[~where] = np.nan  # what is not there has no say
        found = MEASURES[name].function(x, y, where)
        np.testing.assert_allclose(found, scipys(name, x[where], y[where]), atol=1e-12)


@every_measure
def test_many_at_once(name):
    """Leading axes broadcast: probe sets by resamples."""
    parts = [drawn(seed) for seed in range(6)]
    x, y, where = (np.stack(part).reshape(2, 3, -1) for part in zip(*parts, strict=True))
    function = MEASURES[name].function
    found = function(x, y, where)
    assert found.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        assert found[i, j] == function(x[i, j], y[i, j], where[i, j])
    assert function(x, y[0, 0], where[0, 0]).shape == (2, 3)


@every_measure
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_undefined(name, value):
    function = MEASURES[name].function
    for side in (0, 1):
        parts = drawn(0)
        parts[side][0] = value
        assert np.isnan(function(*parts))
        parts[2][0] = False
        assert np.isfinite(function(*parts))


@every_measure
def test_nothing_is_undefined(name):
    x, y, where = drawn(0)
    assert np.isnan(MEASURES[name].function(x, y, np.zeros_like(where)))


@pytest.mark.parametrize("name", ["pearson", "spearman", "kendall", "weighted_tau"])
def test_correlations_of_constants_are_undefined(name):
    x, y, where = drawn(0)
    function = MEASURES[name].function
    assert np.isnan(function(np.full_like(x, 0.1), y, where))
    assert np.isnan(function(x, np.full_like(y, 0.1), where))
    only = np.zeros_like(where)
    only[0] = True
    assert np.isnan(function(x, y, only))


def test_equal_scores_get_no_credit():
    y, where = np.array([90.0, 70.0, 80.0]), np.ones(3, bool)
    equal = np.zeros(3)
    assert MEASURES["regret1"].function(equal, y, where) == 20
    assert MEASURES["hit1"].function(equal, y, where) == 0
    assert MEASURES["hit3"].function(equal, y, where) == 1
    assert measures.regret(2)(equal, y, where) == 10


@every_measure
def test_a_perfect_selector(name):
    _, y, where = drawn(0)
    best = {True: 1.0, False: 0.0}[MEASURES[name].larger_is_better]
    np.testing.assert_allclose(MEASURES[name].function(y, y, where), best)
