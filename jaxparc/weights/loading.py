"""From a file of weights to a network: what `models.load` does."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxparc.models import Loaded, ModelSpec, new_head
from jaxparc.weights import WeightsError, native, reading, resnets, torchvision


def load(spec: ModelSpec, path: str | Path, num_classes: int | None) -> Loaded:
    """As `models.load`."""
    state = reading.read(path)
    try:
        if not Path(path).is_dir() and (about := native.told(Path(path))) is not None:
            spec, variables, found = native.load(spec, about, state)
            if num_classes not in (None, found):
                raise WeightsError(f"its head is of {found} classes, not of {num_classes}")
            return Loaded(spec, spec.module(num_classes=found), variables, "jaxparc", ())
        if spec.name.startswith("resnet"):
            translated = resnets.translate(state)
            spec = _variant(spec, translated)
        else:
            translated = resnets.Translated("pytorch", _bare(state), ())
        headed, found = _with_head(spec, translated.state, num_classes)
        variables = torchvision.from_torchvision(spec.name, headed)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}{_hint(spec, state)}") from None
    module = spec.module(num_classes=found)
    return Loaded(spec, module, variables, translated.scheme, translated.left_out)


def _variant(spec: ModelSpec, translated: resnets.Translated) -> ModelSpec:
    """The architecture with what its weights want."""
    module: Any = spec.module
    if translated.stride_in_1x1:
        module = functools.partial(module, stride_in_1x1=True)
    mean, std = translated.mean or spec.mean, translated.std or spec.std
    return dataclasses.replace(spec, module=module, mean=mean, std=std)


def _bare(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the prefix that DataParallel puts before every name."""
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): array for key, array in state.items()}
    return dict(state)


def _with_head(
    spec: ModelSpec, state: Mapping[str, np.ndarray], num_classes: int | None
) -> tuple[dict[str, np.ndarray], int]:
    """The state dict with a head, and its number of classes."""
    weight, bias = torchvision.head_keys(spec.name)
    if weight in state:
        found = len(np.atleast_1d(state[weight]))
        if num_classes not in (None, found):
            raise WeightsError(f"its head is of {found} classes, not of {num_classes}")
        return dict(state), found
    classes = num_classes or 0
    # At another width than 1, the stem tells it.
    width = len(state["conv1.weight"]) / 64 if "conv1.weight" in state else 1
    features = round(spec.feature_width * width)
    kernel = np.zeros((features, 0), np.float32)
    if classes:
        kernel = np.asarray(new_head(jax.random.key(0), features, classes)["kernel"])
    return {**state, weight: kernel.T, bias: np.zeros(classes, np.float32)}, classes


def guess(path: str | Path) -> str:
    """The architecture of a file's weights, by their names.

    Raises:
        WeightsError: it cannot be told, or the file cannot be read.
    """
    state = reading.read(path)
    if not Path(path).is_dir() and (about := native.told(Path(path))) is not None:
        return str(about.get("architecture"))
    names = "\n".join(state)
    for mark, name in (("inception3a.", "googlenet"), ("features.10.weight", "alexnet")):
        if mark in names:
            return name
    try:
        return resnets.looks_like(resnets.translate(state).state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _hint(spec: ModelSpec, state: Mapping[str, np.ndarray]) -> str:
    """Which other architecture the weights look like, if one."""
    try:
        found = resnets.looks_like(resnets.translate(state).state)
    except WeightsError:
        return ""
    return f"\n  it looks like {found}" if found != spec.name else ""
