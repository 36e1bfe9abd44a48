"""Check the arguments of `score_bank` and turn them into one record per model."""

import dataclasses
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jax import Array

from jaxparc.bank import preparation
from jaxparc.bank.preparation import Prepared
from jaxparc.errors import InputError
from jaxparc.extraction import Extracted

Features: TypeAlias = (
    Mapping[str, Any] | Iterable[tuple[str, Any]] | np.ndarray | Array  # Any: (n, d) or Extracted
)
PerModel: TypeAlias = Mapping[str, float] | Sequence[float] | np.ndarray

FORMS = "a mapping {'name': (n, d) array}, (name, array) pairs, or one array (m, n, d)"


class ModelInput(NamedTuple):
    """One model whose arguments have been checked and whose arrays have been read.

    Attributes:
        place: index of the model in the bank, from 0.
        name: name of the model.
        width: d, the number of features per image.
        layers: number of layers; NaN if not given.
        prior: the number that "+p" adds, not standardised; NaN if not given.
        fields: the arrays of its `Probe`, except those that all models share.
        numbers: the scalars of its `Probe`.
        prepared: its features; None if no method reads them.
    """

    place: int
    name: str
    width: int
    layers: float
    prior: float
    fields: dict[str, Any]
    numbers: dict[str, Any]
    prepared: Prepared | None


@dataclasses.dataclass(frozen=True)
class Bank:
    """The arguments of `score_bank` that differ between models.

    Attributes:
        features: see `score_bank`.
        n: number of probe images.
        needs: field of `Probe` -> the first method that needs it.
        probs: see `score_bank`.
        layers: see `score_bank`.
        source_images: see `score_bank`.
        prior: see `score_bank`.
        ahead: whether further models are read before one has been scored.
    """

    features: Features
    n: int
    needs: Mapping[str, str]
    probs: Any = None
    layers: Any = None
    source_images: Any = None
    prior: Any = None
    ahead: bool = False

    @property
    def is_lazy(self) -> bool:
        """Whether models are read as they come, from arrays that the caller may reuse."""
        held = isinstance(self.features, (Mapping, Sequence)) or hasattr(self.features, "__array__")
        return not held

    def models(self) -> Iterator[ModelInput]:
        """Yield every model, reading its arrays lazily.

        Raises:
            InputError: an argument is missing or malformed. If `features` is a mapping, a sequence
                or an array rather than an iterator, all names, shapes and numbers are checked
                before the first model is read.
        """
        declared = self._declared()
        return map(self._read, declared if self.is_lazy else iter(list(declared)))

    def _declared(self) -> "Iterator[_Declared]":
        names: set[str] = set()
        columns = {
            argument: _column(argument, getattr(self, argument))
            for argument in ("probs", *_NUMBERS)
            if argument in self.needs
        }
        for index, item in enumerate(_pairs(self.features)):
            if not _is_pair(item):
                raise InputError(
                    f"features hold a {type(item).__name__} without a name; expected {FORMS}"
                )
            key, features = item
            name = str(key)
            if name in names:
                raise InputError(f"duplicate model {name!r}")
            names.add(name)
            own = features if isinstance(features, Extracted) else Extracted(features)
            _check_shape(name, "features", own.features, self.n)
            given = {}
            for argument, column in columns.items():
                if column is not None:
                    given[argument] = _entry(argument, column, key, index)
                elif own is features:
                    given[argument] = getattr(own, argument, None)
                else:
                    raise InputError(
                        f"method {self.needs[argument]!r} needs the argument {argument}"
                    )
                if given[argument] is None:
                    raise InputError(
                        f"model {name!r}: {argument} is None; method {self.needs[argument]!r} "
                        "needs it"
                    )
            if "probs" in given:
                _check_shape(name, "probs", given["probs"], self.n)
            numbers = [_number(name, argument, given.get(argument)) for argument in _NUMBERS]
            yield _Declared(index, name, own.features, given.get("probs"), *numbers)
        if not names:
            raise InputError("features are empty; expected at least one model")
        for argument, column in columns.items():
            if column is not None and not isinstance(column, Mapping) and len(column) > len(names):
                raise InputError(
                    f"{argument} has {len(column)} entries; expected {len(names)}, one per model"
                )

    def _read(self, declared: "_Declared") -> ModelInput:
        name = declared.name
        width = np.shape(declared.features)[1]
        numbers = {
            "layers": np.float32(declared.layers),
            "source_images": np.float32(declared.source_images),
            "scale": np.float32(1),
            "width": np.int32(width),
        }
        fields: dict[str, Any] = {}
        prepared = None
        copy = self.is_lazy and self.ahead
        if "features" in self.needs:
            prepared = preparation.read(f"model {name!r}", declared.features, copy=copy)
            fields["features"] = prepared.features
            with np.errstate(over="ignore"):  # logistic then finds no optimum in float32
                numbers["scale"] = np.ldexp(np.float32(1), prepared.exponent)
        if "probs" in self.needs:
            fields["probs"] = _probabilities(name, declared.probs, copy=copy)
        return ModelInput(
            declared.place,
            name,
            width,
            declared.layers,
            declared.prior,
            fields,
            numbers,
            prepared,
        )


_NUMBERS = ("layers", "source_images", "prior")  # arguments with one number per model


class _Declared(NamedTuple):
    """One model whose shapes and numbers have been checked, but whose arrays have not been read."""

    place: int
    name: str
    features: Any
    probs: Any
    layers: float
    source_images: float
    prior: float


def reference(reference: Any, n: int) -> np.ndarray:
    """Return the reference features, (n, d) float32, or float64 where float32 is too coarse.

    Args:
        reference: (n, d) real numbers.
        n: number of probe images.

    Raises:
        InputError: the shape is wrong, or the features are not finite, constant or not numbers.
    """
    shape = tuple(np.shape(reference))
    if len(shape) != 2 or shape[0] != n:
        raise InputError(f"reference has shape {shape}; expected ({n}, d)")
    found = preparation.prepare("reference", reference)
    if found.flaw:
        raise InputError(f"reference: {found.flaw}; expected features that differ between images")
    return found.float64() if found.rounded or found.coarse else np.asarray(found.features)


def check_form(features: Any) -> None:
    """Refuse `features` that are not a bank, as far as can be told without reading any model.

    Raises:
        InputError: `features` are of one model only, lack names, or have an unsupported type.
    """
    if isinstance(features, Mapping):
        return
    if isinstance(features, Extracted):
        raise InputError("features belong to one model without a name; pass {'name': features}")
    if hasattr(features, "__array__"):
        if features.ndim != 3:
            raise InputError(
                f"features have shape {tuple(features.shape)}; expected (m, n, d): "
                "for one model pass {'name': features}"
            )
    elif isinstance(features, (str, bytes)) or not isinstance(features, Iterable):
        raise InputError(f"features are a {type(features).__name__}; expected {FORMS}")
    elif isinstance(features, Sequence) and features and not _is_pair(features[0]):
        _refuse_list(features)


def _pairs(features: Any) -> Iterable[Any]:
    """Return the (name, features) pairs of a bank; the items of an iterable are not checked."""
    if isinstance(features, Mapping):
        return features.items()
    if hasattr(features, "__array__"):
        return ((str(i), model) for i, model in enumerate(features))
    return features


def _refuse_list(features: Sequence[Any]) -> None:
    """Refuse a list of anything but pairs, with advice that depends on its first item."""
    first, m = features[0], len(features)
    pairs = isinstance(first, (list, tuple)) and len(first) > 0 and _is_pair(first[0])
    if isinstance(first, Mapping) or pairs or _dimensions(first) == 3:
        raise InputError(
            f"features hold {m} probe sets; score_bank takes one: for several, "
            "BankScores.concat([score_bank(x, y) for x, y in zip(features, labels)])"
        )
    if isinstance(first, Extracted) or _dimensions(first) == 2:
        raise InputError(f"features are a list of {m} arrays without names; expected {FORMS}")


def _is_pair(item: Any) -> bool:
    """Return whether an item is a (name, features) pair."""
    return (
        isinstance(item, (tuple, list))
        and len(item) == 2
        and isinstance(item[0], (str, int, np.integer))
    )


def _dimensions(array: Any) -> int | None:
    """Return the number of dimensions of an array or of nested lists; None for anything else."""
    if hasattr(array, "shape"):
        return len(array.shape)
    if isinstance(array, Extracted) or not isinstance(array, (list, tuple)) or not array:
        return None
    inner = array[0]
    if isinstance(inner, (list, tuple)) or hasattr(inner, "shape"):
        below = _dimensions(inner)
        return None if below is None else 1 + below
    return 1 if isinstance(inner, numbers.Number) else None


def _check_shape(name: str, argument: str, array: Any, n: int) -> None:
    """Refuse anything but a two-dimensional array with one row per label."""
    try:
        shape = tuple(np.shape(array))
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(array, (list, tuple)) and array and np.ndim(array[0]) == 2:
            shape = (len(array), np.shape(array[0])[0], -1)  # batches of several sizes
        else:
            message = f"model {name!r}: {argument} are not an array: {_line(error)}"
            raise InputError(message) from error
    if len(shape) == 3 and isinstance(array, (list, tuple)):
        raise InputError(
            f"model {name!r}: {argument} are a list of {shape[0]} arrays; expected one "
            f"({n}, d): numpy.concatenate joins batches"
        )
    if len(shape) != 2 or shape[0] != n:
        raise InputError(
            f"model {name!r}: {argument} have shape {shape}; expected ({n}, d), one row per label"
        )
    if shape[1] < (least := 2 if argument == "features" else 1):
        raise InputError(
            f"model {name!r}: {argument} have {shape[1]} columns; expected at least {least}"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _probabilities(name: str, probs: Any, *, copy: bool) -> np.ndarray | Array:
    """Return class probabilities, (n, z) of at most float32; those on a device stay there."""
    if isinstance(probs, Array) and probs.dtype.name in ("float16", "bfloat16", "float32"):
        return probs
    if isinstance(probs, np.ma.MaskedArray):
        probs = np.ma.filled(probs.astype(np.float64), np.nan)
    try:
        found = np.asarray(probs)
        dtype = np.float16 if found.dtype == np.float16 else np.float32
        return found.astype(dtype, copy=copy)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"model {name!r}: probs cannot be read as numbers: {_line(error)}"
        raise InputError(message) from error


def check_probabilities(model: ModelInput) -> None:
    """Refuse class probabilities that are not: `preparation.normalise` found something wrong.

    Raises:
        InputError: some are negative or NaN, or those of an image do not sum to 1.
    """
    found = np.asarray(model.fields["probs"]).astype(np.float32)
    if not found.min() >= 0:  # also true for NaN
        raise InputError(f"model {model.name!r}: probs are negative or NaN for some image")
    sums = found.sum(axis=1)
    worst = sums[np.argmax(abs(sums - 1))]
    raise InputError(f"model {model.name!r}: probs of an image sum to {worst:.4g}; expected 1")


def _column(argument: str, value: Any) -> Any:
    """Return an argument with one entry per model as a mapping by name, a sequence or None."""
    if hasattr(value, "to_dict") and hasattr(value, "index"):  # a pandas Series
        entries = value.to_dict()
        return list(entries.values()) if list(entries) == list(range(len(entries))) else entries
    try:
        if value is None or (len(value) >= 0 and not isinstance(value, (str, bytes))):
            return value
    except TypeError:  # a single number or an iterator
        pass
    raise InputError(
        f"{argument} is a {type(value).__name__}; expected a mapping by name, or a sequence with "
        "one entry per model"
    )


def _entry(argument: str, column: Any, key: Any, index: int) -> Any:
    """Return one model's entry: by its name, as given or as a string, or by its index."""
    try:
        if isinstance(column, Mapping):
            return column[key if key in column else str(key)]
        return column[index]
    except (KeyError, IndexError):
        raise InputError(f"{argument} has no entry for model {str(key)!r}") from None


def _number(name: str, argument: str, value: Any) -> float:
    """Return a number of one model; NaN if it is not given."""
    if value is None:
        return np.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"model {name!r}: {argument} is {value!r}; expected a number") from None
