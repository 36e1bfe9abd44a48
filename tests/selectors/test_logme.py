"""LogME: the published value, and features of any scale and offset."""

import functools

import numpy as np
import pytest
from definitions import logme_float64
from test_selectors import C, D, N, features_of, labels_of, probe_of, score

from jaxparc import score_bank, selectors
from jaxparc.errors import UndefinedScoreWarning


def logme_as_published(x, y, c):
    """The arithmetic of the published code, by a singular value decomposition."""
    n, d = x.shape
    left, values, _ = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    sigma, found = values**2, []
    for label in range(c):
        column = (y == label).astype(np.float64)
        z = np.square(left.T @ column)
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * z / (t + sigma) ** 2).sum()
            res2 = (z * (t / (sigma + t)) ** 2).sum() + column.sum() - z.sum()
            alpha, beta = gamma / (m2 + 1e-5), (n - gamma) / (res2 + 1e-5)
            if abs(alpha / beta - t) <= 1e-3 * t:
                break
        evidence = d * np.log(alpha) + n * np.log(beta / (2 * np.pi)) - beta * res2 - alpha * m2
        found.append((evidence - np.log(alpha + beta * sigma).sum()) / 2 / n)
    return np.mean(found)


@pytest.mark.parametrize("d", [D, 200])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_logme_has_the_published_value_as_a_variant(d, scale):
    y = labels_of("classes")
    x = np.random.default_rng(1).standard_normal((N, d)).astype(np.float32) + 1
    x[:, :D] += features_of(y, 1.5)
    x *= np.float32(scale)
    published = functools.partial(selectors.logme, variant="thuml")
    values = score_bank({"a": x}, y, methods=["logme", published]).values[0]
    assert values[1] == pytest.approx(logme_as_published(x, y, C), rel=1e-4, abs=1e-4)
    assert values[0] == pytest.approx(logme_float64(x, y, C), abs=1e-5)
    # (d - n) / 2 ln alpha is left out of theirs
    assert (abs(values[1] - values[0]) > 1) == (d > N)
    with pytest.raises(ValueError, match="unknown variant 'icml'; known: evidence, thuml"):
        selectors.logme(probe_of(x, y), variant="icml")


def test_logme_ignores_classes_without_images():
    y = labels_of("classes")
    x = features_of(y, 0.5)
    assert score("logme", x, y, c=4 * C) == pytest.approx(score("logme", x, y), rel=1e-6)


def test_logme_without_signal_is_the_evidence_of_noise():
    # features orthogonal to the labels: the best weights are 0
    y = np.arange(N, dtype=np.int32) % C
    x = np.random.default_rng(0).standard_normal((N, D))
    one_hot = np.eye(C)[y]
    x = (x - one_hot @ np.linalg.lstsq(one_hot, x, rcond=None)[0]).astype(np.float32)
    expected = -0.5 * (1 + np.log(2 * np.pi * N / C / N))
    assert score("logme", x, y) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("offset", [30, 1e3, 1e5])
@pytest.mark.parametrize("d", [D, 3 * N])
def test_logme_of_features_with_an_offset(offset, d):
    y = labels_of("classes")
    x = np.random.default_rng(1).standard_normal((N, d)).astype(np.float32)
    x[:, :D] += features_of(y, 1.5)
    x += np.float32(offset) * np.random.default_rng(2).random(d, np.float32)
    expected = logme_float64(x, y, C)
    assert score_bank({"a": x}, y, methods="logme").values[0] == pytest.approx(expected, abs=1e-4)


def test_logme_of_few_images_or_one_direction():
    y = np.int32([0, 0, 1])
    x = np.float32([[1, 2], [2, 4], [-1, -2]])
    assert score("logme", x, y, c=2) == pytest.approx(logme_float64(x, y, 2), abs=1e-4)
    assert np.isnan(score("logme", np.full_like(x, 0.1), y, c=2))


def test_logme_is_nan_where_the_evidence_is_infinite():
    # as many directions as classes, without noise
    y = labels_of("classes")
    x = np.random.default_rng(0).standard_normal((C, D)).astype(np.float32)[y]
    with pytest.warns(UndefinedScoreWarning, match="fit a column of the labels exactly"):
        assert np.isnan(score_bank({"a": x}, y, methods="logme").values[0, 0])
    # as many directions as images fit them too, but no better than their number explains
    wide = np.random.default_rng(0).standard_normal((N, 300)).astype(np.float32)
    wide += 3 * np.random.default_rng(1).standard_normal((C, 300)).astype(np.float32)[y]
    expected = logme_float64(wide, y, C)
    assert score("logme", wide, y) == pytest.approx(expected, abs=1e-5)
