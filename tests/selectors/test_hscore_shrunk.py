"""Shrunk H-Score: its shrinkage against scikit-learn's, and features at the limits."""

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.covariance

from jaxparc import score_bank
from jaxparc.errors import UndefinedScoreWarning
from jaxparc.selectors.hscore_shrunk import shrinkage

C, N = 4, 60
RNG = np.random.default_rng(0)
Y = np.r_[np.arange(N - 1) % 3, 3]  # one image alone in its class


def features(d, separation=1.0):
    rng = np.random.default_rng(d)
    spread = np.linspace(0.2, 2, d)
    x = rng.normal(size=(N, d)) * spread + separation * rng.normal(size=(C, d))[Y]
    return x.astype(np.float32)


def definition(x, y=Y):
    x = x.astype(np.float64)
    x = x - x.mean(0)
    shrunk, delta = sklearn.covariance.ledoit_wolf(x, assume_centered=True)
    averaged = np.array([x[y == label].mean(0) for label in y])
    return (1 - delta) * np.trace(np.linalg.inv(shrunk) @ averaged.T @ averaged) / len(y)


def score(x, y=Y, **options):
    return score_bank({"a": x}, y, methods="hscore_shrunk", **options).values[0, 0]


@pytest.mark.parametrize("d", [2, 5, 59, 60, 500])
def test_shrinkage_is_that_of_scikit_learn(d):
    x = features(d).astype(np.float64)
    x -= x.mean(0)
    expected = sklearn.covariance.ledoit_wolf_shrinkage(x, assume_centered=True)
    found = shrinkage(jnp.asarray(x @ x.T, jnp.float32), jnp.float32(d))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_shrinkage_of_equal_variances_is_one():
    x = np.random.default_rng(0).normal(size=(N, 9))
    x = np.linalg.qr(x - x.mean(0))[0]
    assert float(shrinkage(jnp.asarray(x @ x.T, jnp.float32), jnp.float32(9))) == 1.0


@pytest.mark.parametrize("d", [2, 5, 59, 60, 500])
@pytest.mark.parametrize("scale", [1e-20, 1, 1e20])
def test_score_of_any_width_and_scale(d, scale):
    x = features(d)
    found = score((x * scale).astype(np.float32))
    assert found == pytest.approx(definition(x), rel=1e-4)
    assert 0 < found < C - 1


def test_rotation_shift_and_absent_classes_do_not_matter():
    x = features(100)
    rotation = np.linalg.qr(RNG.normal(size=(100, 100)))[0]
    moved = (x @ rotation + RNG.uniform(-5, 5, 100)).astype(np.float32)
    expected = pytest.approx(score(x), rel=1e-4)
    assert score(moved) == expected
    assert score(x, 3 * Y, num_classes=400) == expected


def test_features_that_need_float64():
    x = features(5)
    x[:, 0] *= 1e4  # the other columns are lost beside its square
    assert score(x) == pytest.approx(definition(x), rel=1e-4)


def test_columns_that_repeat_have_no_full_rank():
    x = np.tile(features(5), 40)
    assert score(x) == pytest.approx(definition(x), rel=1e-4)


@pytest.mark.parametrize("method", ["hscore_shrunk", "hscore_shrunk_f1"])
def test_undefined_without_shrinkage(method):
    x = np.outer(np.where(np.arange(N) % 2, 1, -1), [1, 2, 3]).astype(np.float32)
    with pytest.warns(UndefinedScoreWarning, match="the shrinkage of the covariance matrix is 0"):
        scores = score_bank({"a": x}, np.arange(N) % 4 // 2, methods=method)
    assert np.isnan(scores.values).all()


def test_the_trace_is_of_a_matrix_product():
    x = features(20)
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    shrunk, delta = sklearn.covariance.ledoit_wolf(centred, assume_centered=True)
    averaged = np.array([centred[label == Y].mean(0) for label in Y])
    inverse, between = np.linalg.inv(shrunk), averaged.T @ averaged / N
    assert score(x) == pytest.approx((1 - delta) * np.trace(inverse @ between), rel=1e-4)
    # what a product of entries, which is in copies of the method, gives
    assert abs((1 - delta) * np.trace(inverse * between) / score(x) - 1) > 0.1
