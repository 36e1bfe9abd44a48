"""From a file of weights to a network: what `models.load` does."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxparc.models import Loaded, ModelSpec, new_head
from jaxparc.weights import WeightsError, native, reading, schemes, torchvision


def load(spec: ModelSpec, path: str | Path, num_classes: int | None, scheme: str | None) -> Loaded:
    """As `models.load`."""
    state = reading.read(path)
    try:
        if not Path(path).is_dir() and (about := native.told(Path(path))) is not None:
            spec, variables, found = native.load(spec, about, state)
            if num_classes not in (None, found):
                raise WeightsError(f"its head is of {found} classes, not of {num_classes}")
            return Loaded(spec, _module(spec, variables), variables, "jaxparc", ())
        translated = schemes.translate(spec.name, state, scheme)
        spec = _variant(spec, translated)
        headed = _with_head(spec, translated.state, num_classes)
        variables = torchvision.from_torchvision(spec.name, headed)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}{_hint(spec, state)}") from None
    module = _module(spec, variables)
    return Loaded(spec, module, variables, translated.scheme, translated.left_out)


def _module(spec: ModelSpec, variables: Mapping[str, Any]) -> Any:
    """The network of as many classes, and as wide, as its weights are."""
    features, num_classes = variables["params"]["head"]["kernel"].shape
    return spec.module(num_classes=num_classes, width=features / spec.feature_width)


def _variant(spec: ModelSpec, translated: torchvision.Translated) -> ModelSpec:
    """The architecture with what its weights want."""
    module: Any = spec.module
    if translated.stride_in_1x1:
        module = functools.partial(module, stride_in_1x1=True)
    mean, std = translated.mean or spec.mean, translated.std or spec.std
    return dataclasses.replace(spec, module=module, mean=mean, std=std)


def _with_head(
    spec: ModelSpec, state: Mapping[str, np.ndarray], num_classes: int | None
) -> dict[str, np.ndarray]:
    """The state dict with a head."""
    weight, _ = torchvision.head(spec.name, 1, 1)
    if weight.key in state:
        found = len(np.atleast_1d(state[weight.key]))
        if num_classes not in (None, found):
            raise WeightsError(f"its head is of {found} classes, not of {num_classes}")
        return dict(state)
    classes = num_classes or 0
    # At another width than 1, the stem tells it.
    width = len(state["conv1.weight"]) / 64 if "conv1.weight" in state else 1
    features = round(spec.feature_width * width)
    drawn = new_head(jax.random.key(0), features, classes)
    head = {
        entry.key: entry.to_torch(np.asarray(drawn[entry.path[-1]]))
        for entry in torchvision.head(spec.name, features, classes)
    }
    return {**state, **head}


def guess(path: str | Path) -> str:
    """The architecture of a file's weights, by their names.

    Raises:
        WeightsError: it cannot be told, or the file cannot be read.
    """
    state = reading.read(path)
    if not Path(path).is_dir() and (about := native.told(Path(path))) is not None:
        return str(about.get("architecture"))
    if (found := schemes.looks_like(state)) is None:
        raise WeightsError(
            f"{path}: no known architecture has its names: {', '.join([*state][:6])}"
        )
    return found


def _hint(spec: ModelSpec, state: Mapping[str, np.ndarray]) -> str:
    """Which other architecture the weights look like, if one."""
    found = schemes.looks_like(state)
    return "" if found in (None, spec.name) else f"\n  it looks like {found}"
