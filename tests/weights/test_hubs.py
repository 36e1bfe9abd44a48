"""Folders of model hubs, their config.json, and shards under an index."""

import json

import pytest
from safetensors.numpy import save_file
from weights.written import assert_is, pickled, state_of

from jaxparc import models, weights
from jaxparc.weights import WeightsError, reading


def test_shards_under_an_index_and_the_folder_of_a_hub(state, tmp_path):
    names = list(state)
    parts = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, keys in parts.items():
        save_file({k: state[k] for k in keys}, tmp_path / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    for path in (index, tmp_path):
        assert_is(weights.load("resnet18", path), state)
    index.write_text(json.dumps({"weight_map": {**weight_map, "more": "a.safetensors"}}))
    with pytest.raises(WeightsError, match=r"index\.json: the shards lack more"):
        weights.load("resnet18", index)
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(WeightsError, match="shard '../a.safetensors' is outside"):
        weights.load("resnet18", index)
    save_file({**state}, tmp_path / "b.safetensors")
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(
        WeightsError, match="duplicate array .*: in b.safetensors and another shard"
    ):
        weights.load("resnet18", index)


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
    loaded = weights.load(
        "resnet18", hub(tmp_path, state, "resnet18", mean=[0.5] * 3, std=[0.25] * 3)
    )
    assert (loaded.spec.mean, loaded.spec.std) == ((0.5,) * 3, (0.25,) * 3)
    for other in ("resnetblur18", "resnetaa18", "resnet18d"):
        with pytest.raises(
            WeightsError, match=f"the file declares the network {other}; expected resnet18"
        ):
            weights.load("resnet18", hub(tmp_path, state, other))
    with pytest.raises(WeightsError, match="std is .*; expected three numbers above 0"):
        weights.load("resnet18", hub(tmp_path, state, "resnet18", std=[0, 1, 1]))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json cannot be read"):
        weights.load("resnet18", tmp_path)


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
        loaded = weights.load("efficientnet_lite0", path)
        assert (loaded.module.same_padding is False) == (told == "efficientnet_lite0")
    with pytest.raises(WeightsError, match="unknown variant 'x'; known: efficientnet_lite0, tf_"):
        weights.load("efficientnet_lite0", nested, variant="x")


def test_a_checkpoint_that_says_it_is_of_another_network(state, tmp_path):
    for arch in ("resnetblur18", "timm/resnetblur18.bt", "resnet_aa18", "antialiased_resnet18"):
        path = pickled(tmp_path / "w.pkl", {"arch": arch, "state_dict": state})
        with pytest.raises(
            WeightsError, match=f"the file declares the network {arch.partition('.')[0]}"
        ):
            weights.load("resnet18", path)
    path = pickled(tmp_path / "w.pkl", {"arch": "moco", "state_dict": state})
    assert_is(weights.load("resnet18", path), state)


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
    loaded = weights.load("resnet18", path)
    assert_is(loaded, state)
    assert loaded.spec == models.get("resnet18")
    assert weights.guess(path) == "resnet18"


def test_settings_of_the_network_beside_the_file_are_not_passed_over(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": "resnet18", "model_args": {"drop_rate": 0.1}}))
    assert_is(weights.load("resnet18", tmp_path), state)
    config.write_text(json.dumps({"architecture": "resnet18", "model_args": {"output_stride": 8}}))
    with pytest.raises(WeightsError, match="config.json sets output_stride, which no network"):
        weights.load("resnet18", tmp_path)


def test_several_things_at_once_are_no_weights_by_name(state, tmp_path):
    for content in ((state, {"mean": (0, 0, 0)}), (state, 3), [state]):
        with pytest.raises(WeightsError, match=r"holds a (tuple|list); expected arrays by name"):
            reading.checkpoint(pickled(tmp_path / "w.pkl", content))
