"""Scoring a whole bank of pretrained models at once: the one place that jits and maps selectors.

Models whose features have the same shape form a group and share one compiled program that
computes every method asked for. Padding narrower features to one width would be simpler and wrong:
rows are centred over their d columns, so zeros change the score.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import capacity, given, selectors
from jaxparc import labels as labels_
from jaxparc.given import Features, PerModel
from jaxparc.probe import Probe
from jaxparc.scores import BankScores
from jaxparc.selectors import Method

_Model: TypeAlias = dict[str, Any]  # the per-model fields of a Probe

# A CPU runs models one after the other faster than side by side; an accelerator wants many.
SIDE_BY_SIDE = {True: 1, False: 32}


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
    target_images: float | None = None,
    ell_max: float = 50,
    label_kind: str | None = None,
) -> BankScores:
    """Predict which of m pretrained models will be best after fine-tuning.

    Implements *Scalable Diverse Model Selection for Accessible Transfer Learning* (NeurIPS 2021).

    Args:
        features: per model the (n, d_m) input of its last linear layer on the n probe images, any
            float type, anything with `__array__`: a mapping from model name, one (m, n, d) array
            (models are then named "0", "1", ...), or an iterable of (name, array) pairs, which is
            read as it is scored, so that a bank larger than memory goes through. Several probe
            sets: a list of these, with the same models in the same order.
        labels: (n,) classes, non-negative integers or any hashable values, or (n, c): multi-label
            if it holds zeros and ones alone, else annotation vectors (see `jaxparc.labels` for
            those of boxes and masks). Several probe sets: a list of these.
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
        label_kind: "classes", "multi_label" or "vectors", instead of what the labels look like.

    Returns:
        Scores of every model by every method. A model whose features are not finite, or all equal,
        scores NaN and one warning names it. A warning also says where "hscore" is void and where
        the half of the images that "logistic" trains on lacks a class.

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
    arguments = {
        **per_model,
        "target_images": target_images,
        "probs": probs,
        "reference": reference,
    }
    for method in chosen:
        for need in method.needs:
            if need in arguments and arguments[need] is None:
                raise ValueError(f"method {method.label!r} needs the argument {need}")
    names: tuple[str, ...] | None = None
    values: list[np.ndarray] = []
    notes: dict[str, None] = {}  # what there is to warn of, each once
    for run in _probe_sets(features, labels, probs, reference):
        run_labels = _labels(run.labels, num_classes, label_kind, chosen)
        run_names, run_values = _score_probe_set(
            run, run_labels, chosen, per_model, target_images, ell_max, notes
        )
        if names is not None and run_names != names:
            raise ValueError(f"probe sets have different models: {names} and {run_names}")
        names = run_names
        values.append(run_values)
    assert names is not None
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return BankScores(names, tuple(m.label for m in chosen), np.stack(values))


def _labels(
    labels: Any, num_classes: int | None, kind: str | None, methods: tuple[Method, ...]
) -> labels_.Labels:
    """The labels of a probe set, fit for every method."""
    encoded = labels_.encode(labels, num_classes, kind)
    n = len(encoded.values)
    if n < 3:
        raise ValueError(f"{n} images are labelled; expected at least 3")
    for method in methods:
        if encoded.kind not in method.kinds:
            raise ValueError(
                f"method {method.label!r} takes {' or '.join(method.kinds)} labels; these are "
                f"{encoded.kind}"
            )
    if encoded.kind == "classes":
        classes, images = np.unique(encoded.values, return_counts=True)
        for method in methods:
            if method.selector.needs_two and (images == 1).any():
                raise ValueError(
                    f"method {method.label!r} needs two images of every class; class "
                    f"{classes[images == 1][0]} has one"
                )
            if method.selector is selectors.SELECTORS["parc"] and images.max() == 1:
                raise ValueError(
                    f"method {method.label!r} compares images of one class with others; no class "
                    f"has two of these {n}"
                )
    return encoded


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
    arguments = {"features": features, "labels": labels, "probs": probs, "reference": reference}
    for argument, value in arguments.items():
        if value is not None and len(value) != len(labels):
            raise ValueError(f"{len(value)} probe sets of {argument}, {len(labels)} of labels")
    nothing = [None] * len(labels)
    columns = (nothing if value is None else value for value in arguments.values())
    return list(map(_ProbeSet, *columns))


def _score_probe_set(
    run: _ProbeSet,
    labels: labels_.Labels,
    methods: tuple[Method, ...],
    per_model: Mapping[str, PerModel | None],
    target_images: float | None,
    ell_max: float,
    notes: dict[str, None],
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and (m, k) scores; reads the bank once."""
    bank = given.named(run.features)
    n = len(labels.values)
    needs = {need for method in methods for need in method.needs}
    if isinstance(bank, Mapping):  # what is all there is checked before anything is compiled
        for index, (name, array) in enumerate(bank.items()):
            given.check_shape(name, array, n)
            for argument, value in per_model.items():
                given.of_model(argument, value, name, index)
            if "probs" in needs:
                given.check_probabilities(name, given.probabilities(run.probs, name, index, n))
        given.check_lengths(per_model, len(bank))
    names: dict[str, int] = {}
    undefined: dict[str, str] = {}
    widths: list[int] = []
    scores: dict[int, np.ndarray] = {}
    looked_up: dict[str, list[float]] = {name: [] for name in per_model}

    def models() -> Iterator[tuple[int, _Model]]:
        for name, array in given.pairs(bank, n):
            if name in names:
                raise ValueError(f"model {name!r} is there twice")
            model: _Model = {}
            if "features" in needs:
                model["features"] = given.float32(name, array, undefined)
            widths.append(np.shape(array)[1])
            for argument, value in per_model.items():
                number = given.of_model(argument, value, name, len(names))
                looked_up[argument].append(number)
                model[argument] = np.float32(number)
            if "probs" in needs:
                probs = given.probabilities(run.probs, name, len(names), n)
                if not isinstance(bank, Mapping):
                    given.check_probabilities(name, probs)
                model["probs"] = probs
            names[name] = len(names)
            yield names[name], model

    images = np.float32(np.nan if target_images is None else target_images)
    shared = {"labels": labels.values, "target_images": images}
    if "reference" in needs:
        shared["reference"] = given.reference(run.reference, n)
    options = labels.num_classes, labels.kind == "vectors"
    prepare = _compiled_targets(tuple(m.target for m in methods), *options)
    functions = tuple(m.function for m in methods)
    targets = None
    for indices, chunk in _by_shape(models(), SIDE_BY_SIDE[jax.default_backend() == "cpu"]):
        if targets is None:  # after the first model was looked at: bad input is refused first
            targets = prepare(shared)
        scored = _compiled(functions, *options)(chunk, shared, targets)
        scores.update(zip(indices, np.asarray(scored), strict=False))  # a chunk may be filled up
    if not names:
        raise ValueError("the bank is empty; expected at least one model")
    given.check_lengths(per_model, len(names))
    values = np.stack([scores[i] for i in range(len(names))]).astype(np.float64)
    looking = np.array(["features" in m.needs for m in methods])
    for name, what in undefined.items():
        values[names[name], looking] = np.nan
        notes[f"model {name!r}: {what}; its scores are NaN"] = None
    _note_what_is_void(labels, methods, values, dict(zip(names, widths, strict=True)), notes)
    for column, method in enumerate(methods):
        if method.plus_layers:
            values[:, column] = capacity.plus_layers(
                values[:, column], np.array(looked_up["layers"]), ell_max
            )
    return tuple(names), values


def _note_what_is_void(
    labels: labels_.Labels,
    methods: tuple[Method, ...],
    values: np.ndarray,
    widths: Mapping[str, int],
    notes: dict[str, None],
) -> None:
    """Scores that are defined and say nothing, or less than they seem to."""
    y, n = labels.values, len(labels.values)
    for column, method in enumerate(methods):
        label = method.label.removesuffix("+l")
        if method.selector is selectors.SELECTORS["hscore"]:
            limit = len(np.unique(y)) - 1
            void = [
                name
                for (name, d), value in zip(widths.items(), values[:, column], strict=True)
                if d >= n - 1 and value > limit * (1 - 1e-4)
            ]
            if void:
                others = f" and {len(void) - 3} others" if len(void) > 3 else ""
                which = ", ".join(map(repr, void[:3])) + others
                notes[
                    f"{label} of {which}: features of rank n - 1 = {n - 1} score {limit}, "
                    "one less than the classes, whatever they show; hscore_f32 reduces them first"
                ] = None
        if method.selector is selectors.SELECTORS["logistic"]:
            half = -(-n // 2)
            lacking = np.setdiff1d(y[half:], y[:half])
            if lacking.size:
                notes[
                    f"{label} trains on the first {half} images, which lack class "
                    f"{', '.join(map(str, lacking[:5]))}{'...' if lacking.size > 5 else ''} of the "
                    "others; order the images by turns over the classes"
                ] = None


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
        # Filled up with its last model: a chunk of another size would be compiled again.
        indices, chunk = _unzip(group)
        yield indices, chunk + chunk[-1:] * (size - len(chunk))


def _unzip(
    group: list[tuple[int, _Model]],
) -> tuple[tuple[int, ...], tuple[_Model, ...]]:
    indices, models = zip(*group, strict=True)
    return indices, models


@functools.lru_cache(maxsize=256)
def _compiled(
    functions: tuple[Callable[..., Array], ...], num_classes: int, vectors: bool
) -> Callable[..., Array]:
    """The program that gives (models, k) scores for models of one shape.

    One program for all methods, so that XLA computes what they share once. What is `shared` by the
    models, and the `targets` made from it, are not mapped.
    """

    @jax.jit
    def run(models: tuple[_Model, ...], shared: _Model, targets: tuple[Any, ...]) -> Array:
        def score(model: _Model) -> Array:
            if "probs" in model:
                rows = model["probs"]
                model = model | {"probs": rows / jnp.sum(rows, axis=1, keepdims=True)}
            probe = Probe(**model, **shared, num_classes=num_classes, vectors=vectors)
            return jnp.stack(
                [
                    function(probe) if target is None else function(probe, target=target)
                    for function, target in zip(functions, targets, strict=True)
                ]
            )

        if len(models) == 1:
            return score(models[0])[None]
        return jax.vmap(score)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *models))

    return run


@functools.lru_cache(maxsize=256)
def _compiled_targets(
    targets: tuple[Callable[[Probe], Array] | None, ...], num_classes: int, vectors: bool
) -> Callable[[_Model], tuple[Any, ...]]:
    """The program that gives, per method, what all models of a bank share; None if nothing."""

    @jax.jit
    def run(shared: _Model) -> tuple[Any, ...]:
        probe = Probe(**shared, num_classes=num_classes, vectors=vectors)
        return tuple(None if target is None else target(probe) for target in targets)

    return run
