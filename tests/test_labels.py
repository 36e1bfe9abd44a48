import enum
import itertools
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from jaxparc import labels, parallel


def multi_label(n, c, seed=0):
    """(n, c) zeros and ones, each row with both."""
    rng = np.random.default_rng(seed)
    y = np.zeros((n, c), np.float32)
    for row in y:
        row[rng.permutation(c)[: rng.integers(1, c)]] = 1
    return y


# --------------------------------------------------------------------------------------- encode


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.uint64])
def test_integers_are_positions_if_the_number_of_classes_is_given_else_names(dtype):
    y, c, _ = labels.encode(np.array([0, 4, 2, 4], dtype), 5)
    assert y.tolist() == [0, 4, 2, 4]
    assert y.dtype == np.int32
    assert c == 5  # absent classes count
    y, c, _ = labels.encode(np.array([0, 4, 2, 4], dtype))
    assert y.tolist() == [0, 2, 1, 2]
    assert y.dtype == np.int32
    assert c == 3


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
        [2.0, -1.0, 2.0, 7.0],
        [-1, 5, -1, 3],
        [0, 2**32, 0, 2**31],  # identifiers, not positions: int32 must not wrap them together
        ["b", "none", "b", "c"],
        [1, "a", 1, "b"],
        ["001", "1", "001", "01"],
        [2**70, -(2**70), 2**70, 1],
        np.array(["2026-01-01", "2026-01-02", "2026-01-01", "2027-01-01"], "datetime64[ns]"),
        pandas.Series(["b", "a", "b", "c"], index=[7, 7, 9, 9]),
        pandas.Categorical(["b", "a", "b", "c"]),
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
        ([0.0, np.inf, 1.0], None, r"not integers \(image 1: inf\)"),
        (
            [2.5, 1.0],
            None,
            r"not integers \(image 0: 2.5\); expected classes .*label_kind='values'",
        ),
        (np.float32([0, 1, 0.5]), None, r"not integers \(image 2: 0.5\)"),
        ([[0], [1], [0]], None, r"shape \(3, 1\); expected \(n,\) classes: pass numpy.ravel"),
        (np.array([["cat"], ["dog"]]), None, r"shape \(2, 1\)"),
        ([[0, 1, 0]], None, r"shape \(1, 3\); expected \(n,\) classes: pass numpy.ravel"),
        ([["cat", "dog"], ["cat"]], None, r"image 0 are \['cat', 'dog'\]; .* or \(n, c\) zeros"),
        ([{"cat"}, {"dog"}], None, "label of image 0 is a set; expected a number or a name"),
        ({"cat": 0, "dog": 1}, None, "labels are a dict; expected one label per image"),
        ("labels.npy", None, "labels are a str; expected one label per image"),
        (None, None, r"labels have shape \(\)"),
        ([0, 1, 5], 5, "class 5; num_classes=5 allows 0 to 4"),
        (["a", "b", "c"], 2, "class 2; num_classes=2"),
        ([[0, 1], [1, 0]], 3, "2 columns; expected num_classes=3"),
        ([[np.inf, 1], [1, 0]], None, "not finite"),
        ([[0, 0, 0]] * 4, None, "labels of all 4 images are equal; expected different ones"),
        ([[0.2, 0.8]] * 3, None, "labels of all 3 images are equal"),
    ],
)
def test_what_is_no_annotation_is_refused(given, num_classes, message):
    with pytest.raises(ValueError, match=message):
        labels.encode(given, num_classes)


def test_one_column_is_a_kind_of_rows_on_request():
    y, c, kind = labels.encode([[0], [1], [0]], kind="multi_label")
    assert (y.tolist(), c, kind) == ([[0], [1], [0]], 1, "multi_label")
    assert labels.encode([[0.5], [0], [1]], kind="vectors").kind == "vectors"
    with pytest.raises(ValueError, match=r"shape \(3, 1\); expected .*label_kind='values'"):
        labels.encode([[0.5], [0], [1]])


# --------------------------------------------------------------------------------------- values

AGES = np.random.default_rng(3).integers(1, 90, 60)


def test_values_are_standardised_per_column():
    rows = np.stack([AGES, AGES**2], 1)
    y, k, kind = labels.encode(rows, kind="values")
    assert (y.shape, y.dtype, k, kind) == ((60, 2), np.float64, 2, "values")
    expected = (rows - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(y, expected, atol=1e-14)
    np.testing.assert_array_equal(labels.encode(AGES, kind="values").values, y[:, :1])


@pytest.mark.parametrize("scale", [1e-6, 1, -7, 1e300, 5e-320])
@pytest.mark.parametrize("offset", [0, 1e6])
def test_values_keep_their_digits_whatever_their_units(scale, offset):
    moved = AGES * scale + (offset if 1e-9 < abs(scale) < 100 else 0)
    exact = np.array([Fraction(x) for x in moved])
    exact = exact - sum(exact) / 60
    spread = np.sqrt(float(sum(exact**2) / 60 / max(abs(exact)) ** 2))
    expected = (exact / max(abs(exact))).astype(float) / spread
    np.testing.assert_allclose(labels.encode(moved, kind="values").values[:, 0], expected, 1e-13)


def test_values_of_the_largest_range():
    y = labels.encode([1.7e308, -1.7e308, 0.0], kind="values").values
    np.testing.assert_allclose(y[:, 0], np.sqrt([1.5, 1.5, 0]) * [1, -1, 1])


@pytest.mark.parametrize(
    "form",
    [
        list,
        np.float16,
        np.int8,
        np.array,
        jnp.float32,
        pandas.Series,
        lambda ages: pandas.Series(ages, dtype="Int64"),
        lambda ages: pandas.DataFrame({"age": ages}),
        lambda ages: [Decimal(int(age)) for age in ages],
        lambda ages: [[age] for age in ages.tolist()],
        lambda ages: ages[:, None],
        lambda ages: np.array(ages, object),
    ],
)
def test_values_of_any_library(form):
    expected = labels.encode(AGES, kind="values").values
    found = labels.encode(form(AGES), kind="values").values
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "b"], "label of image 0 is 'a'; expected a number, as label_kind is 'values'"),
        ([1, "2"], "label of image 1 is '2'; expected a number"),
        ([[1, 2], [3, "x"]], "label of image 1 is 'x'"),
        ([1, 2j], "label of image 1 is 2j"),
        (np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"), "image 0 is datetime.date"),
        ([1, None], r"labels of 1 of 2 images are missing \(image 1: None\)"),
        (np.float32([1, np.nan]), r"labels of 1 of 2 images are missing \(image 1: nan\)"),
        ([1.0, -np.inf], "label of image 1 is -inf; expected a finite number"),
        ([1, 10**400], "an integer that is too large"),
        ([2.5, 2.5, 2.5], "^labels: all 3 values are 2.5; expected at least two different ones"),
        ([[1, 7], [2, 7]], "^column 1 of the labels: all 2 values are 7"),
        ([[1, 2], [3]], "rows of several lengths"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\); expected \(n,\) or \(n, k\) values"),
        (np.zeros((2, 0)), r"shape \(2, 0\)"),
        ([], r"shape \(0,\)"),
        (3, r"shape \(\)"),
        ({"a": 1}, "labels are a dict"),
    ],
)
def test_what_is_no_value_is_refused(given, message):
    with pytest.raises(ValueError, match=message) as refused:
        labels.encode(given, kind="values")
    assert "\n" not in str(refused.value)


def test_values_have_no_classes():
    with pytest.raises(ValueError, match="num_classes is 3; labels that are values have no class"):
        labels.encode([1, 2, 3], 3, "values")


def test_numbers_are_never_values_unless_asked():
    assert labels.encode([1, 2, 3]).kind == "classes"
    assert labels.encode([[1, 2], [3, 5]]).kind == "vectors"


NAN = float("nan")
MISSING = {
    "list, NaN": ["cat", NAN, "dog"],
    "list, None": ["cat", None, "dog"],
    "list, NumPy's NaN": [0, np.float32("nan"), 1],
    "list, pandas.NA": [0, pandas.NA, 1],
    "list, NaT": [pandas.Timestamp(0), pandas.NaT, pandas.Timestamp(1)],
    "list, masked": [0, np.ma.masked, 1],
    "list, Decimal": [Decimal(0), Decimal("sNaN"), Decimal(1)],
    "list, complex": [1j, complex(0, NAN), 0j],
    "list, blank": ["cat", " ", "dog"],
    "list, tuple": [("cat", 1.0), ("dog", NAN), ("dog", 1.0)],
    "list, tensors": [jnp.float32(0), jnp.float32(NAN), jnp.float32(1)],
    "objects": np.array(["cat", NAN, "dog"], object),
    "text of NumPy": np.array(["cat", NAN, "dog"]),
    "text of pandas": np.array(["cat", "<NA>", "dog"]),
    "text of R": ["cat", "NA", "dog"],
    "bytes": np.array([b"cat", b"nan", b"dog"]),
    "strings with NaN": np.array(["cat", NAN, "dog"], np.dtypes.StringDType(na_object=NAN)),
    "floats": np.array([0, NAN, 1]),
    "bfloat16": jnp.array([0, NAN, 1], jnp.bfloat16),
    "dates": np.array(["2026-01-01", "NaT", "2026-01-02"], "datetime64[ns]"),
    "durations": np.array([0, "NaT", 1], "timedelta64[s]"),
    "masked": np.ma.array([0, 1, 2], mask=[0, 1, 0]),
    "masked text": np.ma.array(["cat", "emu", "dog"], mask=[0, 1, 0]),
    "masked rows": np.ma.array([[0, 1], [0, 1], [1, 0]], mask=[[0, 0], [0, 1], [0, 0]]),
    "series": pandas.Series(["cat", NAN, "dog"]),
    "series, Int64": pandas.Series([0, None, 1], dtype="Int64"),
    "series, boolean": pandas.Series([True, None, False], dtype="boolean"),
    "series, string": pandas.Series(["cat", None, "dog"], dtype="string"),
    "series, category": pandas.Series(["cat", None, "dog"], dtype="category"),
    "series, datetime": pandas.Series(pandas.to_datetime(["2026-01-01", None, "2026-01-02"])),
    "categorical": pandas.Categorical.from_codes([0, -1, 1], ["cat", "dog"]),
    "index": pandas.Index(["cat", None, "dog"]),
    "frame": pandas.DataFrame({"cat": [0, NAN, 1], "dog": [1, 1, 0]}),
    "frame, Int64": pandas.DataFrame({"cat": [0, None, 1], "dog": [1, 1, 0]}, dtype="Int64"),
    "rows, None": [[0, 1], [None, 1], [1, 0]],
    "rows, NaN": [[0, 1], [NAN, 1], [1, 0]],
    "rows, text": [[0, 1], ["", 1], [1, 0]],
    "rows, arrays": [np.array([0, 1.0]), np.array([NAN, 1.0]), np.array([1.0, 0])],
}


@pytest.mark.parametrize("given", MISSING.values(), ids=MISSING)
def test_missing_labels_are_refused_with_how_many_and_where(given):
    with pytest.raises(ValueError, match=r"^labels of 1 of 3 images are missing \(image 1: ") as e:
        labels.encode(given)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("library", ["pyarrow", "torch"])
def test_missing_labels_of_libraries_that_may_be_there(library):
    module = pytest.importorskip(library)
    if library == "torch":
        forms = [module.tensor([0, NAN, 1], requires_grad=True)]
        assert labels.encode(module.tensor([0, 2, 1]))[0].tolist() == [0, 2, 1]
    else:
        forms = [module.array(["cat", None, "dog"]), module.array([0, None, 1])]
        forms += [forms[0].dictionary_encode(), list(forms[0]), module.chunked_array([forms[1]])]
        assert labels.encode(module.array(["cat", "dog", "cat"]))[0].tolist() == [0, 1, 0]
    for given in forms:
        with pytest.raises(ValueError, match="labels of 1 of 3 images are missing"):
            labels.encode(given)


def test_the_first_of_many_missing_labels_are_shown():
    with pytest.raises(ValueError, match=r"4 of 6 images .* 1: None, image 2: None, image 3: '', "):
        labels.encode(["a", None, None, "", NAN, "b"])
    with pytest.raises(ValueError, match="or rename a class of that name"):
        labels.encode(["a", "null", "b"])


@pytest.mark.parametrize(
    "given",
    [
        [1, "1", 2],
        [True, 1, 0],
        [1.0, 1, 2],
        ["True", True, "x"],
        [Decimal(1), 1.0, 2],
        ["a", "a\0", "b"],
        np.array(["a", "a\0", "b"], object),
        [b"a", "a", "b"],
        ["1.0", 1.0, 2.0],
        [(1, "a"), (True, "a"), (2, "a")],
        ["\u00e9", "e\u0301", "b"],
        [" a", "a", "b"],
    ],
    ids=repr,
)
def test_labels_that_read_alike_are_not_one_class_nor_two(given):
    with pytest.raises(ValueError, match=r"\(image 0\) and .* \(image 1\), which read alike"):
        labels.encode(given)


@pytest.mark.parametrize(
    "given",
    [[0.0, 4.0, 2, 4.0], np.float32([0, 4, 2, 4]), jnp.array([0, 4, 2, 4], jnp.bfloat16)],
    ids=["list", "float32", "bfloat16"],
)
def test_whole_floats_are_integers(given):
    y, c, _ = labels.encode(given, 5)
    assert (y.tolist(), c) == ([0, 4, 2, 4], 5)


def test_masks_and_boxes_have_whole_classes():
    masked = np.ma.array([[0, 1]], mask=[[False, True]])
    assert labels.from_masks([masked, np.float32([[1, 255]])], 2).tolist() == [[1, 0], [0, 1]]
    for of in ([0.5], [NAN], [None], ["a"]):
        with pytest.raises(ValueError, match="image 0: classes are .* expected integers"):
            labels.from_masks([np.array([of])], 2)
        with pytest.raises(ValueError, match="image 0: classes are .* expected integers"):
            labels.from_boxes([[[0, 0, 1, 1]]], [of], 2)


# ------------------------------------------------------------------------------------ distances


@pytest.mark.parametrize("c", [2, 3, 10, 37, 101, 200])
def test_distances_of_classes_take_exactly_two_values(c):
    y = np.random.default_rng(0).integers(0, c, 60)
    y[:2] = 0, 1
    d = np.asarray(labels.distances(jnp.asarray(y), c, "classes"))
    np.testing.assert_array_equal(d[y[:, None] == y], 0)
    assert np.unique(d[y[:, None] != y]).tolist() == [np.float32(c / (c - 1))]
    np.testing.assert_allclose(d, 1 - np.corrcoef(np.eye(c)[y]), atol=1e-6)


@pytest.mark.parametrize("c", [2, 5, 20, 90])
def test_distances_of_multi_label_rows_are_one_minus_their_correlation(c):
    y = multi_label(50, c)
    d = labels.distances(jnp.asarray(y), c, "multi_label")
    np.testing.assert_allclose(d, 1 - np.corrcoef(y.astype(np.float64)), atol=1e-6)


def exact(a, b):
    """Sign and square of the correlation of two binary vectors, as a fraction."""
    c, sum_a, sum_b = len(a), int(a.sum()), int(b.sum())
    covariance = c * int((a * b).sum()) - sum_a * sum_b
    square = Fraction(covariance**2, sum_a * (c - sum_a) * sum_b * (c - sum_b))
    return (covariance > 0) - (covariance < 0), square


def assert_equal_values_are_equal_floats(y):
    d = np.asarray(
        jax.jit(labels.distances, static_argnums=(1, 2))(jnp.asarray(y), y.shape[1], "multi_label")
    )
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
        d = labels.distances(jnp.asarray(rows, jnp.float32), c, "multi_label")
        assert np.asarray(d).tolist() == [[0, 2], [2, 0]]
        return
    assert_equal_values_are_equal_floats(np.array(rows, np.float32))


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("offset", [0, 1e6])
def test_equal_differences_of_values_are_equal_distances(x64, offset):
    ages = np.arange(5)[np.random.default_rng(0).integers(0, 5, 60)] / 10 + offset
    with parallel.enable_x64(x64):
        y = jnp.asarray(labels.encode(ages, kind="values").values)
        d = np.asarray(labels.distances(y, 1, "values"))
    assert d.dtype == (np.float64 if x64 else np.float32)
    np.testing.assert_allclose(d, abs(ages[:, None] - ages) / ages.std(), atol=2e-4)
    assert len(np.unique(d)) == 5


def test_distances_of_several_values_are_euclidean():
    rows = np.random.default_rng(0).normal(size=(40, 3)) * [1, 100, 1e-3]
    y = labels.encode(rows, kind="values").values
    d = labels.distances(jnp.asarray(y), 3, "values")
    expected = np.linalg.norm(y[:, None] - y[None], axis=2)
    np.testing.assert_allclose(d, expected, atol=2e-4)
    # also of values that are not standardised
    np.testing.assert_allclose(labels.distances(jnp.asarray(rows), 3, "values"), d, atol=3e-4)


@pytest.mark.parametrize("c", [20, 81, 90])
def test_equal_annotation_distances_are_bitwise_equal(c):
    assert_equal_values_are_equal_floats(multi_label(60, c))
