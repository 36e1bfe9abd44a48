"""Canonical names and layouts of arrays: of each network, those of its `Family`.

The names are generated from our own network: the path of each of its variables is rewritten to the
key in torchvision's or timm's state dict, so that a key is explained if and only if a variable
needs it. torch is not needed; tensors are passed as NumPy arrays:

    from_torchvision("resnet18", {k: v.numpy() for k, v in state_dict.items()})
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxparc import models
from jaxparc.weights import families
from jaxparc.weights.errors import WeightsError

_LEAVES: Mapping[tuple[str, str], str] = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


@dataclass(frozen=True)
class Entry:
    """The names and layouts of one array, ours and torchvision's.

    Attributes:
      path: in our variables, beginning with the collection.
      key: in torchvision's state dict.
      shape: in our variables.
      torch_shape: in torchvision's state dict.
      view: `torch_shape` with flattened axes separated.
      axes: the transposition from `view` to our layout.
    """

    path: tuple[str, ...]
    key: str
    shape: tuple[int, ...]
    torch_shape: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        """Convert from torchvision's layout to ours, as a float32 copy."""
        ours = array.reshape(self.view).transpose(self.axes).reshape(self.shape)
        return np.array(ours, np.float32, order="C")

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Convert from our layout to torchvision's, as a float32 copy."""
        apart = array.reshape([self.view[axis] for axis in self.axes])
        theirs = apart.transpose(np.argsort(self.axes)).reshape(self.torch_shape)
        return np.array(theirs, np.float32, order="C")


def head(name: str, features: int, num_classes: int) -> tuple[Entry, Entry]:
    """Return the entries of the last linear layer's weight and bias."""
    return (
        _entry(name, ("params", "head", "kernel"), (features, num_classes)),
        _entry(name, ("params", "head", "bias"), (num_classes,)),
    )


def entries(name: str, variables: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Return one entry for every array of a network.

    Args:
      name: architecture, a key of `models.MODELS`.
      variables: what the network's `init` returns, or its shapes from `jax.eval_shape`.
    """
    flat = traverse_util.flatten_dict(variables)
    return tuple(_entry(name, path, tuple(leaf.shape)) for path, leaf in flat.items())


def _entry(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Entry:
    family = families.of(name)
    collection, *modules, leaf = path
    # an array beside modules, such as a class token, has the same name everywhere
    owner = [family.rename(name, ".".join(modules))] if modules else []
    key = ".".join([*owner, _LEAVES.get((collection, leaf), leaf)])
    if (special := family.layout(path, shape)) is not None:
        return Entry(path, key, shape, *special)
    axes: tuple[int, ...] = tuple(range(len(shape)))
    view = shape
    if leaf == "kernel":
        # (out, in, h, w) to (h, w, in, out), and (out, in) to (in, out)
        axes = (2, 3, 1, 0) if len(shape) == 4 else (1, 0)
        view = tuple(shape[i] for i in np.argsort(axes))
    return Entry(path, key, shape, view, view, axes)


@functools.lru_cache(maxsize=256)  # tracing a network takes up to a second
def variable_shapes(
    name: str, *, num_classes: int, width: float = 1.0, **options: Any
) -> dict[str, Any]:
    """Return our variables' shapes as `jax.ShapeDtypeStruct`s, in the tree that `init` returns.

    Args:
      name: architecture, a key of `models.MODELS`.
      num_classes: a field of its module.
      width: likewise.
      **options: further fields.
    """
    spec = models.get(name)
    size = spec.min_size["imagenet"]
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    module = spec.module(num_classes=num_classes, width=width, **options)
    return jax.eval_shape(module.init, jax.random.key(0), images)


def from_torchvision(name: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert torchvision's state dict to variables of our network.

    Args:
      name: architecture, a key of `models.MODELS`, with the "imagenet" stem.
      state_dict: arrays by torchvision's keys. The number of classes and the width are those of
        the last linear layer's weight.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays; AlexNet has no "batch_stats".

    Raises:
      InputError: the architecture is unknown.
      WeightsError: a key is missing or unexplained, or has an unexpected shape; the message lists
        them all. Keys that the family leaves out on purpose may be absent.
    """
    found = check(name, state_dict)
    return traverse_util.unflatten_dict(
        {entry.path: entry.to_flax(np.asarray(state_dict[entry.key])) for entry in found}
    )


def check(name: str, state_dict: Mapping[str, np.ndarray]) -> tuple[Entry, ...]:
    """Return the entries of a state dict, which must have exactly the network's keys and shapes.

    Raises:
      InputError: as in `from_torchvision`.
      WeightsError: as in `from_torchvision`.
    """
    needed = _needed(name, state_dict)
    account(name, {entry.key: entry.torch_shape for entry in needed}, state_dict)
    return needed


def missing(name: str, state_dict: Mapping[str, np.ndarray]) -> list[str]:
    """Return the keys that a network needs and a state dict lacks."""
    return [entry.key for entry in _needed(name, state_dict) if entry.key not in state_dict]


def stem_key(name: str) -> str:
    """Return the key of the first convolution's kernel."""
    family = families.of(name)
    return f"{family.rename(name, family.stem)}.weight"


def stem_channels(name: str) -> int:
    """Return the number of channels of the first convolution at width 1."""
    key = stem_key(name)
    return next(entry.torch_shape[0] for entry in _entries(name, 1000, 1.0, ()) if entry.key == key)


def _needed(name: str, state_dict: Mapping[str, np.ndarray]) -> tuple[Entry, ...]:
    """Return the entries of a network with the classes and the width of a state dict's head."""
    spec = models.get(name)
    kernel, _ = head(name, 1, 1)
    weight = state_dict.get(kernel.key)
    num_classes, width = 1000, 1.0
    # a head that is missing or has another rank is reported by `account`, with the rest
    if weight is not None and weight.ndim == len(kernel.torch_shape) and weight.shape[1]:
        num_classes, width = weight.shape[0], weight.shape[1] / spec.feature_width
    options = families.of(name).options(name, state_dict)
    return _entries(name, num_classes, width, tuple(sorted(options.items())))


@functools.lru_cache(maxsize=256)
def _entries(
    name: str, num_classes: int, width: float, options: tuple[tuple[str, Any], ...]
) -> tuple[Entry, ...]:
    shapes = variable_shapes(name, num_classes=num_classes, width=width, **dict(options))
    return entries(name, shapes)


def account(
    name: str, expected: Mapping[str, tuple[int, ...]], state_dict: Mapping[str, np.ndarray]
) -> None:
    """Check that keys and shapes are the expected ones.

    Args:
      name: architecture.
      expected: shapes by key.
      state_dict: arrays by key; those that the family leaves out are passed over.

    Raises:
      WeightsError: they differ; the message lists all differences.
    """
    left_out = families.of(name).left_out
    found = {
        key: tuple(np.shape(array))
        for key, array in state_dict.items()
        if not any(re.fullmatch(pattern, key) for pattern in left_out)
    }
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in found]
    problems += [
        f"unexplained: {key} {shape}" for key, shape in found.items() if key not in expected
    ]
    problems += [
        f"mis-shaped: {key}: found {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if problems:
        raise WeightsError(
            "\n  ".join([f"the weights do not fit {name} ({len(problems)} problems):", *problems])
        )
