"""`rank`: models, images and labels in, a `Ranking` out, without files."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxparc import extras, printing
from jaxparc import labels as labels_
from jaxparc.bank import costs, ranking
from jaxparc.bank.choice import NEEDS, Choice, plan
from jaxparc.bank.costs import Facts
from jaxparc.bank.defaults import RANKED_BY
from jaxparc.bank.folder import Bank
from jaxparc.bank.ranking import About, Ranking
from jaxparc.errors import InputError, OperationError
from jaxparc.extraction import Extracted, compile_network, extract
from jaxparc.geometry import Geometry
from jaxparc.labels import Labels
from jaxparc.report.thumbnails import Thumbnails, thumbnails

# Where the inputs of methods come from, for messages.
_SOURCES = {
    "probs": "models that return logits",
    "reference": "the argument reference",
    "layers": "the argument layers",
    "source_images": "the argument source_images",
    "target_images": "the argument target_images",
}


@extras.advising()
def rank(
    models: Mapping[str, Any],
    images: Any,
    labels: Any,
    *,
    methods: str | Sequence[str] | None = None,
    batch_size: int = 64,
    jit: bool = True,
    reference: Any = None,
    layers: Mapping[str, float] | None = None,
    source_images: Mapping[str, float] | None = None,
    target_images: float | None = None,
    num_classes: int | None = None,
    label_kind: str | None = None,
    facts: Mapping[str, Facts] | None = None,
) -> Ranking:
    """Rank pretrained models by their expected accuracy after fine-tuning on labelled images.

    It is the command `rank` on arrays: models are run over the images one after the other, with
    their speed measured, and scored together. A model that fails does not stop the others: it is
    ranked as undefined, and a note says why.

    Args:
        models: name -> one of

            * a function of a batch of images, or a pair of a function of (variables, batch) and
              variables, as `jaxparc.extract` takes them;
            * the result of `jaxparc.weights.load`, whose network is run on the images, resized and
              cropped to its input size and normalised;
            * features (n, d), or the result of `jaxparc.extract`.
        images: of the probe set, about 500: (n, ...), in the form that the functions expect, as
            `jaxparc.extract` takes them. Loaded networks need (n, h, w, 3) uint8. Not used, and may
            be None, if all models are features.
        labels: of the n images, as `jaxparc.score_bank` takes them.
        methods: names, as `jaxparc.score_bank` takes them, the first of which determines the
            ranking; "all" stands for all methods that can be applied. By default "parc_f32",
            beside "ridge".
        batch_size: images per batch, as `jaxparc.extract` takes it.
        jit: whether to compile the functions, as `jaxparc.extract` takes it.
        reference: as `jaxparc.score_bank` takes it.
        layers: name -> number of layers; of loaded networks and results of `extract` it is known.
        source_images: name -> number of images the model was trained on.
        target_images: as `jaxparc.score_bank` takes it.
        num_classes: as `jaxparc.score_bank` takes it.
        label_kind: as `jaxparc.score_bank` takes it.
        facts: name -> what is known about a model's cost, licence and source (`bank.costs.Facts`),
            to be shown. By default, the parameters of models that are run, the GMACs of loaded
            networks, and the images per second of both.

    Returns:
        The ranking. `print` shows what the command prints, a notebook a table; `best` is the name
        of the best model, `answer` what to fine-tune, in words, `rows` are the models, best first,
        and `write(folder)` writes the files of the command. Warnings of `score_bank` are in
        `notes`.

    Raises:
        InputError: an argument is wrong, or a method is unknown or cannot be applied.
        OperationError: all models failed.
    """
    kinds: dict[str, _Kind] = {}
    for key, model in models.items():
        name = str(key)
        if name in kinds:
            raise InputError(f"duplicate model {name!r}")
        kinds[name] = _kind(name, model)
    if not kinds:
        raise InputError("models is empty; expected at least one")
    named = [methods] if isinstance(methods, str) else methods
    if isinstance(labels, Iterator):
        labels = list(labels)
    encoded = labels_.encode(labels, num_classes, label_kind)
    n = len(encoded.values)
    _check_images(kinds, images, n)
    given: dict[str, Any] = {
        **dict.fromkeys(NEEDS),
        "reference": reference,
        "target_images": target_images,
        "layers": _layers(kinds) | _by_name(layers),
        "source_images": _by_name(source_images),
    }
    choice = Choice(named, False, None, _SOURCES, RANKED_BY)
    plan_for = functools.partial(plan, choice, encoded.values, encoded.kind, num_classes)
    # Whether models return logits is known only later.
    if left_out := plan_for({**given, "probs": True}).left_out:
        raise InputError("; ".join(dict.fromkeys(left_out.values())))
    found, failed = _extracted(kinds, _Images(images), batch_size, jit)
    bank = Bank(
        {name: run.result.features for name, run in found.items()},
        {name: run.result.probs for name, run in found.items() if run.result.probs is not None},
        encoded.values,
        label_kind=encoded.kind,
    )
    chosen = plan_for({**given, "probs": bank.probs})
    notes = [labels_.caveat(labels, encoded.kind)]
    notes += [f"model {name!r} failed: {reason}" for name, reason in failed.items()]
    notes += [f"not scored: {reason}" for reason in chosen.left_out.values()]
    about = About(
        {name: run.facts for name, run in found.items()} | _by_name(facts),
        {"batch_size": batch_size},
        [note for note in notes if note],
        thumbnails=_thumbnails(images, labels, encoded),
    )
    return ranking.make(
        choice, chosen, [bank], given, about, num_classes=num_classes, failed=failed
    )


class _Images:
    """The images, and their central crops, which networks of one size share."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.crops = functools.cache(self._crops)

    def _crops(self, geometry: Geometry) -> Any:
        from jaxparc.training import decoding

        source = decoding.Decoded(self.given, [0] * len(self.given))
        return decoding.KeptCrops(decoding.CentralCrops(source, geometry))


class _Run(NamedTuple):
    """What running a model gave."""

    result: Extracted
    facts: Facts = Facts()


class _Function(NamedTuple):
    """A model given as a function; `variables` is None if it takes none."""

    apply_fn: Callable[..., Any]
    variables: Any = None

    def run(self, images: "_Images", batch_size: int, jit: bool) -> _Run:
        import jax

        timed = costs.TimedImages(images.given)
        found = extract(self.apply_fn, timed, self.variables, batch_size=batch_size, jit=jit)
        variables = self.variables
        if isinstance(variables, Mapping) and "params" in variables:  # Flax has statistics as well
            variables = variables["params"]
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(variables))
        return _Run(found, Facts(parameters=size or None, images_per_second=timed.rate()))


class _Network(NamedTuple):
    """A model given as the result of `weights.load`."""

    loaded: Any  # weights.Loaded, whose module needs flax

    def run(self, images: "_Images", batch_size: int, jit: bool) -> _Run:
        del jit  # compiled anyway
        spec, module, variables, *_ = self.loaded
        network = costs.Stopwatch(compile_network(module, variables, mean=spec.mean, std=spec.std))
        crops = images.crops(spec.geometry)
        found = extract(network, crops, batch_size=batch_size, jit=False)
        return _Run(found, Facts(spec.parameters, spec.gmacs, network.rate()))


class _Features(NamedTuple):
    """A model given by its features."""

    found: Extracted


_Kind = _Function | _Network | _Features


def _kind(name: str, model: Any) -> _Kind:
    """Tell what a model is given as.

    Raises:
        InputError: it is none of those that `rank` takes.
    """
    if isinstance(model, Extracted):
        return _Features(model)
    if hasattr(model, "spec") and hasattr(model, "variables"):  # without importing flax
        return _Network(model)
    if isinstance(model, tuple | list) and len(model) == 2 and callable(model[0]):
        return _Function(*model)
    if callable(model):
        return _Function(model)
    if hasattr(model, "__array__"):
        return _Features(Extracted(model))
    raise InputError(
        f"model {name!r} is a {type(model).__name__}; expected a function, a pair of a function "
        "and variables, the result of weights.load, or an array of features"
    )


def _check_images(kinds: Mapping[str, _Kind], images: Any, n: int) -> None:
    """Check images, and features that are given, before a model is run.

    Raises:
        InputError: they are not of n images, or of a shape or dtype that a model does not take.
    """
    for name, kind in kinds.items():
        if isinstance(kind, _Features):
            shape = np.shape(kind.found.features)
            if len(shape) != 2 or shape[0] != n:
                raise InputError(
                    f"features of model {name!r} have shape {shape}; expected ({n}, d)"
                )
            continue
        if images is None or len(images) != n:
            what = "None" if images is None else f"{len(images)}"
            raise InputError(f"images: {what} for {n} labels; model {name!r} needs {n}")
        if isinstance(kind, _Network):
            shape, dtype = getattr(images, "shape", ()), getattr(images, "dtype", None)
            if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
                form = f"{dtype} {tuple(shape)}" if shape else f"a {type(images).__name__}"
                raise InputError(
                    f"images are {form}; the network of model {name!r} needs uint8 ({n}, h, w, 3)"
                )


def _extracted(
    kinds: Mapping[str, _Kind], images: _Images, batch_size: int, jit: bool
) -> tuple[dict[str, _Run], dict[str, str]]:
    """Run the models.

    Returns:
        What each gave, and the reasons why others failed, by name.

    Raises:
        OperationError: all failed.
    """
    found: dict[str, _Run] = {}
    failed: dict[str, str] = {}
    for name, kind in kinds.items():
        if isinstance(kind, _Features):
            found[name] = _Run(kind.found)
            continue
        try:
            run = kind.run(images, batch_size, jit)
            if not np.isfinite(run.result.features).all():
                raise InputError("its features are not finite")
            found[name] = run
        except Exception as error:  # whatever a user's function raises
            failed[name] = printing.line(error)
    if not found:
        models = "the only model" if len(failed) == 1 else f"all {len(failed)} models"
        raise OperationError(f"{models} failed: {printing.by_reason(failed)}")
    return found, failed


def _thumbnails(images: Any, labels: Any, encoded: Labels) -> Thumbnails:
    """Return thumbnails of images in the usual form, (n, h, w, 3) uint8; none of others."""
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if len(shape) != 4 or shape[3] != 3 or images.dtype != np.uint8:
        return Thumbnails()
    names: dict[int, str] = {}
    if encoded.kind == "classes":
        for code, label in zip(encoded.values.tolist(), labels, strict=True):
            names.setdefault(code, str(label))
    names = {code: names.get(code, "") for code in range(max(names, default=-1) + 1)}
    return thumbnails(np.asarray(images), encoded.values, encoded.kind, [*names.values()])


def _layers(kinds: Mapping[str, _Kind]) -> dict[str, float]:
    """Return the numbers of layers that are known."""
    found: dict[str, float] = {}
    for name, kind in kinds.items():
        if isinstance(kind, _Network):
            found[name] = kind.loaded.spec.layers
        elif isinstance(kind, _Features) and kind.found.layers is not None:
            found[name] = kind.found.layers
    return found


def _by_name(given: Mapping[str, Any] | None) -> dict[str, Any]:
    return {str(name): value for name, value in (given or {}).items()}
