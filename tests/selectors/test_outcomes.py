"""Outcomes of predictions, and what each image contributes to them, its own and those of others."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from test_selectors import C, D, N, features_of, labels_of

from jaxparc import Probe, labels
from jaxparc.selectors import knn as knn_selector
from jaxparc.selectors import outcomes
from jaxparc.selectors import ridge as ridge_selector
from jaxparc.selectors.knn import contributions as of_knn
from jaxparc.selectors.ncm import contributions as of_ncm
from jaxparc.selectors.ridge import contributions as of_ridge

KIND_OF = {"classes": "classes", "multi-label": "multi_label", "vectors": "vectors"}
RNG = np.random.default_rng(0)


def probe_of(form):
    if form == "values":
        x = features_of(labels_of("classes"), 1.0)
        y = x[:, :2] @ np.float32([[1, 2], [-1, 1]]) + RNG.normal(size=(N, 2)).astype(np.float32)
    else:
        y = labels_of(form)
        x = features_of(y, 1.0)
    kind = KIND_OF.get(form, form)
    return Probe(features=jnp.asarray(x), labels=jnp.asarray(y), num_classes=C, kind=kind)


def test_every_kind_has_a_best_score():
    assert set(outcomes.BEST) == set(labels.KINDS)


def without_each(probe, function):
    """Return the pseudo-values of the jackknife, n S - (n - 1) S_-i, by leaving images out."""
    function = jax.jit(function)
    scores = []
    for i in range(N):
        kept = np.delete(np.arange(N), i)
        one = dataclasses.replace(probe, features=probe.features[kept], labels=probe.labels[kept])
        scores.append(float(function(one)))
    return N * float(function(probe)) - (N - 1) * np.array(scores)


@pytest.mark.parametrize("form", ["classes", "multi-label", "vectors", "values"])
@pytest.mark.parametrize("options", [{}, {"k": 3, "metric": "cosine"}])
def test_neighbours_contribute_what_the_jackknife_says(monkeypatch, form, options):
    monkeypatch.setattr(importlib.import_module("jaxparc.selectors.knn"), "HELP", 1.0)
    probe = probe_of(form)
    found = of_knn(probe, **options)
    expected = without_each(probe, functools.partial(knn_selector, **options))
    assert found.shape == (N,)
    assert found.dtype == jnp.float32
    if form == "values":  # R^2 is not a mean
        assert np.corrcoef(found, expected)[0, 1] > 0.98
    else:
        np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize("form", ["vectors", "values"])
def test_ridge_contributes_about_what_the_jackknife_says(form):
    """Where outcomes do not jump, and so follow the predictions."""
    probe = probe_of(form)
    found, expected = np.asarray(of_ridge(probe)), without_each(probe, ridge_selector)
    assert np.corrcoef(found, expected)[0, 1] > 0.9
    assert 0.7 < found.std() / expected.std() < 1.4


@pytest.mark.parametrize("form", ["classes", "multi-label"])
def test_slopes_are_those_of_smoothed_outcomes(form):
    """Moving all predictions of an entry changes the mean outcome by the density at the edge."""
    rng = np.random.default_rng(1)
    many = 4000
    y = rng.integers(0, 2, many) if form == "classes" else rng.integers(0, 2, (many, 2))
    y = y.astype(np.int32 if form == "classes" else np.float32)
    one_hot = np.eye(2)[y] if form == "classes" else y
    predicted = (one_hot + rng.normal(size=(many, 2))).astype(np.float32)
    probe = Probe(labels=jnp.asarray(y), num_classes=2, kind=KIND_OF[form])
    slopes = np.asarray(outcomes.slopes(probe, jnp.asarray(predicted)))

    def mean(step):
        moved = predicted + step * (2 * one_hot - 1)
        return float(outcomes.of_predictions(probe, jnp.asarray(moved, jnp.float32)).mean())

    expected = (mean(0.1) - mean(-0.1)) / 0.2
    assert (slopes * (2 * one_hot - 1)).sum(axis=1).mean() == pytest.approx(expected, rel=0.1)


def test_contributions_are_nan_where_the_score_is():
    same = jnp.ones((N, D), jnp.float32)
    for contributions in (of_ridge, of_ncm, functools.partial(of_knn, metric="cosine")):
        probe = probe_of("classes")
        probe = Probe(features=0 * same, labels=probe.labels, num_classes=C)
        assert np.isnan(contributions(probe)).all()


def test_contributions_of_values_approximate_r2_of_resampled_images():
    y = RNG.normal(size=(400, 2)).astype(np.float32) * np.float32([1, 30])
    predicted = y + RNG.normal(size=y.shape).astype(np.float32) * np.float32([0.5, 20])
    probe = Probe(labels=jnp.asarray(y), num_classes=2, kind="values")
    found = np.asarray(outcomes.of_predictions(probe, jnp.asarray(predicted)))
    whole = sklearn.metrics.r2_score(y, predicted)
    assert found.mean() == pytest.approx(whole, abs=1e-5)
    assert float(outcomes.score(probe, found)) == pytest.approx(whole, abs=1e-5)
    for _ in range(20):
        chosen = RNG.integers(0, 400, 400)
        exact = sklearn.metrics.r2_score(y[chosen], predicted[chosen])
        assert abs(found[chosen].mean() - exact) < 0.1 * abs(exact - whole) + 0.01


def test_perfect_predictions_are_best():
    for form in ("classes", "multi-label", "vectors", "values"):
        probe = probe_of(form)
        found = outcomes.of_predictions(probe, probe.targets(jnp.float32))
        assert float(outcomes.score(probe, found)) == outcomes.BEST[probe.kind]
