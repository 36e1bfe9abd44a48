"""TransRate, against determinants of d x d matrices and in features that float32 cannot resolve."""

import numpy as np
import pytest

from jaxparc import score_bank
from jaxparc.errors import UndefinedScoreWarning

C, D = 4, 30
RNG = np.random.default_rng(0)
Y = np.repeat(np.arange(C), (50, 20, 9, 1))  # one image alone in its class
N = len(Y)
X = (RNG.normal(size=(N, D)) + RNG.normal(size=(C, D))[Y]).astype(np.float32)
LOW_RANK = (X[:, :3] @ RNG.normal(size=(3, D))).astype(np.float32)


def rate(rows):
    return np.linalg.slogdet(np.eye(D) + rows.T @ rows / (len(rows) * 1e-4))[1] / 2


def by_class(x, weights):
    x = np.asarray(x, np.float64)
    x = x - x.mean(0)
    rates = [rate(x[label == Y]) for label in range(C)]
    return rate(x) - np.average(rates, weights=weights)


def score(x, y=Y, **options):
    return score_bank({"a": x}, y, methods="transrate", **options).values[0, 0]


def test_classes_count_equally_whatever_their_images():
    expected = by_class(X, None)
    assert score(X) == pytest.approx(expected, rel=1e-5)
    assert by_class(X, np.bincount(Y)) < 0.7 * expected  # what weights would give


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 10, 1e3])
@pytest.mark.parametrize("x", [X, LOW_RANK], ids=["full", "low rank"])
def test_features_of_any_scale(x, scale):
    x = (x * scale).astype(np.float32)
    assert score(x) == pytest.approx(by_class(x, None), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_undefined_where_rounding_exceeds_eps(scale):
    with pytest.warns(UndefinedScoreWarning, match="beside the constant eps"):
        assert np.isnan(score((LOW_RANK * scale).astype(np.float32)))


def test_rotation_shift_and_absent_classes_do_not_matter():
    rotation = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    moved = (X @ rotation + RNG.uniform(-5, 5, D)).astype(np.float32)
    expected = pytest.approx(score(X), rel=1e-5)
    assert score(moved) == expected
    assert score(X, 3 * Y, num_classes=40) == expected


def test_classes_that_are_alike_score_0():
    x = np.tile(X[:2], (6, 1))
    assert score(x, np.repeat([0, 1, 2], 4)) == pytest.approx(0, abs=1e-6)
