"""SFDA, cross-fitted: at chance where the classes are, and where the covariance has no inverse."""

import numpy as np
import pytest

from jaxparc import score_bank
from jaxparc.errors import InputError

N, C, D = 240, 8, 600
Y = np.arange(N) % C


def features(separation, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) * np.linspace(2, 0.1, D)
    return (x + separation * rng.normal(size=(C, D))[Y]).astype(np.float32)


def score(x, y=Y, method="sfda", **options):
    return score_bank({"a": x}, y, methods=method, **options).values[0, 0]


def in_sample(x):
    """The published score, up to its second fit: of the images that the discriminant is fitted to.

    x^T W^-1 x for W of rank n - c, by its pseudo-inverse.
    """
    x = x.astype(np.float64)
    x -= x.mean(0)
    means = np.array([x[label == Y].mean(0) for label in range(C)])
    rest = x - means[Y]
    inverse = np.linalg.pinv(rest.T @ rest / N + 1e-10 * np.eye(D))
    logits = x @ inverse @ means.T - np.diag(means @ inverse @ means.T) / 2
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.mean((odds / odds.sum(1, keepdims=True))[np.arange(N), Y])


def test_features_without_classes_are_at_chance():
    x = features(0)
    assert in_sample(x) > 0.999  # the fault of the published score where d > n
    assert score(x) == pytest.approx(1 / C, abs=0.05)
    assert score(x, method="sfda_f8") == pytest.approx(1 / C, abs=0.05)
    assert 0.9 < score(features(1)) <= 1


def test_both_halves_are_scored():
    # the second half is of classes that the first half confuses
    x = features(0.3)
    backwards = np.concatenate([x[N // 2 :], x[: N // 2]])
    assert score(x) == pytest.approx(score(backwards), rel=1e-4)  # N / 2 is a multiple of C


def test_rotation_shift_and_absent_classes_do_not_matter():
    rng = np.random.default_rng(1)
    x = features(0.3)
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    moved = (x @ rotation + rng.uniform(-5, 5, D)).astype(np.float32)
    expected = pytest.approx(score(x), rel=1e-3)
    assert score(moved) == expected
    assert score(x, 3 * Y, num_classes=400) == expected


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1, 1e3, 1e20])
def test_features_of_any_scale(scale):
    found = score((scale * features(1)).astype(np.float32))
    # small features are far from all classes, whose covariance is about 1
    expected = 1 / C if scale < 1e-2 else 1
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("images", [2, 3, 4])
def test_few_images_of_every_class(images):
    """The covariance matrix within classes is 0, or has less than full rank."""
    y = np.arange(N) % (N // images)
    x = (
        np.random.default_rng(0).normal(size=(N, D))
        + 3 * np.random.default_rng(1).normal(size=(N // images, D))[y]
    )
    found = score(x.astype(np.float32), y)
    assert 10 / y.max() < found <= 1


def test_one_image_in_a_class_is_refused():
    with pytest.raises(InputError, match="image 0 is alone in its class"):
        score(features(1), np.where(np.arange(N) == 0, C, Y))
