"""Ridge: leverages near 1, classes without images, and few images."""

from pathlib import Path

import numpy as np
import pytest
from definitions import ridge_float64
from test_selectors import C, features_of, labels_of, score

from jaxparc import Probe, score_bank, selectors


def test_ridge_of_an_image_that_nothing_else_resembles():
    # its leverage is near 1: 1 - h has no digits left in float32, computed as a difference
    y = labels_of("classes")
    x = features_of(y, 2.0)
    x[7] = 0
    x[7, 3] = 1e5
    expected = ridge_float64(x, y, C)
    assert score_bank({"a": x}, y, methods="ridge").values[0] == pytest.approx(expected, abs=1e-4)


def test_ridge_ignores_classes_without_images():
    y = labels_of("classes")
    x = features_of(y, 0.5)
    assert score("ridge", x, y, c=4 * C) == score("ridge", x, y)
    # the one image of a class cannot be predicted
    y[0] = C
    found = score("ridge", x, y, c=C + 1)
    assert found == pytest.approx(ridge_float64(x, y, C + 1), abs=1e-4)


def test_ridge_of_few_images_or_one_direction_is_defined():
    y = np.int32([0, 0, 1, 1])
    x = np.float32([[0, 0], [0, 0], [1, 2], [1, 2]])
    assert score("ridge", x, y, c=2) == 100
    assert score("ridge", x[1:3], y[1:3], c=2) == 0
    assert np.isnan(score("ridge", np.full_like(x, 0.1), y, c=2))


def test_penalties_that_float32_cannot_order_are_compared_in_float64():
    """Two of dead_22 have errors that differ by 1e-5, and scores that differ by 1.3."""
    file = np.load(Path(__file__).parents[1] / "golden" / "dead_22.npz")
    y = file["labels"].astype(np.int32)
    check = selectors.SELECTORS["ridge"].needs_float64
    assert check(Probe(features=file["features"], labels=y, num_classes=int(y.max()) + 1))
    y = labels_of("classes")
    assert not check(Probe(features=features_of(y, 1.0), labels=y.astype(np.int32), num_classes=C))
