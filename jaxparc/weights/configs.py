"""What a hub's config.json and preprocessor_config.json say of a network and of its images.

timm's config.json names the architecture, and how images were preprocessed; transformers has the
latter in preprocessor_config.json.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import files
from jaxparc.geometry import INTERPOLATIONS
from jaxparc.weights.errors import WeightsError

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"

# Settings of timm's model_args that do not change the network, or that the shapes tell.
_HARMLESS = {"num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate"}
# Settings of transformers that families of networks read.
_READ = (
    "hidden_act",
    "layer_norm_eps",
    "downsample_in_bottleneck",
    "downsample_in_first_stage",
)
# Widths of the features in timm's and in transformers' config.json.
_WIDTHS = ("num_features", "hidden_size", "embed_dim", "hidden_sizes")
# Processors of transformers that resize the shorter side where the size is one number.
_SHORTEST = ("CLIP", "Bit", "ConvNext", "Levit", "PoolFormer", "MobileNetV")
_RESAMPLE = {number: name for name, number in INTERPOLATIONS.items()}


def read(folder: Path) -> dict[str, Any]:
    """Return what the configs in a folder of a hub declare.

    Returns:
        "config", timm's name of the architecture; "transformers", the config.json of transformers
        as it is, of whose image tower the settings that networks read, such as "hidden_act", are
        also keys of their own;
        "mean" and "std"; "geometry", fields of `ModelSpec`; "classes", the number of outputs of
        the head; "width", of the features. Each only where it is declared.

    Raises:
        WeightsError: a config cannot be read, or sets what no network here has.
    """
    config = _parsed(folder / CONFIG)
    if isinstance(config.get("architecture"), str):
        return _timm(folder / CONFIG, config)
    found = {}
    if isinstance(config.get("model_type"), str):
        tower = config.get("vision_config")
        tower = config | tower if isinstance(tower, dict) else config
        found = {"transformers": config} | {key: tower[key] for key in _READ if key in tower}
        found |= _widths(tower)
        if isinstance(labels := config.get("id2label"), dict):
            found["classes"] = len(labels)
    return found | _processor(folder / PREPROCESSOR)


def check(declared: Mapping[str, Any], classes: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Check that the configs do not contradict the weights.

    Args:
        declared: what `read` returns.
        classes: number of classes of the weights' head; 0 without one.
        arrays: the weights.

    Raises:
        WeightsError: they do.
    """
    said = declared.get("classes")
    if said and classes and said != classes:
        raise WeightsError(f"{CONFIG} declares {said} classes; the weights have {classes}")
    width = declared.get("width")
    if width and not any(width in array.shape for array in arrays.values()):
        raise WeightsError(
            f"{CONFIG} declares features of width {width}; no array has such an axis"
        )


def _parsed(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        declared = json.loads(files.read_text(path))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    return declared if isinstance(declared, dict) else {}


def _timm(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    settings = config.get("model_args")
    settings = {*settings} - _HARMLESS if isinstance(settings, dict) else {}
    if settings:
        raise WeightsError(
            f"config.json sets {min(settings)}, which no network here has; if that does not "
            "matter, load the weights from a folder without config.json"
        )
    images = config.get("pretrained_cfg")
    images = images if isinstance(images, dict) else {}
    found = {"config": config["architecture"], **_widths(config)}
    found |= {key: images[key] for key in ("mean", "std") if key in images}
    if isinstance(classes := config.get("num_classes"), int):
        found["classes"] = classes
    geometry: dict[str, Any] = {}
    if "input_size" in images:
        sides = images["input_size"]
        square = isinstance(sides, list) and len(sides) == 3 and sides[1] == sides[2]
        geometry["input_size"] = _size(sides[2] if square else sides, path, "input_size")
    if "crop_pct" in images:
        geometry["crop"] = _crop(images["crop_pct"], path, "crop_pct")
    if "crop_mode" in images:
        mode = images["crop_mode"]
        known = {"center": "shortest", "squash": "squash"}  # others pad images
        geometry["resize"] = known[_among(mode, [*known], path, "crop_mode")]
    if "interpolation" in images:
        name = images["interpolation"]
        geometry["interpolation"] = _among(name, [*INTERPOLATIONS], path, "interpolation")
    return found | ({"geometry": geometry} if geometry else {})


def _processor(path: Path) -> dict[str, Any]:
    """Return what transformers' preprocessor_config.json says of images."""
    config = _parsed(path)
    if not config:
        return {}
    found: dict[str, Any] = {}
    if config.get("do_normalize", True):
        names = {"mean": "image_mean", "std": "image_std"}
        found = {key: config[name] for key, name in names.items() if name in config}
    else:
        found = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    scale = config.get("rescale_factor", 1 / 255)
    rescaled = config.get("do_rescale", True) and isinstance(scale, int | float)
    if not rescaled or not math.isclose(scale, 1 / 255, rel_tol=1e-3):
        raise WeightsError(f"{path}: images are rescaled by {scale}; expected 1/255")
    geometry: dict[str, Any] = {}
    if config.get("do_resize", True) and "size" in config:
        geometry = _resized(config, path)
    if "resample" in config:
        which = _among(config["resample"], [*_RESAMPLE], path, "resample")
        geometry["interpolation"] = _RESAMPLE[which]
    return found | ({"geometry": geometry} if geometry else {})


def _resized(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return how images are resized, and the central crop taken."""
    size = config["size"]
    processor = str(config.get("image_processor_type", config.get("feature_extractor_type", "")))
    if isinstance(size, dict) and "shortest_edge" in size:
        side, resize = size["shortest_edge"], "shortest"
    elif isinstance(size, dict):
        side, resize = size.get("height"), "squash"
        if size.get("width") != side:
            raise WeightsError(f"{path}: size is {size}; expected a square or shortest_edge")
    else:
        side, resize = size, "shortest" if processor.startswith(_SHORTEST) else "squash"
    side = _size(side, path, "size")
    if "crop_size" in config and config.get("do_center_crop", True):
        crop = config["crop_size"]
        inner = _size(crop.get("height") if isinstance(crop, dict) else crop, path, "crop_size")
        if inner > side:
            raise WeightsError(f"{path}: crop_size is {inner}; expected at most size, {side}")
    elif "crop_pct" in config and processor.startswith("ConvNext") and side < 384:
        return {
            "input_size": side,
            "crop": _crop(config["crop_pct"], path, "crop_pct"),
            "resize": "shortest",
        }
    elif processor.startswith("ConvNext"):
        inner, resize = side, "squash"
    else:
        inner = side
    crop = inner / side
    # `Geometry.resized` rounds the quotient down.
    crop = crop if math.floor(inner / crop) == side else math.nextafter(crop, 0)
    return {"input_size": inner, "crop": crop, "resize": resize}


def _widths(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the width of the features: the last, where each stage has one."""
    for key in _WIDTHS:
        value = config.get(key)
        value = value[-1] if isinstance(value, list) and value else value
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return {"width": value}
    return {}


def _size(value: Any, path: Path, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**4:
        raise WeightsError(f"{path}: {key} is {str(value)[:60]}; expected one size up to 10000")
    return value


def _crop(value: Any, path: Path, key: str) -> float:
    if not isinstance(value, int | float) or not 0.1 <= value <= 1:
        raise WeightsError(f"{path}: {key} is {str(value)[:60]}; expected a number from 0.1 to 1")
    return float(value)


def _among(value: Any, known: list[Any], path: Path, key: str) -> Any:
    if value not in known:
        expected = ", ".join(map(str, known))
        raise WeightsError(f"{path}: {key} is {str(value)[:60]}; expected one of {expected}")
    return value
