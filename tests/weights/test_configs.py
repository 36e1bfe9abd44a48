"""Preprocessing as the configs of a hub's folder declare it."""

import json
import math

import pytest
from PIL import Image

from jaxparc.geometry import Geometry
from jaxparc.weights import WeightsError, configs


def read(folder, config=None, processor=None):
    for name, content in ((configs.CONFIG, config), (configs.PREPROCESSOR, processor)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return configs.read(folder)


# As the processors of transformers 5 read them.
PROCESSORS = {
    "vit": ({"size": {"height": 224, "width": 224}, "resample": 2}, (224, 224, "squash")),
    "vit, older": (
        {"size": 224, "feature_extractor_type": "ViTFeatureExtractor"},
        (224, 224, "squash"),
    ),
    "deit, older": (
        {"size": 256, "crop_size": 224, "feature_extractor_type": "DeiTFeatureExtractor"},
        (224, 256, "squash"),
    ),
    "dinov2": (
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
        },
        (224, 256, "shortest"),
    ),
    "clip, older": (
        {"size": 224, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"},
        (224, 224, "shortest"),
    ),
    "convnext": (
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": 224},
            "crop_pct": 0.875,
        },
        (224, 256, "shortest"),
    ),
    "convnext 384": (
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": {"shortest_edge": 384},
            "crop_pct": 1.0,
        },
        (384, 384, "squash"),
    ),
    "no crop": (
        {"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": False},
        (256, 256, "shortest"),
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_processor_of_transformers(name, tmp_path):
    config, (size, side, resize) = PROCESSORS[name]
    found = read(tmp_path, processor=config)["geometry"]
    geometry = Geometry(found["input_size"], found["crop"], found["resize"])
    assert (geometry.size, geometry.resized, geometry.resize) == (size, side, resize)
    assert found.get("interpolation") == ("bilinear" if "resample" in config else None)


def test_every_crop_is_of_the_side_that_is_declared(tmp_path):
    for side in range(225, 600, 7):
        config = {"size": {"shortest_edge": side}, "crop_size": 224}
        found = read(tmp_path, processor=config)["geometry"]
        assert math.floor(224 / found["crop"]) == side


def test_colours_and_interpolation(tmp_path):
    mean, std = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
    processor = {"image_mean": mean, "image_std": std, "resample": Image.Resampling.BICUBIC.value}
    found = read(tmp_path, processor=processor)
    assert found == {"mean": mean, "std": std, "geometry": {"interpolation": "bicubic"}}
    processor["do_normalize"] = False
    assert read(tmp_path, processor=processor)["mean"] == (0, 0, 0)


def test_the_config_of_transformers_reaches_the_families(tmp_path):
    tower = {"hidden_size": 768, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
    config = {"model_type": "clip", "vision_config": tower, "id2label": {"0": "a", "1": "b"}}
    found = read(tmp_path, config)
    assert found["transformers"] == config
    assert (found["layer_norm_eps"], found["hidden_act"]) == (1e-5, "quick_gelu")
    assert (found["width"], found["classes"]) == (768, 2)
    config = {"model_type": "resnet", "hidden_sizes": [256, 512, 1024, 2048]}
    assert read(tmp_path, config)["width"] == 2048


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"size": {"height": 224, "width": 256}}, "expected a square or shortest_edge"),
        ({"size": "large"}, "size is large; expected one size up to 10000"),
        ({"size": 224, "crop_size": 256}, "crop_size is 256; expected at most size, 224"),
        ({"resample": 9}, "resample is 9; expected one of"),
        ({"rescale_factor": 1}, "images are rescaled by 1; expected 1/255"),
        ({"do_rescale": False}, "expected 1/255"),
    ],
)
def test_a_processor_that_no_network_here_has(processor, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path, processor=processor)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"input_size": [3, 224, 256]}, "input_size is .* expected one size"),
        ({"crop_pct": 0}, "crop_pct is 0; expected a number from 0.1 to 1"),
        ({"crop_mode": "border"}, "crop_mode is border; expected one of center, squash"),
        ({"interpolation": []}, "interpolation is .*; expected one of"),
    ],
)
def test_images_of_timm_that_no_network_here_takes(images, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path, {"architecture": "resnet18", "pretrained_cfg": images})
