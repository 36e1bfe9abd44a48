"""The networks, each with what one needs to know to feed it.

Every network is a Flax Linen module that is, at width 1, torchvision's network of the same name
(EfficientNet-Lite: the published one):

    model = models.get("resnet18").module(num_classes=10)
    logits, activations = model.apply(variables, images, train=False, mask=None)

`images` are (b, h, w, 3), float, already normalised by the spec's mean and std. `logits` are
(b, num_classes), float32. `activations` are the named stages; "features" is the same in all:
the input of the last linear layer, (b, d), float32 (of SqueezeNet, which has one at every place of
a map, its average). That layer is called "head" in all.
In training, `mask` (b,) bool is True for real rows, and batch norm ignores the others; the
"batch_stats" collection must be mutable, and dropout wants an rng of the name "dropout".

Fields on all: `num_classes`; `width`, which multiplies every number of channels; `dtype` of the
computation (parameters and batch statistics are float32); `stem`, "imagenet" or "small" (3x3,
stride 1, no early pooling: for images of about 32 pixels); `axis_name`, the mapped axis over which
batch statistics are synchronised in training. All but ResNets have `dropout_rate` as well.
"""

import functools
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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
      module: makes the Linen module from the fields that the package docstring lists.
      feature_width: d, the size of "features", at width 1.
      layers: depth by the paper's count.
      min_size: per stem, the smallest height and width that it accepts, in pixels.
      input_size: height and width of the published weights' images, in pixels.
      mean: per channel (RGB), of images in [0, 1]; subtracted first.
      std: per channel (RGB); divided by second.
      interpolation: how the published weights' images were resized.
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


class Loaded(NamedTuple):
    """A network with weights from a file.

    Attributes:
      spec: the architecture, with the preprocessing and the variant that the weights want.
      module: for as many classes as the weights have, 0 if they have no head.
      variables: "params" and, but for AlexNet, "batch_stats", float32.
      scheme: how the file names its weights.
      left_out: names in the file that are none of the network's, on purpose.
      notes: what was taken, and on what evidence, where the file allows more than one reading.
    """

    spec: ModelSpec
    module: nn.Module
    variables: Mapping[str, Any]
    scheme: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load(
    name: str,
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
    """Loads published weights, whatever wrote them; nothing of the file is run.

    Args:
      name: architecture, a key of `MODELS`.
      path: a file, or a folder, of `weights.reading.checkpoint`: PyTorch's, safetensors, npz, a
        pickle of NumPy arrays, HDF5, .keras, model.json of TensorFlow.js, or an index of shards.
      num_classes: for a fresh head of as many classes, drawn from a fixed seed, where the weights
        have none; by default they get one of 0 classes. Of weights with a head, their number.
      scheme: whose names the file has, a key of `weights.schemes.of(name)`; by default, found.
      variant: which of several networks of the same names, where the file does not say: "msra" or
        "torchvision" of Detectron2's; of timm's names, timm's own, such as "tf_efficientnet_lite0".
      weights_key: where in the file the weights are, such as "state_dict_ema", or the beginning of
        their names, such as "teacher.backbone"; by default, found.
      ignore: patterns, such as "criterion.*", of names in the file that are none of the network's.
      channels: "rgb" or "bgr", the order of the images that the weights want; by default the
        scheme's.
      stride_in_1x1: of ResNets, whether a bottleneck's first convolution has its stride; by default
        the scheme's.

    Raises:
      ValueError: an unknown architecture.
      WeightsError: the file is damaged or of no known format or scheme, or a key is missing,
        unexplained or mis-shaped (all are listed), or the classes are another number, or it does
        not say which of several networks, or of several weights, it holds.
      OSError: the file cannot be read.
    """
    from jaxparc.weights import loading  # which imports this package

    choices = loading.Choices(
        num_classes=num_classes,
        scheme=scheme,
        variant=variant,
        weights_key=weights_key,
        ignore=ignore,
        channels=channels,
        stride_in_1x1=stride_in_1x1,
    )
    return loading.load(get(name), path, choices)


def get(name: str) -> ModelSpec:
    """The specification of an architecture.

    Raises:
      ValueError: for a name that is not in `MODELS`.
    """
    if name not in MODELS:
        raise InputError(f"unknown architecture {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name]
