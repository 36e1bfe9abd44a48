"""What lies around the weights in a checkpoint."""

import argparse
import io

import numpy as np
import pytest
from safetensors.numpy import save_file
from weights.written import assert_is, pickled, plus

from jaxparc import weights
from jaxparc.weights import WeightsError, reading

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
    loaded = weights.load("resnet18", pickled(tmp_path / "w.pkl", content))
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
    loaded = weights.load("resnet18", path)
    assert_is(loaded, state)
    (note,) = loaded.notes
    assert note == f"{first} was taken; the file also holds {second} (choose with weights_key)"
    assert second in loaded.left_out
    chosen = weights.load("resnet18", path, weights_key=second)
    assert_is(chosen, state, offset=1)
    assert chosen.notes == ()


def test_weights_under_any_other_name_are_asked_for(state, tmp_path):
    path = pickled(tmp_path / "w.pkl", {"my": {"nets": {"a": state, "b": plus(state, 1)}}})
    with pytest.raises(WeightsError, match="holds no arrays, but my; choose with weights_key: my"):
        weights.load("resnet18", path)
    assert_is(weights.load("resnet18", path, weights_key="my.nets.b"), state, offset=1)
    with pytest.raises(WeightsError, match="holds no arrays under 'other', but my"):
        weights.load("resnet18", path, weights_key="other")


def test_two_networks_side_by_side_are_not_one(state, tmp_path):
    both = {f"student.backbone.{k}": a for k, a in plus(state, 1).items()}
    both |= {f"teacher.backbone.{k}": a for k, a in state.items()}
    save_file(both, tmp_path / "w.safetensors")
    with pytest.raises(
        WeightsError, match=r"2 networks, with .* 'student\.backbone\.', 'teacher\.back"
    ):
        weights.load("resnet18", tmp_path / "w.safetensors")
    loaded = weights.load("resnet18", tmp_path / "w.safetensors", weights_key="teacher")
    assert_is(loaded, state)
    assert sum(name.startswith("student.") for name in loaded.left_out) == len(state)


def test_what_holds_itself_is_refused(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x02}q\x00X\n\0\0\0state_dicth\x00s.")
    for read in (reading.read, weights.guess, lambda p: weights.load("resnet18", p)):
        with pytest.raises(
            WeightsError,
            match="holds no arrays, but state_dict|holds a mapping that contains itself",
        ):
            read(path)


def test_names_that_read_alike_are_refused(tmp_path):
    path = pickled(tmp_path / "w.pkl", {1: np.ones(2), "1": np.zeros(2)})
    with pytest.raises(WeightsError, match="duplicate array 1"):
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
    loaded = weights.load("resnet18", tmp_path / "w.safetensors")
    assert_is(loaded, state)
    assert set(loaded.left_out) == set(beside)
    del given["model.backbone.layer1.0.conv1.weight"]
    save_file(given, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"missing: layer1\.0\.conv1\.weight"):
        weights.load("resnet18", tmp_path / "w.safetensors")


def test_names_are_ignored_on_demand_alone(state, tmp_path):
    path = pickled(tmp_path / "w.pkl", {**state, "surprise": np.ones(2, np.float32)})
    with pytest.raises(WeightsError, match="unexplained: surprise"):
        weights.load("resnet18", path)
    loaded = weights.load("resnet18", path, ignore=["sur*"])
    assert loaded.left_out == ("surprise",)
    with pytest.raises(WeightsError, match=r"missing: layer1\.0\.conv1"):
        weights.load("resnet18", path, ignore=["sur*", "layer1*"])
    with pytest.raises(
        WeightsError, match="ignore has 'nothing', which matches no name in the file"
    ):
        weights.load("resnet18", path, ignore=["nothing"])


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
        weights.load("resnet18", path)
    assert_is(weights.load("resnet18", path, ignore=[key]), state)
    del given[key]
    given["decoder.blocks.0.conv1.0.weight"] = np.ones((2, 2, 3, 3))
    assert_is(weights.load("resnet18", pickled(path, given)), state)


def test_integers_are_no_weights(state, tmp_path):
    given = {**state, "layer1.0.conv1.weight": np.ones((4, 4, 3, 3), np.int8)}
    with pytest.raises(WeightsError, match=r"layer1\.0\.conv1\.weight is int8; expected floating"):
        weights.load("resnet18", pickled(tmp_path / "w.pkl", given))


def test_quantised_tensors_are_named_not_taken():
    """As torch.save has them: a function of its own, which is not called."""
    program = (
        b"\x80\x02}(X\x01\0\0\0actorch._utils\n_rebuild_qtensor\n(ctorch\nQInt8Storage\ntR"
        b"X\x01\0\0\0bcnumpy\ndtype\nX\x02\0\0\0f4\x85Ru."
    )
    from jaxparc.weights import pickles

    found = pickles.load_next(io.BytesIO(program), inert=True)
    assert found["a"].name == "torch._utils._rebuild_qtensor"
