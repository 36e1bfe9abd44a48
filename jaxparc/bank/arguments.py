"""What `score_bank` is given, checked and brought into one form.

Every refusal is one line that names the model or argument, what was found and what is expected.
"""

import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jax import Array

Features: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]] | np.ndarray | Array
PerModel: TypeAlias = Mapping[str, float] | Sequence[float] | np.ndarray


# Features whose largest is between these powers of two are scored as they are, and others over a
# power of two, so that squares, and sums of these, stay within float32.
LARGEST = -20, 40
# What float32 does not tell: a column whose spread is this small beside the largest feature, and
# one that is rounded to it and larger than its spread by this factor.
SMALLEST = 2.0**-80
OFFSET = 1024.0


class Look(NamedTuple):
    """One model's features, ready to be scored.

    Attributes:
        features: (n, d) float32, as they were given, or over a power of two.
        given: as they were given; (n, d).
        exponent: of that power of two.
        rounded: whether `features` have fewer digits than `given`.
        coarse: whether float32 cannot tell what they show.
        flaw: what makes them useless, if anything does.
    """

    features: np.ndarray
    given: np.ndarray
    exponent: int = 0
    rounded: bool = False
    coarse: bool = False
    flaw: str | None = None

    def float64(self) -> np.ndarray:
        """Likewise, in float64."""
        return np.ldexp(self.given.astype(np.float64), -self.exponent)


def named(features: Any) -> Mapping[Any, Any] | Iterable[Any]:
    """The bank as a mapping, if it is all there, else as the iterable that it is."""
    if isinstance(features, Mapping):
        return features
    if hasattr(features, "__array__"):
        if features.ndim != 3:
            raise ValueError(
                f"features have shape {tuple(features.shape)}; one array must be (m, n, d): "
                "for one model pass {'name': features}"
            )
        return {str(i): model for i, model in enumerate(features)}
    if isinstance(features, (str, bytes)) or not isinstance(features, Iterable):
        raise ValueError(f"features are a {type(features).__name__}; expected {FORMS}")
    return features


FORMS = "a mapping {'name': (n, d) array}, (name, array) pairs, or one array (m, n, d)"


def is_pair(item: Any) -> bool:
    """Whether it is (name, features)."""
    return isinstance(item, (tuple, list)) and len(item) == 2 and is_name(item[0])


def is_name(value: Any) -> bool:
    """Whether it names a model: text or a number."""
    return isinstance(value, (str, int, np.integer))


def dimensions(array: Any) -> int | None:
    """Of an array, or of lists that hold numbers; None of anything else, such as pairs."""
    if hasattr(array, "shape"):
        return len(array.shape)
    if not isinstance(array, (list, tuple)) or not array or is_pair(array[0]):
        return None
    inner = array[0]
    if isinstance(inner, (list, tuple)) or hasattr(inner, "shape"):
        below = dimensions(inner)
        return None if below is None else 1 + below
    return 1 if isinstance(inner, numbers.Number) else None


def pairs(bank: Mapping[Any, Any] | Iterable[Any], n: int) -> Iterator[tuple[Any, Any]]:
    """(name, array) of every model; those of an iterable are checked as they come."""
    if isinstance(bank, Mapping):
        yield from bank.items()
        return
    for item in bank:
        if not is_pair(item):
            what = f"a {type(item).__name__} without a name"
            raise ValueError(f"features hold {what}; expected {FORMS}")
        check_shape(item[0], item[1], n)
        yield item[0], item[1]


def check_lengths(per_model: Mapping[str, PerModel | None], m: int) -> None:
    """Refuse a sequence that has not one entry per model."""
    for argument, value in per_model.items():
        if value is not None and not isinstance(value, Mapping) and len(value) != m:
            raise ValueError(f"{argument} has {len(value)} entries for {m} models")


def check_shape(name: Any, array: Any, n: int) -> None:
    """Refuse what is no (n, d) array of at least two columns."""
    name = str(name)
    try:
        shape = tuple(np.shape(array))
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(array, (list, tuple)) and array and np.ndim(array[0]) == 2:
            raise ValueError(
                f"model {name!r}: features are a list of {len(array)} arrays; expected one (n, d): "
                "numpy.concatenate joins those of batches"
            ) from error
        raise ValueError(f"model {name!r}: features are no array: {_line(error)}") from error
    if len(shape) == 3 and isinstance(array, (list, tuple)):
        raise ValueError(
            f"model {name!r}: features are a list of {shape[0]} arrays {shape[1:]}; expected one "
            "(n, d): numpy.concatenate joins those of batches; several probe sets are a list of "
            "mappings {'name': array}"
        )
    if len(shape) != 2:
        raise ValueError(f"model {name!r}: features have shape {shape}; expected (n, d)")
    if shape[0] != n:
        raise ValueError(f"model {name!r}: features of {shape[0]} images; labels of {n}")
    if shape[1] < 2:
        raise ValueError(f"model {name!r}: features have {shape[1]} columns; expected at least 2")


def look(what: str, array: Any) -> Look:
    """The features of a model, or a reference, as they will be scored; `what` they are of.

    Raises:
        ValueError: they are no real numbers.
    """
    x = _numbers(what, array)
    narrow = x.dtype == np.float32
    with np.errstate(invalid="ignore"):  # NaN
        highest, lowest = (edge.astype(np.float64) for edge in (x.max(axis=0), x.min(axis=0)))
    flaw = None
    if not (np.isfinite(highest).all() and np.isfinite(lowest).all()):
        flaw = "not finite"
    elif (highest == lowest).all():
        flaw = "the same for every image"
    if flaw:
        return Look(np.zeros(x.shape, np.float32), x, flaw=flaw)
    largest = np.maximum(abs(highest), abs(lowest))
    exponent = int(np.frexp(largest.max())[1])
    if LARGEST[0] < exponent <= LARGEST[1]:
        exponent = 0
    scaled = np.ldexp(x, -exponent) if exponent else x
    with np.errstate(under="ignore"):
        features = scaled.astype(np.float32, copy=False)
    rounded = not narrow and not np.array_equal(features, scaled)
    largest, spread = (
        np.ldexp(largest, -exponent),
        np.ldexp(highest, -exponent) - np.ldexp(lowest, -exponent),
    )
    coarse = (spread > 0) & (spread < SMALLEST * largest.max())
    if rounded:
        coarse |= (spread > 0) & (largest > OFFSET * spread)
    return Look(features, x, exponent, rounded, bool(coarse.any()))


def _numbers(what: str, array: Any) -> np.ndarray:
    """The features in float32 if that holds them, else in float64."""
    if isinstance(array, np.ma.MaskedArray):
        array = np.ma.filled(array.astype(np.float64), np.nan)
    try:
        x = np.asarray(array)
        if x.dtype.kind not in "biufOV" or x.dtype.names is not None:
            raise TypeError(f"they are {x.dtype}")
        narrow = x.dtype.kind != "O" and x.dtype.itemsize <= (2 if x.dtype.kind in "biu" else 4)
        with np.errstate(over="ignore"):  # of a type wider than float64
            return x.astype(np.float32 if narrow else np.float64, copy=False)
    except (TypeError, ValueError, RuntimeError) as error:  # a torch tensor with a gradient
        message = f"{what}: features cannot be read as real numbers: {_line(error)}"
        raise ValueError(message) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def probabilities(probs: Any, name: Any, index: int, n: int) -> np.ndarray:
    """One model's class probabilities, (n, z) float32, as they were given."""
    given = _entry("probs", probs, name, index)
    if isinstance(given, np.ma.MaskedArray):
        given = np.ma.filled(given.astype(np.float64), np.nan)
    try:
        found = np.asarray(given).astype(np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"model {str(name)!r}: probs cannot be read as numbers: {_line(error)}"
        raise ValueError(message) from error
    if found.ndim != 2 or len(found) != n:
        raise ValueError(f"model {str(name)!r}: probs have shape {found.shape}; expected ({n}, z)")
    return found


def check_probabilities(name: str, probs: np.ndarray) -> None:
    """Refuse rows that are no distributions, within 1e-2."""
    if not probs.min() >= 0:  # NaN is not either
        raise ValueError(f"model {name!r}: probs are negative or NaN for some image")
    away = abs(probs.sum(axis=1) - 1)
    if not (away <= 1e-2).all():
        worst = probs[np.argmax(away)].sum()
        raise ValueError(f"model {name!r}: probs of an image sum to {worst:.4g}; expected 1")


def reference(reference: Any, n: int) -> np.ndarray:
    """The features of the reference model, (n, d) float32, or float64 if that is too coarse."""
    shape = tuple(np.shape(reference))
    if len(shape) != 2 or shape[0] != n:
        raise ValueError(f"reference has shape {shape}; expected ({n}, d)")
    found = look("reference", reference)
    if found.flaw:
        raise ValueError(f"reference is {found.flaw}")
    return found.float64() if found.rounded or found.coarse else found.features


def of_model(argument: str, value: PerModel | None, name: Any, index: int) -> float:
    """One model's entry of a mapping or sequence; NaN where nothing was given."""
    if value is None:
        return np.nan
    found = _entry(argument, value, name, index)
    try:
        return float(found)
    except (TypeError, ValueError):
        message = f"{argument} of model {str(name)!r} is {found!r}; expected a number"
        raise ValueError(message) from None


def _entry(argument: str, value: Any, name: Any, index: int) -> Any:
    """By name, or its text; or by the model's place."""
    try:
        if isinstance(value, Mapping):
            return value[name if name in value else str(name)]
        return value[index]
    except (KeyError, IndexError):
        raise ValueError(f"{argument} has no entry for model {str(name)!r}") from None
