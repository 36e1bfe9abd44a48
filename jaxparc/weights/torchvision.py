"""torchvision's names and layouts for the networks of `jaxparc.models`.

EfficientNet-Lite, which torchvision lacks, has those of efficientnet_lite_pytorch.

The names are generated from our own network: a short table of regular expressions rewrites each
variable's path to the key in torchvision's state dict, so that a key is explained if and only if
a variable needs it. torch is not needed; tensors are passed as NumPy arrays:

    from_torchvision("resnet18", {k: v.numpy() for k, v in state_dict.items()})

torchvision's published GoogLeNet was trained on images in [-1, 1], to which its wrapper converts
(`transform_input`). That cannot be folded into the first convolution, whose zero padding would
shift, so those weights need mean = std = 0.5 in place of the `ModelSpec`'s.
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
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.translation import Renames, renamed

_RESNET: Renames = (
    (r"^head$", "fc"),
    (r"^(layer\d)_(\d+)", r"\1.\2"),
    (r"downsample_conv$", "downsample.0"),
    (r"downsample_bn$", "downsample.1"),
)

# The index of each fire module in torchvision's list of layers, which also counts pools.
_FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}

_EFFICIENTNET: Renames = (
    (r"^stem_conv$", "_conv_stem"),
    (r"^stem_bn$", "_bn0"),
    (r"^last_conv$", "_conv_head"),
    (r"^last_bn$", "_bn1"),
    (r"^head$", "_fc"),
    (r"^block(\d+)", r"_blocks.\1"),
    (r"\.(\w+)_conv$", r"._\1_conv"),
    (r"\.expand_bn$", "._bn0"),
    (r"\.depthwise_bn$", "._bn1"),
    (r"\.project_bn$", "._bn2"),
)

# Substitutions, applied in turn, from the path of our module, joined by dots, to torchvision's.
_RENAMES: Mapping[str, Renames] = {
    "alexnet": (
        (r"^conv1$", "features.0"),
        (r"^conv2$", "features.3"),
        (r"^conv3$", "features.6"),
        (r"^conv4$", "features.8"),
        (r"^conv5$", "features.10"),
        (r"^fc1$", "classifier.1"),
        (r"^fc2$", "classifier.4"),
        (r"^head$", "classifier.6"),
    ),
    "googlenet": ((r"^head$", "fc"), (r"(branch\d)_(\d)", r"\1.\2")),
    "resnet18": _RESNET,
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "squeezenet1_1": (
        (r"^conv1$", "features.0"),
        (r"^fire(\d)_", lambda m: f"features.{_FIRES[int(m[1])]}."),
        (r"^head$", "classifier.1"),
    ),
    "mobilenet_v2": (
        (r"^stem_conv$", "features.0.0"),
        (r"^stem_bn$", "features.0.1"),
        (r"^last_conv$", "features.18.0"),
        (r"^last_bn$", "features.18.1"),
        (r"^head$", "classifier.1"),
        # the first block has no expansion, and its layers are numbered without one
        (r"^block0\.depthwise", "block0.expand"),
        (r"^block0\.project_conv$", "features.1.conv.1"),
        (r"^block0\.project_bn$", "features.1.conv.2"),
        (r"^block(\d+)", lambda m: f"features.{int(m[1]) + 1}.conv"),
        (r"\.expand_conv$", ".0.0"),
        (r"\.expand_bn$", ".0.1"),
        (r"\.depthwise_conv$", ".1.0"),
        (r"\.depthwise_bn$", ".1.1"),
        (r"\.project_conv$", ".2"),
        (r"\.project_bn$", ".3"),
    ),
    "efficientnet_lite0": _EFFICIENTNET,
    "efficientnet_lite1": _EFFICIENTNET,
    "efficientnet_lite2": _EFFICIENTNET,
}

_LEAVES: Mapping[tuple[str, str], str] = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}

# Left out on purpose: a counter that a fixed momentum does not need, and auxiliary classifiers.
_COUNTER = r".*\.num_batches_tracked"
LEFT_OUT: Mapping[str, tuple[str, ...]] = dict.fromkeys(_RENAMES, (_COUNTER,)) | {
    "googlenet": (_COUNTER, r"aux[12]\..*"),
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
    collection, *modules, leaf = path
    key = f"{module_key(name, '.'.join(modules))}.{_LEAVES[collection, leaf]}"

    axes: tuple[int, ...] = tuple(range(len(shape)))
    view = shape
    if leaf == "kernel" and name == "alexnet" and modules == ["fc1"]:
        # torch flattens the 6x6 map in the order (c, h, w), and we in the order (h, w, c)
        view, axes = (shape[1], shape[0] // 36, 6, 6), (2, 3, 1, 0)
        return Entry(path, key, shape, shape[::-1], view, axes)
    if leaf == "kernel" and name == "squeezenet1_1" and modules == ["head"]:
        return Entry(path, key, shape, (*shape[::-1], 1, 1), shape[::-1], (1, 0))  # a convolution
    if leaf == "kernel":
        # (out, in, h, w) to (h, w, in, out), and (out, in) to (in, out)
        axes = (2, 3, 1, 0) if len(shape) == 4 else (1, 0)
        view = tuple(shape[i] for i in np.argsort(axes))
    return Entry(path, key, shape, view, view, axes)


def module_key(name: str, module: str) -> str:
    """Return torchvision's name of our module, whose path is joined by dots."""
    return renamed(module, _RENAMES[name])


@functools.lru_cache(maxsize=64)  # tracing a network takes up to a second
def variable_shapes(name: str, *, num_classes: int, width: float = 1.0) -> dict[str, Any]:
    """Return our variables' shapes as `jax.ShapeDtypeStruct`s, in the tree that `init` returns."""
    spec = models.get(name)
    size = spec.min_size["imagenet"]
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    module = spec.module(num_classes=num_classes, width=width)
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
        them all. Keys that match `LEFT_OUT` are left out on purpose and may be absent.
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
    module = {"mobilenet": "stem_conv", "efficient": "stem_conv", "googlenet": "conv1.conv"}
    return f"{module_key(name, module.get(name[:9], 'conv1'))}.weight"


def stem_channels(name: str) -> int:
    """Return the number of channels of the first convolution at width 1."""
    key = stem_key(name)
    return next(entry.torch_shape[0] for entry in _entries(name, 1000, 1.0) if entry.key == key)


def _needed(name: str, state_dict: Mapping[str, np.ndarray]) -> tuple[Entry, ...]:
    """Return the entries of a network with the classes and the width of a state dict's head."""
    spec = models.get(name)
    kernel, _ = head(name, 1, 1)
    weight = state_dict.get(kernel.key)
    num_classes, width = 1000, 1.0
    # a head that is missing or has another rank is reported by `account`, with the rest
    if weight is not None and weight.ndim == len(kernel.torch_shape) and weight.shape[1]:
        num_classes, width = weight.shape[0], weight.shape[1] / spec.feature_width
    return _entries(name, num_classes, width)


@functools.lru_cache(maxsize=64)
def _entries(name: str, num_classes: int, width: float) -> tuple[Entry, ...]:
    return entries(name, variable_shapes(name, num_classes=num_classes, width=width))


def account(
    name: str, expected: Mapping[str, tuple[int, ...]], state_dict: Mapping[str, np.ndarray]
) -> None:
    """Check that keys and shapes are the expected ones.

    Args:
      name: architecture.
      expected: shapes by key.
      state_dict: arrays by key; keys that match `LEFT_OUT` are passed over.

    Raises:
      WeightsError: they differ; the message lists all differences.
    """
    found = {
        key: tuple(np.shape(array))
        for key, array in state_dict.items()
        if not any(re.fullmatch(pattern, key) for pattern in LEFT_OUT[name])
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
