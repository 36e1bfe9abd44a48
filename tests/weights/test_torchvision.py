import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawn, every

from jaxparc import models, weights
from jaxparc.weights import families, torchvision

GOLDEN = Path(__file__).parents[1] / "golden"
every_model = every.model()


def golden(name):
    """The original's keys with shapes, and its outputs for `drawn.weights` of these."""
    with np.load(GOLDEN / f"models_{name}.npz") as arrays:
        outputs = dict(arrays)
    lines = [line.split(" ") for line in outputs.pop("state")]
    return {k: tuple(int(n) for n in s.split(",") if n) for k, s in lines}, outputs


@pytest.fixture
def resnet18():
    """A small one: an eighth of the channels."""
    shapes = torchvision.variable_shapes("resnet18", num_classes=3, width=0.125)
    entries = torchvision.entries("resnet18", shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


# Quick for what they cover: the stem and the shortcuts of a ResNet-D.
SLOWER = {"googlenet", "densenet121", "convnext_atto", "swin_tiny_patch4_window7_224"}
QUICK = ({*every.REPRESENTATIVES} - SLOWER) | {"resnet18d"}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in drawn.SIZES]
)
def test_outputs_are_those_of_the_original(name):
    shapes, outputs = golden(name)
    variables = torchvision.from_torchvision(name, drawn.weights(shapes))
    options = {"num_classes": drawn.CLASSES, "width": drawn.WIDTHS.get(name, 1.0)}
    apply = jax.jit(models.get(name).module(**options).apply)
    for height, width in drawn.SIZES[name]:
        logits, activations = apply(variables, drawn.images(height, width))
        features = np.asarray(activations["features"])
        found = {
            "logits": logits,
            "features": features[:, :: max(features.shape[1] // 512, 1)],
            "norms": np.linalg.norm(features, axis=1),
        }
        for key, array in found.items():
            expected = outputs.pop(f"{key}_{height}x{width}")
            np.testing.assert_allclose(array, expected, atol=1e-4 * np.abs(expected).max())
    assert not outputs


@every_model
def test_the_scheme_names_every_key(name):
    shapes, _ = golden(name)
    options = {"num_classes": drawn.CLASSES, "width": drawn.WIDTHS.get(name, 1.0)}
    shapes_of_ours = torchvision.variable_shapes(name, **options)
    entries = torchvision.entries(name, shapes_of_ours)
    wanted = {entry.key: entry.torch_shape for entry in entries}
    assert len(wanted) == len({entry.path for entry in entries}) == len(entries)
    left_out = {
        key for key in shapes if any(re.fullmatch(p, key) for p in families.of(name).left_out)
    }
    assert left_out.isdisjoint(wanted)
    assert shapes == wanted | {key: shapes[key] for key in left_out}


@pytest.mark.slow
@pytest.mark.parametrize("name", drawn.NAMES)
def test_keys_and_shapes_at_width_one(name):
    entries = torchvision.entries(name, torchvision.variable_shapes(name, num_classes=1000))
    found = drawn.digest({entry.key: entry.torch_shape for entry in entries})
    digests = json.loads((GOLDEN / "names.json").read_text())[name]
    assert found == digests.get("torchvision", found)
    # of a VGG's fully connected layers timm has other names
    assert found == digests["timm"] or name.startswith("vgg")


@every_model
def test_layouts_go_both_ways(name):
    shapes = torchvision.variable_shapes(name, num_classes=3, width=0.125)
    for entry in torchvision.entries(name, shapes):
        theirs = np.arange(np.prod(entry.torch_shape), dtype=np.float32)
        theirs = theirs.reshape(entry.torch_shape)
        ours = entry.to_flax(theirs)
        assert ours.shape == entry.shape
        np.testing.assert_array_equal(entry.to_torch(ours), theirs)


def test_classes_and_width_come_from_the_shapes(resnet18):
    variables = torchvision.from_torchvision("resnet18", resnet18)
    assert variables["params"]["head"]["kernel"].shape == (64, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def test_the_result_is_a_copy(resnet18):
    variables = torchvision.from_torchvision("resnet18", resnet18)
    before = variables["params"]["bn1"]["scale"].copy()
    resnet18["bn1.weight"] += 1
    np.testing.assert_array_equal(variables["params"]["bn1"]["scale"], before)


def test_every_key_is_accounted_for(resnet18):
    del resnet18["layer2.0.downsample.1.running_var"]
    resnet18["layer5.0.conv1.weight"] = np.zeros((2, 2))
    resnet18["aux1.fc.bias"] = np.zeros(2)  # left out on purpose for GoogLeNet alone
    resnet18["conv1.weight"] = resnet18["conv1.weight"][..., :3, :3]
    resnet18["bn1.num_batches_tracked"] = np.zeros((), np.int64)
    with pytest.raises(weights.WeightsError) as caught:
        torchvision.from_torchvision("resnet18", resnet18)
    assert isinstance(caught.value, ValueError)
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        "the weights do not fit resnet18 (4 problems):",
        "missing: layer2.0.downsample.1.running_var (16,)",
        "unexplained: layer5.0.conv1.weight (2, 2)",
        "unexplained: aux1.fc.bias (2,)",
        "mis-shaped: conv1.weight: found (8, 3, 3, 3), expected (8, 3, 7, 7)",
    ]


def test_a_missing_head_is_reported_with_the_rest(resnet18):
    del resnet18["fc.weight"]
    with pytest.raises(weights.WeightsError, match=r"missing: fc.weight \(1000, 512\)"):
        torchvision.from_torchvision("resnet18", resnet18)


def test_weights_of_another_network(resnet18):
    with pytest.raises(weights.WeightsError, match="missing: layer1.0.conv3.weight"):
        torchvision.from_torchvision("resnet50", resnet18)


def test_unknown_architecture(resnet18):
    with pytest.raises(ValueError, match="unknown architecture 'vgg'; the closest are vgg1"):
        torchvision.from_torchvision("vgg", resnet18)
