"""Encode the labels of a probe set: classes, several per image, annotation vectors or values."""

import math
import numbers
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from jaxparc import files
from jaxparc.annotations import distances as distances
from jaxparc.annotations import from_boxes as from_boxes
from jaxparc.annotations import from_masks as from_masks
from jaxparc.errors import InputError

KINDS = ("classes", "multi_label", "vectors", "values")
"""The kinds of labels: (n,) one class per image; (n, c) zeros and ones; (n, c) numbers such as
shares of area; (n, k) real numbers to predict, such as ages."""

# Integers from here on are treated as names of classes, like strings, not as class indices.
NAMES_FROM = 1_000_000


class Labels(NamedTuple):
    """Encoded labels, in the form that `Probe` holds them.

    Attributes:
        values: (n,) int32 classes, (n, c) float32, or, of kind "values", (n, k) float64 of mean 0
            and population standard deviation 1 per column. `Probe` holds these in float32; what is
            computed once per bank is computed in float64.
        num_classes: c, or k.
        kind: one of `KINDS`.
    """

    values: np.ndarray
    num_classes: int
    kind: str


def is_missing(value: Any) -> bool:
    """Return whether a label is a missing value of any library.

    Missing values are None, NaN of any type, NaT, pandas.NA, masked NumPy values, blank text, the
    words that pandas reads as missing ("NA", "null", "#N/A", ...), and collections that contain a
    missing value.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.replace("\0", "").strip() in {"", *files.MISSING}
    if isinstance(value, (tuple, list, frozenset)):
        return any(map(is_missing, value))
    try:
        return value is None or value is np.ma.masked or bool(value != value)
    except (TypeError, ArithmeticError):  # pandas.NA is neither true nor false
        return True


def encode(
    labels: Sequence[Any] | np.ndarray | Array,
    num_classes: int | None = None,
    kind: str | None = None,
) -> Labels:
    """Convert labels in any of the accepted forms to those that `Probe` holds.

    Args:
        labels: (n,) classes, non-negative integers (2.0 counts as one) or other hashable values, or
            (n, c) numbers; a list, or an array, column or categorical of any library.
        num_classes: c, if the target has classes without images here; integers under a million are
            then positions in [0, c). By default the number of distinct values, or of columns.
        kind: one of `KINDS`; by default (n,) are classes, (n, c) with only zeros and ones are
            multi-label, and any other (n, c) are annotation vectors. "values", (n,) or (n, k) real
            numbers to predict, are never inferred. They are standardised per column, in float64,
            so that nothing depends on their units and offsets.

    Raises:
        InputError: the labels have another form, a label is missing, two distinct labels read
            alike, a class is fractional or outside [0, c), fewer than two classes are present, all
            rows are equal, a value is not a finite number, or a column of values is constant.

    Examples:
        >>> encode(["cat", "dog", "cat"])
        Labels(values=array([0, 1, 0], dtype=int32), num_classes=2, kind='classes')
        >>> encode([[1, 0, 1], [0, 1, 1]]).kind
        'multi_label'
        >>> encode([[0.2, 0.8], [1.0, 0.0]]).kind
        'vectors'
        >>> encode([10, 20, 30], kind="values").values.ravel().round(2).tolist()
        [-1.22, 0.0, 1.22]
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"unknown label kind {kind!r}; known: {', '.join(KINDS)}")
    values = _read(labels)
    _refuse_missing(values)
    if kind == "values":
        return _encode_values(values, num_classes)
    y = values if isinstance(values, np.ndarray) else _array(values)
    if y.ndim == 2 and 1 in y.shape and kind in (None, "classes"):
        raise InputError(
            f"labels have shape {y.shape}; expected (n,) classes: pass numpy.ravel(labels), or "
            "label_kind='values' for numbers to predict"
        )
    if y.ndim not in (1, 2) or (kind is not None and y.ndim != (1 if kind == "classes" else 2)):
        expected = {None: "(n,) classes or (n, c)", "classes": "(n,) classes"}.get(kind, "(n, c)")
        raise InputError(f"labels have shape {y.shape}; expected {expected}")
    return _encode_classes(y, num_classes) if y.ndim == 1 else _encode_rows(y, num_classes, kind)


def present(labels: Labels) -> tuple[np.ndarray, int, int]:
    """Limit the number of classes to the number of images.

    If c > n, classes without images are dropped and the others renumbered, so that arrays of size
    n x c do not grow with the largest label.

    Returns:
        The values, the new c, and the number of classes dropped.
    """
    n = len(labels.values)
    if labels.kind != "classes" or labels.num_classes <= n:
        return labels.values, labels.num_classes, 0
    values = np.unique(labels.values, return_inverse=True)[1].astype(np.int32)
    return values, n, labels.num_classes - n


def two_of_each_class(labels: Labels) -> str | None:
    """Return why a method that splits the images of each class refuses these labels, or None."""
    if labels.kind != "classes":
        return None
    _, first, images = np.unique(labels.values, return_index=True, return_counts=True)
    if not (images == 1).any():
        return None
    return f"needs two images of every class; image {first[images == 1][0]} is alone in its class"


def no_two_of_a_class(labels: Labels) -> str | None:
    """Return that every image is alone in its class, as a clause, or None if that is not so."""
    n = len(labels.values)
    if labels.kind != "classes" or len(np.unique(labels.values)) < n:
        return None
    return f"no class has two of these {n} images"


def caveat(labels: Any, kind: str) -> str | None:
    """Return a warning if a single negative class may mean "no class", as -1 often does."""
    if kind != "classes":
        return None
    y = np.array(_read(labels))
    if y.dtype.kind != "i" or y.ndim != 1:
        return None
    found, images = np.unique(y, return_counts=True)
    if len(found) < 4 or not found[0] < 0 <= found[1]:
        return None
    return (
        f"labels: {found[0]}, the label of {images[0]} images, is treated as a class; leave these "
        "images out if it means that they have none"
    )


def _read(labels: Any) -> np.ndarray | list[Any]:
    """Return numbers of one dtype as an array, all else as Python objects, which stay distinct."""
    if isinstance(labels, (str, bytes, Mapping, Set)):
        raise InputError(f"labels are a {type(labels).__name__}; expected one label per image")
    dtype = getattr(labels, "dtype", None)
    if isinstance(dtype, np.dtype) and not isinstance(labels, np.ma.MaskedArray):
        if dtype.kind in "biuf":
            return np.asarray(labels)
        if dtype.kind == "V" and dtype.names is None:  # bfloat16
            return np.asarray(labels).astype(np.float32)
        if dtype.kind in "mM":  # Python's dates have no unit, and some no NaT
            return list(np.asarray(labels))
    for name in ("to_pylist", "to_list", "tolist"):  # Arrow; Polars; NumPy, pandas, torch
        if hasattr(labels, name):
            labels = getattr(labels, name)()
            break
    else:
        if hasattr(labels, "__array__"):  # data frames, TensorFlow tensors
            return _read(np.asarray(labels))
    if not isinstance(labels, Iterable):
        return np.asarray(labels)  # refused later for its shape
    return [_plain(value) for value in labels]


def _plain(value: Any) -> Any:
    """Convert a library's scalar to Python's, and an array to a list."""
    if value is np.ma.masked or isinstance(value, (type, np.datetime64, np.timedelta64)):
        return value
    for name in ("as_py", "tolist"):  # Arrow; NumPy, JAX, torch, pandas
        if hasattr(value, name):
            return _plain(getattr(value, name)())
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _refuse_missing(values: np.ndarray | list[Any]) -> None:
    if isinstance(values, np.ndarray):
        if values.dtype.kind != "f" or values.ndim == 0:
            return
        absent = np.isnan(values).reshape(len(values), -1).any(axis=1)
    else:
        absent = np.array([is_missing(value) for value in values], bool)
    if absent.any():
        where = np.flatnonzero(absent)
        shown = ", ".join(f"image {i}: {_shown(values[i])}" for i in where[:3])
        named = any(isinstance(values[i], str) and values[i].strip() for i in where)
        raise InputError(
            f"labels of {where.size} of {len(values)} images are missing ({shown}"
            f"{', ...' if where.size > 3 else ''}); expected one for each: leave these images out"
            f"{', or rename a class of that name' if named else ''}"
        )


def _shown(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _array(values: list[Any]) -> np.ndarray:
    """Return numbers as (n,) or (n, c), and any other labels as class codes, (n,)."""
    several = [i for i, value in enumerate(values) if isinstance(value, (list, tuple))]
    if several:
        try:
            rows = np.asarray(values)
        except ValueError:  # not of one length
            rows = np.empty(0, object)
        if rows.dtype.kind in "biuf" or (rows.ndim == 2 and 1 in rows.shape):
            return rows
        i = several[0]
        if not len(rows) or isinstance(values[i], list):
            raise InputError(
                f"labels of image {i} are {_shown(values[i])}; expected one number or name per "
                "image, or (n, c) zeros and ones for several labels per image"
            )
    codes = _codes(values)
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        array = np.array(values)
        # Integers among floats that a float cannot represent.
        lost = (value for value in values if isinstance(value, int) and abs(value) >= 2**53)
        if array.dtype.kind in "iu" or (array.dtype.kind == "f" and not any(lost)):
            return array
    return codes


def _codes(values: list[Any]) -> np.ndarray:
    """Return a code per value, numbered in order of first appearance, (n,) int64."""
    codes: dict[Any, int] = {}
    first: dict[str, int] = {}  # textual form of a value -> the first image that has it
    for i, value in enumerate(values):
        try:
            new = _typed(value) not in codes
        except TypeError:
            raise InputError(
                f"label of image {i} is a {type(value).__name__}; expected a number or a name"
            ) from None
        if new:
            codes[_typed(value)] = len(codes)
            for text in _readings(value):
                if (other := first.setdefault(text, i)) != i:
                    raise InputError(
                        f"labels hold {_shown(values[other])} (image {other}) and {_shown(value)} "
                        f"(image {i}), which read alike; expected one form of each class"
                    )
    return np.array([codes[_typed(value)] for value in values], np.int64)


def _typed(value: Any) -> Any:
    """Return a value with its type: as dictionary keys, 1, 1.0 and True would be the same."""
    if isinstance(value, (tuple, frozenset)):
        return type(value), type(value)(map(_typed, value))
    return type(value), value


def _readings(value: Any) -> set[str]:
    """Return the textual forms of a label, by which labels of different types read alike."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return {unicodedata.normalize("NFC", value.replace("\0", "").strip())}
    if isinstance(value, (tuple, frozenset)):
        return {repr([sorted(_readings(v) or {repr(v)})[0] for v in value])}
    if isinstance(value, numbers.Number):
        if isinstance(value, numbers.Real) and math.isfinite(value) and value % 1 == 0:
            return {str(value), str(math.floor(value))}
        return {str(value)}
    return set()


def _encode_classes(y: np.ndarray, num_classes: int | None) -> Labels:
    if y.dtype.kind == "f":
        broken = np.flatnonzero(~np.isfinite(y) | (y != np.floor(y)))
        if broken.size:
            raise InputError(
                f"labels are not integers (image {broken[0]}: {y[broken[0]]:g}); expected classes "
                "as integers or names: round them, convert them to text, or pass "
                "label_kind='values' for numbers to predict"
            )
        if (abs(y) < 2**53).all():
            y = y.astype(np.int64)
    present, codes = np.unique(y, return_inverse=True)
    if present.size < 2:
        raise InputError(f"labels hold {present.size} class; expected at least 2")
    counted = np.issubdtype(y.dtype, np.integer) and present[0] >= 0 and present[-1] < NAMES_FROM
    if num_classes is None or not counted:
        y = codes
    c = present.size if num_classes is None else num_classes
    if (largest := int(y.max())) >= c:
        raise InputError(f"labels hold class {largest}; num_classes={c} allows 0 to {c - 1}")
    return Labels(y.astype(np.int32), c, "classes")


def _encode_rows(y: np.ndarray, num_classes: int | None, kind: str | None) -> Labels:
    c = y.shape[1]
    if num_classes not in (None, c):
        raise InputError(f"labels have {c} columns; expected num_classes={num_classes}")
    if not np.isfinite(y).all():
        raise InputError("labels hold values that are not finite")
    binary = bool(np.isin(y, (0, 1)).all())
    if kind is None:
        kind = "multi_label" if binary else "vectors"
    if kind == "multi_label" and not binary:
        raise InputError("labels hold other values than 0 and 1; expected multi-label rows")
    if (y == y[:1]).all():
        raise InputError(f"labels of all {len(y)} images are equal; expected different ones")
    return Labels(y.astype(np.float32), c, kind)


def _encode_values(values: np.ndarray | list[Any], num_classes: int | None) -> Labels:
    if num_classes is not None:
        raise InputError(f"num_classes is {num_classes}; labels that are values have no classes")
    y = values if isinstance(values, np.ndarray) else _numbers(values)
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or 0 in y.shape:
        raise InputError(f"labels have shape {np.shape(values)}; expected (n,) or (n, k) values")
    y = y.astype(np.float64)
    if not np.isfinite(y).all():
        i, j = np.argwhere(~np.isfinite(y))[0]
        raise InputError(f"label of image {i} is {y[i, j]:g}; expected a finite number")
    constant = np.flatnonzero((y == y[0]).all(axis=0))
    if constant.size:
        column = f"column {constant[0]} of the labels" if y.shape[1] > 1 else "labels"
        raise InputError(
            f"{column}: all {len(y)} values are {y[0, constant[0]]:g}; expected at least two "
            "different ones"
        )
    # By a power of two, which is exact: sums and squares of numbers near the largest overflow.
    y = np.ldexp(y, -np.frexp(np.abs(y).max(axis=0))[1])
    y = y - np.median(y, axis=0)  # of an offset, which then costs the mean no digits
    y = np.ldexp(y, -np.frexp(np.abs(y).max(axis=0))[1])
    y = y - y.mean(axis=0)
    return Labels(y / y.std(axis=0), y.shape[1], "values")


def _numbers(values: list[Any]) -> np.ndarray:
    """Return a list of numbers, or of rows of them, as an array of float64."""
    for i, value in enumerate(values):
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(one, (numbers.Real, Decimal)):
                raise InputError(
                    f"label of image {i} is {_shown(one)}; expected a number, as label_kind is "
                    "'values'"
                )
    try:
        return np.array(values, np.float64)
    except ValueError:
        raise InputError("labels are rows of several lengths; expected (n, k) values") from None
    except OverflowError:
        raise InputError("labels hold an integer that is too large; expected float64") from None
