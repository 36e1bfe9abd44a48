import re
import tomllib
from pathlib import Path

import pytest
from golden import drawn
from safetensors.numpy import save_file

from jaxparc.__main__ import main
from jaxparc.bank import sources, toml_file, toml_text
from jaxparc.weights import torchvision


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The weights of two networks, in w."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    for name, architecture in {"r": "resnet18", "é l": "efficientnet_lite2"}.items():
        shapes = torchvision.variable_shapes(architecture, num_classes=3, width=0.0625)
        entries = torchvision.entries(architecture, shapes)
        state = drawn.weights({entry.key: entry.torch_shape for entry in entries})
        save_file(state, tmp_path / "w" / f"{name}.safetensors")
    return tmp_path


def test_what_is_found_in_weights_is_written(folder, capsys):
    assert main(["init-bank", "w"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "r: resnet18, w/r.safetensors",
        "é l: efficientnet_lite2, w/é l.safetensors",
        "written to bank.toml; its keys are explained in docs/models.md of jaxparc",
    ]
    first, second = tomllib.loads((folder / "bank.toml").read_text("utf-8"))["model"]
    assert first == {
        "name": "r",
        "architecture": "resnet18",
        "weights": "w/r.safetensors",
        "size": 224,
        "layers": 18,
    }
    assert (second["name"], second["size"], second["layers"]) == ("é l", 260, 65)
    assert [e.name for e in toml_file.read("bank.toml")] == [e.name for e in sources.read(["w"])]


def test_the_examples_are_valid_where_they_are_uncommented(folder):
    assert main(["init-bank", "w", "--out", "sub/b.toml"]) == 0
    path = folder / "sub" / "b.toml"
    head, *tables = path.read_text("utf-8").split("[[model]]")
    assert head.startswith("# ")
    path.write_text(
        "[[model]]".join(["", *(re.sub("^# ", "", table, flags=re.M) for table in tables)]),
        "utf-8",
    )
    entries = toml_file.read(path)
    assert [entry.source_images for entry in entries] == [1281167] * 2
    assert all(entry.weights.resolve().is_file() for entry in entries)


def test_what_a_bank_file_says_is_kept(folder):
    (folder / "a.toml").write_text(
        '[[model]]\nname = "a\\u007f\\"\\U0001f600"\narchitecture = "resnet18"\n'
        'weights = "w/r.safetensors"\nmean = [0, 0.5, 1]\nstride_in_1x1 = true\nsize = 32\n'
        'ignore = ["x*", "y"]\nlicence = "MIT"\nlayers = 20\n'
        '[[model]]\nname = "b"\narchitecture = "alexnet"\nweights = "b"\nlayers = 8\nsize = 64\n'
    )
    entries = toml_file.read("a.toml")
    (folder / "b.toml").write_text(toml_text.text(entries, Path()), "utf-8")
    assert toml_file.read("b.toml") == entries


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["w", "--out", "r.txt"], 2, "--out is r.txt; expected a name that ends in .toml"),
        (["w", "--out", "there.toml"], 2, "there.toml exists; move it away, or give another --out"),
        (["w/none.pth"], 2, "w/none.pth: No such file or directory"),
        (["a=w/r.safetensors", "a=w/r.safetensors"], 2, "duplicate model 'a'"),
        (["..=w/r.safetensors"], 2, "the name '..' starts with a full stop"),
        (["w", "--out", "there.toml/b.toml"], 1, "cannot write there.toml/b.toml: "),
        (["w", "w2.toml"], 2, "w2.toml cannot be read"),
    ],
)
def test_what_cannot_be_written_is_refused(words, code, reason, folder, capsys):
    (folder / "there.toml").write_text("mine")
    assert main(["init-bank", *words]) == code
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert (folder / "there.toml").read_text() == "mine"
    assert not (folder / "bank.toml").exists()
