"""Contributions of images: their mean is the score, and a sum over others approximates theirs."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from test_selectors import C, D, N, features_of, labels_of

from jaxparc import Probe, labels
from jaxparc.selectors import knn as knn_selector
from jaxparc.selectors import ncm as ncm_selector
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


@pytest.mark.parametrize("form", ["classes", "multi-label", "vectors", "values"])
@pytest.mark.parametrize(
    ("score", "contributions", "options"),
    [
        (knn_selector, of_knn, {}),
        (knn_selector, of_knn, {"k": 3, "metric": "cosine", "n_dims": 8}),
        (ridge_selector, of_ridge, {}),
        (ridge_selector, of_ridge, {"n_dims": 8}),
    ],
)
def test_the_score_is_the_mean_of_contributions(form, score, contributions, options):
    probe = probe_of(form)
    found = contributions(probe, **options)
    assert found.shape == (N,)
    assert found.dtype == jnp.float32
    assert float(score(probe, **options)) == pytest.approx(float(np.mean(found)), rel=1e-5)


@pytest.mark.parametrize("n_dims", [None, 8])
def test_the_score_of_class_means_is_the_mean_of_contributions(n_dims):
    probe = probe_of("classes")
    found = of_ncm(probe, n_dims=n_dims)
    assert set(np.asarray(found).tolist()) == {0, 100}
    assert float(ncm_selector(probe, n_dims=n_dims)) == pytest.approx(np.mean(found))


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
