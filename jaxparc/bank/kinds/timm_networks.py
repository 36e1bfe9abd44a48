"""timm = "vit_small_patch14_dinov2.lvd142m": a network by its name, run by timm in torch.

Images are preprocessed as timm's configuration of the weights says. Features are
`forward_head(..., pre_logits=True)`. Weights are those of the entry, or else from the local cache
or the hub.
"""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

from jaxparc import printing, weights
from jaxparc.bank import hub
from jaxparc.bank.entry import Counts, Entry, Model
from jaxparc.bank.kinds import packages, torch_modules
from jaxparc.errors import InputError
from jaxparc.geometry import RESIZES, Geometry
from jaxparc.weights import configs, formats, native

EXTRA = "timm"
# Trained on pairs of images and texts: the head projects into their space, and tells no classes.
_CONTRASTIVE = re.compile(r"clip", re.IGNORECASE)
_CLASSES = re.compile(r"in\d+k")


def load(entry: Entry) -> Model:
    """See `entry.Implementation`."""
    timm = packages.required("timm", EXTRA)
    path = _weights(entry)
    config = _declared(entry, path)
    try:
        overlay = {
            "file": str(path),
            "custom_load": config.custom_load,
            "num_classes": config.num_classes,
        }
        module = timm.create_model(
            entry.architecture, pretrained=True, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # timm and torch raise many kinds
        raise InputError(f"{path} does not fit {entry.address}: {printing.line(error)}") from error
    geometry = entry.geometry(_geometry(config))
    classes, notes = _classes(module, config, geometry.size)

    def forward(images: Any) -> Any:
        features = module.forward_head(module.forward_features(images), pre_logits=True)
        return features if classes is None else (features, classes(features))

    start = functools.partial(
        torch_modules.running,
        module,
        entry.mean or config.mean,
        entry.std or config.std,
        geometry.size,
        forward=forward,
    )
    return Model(geometry, start, notes=notes)


def _classes(module: Any, config: Any, size: int) -> tuple[Any, tuple[str, ...]]:
    """Return the last layer if its outputs are logits of classes, else None; and notes."""
    import torch

    if not module.num_classes:
        return None, ()
    if _CONTRASTIVE.search(config.architecture) and not _CLASSES.search(config.tag or ""):
        return None, ("its head is for texts and images, not classes; the model has no probs",)
    layer = module.get_classifier()
    try:
        with torch.inference_mode():
            maps = module.eval().forward_features(torch.zeros((1, 3, size, size)))
            found = layer(module.forward_head(maps, pre_logits=True))
            if torch.allclose(found, module.forward_head(maps), rtol=1e-3, atol=1e-4):
                return layer, ()
    except Exception:  # of several heads, say
        pass
    return None, ("its head is more than a linear layer of its features; the model has no probs",)


def fingerprint(entry: Entry) -> Any:
    """See `entry.Implementation`."""
    packages.required("timm", EXTRA)
    versions = {name: packages.version(name) for name in ("timm", "torch")}
    return {"weights": weights.fingerprint(_weights(entry)), **versions}


def counts(entry: Entry) -> Counts:
    """See `entry.Implementation`; unknown without timm."""
    try:
        packages.required("timm", EXTRA)
        config = _config(entry.architecture)
    except InputError:
        return Counts()
    return _counted(entry.architecture, entry.geometry(_geometry(config)).size)


@functools.cache
def _counted(name: str, size: int) -> Counts:
    import timm
    import torch

    with torch.device("meta"):  # without memory or computation
        module = timm.create_model(name, pretrained=False)
        return torch_modules.counted(module, size)


@functools.cache
def _config(name: str) -> Any:
    """Return timm's configuration of pretrained weights.

    Raises:
        InputError: timm has no such network, or no such weights of it.
    """
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if _is_known(name) else None
    if config is None:
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise InputError(
            f"timm has no network {name!r}; the closest are {printing.closest(name, known)}"
        )
    return config


def _declared(entry: Entry, path: Path) -> Any:
    """Return the configuration of an entry's weights: that beside them, where others trained them.

    Raises:
        InputError: as `_config`, or the config.json cannot be used.
    """
    config = _config(entry.architecture)
    if entry.hub is None or entry.hub.startswith("timm/"):  # timm knows these
        return config
    declared = configs.read(path.parent)
    geometry = declared.get("geometry", {})
    found = {
        "mean": native.colour(declared["mean"], "mean") if "mean" in declared else config.mean,
        "std": native.colour(declared["std"], "std") if "std" in declared else config.std,
        "num_classes": declared.get("classes", config.num_classes),
        "crop_pct": geometry.get("crop", config.crop_pct),
        "interpolation": geometry.get("interpolation", config.interpolation),
    }
    if "input_size" in geometry:
        found["input_size"] = (3, geometry["input_size"], geometry["input_size"])
    if "resize" in geometry:
        found["crop_mode"] = {"squash": "squash", "shortest": "center"}[geometry["resize"]]
    return dataclasses.replace(config, **found)


def _is_known(name: str) -> bool:
    import timm

    architecture, _, tag = name.partition(".")
    return timm.is_model(architecture) and (not tag or timm.is_model_pretrained(name))


def _geometry(config: Any) -> Geometry:
    resize = {"center": "shortest", "squash": "squash"}.get(config.crop_mode, "shortest")
    assert resize in RESIZES
    return Geometry(config.input_size[-1], config.crop_pct, resize, config.interpolation)


def _weights(entry: Entry) -> Any:
    """Return the path of the weights, which are fetched if necessary.

    Raises:
        InputError: they are neither given nor in the cache, and cannot be fetched.
    """
    if (path := entry.fetched_weights()) is not None:
        return formats.resolve(path) if entry.hub else path
    config = _config(entry.architecture)
    if not config.hf_hub_id:
        raise InputError(f"timm knows no hub of {entry.address}; expected weights = FILE")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else hub.TIMM_FILES
    return hub.fetch(config.hf_hub_id, names)
