"""Detectron2: which backbone a file holds."""

import numpy as np
import pytest
from weights.written import pickled

from jaxparc import weights
from jaxparc.weights import WeightsError


@pytest.fixture(scope="module")
def detectron():
    from weights.test_loading import detectron as named
    from weights.test_loading import torchvision_state

    return named(torchvision_state("resnet50"), prefix="", last="")


RGB, BGR = (np.array([123.675, 116.28, 103.53])[::step] for step in (1, -1))


def frozen(given):
    """Batch norm as Caffe2's, a scale and a shift."""
    given = dict(given)
    for key, array in given.items():
        if key.endswith("running_mean"):
            given[key] = np.zeros_like(array)
        if key.endswith("running_var"):
            given[key] = np.full_like(array, 1 - 1e-5)
    return given


@pytest.mark.parametrize(
    ("author", "more", "variant"),
    [
        ("torchvision", {}, "torchvision"),
        (
            "",
            {"stem.fc.weight": np.ones((5, 128), np.float32), "stem.fc.bias": np.ones(5)},
            "torchvision",
        ),
        ("", {"pixel_std": np.array([58.395, 57.12, 57.375])}, "torchvision"),
        ("", {"pixel_std": np.ones(3)}, "msra"),
        ("", {"pixel_std": np.ones(3), "pixel_mean": BGR}, "msra"),
        (
            "",
            {"pixel_std": np.float32([[[58.4]], [[57.1]], [[57.4]]]), "pixel_mean": RGB},
            "torchvision",
        ),
        ("", {"pixel_std": np.array([57.375, 57.12, 58.395]), "pixel_mean": BGR}, None),
        ("", {"pixel_std": np.ones(3), "pixel_mean": RGB}, None),
        ("", {"pixel_std": np.full(3, 0.226), "pixel_mean": np.full(3, 0.45)}, None),
        ("", {"pixel_std": np.full(3, 127.5), "pixel_mean": np.full(3, 127.5)}, None),
        ("", None, "msra"),
        ("Detectron2 Model Zoo", {}, "msra"),
        ("", {}, None),
    ],
)
def test_backbones_of_detectron2_are_told_apart_by_what_the_file_holds(
    author, more, variant, detectron, tmp_path
):
    given = frozen(detectron) if more is None else {**detectron, **more}
    content = {"model": given, "__author__": author, "matching_heuristics": True}
    path = pickled(tmp_path / "w.pkl", content)
    if variant is None:
        with pytest.raises(WeightsError, match="variant is one of 'msra': .*BGR; 'torchvision': "):
            weights.load("resnet50", path)
        variant = "msra"
        loaded = weights.load("resnet50", path, scheme="detectron2")
    else:
        loaded = weights.load("resnet50", path)
    msra = variant == "msra"
    assert loaded.module.stride_in_1x1 == msra
    assert (loaded.spec.std == (1 / 255,) * 3) == msra
    kernel = given["stem.conv1.weight"][:, :: -1 if msra else 1].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded.variables["params"]["conv1"]["kernel"], kernel)
    assert loaded.module.num_classes == (5 if more and "stem.fc.bias" in more else 0)
    assert bool(loaded.notes) == (author == "Detectron2 Model Zoo")
    other = weights.load("resnet50", path, variant="msra", channels="rgb", stride_in_1x1=False)
    assert not other.module.stride_in_1x1
    found = other.variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(found, given["stem.conv1.weight"].transpose(2, 3, 1, 0))


def test_orders_and_strides_that_are_none(state, tmp_path):
    path = pickled(tmp_path / "w.pkl", state)
    with pytest.raises(WeightsError, match="channels is 'gbr'; expected rgb or bgr"):
        weights.load("resnet18", path, channels="gbr")
    with pytest.raises(WeightsError, match="stride_in_1x1 is for ResNets; alexnet"):
        weights.load("alexnet", path, stride_in_1x1=True)
