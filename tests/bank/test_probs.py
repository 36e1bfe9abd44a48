"""Probabilities and reference features: how `score_bank` takes and refuses them."""

import numpy as np
import pytest
from same import assert_same

from jaxparc import score_bank

N, C, Z = 12, 3, 4
Y = np.arange(N) % C
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5)).astype(np.float32)
P = RNG.dirichlet(np.ones(Z), N).astype(np.float32)


def values(**given):
    return score_bank({"a": X, "b": X[:, :3]}, Y, **given).values


def test_probs_come_as_a_mapping_an_array_or_a_list_and_widths_may_differ():
    given = {"a": P, "b": P[::-1]}
    expected = values(methods=("nce", "leep"), probs=given)
    as_array = values(methods=("nce", "leep"), probs=np.stack(list(given.values())))
    assert_same(as_array, expected)
    wider = np.concatenate([P, np.zeros((N, 2), np.float32)], axis=1)
    both = values(methods="leep", probs=[P, wider])
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6)  # empty classes add nothing to LEEP


def test_rows_are_normalised():
    rounded = P.astype(np.float16)
    np.testing.assert_allclose(
        values(methods="leep", probs=[P, rounded])[0],
        values(methods="leep", probs=[P, rounded])[1],
        atol=1e-2,
    )
    scaled = values(methods="leep", probs=[P, P * np.float32(1.005)])
    np.testing.assert_allclose(scaled[0], scaled[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": "nce"}, "method 'nce' needs the argument probs"),
        ({"methods": "rsa_f32"}, "method 'rsa_f32' needs the argument reference"),
        ({"methods": "leep", "probs": {"a": P}}, "probs has no entry for model 'b'"),
        ({"methods": "leep", "probs": [P]}, "probs has no entry for model 'b'"),
        (
            {"methods": "leep", "probs": [P, P[:5]]},
            r"model 'b': probs have shape \(5, 4\); expected \(12",
        ),
        ({"methods": "leep", "probs": [P, -P]}, "model 'b': probs are negative or NaN"),
        ({"methods": "leep", "probs": [P, P * np.nan]}, "model 'b': probs are negative or NaN"),
        ({"methods": "leep", "probs": [P, 2 * P]}, "model 'b': probs of an image sum to 2"),
        ({"methods": "dds", "reference": X[:5]}, r"reference has shape \(5, 5\); expected \(12, d"),
        ({"methods": "dds", "reference": X * np.inf}, "reference: features are not finite"),
        ({"methods": "dds", "reference": np.ones((N, 4))}, "the same for every image"),
    ],
)
def test_what_is_missing_or_wrong_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        values(**given)


@pytest.mark.parametrize("method", ["nce", "leep"])
def test_several_labels_are_refused_where_one_is_meant(method):
    with pytest.raises(ValueError, match=f"'{method}' takes classes labels; these are multi_label"):
        score_bank({"a": X}, np.eye(C)[Y], methods=method, probs=[P])
