"""The linear probe, against scikit-learn's logistic regression."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxparc.bank import linear_probe


def drawn(n, seed, shift=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    features = rng.normal(size=(n, 12)) + 1.2 * np.eye(4, 12)[labels] + shift
    return features.astype(np.float32), labels


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_the_accuracy_is_that_of_scikit_learn(scale):
    (x, y), (test, truth) = drawn(300, 0), drawn(400, 1)
    found = linear_probe.accuracy(scale * x, y, scale * test, truth, 4)
    reference = LogisticRegression(tol=1e-8, max_iter=10_000).fit(scale * x.astype(float), y)
    assert found == pytest.approx(100 * reference.score(scale * test.astype(float), truth), abs=0.5)


def test_classes_without_training_images_are_never_predicted():
    (x, y), (test, truth) = drawn(200, 0), drawn(100, 1)
    found = linear_probe.accuracy(x[y < 3], y[y < 3], test, truth, 4)
    reference = LogisticRegression(tol=1e-8, max_iter=10_000).fit(x[y < 3].astype(float), y[y < 3])
    assert found == pytest.approx(100 * reference.score(test.astype(float), truth), abs=1.1)


def test_features_that_overflow_have_no_accuracy():
    x, y = drawn(50, 0)
    assert linear_probe.accuracy(1e25 * x, y, 1e25 * x, y, 4) is None
