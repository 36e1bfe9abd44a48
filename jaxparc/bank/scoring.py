"""Scoring a whole bank of pretrained models at once.

Models whose features have the same shape form a group and share one compiled program that
computes every method asked for. Padding narrower features to one width would be simpler and wrong:
rows are centred over their d columns, so zeros change the score.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxparc import labels as labels_
from jaxparc import selectors
from jaxparc.bank import arguments as given
from jaxparc.bank import memory
from jaxparc.bank.arguments import Features, PerModel
from jaxparc.bank.programs import Model, Programs
from jaxparc.bank.scores import BankScores
from jaxparc.selectors import Method
from jaxparc.selectors.heuristic import plus_layers
from jaxparc.selectors.probe import Probe

# Bytes per pair of images that whatever looks at features takes: products, distances.
GRAM = 12

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
            sets: a list of these, with the same models in the same order. Numbers as names are
            turned into text.
        labels: (n,) classes, non-negative integers or other hashable values, or (n, c): multi-label
            if it holds zeros and ones alone, else annotation vectors (see `jaxparc.labels` for
            those of boxes and masks). None may be missing. Several probe sets: a list of these.
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
        Scores of every model by every method, in float64 where float32 would lose what features
        show: finite features of any size and offset have one. A model whose features are not
        finite, or all equal, scores NaN; a warning names whatever is NaN, with the reason, and
        where "hscore" is void.

    Raises:
        ValueError: bad input, in one line that names the model or argument, or more images than fit
            into memory, before any compilation (of an iterable of pairs: when it is read).
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
        run_labels = labels_for(run.labels, num_classes, label_kind, chosen, notes)
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


def labels_for(
    labels: Any,
    num_classes: int | None,
    kind: str | None,
    methods: tuple[Method, ...],
    notes: dict[str, None],
) -> labels_.Labels:
    """The labels of a probe set, fit for every method."""
    if isinstance(labels, Iterator):
        labels = list(labels)
    encoded = labels_.encode(labels, num_classes, kind)
    n = len(encoded.values)
    if n < 3:
        raise ValueError(f"{n} images are labelled; expected at least 3")
    looking = {method.function: method.selector for method in methods if method.reads_images}
    if looking:
        memory.check(n, [GRAM, *(selector.bytes_per_pair for selector in looking.values())])
    if lone := labels_.lone_negative(labels):
        notes[
            f"label {lone[0]} of {lone[1]} images is taken for a class; leave them out if it means "
            "that they have none"
        ] = None
    for method in methods:
        if encoded.kind not in method.kinds:
            hint = ""
            if encoded.kind == "multi_label" and (encoded.values.sum(axis=1) == 1).all():
                hint = ": for one class per image pass numpy.argmax(labels, axis=1)"
            raise ValueError(
                f"method {method.label!r} takes {' or '.join(method.kinds)} labels; these are "
                f"{encoded.kind}{hint}"
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
    listed = isinstance(features, (list, tuple)) and len(features) > 0
    several = listed and not given.is_pair(features[0])
    if several and not isinstance(features[0], Mapping) and given.dimensions(features[0]) == 2:
        raise ValueError(
            f"features are a list of {len(features)} arrays without names; expected {given.FORMS}"
        )
    if not several or not (isinstance(labels, (list, tuple)) and len(labels) > 0):
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
                probs = given.probabilities(run.probs, name, index, n)
                given.check_probabilities(str(name), probs)
        given.check_lengths(per_model, len(bank))
    names: dict[str, int] = {}
    undefined: dict[str, str] = {}
    widths: list[int] = []
    scores: dict[int, np.ndarray] = {}
    looked_up: dict[str, list[float]] = {name: [] for name in per_model}

    def models() -> Iterator[Model]:
        for key, array in given.pairs(bank, n):
            name = str(key)
            if name in names:
                raise ValueError(f"model {name!r} is there twice")
            fields: dict[str, Any] = {}
            look = None
            if "features" in needs:
                look = given.look(f"model {name!r}", array)
                if look.flaw:
                    undefined[name] = look.flaw
                fields["features"] = look.features
                with np.errstate(over="ignore"):  # then logistic finds no optimum in float32
                    fields["scale"] = np.ldexp(np.float32(1), look.exponent)
            widths.append(np.shape(array)[1])
            for argument, value in per_model.items():
                number = given.of_model(argument, value, key, len(names))
                looked_up[argument].append(number)
                fields[argument] = np.float32(number)
            if "probs" in needs:
                probs = given.probabilities(run.probs, key, len(names), n)
                if not isinstance(bank, Mapping):
                    given.check_probabilities(name, probs)
                fields["probs"] = probs
            names[name] = len(names)
            yield Model(names[name], fields, look)

    images = np.float32(np.nan if target_images is None else target_images)
    shared = {"labels": labels.values, "target_images": images}
    if "reference" in needs:
        shared["reference"] = given.reference(run.reference, n)
    values, num_classes, absent = labels_.present(labels)
    shared["labels"] = values
    programs = Programs(methods, num_classes, labels.kind == "vectors", absent)
    targets = None
    for chunk in _by_shape(models(), SIDE_BY_SIDE[jax.default_backend() == "cpu"]):
        if targets is None:  # after the first model was looked at: bad input is refused first
            targets = programs.targets(shared)
        shared.pop("reference", None)
        scores.update(programs.scores(chunk, shared, targets))
    if not names:
        raise ValueError("the bank is empty; expected at least one model")
    given.check_lengths(per_model, len(names))
    values = np.stack([scores[i] for i in range(len(names))]).astype(np.float64)
    looking = np.array([m.reads_images for m in methods])
    for name, what in undefined.items():
        values[names[name], looking] = np.nan
        notes[f"model {name!r}: features are {what}; its scores are NaN"] = None
    _note_what_is_void(labels, methods, values, dict(zip(names, widths, strict=True)), notes)
    _note_what_is_undefined(methods, values, list(names), set(undefined), notes)
    for column, method in enumerate(methods):
        if method.plus_layers:
            raw = values[:, column].copy()
            values[:, column] = plus_layers(raw, np.array(looked_up["layers"]), ell_max)
            if np.isnan(values[~np.isnan(raw), column]).any():
                notes[
                    f"{method.label}: scores that are all equal, or a single one, cannot be "
                    "standardised, and layers must be numbers; its scores are NaN"
                ] = None
    return tuple(names), values


def _note_what_is_undefined(
    methods: tuple[Method, ...],
    values: np.ndarray,
    names: list[str],
    noted: set[str],
    notes: dict[str, None],
) -> None:
    """Scores that are NaN for a reason of the method's own."""
    for column, method in enumerate(methods):
        nan = [
            name
            for name, value in zip(names, values[:, column], strict=True)
            if np.isnan(value) and not (method.reads_images and name in noted)
        ]
        if nan:
            notes[
                f"{method.label.removesuffix('+l')} of {_listed(nan)} is NaN: "
                f"{method.selector.undefined}"
            ] = None


def _listed(names: list[str]) -> str:
    others = f" and {len(names) - 3} others" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + others


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
                notes[
                    f"{label} of {_listed(void)}: features of rank n - 1 = {n - 1} score {limit}, "
                    "one less than the classes, whatever they show; hscore_f32 reduces them first"
                ] = None


def _by_shape(models: Iterator[Model], size: int) -> Iterator[list[Model]]:
    """Chunks of at most `size` models of one shape, holding back at most one chunk per shape."""
    waiting: dict[tuple[tuple[int, ...], ...], list[Model]] = {}
    for item in models:
        shape = tuple(field.shape for field in item.fields.values())
        waiting.setdefault(shape, []).append(item)
        if len(waiting[shape]) == size:
            yield waiting.pop(shape)
    for group in waiting.values():
        # Filled up with its last model: a chunk of another size would be compiled again.
        yield group + group[-1:] * (size - len(group))
