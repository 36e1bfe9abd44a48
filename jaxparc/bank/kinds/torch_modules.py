"""torch = "package.module:function": any torch.nn.Module that a function returns.

It takes (b, 3, size, size) float32 images, normalised by the entry's mean and std, and runs on
torch's own device: a GPU if torch has one. Its features are, in this order,

* the output of the submodule that the entry names, `features = "backbone.pool"`;
* the input of its last linear layer, whose output it returns as logits;
* what it returns.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxparc import printing
from jaxparc.bank.entry import Counts, Entry, Model
from jaxparc.bank.kinds import packages
from jaxparc.errors import InputError
from jaxparc.geometry import Geometry, scale_and_shift

EXTRA = "timm"


def load(entry: Entry) -> Model:
    """See `entry.Implementation`."""
    torch = packages.required("torch", EXTRA)
    module = packages.called(entry.architecture)
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"{entry.architecture}() returned a {type(module).__name__}; expected a torch.nn.Module"
        )
    mean, std = entry.normalisation
    geometry = entry.geometry(Geometry(224))
    start = functools.partial(running, module, mean, std, geometry.size, features=entry.features)
    return Model(geometry, start, counted(module, geometry.size))


def fingerprint(entry: Entry) -> Any:
    """See `entry.Implementation`: the function, and not what it reads."""
    packages.required("torch", EXTRA)
    return {**packages.source_of(entry.architecture), "torch": packages.version("torch")}


def counts(entry: Entry) -> Counts:
    """See `entry.Implementation`: nothing is known of what a function returns."""
    return Counts()


def running(
    module: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: int,
    *,
    features: str | None = None,
    forward: Callable[[Any], Any] | None = None,
) -> Callable[[np.ndarray], Any]:
    """Return a function of uint8 images that runs a module.

    Args:
        module: a torch.nn.Module.
        mean: of images in [0, 1], RGB.
        std: likewise.
        size: of the images, in pixels.
        features: name of the submodule whose output is the features; None if they are found.
        forward: function of the normalised images that returns features, or features and logits;
            by default as the docstring of this module says.

    Raises:
        InputError: there is no such submodule, or the module does not take such images.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = module.eval().to(device)
    weight, bias = (
        torch.from_numpy(x).to(device)[:, None, None] for x in scale_and_shift(mean, std)
    )

    def normalised(batch: np.ndarray) -> Any:
        images = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
        return images.permute(0, 3, 1, 2).to(torch.float32) * weight - bias

    with torch.inference_mode():
        if forward is None:
            images = normalised(np.zeros((1, size, size, 3), np.uint8))
            forward = _named(module, features) if features else _found(module, images)

        def apply_fn(batch: np.ndarray) -> tuple[np.ndarray, ...]:
            with torch.inference_mode():
                found = forward(normalised(batch))
            outputs = found if isinstance(found, tuple) else (found,)
            return tuple(output.float().cpu().numpy() for output in outputs)

        return apply_fn


def _named(module: Any, name: str) -> Callable[[Any], Any]:
    """Return a function of images that returns the output of a submodule."""
    try:
        inner = module.get_submodule(name)
    except AttributeError:
        known = [key for key, _ in module.named_children()]
        raise InputError(
            f"features is {name!r}, which the network has not; it has {', '.join(known)}"
        ) from None

    def forward(images: Any) -> Any:
        kept: list[Any] = []
        hook = inner.register_forward_hook(lambda _, given, output: kept.append(output))
        try:
            module(images)
        finally:
            hook.remove()
        return _pooled(kept[-1])

    return forward


def _found(module: Any, images: Any) -> Callable[[Any], Any]:
    """Return a function of images that returns features, and logits if the module returns them."""
    import torch

    calls: list[tuple[Any, Any]] = []  # linear layers and their outputs, in the order of calls

    def note(layer: Any, given: Any, output: Any) -> None:
        calls.append((layer, output))

    linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in linear]
    try:
        output = module(images)
    except Exception as error:  # whatever it raises
        shape = "x".join(map(str, images.shape[2:]))
        raise InputError(
            f"it does not take images of {shape} px: {printing.line(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, torch.Tensor):
        raise InputError(
            f"it returns a {type(output).__name__}; expected a tensor: name the submodule whose "
            "output is the features, features = NAME"
        )
    head = next((layer for layer, made in reversed(calls) if made is output), None)
    if head is None:
        return module

    def forward(images: Any) -> Any:
        kept: list[Any] = []
        hook = head.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        try:
            logits = module(images)
        finally:
            hook.remove()
        return kept[-1], logits

    return forward


def _pooled(features: Any) -> Any:
    """Return features (b, d) of a map (b, d, 1, 1)."""
    return features.flatten(1) if features.ndim == 4 and features.shape[2:] == (1, 1) else features


def counted(module: Any, size: int) -> Counts:
    """Count the layers, parameters and multiply-adds of a module.

    Layers are its convolutions and linear layers, those of shortcuts included.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    layers = sum(isinstance(layer, kinds) for layer in module.modules())
    parameters = list(module.parameters())
    gmacs = None
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            device = parameters[0].device if parameters else "cpu"
            module.eval()(torch.zeros((1, 3, size, size), device=device))
        gmacs = counter.get_total_flops() / 2e9
    except Exception:  # an image of zeros on any device is not what it takes
        pass
    return Counts(layers, sum(p.numel() for p in parameters), gmacs or None)
