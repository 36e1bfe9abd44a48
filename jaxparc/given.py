"""What `score_bank` is given, checked and brought into one form.

Every refusal is one line that names the model or argument, what was found and what is expected.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jax import Array

Features: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]] | np.ndarray | Array
PerModel: TypeAlias = Mapping[str, float] | Sequence[float] | np.ndarray


def named(features: Any) -> Mapping[str, Any] | Iterable[Any]:
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
    return features


def pairs(bank: Mapping[str, Any] | Iterable[Any], n: int) -> Iterator[tuple[str, Any]]:
    """(name, array) of every model; those of an iterable are checked as they come."""
    if isinstance(bank, Mapping):
        yield from bank.items()
        return
    for item in bank:
        if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)):
            raise ValueError(f"features hold a {type(item).__name__}; expected (name, array) pairs")
        check_shape(*item, n)
        yield item


def check_lengths(per_model: Mapping[str, PerModel | None], m: int) -> None:
    """Refuse a sequence that has not one entry per model."""
    for argument, value in per_model.items():
        if value is not None and not isinstance(value, Mapping) and len(value) != m:
            raise ValueError(f"{argument} has {len(value)} entries for {m} models")


def check_shape(name: str, array: Any, n: int) -> None:
    """Refuse what is no (n, d) array of at least two columns."""
    try:
        shape = tuple(np.shape(array))
    except ValueError as error:
        raise ValueError(f"model {name!r}: features are no array: {error}") from error
    if len(shape) != 2:
        raise ValueError(f"model {name!r}: features have shape {shape}; expected (n, d)")
    if shape[0] != n:
        raise ValueError(f"model {name!r}: features of {shape[0]} images; labels of {n}")
    if shape[1] < 2:
        raise ValueError(f"model {name!r}: features have {shape[1]} columns; expected at least 2")


def float32(name: str, array: Any, undefined: dict[str, str]) -> np.ndarray:
    """The features as (n, d) float32; models without a defined score are noted by name."""
    try:
        with np.errstate(over="ignore"):  # what overflows is noted below
            x = np.asarray(array).astype(np.float32, copy=False)
    except (TypeError, ValueError, RuntimeError) as error:  # a torch tensor with a gradient
        raise ValueError(f"model {name!r}: features are no numbers: {error}") from error
    if wrong := flaw(x):
        undefined[name] = f"features are {wrong}"
    return x


def flaw(x: np.ndarray) -> str | None:
    """What makes features (n, d) useless, if anything does."""
    if not np.isfinite(x).all():
        return "not finite in float32"
    return "the same for every image" if (x[-1] == x[0]).all() and (x == x[0]).all() else None


def probabilities(probs: Any, name: str, index: int, n: int) -> np.ndarray:
    """One model's class probabilities, (n, z) float32, as they were given."""
    try:
        found = np.asarray(probs[name if isinstance(probs, Mapping) else index], np.float32)
    except (KeyError, IndexError):
        raise ValueError(f"probs has no entry for model {name!r}") from None
    if found.ndim != 2 or len(found) != n:
        raise ValueError(f"model {name!r}: probs have shape {found.shape}; expected ({n}, z)")
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
    """The features of the reference model, (n, d) float32."""
    x = np.asarray(reference).astype(np.float32, copy=False)
    if x.ndim != 2 or len(x) != n:
        raise ValueError(f"reference has shape {x.shape}; expected ({n}, d)")
    if wrong := flaw(x):
        raise ValueError(f"reference is {wrong}")
    return x


def of_model(argument: str, value: PerModel | None, name: str, index: int) -> float:
    """One model's entry of a mapping or sequence; NaN where nothing was given."""
    if value is None:
        return np.nan
    try:
        return float(value[name] if isinstance(value, Mapping) else value[index])
    except (KeyError, IndexError):
        raise ValueError(f"{argument} has no entry for model {name!r}") from None
