"""The networks, each with the metadata that its use needs.

Every network is a Flax Linen module that equals, at width 1, torchvision's network of the same name
(EfficientNet-Lite: the published one):

    model = models.get("resnet18").module(num_classes=10)
    logits, activations = model.apply(variables, images, train=False, mask=None)

`images` are (b, h, w, 3) float, normalised by the spec's mean and std. `logits` are
(b, num_classes) float32. `activations` are those of the named stages. In all networks, "features"
are the penultimate features, the input of the last linear layer, (b, d) float32 (of SqueezeNet,
whose last layer is a 1x1 convolution, their average over the map), and that layer is named "head".
In training, `mask` (b,) bool is True for real rows, and batch norm ignores padded ones; the
"batch_stats" collection must be mutable, and dropout needs an rng named "dropout".

Fields of all modules: `num_classes`; `width`, a multiplier of all numbers of channels; `dtype` of
the computation (parameters and batch statistics are float32); `stem`, "imagenet" or "small" (3x3,
stride 1, no early pooling: for images of about 32 pixels); `axis_name`, the mapped axis over which
batch statistics are synchronised in training. All except ResNets also have `dropout_rate`.
"""

import functools
import importlib
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn

from jaxparc.errors import InputError
from jaxparc.models import alexnet, googlenet, mobilenet, resnet, squeezenet
from jaxparc.models.alexnet import AlexNet as AlexNet
from jaxparc.models.googlenet import GoogLeNet as GoogLeNet
from jaxparc.models.layers import BatchNorm as BatchNorm
from jaxparc.models.layers import new_head as new_head
from jaxparc.models.mobilenet import MobileNet as MobileNet
from jaxparc.models.resnet import ResNet as ResNet
from jaxparc.models.squeezenet import SqueezeNet as SqueezeNet


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """An architecture and its metadata.

    Attributes:
      name: its key in `MODELS`.
      module: builds the Linen module from the fields that the package docstring lists.
      feature_width: d, the size of "features" at width 1.
      layers: depth, as counted in the PARC paper.
      min_size: stem -> the smallest height and width that it accepts, in pixels.
      input_size: height and width of images for the published weights, in pixels.
      mean: per channel (RGB), of images in [0, 1]; subtracted.
      std: per channel (RGB), of images in [0, 1]; divided by after the mean is subtracted.
      interpolation: how images were resized for the published weights.
    """

    name: str
    module: Callable[..., nn.Module]
    feature_width: int
    layers: int
    min_size: Mapping[str, int] = field(hash=False)
    input_size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"


def _resnet(name: str, *, feature_width: int, layers: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(ResNet, name),
        feature_width=feature_width,
        layers=layers,
        min_size=resnet.MIN_SIZE,
    )


def _efficientnet_lite(name: str, *, layers: int, input_size: int, dropout: float) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(MobileNet, name, dropout_rate=dropout),
        feature_width=1280,
        layers=layers,
        min_size=mobilenet.MIN_SIZE,
        input_size=input_size,
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        interpolation="bicubic",
    )


MODELS: Mapping[str, ModelSpec] = types.MappingProxyType(
    {
        "alexnet": ModelSpec(
            name="alexnet",
            module=AlexNet,
            feature_width=4096,
            layers=8,
            min_size=alexnet.MIN_SIZE,
        ),
        "googlenet": ModelSpec(
            name="googlenet",
            module=GoogLeNet,
            feature_width=1024,
            layers=22,
            min_size=googlenet.MIN_SIZE,
        ),
        "resnet18": _resnet("resnet18", feature_width=512, layers=18),
        "resnet50": _resnet("resnet50", feature_width=2048, layers=50),
        "resnet101": _resnet("resnet101", feature_width=2048, layers=101),
        "squeezenet1_1": ModelSpec(
            name="squeezenet1_1",
            module=SqueezeNet,
            feature_width=512,
            layers=18,
            min_size=squeezenet.MIN_SIZE,
        ),
        "mobilenet_v2": ModelSpec(
            name="mobilenet_v2",
            module=functools.partial(MobileNet, "mobilenet_v2"),
            feature_width=1280,
            layers=53,
            min_size=mobilenet.MIN_SIZE,
        ),
        "efficientnet_lite0": _efficientnet_lite(
            "efficientnet_lite0", layers=50, input_size=224, dropout=0.2
        ),
        "efficientnet_lite1": _efficientnet_lite(
            "efficientnet_lite1", layers=65, input_size=240, dropout=0.2
        ),
        "efficientnet_lite2": _efficientnet_lite(
            "efficientnet_lite2", layers=65, input_size=260, dropout=0.3
        ),
    }
)


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
      InputError: the name is not in `MODELS`; the message lists those that are.
    """
    if name not in MODELS:
        raise InputError(f"unknown architecture {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name]
