"""Score a whole bank of pretrained models at once, in chunks (see `programs`)."""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax import Array

from jaxparc import backend, parallel, printing, selectors
from jaxparc import labels as labels_
from jaxparc.bank import arguments, chunks, columns, memory
from jaxparc.bank.arguments import Features, ModelInput, PerModel
from jaxparc.bank.programs import Programs, Scored
from jaxparc.bank.scores import DEFAULT_LEVEL, BankScores
from jaxparc.errors import InputError, UndefinedScoreWarning
from jaxparc.labels import Labels
from jaxparc.selectors import Ensemble, Method, Probe

LISTED = 8  # maximum number of models that a warning names


def score_bank(
    features: Features,
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
    prior: PerModel | None = None,
    prior_weight: float = 1,
    label_kind: str | None = None,
    chunk: int | None = None,
    intervals: float | None = None,
) -> BankScores:
    """Predict which of m pretrained models will be best after fine-tuning.

    Implements *Scalable Diverse Model Selection for Accessible Transfer Learning* (NeurIPS 2021).
    `BankScores.concat` joins the scores of several probe sets.

    Args:
        features: for each model the (n, d_m) penultimate features (the input of its last linear
            layer) of the n probe images, as real numbers in anything with `__array__`, or the
            result of `jaxparc.extract`, which also carries probs and the number of layers. Pass a
            mapping from model name; one (m, n, d) array, whose models are named "0", "1", ...; or
            an iterable of (name, array) pairs, which is read lazily, so that a bank may be larger
            than memory (its NumPy arrays are copied where further models are read before one is
            scored, so that it may reuse them). Integer names become strings.
        labels: (n,) classes, non-negative integers or other hashable values, or (n, c): multi-label
            if all values are 0 or 1, else annotation vectors (see `jaxparc.labels` for those of
            boxes and masks); with `label_kind="values"`, (n,) or (n, k) numbers to predict, such as
            ages. No label may be missing.
        methods: names in `jaxparc.selectors.SELECTORS`, such as "parc". Methods that read features
            take a PCA suffix, such as "parc_f32" for 32 dimensions. "mean(parc_f32,knn)" is the
            mean of methods, each standardised over the models of this call. All take the suffixes
            "+l" for eq. 6 over these models, and "+p" for a prior. Functions of
            `jaxparc.selectors`, with options bound by `functools.partial`, are accepted too.
        probs: for each model the (n, z_m) class probabilities of the same images, as a mapping by
            name or one (m, n, z) array; rows must sum to 1 within 1e-2 and are normalised (needed
            by "nce", "leep").
        reference: (n, d) features of a model trained on the target (needed by "rsa", "dds").
        num_classes: c, if the target has classes that no probe image has ("nce" counts them);
            integer labels are then positions in [0, c). By default the number of distinct labels.
        layers: for each model, its number of layers, by name or in order (needed by "heuristic",
            "+l").
        source_images: for each model, the number of images it was trained on (needed by
            "heuristic").
        target_images: number of images in the target data set (needed by "heuristic").
        ell_max: number of layers with relative depth 1 in eq. 6.
        prior: for each model a number that is larger for better ones whatever the target, such as
            the logarithm of its parameters or its accuracy on ImageNet (needed by "+p").
        prior_weight: weight of the prior, which is standardised over the models of this call like
            the scores that it is added to.
        label_kind: "classes", "multi_label", "vectors" or "values"; by default inferred from the
            labels, but for "values". Of the methods that read labels, "parc", "knn", "ridge" and
            "logme" take values; they do not depend on their units and offsets.
        chunk: maximum number of models that one call of a program scores; by default 1 on a CPU,
            and else as many as fit into an eighth of the device's memory, at most 128.
        intervals: confidence level in (0, 1), such as 0.95, of intervals over the choice of the
            images, for `BankScores.intervals` and `tied`; None for none. It takes up to 55 %
            longer.

    Returns:
        The scores of every model by every method. They are computed in float32, and in float64
        where float32 would lose differences between images, so finite features may have any scale
        and offset. Undefined scores are NaN, such as those of features that are not finite or are
        the same for every image.

    Raises:
        InputError: an argument is wrong, or there are more images than fit into memory. InputError
            is a ValueError; its message is one line that names the model or argument. Labels,
            shapes and numbers are checked before anything is compiled (those of an iterable of
            pairs when they are read).

    Warns:
        UndefinedScoreWarning: some scores are undefined; `BankScores.undefined` has all reasons.
        UserWarning: a score is less informative than it seems, such as an H-Score at its limit.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(60) % 3
        >>> noise = rng.normal(size=(60, 16))
        >>> features = {"sharp": noise + 3 * np.eye(16)[labels], "blind": noise}
        >>> scores = score_bank(features, labels, methods=("parc_f8", "knn"))
        >>> scores.best
        'sharp'
        >>> scores["knn"]["sharp"] > scores["knn"]["blind"]
        True
        >>> score_bank(features, labels, intervals=0.95).tied()
        ['sharp']
    """
    level = DEFAULT_LEVEL if intervals is None else intervals
    if not 0 < level < 1:
        raise InputError(f"intervals is {intervals}; expected a level such as 0.95, or None")
    chosen = _methods(methods)
    arguments.check_form(features)
    if isinstance(labels, Iterator):
        labels = list(labels)
    encoded = check_labels(labels, chosen, num_classes=num_classes, kind=label_kind)
    n = len(encoded.values)
    needs = {need: method.label for method in reversed(chosen) for need in method.needs}
    for argument, value in {"reference": reference, "target_images": target_images}.items():
        if argument in needs and value is None:
            raise InputError(f"method {needs[argument]!r} needs the argument {argument}")
    notes = dict.fromkeys([labels_.caveat(labels, encoded.kind)])
    devices = chunks.devices()
    members = tuple(dict.fromkeys(member for method in chosen for member in method.members))
    sizes = chunks.Sizes(n, members, chunk, devices)
    ahead = sizes.most * devices > 1 or backend.choices().calls_ahead > 0
    bank = arguments.Bank(features, n, needs, probs, layers, source_images, prior, ahead)
    values, num_classes, absent = labels_.present(encoded)
    shared: dict[str, Any] = {
        "labels": values,
        "target_images": np.float32(np.nan if target_images is None else target_images),
    }
    if "reference" in needs:
        shared["reference"] = arguments.reference(reference, n)
    programs = Programs(
        members, shared, num_classes, encoded.kind, absent, devices, intervals is not None
    )
    with parallel.one_lapack_thread():
        rows = sorted(_scored(bank.models(), programs, sizes), key=lambda row: row.model.place)
    notes |= dict.fromkeys(_caveats(rows, members, encoded))
    table = columns.table(rows, members, chosen, ell_max, prior_weight)
    undefined = table.undefined
    for note in filter(None, notes):
        warnings.warn(note, stacklevel=2)
    for note in _undefined_notes(undefined):
        warnings.warn(note, UndefinedScoreWarning, stacklevel=2)
    names = tuple(row.model.name for row in rows)
    noise = () if intervals is None else (table.contributions,)
    return BankScores(
        names, tuple(m.label for m in chosen), table.scores[None], undefined, noise, level
    )


def check_labels(
    labels: Any,
    methods: Sequence[Method | Ensemble],
    *,
    num_classes: int | None = None,
    kind: str | None = None,
) -> Labels:
    """Encode the labels of a probe set, and check that every method accepts them.

    Args:
        labels: as `score_bank` takes them.
        methods: the methods to compute.
        num_classes: as `score_bank` takes it.
        kind: `label_kind` of `score_bank`.

    Raises:
        InputError: the labels are malformed, a method does not accept them, or there are too many
            for the memory.
    """
    encoded = labels_.encode(labels, num_classes, kind)
    n = len(encoded.values)
    if n < 3:
        raise InputError(f"labels of {n} images; expected at least 3")
    members = [member for method in methods for member in method.members]
    if any(method.reads_images for method in members):
        memory.check(n, memory.bytes_per_pair(members))
    for method in members:
        if encoded.kind not in method.kinds:
            hint = ""
            if encoded.kind == "multi_label" and (encoded.values.sum(axis=1) == 1).all():
                hint = ": for one class per image pass numpy.argmax(labels, axis=1)"
            raise InputError(
                f"method {method.label!r} takes {' or '.join(method.kinds)} labels; these are "
                f"{encoded.kind}{hint}"
            )
        if method.selector.check and (problem := method.selector.check(encoded)):
            raise InputError(f"method {method.label!r} {problem}")
    return encoded


def _methods(methods: Any) -> tuple[Method | Ensemble, ...]:
    if isinstance(methods, str) or callable(methods):
        methods = (methods,)
    chosen = tuple(selectors.method(name) for name in methods)
    if not chosen:
        raise InputError("methods is empty; expected at least one")
    return chosen


def _scored(
    models: Iterator[ModelInput], programs: Programs, sizes: chunks.Sizes
) -> Iterator[Scored]:
    """Score models in chunks; they are yielded in the order of the chunks.

    A bank may be larger than memory: while the device computes, only the next few chunks are read.
    """
    rows = chunks.Rows(programs, sizes)

    def calls() -> Iterator[Callable[[], Callable[[], list[Scored]]]]:
        for of_shape, size in chunks.by_shape(models, sizes):
            yield functools.partial(rows.add, programs.place(of_shape, size))
        yield rows.finish

    for fetch in parallel.in_order(calls(), backend.choices().calls_ahead):
        yield from fetch()


def _undefined_notes(undefined: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Yield one line per reason and set of methods that it applies to."""
    methods_of: dict[tuple[str, str], list[str]] = {}
    for (name, method), reason in undefined.items():
        methods_of.setdefault((name, reason), []).append(method)
    models_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (name, reason), methods in methods_of.items():
        models_of.setdefault((reason, tuple(methods)), []).append(name)
    for (reason, labels), names in models_of.items():
        verb = "is" if len(labels) == 1 else "are"
        yield f"{_models(names)}: {', '.join(labels)} {verb} undefined (NaN): {reason}"


def _models(names: Sequence[str]) -> str:
    word = "model" if len(names) == 1 else "models"
    return f"{word} {printing.some([repr(name) for name in names], LISTED)}"


def _caveats(rows: Sequence[Scored], methods: Sequence[Method], labels: Labels) -> Iterator[str]:
    """Yield caveats about defined scores, one line per method and reason."""
    for column, method in enumerate(methods):
        if method.selector.caveat is None:
            continue
        found: dict[str, list[str]] = {}
        for row in rows:
            if text := method.selector.caveat(row.scores[column], row.model.width, labels):
                found.setdefault(text, []).append(row.model.name)
        for text, names in found.items():
            yield f"{method.label.partition('+')[0]} of {_models(names)}: {text}"
