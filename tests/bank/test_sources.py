"""Where the models of a bank come from: bank files, folders of weights, weight files."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from golden import drawn, every
from safetensors.numpy import save_file

from jaxparc.bank import sources
from jaxparc.errors import InputError
from jaxparc.weights import torchvision


def weights_of(name):
    shapes = torchvision.variable_shapes(name, num_classes=3, width=0.0625)
    entries = torchvision.entries(name, shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


def save(name, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights_of(name), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two networks, and of files that are no weights."""
    monkeypatch.chdir(tmp_path)
    save("resnet18", tmp_path / "w" / "a.safetensors")
    np.savez(tmp_path / "w" / "b.npz", **weights_of("squeezenet1_1"))
    (tmp_path / "w" / "README.md").write_text("# weights")
    (tmp_path / "w" / "labels.json").write_text('{"0": "cat"}')
    (tmp_path / "w" / "list.json").write_text("{1}")
    (tmp_path / "w" / ".hidden.npz").write_bytes((tmp_path / "w" / "b.npz").read_bytes())
    (tmp_path / "w" / "empty").mkdir()
    os.mkfifo(tmp_path / "w" / "pipe")
    return Path("w")


def found(*addresses):
    return [(e.name, e.architecture, str(e.weights)) for e in sources.read(addresses)]


@every.model()
def test_every_architecture_is_detected(name, tmp_path):
    save(name, tmp_path / "x.safetensors")
    (entry,) = sources.read([str(tmp_path / "x.safetensors")])
    assert (entry.name, entry.architecture, entry.refused) == ("x", name, None)


def test_a_folder_is_all_its_weight_files(folder):
    expected = [("a", "resnet18", "w/a.safetensors"), ("b", "squeezenet1_1", "w/b.npz")]
    assert found("w") == found("w/") == expected
    assert found("w/a.safetensors", "w/b.npz") == expected


def test_names_are_given_or_those_of_files(folder):
    assert found("x=w/a.safetensors", "squeezenet1_1=w/b.npz", "w/b.npz") == [
        ("x", "resnet18", "w/a.safetensors"),
        ("squeezenet1_1", "squeezenet1_1", "w/b.npz"),
        ("b", "squeezenet1_1", "w/b.npz"),
    ]
    (folder / "c=d.npz").write_bytes((folder / "b.npz").read_bytes())
    assert found("w/c=d.npz")[0][0] == "c=d"


def test_a_name_that_is_an_architecture_needs_no_detection(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"anything: it is read when the features are extracted")
    (entry,) = sources.read([f"resnet50={tmp_path}/x.pth"])
    assert (entry.name, entry.architecture) == ("resnet50", "resnet50")


def test_bank_files_and_weight_files_go_together(folder, tmp_path):
    text = '[[model]]\nname = "t"\narchitecture = "alexnet"\nweights = "t.pth"\nlicence = "MIT"\n'
    (folder / "bank.toml").write_text(text)
    entries = sources.read(["w/bank.toml", "w/a.safetensors"])
    assert [(e.name, e.licence) for e in entries] == [("t", "MIT"), ("a", None)]
    assert found("u=w/bank.toml") == [("u", "alexnet", "w/t.pth")]


def test_a_folder_of_a_hub_is_one_model_and_shards_are_none(tmp_path):
    state = weights_of("resnet18")
    hub = tmp_path / "w" / "hub"
    hub.mkdir(parents=True)
    names = sorted(state)
    weight_map = {}
    for shard, keys in {"1.safetensors": names[::2], "2.safetensors": names[1::2]}.items():
        save_file({key: state[key] for key in keys}, hub / shard)
        weight_map |= dict.fromkeys(keys, shard)
    (hub / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save_file(state, tmp_path / "w" / "other.safetensors")
    one = [("hub", "resnet18", str(hub))]
    other = ("other", "resnet18", str(tmp_path / "w" / "other.safetensors"))
    assert found(str(tmp_path / "w")) == [*one, other]
    assert found(str(hub)) == one
    index = hub / "model.safetensors.index.json"
    assert found(str(index)) == [("hub", "resnet18", str(index))]
    # the same weights in another of a hub's formats
    np.savez(hub / "arrays.npz", **state)
    (hub / "arrays.npz").rename(hub / "pytorch_model.bin")
    assert found(str(hub)) == one


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        (["w/none.pth"], "w/none.pth: No such file or directory"),
        (["w/none.toml"], "w/none.toml cannot be read: No such file"),
        (["w/empty"], "w/empty holds no weight files"),
        (["w/README.md"], "w/README.md begins with b'# weights'; expected a file of PyTorch"),
        (["x=w"], "x=w: w holds 2 models; NAME= is for one"),
        (["w", "w/b.npz"], "--models: duplicate model 'b': w/b.npz and w/b.npz; give one as NAME="),
        (["x=w/a.safetensors", "x=w/b.npz"], "--models: duplicate model 'x': w/a.safetensors and"),
        (["../x=w/b.npz"], "../x=w/b.npz: No such file"),
        ([".x=w/b.npz"], "starts with a full stop"),
    ],
)
def test_wrong_addresses_are_refused(addresses, reason, folder):
    with pytest.raises(InputError, match=re.escape(reason)):
        sources.read(addresses)


def test_every_file_of_unknown_architecture_is_named(folder):
    np.savez(folder / "c.npz", features=np.ones((3, 4)))
    state = weights_of("resnet18")
    wider = {k.replace("layer1.1", "layer1.2"): v for k, v in state.items() if "layer1.1" in k}
    save_file({**state, **wider}, folder / "d.safetensors")
    with pytest.raises(InputError) as raised:
        sources.read(["w"])
    first, second = str(raised.value).split("\n")
    assert first.startswith("w/c.npz: the names are of no known architecture: features; c.npz can ")
    assert first.endswith("be given as ARCHITECTURE=w/c.npz, or in a bank file")
    assert second.startswith("w/d.safetensors: the weights are of ")
    assert "known architectures: alexnet, " in second


def test_two_stems_that_differ_by_case_alone_are_not_both_used(folder):
    (folder / "A.npz").write_bytes((folder / "b.npz").read_bytes())
    refused = {entry.name: entry.refused for entry in sources.read(["w"])}
    assert refused["A"] is refused["b"] is None
    assert "some file systems do not distinguish it from 'A'" in refused["a"]


def test_the_innermost_folder_of_the_models_names_them(folder, tmp_path):
    assert sources.folder_of(["w"]) == sources.folder_of(["w/a.safetensors", "x=w/b.npz"])
    assert sources.folder_of(["w"]) == tmp_path / "w"
    assert sources.folder_of(["w/bank.toml"]) == tmp_path / "w" / "bank.toml"
    assert sources.folder_of(["w/a.safetensors", "v/u/b.npz"]) == tmp_path
