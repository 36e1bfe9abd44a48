"""The linear probe, against scikit-learn's logistic regression."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxparc import parallel
from jaxparc.bank import linear_probe

logistic = importlib.import_module("jaxparc.selectors.logistic")  # the name is also a function's


def drawn(n, seed, shift=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    features = rng.normal(size=(n, 12)) + 1.2 * np.eye(4, 12)[labels] + shift
    return features.astype(np.float32), labels


def reference(x, y, test, truth):
    mean = x.mean(0)
    scale = np.sqrt(x.var(0).mean())
    model = LogisticRegression(tol=1e-8, max_iter=10_000).fit((x - mean) / scale, y)
    return 100 * model.score((test - mean) / scale, truth)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 5.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_accuracy_is_that_of_scikit_learn_at_any_scale(shift, scale):
    (x, y), (test, truth) = drawn(300, 0, shift), drawn(400, 1, shift)
    found = linear_probe.accuracy(np.float32(scale) * x, y, np.float32(scale) * test, truth, 4)
    expected = reference(x.astype(float), y, test.astype(float), truth)
    assert found == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("which", ["wide", "separable"])
def test_it_is_also_for_features_that_separate_the_classes(which):
    rng = np.random.default_rng(0)
    labels, truth = rng.integers(0, 4, 120), rng.integers(0, 4, 200)
    d, height = (300, 1.5) if which == "wide" else (8, 12.0)
    x, test = (
        (np.maximum(rng.normal(size=(len(y), d)) + height * np.eye(4, d)[y], 0)).astype(np.float32)
        for y in (labels, truth)
    )
    found = linear_probe.accuracy(x, labels, test, truth, 4)
    expected = reference(x.astype(float), labels, test.astype(float), truth)
    assert found == pytest.approx(expected, abs=0.6)


def test_classes_without_training_images_are_never_predicted():
    (x, y), (test, truth) = drawn(200, 0), drawn(100, 1)
    found = linear_probe.accuracy(x[y < 3], y[y < 3], test, truth, 4)
    expected = reference(x[y < 3].astype(float), y[y < 3], test.astype(float), truth)
    assert found == pytest.approx(expected, abs=1.1)


def test_features_that_are_not_finite_have_no_accuracy():
    x, y = drawn(50, 0)
    x[0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        assert linear_probe.accuracy(x, y, x, y, 4) is None
    assert linear_probe.accuracy(np.ones_like(x), y, x, y, 4) is None


def test_few_features_may_be_far_larger_than_the_others():
    """As of a published MobileNetV2, half of whose units are 0 on natural images."""
    rng = np.random.default_rng(0)
    n, active = 300, 100
    labels, of_class = rng.integers(0, 10, n), rng.normal(size=(10, active))
    sizes = np.exp(3 * rng.normal(size=(n, active))) * 10.0 ** -np.linspace(0, 4, active)
    x = sizes * (1 + 0.2 * np.abs(of_class[labels])) * (rng.random(sizes.shape) < 0.3)
    x = x - x.mean(0)
    x = x / np.sqrt((x**2).sum() / n / 3000)  # as if most of 3,000 features were 0
    with parallel.enable_x64(True):
        y = jnp.asarray(np.eye(10)[labels])
        _, error = logistic.fit(jnp.asarray(x @ x.T), y, jnp.ones((1, 10), bool))
    assert float(error) < 1e-6
