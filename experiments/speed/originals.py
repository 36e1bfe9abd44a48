"""The original networks in torch, with our weights: the other side of `extract` and `train`."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from jaxparc import models
from jaxparc.training.steps import Task
from jaxparc.weights import torchvision

CLASSES = 10
"""Number of classes of networks that are trained."""


TIMM = (
    *("vit_small_patch16_224", "convnext_tiny", "efficientnet_b0"),
    "swin_tiny_patch4_window7_224",
)
"""Networks whose original is timm's."""


def installed(name: str) -> bool:
    """Return whether torch and the package with a network are installed."""
    if name in TIMM:
        package = "timm"
    elif name.startswith("efficientnet_lite"):
        package = "efficientnet_lite_pytorch"
    else:
        package = "torchvision"
    return all(importlib.util.find_spec(needed) for needed in ("torch", package))


def device() -> str:
    """Return the device of torch: the accelerator, if it has one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def ratio(middle: Mapping[str, float]) -> str:
    """Return this library's rate over that of the fastest torch side; "–" without torch."""
    torch = [rate for what, rate in middle.items() if what.startswith("torch")]
    return f"{middle['jaxparc'] / max(torch):.2f}" if torch else "–"


def network(name: str) -> Any:
    """Return a network in torch, with random weights."""
    if name.startswith("efficientnet_lite"):
        from efficientnet_lite_pytorch import EfficientNet

        return EfficientNet.from_name(name.replace("_", "-"))
    if name in TIMM:
        import timm

        return timm.create_model(name)
    import torchvision as originals

    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    return getattr(originals.models, name)(**options)


def load(network: Any, name: str, variables: Any) -> None:
    """Load the weights of one of our networks into the torch network.

    Raises:
        AssertionError: some weights of the torch network are not replaced, apart from the unused
            counters of batch norm.
    """
    import torch

    flat = traverse_util.flatten_dict(variables)
    state = {
        entry.key: torch.from_numpy(entry.to_torch(np.asarray(flat[entry.path])))
        for entry in torchvision.entries(name, variables)
    }
    lacking = network.load_state_dict(state, strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in lacking), lacking


def feature_network(name: str, variables: Any) -> Any:
    """Return a network in inference mode that returns features (b, d)."""
    from torch import nn

    found = network(name)
    load(found, name, variables)
    if name in TIMM:
        found.reset_classifier(0)
    elif name == "squeezenet1_1":
        found.classifier = nn.AdaptiveAvgPool2d(1)  # its head is a convolution, before the mean
    elif hasattr(found, "classifier"):
        found.classifier[-1] = nn.Identity()
    else:
        setattr(found, "_fc" if hasattr(found, "_fc") else "fc", nn.Identity())
    return found.eval()


def training_network(name: str, task: Task, variables: Any) -> Any:
    """Return a network with the same width, stem and weights as one of ours; no dropout."""
    import torch
    from torch import nn

    found = network(name)
    width, small = task.module.width, task.module.stem == "small"
    if small:
        first = nn.Conv2d(3, 64, 3, padding=1, bias=name == "alexnet")
        if name == "alexnet":
            found.features[0], found.features[2] = first, nn.Identity()
        elif name == "googlenet":
            found.conv1.conv = first
            found.maxpool1 = found.maxpool2 = nn.Identity()
        else:
            found.conv1, found.maxpool = first, nn.Identity()
    if name == "googlenet":
        found.transform_input = False
    _narrow(found, width)
    found(torch.zeros(2, 3, 64, 64))  # lazy layers infer their number of inputs
    load(found, name, variables)
    return found.train()


def _narrow(module: Any, width: float) -> None:
    """Scale the number of outputs of every layer of a torch module to that of our network."""
    from torch import nn

    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d):
            layer = nn.LazyConv2d(
                models.layers.scaled(layer.out_channels, width),
                layer.kernel_size,
                layer.stride,
                layer.padding,
                bias=layer.bias is not None,
            )
        elif isinstance(layer, nn.BatchNorm2d):
            layer = nn.LazyBatchNorm2d(layer.eps)
        elif isinstance(layer, nn.Linear):
            head = layer.out_features == 1000
            layer = nn.LazyLinear(
                CLASSES if head else models.layers.scaled(layer.out_features, width)
            )
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
        else:
            _narrow(layer, width)
        setattr(module, name, layer)


def normaliser(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Any], Any]:
    """Return a function that normalises images on the device.

    Args:
        mean: mean of each channel, for images in [0, 1].
        std: standard deviation of each channel, for images in [0, 1].

    Returns:
        A function of (b, h, w, 3) uint8 that returns (b, 3, h, w) float32, channels last.
    """
    import torch

    shift, scale = (
        255 * torch.tensor(values, device=device()).reshape(3, 1, 1) for values in (mean, std)
    )

    def normalise(images: Any) -> Any:
        given = (images.permute(0, 3, 1, 2).float() - shift) / scale
        return given.contiguous(memory_format=torch.channels_last)

    return normalise


def tune() -> None:
    """Set what a user of torch who cares about speed sets once."""
    import torch

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.reset()  # or it treats sizes that differ between rows as dynamic


@dataclasses.dataclass(frozen=True)
class Training:
    """A training in torch.

    Attributes:
        steps: number of steps per call, after which the losses are fetched.
        learning_rate: learning rate of every step.
        momentum: momentum of SGD.
        weight_decay: weight decay of all weights.
        dtype: "bfloat16", by autocast, or "float32".
    """

    steps: int
    learning_rate: float
    momentum: float
    weight_decay: float
    dtype: str

    def side(
        self, network: Any, batch: Mapping[str, np.ndarray], task: Task, *, compiled: bool
    ) -> Callable[[], np.ndarray]:
        """Return a function that takes `steps` steps on a batch and returns their losses.

        Args:
            network: the network, in training mode.
            batch: "image" (b, h, w, 3) uint8 and "label" (b,), on the host.
            task: the mean and standard deviation of images.
            compiled: whether to compile the network and its loss.
        """
        import torch

        where = device()
        tune()
        network.to(where, memory_format=torch.channels_last)
        images = torch.from_numpy(batch["image"]).to(where)
        labels = torch.from_numpy(batch["label"]).long().to(where)
        optimizer = torch.optim.SGD(
            network.parameters(),
            self.learning_rate,
            self.momentum,
            weight_decay=self.weight_decay,
            fused=where == "cuda",
        )

        normalise = normaliser(task.mean, task.std)

        def loss_of(images: Any, labels: Any) -> Any:
            given = normalise(images)
            with torch.autocast(where, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                logits = network(given)
            return torch.nn.functional.cross_entropy(logits.float(), labels)

        loss = torch.compile(loss_of, dynamic=False) if compiled else loss_of

        def step() -> Any:
            optimizer.zero_grad(set_to_none=True)
            found = loss(images, labels)
            found.backward()
            optimizer.step()
            return found.detach()

        return lambda: torch.stack([step() for _ in range(self.steps)]).cpu().numpy()
