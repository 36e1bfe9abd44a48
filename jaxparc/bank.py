"""Scoring a whole bank of pretrained models at once: the one place that jits and maps selectors.

Models whose features have the same shape form a group and share one compiled program that
computes every method asked for. Padding narrower features to one width would be simpler and wrong:
rows are centred over their d columns, so zeros change the score.
"""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import capacity, selectors
from jaxparc import labels as labels_
from jaxparc.probe import Probe
from jaxparc.scores import BankScores
from jaxparc.selectors import Method

Features: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]] | np.ndarray | Array
_Model: TypeAlias = dict[str, Any]  # the per-model fields of a Probe
PerModel: TypeAlias = Mapping[str, float] | Sequence[float] | np.ndarray


def score_bank(
    features: Features | Sequence[Features],
    labels: Any,
    *,
    methods: str | Callable[[Probe], Array] | Sequence[str | Callable[[Probe], Array]] = (
        "parc_f32",
    ),
    probs: Any = None,
    reference: Any = None,
    num_classes: int | None = None,
    layers: PerModel | None = None,
    source_images: PerModel | None = None,
    target_images: int | None = None,
    ell_max: float = 50,
) -> BankScores:
    """Predict which of m pretrained models will be best after fine-tuning.

    Implements *Scalable Diverse Model Selection for Accessible Transfer Learning* (NeurIPS 2021).

    Args:
        features: per model the (n, d_m) input of its last linear layer on the n probe images, any
            float type, anything with `__array__`: a mapping from model name, one (m, n, d) array
            (models are then named "0", "1", ...), or an iterable of (name, array) pairs, which is
            read as it is scored, so that a bank larger than memory goes through. Several probe
            sets: a list of these, with the same models in the same order.
        labels: (n,) classes, non-negative integers or any hashable values, or (n, c) zeros and
            ones (multi-label). Several probe sets: a list of these.
        methods: names in `jaxparc.selectors.SELECTORS` such as "parc"; those that look at features
            also with a reduction by PCA, such as "parc_f32" for 32 dimensions; each with "+l"
            appended for eq. 6 over this call's models; or functions of `jaxparc.selectors`, with
            options bound by `functools.partial`.
        probs: per model the (n, z_m) class probabilities on the same images, as a mapping or one
            (m, n, z) array; rows sum to 1 within 1e-2 and are normalised (needed by "nce", "leep").
        reference: (n, d) features of a model trained on the target (needed by "rsa", "dds").
            Several probe sets: lists of these, as of `features`.
        num_classes: c; by default max(labels) + 1 for integers, else the number of distinct ones.
        layers: per model, the number of layers (needed by "heuristic" and "+l").
        source_images: per model, the number of images it was trained on (needed by "heuristic").
        target_images: images of the target data set (needed by "heuristic").
        ell_max: number of layers that counts 1 in eq. 6.

    Returns:
        Scores of every model by every method. A model whose features are not finite, or all equal,
        scores NaN and one warning names it.

    Raises:
        ValueError: bad input, in one line that names the model or argument, before any compilation
            (of an iterable of pairs: when it is read).
    """
    if isinstance(methods, str) or callable(methods):
        methods = (methods,)
    chosen = tuple(selectors.method(name) for name in methods)
    if not chosen:
        raise ValueError("methods is empty; expected at least one")
    per_model = {"layers": layers, "source_images": source_images}
    given = {
        **per_model,
        "target_images": target_images,
        "probs": probs,
        "reference": reference,
    }
    for method in chosen:
        for need in method.needs:
            if need in given and given[need] is None:
                raise ValueError(f"method {method.label!r} needs the argument {need}")
    names: tuple[str, ...] | None = None
    values, undefined = [], {}
    for run in _probe_sets(features, labels, probs, reference):
        run_names, run_values, run_undefined = _score_probe_set(
            run, num_classes, chosen, per_model, target_images, ell_max
        )
        if names is not None and run_names != names:
            raise ValueError(f"probe sets have different models: {names} and {run_names}")
        names = run_names
        values.append(run_values)
        undefined.update(run_undefined)
    assert names is not None
    for name, what in undefined.items():
        warnings.warn(f"model {name!r}: {what}; its scores are NaN", stacklevel=2)
    return BankScores(names, tuple(m.label for m in chosen), np.stack(values))


class _ProbeSet(NamedTuple):
    """What one probe set brings, as it was given."""

    features: Any
    labels: Any
    probs: Any
    reference: Any


def _probe_sets(features: Any, labels: Any, probs: Any, reference: Any) -> list[_ProbeSet]:
    """One per probe set; a list of arrays as labels, and as features, means several."""
    several = (
        isinstance(labels, (list, tuple))
        and len(labels) > 0
        and isinstance(features, (list, tuple))
        and len(features) > 0
        and not isinstance(features[0], tuple)
    )
    if not several:
        return [_ProbeSet(features, labels, probs, reference)]
    given = {"features": features, "labels": labels, "probs": probs, "reference": reference}
    for argument, value in given.items():
        if value is not None and len(value) != len(labels):
            raise ValueError(f"{len(value)} probe sets of {argument}, {len(labels)} of labels")
    nothing = [None] * len(labels)
    columns = (nothing if value is None else value for value in given.values())
    return list(map(_ProbeSet, *columns))


def _named(features: Any) -> Mapping[str, Any] | Iterable[Any]:
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


def _pairs(bank: Mapping[str, Any] | Iterable[Any], n: int) -> Iterator[tuple[str, Any]]:
    """(name, array) of every model; those of an iterable are checked as they come."""
    if isinstance(bank, Mapping):
        yield from bank.items()
        return
    for item in bank:
        if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)):
            raise ValueError(f"features hold a {type(item).__name__}; expected (name, array) pairs")
        _check_shape(*item, n)
        yield item


def _score_probe_set(
    run: _ProbeSet,
    num_classes: int | None,
    methods: tuple[Method, ...],
    per_model: Mapping[str, PerModel | None],
    target_images: int | None,
    ell_max: float,
) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
    """Names, (m, k) scores and what is wrong with undefined models; reads the bank once."""
    bank = _named(run.features)
    labels, num_classes = labels_.encode(run.labels, num_classes)
    if len(labels) < 3:
        raise ValueError(f"{len(labels)} images are labelled; expected at least 3")
    for method in methods:
        if labels.ndim == 2 and not method.multi_label:
            raise ValueError(f"method {method.label!r} takes one class per image, not several")
    needs = {need for method in methods for need in method.needs}
    if isinstance(bank, Mapping):  # what is all there is checked before anything is compiled
        for index, (name, array) in enumerate(bank.items()):
            _check_shape(name, array, len(labels))
            for argument, value in per_model.items():
                _of_model(argument, value, name, index)
            if "probs" in needs:
                _probabilities(run.probs, name, index, len(labels))
        _check_lengths(per_model, len(bank))
    names: dict[str, int] = {}
    undefined: dict[str, str] = {}
    scores: dict[int, np.ndarray] = {}
    looked_up: dict[str, list[float]] = {name: [] for name in per_model}

    def models() -> Iterator[tuple[int, _Model]]:
        for name, array in _pairs(bank, len(labels)):
            if name in names:
                raise ValueError(f"model {name!r} is there twice")
            model: _Model = {"features": _float32(name, array, undefined)}
            for argument, value in per_model.items():
                number = _of_model(argument, value, name, len(names))
                looked_up[argument].append(number)
                model[argument] = np.float32(number)
            if "probs" in needs:
                model["probs"] = _probabilities(run.probs, name, len(names), len(labels))
            names[name] = len(names)
            yield names[name], model

    # A CPU runs models one after the other faster than side by side; an accelerator wants many.
    side_by_side = 1 if jax.default_backend() == "cpu" else 32
    images = np.float32(np.nan if target_images is None else target_images)
    shared = {"labels": labels, "target_images": images}
    if "reference" in needs:
        shared["reference"] = _reference(run.reference, len(labels))
    score = _compiled(tuple(m.function for m in methods), num_classes)
    for indices, chunk in _by_shape(models(), side_by_side):
        scores.update(zip(indices, np.asarray(score(chunk, shared)), strict=True))
    if not names:
        raise ValueError("the bank is empty; expected at least one model")
    _check_lengths(per_model, len(names))
    values = np.stack([scores[i] for i in range(len(names))]).astype(np.float64)
    looking = np.array(["features" in m.needs for m in methods])
    for name in undefined:
        values[names[name], looking] = np.nan
    for column, method in enumerate(methods):
        if method.plus_layers:
            values[:, column] = capacity.plus_layers(
                values[:, column], np.array(looked_up["layers"]), ell_max
            )
    return tuple(names), values, undefined if looking.any() else {}


def _check_lengths(per_model: Mapping[str, PerModel | None], m: int) -> None:
    for argument, value in per_model.items():
        if value is not None and not isinstance(value, Mapping) and len(value) != m:
            raise ValueError(f"{argument} has {len(value)} entries for {m} models")


def _check_shape(name: str, array: Any, n: int) -> None:
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


def _float32(name: str, array: Any, undefined: dict[str, str]) -> np.ndarray:
    """The features as (n, d) float32; models without a defined score are noted by name."""
    try:
        with np.errstate(over="ignore"):  # what overflows is noted below
            x = np.asarray(array).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model {name!r}: features are no numbers: {error}") from error
    if flaw := _flaw(x):
        undefined[name] = f"features are {flaw}"
    return x


def _flaw(x: np.ndarray) -> str | None:
    """What makes features (n, d) useless, if anything does."""
    if not np.isfinite(x).all():
        return "not finite in float32"
    return "the same for every image" if (x == x[0]).all() else None


def _probabilities(probs: Any, name: str, index: int, n: int) -> np.ndarray:
    """One model's class probabilities, (n, z) float32, rows normalised."""
    try:
        given = np.asarray(probs[name if isinstance(probs, Mapping) else index], np.float32)
    except (KeyError, IndexError):
        raise ValueError(f"probs has no entry for model {name!r}") from None
    if given.ndim != 2 or len(given) != n:
        raise ValueError(f"model {name!r}: probs have shape {given.shape}; expected ({n}, z)")
    if not (given >= 0).all():  # NaN is not either
        raise ValueError(f"model {name!r}: probs are negative or NaN for some image")
    sums = given.sum(axis=1, keepdims=True)
    if not (abs(sums - 1) <= 1e-2).all():
        worst = sums.flat[np.argmax(abs(sums - 1))]
        raise ValueError(f"model {name!r}: probs of an image sum to {worst:.4g}; expected 1")
    return given / sums


def _reference(reference: Any, n: int) -> np.ndarray:
    """The features of the reference model, (n, d) float32."""
    x = np.asarray(reference).astype(np.float32)
    if x.ndim != 2 or len(x) != n:
        raise ValueError(f"reference has shape {x.shape}; expected ({n}, d)")
    if flaw := _flaw(x):
        raise ValueError(f"reference is {flaw}")
    return x


def _of_model(argument: str, value: PerModel | None, name: str, index: int) -> float:
    """One model's entry of a mapping or sequence; NaN where nothing was given."""
    if value is None:
        return np.nan
    try:
        return float(value[name] if isinstance(value, Mapping) else value[index])
    except (KeyError, IndexError):
        raise ValueError(f"{argument} has no entry for model {name!r}") from None


def _by_shape(
    models: Iterator[tuple[int, _Model]], size: int
) -> Iterator[tuple[tuple[int, ...], tuple[_Model, ...]]]:
    """Chunks of at most `size` models of one shape, holding back at most one chunk per shape."""
    waiting: dict[tuple[tuple[int, ...], ...], list[tuple[int, _Model]]] = {}
    for item in models:
        shape = tuple(field.shape for field in item[1].values())
        waiting.setdefault(shape, []).append(item)
        if len(waiting[shape]) == size:
            yield _unzip(waiting.pop(shape))
    for group in waiting.values():
        yield _unzip(group)


def _unzip(
    group: list[tuple[int, _Model]],
) -> tuple[tuple[int, ...], tuple[_Model, ...]]:
    indices, models = zip(*group, strict=True)
    return indices, models


@functools.lru_cache(maxsize=256)
def _compiled(
    functions: tuple[Callable[[Probe], Array], ...], num_classes: int
) -> Callable[..., Array]:
    """The program that gives (models, k) scores for models of one shape.

    One program for all methods, so that XLA computes what they share once. What is `shared` by the
    models is not mapped: the ranks of the annotation distances are computed once per call.
    """

    @jax.jit
    def run(models: tuple[dict[str, Array], ...], shared: dict[str, Array]) -> Array:
        def score(model: dict[str, Array]) -> Array:
            probe = Probe(**model, **shared, num_classes=num_classes)
            return jnp.stack([function(probe) for function in functions])

        return jax.vmap(score)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *models))

    return run
