import enum
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxparc import labels


def multi_label(n, c, seed=0):
    """(n, c) zeros and ones, each row with both."""
    rng = np.random.default_rng(seed)
    y = np.zeros((n, c), np.float32)
    for row in y:
        row[rng.permutation(c)[: rng.integers(1, c)]] = 1
    return y


# --------------------------------------------------------------------------------------- encode


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.uint64])
def test_integers_keep_their_numbers(dtype):
    y, c, _ = labels.encode(np.array([0, 4, 2, 4], dtype))
    assert y.tolist() == [0, 4, 2, 4]
    assert y.dtype == np.int32
    assert c == 5  # absent classes count


def test_number_of_classes_can_be_given():
    assert labels.encode([0, 1], 37)[1] == 37


class Animal(enum.Enum):
    CAT = "cat"
    DOG = "dog"


@pytest.mark.parametrize(
    "given",
    [
        ["b", "a", "b", "c"],
        np.array(["b", "a", "b", "c"]),
        np.array(["b", "a", "b", "c"], object),
        [2.5, -1.0, 2.5, 7.0],
        [-1, 5, -1, 3],
        [0, 2**32, 0, 2**31],  # identifiers, not positions: int32 must not wrap them together
        ["b", None, "b", "c"],
        [1, "a", 1, "b"],
        [Animal.CAT, Animal.DOG, Animal.CAT, "other"],
        [("bird", 1), ("dog", 2), ("bird", 1), ("dog", 3)],
        [frozenset("a"), frozenset("b"), frozenset("a"), frozenset("c")],
    ],
    ids=str,
)
def test_any_hashable_values_are_classes(given):
    y, c, _ = labels.encode(given)
    assert c == 3
    assert y[0] == y[2]
    assert sorted({int(v) for v in y}) == [0, 1, 2]


def test_booleans_are_two_classes():
    y, c, _ = labels.encode([True, False, True])
    assert y[0] == y[2] != y[1]
    assert c == 2


def test_jax_arrays_are_labels():
    assert labels.encode(jnp.array([0, 1, 2]))[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [bool, int, np.float64])
def test_multi_label_rows(dtype):
    given = multi_label(6, 4)
    y, c, _ = labels.encode(given.astype(dtype))
    np.testing.assert_array_equal(y, given)
    assert y.dtype == np.float32
    assert c == 4


@pytest.mark.parametrize(
    ("given", "num_classes", "message"),
    [
        (np.zeros((2, 2, 2)), None, r"shape \(2, 2, 2\)"),
        (np.int64(3), None, r"shape \(\)"),
        ([], None, "0 class"),
        ([1, 1, 1], None, "1 class"),
        (["a", "a"], 5, "1 class"),
        ([0.0, np.nan, 1.0], None, "not finite"),
        ([0.0, np.inf, 1.0], None, "not finite"),
        ([0, 1, 5], 5, "class 5; num_classes=5 allows 0 to 4"),
        (["a", "b", "c"], 2, "class 2; num_classes=2"),
        ([[0, 1], [1, 0]], 3, "2 columns; num_classes=3"),
        ([[np.nan, 1], [1, 0]], None, "not finite"),
        ([[0.2, 0.8], [0.3, 0.3]], None, "image 1 has one value: its annotation is constant"),
        ([[0, 1, 0], [0, 0, 0]], None, "image 1 has 0 of 3 labels"),
        ([[1, 1, 1], [0, 1, 0]], None, "image 0 has 3 of 3 labels"),
    ],
)
def test_what_is_no_annotation_is_refused(given, num_classes, message):
    with pytest.raises(ValueError, match=message):
        labels.encode(given, num_classes)


# ------------------------------------------------------------------------------------ distances


@pytest.mark.parametrize("c", [2, 3, 10, 37, 101, 200])
def test_distances_of_classes_take_exactly_two_values(c):
    y = np.random.default_rng(0).integers(0, c, 60)
    y[:2] = 0, 1
    d = np.asarray(labels.distances(jnp.asarray(y), c))
    np.testing.assert_array_equal(d[y[:, None] == y], 0)
    assert np.unique(d[y[:, None] != y]).tolist() == [np.float32(c / (c - 1))]
    np.testing.assert_allclose(d, 1 - np.corrcoef(np.eye(c)[y]), atol=1e-6)


@pytest.mark.parametrize("c", [2, 5, 20, 90])
def test_distances_of_multi_label_rows_are_one_minus_their_correlation(c):
    y = multi_label(50, c)
    d = labels.distances(jnp.asarray(y), c)
    np.testing.assert_allclose(d, 1 - np.corrcoef(y.astype(np.float64)), atol=1e-6)


def exact(a, b):
    """Sign and square of the correlation of two binary vectors, as a fraction."""
    c, sum_a, sum_b = len(a), int(a.sum()), int(b.sum())
    covariance = c * int((a * b).sum()) - sum_a * sum_b
    square = Fraction(covariance**2, sum_a * (c - sum_a) * sum_b * (c - sum_b))
    return (covariance > 0) - (covariance < 0), square


def assert_equal_values_are_equal_floats(y):
    d = np.asarray(jax.jit(labels.distances, static_argnums=1)(jnp.asarray(y), y.shape[1]))
    floats = {}
    for i, j in itertools.combinations_with_replacement(range(len(y)), 2):
        floats.setdefault(exact(y[i], y[j]), set()).update((d[i, j], d[j, i]))
    assert len(floats) > 2
    assert {value: len(seen) for value, seen in floats.items() if len(seen) > 1} == {}
    # and what is larger is larger: rounding merges nothing that matters to a rank
    ordered = sorted(floats, key=lambda value: -value[0] * value[1])
    assert np.all(np.diff([min(floats[value]) for value in ordered]) >= 0)


@pytest.mark.parametrize("c", [2, 3, 4, 6])
def test_equal_annotation_distances_are_bitwise_equal_for_all_vectors(c):
    rows = [row for row in itertools.product((0, 1), repeat=c) if 0 < sum(row) < c]
    if c == 2:  # only two such vectors: 0, and 2
        d = labels.distances(jnp.asarray(rows, jnp.float32), c)
        assert np.asarray(d).tolist() == [[0, 2], [2, 0]]
        return
    assert_equal_values_are_equal_floats(np.array(rows, np.float32))


@pytest.mark.parametrize("c", [20, 81, 90])
def test_equal_annotation_distances_are_bitwise_equal(c):
    assert_equal_values_are_equal_floats(multi_label(60, c))
