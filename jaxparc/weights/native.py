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

KEY = "jaxparc"  # of the metadata


def save(loaded: Loaded, path: Path) -> None:
    """Writes a loaded network, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.numpy import save_file

    flat = traverse_util.flatten_dict(dict(loaded.variables), sep="/")
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in flat.items()}
    told = {
        "architecture": loaded.spec.name,
        "mean": loaded.spec.mean,
        "std": loaded.spec.std,
        "stride_in_1x1": bool(getattr(loaded.module, "stride_in_1x1", False)),
    }
    with files.replacing(path) as temporary:
        save_file(arrays, temporary, {KEY: json.dumps(told)})


def told(path: Path) -> dict[str, Any] | None:
    """What `save` wrote beside the arrays; None of any other file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size or file.read(1) != b"{":
            return None
        try:
            header = json.loads(b"{" + file.read(length - 1))
            return dict(json.loads(header["__metadata__"][KEY]))
        except (ValueError, KeyError, TypeError):
            return None


def load(
    spec: ModelSpec, about: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> tuple[ModelSpec, dict[str, Any], int]:
    """The architecture as the file wants it, its variables, and the number of classes.

    Raises:
        WeightsError: the file is of another architecture, or its arrays are not the network's.
    """
    if about.get("architecture") != spec.name:
        raise WeightsError(f"it is of {about.get('architecture')}, not of {spec.name}")
    head = state.get("params/head/kernel")
    if head is None or head.ndim != 2:
        raise WeightsError("it has no head")
    shapes = torchvision.variable_shapes(
        spec.name, num_classes=head.shape[1], width=head.shape[0] / spec.feature_width
    )
    expected = {
        name: tuple(leaf.shape)
        for name, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
    }
    torchvision.account(spec.name, expected, state)
    module: Any = spec.module
    if about.get("stride_in_1x1"):
        module = functools.partial(module, stride_in_1x1=True)
    variables = traverse_util.unflatten_dict(
        {name: np.asarray(array, np.float32) for name, array in state.items()}, sep="/"
    )
    spec = dataclasses.replace(
        spec, module=module, mean=tuple(about["mean"]), std=tuple(about["std"])
    )
    return spec, variables, head.shape[1]
