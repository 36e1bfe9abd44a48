"""NCM: ties, rows of zeros, and directions that are nearly the same."""

import numpy as np
import pytest
from definitions import ncm_float64
from test_selectors import C, D, N, features_of, labels_of, score

from jaxparc import score_bank
from jaxparc.errors import UndefinedScoreWarning


def test_ncm_shares_ties_and_ignores_lengths():
    # every row is 1 or -1 after division by its length
    y = np.int32([0, 0, 0, 1, 1, 1, 2, 2])
    x = np.float32([[1], [2], [3e3], [1e-3], [5], [-2], [-3], [-4]])
    assert score("ncm", x, y, c=3) == pytest.approx(ncm_float64(x, y, 3), abs=1e-4)
    x = np.float32([[0], [0], [1], [1], [2], [0]])  # rows of zeros have no direction
    y = np.int32([0, 0, 1, 1, 2, 2])
    assert score("ncm", x, y, c=3) == pytest.approx(ncm_float64(x, y, 3), abs=1e-4)


def test_ncm_of_a_row_of_zeros_or_of_one_class_without_others():
    y = labels_of("classes")
    x = features_of(y, 0.5) + 1
    x[3:5] = 0
    assert score("ncm", x, y) == pytest.approx(ncm_float64(x, y, C), abs=1e-4)
    y[0] = C
    assert score("ncm", x, y, c=C + 3) == pytest.approx(ncm_float64(x, y, C + 3), abs=1e-4)


def test_ncm_is_nan_where_all_images_have_one_direction():
    y = labels_of("classes")
    x = np.outer(np.arange(1, N + 1), np.random.default_rng(0).random(D)).astype(np.float32)
    assert np.isnan(score("ncm", x, y))
    with pytest.warns(UndefinedScoreWarning, match="same direction"):
        assert np.isnan(score_bank({"a": x}, y, methods="ncm").values[0, 0])


def test_ncm_of_directions_that_float32_confuses():
    # a large offset leaves little of the differences: score_bank computes in float64
    y = labels_of("classes")
    x = features_of(y, 1.0).astype(np.float64) + 3e5
    expected = ncm_float64(x, y, C)
    assert score_bank({"a": x}, y, methods="ncm").values[0] == pytest.approx(expected, abs=1e-4)
    for offset in np.float32([500, 1e4, 3e5]):
        x = features_of(y, 0.7) + offset
        expected = ncm_float64(x, y, C)
        assert score_bank({"a": x}, y, methods="ncm").values[0] == pytest.approx(expected)
