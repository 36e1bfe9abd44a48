"""Keras: HDF5, .keras archives and TensorFlow.js."""

import io
import zipfile

import h5py
import numpy as np
import pytest
from weights.written import hdf5, keras_mobilenet, state_of, tfjs

from jaxparc import weights
from jaxparc.weights import WeightsError, keras, reading, torchvision

OPTIMIZERS = {
    "optimizer_weights/Adam/m": "{}:0",
    "optimizer_weights/training/SGD": "{}/momentum:0",
    "optimizer_weights/RMSprop/rms": "{}:0",
}


@pytest.fixture(scope="module")
def named():
    rng = np.random.default_rng(0)
    shapes = {
        "Conv1/kernel": (3, 3, 3, 32),
        "bn_Conv1/gamma": (32,),
        "expanded_conv_project/kernel": (1, 1, 32, 16),
    }
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("colon", [":0", ""])
def test_moments_of_an_optimizer_are_no_weights(optimizer, colon, named, tmp_path):
    weights = {f"{k.split('/')[0]}/{k}{colon}": a for k, a in named.items()}
    moments = {OPTIMIZERS[optimizer].format(k): a + 1 for k, a in named.items()}
    path = hdf5(tmp_path / "w.h5", {optimizer: moments, "model_weights": weights})
    found = reading.checkpoint(path)
    assert {k: a.tolist() for k, a in found.arrays.items()} == {
        k: a.tolist() for k, a in weights.items()
    }
    assert found.left_out == ("optimizer_weights",)


KERAS3 = {
    "layers/conv2d": ("Conv1", ["Conv1/kernel"]),
    "layers/batch_normalization_3": ("bn_Conv1", ["bn_Conv1/gamma"]),
    "layers/conv2d_17": ("expanded_conv_project", ["expanded_conv_project/kernel"]),
}


def keras3(named, told=True):
    """As Keras 3.15 lays its weights out."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for place, (name, keys) in KERAS3.items():
            vars_ = file.create_group(f"{place}/vars")
            if told:
                vars_.attrs["name"] = name
            for number, key in enumerate(keys):
                vars_[str(number)] = named[key]
        file["optimizer/vars/0"] = np.ones(3, np.float32)
    return content.getvalue()


@pytest.mark.parametrize("form", ["w.weights.h5", "w.keras"])
def test_numbered_weights_of_keras_3_get_their_names(form, named, tmp_path):
    path = tmp_path / form
    path.write_bytes(keras3(named))
    if form.endswith(".keras"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr(keras.MEMBER, keras3(named))
    found = reading.checkpoint(path)
    assert {k: a.tolist() for k, a in found.arrays.items()} == {
        k: a.tolist() for k, a in named.items()
    }
    assert found.left_out == ("optimizer",)
    path = tmp_path / "old.weights.h5"
    path.write_bytes(keras3(named, told=False))
    with pytest.raises(
        WeightsError, match="/vars/0 is numbered and its layer has no name, as some"
    ):
        reading.read(path)


def test_two_networks_of_keras_are_not_one(named, tmp_path):
    def under(name, offset):
        return {f"{name}/{k}:0": a + offset for k, a in named.items()}

    path = hdf5(tmp_path / "w.h5", {"model_weights": under("student", 0) | under("teacher", 1)})
    with pytest.raises(WeightsError, match=r"several networks: .* student/.*, teacher/.*"):
        weights.load("mobilenet_v2", path)
    found = reading.read(path, "model_weights/teacher")
    assert set(found) == {f"teacher/{k}:0" for k in named}
    with pytest.raises(WeightsError, match="several networks"):
        weights.load("mobilenet_v2", hdf5(path, {"a": named, "b": named}))


@pytest.mark.parametrize(
    ("quantised", "error"), [(None, 0), ("float16", 1e-3), ("uint16", 1e-4), ("uint8", 1e-2)]
)
def test_mobilenet_of_keras_quantised_or_not(quantised, error, tmp_path):
    state = state_of("mobilenet_v2")
    given = keras_mobilenet(state)
    loaded = weights.load("mobilenet_v2", tfjs(tmp_path, given, quantised))
    expected = torchvision.from_torchvision("mobilenet_v2", state)
    for collection in ("params", "batch_stats"):
        for module, arrays in expected[collection].items():
            found = loaded.variables[collection][module]
            if not isinstance(next(iter(arrays.values())), dict):
                arrays, found = {module: arrays}, {module: found}
            for inner, leaves in arrays.items():
                for leaf, array in leaves.items():
                    atol = error * max(np.ptp(array), np.abs(array).max())
                    np.testing.assert_allclose(found[inner][leaf], array, atol=atol)
    assert (loaded.scheme, loaded.module.num_classes) == ("keras", 5)
    assert (loaded.module.eps, loaded.module.same_padding) == (1e-3, True)
    assert loaded.spec.mean == loaded.spec.std == (0.5,) * 3
    assert weights.guess(tmp_path) == "mobilenet_v2"


def test_the_only_linear_layer_is_the_head_and_others_are_left_out(tmp_path):
    given = keras_mobilenet(state_of("mobilenet_v2"))
    head = {k: given.pop(k) for k in ("predictions/kernel", "predictions/bias")}
    named = given | {f"dense_4/{k.split('/')[1]}": a for k, a in head.items()}
    assert weights.load("mobilenet_v2", tfjs(tmp_path, named)).module.num_classes == 5
    two = named | {"dense_5/kernel": np.ones((5, 2)), "dense_5/bias": np.ones(2)}
    loaded = weights.load("mobilenet_v2", tfjs(tmp_path, two))
    assert loaded.module.num_classes == 0
    assert set(loaded.left_out) == {
        f"dense_{i}/{leaf}" for i in (4, 5) for leaf in ("kernel", "bias")
    }


def test_a_linear_layer_of_something_else_than_the_averages_is_no_head(tmp_path):
    given = keras_mobilenet(state_of("mobilenet_v2"))
    del given["predictions/kernel"], given["predictions/bias"]
    width = given["Conv_1_bn/gamma"].size
    given |= {"dense/kernel": np.ones((49 * width, 5)), "dense/bias": np.ones(5)}
    loaded = weights.load("mobilenet_v2", tfjs(tmp_path, given))
    assert loaded.module.num_classes == 0
    assert set(loaded.left_out) == {"dense/kernel", "dense/bias"}


def test_two_weights_of_one_name_in_a_manifest(tmp_path):
    folder = tfjs(tmp_path, {"a": np.ones(2), "b": np.ones(2)})
    manifest = folder / "model.json"
    manifest.write_text(manifest.read_text().replace('"name": "b"', '"name": "a"'))
    with pytest.raises(WeightsError, match="duplicate array a"):
        reading.read(folder)
