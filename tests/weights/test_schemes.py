"""ConvNeXt, Swin and RegNet in the names of every library, against outputs of the originals."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawn
from safetensors.numpy import save_file
from weights.written import torchvision_regnet

from jaxparc import models, weights
from jaxparc.weights import families, native, schemes, torchvision

GOLDEN = Path(__file__).parents[1] / "golden"
SWIN = "swin_tiny_patch4_window7_224"
CASES = [
    ("convnext", "convnext_atto", "facebook"),
    ("convnext", "convnext_atto", "torchvision"),
    ("convnext", "convnext_atto", "huggingface"),
    pytest.param("convnext", "convnextv2_atto", "facebook", marks=pytest.mark.slow),
    pytest.param("convnext", "convnextv2_atto", "huggingface", marks=pytest.mark.slow),
    ("swin", SWIN, "microsoft"),
    ("swin", SWIN, "torchvision"),
    ("swin", SWIN, "huggingface"),
    ("swin", SWIN, "huggingface (modules)"),
    ("regnet", "regnety_002", "torchvision"),
    pytest.param("regnet", "regnety_002", "huggingface", marks=pytest.mark.slow),
]


@functools.cache
def golden(family):
    with np.load(GOLDEN / f"schemes_{family}.npz") as arrays:
        return dict(arrays)


def published(family, name, scheme):
    """Weights in the scheme's names."""
    lines = [line.split(" ") for line in golden(family)[f"{name} {scheme} state"]]
    return drawn.weights({k: tuple(int(n) for n in s.split(",") if n) for k, s in lines})


def saved(path, state):
    save_file({key: np.ascontiguousarray(array) for key, array in state.items()}, path)
    return path


@functools.cache
def compiled(module):
    return jax.jit(module.apply)


@pytest.mark.parametrize(("family", "name", "scheme"), CASES)
def test_outputs_are_those_of_the_original(family, name, scheme, tmp_path):
    loaded = weights.load(name, saved(tmp_path / "w", published(family, name, scheme)))
    assert loaded.scheme == scheme.partition(" ")[0]
    images = drawn.images(drawn.SCHEME_SIZE, drawn.SCHEME_SIZE)
    logits, activations = compiled(loaded.module)(loaded.variables, images)
    for key, found in (("features", activations["features"]), ("logits", logits)):
        expected = golden(family)[f"{name} {scheme} {key}"]
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("scheme", ["facebook", "torchvision", "huggingface"])
def test_the_architecture_is_told_by_other_names(scheme):
    state = published("convnext", "convnext_atto", scheme)
    wrapped = {f"module.{key}": array for key, array in state.items()}
    assert families.convnext.FAMILY.architecture_of(wrapped) == "convnext_atto"
    assert families.swin.FAMILY.architecture_of(wrapped) is None


@pytest.mark.parametrize("scheme", ["microsoft", "torchvision", "huggingface"])
def test_another_window_is_another_network(scheme):
    state = published("swin", SWIN, scheme)
    found = families.swin.FAMILY.architecture_of(state)
    assert found == "a Swin transformer of (2, 2, 6, 2) blocks, 1 heads and windows of 2"
    assert families.convnext.FAMILY.architecture_of(state) is None


def canonical(name, width, num_classes=3):
    """Weights in canonical names."""
    shapes = torchvision.variable_shapes(name, num_classes=num_classes, width=width)
    return drawn.weights({e.key: e.torch_shape for e in torchvision.entries(name, shapes)})


@pytest.mark.slow
@pytest.mark.parametrize("family", ["convnext", "swin", "regnet"])
def test_every_name_and_shape_is_the_original_s(family):
    expected = json.loads((GOLDEN / f"names_{family}.json").read_text())
    found = {}
    for name in getattr(models, family).ARCHITECTURES:
        variables = torchvision.variable_shapes(name, num_classes=1000)
        entries = torchvision.entries(name, variables)
        shapes = {entry.key: entry.torch_shape for entry in entries}
        found[name] = drawn.digest(shapes)
        if (other := f"{name} torchvision") in expected:
            found[other] = drawn.digest(torchvision_regnet(shapes))
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *models.convnext.ARCHITECTURES,
        *models.swin.ARCHITECTURES,
        *models.regnet.ARCHITECTURES,
    ],
)
def test_every_architecture_is_told_by_its_shapes(name):
    shapes = torchvision.variable_shapes(name, num_classes=1000)
    # nothing is read of the arrays but their shapes
    state = {
        entry.key: np.broadcast_to(np.float32(0), entry.torch_shape)
        for entry in torchvision.entries(name, shapes)
    }
    assert schemes.architecture_of(state) == name
    assert schemes.translate(name, state).scheme == "timm"


@pytest.mark.parametrize(
    ("change", "description"),
    [
        ({"norm_pre.weight": (320,)}, "of (2, 2, 6, 2) blocks and 40 channels with another head"),
        ({"stages.3.blocks.2.conv_dw.weight": (9,)}, "of (2, 2, 6, 3) blocks and 40 channels"),
    ],
)
def test_other_convnexts_are_described(change, description):
    state = canonical("convnext_atto", 1.0)
    state |= {key: np.zeros(shape, np.float32) for key, shape in change.items()}
    assert families.convnext.FAMILY.architecture_of(state) == f"a ConvNeXt {description}"


def test_the_window_is_kept_in_converted_files(tmp_path):
    state = published("swin", SWIN, "microsoft")
    loaded = weights.load(SWIN, saved(tmp_path / "w", state))
    assert loaded.module.window == 2
    assert "layers.0.blocks.0.attn.relative_position_index" in loaded.left_out
    native.save(loaded, tmp_path / "converted")
    again = weights.load(SWIN, tmp_path / "converted")
    assert again.module.window == 2
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_of_no_size(window):
    module = models.get(SWIN).module(num_classes=1, window=window)
    with pytest.raises(ValueError, match=f"{SWIN}: window is {window}; expected at least 1"):
        jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))


def test_weights_without_a_classifier_get_one(tmp_path):
    state = published("swin", SWIN, "huggingface")
    bare = {k.removeprefix("swin."): a for k, a in state.items() if k.startswith("swin.")}
    loaded = weights.load(SWIN, saved(tmp_path / "w", bare), num_classes=5)
    assert loaded.scheme == "huggingface"
    assert loaded.variables["params"]["head"]["kernel"].shape == (256, 5)


def test_a_missing_part_of_an_attention_is_listed(tmp_path):
    state = published("swin", SWIN, "huggingface")
    del state["swin.encoder.layers.1.blocks.0.attention.self.key.bias"]
    with pytest.raises(weights.WeightsError) as caught:
        weights.load(SWIN, saved(tmp_path / "w", state))
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        "missing: layers.1.blocks.0.attn.qkv.bias (192,)",
        "unexplained: layers.1.blocks.0.attn.query.bias (64,)",
        "unexplained: layers.1.blocks.0.attn.value.bias (64,)",
        "it looks like a Swin transformer of (2, 2, 6, 2) blocks, 1 heads and windows of 2",
    ]


def test_weights_of_another_architecture_are_named(tmp_path):
    state = published("convnext", "convnextv2_atto", "facebook")
    with pytest.raises(weights.WeightsError, match="it looks like convnextv2_atto"):
        weights.load("convnext_atto", saved(tmp_path / "w", state))


def test_a_table_of_no_window(tmp_path):
    state = published("swin", SWIN, "microsoft")
    key = "layers.0.blocks.0.attn.relative_position_bias_table"
    state[key] = np.zeros((8, 1), np.float32)
    with pytest.raises(weights.WeightsError, match=rf"mis-shaped: {key}: found \(8, 1\)"):
        weights.load(SWIN, saved(tmp_path / "w", state))


# Means and standard deviations


@pytest.fixture
def base(tmp_path):
    """A narrow ConvNeXt-B in timm's names."""
    return saved(tmp_path / "w", canonical("convnext_base", 1 / 32))


def test_the_mean_of_convnext_base_is_asked_for(base):
    with pytest.raises(weights.WeightsError, match="variant is one of 'convnext_base': mean 0.485"):
        weights.load("convnext_base", base)
    usual = weights.load("convnext_base", base, variant="convnext_base")
    assert usual.spec.mean == models.get("convnext_base").mean
    clip = weights.load("convnext_base", base, variant="convnext_base.clip")
    assert clip.spec.mean == (0.48145466, 0.4578275, 0.40821073)


def test_an_image_tower_of_openclip(tmp_path):
    trunk = canonical("convnext_base", 1 / 32)
    state = {f"visual.trunk.{key}": a for key, a in trunk.items()}
    text = {"visual.head.proj.weight": np.zeros((8, 32), np.float32)}
    text["text.token_embedding.weight"] = np.zeros((9, 8), np.float32)
    tower = {key: a for key, a in state.items() if ".head.fc." not in key}
    loaded = weights.load("convnext_base", saved(tmp_path / "w", tower | text))
    assert loaded.scheme == "openclip"
    assert loaded.spec.std == (0.26862954, 0.26130258, 0.27577711)
    assert {*text} <= {*loaded.left_out}
    found = dict(loaded.variables["params"])
    expected = torchvision.from_torchvision("convnext_base", trunk)["params"]
    assert found.pop("head")["kernel"].shape == (32, 0)
    assert expected.pop("head")["kernel"].shape == (32, 3)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# RegNets


@pytest.mark.parametrize("scheme", ["torchvision", "huggingface"])
def test_regnets_are_told_by_their_names(scheme):
    state = published("regnet", "regnety_002", scheme)
    wrapped = {f"module.{key}": array for key, array in state.items()}
    assert schemes.architecture_of(wrapped) == "regnety_002"


def test_a_regnet_without_squeeze_and_excitation_is_another_network(tmp_path):
    state = published("regnet", "regnety_002", "torchvision")
    path = saved(tmp_path / "w", {key: a for key, a in state.items() if ".se." not in key})
    with pytest.raises(weights.WeightsError) as caught:
        weights.load("regnety_002", path)
    for line in (
        "missing: s1.b1.se.fc1.weight (8, 24, 1, 1)",
        "it looks like a RegNet of (1, 1, 4, 7) blocks without squeeze-and-excitation",
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize("name", ["regnety_008", "regnety_008_tv"])
def test_regnets_of_the_same_blocks_are_told_by_their_channels(name, tmp_path):
    state = canonical(name, 0.25)
    assert schemes.architecture_of(state) == name
    other = {"regnety_008": "regnety_008_tv", "regnety_008_tv": "regnety_008"}[name]
    with pytest.raises(weights.WeightsError, match=f"it looks like {name}$"):
        weights.load(other, saved(tmp_path / "w", state))


def test_a_narrow_regnet_keeps_the_channels_of_its_groups(tmp_path):
    state = canonical("regnety_002", 0.25)
    assert state["s4.b1.conv2.conv.weight"].shape == (96, 8, 3, 3)
    loaded = weights.load(None, saved(tmp_path / "w", state))
    assert (loaded.spec.name, loaded.scheme) == ("regnety_002", "timm")
    native.save(loaded, tmp_path / "converted")
    again = weights.load(None, tmp_path / "converted")
    assert again.module == loaded.module
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)


def test_other_regnets_are_described():
    state = canonical("regnety_002", 0.25)
    fewer = {key: array for key, array in state.items() if not key.startswith("s4.b7.")}
    assert schemes.architecture_of(fewer) == "a RegNet of (1, 1, 4, 6) blocks"
    # robust to arrays of any rank
    assert schemes.architecture_of({key: np.zeros(()) for key in state}) == "regnety_002"


def test_a_regnet_of_hugging_face_with_its_config(tmp_path):
    state = published("regnet", "regnety_002", "huggingface")
    saved(tmp_path / "model.safetensors", state)
    config = {"model_type": "regnet", "hidden_act": "relu", "hidden_sizes": [24, 56, 152, 368]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = weights.load(None, tmp_path)
    assert (loaded.spec.name, loaded.scheme) == ("regnety_002", "huggingface")
    assert {*loaded.left_out} == {key for key in state if key.endswith("num_batches_tracked")}
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "silu"}))
    with pytest.raises(weights.WeightsError, match="sets hidden_act to silu; expected relu"):
        weights.load("regnety_002", tmp_path)
