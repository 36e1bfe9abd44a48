"""GBC: where a variance is raised to its minimum, and what does not change the score."""

import numpy as np
import pytest

from jaxparc import score_bank
from jaxparc.selectors import gbc

C, D = 4, 150
RNG = np.random.default_rng(0)
Y = np.repeat(np.arange(C), (150, 90, 58, 2))
N = len(Y)
X = (RNG.normal(size=(N, D)) + 0.8 * RNG.normal(size=(C, D))[Y]).astype(np.float32)


def score(x, y=Y, method="gbc", **options):
    return score_bank({"a": x}, y, methods=method, **options).values[0, 0]


def of_two(apart, own, its):
    """Minus the overlap of two Gaussians, in both orders."""
    both = (own + its) / 2
    return -2 * np.exp(-(apart**2) / 8 / both) * np.sqrt(np.sqrt(own * its) / both)


def test_scale_does_not_matter_above_the_smallest_variance():
    expected = pytest.approx(score(X), rel=1e-4)
    for scale in (0.1, 1e3, 1e25):  # squares of the last are beyond float32
        assert score((X * scale).astype(np.float32)) == expected


def test_rotation_shift_and_absent_classes_do_not_matter():
    rotation = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    moved = (X @ rotation + RNG.uniform(-5, 5, D)).astype(np.float32)
    expected = pytest.approx(score(X), rel=1e-3)
    assert score(moved) == expected
    assert score(X, 3 * Y, num_classes=400) == expected


def test_of_one_component_by_hand():
    x = np.float32([[-1, 2], [1, 2], [3, 2], [7, 2]])
    y = np.array([0, 0, 1, 1])
    assert score(x, y) == pytest.approx(of_two(5, 1, 4), rel=1e-5)


def test_a_class_of_one_image_has_the_smallest_variance():
    x = np.float32([[-1, 2], [1, 2], [0.1, 2]])
    y = np.array([0, 0, 1])
    assert score(x, y) == pytest.approx(of_two(0.1, 1, 1e-4), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-5, 1e-30])
def test_classes_closer_than_the_smallest_variance_overlap(scale):
    x = (scale * X).astype(np.float32)
    assert score(x) == pytest.approx(-C * (C - 1), rel=1e-2)


def test_features_are_reduced_to_64_components_by_default():
    assert score(X) == score(X, method="gbc_f64") == score(X, method=gbc)
    assert score(X) != score(X, method="gbc_f8")
