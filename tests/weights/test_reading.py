"""What lies around the weights in files as people have them, and in files made to harm."""

import argparse
import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from golden import drawn
from safetensors.numpy import save_file

from jaxparc import models
from jaxparc.weights import WeightsError, keras, loading, native, reading, torch_files, torchvision


def state_of(name="resnet18", num_classes=5):
    shapes = torchvision.variable_shapes(name, num_classes=num_classes, width=0.0625)
    entries = torchvision.scheme(name, shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


@pytest.fixture(scope="module")
def state():
    """A ResNet-18 of a sixteenth of the channels."""
    return state_of()


def pickled(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def assert_is(loaded, state, offset=0):
    kernel = loaded.variables["params"]["conv1"]["kernel"]
    expected = state["conv1.weight"].transpose(2, 3, 1, 0) + offset
    np.testing.assert_allclose(kernel, expected, atol=1e-6)


def plus(state, offset):
    return {key: array + np.float32(offset) for key, array in state.items()}


# Nests


@pytest.mark.parametrize(
    "nest",
    ["state_dict", "model", "module", "model_state_dict", "network", "net", "teacher", "student"],
)
def test_weights_are_taken_out_of_a_nest_with_anything_beside(nest, state, tmp_path):
    content = {
        "torch_rng": np.zeros(5056, np.uint8),
        "cuda_rng": [np.zeros(16, np.uint8)],
        "numpy_rng": np.random.RandomState(0).get_state(),
        "args": argparse.Namespace(lr=0.1, data=argparse.Namespace(path="x")),
        "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 90,
        nest: state,
    }
    loaded = models.load("resnet18", pickled(tmp_path / "w.pkl", content))
    assert_is(loaded, state)
    assert {"torch_rng", "args", "optimizer"} <= set(loaded.left_out)
    assert "epoch" not in loaded.left_out
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("teacher", "student"),
        ("state_dict", "model"),
    ],
)
def test_of_several_weights_it_is_said_which_were_taken(first, second, state, tmp_path):
    content = {second: plus(state, 1), first: state}
    path = pickled(tmp_path / "w.pkl", content)
    loaded = models.load("resnet18", path)
    assert_is(loaded, state)
    (note,) = loaded.notes
    assert note == f"{first} was taken; it also holds {second} (weights_key chooses)"
    assert second in loaded.left_out
    chosen = models.load("resnet18", path, weights_key=second)
    assert_is(chosen, state, offset=1)
    assert chosen.notes == ()


def test_weights_under_any_other_name_are_asked_for(state, tmp_path):
    path = pickled(tmp_path / "w.pkl", {"my": {"nets": {"a": state, "b": plus(state, 1)}}})
    with pytest.raises(WeightsError, match="holds no arrays, but my; weights_key chooses among my"):
        models.load("resnet18", path)
    assert_is(models.load("resnet18", path, weights_key="my.nets.b"), state, offset=1)
    with pytest.raises(WeightsError, match="holds no arrays under 'other', but my"):
        models.load("resnet18", path, weights_key="other")


def test_two_networks_side_by_side_are_not_one(state, tmp_path):
    both = {f"student.backbone.{k}": a for k, a in plus(state, 1).items()}
    both |= {f"teacher.backbone.{k}": a for k, a in state.items()}
    save_file(both, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"2 networks, .* 'student\.backbone\.', 'teacher\.back"):
        models.load("resnet18", tmp_path / "w.safetensors")
    loaded = models.load("resnet18", tmp_path / "w.safetensors", weights_key="teacher")
    assert_is(loaded, state)
    assert sum(name.startswith("student.") for name in loaded.left_out) == len(state)


def test_what_holds_itself_is_refused(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x02}q\x00X\n\0\0\0state_dicth\x00s.")
    for read in (reading.read, loading.guess, lambda p: models.load("resnet18", p)):
        with pytest.raises(WeightsError, match="holds no arrays, but state_dict|holds itself"):
            read(path)


def test_names_that_read_alike_are_refused(tmp_path):
    path = pickled(tmp_path / "w.pkl", {1: np.ones(2), "1": np.zeros(2)})
    with pytest.raises(WeightsError, match="two of its arrays are called 1"):
        reading.read(path)
    assert list(reading.read(pickled(path, {b"conv1.weight": np.ones(2)}))) == ["conv1.weight"]


# Beside the network


@pytest.mark.parametrize(
    "beside",
    [
        ["head.last_layer.weight_g", "head.mlp.0.weight"],
        ["criterion.weight", "loss.center"],
        ["train_acc.tp", "val_metrics.accuracy.total"],
        ["head.weight", "head.bias"],
        ["classifier.1.weight", "neck.conv.weight"],
    ],
)
def test_what_lies_beside_a_whole_backbone_is_left_out_by_name(beside, state, tmp_path):
    given = {f"model.backbone.{k}": a for k, a in state.items()}
    given |= {name: np.full(3, np.inf, np.float32) for name in beside}
    save_file(given, tmp_path / "w.safetensors")
    loaded = models.load("resnet18", tmp_path / "w.safetensors")
    assert_is(loaded, state)
    assert set(loaded.left_out) == set(beside)
    del given["model.backbone.layer1.0.conv1.weight"]
    save_file(given, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"missing: layer1\.0\.conv1\.weight"):
        models.load("resnet18", tmp_path / "w.safetensors")


def test_names_are_ignored_on_demand_alone(state, tmp_path):
    path = pickled(tmp_path / "w.pkl", {**state, "surprise": np.ones(2, np.float32)})
    with pytest.raises(WeightsError, match="unexplained: surprise"):
        models.load("resnet18", path)
    loaded = models.load("resnet18", path, ignore=["sur*"])
    assert loaded.left_out == ("surprise",)
    with pytest.raises(WeightsError, match=r"missing: layer1\.0\.conv1"):
        models.load("resnet18", path, ignore=["sur*", "layer1*"])
    with pytest.raises(WeightsError, match="ignore has 'nothing', which matches no name in it"):
        models.load("resnet18", path, ignore=["nothing"])


@pytest.mark.parametrize(
    "key",
    [
        "aux_classifier.0.weight",
        "auxiliary_head.convs.0.conv.weight",
        "classifier.0.convs.0.0.weight",
        "classifier.0.weight",  # FCN's
        "decoder.0.convs.0.0.weight",
        "decoder.aspp.0.0.weight",
        "aspp.aspp2.atrous_conv.weight",
    ],
)
def test_a_dilated_backbone_is_not_taken_for_one_with_strides(key, state, tmp_path):
    given = {f"backbone.{k}": a for k, a in state.items()} | {key: np.ones((2, 2, 3, 3))}
    path = pickled(tmp_path / "w.pkl", given)
    with pytest.raises(WeightsError, match=f"{key} is of a segmentation network"):
        models.load("resnet18", path)
    assert_is(models.load("resnet18", path, ignore=[key]), state)
    del given[key]
    given["decoder.blocks.0.conv1.0.weight"] = np.ones((2, 2, 3, 3))
    assert_is(models.load("resnet18", pickled(path, given)), state)


def test_integers_are_no_weights(state, tmp_path):
    given = {**state, "layer1.0.conv1.weight": np.ones((4, 4, 3, 3), np.int8)}
    with pytest.raises(WeightsError, match=r"layer1\.0\.conv1\.weight is int8; expected floating"):
        models.load("resnet18", pickled(tmp_path / "w.pkl", given))


def test_quantised_tensors_are_named_not_taken():
    """As torch.save has them: a function of its own, which is not called."""
    program = (
        b"\x80\x02}(X\x01\0\0\0actorch._utils\n_rebuild_qtensor\n(ctorch\nQInt8Storage\ntR"
        b"X\x01\0\0\0bcnumpy\ndtype\nX\x02\0\0\0f4\x85Ru."
    )
    from jaxparc.weights import pickles

    found = pickles.load_next(io.BytesIO(program), inert=True)
    assert found["a"].name == "torch._utils._rebuild_qtensor"


# Keras


def hdf5(path, groups):
    with h5py.File(path, "w") as file:
        for group, arrays in groups.items():
            for name, array in arrays.items():
                file[f"{group}/{name}"] = array
    return path


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
    with pytest.raises(WeightsError, match="/vars/0 is numbered without a layer's name, as some"):
        reading.read(path)


def test_two_networks_of_keras_are_not_one(named, tmp_path):
    def under(name, offset):
        return {f"{name}/{k}:0": a + offset for k, a in named.items()}

    path = hdf5(tmp_path / "w.h5", {"model_weights": under("student", 0) | under("teacher", 1)})
    with pytest.raises(WeightsError, match=r"several networks: .* student/.*, teacher/.*"):
        models.load("mobilenet_v2", path)
    found = reading.read(path, "model_weights/teacher")
    assert set(found) == {f"teacher/{k}:0" for k in named}
    with pytest.raises(WeightsError, match="several networks"):
        models.load("mobilenet_v2", hdf5(path, {"a": named, "b": named}))


def keras_mobilenet(state):
    """Its names and layouts."""
    given = {}
    for key, array in state.items():
        module, _, leaf = key.rpartition(".")
        name, kind = MOBILENET[module]
        if array.ndim == 4:
            array = array.transpose(2, 3, 0, 1) if kind == "dw" else array.transpose(2, 3, 1, 0)
            leaf = "depthwise_kernel" if kind == "dw" else "kernel"
        elif kind == "dense":
            array, leaf = array.T, "kernel" if leaf == "weight" else "bias"
        else:
            leaf = {
                "weight": "gamma",
                "bias": "beta",
                "running_mean": "moving_mean",
                "running_var": "moving_variance",
            }[leaf]
        given[f"{name}/{leaf}"] = array
    return given


def mobilenet_modules():
    """torchvision's module -> Keras's layer, and its kind."""
    found = {
        "features.0.0": ("Conv1", "conv"),
        "features.0.1": ("bn_Conv1", "norm"),
        "features.18.0": ("Conv_1", "conv"),
        "features.18.1": ("Conv_1_bn", "norm"),
        "classifier.1": ("predictions", "dense"),
        "features.1.conv.0.0": ("expanded_conv_depthwise", "dw"),
        "features.1.conv.0.1": ("expanded_conv_depthwise_BN", "norm"),
        "features.1.conv.1": ("expanded_conv_project", "conv"),
        "features.1.conv.2": ("expanded_conv_project_BN", "norm"),
    }
    for i in range(1, 17):
        place = f"features.{i + 1}.conv"
        found |= {
            f"{place}.0.0": (f"block_{i}_expand", "conv"),
            f"{place}.0.1": (f"block_{i}_expand_BN", "norm"),
            f"{place}.1.0": (f"block_{i}_depthwise", "dw"),
            f"{place}.1.1": (f"block_{i}_depthwise_BN", "norm"),
            f"{place}.2": (f"block_{i}_project", "conv"),
            f"{place}.3": (f"block_{i}_project_BN", "norm"),
        }
    return found


MOBILENET = mobilenet_modules()


def tfjs(folder, arrays, quantised=None):
    """As tensorflowjs_converter writes them."""
    data, weights = b"", []
    for name, array in arrays.items():
        weight = {"name": name, "shape": array.shape, "dtype": "float32"}
        if quantised == "float16":
            weight["quantization"] = {"dtype": "float16"}
            data += array.astype("<f2").tobytes()
        elif quantised:
            most = np.iinfo(quantised).max
            scale = float(np.ptp(array)) / most or 1.0
            weight["quantization"] = {
                "dtype": quantised,
                "min": float(array.min()),
                "scale": scale,
                "original_dtype": "float32",
            }
            data += np.round((array - array.min()) / scale).astype(quantised).tobytes()
        else:
            data += array.astype("<f4").tobytes()
        weights.append(weight)
    (folder / "shard").write_bytes(data)
    manifest = {"weightsManifest": [{"paths": ["shard"], "weights": weights}]}
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("quantised", "error"), [(None, 0), ("float16", 1e-3), ("uint16", 1e-4), ("uint8", 1e-2)]
)
def test_mobilenet_of_keras_quantised_or_not(quantised, error, tmp_path):
    state = state_of("mobilenet_v2")
    given = keras_mobilenet(state)
    loaded = models.load("mobilenet_v2", tfjs(tmp_path, given, quantised))
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
    assert loading.guess(tmp_path) == "mobilenet_v2"


def test_the_only_linear_layer_is_the_head_and_others_are_left_out(tmp_path):
    given = keras_mobilenet(state_of("mobilenet_v2"))
    head = {k: given.pop(k) for k in ("predictions/kernel", "predictions/bias")}
    named = given | {f"dense_4/{k.split('/')[1]}": a for k, a in head.items()}
    assert models.load("mobilenet_v2", tfjs(tmp_path, named)).module.num_classes == 5
    two = named | {"dense_5/kernel": np.ones((5, 2)), "dense_5/bias": np.ones(2)}
    loaded = models.load("mobilenet_v2", tfjs(tmp_path, two))
    assert loaded.module.num_classes == 0
    assert set(loaded.left_out) == {
        f"dense_{i}/{leaf}" for i in (4, 5) for leaf in ("kernel", "bias")
    }


def test_a_linear_layer_of_something_else_than_the_averages_is_no_head(tmp_path):
    given = keras_mobilenet(state_of("mobilenet_v2"))
    del given["predictions/kernel"], given["predictions/bias"]
    width = given["Conv_1_bn/gamma"].size
    given |= {"dense/kernel": np.ones((49 * width, 5)), "dense/bias": np.ones(5)}
    loaded = models.load("mobilenet_v2", tfjs(tmp_path, given))
    assert loaded.module.num_classes == 0
    assert set(loaded.left_out) == {"dense/kernel", "dense/bias"}


def test_two_weights_of_one_name_in_a_manifest(tmp_path):
    folder = tfjs(tmp_path, {"a": np.ones(2), "b": np.ones(2)})
    manifest = folder / "model.json"
    manifest.write_text(manifest.read_text().replace('"name": "b"', '"name": "a"'))
    with pytest.raises(WeightsError, match="two of its arrays are called a"):
        reading.read(folder)


# Folders and shards


def test_shards_under_an_index_and_the_folder_of_a_hub(state, tmp_path):
    names = list(state)
    parts = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, keys in parts.items():
        save_file({k: state[k] for k in keys}, tmp_path / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    for path in (index, tmp_path):
        assert_is(models.load("resnet18", path), state)
    index.write_text(json.dumps({"weight_map": {**weight_map, "more": "a.safetensors"}}))
    with pytest.raises(WeightsError, match=r"index\.json: its shards lack more"):
        models.load("resnet18", index)
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(WeightsError, match="names a shard '../a.safetensors' outside"):
        models.load("resnet18", index)
    save_file({**state}, tmp_path / "b.safetensors")
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match="is in b.safetensors and in another shard too"):
        models.load("resnet18", index)


def test_a_folder_without_weights_is_told_what_is_expected(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(WeightsError) as error:
        reading.read(tmp_path)
    assert "holds README.md; expected a file, or a folder with model.safetensors" in str(
        error.value
    )


def hub(folder, state, architecture, **config):
    save_file(state, folder / "model.safetensors")
    told = {"architecture": architecture, "pretrained_cfg": config}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def test_the_config_beside_the_file_says_of_which_network_it_is(state, tmp_path):
    loaded = models.load(
        "resnet18", hub(tmp_path, state, "resnet18", mean=[0.5] * 3, std=[0.25] * 3)
    )
    assert (loaded.spec.mean, loaded.spec.std) == ((0.5,) * 3, (0.25,) * 3)
    for other in ("resnetblur18", "resnetaa18", "resnet18d"):
        with pytest.raises(WeightsError, match=f"it says that it is of {other}, which is another"):
            models.load("resnet18", hub(tmp_path, state, other))
    with pytest.raises(WeightsError, match="its std is .*; expected three numbers above 0"):
        models.load("resnet18", hub(tmp_path, state, "resnet18", std=[0, 1, 1]))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json cannot be read"):
        models.load("resnet18", tmp_path)


@pytest.mark.parametrize("told", ["efficientnet_lite0", "tf_efficientnet_lite0"])
def test_a_port_is_told_from_a_training(told, tmp_path):
    from weights.test_others import counters, golden, timm

    ours = state_of("efficientnet_lite0")
    order = [k for k in golden("efficientnet_lite0") if k in ours]
    theirs = [
        k for k in timm("efficientnet_lite0") if k not in counters(timm("efficientnet_lite0"))
    ]
    given = {t: ours[k] for t, k in zip(theirs, order, strict=True)}
    nested = pickled(tmp_path / "w.pkl", {"arch": told, "state_dict": given})
    for path in (hub(tmp_path, given, told), nested):
        loaded = models.load("efficientnet_lite0", path)
        assert (loaded.module.same_padding is False) == (told == "efficientnet_lite0")
    with pytest.raises(WeightsError, match="unknown variant 'x'; known: efficientnet_lite0, tf_"):
        models.load("efficientnet_lite0", nested, variant="x")


def test_a_checkpoint_that_says_it_is_of_another_network(state, tmp_path):
    for arch in ("resnetblur18", "timm/resnetblur18.bt", "resnet_aa18", "antialiased_resnet18"):
        path = pickled(tmp_path / "w.pkl", {"arch": arch, "state_dict": state})
        with pytest.raises(WeightsError, match=f"it says that it is of {arch.partition('.')[0]}"):
            models.load("resnet18", path)
    path = pickled(tmp_path / "w.pkl", {"arch": "moco", "state_dict": state})
    assert_is(models.load("resnet18", path), state)


@pytest.mark.parametrize(
    "facts",
    [
        {"mean": 0.13, "std": 0.31},
        {"mean": "imagenet"},
        {"config": "configs/r18_8xb32.yaml"},
        {"jaxparc": "0.9"},
    ],
)
def test_what_a_checkpoint_happens_to_say_is_no_hub_s_config(facts, state, tmp_path):
    path = pickled(tmp_path / "w.pkl", {**facts, "state_dict": state})
    loaded = models.load("resnet18", path)
    assert_is(loaded, state)
    assert loaded.spec == models.get("resnet18")
    assert loading.guess(path) == "resnet18"


def test_settings_of_the_network_beside_the_file_are_not_passed_over(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": "resnet18", "model_args": {"drop_rate": 0.1}}))
    assert_is(models.load("resnet18", tmp_path), state)
    config.write_text(json.dumps({"architecture": "resnet18", "model_args": {"output_stride": 8}}))
    with pytest.raises(WeightsError, match="its config.json sets output_stride, which no network"):
        models.load("resnet18", tmp_path)


def test_several_things_at_once_are_no_weights_by_name(state, tmp_path):
    for content in ((state, {"mean": (0, 0, 0)}), (state, 3), [state]):
        with pytest.raises(WeightsError, match=r"holds a (tuple|list), no weights by name"):
            reading.checkpoint(pickled(tmp_path / "w.pkl", content))


# Detectron2


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
            models.load("resnet50", path)
        variant = "msra"
        loaded = models.load("resnet50", path, scheme="detectron2")
    else:
        loaded = models.load("resnet50", path)
    msra = variant == "msra"
    assert loaded.module.stride_in_1x1 == msra
    assert (loaded.spec.std == (1 / 255,) * 3) == msra
    kernel = given["stem.conv1.weight"][:, :: -1 if msra else 1].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded.variables["params"]["conv1"]["kernel"], kernel)
    assert loaded.module.num_classes == (5 if more and "stem.fc.bias" in more else 0)
    assert bool(loaded.notes) == (author == "Detectron2 Model Zoo")
    other = models.load("resnet50", path, variant="msra", channels="rgb", stride_in_1x1=False)
    assert not other.module.stride_in_1x1
    found = other.variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(found, given["stem.conv1.weight"].transpose(2, 3, 1, 0))


def test_orders_and_strides_that_are_none(state, tmp_path):
    path = pickled(tmp_path / "w.pkl", state)
    with pytest.raises(WeightsError, match="channels are 'gbr'; expected rgb or bgr"):
        models.load("resnet18", path, channels="gbr")
    with pytest.raises(WeightsError, match="alexnet has no stride_in_1x1"):
        models.load("alexnet", path, stride_in_1x1=True)


# Made to harm


def test_hdf5_reads_nothing_outside_of_the_file(tmp_path):
    (tmp_path / "secret").write_bytes(np.arange(8.0).tobytes())
    hdf5(tmp_path / "other.h5", {"g": {"w": np.ones(4, np.float32)}})
    path = tmp_path / "w.h5"
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "g/w", (4,))

    def external(file):
        file.create_dataset("a", (8,), "f8", external=[(str(tmp_path / "secret"), 0, 64)])

    def soft(file):
        file["x"] = np.ones(2, np.float32)
        file["a"] = h5py.SoftLink("/x")

    def hard(file):
        file["g/x"] = np.ones(2, np.float32)
        file["g/a"] = file["g"]

    cases = {
        "its a lies in other files": external,
        "its a lies in other": lambda file: file.create_virtual_dataset("a", layout),
        "its a is a link": lambda file: file.__setitem__(
            "a", h5py.ExternalLink("other.h5", "/g/w")
        ),
        "its a is a link, which": soft,
        "its group g/a is there twice": hard,
    }
    for message, make in cases.items():
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(WeightsError, match=message):
            reading.read(path)


def test_more_memory_than_a_file_may_ask_for(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (1 << 30,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(WeightsError, match="a asks for 4,294,967,296 bytes, more than a file of"):
        reading.read(path)
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "a", (1,), "f4", maxshape=(None,), chunks=(1 << 28,), compression="gzip"
        )
    with pytest.raises(WeightsError, match="asks for 1,073,741,824 bytes"):
        reading.read(path)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as f,
    ):
        f.write(bytes(1 << 20))
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
    declared = path.read_bytes().replace(
        (1 << 20).to_bytes(4, "little"), (1 << 30).to_bytes(4, "little")
    )
    path.write_bytes(declared)
    assert info.file_size == 1 << 20
    with pytest.raises(WeightsError, match=r"a\.npy asks for 1,073,741,824 bytes"):
        reading.read(path)


def test_chunks_of_hdf5_that_become_larger_than_they_say(tmp_path):
    path = tmp_path / "w.h5"
    values = np.arange(256, dtype=np.float32)

    def written(packed=None, **settings):
        with h5py.File(path, "w") as file:
            made = file.create_dataset("a", (256,), "f4", values, chunks=(100,), **settings)
            if packed is not None:
                made.id.write_direct_chunk((0,), packed)
        return path

    for settings in ({}, {"shuffle": True}, {"fletcher32": True}):
        found = reading.read(written(compression="gzip", **settings))
        np.testing.assert_array_equal(found["a"], values)
    with pytest.raises(WeightsError, match="a chunk of its a is larger than its 400 bytes"):
        reading.read(written(zlib.compress(bytes(1 << 20)), compression="gzip"))
    with pytest.raises(WeightsError, match="its a is packed by other filters than gzip"):
        reading.read(written(compression="lzf"))


def test_a_size_twenty_thousand_times(tmp_path):
    """300 KB that would be copied to 12 GB."""
    sides = b"(" + b"K\x01" * 100_000 + b"lq\x01"
    calls = b"h\x02h\x01\x85R" * 20_000
    data = b"\x80\x02" + sides + b"ctorch\nSize\nq\x02(" + calls + b"t."
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
    code = (
        "import resource, sys; from jaxparc.weights import torch_files\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        f"torch_files.read({str(path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "WeightsError" in done.stderr
    assert "MemoryError" not in done.stderr


def test_members_that_lie_over_one_another_count_each_time(tmp_path, monkeypatch):
    from weights.test_torch_files import FILES, GOLDEN

    from jaxparc.weights import budget

    path = tmp_path / "w.pth"
    path.write_bytes((GOLDEN / FILES[0]).read_bytes())
    torch_files.read(path)
    monkeypatch.setattr(budget, "SPARE", 500)
    monkeypatch.setattr(budget, "TIMES", 0)
    with pytest.raises(WeightsError, match="bytes, more than a file of"):
        torch_files.read(path)


def test_pipes_and_devices_are_no_files_of_weights(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "hub").mkdir()
    os.mkfifo(tmp_path / "hub" / "model.safetensors")
    group = {"paths": ["pipe"], "weights": []}
    (tmp_path / "model.json").write_text(json.dumps({"weightsManifest": [group]}))
    for name in ("pipe", "zero", "hub", "model.json"):
        with pytest.raises(WeightsError, match="is a (pipe|device); expected a file"):
            models.load("resnet18", tmp_path / name)


# Our own files


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mean", None, "its mean is None; expected three numbers"),
        ("mean", "abc", "its mean is abc; expected three numbers"),
        ("mean", [0.1, float("nan"), 0.1], r"its mean is \[0.1, nan, 0.1\]; expected three"),
        ("std", [1, 0, 1], r"its std is \[1, 0, 1\]; expected three numbers above 0"),
        ("std", [1, 1], "its std is .*; expected three"),
        ("mean", ..., "its mean is None; expected"),
        ("architecture", ..., "it is of None, not of resnet18"),
        ("stride_in_1x1", "yes", "its stride_in_1x1 is yes; expected a bool"),
        (None, "[", "what it says of itself cannot be read"),
        (None, "3", "what it says of itself cannot be read"),
        (None, "[" * 10_000, "what it says of itself cannot be read"),
    ],
)
def test_what_our_own_files_say_of_themselves_is_checked(key, value, message, state, tmp_path):
    loaded = models.load("resnet18", pickled(tmp_path / "w.pkl", state))
    path = tmp_path / "own.safetensors"
    native.save(loaded, path)
    told = native.told(reading.checkpoint(path).facts)
    if key is None:
        text = value
    else:
        told = {k: v for k, v in told.items() if k != key} | ({} if value is ... else {key: value})
        text = json.dumps(told)
    save_file(reading.read(path), path, {reading.KEY: text})
    with pytest.raises(WeightsError, match=message) as error:
        models.load("resnet18", path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "given",
    [
        {"channels": "bgr"},
        {"stride_in_1x1": True},
        {"variant": "msra"},
        {"scheme": "detectron2"},
        {"ignore": ["criterion.*"]},
    ],
)
def test_what_our_own_files_have_decided_is_not_passed_over_in_silence(given, state, tmp_path):
    path = tmp_path / "w.safetensors"
    native.save(models.load("resnet18", pickled(tmp_path / "w.pkl", state)), path)
    agreed = models.load("resnet18", path, channels="rgb", stride_in_1x1=False)
    assert_is(agreed, state)
    with pytest.raises(WeightsError, match=next(iter(given))):
        models.load("resnet18", path, **given)


def test_what_weights_decided_is_kept(tmp_path):
    loaded = models.load("mobilenet_v2", tfjs(tmp_path, keras_mobilenet(state_of("mobilenet_v2"))))
    native.save(loaded, tmp_path / "own.safetensors")
    again = models.load("mobilenet_v2", tmp_path / "own.safetensors")
    assert (again.module, again.spec.mean) == (loaded.module, loaded.spec.mean)


@pytest.mark.parametrize(
    "names",
    [
        {"conv_stem.weight": np.zeros((0, 3, 3, 3)), "conv_head.weight": np.zeros((8, 4, 1, 1))},
        {"conv_stem.weight": np.zeros(3), "conv_head.weight": np.zeros(3)},
        {"conv1.weight": np.zeros((0, 3, 7, 7))},
        {"conv1.weight": np.zeros((4, 3, 7, 7)), "fc.weight": np.zeros((5, 0))},
        {"conv1.weight": np.zeros(()), "fc.weight": np.zeros(())},
        {"stem.conv1.weight": np.zeros(3)},
        {"res2_0_branch2a_w": np.zeros(3), "conv1_w": np.zeros(())},
        {"res2_0_branch2a_w": np.zeros(3)},
        {"conv1/kernel": np.zeros(3)},
        {"conv1_conv/kernel": np.zeros((1, 1, 1, 1)), "conv9_block1_1_conv/kernel": np.zeros(2)},
        {"Conv1/kernel": np.zeros(3), "expanded_conv_project/kernel": np.zeros(3)},
        {"fire2/squeeze1x1/0": np.zeros(3), "conv1/0": np.zeros(2)},
        {"features.0.weight": np.zeros(()), "classifier.6.weight": np.zeros((2, 2))},
        {"conv1.conv.weight": np.zeros((4, 4)), "inception3a.x": np.zeros(3)},
        {"features.0.0.weight": np.zeros(3), "features.18.0.weight": np.zeros(3)},
        {"": np.zeros(3)},
    ],
)
def test_odd_names_and_shapes_are_errors_of_ours(names, tmp_path):
    path = pickled(tmp_path / "w.pkl", names)
    for name in models.MODELS:
        with pytest.raises(WeightsError, match="w.pkl") as error:
            models.load(name, path)
        assert "problems)" in str(error.value) or len(str(error.value).splitlines()) < 3
    with contextlib.suppress(WeightsError):
        assert isinstance(loading.guess(path), str)


def test_expanded_tensors_are_read(tmp_path):
    from weights.test_torch_files import archive, tensor_program

    content = {
        "a/data.pkl": tensor_program([3, 4], [0, 1]),
        "a/data/0": np.arange(4, dtype="<f4").tobytes(),
    }
    found = torch_files.read(archive(tmp_path / "a.pth", content))
    np.testing.assert_array_equal(found, np.tile(np.arange(4), (3, 1)))
