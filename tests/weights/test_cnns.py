"""The names of ResNet variants, DenseNets and VGGs, in the schemes of all who publish them."""

import functools
import json
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawn
from safetensors.numpy import save_file
from weights.written import hugging_face, renamed

from jaxparc import models, weights
from jaxparc.models import densenet, resnet, vgg
from jaxparc.weights import WeightsError, schemes, torchvision

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = (*resnet.ARCHITECTURES, *densenet.ARCHITECTURES, *vgg.ARCHITECTURES)


@functools.cache
def state_of(name, width=0.0625):
    shapes = torchvision.variable_shapes(name, num_classes=5, width=width)
    entries = torchvision.entries(name, shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


def saved(path, state, **metadata):
    arrays = {key: np.ascontiguousarray(array) for key, array in state.items()}
    save_file(arrays, path / "model.safetensors")
    if metadata:
        (path / "config.json").write_text(json.dumps(metadata))
    return path


def assert_same(loaded, state):
    expected = torchvision.from_torchvision(loaded.spec.name, state)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, expected)


def empty(name, width=1.0):
    """Zeros of the right shapes, which take no memory."""
    shapes = torchvision.variable_shapes(name, num_classes=5, width=width)
    return {
        entry.key: np.broadcast_to(np.float32(0), entry.torch_shape)
        for entry in torchvision.entries(name, shapes)
    }


@pytest.mark.slow
@pytest.mark.parametrize("width", [1.0, 0.0625])
def test_every_architecture_is_told_by_names_and_shapes(width):
    for name in NAMES:
        state = empty(name, width)
        assert schemes.architecture_of(state) == name
        assert schemes.architecture_of({f"module.{k}": a for k, a in state.items()}) == name


# ResNets


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "resnet50"),
        ({"conv2": (64, 64, 3, 3)}, "resnet50"),
        ({"conv2": (128, 4, 3, 3)}, "resnext50_32x4d"),
        ({"conv2": (128, 128, 3, 3)}, "wide_resnet50_2"),
        ({"conv2": (128, 8, 3, 3)}, "a ResNet of (3, 4, 6, 3) bottleneck blocks"),
        ({"conv2": (16, 16, 3, 3), "conv3": (64, 16, 1, 1)}, "resnet50"),
        ({"conv2": (3,), "conv3": (0, 0, 1, 1)}, "resnet50"),
        ({"se.fc1": (16, 256, 1, 1)}, "seresnet50"),
    ],
)
def test_variants_of_resnet50_are_told_by_their_shapes(change, name):
    blocks = enumerate((3, 4, 6, 3), start=1)
    state = {
        f"layer{stage}.{block}.conv{i}.weight": np.zeros((1, 1, 1, 1))
        for stage, count in blocks
        for block in range(count)
        for i in (1, 2, 3)
    }
    state["conv1.weight"] = np.zeros((1, 3, 7, 7))
    state["layer1.0.conv2.weight"] = np.zeros((64, 64, 3, 3))
    state["layer1.0.conv3.weight"] = np.zeros((256, 64, 1, 1))
    for module, shape in change.items():
        state[f"layer1.0.{module}.weight"] = np.zeros(shape)
    assert schemes.architecture_of(state) == name


def test_a_first_convolution_alone_is_no_resnet():
    assert schemes.architecture_of({"conv1.weight": np.zeros((24, 3, 3, 3))}) is None


@pytest.mark.parametrize("name", ["resnet18d", pytest.param("seresnet50", marks=pytest.mark.slow)])
def test_timm_s_resnets(name, tmp_path):
    state = state_of(name)
    folder = saved(tmp_path, state, architecture=name, pretrained_cfg={})
    assert weights.guess(folder) == name
    loaded = weights.load(name, folder)
    assert_same(loaded, state)
    assert (loaded.scheme, loaded.spec.interpolation) == ("pytorch", "bicubic")


@pytest.mark.parametrize(
    ("name", "alike"),
    [
        ("resnet18d", "resnetaa18d"),
        ("resnet18d", "resnetblur18d"),
        ("resnet18d", "seresnet18d"),
        ("resnet34", "resnetaa34"),
    ],
)
def test_networks_with_the_same_names_are_refused_by_what_is_declared(name, alike, tmp_path):
    folder = saved(tmp_path, state_of(name), architecture=alike, pretrained_cfg={})
    with pytest.raises(WeightsError, match=f"the file declares the network {alike}; expected"):
        weights.load(name, folder)


@pytest.mark.parametrize(
    "alike", ["resnextaa50_32x4d", "seresnextaa101d", "resnet_aa50", "r50_blur"]
)
def test_networks_with_the_same_names_are_refused_by_what_a_checkpoint_says(alike, tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"arch": alike, "state_dict": state_of("resnet34")}))
    with pytest.raises(WeightsError, match=f"the file declares the network {alike}; expected"):
        weights.load("resnet34", path)


@pytest.mark.parametrize("prefix", ["tv_", "ssl_", "gluon_"])
def test_older_names_of_timm(prefix, tmp_path):
    state = state_of("resnet34")
    folder = saved(tmp_path, state, architecture=f"{prefix}resnet34", pretrained_cfg={})
    assert_same(weights.load("resnet34", folder), state)


def test_wrong_hints_and_missing_keys_of_variants(tmp_path):
    state = dict(state_of("resnet18d"))
    folder = saved(tmp_path, state)
    with pytest.raises(WeightsError) as error:
        weights.load("resnet18", folder)
    for line in (
        "missing: conv1.weight (4, 3, 7, 7)",
        "missing: layer2.0.downsample.0.weight (8, 4, 1, 1)",
        "unexplained: conv1.3.weight (2, 2, 3, 3)",
        "it looks like resnet18d",
    ):
        assert line in str(error.value)
    del state["conv1.4.bias"]
    with pytest.raises(WeightsError, match=r"\(1 problems\):\n  missing: conv1\.4\.bias \(2,\)$"):
        weights.load("resnet18d", saved(tmp_path, state))


def test_hugging_face(tmp_path):
    state = state_of("resnet34")
    for prefix in ("resnet.", ""):
        folder = saved(tmp_path, hugging_face(state, prefix))
        assert weights.guess(folder) == "resnet34"
        loaded = weights.load("resnet34", folder)
        assert_same(loaded, state)
        assert loaded.scheme == "huggingface"
    given = hugging_face(state)
    given["resnet.surprise"] = given.pop("classifier.1.bias")
    with pytest.raises(WeightsError) as error:
        weights.load("resnet34", saved(tmp_path, given))
    assert "missing: fc.bias (5,)" in str(error.value)
    assert "unexplained: surprise (5,)" in str(error.value)
    regnet = {"regnet.embedder.embedder.convolution.weight": np.zeros((32, 3, 3, 3))}
    assert schemes.architecture_of(regnet) is None


@pytest.mark.parametrize("told", [None, False, True])
def test_the_stride_of_hugging_face_s_bottlenecks_is_read_from_config_json(told, tmp_path):
    config = {"model_type": "resnet", "hidden_act": "relu"}
    if told is not None:
        config["downsample_in_bottleneck"] = told
    folder = saved(tmp_path, hugging_face(state_of("resnet50")), **config)
    assert weights.load("resnet50", folder).module.stride_in_1x1 == bool(told)
    for given in (False, True):
        assert weights.load("resnet50", folder, stride_in_1x1=given).module.stride_in_1x1 == given


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"downsample_in_first_stage": True}, "sets downsample_in_first_stage, which no network"),
        ({"hidden_act": "gelu"}, "sets hidden_act to gelu; expected relu"),
    ],
)
def test_resnets_of_hugging_face_that_are_not_here(setting, message, tmp_path):
    config = {"model_type": "resnet", **setting}
    folder = saved(tmp_path, hugging_face(state_of("resnet18")), **config)
    with pytest.raises(WeightsError, match=f"config.json {message}"):
        weights.load("resnet18", folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "resnet152"])
def test_the_names_of_hugging_face_are_those_of_its_library(name):
    shapes = torchvision.variable_shapes(name, num_classes=1000)
    entries = {entry.key: entry for entry in torchvision.entries(name, shapes)}
    found = {k: entry.torch_shape for k, entry in hugging_face(entries).items()}
    digests = json.loads((GOLDEN / "names.json").read_text())[name]
    assert drawn.digest(found) == digests["huggingface"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["keras", "detectron2", "caffe2"])
def test_schemes_of_resnet152(scheme, tmp_path):
    from weights import test_loading

    state = state_of("resnet152")
    write = {
        "keras": lambda s: test_loading.keras(s, "new"),
        "detectron2": test_loading.detectron,
        "caffe2": test_loading.caffe2,
    }[scheme]
    folder = saved(tmp_path, write(state))
    assert weights.guess(folder) == "resnet152"
    loaded = weights.load("resnet152", folder, scheme=scheme)
    assert loaded.module.stride_in_1x1
    assert loaded.spec.std == (1 / 255,) * 3


def test_detectron2_s_resnet101_and_resnext(tmp_path):
    from weights.test_loading import detectron

    path = tmp_path / "w.pkl"

    def write(name, author, **more):
        content = {"model": {**detectron(state_of(name)), **more}, "__author__": author}
        path.write_bytes(pickle.dumps(content))

    write("resnet101", "Detectron2 Model Zoo")
    assert weights.guess(path) == "resnet101"
    assert weights.load("resnet101", path).module.stride_in_1x1
    # ResNeXts are Caffe2's: images as torchvision's, but BGR, and its stride
    name = "resnext50_32x4d"
    write(name, "Detectron2 Model Zoo")
    loaded = weights.load(name, path)
    assert loaded.notes[0].startswith("taken for a Caffe2 backbone (BGR), as nearly all")
    bgr = np.array([57.375, 57.12, 58.395])
    for variant, more in (
        ("caffe2", {"pixel_std": bgr}),
        ("torchvision", {"pixel_std": bgr[::-1]}),
        (None, {"pixel_std": np.ones(3)}),
        (None, {}),
    ):
        write(name, "", **more)
        if variant is None:
            with pytest.raises(WeightsError, match="variant is one of 'caffe2': .*BGR; 'torchv"):
                weights.load(name, path)
            variant = "caffe2"
            loaded = weights.load(name, path, variant=variant)
        else:
            loaded = weights.load(name, path)
        assert not loaded.module.stride_in_1x1
        assert (loaded.spec.mean, loaded.spec.std) == (models.get(name).mean, models.get(name).std)
        kernel = detectron(state_of(name))["backbone.bottom_up.stem.conv1.weight"]
        kernel = kernel[:, :: -1 if variant == "caffe2" else 1].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(loaded.variables["params"]["conv1"]["kernel"], kernel)


def test_caffe2_s_resnext_does_not_tell_its_images(tmp_path):
    from weights.test_loading import caffe2

    folder = saved(tmp_path, caffe2(state_of("resnext50_32x4d")))
    with pytest.raises(WeightsError, match="variant is one of 'caffe2': .*; 'torchvision': "):
        weights.load("resnext50_32x4d", folder)
    loaded = weights.load("resnext50_32x4d", folder, variant="torchvision")
    assert not loaded.module.stride_in_1x1


def test_converted_variants_are_the_same_network(tmp_path):
    from jaxparc.weights import native

    before = weights.load("resnet18d", saved(tmp_path, state_of("resnet18d")))
    native.save(before, tmp_path / "own.safetensors")
    after = weights.load(None, tmp_path / "own.safetensors")
    assert after.module == before.module
    jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)


# DenseNets


def test_densenet_s_older_names(tmp_path):
    state = state_of("densenet121")
    older = renamed(state, (r"(denselayer\d+\.)(norm|conv)(\d)", r"\1\2.\3"))
    assert len(older.keys() - state.keys()) == 58 * (2 * 4 + 2)
    folder = saved(tmp_path, {f"module.{key}": array for key, array in older.items()})
    assert weights.guess(folder) == "densenet121"
    assert_same(weights.load("densenet121", folder), state)


def test_other_densenets_are_described():
    state = empty("densenet121", 0.0625)
    with_more = {**state, "features.conv1.weight": np.zeros((2, 2, 3, 3))}
    assert "several convolutions in its stem" in schemes.architecture_of(with_more)
    fewer = {key: array for key, array in state.items() if "denseblock4" not in key}
    assert schemes.architecture_of(fewer) == "a DenseNet of (6, 12, 24, 0) layers"


# VGGs


def test_vgg_of_timm(tmp_path):
    """timm's fully connected layers are convolutions, the first over the whole map."""
    state = dict(state_of("vgg11_bn"))
    given = {
        key: array.reshape(len(array), -1, *((7, 7) if key == "classifier.0.weight" else (1, 1)))
        if key in ("classifier.0.weight", "classifier.3.weight")
        else array
        for key, array in state.items()
    }
    given = renamed(
        given,
        (r"^classifier\.0\.", "pre_logits.fc1."),
        (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."),
    )
    assert given["pre_logits.fc1.weight"].shape == (256, 32, 7, 7)
    folder = saved(tmp_path, given, architecture="vgg11_bn", pretrained_cfg={})
    assert weights.guess(folder) == "vgg11_bn"
    loaded = weights.load("vgg11_bn", folder)
    assert_same(loaded, state)
    assert loaded.scheme == "timm"
    given["pre_logits.surprise"] = given.pop("pre_logits.fc2.bias")
    with pytest.raises(WeightsError) as error:
        weights.load("vgg11_bn", saved(tmp_path, given))
    assert "missing: classifier.3.bias (256,)" in str(error.value)
    assert "unexplained: pre_logits.surprise (256,)" in str(error.value)
    with pytest.raises(WeightsError, match="not of the scheme 'timm'"):
        weights.load("vgg11_bn", saved(tmp_path, state), scheme="timm")


@pytest.mark.slow
@pytest.mark.parametrize("name", vgg.ARCHITECTURES)
def test_the_names_of_vggs_are_timm_s(name):
    shapes = torchvision.variable_shapes(name, num_classes=1000)
    found = {}
    for entry in torchvision.entries(name, shapes):
        key, shape = entry.key, entry.torch_shape
        if key == "classifier.0.weight":
            shape = (4096, 512, 7, 7)
        if key == "classifier.3.weight":
            shape = (4096, 4096, 1, 1)
        found[key] = shape
    found = renamed(
        found,
        (r"^classifier\.0\.", "pre_logits.fc1."),
        (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."),
    )
    assert drawn.digest(found) == json.loads((GOLDEN / "names.json").read_text())[name]["timm"]


def test_a_vgg_of_another_depth_is_named(tmp_path):
    with pytest.raises(WeightsError, match="it looks like vgg11_bn$"):
        weights.load("vgg13", saved(tmp_path, state_of("vgg11_bn")))
