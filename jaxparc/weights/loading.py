"""From a weight file to a network."""

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

from jaxparc import models
from jaxparc.models import ModelSpec
from jaxparc.weights import configs, families, formats, native, reading, schemes, torchvision
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.loaded import Loaded
from jaxparc.weights.reading import Checkpoint
from jaxparc.weights.translation import Colour, Metadata, Translated, Variant

CHANNELS = ("rgb", "bgr")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """What a weight file may not tell: the keyword arguments of `load`."""

    num_classes: int | None = None
    scheme: str | None = None
    variant: str | None = None
    weights_key: str | None = None
    ignore: Collection[str] = ()
    channels: str | None = None
    stride_in_1x1: bool | None = None


def options_of(given: Any) -> dict[str, Any]:
    """Return the keyword arguments of `load` among the attributes of an object.

    Args:
        given: such as a model of a bank file, or a command's arguments.
    """
    names = (field.name for field in dataclasses.fields(_Options))
    return {name: getattr(given, name) for name in names if hasattr(given, name)}


def load(
    name: str | None,
    path: str | Path,
    *,
    num_classes: int | None = None,
    scheme: str | None = None,
    variant: str | None = None,
    weights_key: str | None = None,
    ignore: Collection[str] = (),
    channels: str | None = None,
    stride_in_1x1: bool | None = None,
) -> Loaded:
    """Load published weights of any format; the file is parsed, never executed, and read once.

    Args:
        name: architecture, a key of `models.MODELS`; None to tell it by the names in the file.
        path: a file of PyTorch, safetensors, npz, a pickle of NumPy arrays, HDF5, a .keras archive,
            TensorFlow.js's model.json, an index of shards, or a folder with one of
            `weights.formats.HUB_FILES`.
        num_classes: of a new head with a fixed seed, for weights without a head; by default they
            get a head of 0 classes. Of weights with a head, the number that is expected.
        scheme: the naming scheme, one of `weights.families.of(name).schemes`; by default, told by
            the names.
        variant: which of several networks with the same names, where the file does not tell: "msra"
            or "torchvision" for Detectron2; a name of timm's, such as "tf_efficientnet_lite0".
        weights_key: the key of the weights in the file, such as "state_dict_ema", or the prefix of
            their names, such as "teacher.backbone"; by default, found.
        ignore: patterns, such as "criterion.*", of names in the file that are not of the network.
        channels: "rgb" or "bgr", the order of the images that the weights need; by default the
            scheme's.
        stride_in_1x1: of ResNets, whether the first convolution of a bottleneck has the stride; by
            default the scheme's.

    Raises:
        InputError: the architecture is unknown.
        WeightsError: the file is damaged or of an unknown format or scheme; a key is missing,
            unexplained or mis-shaped (all are listed); the number of classes differs; or the file
            does not tell which of several networks, or of several weights, it holds.
        OSError: the file cannot be read.
    """
    options = _Options(
        num_classes=num_classes,
        scheme=scheme,
        variant=variant,
        weights_key=weights_key,
        ignore=ignore,
        channels=channels,
        stride_in_1x1=stride_in_1x1,
    )
    if channels not in (None, *CHANNELS):
        raise WeightsError(f"channels is {channels!r}; expected {' or '.join(CHANNELS)}")
    if name is not None:
        _check_options(models.get(name), options)
    checkpoint = reading.checkpoint(path, weights_key)
    if name is None:
        name = _architecture(checkpoint, path, ignore)
        _check_options(models.get(name), options)
    spec = models.get(name)
    try:
        return _network(spec, checkpoint, options)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}{_hint(spec, checkpoint.arrays)}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        # Names or shapes that no scheme foresees.
        raise WeightsError(
            f"{path}: names or shapes do not fit {spec.name}: {type(error).__name__}: {error}"
        ) from error


def guess(path: str | Path, weights_key: str | None = None, ignore: Collection[str] = ()) -> str:
    """Return the architecture of the weights in a file, by their names.

    Args:
        path: as in `load`.
        weights_key: as in `load`.
        ignore: as in `load`.

    Returns:
        A key of `models.MODELS`, or a description of another network, such as "a MobileNet of 9
        blocks".

    Raises:
        WeightsError: the names do not tell, or the file cannot be parsed.
        OSError: it cannot be read.
    """
    return _architecture(reading.checkpoint(path, weights_key), path, ignore)


def _architecture(checkpoint: Checkpoint, path: str | Path, ignore: Collection[str]) -> str:
    try:
        if formats.KEY in checkpoint.metadata:
            return str(native.header_of(checkpoint.metadata).get("architecture"))
        state, _ = _without(checkpoint.arrays, ignore)
        declared = str(checkpoint.metadata.get("config", "")).partition(".")[0]
        name = declared if declared in models.MODELS else schemes.architecture_of(state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    if name is None:
        names = ", ".join([*checkpoint.arrays][:6])
        raise WeightsError(f"{path}: the names are of no known architecture: {names}")
    return name


def _check_options(spec: ModelSpec, options: _Options) -> None:
    schemes.check(spec.name, options.scheme)
    if options.stride_in_1x1 and not hasattr(spec.module(num_classes=0), "stride_in_1x1"):
        raise WeightsError(f"stride_in_1x1 is for ResNets; {spec.name} has no such option")


def _network(spec: ModelSpec, checkpoint: Checkpoint, options: _Options) -> Loaded:
    state, ignored = _without(checkpoint.arrays, options.ignore)
    metadata = checkpoint.metadata
    if formats.KEY in metadata:
        spec, variables, classes = native.load(spec, native.header_of(metadata), state)
        _check_finite(state, ())
        _check_classes(classes, options.num_classes)
        module = _module(spec, variables)
        _check_native(options, getattr(module, "stride_in_1x1", None))
        return Loaded(spec, module, variables, "jaxparc", (*ignored, *checkpoint.left_out))
    translated = schemes.translate(spec.name, state, options.scheme, metadata)
    headed = _with_head(spec, translated.state, options.num_classes)
    if torchvision.missing(spec.name, headed):  # any array could be a missing one: leave none out
        headed |= translated.beside
        left_out: tuple[str, ...] = translated.left_out
    else:
        left_out = (*translated.left_out, *translated.beside)
    torchvision.check(spec.name, headed)
    _check_finite(state, left_out)
    _check_declared(spec.name, metadata)
    weight, _ = torchvision.head(spec.name, 1, 1)
    classes = len(np.atleast_1d(translated.state.get(weight.key, ())))
    configs.check(metadata, classes, state)
    variant = _variant(spec.name, translated, options)
    if variant.bgr if options.channels is None else options.channels == "bgr":
        stem = torchvision.stem_key(spec.name)
        headed[stem] = headed[stem][:, ::-1]
    fields = {**variant.options, **families.of(spec.name).options(spec.name, headed)}
    if options.stride_in_1x1 is not None:
        fields["stride_in_1x1"] = options.stride_in_1x1
    spec = dataclasses.replace(
        spec,
        module=functools.partial(spec.module, **fields) if fields else spec.module,
        mean=_colour(metadata, "mean") or variant.mean or spec.mean,
        std=_colour(metadata, "std") or variant.std or spec.std,
        **metadata.get("geometry", {}),
    )
    variables = torchvision.from_torchvision(spec.name, headed)
    every = (*left_out, *ignored, *checkpoint.left_out)
    notes = (*checkpoint.notes, *translated.notes)
    return Loaded(spec, _module(spec, variables), variables, translated.scheme, every, notes)


def _check_classes(found: int, expected: int | None) -> None:
    if expected not in (None, found):
        raise WeightsError(f"the head has {found} classes; expected {expected}")


def _check_native(options: _Options, stride_in_1x1: bool | None) -> None:
    """Check that no option contradicts what a file of this library declares.

    Raises:
        WeightsError: one does.
    """
    given: dict[str, Any] = {"scheme": options.scheme, "variant": options.variant}
    if options.stride_in_1x1 != stride_in_1x1:
        given["stride_in_1x1"] = options.stride_in_1x1
    given["channels"] = None if options.channels == "rgb" else options.channels
    if others := [f"{key} {value!r}" for key, value in given.items() if value is not None]:
        raise WeightsError(
            "the file is of this library, takes RGB images and declares its own options; found "
            f"{', '.join(others)}, expected none"
        )


def _module(spec: ModelSpec, variables: Mapping[str, Any]) -> Any:
    """Return the network with the number of classes and the width of its weights."""
    features, num_classes = variables["params"]["head"]["kernel"].shape
    return spec.module(num_classes=num_classes, width=features / spec.feature_width)


def _without(
    arrays: Mapping[str, np.ndarray], ignore: Collection[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the arrays whose names match no pattern, and the names that match one.

    Raises:
        WeightsError: a pattern matches no name.
    """
    for pattern in ignore:
        if not fnmatch.filter(arrays, pattern):
            raise WeightsError(f"ignore has {pattern!r}, which matches no name in the file")
    ignored = tuple(k for k in arrays if any(fnmatch.fnmatchcase(k, p) for p in ignore))
    return {k: a for k, a in arrays.items() if k not in ignored}, ignored


def _check_finite(state: Mapping[str, np.ndarray], left_out: Collection[str]) -> None:
    """Check that the weights are finite floating-point numbers.

    Raises:
        WeightsError: an array that is not left out has others.
    """
    skipped = set(left_out)
    for name, array in state.items():
        if name in skipped:
            continue
        if not jnp.issubdtype(array.dtype, np.floating):
            raise WeightsError(f"{name} is {array.dtype}; expected floating-point numbers")
        if not np.isfinite(array.astype(np.float32)).all():
            raise WeightsError(f"{name} has values that are not finite")


# timm's names of architectures, where they are others; with those of some trainings around them.
_TIMM: Mapping[str, str] = {"mobilenet_v2": "mobilenetv2_100"}
_TRAININGS = r"((tf|tv|gluon|ssl|swsl|ig)_)?{}(_v1b)?"
# timm's networks that have the names of a ResNet's weights and are different.
_ALIKE = re.compile(r"blur|anti_?alias|(^|[^a-z]|resne[xs]?t)_?aa(\d|_|$)", re.IGNORECASE)


def _check_declared(name: str, metadata: Metadata) -> None:
    """Check that a file does not declare another network with the same names.

    Raises:
        WeightsError: it does.
    """
    declared = str(metadata.get("config", metadata.get("arch", ""))).partition(".")[0]
    known = _TRAININGS.format(_TIMM.get(name, name))
    other = "config" in metadata and not re.fullmatch(known, declared)
    if other or _ALIKE.search(declared):
        raise WeightsError(f"the file declares the network {declared[:60]}; expected {name}")


def _variant(name: str, translated: Translated, options: _Options) -> Variant:
    """Return the variant that the user chose, or else the file declares.

    Raises:
        WeightsError: neither does, or there is no such variant.
    """
    variant = options.variant
    variants = translated.variants
    if variant is not None and variant not in (*variants, name):
        known = ", ".join(filter(None, variants)) or name
        raise WeightsError(f"unknown variant {variant!r}; known: {known}")
    which = variant if variant in variants else translated.evident
    if which is None and options.scheme is not None:
        which = translated.by_scheme
    if which is None:
        choices = "; ".join(f"{key!r}: {_described(value)}" for key, value in variants.items())
        raise WeightsError(
            "several networks have these names, and the file does not declare which: variant is "
            f"one of {choices}"
        )
    return variants[which]


def _described(variant: Variant) -> str:
    """Return a variant in words."""
    options = [f"{key} {value}" for key, value in variant.options.items()]
    images = "the architecture's mean and std"
    if variant.mean is not None and variant.std is not None:
        mean, std = (", ".join(f"{x:.3g}" for x in c) for c in (variant.mean, variant.std))
        images = f"mean {mean}, std {std}"
    return ", ".join([*options, images, *(["BGR"] if variant.bgr else [])])


def _colour(metadata: Metadata, key: str) -> Colour | None:
    """Return the mean or std that a hub's config.json declares."""
    return native.colour(metadata[key], key) if key in metadata else None


def _with_head(
    spec: ModelSpec, state: Mapping[str, np.ndarray], num_classes: int | None
) -> dict[str, np.ndarray]:
    """Return the state dict with its head, or a new one."""
    weight, _ = torchvision.head(spec.name, 1, 1)
    if weight.key in state:
        found = len(np.atleast_1d(state[weight.key]))
        _check_classes(found, num_classes)
        return dict(state)
    classes = num_classes or 0
    # Without a head, the first convolution tells the width.
    stem = state.get(torchvision.stem_key(spec.name))
    channels = torchvision.stem_channels(spec.name)
    width = 1 if stem is None or stem.ndim != 4 else len(stem) / channels
    features = max(round(spec.feature_width * width), 1)
    drawn = models.new_head(jax.random.key(0), features, classes)
    head = {
        entry.key: entry.to_torch(np.asarray(drawn[entry.path[-1]]))
        for entry in torchvision.head(spec.name, features, classes)
    }
    return {**state, **head}


def _hint(spec: ModelSpec, state: Mapping[str, np.ndarray]) -> str:
    """Return a line that names the architecture that the weights look like, if it is another."""
    try:
        found = schemes.architecture_of(state)
    except WeightsError:
        return ""
    return "" if found in (None, spec.name) else f"\n  it looks like {found}"
