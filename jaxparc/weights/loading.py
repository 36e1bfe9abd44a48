"""From a file of weights to a network: what `models.load` does."""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxparc.models import Loaded, ModelSpec, new_head
from jaxparc.weights import WeightsError, native, reading, schemes, torchvision
from jaxparc.weights.reading import Checkpoint
from jaxparc.weights.torchvision import Facts, Translated, Variant

CHANNELS = ("rgb", "bgr")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What a file of weights may not say; the fields are those arguments of `models.load`."""

    num_classes: int | None = None
    scheme: str | None = None
    variant: str | None = None
    weights_key: str | None = None
    ignore: Collection[str] = ()
    channels: str | None = None
    stride_in_1x1: bool | None = None


def chosen(given: Any) -> dict[str, Any]:
    """The choices of a model of a bank, or of a command line, as arguments of `models.load`."""
    names = (field.name for field in dataclasses.fields(Choices))
    return {name: getattr(given, name) for name in names if hasattr(given, name)}


def load(spec: ModelSpec, path: str | Path, choices: Choices) -> Loaded:
    """As `models.load`."""
    schemes.check(spec.name, choices.scheme)
    if choices.channels not in (None, *CHANNELS):
        raise WeightsError(f"channels are {choices.channels!r}; expected {' or '.join(CHANNELS)}")
    if choices.stride_in_1x1 and not spec.name.startswith("resnet"):
        raise WeightsError(f"{spec.name} has no stride_in_1x1; ResNets have")
    found = reading.checkpoint(path, choices.weights_key)
    try:
        return _loaded(spec, found, choices)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}{_hint(spec, found.arrays)}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        # Names or shapes that no scheme foresees.
        raise WeightsError(
            f"{path}: its names or shapes are no {spec.name}'s: {type(error).__name__}: {error}"
        ) from error


def _loaded(spec: ModelSpec, found: Checkpoint, choices: Choices) -> Loaded:
    state, ignored = _without(found.arrays, choices.ignore)
    if reading.KEY in found.facts:
        spec, variables, classes = native.load(spec, native.told(found.facts), state)
        _check_finite(state, ())
        _check_classes(classes, choices.num_classes)
        module = _module(spec, variables)
        _check_ours(choices, getattr(module, "stride_in_1x1", None))
        return Loaded(spec, module, variables, "jaxparc", (*ignored, *found.left_out))
    translated = schemes.translate(spec.name, state, choices.scheme, found.facts)
    headed = _with_head(spec, translated.state, choices.num_classes)
    lacking = torchvision.lacking(spec.name, headed)
    if lacking:  # then nothing is left out that could be it
        headed |= translated.beside
        left_out: tuple[str, ...] = translated.left_out
    else:
        left_out = (*translated.left_out, *translated.beside)
    torchvision.check(spec.name, headed)
    _check_finite(state, left_out)
    _check_same(spec.name, found.facts)
    which = _variant(spec.name, translated, choices)
    if which.bgr if choices.channels is None else choices.channels == "bgr":
        stem = torchvision.stem_key(spec.name)
        headed[stem] = headed[stem][:, ::-1]
    options = dict(which.options)
    if choices.stride_in_1x1 is not None:
        options["stride_in_1x1"] = choices.stride_in_1x1
    spec = dataclasses.replace(
        spec,
        module=functools.partial(spec.module, **options) if options else spec.module,
        mean=_colour(found.facts, "mean") or which.mean or spec.mean,
        std=_colour(found.facts, "std") or which.std or spec.std,
    )
    variables = torchvision.from_torchvision(spec.name, headed)
    every = (*left_out, *ignored, *found.left_out)
    notes = (*found.notes, *translated.notes)
    return Loaded(spec, _module(spec, variables), variables, translated.scheme, every, notes)


def _check_classes(found: int, expected: int | None) -> None:
    if expected not in (None, found):
        raise WeightsError(f"its head is of {found} classes, not of {expected}")


def _check_ours(choices: Choices, stride_in_1x1: bool | None) -> None:
    """Raises a `WeightsError` for what our own files have decided, where it is given besides."""
    given: dict[str, Any] = {"scheme": choices.scheme, "variant": choices.variant}
    if choices.stride_in_1x1 != stride_in_1x1:
        given["stride_in_1x1"] = choices.stride_in_1x1
    given["channels"] = None if choices.channels == "rgb" else choices.channels
    if others := [f"{key} {value!r}" for key, value in given.items() if value is not None]:
        raise WeightsError(
            f"it is of this library's own names, with RGB images, and says of itself what else it "
            f"wants; {', '.join(others)} cannot be had of it"
        )


def _module(spec: ModelSpec, variables: Mapping[str, Any]) -> Any:
    """The network of as many classes, and as wide, as its weights are."""
    features, num_classes = variables["params"]["head"]["kernel"].shape
    return spec.module(num_classes=num_classes, width=features / spec.feature_width)


def _without(
    arrays: Mapping[str, np.ndarray], ignore: Collection[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Arrays whose names match no pattern, and the names of those that do.

    Raises:
        WeightsError: nothing matches a pattern.
    """
    for pattern in ignore:
        if not fnmatch.filter(arrays, pattern):
            raise WeightsError(f"ignore has {pattern!r}, which matches no name in it")
    ignored = tuple(k for k in arrays if any(fnmatch.fnmatchcase(k, p) for p in ignore))
    return {k: a for k, a in arrays.items() if k not in ignored}, ignored


def _check_finite(state: Mapping[str, np.ndarray], left_out: Collection[str]) -> None:
    """Raises a `WeightsError` for weights that are no numbers."""
    passed_over = set(left_out)
    for name, array in state.items():
        if name in passed_over:
            continue
        if not jnp.issubdtype(array.dtype, np.floating):
            raise WeightsError(f"{name} is {array.dtype}; expected floating-point numbers")
        if not np.isfinite(array.astype(np.float32)).all():
            raise WeightsError(f"{name} has values that are not finite")


# timm's names of the architectures here; of other trainings of the same ones before and behind.
_TIMM: Mapping[str, str] = {
    "resnet18": r"((tv|gluon|ssl|swsl|ig)_)?resnet18(_v1b)?",
    "resnet50": r"((tv|gluon|ssl|swsl|ig)_)?resnet50(_v1b)?",
    "resnet101": r"((tv|gluon|ssl|swsl|ig)_)?resnet101(_v1b)?",
    "mobilenet_v2": r"mobilenetv2_100",
}
# Of timm's, what has the names of a ResNet and is none.
_ALIKE = re.compile(r"blur|anti_?alias|(^|[^a-z])(resnet)?_?aa(\d|_|$)", re.IGNORECASE)


def _check_same(name: str, facts: Facts) -> None:
    """Raises a `WeightsError` where a file says that it is of another network of these names."""
    told = str(facts.get("config", facts.get("arch", ""))).partition(".")[0]
    known = _TIMM.get(name, rf"(tf_)?{name}")
    other = "config" in facts and not re.fullmatch(known, told)
    if other or _ALIKE.search(told):
        raise WeightsError(f"it says that it is of {told[:60]}, which is another network")


def _variant(name: str, translated: Translated, choices: Choices) -> Variant:
    """What the network must know; asked for where the file does not say."""
    variant = choices.variant
    variants = translated.variants
    if variant is not None and variant not in (*variants, name):
        known = ", ".join(filter(None, variants)) or name
        raise WeightsError(f"unknown variant {variant!r}; known: {known}")
    which = variant if variant in variants else translated.evident
    if which is None and choices.scheme is not None:
        which = translated.by_scheme
    if which is None:
        means = "; ".join(f"{key!r}: {_told(told)}" for key, told in variants.items())
        raise WeightsError(
            f"its names are those of several networks, and it does not say of which: variant is "
            f"one of {means}"
        )
    return variants[which]


def _told(variant: Variant) -> str:
    """A variant in words."""
    options = [f"{key} {value}" for key, value in variant.options.items()]
    images = "the architecture's mean and std"
    if variant.mean is not None and variant.std is not None:
        mean, std = (", ".join(f"{x:.3g}" for x in c) for c in (variant.mean, variant.std))
        images = f"mean {mean}, std {std}"
    return ", ".join([*options, images, *(["BGR"] if variant.bgr else [])])


def _colour(facts: Facts, key: str) -> torchvision.Colour | None:
    """The mean or the deviation that a hub's file has for its weights."""
    return native.colour(facts[key], key) if key in facts else None


def _with_head(
    spec: ModelSpec, state: Mapping[str, np.ndarray], num_classes: int | None
) -> dict[str, np.ndarray]:
    """The state dict with a head."""
    weight, _ = torchvision.head(spec.name, 1, 1)
    if weight.key in state:
        found = len(np.atleast_1d(state[weight.key]))
        _check_classes(found, num_classes)
        return dict(state)
    classes = num_classes or 0
    # At another width than 1, the stem tells it.
    stem = state.get(torchvision.stem_key(spec.name))
    whole = torchvision.stem_channels(spec.name)
    width = 1 if stem is None or stem.ndim != 4 else len(stem) / whole
    features = max(round(spec.feature_width * width), 1)
    drawn = new_head(jax.random.key(0), features, classes)
    head = {
        entry.key: entry.to_torch(np.asarray(drawn[entry.path[-1]]))
        for entry in torchvision.head(spec.name, features, classes)
    }
    return {**state, **head}


def guess(path: str | Path, weights_key: str | None = None, ignore: Collection[str] = ()) -> str:
    """The architecture of a file's weights, by their names.

    Raises:
        WeightsError: it cannot be told, or the file cannot be read.
    """
    found = reading.checkpoint(path, weights_key)
    try:
        if reading.KEY in found.facts:
            return str(native.told(found.facts).get("architecture"))
        state, _ = _without(found.arrays, ignore)
        name = schemes.looks_like(state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    if name is None:
        raise WeightsError(
            f"{path}: no known architecture has its names: {', '.join([*found.arrays][:6])}"
        )
    return name


def _hint(spec: ModelSpec, state: Mapping[str, np.ndarray]) -> str:
    """Which other architecture the weights look like, if one."""
    try:
        found = schemes.looks_like(state)
    except WeightsError:
        return ""
    return "" if found in (None, spec.name) else f"\n  it looks like {found}"
