"""Our own variables in a safetensors file, with the preprocessing and variant that they need."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from jaxparc import files
from jaxparc.models import ModelSpec
from jaxparc.weights import torchvision
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.formats import KEY
from jaxparc.weights.loaded import Loaded
from jaxparc.weights.translation import Colour, Metadata

# Fields of modules that the weights decide, besides the number of classes and the width.
OPTIONS: Mapping[str, type] = {
    "stride_in_1x1": bool,
    "eps": float,
    "same_padding": bool,
    "window": int,
    "grid": int,
    "positions": str,
    "pooling": str,
    "activation": str,
}


def save(loaded: Loaded, path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Save a network with its weights; the file is complete or not written.

    Args:
        loaded: the network and its weights.
        path: path of the file.
        about: further entries of its header, as JSON can hold them.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.numpy import save_file

    flat = traverse_util.flatten_dict(dict(loaded.variables), sep="/")
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in flat.items()}
    options = {key: getattr(loaded.module, key, None) for key in OPTIONS}
    header = {
        "architecture": loaded.spec.name,
        "mean": loaded.spec.mean,
        "std": loaded.spec.std,
        **{key: value for key, value in options.items() if value is not None},
        **(about or {}),
    }
    with files.replacing(path) as temporary:
        save_file(arrays, temporary, {KEY: json.dumps(header)})


def read_header(path: Path) -> dict[str, Any] | None:
    """Return what `save` wrote beside the arrays, without reading them; None if it is not ours.

    Raises:
        WeightsError: the file is damaged.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        files.require_regular(path)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    with path.open("rb") as opened:
        if opened.read(9)[8:] != b"{":  # not of this format
            return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged: {error}") from None
    return header_of(metadata) if KEY in metadata else None


def header_of(metadata: Metadata) -> dict[str, Any]:
    """Return what `save` wrote beside the arrays.

    Raises:
        WeightsError: it cannot be parsed.
    """
    try:
        return dict(json.loads(metadata[KEY]))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"the metadata {KEY!r} cannot be read: {error}") from None


def colour(value: Any, key: str) -> Colour:
    """Return three numbers, for red, green and blue; those of "std" are above 0.

    Raises:
        WeightsError: it is something else.
    """
    numbers = isinstance(value, list | tuple) and len(value) == 3
    if not numbers or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e6 for x in value
    ):
        raise WeightsError(f"{key} is {str(value)[:60]}; expected three numbers")
    red, green, blue = (float(x) for x in value)
    if key == "std" and not min(red, green, blue) > 0:
        raise WeightsError(f"std is {value}; expected three numbers above 0")
    return red, green, blue


def load(
    spec: ModelSpec, header: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> tuple[ModelSpec, dict[str, Any], int]:
    """Return the architecture as the file needs it, its variables, and the number of classes.

    Args:
        spec: the architecture.
        header: of the file, as `header_of` returns it.
        state: the file's arrays by name.

    Raises:
        WeightsError: the file is of another architecture, or its arrays are not the network's.
    """
    if header.get("architecture") != spec.name:
        raise WeightsError(
            f"the weights are of {str(header.get('architecture'))[:60]}; expected {spec.name}"
        )
    mean, std = (colour(header.get(key), key) for key in ("mean", "std"))
    options = {key: header[key] for key in OPTIONS if header.get(key) is not None}
    for key, value in options.items():
        if not isinstance(value, OPTIONS[key]):
            raise WeightsError(f"{key} is {str(value)[:60]}; expected a {OPTIONS[key].__name__}")
    if not hasattr(spec.module(num_classes=0), "stride_in_1x1"):
        options.pop("stride_in_1x1", None)  # older files have it for all networks
    head = state.get("params/head/kernel")
    if head is None or head.ndim != 2 or not head.shape[0]:
        raise WeightsError("the file has no head; expected an array params/head/kernel")
    shapes = torchvision.variable_shapes(
        spec.name, num_classes=head.shape[1], width=head.shape[0] / spec.feature_width, **options
    )
    expected = {
        name: tuple(leaf.shape)
        for name, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
    }
    torchvision.account(spec.name, expected, state)
    variables = traverse_util.unflatten_dict(
        {name: np.asarray(array, np.float32) for name, array in state.items()}, sep="/"
    )
    module = functools.partial(spec.module, **options) if options else spec.module
    spec = dataclasses.replace(spec, module=module, mean=mean, std=std)
    return spec, variables, head.shape[1]
