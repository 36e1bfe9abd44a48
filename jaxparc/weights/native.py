"""Our own variables in a safetensors file, with the preprocessing and variant that they want."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from jaxparc import files
from jaxparc.models import Loaded, ModelSpec
from jaxparc.weights import WeightsError, torchvision
from jaxparc.weights.reading import KEY

# Fields of modules that weights decide, besides the number of classes and the width.
OPTIONS: Mapping[str, type] = {"stride_in_1x1": bool, "eps": float, "same_padding": bool}


def save(loaded: Loaded, path: Path) -> None:
    """Writes a loaded network, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.numpy import save_file

    flat = traverse_util.flatten_dict(dict(loaded.variables), sep="/")
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in flat.items()}
    set_ = {key: getattr(loaded.module, key, None) for key in OPTIONS}
    told = {
        "architecture": loaded.spec.name,
        "mean": loaded.spec.mean,
        "std": loaded.spec.std,
        **{key: value for key, value in set_.items() if value is not None},
    }
    with files.replacing(path) as temporary:
        save_file(arrays, temporary, {KEY: json.dumps(told)})


def told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `save` wrote beside the arrays.

    Raises:
        WeightsError: it is something else.
    """
    try:
        return dict(json.loads(facts[KEY]))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"what it says of itself cannot be read: {error}") from None


def colour(value: Any, key: str) -> tuple[float, float, float]:
    """Three numbers, of red, green and blue; those of "std" are above 0.

    Raises:
        WeightsError: it is something else.
    """
    numbers = isinstance(value, list | tuple) and len(value) == 3
    if not numbers or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e6 for x in value
    ):
        raise WeightsError(f"its {key} is {str(value)[:60]}; expected three numbers")
    red, green, blue = (float(x) for x in value)
    if key == "std" and not min(red, green, blue) > 0:
        raise WeightsError(f"its std is {value}; expected three numbers above 0")
    return red, green, blue


def load(
    spec: ModelSpec, about: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> tuple[ModelSpec, dict[str, Any], int]:
    """The architecture as the file wants it, its variables, and the number of classes.

    Raises:
        WeightsError: the file is of another architecture, or its arrays are not the network's.
    """
    if about.get("architecture") != spec.name:
        raise WeightsError(f"it is of {str(about.get('architecture'))[:60]}, not of {spec.name}")
    mean, std = (colour(about.get(key), key) for key in ("mean", "std"))
    options = {key: about[key] for key in OPTIONS if about.get(key) is not None}
    for key, value in options.items():
        if not isinstance(value, OPTIONS[key]):
            raise WeightsError(
                f"its {key} is {str(value)[:60]}; expected a {OPTIONS[key].__name__}"
            )
    if not hasattr(spec.module(num_classes=0), "stride_in_1x1"):
        options.pop("stride_in_1x1", None)  # older files have it of all networks
    head = state.get("params/head/kernel")
    if head is None or head.ndim != 2 or not head.shape[0]:
        raise WeightsError("it has no head")
    shapes = torchvision.variable_shapes(
        spec.name, num_classes=head.shape[1], width=head.shape[0] / spec.feature_width
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
