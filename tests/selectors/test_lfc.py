"""LFC: where it is not defined."""

import numpy as np
import pytest
from test_selectors import N, features_of, labels_of, score

from jaxparc import score_bank


def test_lfc_is_nan_where_all_pairs_are_alike():
    x = features_of(labels_of("classes"), 1.0)
    assert np.isnan(score("lfc", x, np.arange(N, dtype=np.int32), c=N))
    assert np.isnan(score("lfc", x, np.zeros(N, np.int32), c=1))
    assert np.isnan(score("lfc", x[:1], np.int32([0]), c=2))
    assert np.isnan(score("lfc", np.full_like(x, 0.1), labels_of("classes")))
    with pytest.raises(ValueError, match="no class has two"):
        score_bank({"a": x}, np.arange(N), methods="lfc")
