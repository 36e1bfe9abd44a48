"""Annotations g(y) and the distances between them (the paper, sections 4.1 and 6.2).

Equal annotations must give equal distances bit for bit: Spearman ranks whatever differs, so
distances of one-hot vectors from a floating-point correlation, which take up to seven values where
there are two, rank rounding noise.
"""

import math
import numbers
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import files, stats
from jaxparc.errors import InputError

# (n,) one class per image; (n, c) zeros and ones; (n, c) numbers such as shares of area.
KINDS = ("classes", "multi_label", "vectors")


# Integers from here on are names of classes, as strings are, not their positions.
NAMES_FROM = 1_000_000

# Correlations of annotation vectors are told apart to the inverse of this.
VECTOR_GRID = np.float32(1 << 14)


class Labels(NamedTuple):
    """Labels as `Probe` holds them.

    Attributes:
        values: (n,) int32, or (n, c) float32.
        num_classes: c.
        kind: one of `KINDS`.
    """

    values: np.ndarray
    num_classes: int
    kind: str


def is_missing(value: Any) -> bool:
    """Whether a label is any library's way to say that there is none.

    None, NaN of any type, NaT, pandas.NA, what NumPy masks, blank text, `files.MISSING`, and
    several of which one is.
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
    """Labels as users have them to labels as `Probe` holds them.

    Args:
        labels: (n,) classes, non-negative integers (2.0 is one) or other hashable values, or (n, c)
            numbers; a list, or an array, column or categories of any library.
        num_classes: c; by default max(labels) + 1 for non-negative integers under a million, the
            number of distinct values otherwise, and the number of columns for (n, c).
        kind: one of `KINDS`; by default (n,) are classes, (n, c) of zeros and ones alone
            multi-label, and other (n, c) annotation vectors.

    Raises:
        InputError: none of the forms, a label is missing, two are alike and not equal, classes have
            fractions, fewer than two are present, one is outside [0, c), or an image's annotation
            is constant (it correlates with nothing).
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"unknown label kind {kind!r}; known: {', '.join(KINDS)}")
    values = _read(labels)
    _refuse_missing(values)
    y = values if isinstance(values, np.ndarray) else _array(values)
    if y.ndim == 2 and 1 in y.shape:
        raise InputError(
            f"labels have shape {y.shape}; expected (n,) classes: pass numpy.ravel(labels)"
        )
    if y.ndim not in (1, 2) or (kind is not None and y.ndim != (1 if kind == "classes" else 2)):
        expected = {None: "(n,) classes or (n, c)", "classes": "(n,) classes"}.get(kind, "(n, c)")
        raise InputError(f"labels have shape {y.shape}; expected {expected}")
    return _encode_classes(y, num_classes) if y.ndim == 1 else _encode_rows(y, num_classes, kind)


def present(labels: Labels) -> tuple[np.ndarray, int, int]:
    """Labels with no more classes than images: values, c, and how many classes were left out.

    Beyond n, classes that no image has are left out and the others renumbered, so that what is
    n x c in size does not depend on how large a label is.
    """
    n = len(labels.values)
    if labels.kind != "classes" or labels.num_classes <= n:
        return labels.values, labels.num_classes, 0
    values = np.unique(labels.values, return_inverse=True)[1].astype(np.int32)
    return values, n, labels.num_classes - n


def two_of_each_class(labels: Labels) -> str | None:
    """Why a method that splits the images of a class cannot take these labels, None if it can."""
    if labels.kind != "classes":
        return None
    classes, images = np.unique(labels.values, return_counts=True)
    if not (images == 1).any():
        return None
    return f"needs two images of every class; class {classes[images == 1][0]} has one"


def caveat(labels: Any) -> str | None:
    """What is doubtful about labels that can be encoded: a lone negative, as -1 for "none"."""
    y = np.array(_read(labels))
    if y.dtype.kind != "i" or y.ndim != 1:
        return None
    found, images = np.unique(y, return_counts=True)
    if len(found) < 4 or not found[0] < 0 <= found[1]:
        return None
    return (
        f"labels: {found[0]}, of {images[0]} images, is taken for a class; leave these images out "
        "if it means that they have none"
    )


def _read(labels: Any) -> np.ndarray | list[Any]:
    """Numbers of one type as an array, all else as Python's objects: NumPy would merge some."""
    if isinstance(labels, (str, bytes, Mapping, Set)):
        raise InputError(f"labels are a {type(labels).__name__}; expected one label per image")
    dtype = getattr(labels, "dtype", None)
    if isinstance(dtype, np.dtype) and not isinstance(labels, np.ma.MaskedArray):
        if dtype.kind in "biuf":
            return np.asarray(labels)
        if dtype.kind == "V" and dtype.names is None:  # bfloat16
            return np.asarray(labels).astype(np.float32)
        if dtype.kind in "mM":  # Python's have no unit, and for some no NaT
            return list(np.asarray(labels))
    for name in ("to_pylist", "to_list", "tolist"):  # arrow; polars; NumPy, pandas, torch
        if hasattr(labels, name):
            labels = getattr(labels, name)()
            break
    else:
        if hasattr(labels, "__array__"):  # frames, tensors of TensorFlow
            return _read(np.asarray(labels))
    if not isinstance(labels, Iterable):
        return np.asarray(labels)  # its shape is refused
    return [_plain(value) for value in labels]


def _plain(value: Any) -> Any:
    """A scalar of a library as Python's, an array as a list."""
    if value is np.ma.masked or isinstance(value, (type, np.datetime64, np.timedelta64)):
        return value
    for name in ("as_py", "tolist"):  # arrow; NumPy, JAX, torch, pandas
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
            f"{', or give a class of that name another' if named else ''}"
        )


def _shown(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _array(values: list[Any]) -> np.ndarray:
    """Numbers, (n,) or (n, c), else codes of classes, (n,)."""
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
        # of integers among floats, those that a float does not hold
        lost = (value for value in values if isinstance(value, int) and abs(value) >= 2**53)
        if array.dtype.kind in "iu" or (array.dtype.kind == "f" and not any(lost)):
            return array
    return codes


def _codes(values: list[Any]) -> np.ndarray:
    """Positions of values among the distinct ones, (n,) int64."""
    codes: dict[Any, int] = {}
    seen: dict[str, int] = {}  # how a value reads -> the image that has it first
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
                if (other := seen.setdefault(text, i)) != i:
                    raise InputError(
                        f"labels hold {_shown(values[other])} (image {other}) and {_shown(value)} "
                        f"(image {i}), which read alike; expected one form of each class"
                    )
    return np.array([codes[_typed(value)] for value in values], np.int64)


def _typed(value: Any) -> Any:
    """The value with its type: to a dict, 1, 1.0 and True are one key."""
    if isinstance(value, (tuple, frozenset)):
        return type(value), type(value)(map(_typed, value))
    return type(value), value


def _readings(value: Any) -> set[str]:
    """What a label would read as in another type."""
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
                f"labels are numbers that are no integers (image {broken[0]}: {y[broken[0]]:g}); "
                "expected classes as integers or names: round them, or turn them into text"
            )
        if (abs(y) < 2**53).all():
            y = y.astype(np.int64)
    counted = np.issubdtype(y.dtype, np.integer) and y.size and y.min() >= 0
    if not (counted and y.max() < NAMES_FROM):
        y = _codes(y.tolist())
    present = np.unique(y)
    if present.size < 2:
        raise InputError(f"labels hold {present.size} class; expected at least 2")
    c = int(present[-1]) + 1 if num_classes is None else num_classes
    if present[-1] >= c:
        raise InputError(f"labels hold class {present[-1]}; num_classes={c} allows 0 to {c - 1}")
    return Labels(y.astype(np.int32), c, "classes")


def _encode_rows(y: np.ndarray, num_classes: int | None, kind: str | None) -> Labels:
    c = y.shape[1]
    if num_classes not in (None, c):
        raise InputError(f"labels have {c} columns; num_classes={num_classes}")
    if not np.isfinite(y).all():
        raise InputError("labels hold values that are not finite")
    binary = bool(np.isin(y, (0, 1)).all())
    if kind is None:
        kind = "multi_label" if binary else "vectors"
    if kind == "multi_label" and not binary:
        raise InputError("multi-label rows must be zeros and ones")
    y = y.astype(np.float32)
    constant = np.flatnonzero((y == y[:, :1]).all(axis=1))
    if constant.size:
        i = int(constant[0])
        what = f"has {int(y[i].sum())} of {c} labels" if kind == "multi_label" else "has one value"
        raise InputError(
            f"image {i} {what}: its annotation is constant and has no correlation with others"
        )
    return Labels(y, c, kind)


def from_boxes(boxes: Sequence[Any], classes: Sequence[Any], num_classes: int) -> np.ndarray:
    """Annotation vectors of detection: the area of each class's boxes over that of all boxes.

    Args:
        boxes: of each of n images, (k, 4) as (x0, y0, x1, y1), in pixels or any other unit of the
            image's own; also (y0, x0, y1, x1), as TFDS has them.
        classes: of each image, (k,) integers in [0, c).
        num_classes: c.

    Returns:
        (n, c) float32, rows summing to 1, or 0 for an image without a box (which `encode` then
        refuses by its index). Pixels under two boxes count twice.

    Raises:
        InputError: an image's boxes or classes are none; the message has its index.
    """
    if len(boxes) != len(classes):
        raise InputError(f"boxes of {len(boxes)} images, classes of {len(classes)}")
    vectors = np.zeros((len(boxes), num_classes))
    for i, (given, of) in enumerate(zip(boxes, classes, strict=True)):
        corners = np.asarray(given, np.float64).reshape(-1, 4) if len(given) else np.zeros((0, 4))
        kinds = _classes_of(of, i)
        if len(corners) != len(kinds):
            raise InputError(f"image {i}: {len(corners)} boxes and {len(kinds)} classes")
        if not ((kinds >= 0) & (kinds < num_classes)).all():
            raise InputError(
                f"image {i}: classes {kinds.tolist()}; expected 0 to {num_classes - 1}"
            )
        sides = corners[:, 2:] - corners[:, :2]
        if not (sides >= 0).all():  # NaN is not either
            raise InputError(f"image {i}: a box ends before it starts, or is not finite")
        np.add.at(vectors[i], kinds, sides.prod(axis=1))
    return _shares(vectors)


def from_masks(
    masks: Sequence[Any] | np.ndarray, num_classes: int, *, ignore: int | None = 255
) -> np.ndarray:
    """Annotation vectors of segmentation: the share of an image's pixels that each class has.

    Args:
        masks: of each of n images, (h, w) integers in [0, c), or `ignore`; sizes may differ.
        num_classes: c.
        ignore: the value of pixels that do not count; None if there is none.

    Returns:
        (n, c) float32, rows summing to 1, or 0 for an image without a pixel that counts.

    Raises:
        InputError: a pixel's class is outside [0, c); the message has the image's index.
    """
    vectors = np.zeros((len(masks), num_classes))
    for i, mask in enumerate(masks):
        pixels = _classes_of(mask, i)
        if ignore is not None:
            pixels = pixels[pixels != ignore]
        if pixels.size and not (pixels.min() >= 0 and pixels.max() < num_classes):
            worst = pixels.min() if pixels.min() < 0 else pixels.max()
            raise InputError(
                f"image {i}: a pixel has class {worst}; expected 0 to {num_classes - 1}"
            )
        vectors[i] = np.bincount(pixels, minlength=num_classes)
    return _shares(vectors)


def _classes_of(image: Any, i: int) -> np.ndarray:
    """Classes of boxes or pixels, (k,) int64; what NumPy masks is left out."""
    if isinstance(image, np.ma.MaskedArray):
        image = image.compressed()
    found = np.asarray(image).ravel()
    try:
        with np.errstate(invalid="ignore"):  # NaN becomes an integer, and differs from it
            whole = found.astype(np.int64)
        same = bool((whole == found).all())
    except (TypeError, ValueError):
        same = False
    if not same:
        raise InputError(f"image {i}: classes are {found.dtype}, and not all integers")
    return whole


def _shares(amounts: np.ndarray) -> np.ndarray:
    """Rows (n, c) over their sums; a row of zeros stays one."""
    totals = amounts.sum(axis=1, keepdims=True)
    return (amounts / np.where(totals > 0, totals, 1)).astype(np.float32)


def distances(labels: Array, num_classes: int, *, vectors: bool = False) -> Array:
    """D_y: one minus the correlation of the annotation vectors of two images (eq. 7).

    Args:
        labels: (n,) int32 classes, or (n, c) float32.
        num_classes: c.
        vectors: whether (n, c) are annotation vectors, not zeros and ones.

    Returns:
        (n, n) float32 in [0, 2], symmetric. Classes: 0 for the same class, else c / (c - 1), which
        is what one-hot vectors give. Multi-label: from the three integers that fix it. Annotation
        vectors: multiples of 1 / VECTOR_GRID.
    """
    if labels.ndim == 1:
        other = np.float32(num_classes / (num_classes - 1))
        return jnp.where(labels[:, None] == labels[None, :], 0.0, other)
    if vectors:
        # Correlations that are equal, as those of equal vectors and of vectors that differ in the
        # order of their classes, come out equal but for rounding; on this grid they tie.
        return 1.0 - jnp.round(stats.corrcoef(labels) * VECTOR_GRID) / VECTOR_GRID
    # With a and b ones in two vectors and k shared ones, the correlation is
    # (c k - a b) / sqrt(a (c - a) b (c - b)). Numerator and product are integers that float32
    # holds exactly up to c = 90, and division and root round correctly: equal ratios, equal floats.
    c = np.float32(num_classes)
    ones = jnp.sum(labels, axis=1)
    shared = jnp.matmul(labels, labels.T)
    covariance = c * shared - ones[:, None] * ones[None, :]
    spread = ones * (c - ones)
    ratio = jnp.square(covariance) / (spread[:, None] * spread[None, :])
    return 1.0 - jnp.sign(covariance) * jnp.sqrt(ratio)
