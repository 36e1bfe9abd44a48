"""The networks, each with the metadata that its use needs.

Every network is a Flax Linen module that equals, at width 1, torchvision's network of the same name
or, where torchvision has none, timm's (EfficientNet-Lite: the published one):

    model = models.get("resnet18").module(num_classes=10)
    logits, activations = model.apply(variables, images, train=False, mask=None)

`images` are (b, h, w, 3) float, normalised by the spec's mean and std. `logits` are
(b, num_classes) float32. `activations` are those of the named stages. In all networks, "features"
are the penultimate features, the input of the last linear layer, (b, d) float32 (of SqueezeNet,
whose last layer is a 1x1 convolution, their average over the map), and that layer is named "head".
In training, `mask` (b,) bool is True for real rows, and batch norm ignores padded ones; the
"batch_stats" collection must be mutable, and dropout needs an rng named "dropout".

Fields of all modules: `num_classes`; `width`, a multiplier of all numbers of channels; `dtype` of
the computation (parameters and batch statistics are float32); `stem`, "imagenet" or "small" (for
images of about 32 pixels: 3x3, stride 1, no early pooling; or smaller patches); `axis_name`, the
mapped axis over which batch statistics are synchronised in training. Networks that are trained with
dropout also have `dropout_rate`.
"""

import importlib
import types
import warnings
from collections.abc import Mapping
from typing import Any

from jaxparc import printing
from jaxparc.errors import InputError
from jaxparc.models import (
    alexnet,
    convnext,
    densenet,
    googlenet,
    mobilenet,
    regnet,
    resnet,
    squeezenet,
    swin,
    vgg,
    vit,
)
from jaxparc.models.alexnet import AlexNet as AlexNet
from jaxparc.models.convnext import ConvNeXt as ConvNeXt
from jaxparc.models.densenet import DenseNet as DenseNet
from jaxparc.models.googlenet import GoogLeNet as GoogLeNet
from jaxparc.models.layers import BatchNorm as BatchNorm
from jaxparc.models.layers import new_head as new_head
from jaxparc.models.mobilenet import MobileNet as MobileNet
from jaxparc.models.regnet import RegNet as RegNet
from jaxparc.models.resnet import ResNet as ResNet
from jaxparc.models.spec import ModelSpec as ModelSpec
from jaxparc.models.squeezenet import SqueezeNet as SqueezeNet
from jaxparc.models.swin import Swin as Swin
from jaxparc.models.vgg import VGG as VGG
from jaxparc.models.vit import VisionTransformer as VisionTransformer

# The files of networks, in the order in which their architectures are listed.
FILES = (
    alexnet,
    googlenet,
    resnet,
    squeezenet,
    mobilenet,
    densenet,
    vgg,
    regnet,
    convnext,
    swin,
    vit,
)

MODELS: Mapping[str, ModelSpec] = types.MappingProxyType(
    {spec.name: spec for file in FILES for spec in file.SPECS}
)
"""The architectures, by name."""


def load(*args: Any, **kwargs: Any) -> Any:
    """Load weights: a deprecated alias of `jaxparc.weights.load`, removed after one release."""
    warnings.warn(
        "jaxparc.models.load is deprecated; use jaxparc.weights.load",
        DeprecationWarning,
        stacklevel=2,
    )
    # By name: weights imports models, and not the other way round.
    return importlib.import_module("jaxparc.weights").load(*args, **kwargs)


def get(name: str) -> ModelSpec:
    """Return the specification of an architecture.

    Raises:
      InputError: the name is not in `MODELS`; the message has the closest of those that are.
    """
    if name not in MODELS:
        raise InputError(
            f"unknown architecture {name!r}; the closest are {printing.closest(name, MODELS)} "
            "(`jaxparc models` lists all)"
        )
    return MODELS[name]
