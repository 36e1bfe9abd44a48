import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_bank
from PIL import Image
from safetensors.numpy import save_file
from tiny_bank import hues, weights_of, work_in

from jaxparc import datasets, sampling, weights
from jaxparc.__main__ import main
from jaxparc.bank import folder as feature_files
from jaxparc.bank import toml_file
from jaxparc.training import batches

MODEL = '[[model]]\nname = "a"\narchitecture = "resnet18"\nweights = "a.safetensors"\n'
ONNX = '[[model]]\nname = "a"\nonnx = "a.onnx"\n'


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """A bank of three narrow networks, one of them without a head, and a folder of images."""
    save_file(weights_of("resnet18", 7), tmp_path / "a.safetensors")
    save_file(weights_of("resnet50", 5), tmp_path / "b.safetensors")
    headless = {k: v for k, v in weights_of("resnet18", 7).items() if not k.startswith("fc.")}
    save_file(headless, tmp_path / "c.safetensors")
    tables = [
        MODEL + "source_images = 1000\nsize = 32\n",
        MODEL.replace('"a"', '"b"').replace("a.safe", "b.safe").replace("18", "50")
        + "source_images = 2000\nsize = 32\nmean = [0.5, 0.5, 0.5]\nlayers = 53\n",
        MODEL.replace('"a"', '"c"').replace("a.safe", "c.safe")
        + "source_images = 3000\nsize = 32\n",
    ]
    (tmp_path / "bank.toml").write_text("\n".join(tables))
    hues(tmp_path, 60, "class")
    work_in(tmp_path, monkeypatch)
    return tmp_path


def test_a_bank_file_is_read_whole(tmp_path):
    text = MODEL + 'source = "x"\nmean = [0, 0.5, 1]\nstd = [1, 1, 1]\nlicence = "MIT"\n'
    (tmp_path / "bank.toml").write_text(text)
    (entry,) = toml_file.read(tmp_path / "bank.toml")
    assert entry.weights == tmp_path / "a.safetensors"
    assert (entry.source, entry.mean, entry.licence) == ("x", (0, 0.5, 1), "MIT")
    assert entry.size is entry.layers is entry.source_images is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds nothing; expected [[model]] tables"),
        ('title = "x"\n' + MODEL, "holds title, model; expected [[model]] tables"),
        ("[[model]", "cannot be read"),
        ('[[model]]\narchitecture = "alexnet"\n', "model 1 has no name"),
        ('[[model]]\nname = "a"\n', "model 'a' has none of architecture, timm, torch, onnx, ker"),
        (MODEL + 'timm = "vit"\n', "model 'a' has architecture and timm; expected one of them"),
        ('[[model]]\nname = "a"\narchitecture = "resnet18"\n', "model 'a' has no weights"),
        (ONNX, "model 'a' has no mean and no std"),
        (MODEL + 'features = "x"\n', "model 'a': features is for other kinds than architecture"),
        (
            ONNX + 'scheme = "timm"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n',
            "scheme is for other",
        ),
        (MODEL + "crop = 1.5\n", "crop is 1.5; expected a number from 0.1 to 1"),
        (MODEL + 'resize = "pad"\n', "resize is 'pad'; expected 'squash' or 'shortest'"),
        (MODEL + 'interpolation = "area"\n', "interpolation is 'area'; expected 'nearest', 'bil"),
        (MODEL + MODEL, "duplicate model 'a'"),
        (
            MODEL.replace("resnet18", "vit"),
            "model 'a': unknown architecture 'vit'; the closest are vit_",
        ),
        (MODEL + "wights = 1\n", "model 'a': unknown key 'wights'; known: name, architecture"),
        (MODEL + 'size = "big"\n', "model 'a': size is 'big'; expected an integer"),
        (MODEL + "layers = 0\n", "model 'a': layers is 0; expected an integer of at least 1"),
        (MODEL + "layers = true\n", "model 'a': layers is True; expected an integer"),
        (MODEL + "mean = [1, 2]\n", "model 'a': mean is [1, 2]; expected three numbers"),
        (MODEL + "std = [1, 0, 1]\n", "model 'a': std is [1, 0, 1]; expected three numbers"),
        (
            MODEL + 'scheme = "keras2"\n',
            "model 'a': unknown scheme 'keras2' of resnet18; known",
        ),
        (MODEL.replace('"a"', '"../a"'), "model '../a': the name '../a' contains '/'"),
        (MODEL.replace('"a"', r'"a\u0000b"'), r"model 'a\x00b': the name 'a\x00b' contains a con"),
        (MODEL.replace('"a"', '"' + 240 * "a" + '"'), "is 240 bytes long; expected at most 200"),
        (MODEL + "mean = [123.675, 116.28, 103.53]\n", "expected three numbers from 0 to 1"),
        (MODEL + "mean = [nan, 0, 0]\n", "mean is [nan, 0, 0]; expected three numbers from 0 to 1"),
        (MODEL + "std = [58.4, 57.1, 57.4]\n", "expected three numbers above 0 and at most 1"),
        (MODEL + "std = [1e-300, 1, 1]\n", "expected three numbers above 0 and at most 1"),
        (MODEL + "size = 100000\n", "expected an integer from 1 to 10000"),
        (MODEL + f"layers = {5000 * '9'}\n", "cannot be read: Exceeds the limit"),
        (
            MODEL + f"layers = 0x{5000 * 'f'}\n",
            "layers is too long to be shown; expected an integer",
        ),
        (MODEL + f"layers = {9999 * '['}{9999 * ']'}\n", "nested too deeply"),
        (MODEL + 'licence = "\0"\n', "cannot be read"),
        (MODEL.replace("a.safe", r"a\u0000.safe"), "expected a string of printable characters"),
        (MODEL.replace("a.safe", "~nobody-at-all/a.safe"), "model 'a': Could not determine home"),
        (MODEL + r'"\u001b[2J" = 1' + "\n", r"unknown key '\x1b[2J'"),
    ],
)
def test_a_wrong_bank_file_is_named(text, reason, tmp_path, capsys):
    path = tmp_path / "bank.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{path}") + ".*" + re.escape(reason)):
        toml_file.read(path)
    assert main(["rank", str(path), "digits"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("\ufeff" + MODEL, None),
        (MODEL.encode("utf-16"), "is UTF-16; expected UTF-8"),
        (MODEL.encode() + b'licence = "\xe9"\n', "line 5 is not UTF-8"),
        (b"\0\1\2", "cannot be read"),
    ],
)
def test_a_bank_file_is_utf8_with_or_without_a_mark(content, reason, tmp_path):
    path = tmp_path / "bank.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if reason is None:
        assert toml_file.read(path)[0].name == "a"
        return
    with pytest.raises(ValueError, match=re.escape(f"{path}") + ".*" + re.escape(reason)):
        toml_file.read(path)


def test_every_key_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert toml_file.KEYS.keys() <= documented


def test_a_bank_is_a_file(tmp_path):
    with pytest.raises(ValueError, match="bank.toml cannot be read: No such file"):
        toml_file.read(tmp_path / "bank.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ValueError, match="pipe.toml is a pipe; expected a file"):
        toml_file.read(tmp_path / "pipe.toml")


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", ".a", "", r"a\u0000b", r"a\nb", r"\u001b[2J", r"\u202e", "ä" * 101, "B", "ﬁ"],
)
def test_a_name_that_no_file_can_have_stops_its_model_alone(name, tmp_path):
    """Of two names that some file systems take for one, the second is refused."""
    good = [
        MODEL.replace('"a"', f'"{other}"') for other in ("b", "labels", "Foto 1\u202f", "fi", "=1")
    ]
    (tmp_path / "bank.toml").write_text("\n".join([*good, MODEL.replace('"a"', f'"{name}"')]))
    *others, last = toml_file.read(tmp_path / "bank.toml")
    assert [entry.refused for entry in others] == [None] * 5
    assert last.refused is not None
    assert toml_file.printable_name(last).isprintable()


@pytest.mark.slow
@pytest.mark.optimised
def test_a_bank_goes_from_weights_to_a_ranking(bank, capsys):
    many = ["--methods", "parc_f32", "knn", "parc+l", "heuristic"]
    words = ["rank", "bank.toml", "folder:hues", "--methods", "knn", "--images", "30"]
    assert main([*words, *many]) == 0  # the later flag counts
    out, err = capsys.readouterr()
    assert out.startswith("Fine-tune ")
    assert tiny_bank.messages(err) == ""
    lines = err.splitlines()
    classes = ", ".join(f"class{i} 16 + 4" for i in range(3))
    assert lines[0] == f"hues: 3 classes; images: train 48, test 12: {classes}"
    assert [line.split(":")[0] for line in lines[1:4]] == [
        f"extract {name}" for name in ("1/3 a", "2/3 b", "3/3 c")
    ]
    (folder,) = (bank / "features").glob("bank-hues-??????")
    assert f"written to {folder.relative_to(bank)}/scores.csv" in out
    read = feature_files.read_bank(folder)
    assert list(read.features) == ["a", "b", "c"]
    assert list(read.probs) == ["a", "b"]  # the third has no head
    shapes = {name: array.shape for name, array in read.features.items()}
    assert shapes == {"a": (30, 32), "b": (30, 128), "c": (30, 32)}
    np.testing.assert_array_equal(read.features["a"], read.features["c"])
    assert np.bincount(read.labels).tolist() == [10, 10, 10]
    facts = (folder / "models.csv").read_text().splitlines()
    size = {name: (bank / f"{name}.safetensors").stat().st_size / 1e6 for name in "abc"}
    assert facts == [
        "model,layers,source_images,architecture,size,megabytes,licence,source",
        f"a,18,1000,resnet18,32,{size['a']},,",
        f"b,53,2000,resnet50,32,{size['b']},,",
        f"c,18,3000,resnet18,32,{size['c']},,",
    ]
    # again: nothing is run
    assert main(words) == 0
    assert ", 3 already done\n" in capsys.readouterr().err
    # other images go to another folder; other weights are looked at again
    assert main([*words[:-1], "27"]) == 0
    assert ", 0 already done\n" in capsys.readouterr().err
    assert len(list((bank / "features").iterdir())) == 2
    assert len(feature_files.read_bank(folder).labels) == 30
    changed = {k: v * 2 if k == "fc.bias" else v for k, v in weights_of("resnet18", 7).items()}
    save_file(changed, bank / "a.safetensors")
    assert main([*words[:-1], "27"]) == 0
    assert ", 2 already done\n" in capsys.readouterr().err


@pytest.mark.slow
def test_features_are_extracted_again_when_a_shard_is_replaced(bank, capsys):
    state = weights_of("resnet18", 7)
    names = list(state)
    shards = {"1.safetensors": names[::2], "2.safetensors": names[1::2]}
    (bank / "hub").mkdir()
    for shard, keys in shards.items():
        save_file({key: state[key] for key in keys}, bank / "hub" / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    index = bank / "hub" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    text = MODEL.replace("a.safetensors", "hub/model.safetensors.index.json") + "size = 32\n"
    (bank / "bank.toml").write_text(text)
    words = ["extract", "bank.toml", "folder:hues", "--images", "6", "--out", "f"]

    def extracted():
        assert main(words) == 0
        with np.load(bank / "f" / "a.npz") as arrays:
            return "1 already done" in capsys.readouterr().err, arrays["features"]

    _, first = extracted()
    was_there, again = extracted()
    assert was_there
    (bank / "hub" / "README.md").write_text("not read with the weights")
    was_there, again = extracted()
    assert was_there
    np.testing.assert_array_equal(again, first)
    shard = weight_map["bn1.bias"]
    changed = {key: state[key] + np.float32(key == "bn1.bias") for key in shards[shard]}
    save_file(changed, bank / "hub" / shard)  # of the same size; the index is as before
    was_there, replaced = extracted()
    assert not was_there
    assert np.abs(replaced - first).max() > 1e-3


@pytest.mark.slow
def test_features_are_those_of_the_network(bank, capsys):
    assert main(["extract", "bank.toml", "folder:hues", "--images", "6", "--out", "f"]) == 0
    assert "features are in f: jaxparc score f" in capsys.readouterr().out
    labels = datasets.labels("folder:hues", "train")
    chosen = sampling.probe_indices(labels, 6, 0)
    source = datasets.load("folder:hues", "train")
    side = batches.resized(32)
    squares = [Image.fromarray(source[int(i)]["image"]).resize([side] * 2, 2) for i in chosen]
    margin = (side - 32) // 2
    images = np.stack([np.asarray(s)[margin:-margin, margin:-margin] for s in squares])
    loaded = weights.load("resnet50", bank / "b.safetensors")
    given = (images / np.float32(255) - np.float32(0.5)) / np.float32(loaded.spec.std)
    logits, activations = loaded.module.apply(loaded.variables, given)
    with np.load(bank / "f" / "b.npz") as found:
        np.testing.assert_allclose(found["features"], activations["features"], rtol=1e-4, atol=1e-5)
        exp = np.exp(logits - np.max(logits, axis=1, keepdims=True))
        probs = exp / exp.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found["probs"], probs, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(found["labels"], labels[chosen])


@pytest.mark.slow
def test_one_bad_model_does_not_stop_the_others(bank, capsys):
    (bank / "b.safetensors").write_text("<html>")
    stale = bank / "f" / "b.npz"
    stale.parent.mkdir()
    stale.write_bytes(b"PK of other weights")
    assert main(["rank", "bank.toml", "folder:hues", "--images", "30", "--out", "f"]) == 1
    out, err = capsys.readouterr()
    assert "extract: b FAILED: b.safetensors begins with b'<html>'" in err
    assert tiny_bank.messages(err) == "jaxparc: 1 model failed: b\n"
    assert not stale.exists()
    assert re.search(r"^ *=? ?\d  a  ", out, re.MULTILINE)
    assert re.search(r"^ *=? ?\d  c  ", out, re.MULTILINE)
    (bank / "b.safetensors").unlink()
    assert main(["extract", "bank.toml", "folder:hues", "--images", "30"]) == 1
    assert "b.safetensors: No such file or directory" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupt_within_a_model_keeps_the_others(bank, capsys):
    words = ["rank", "bank.toml", "folder:hues", "--images", "30", "--out", "f"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "jaxparc", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        while not process.stderr.readline().startswith("extract 1/3 a"):
            assert process.poll() is None
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        said = tiny_bank.messages(process.stderr.read())
    assert process.returncode == 130
    kept = "1 of 3 models are done and kept in f; the same command continues"
    assert said == f"jaxparc: interrupted; {kept}\n"
    assert main(words) == 0
    assert ", 1 already done\n" in capsys.readouterr().err
    assert not list(bank.rglob("*.incomplete"))


def test_an_unknown_target_exits_2_before_any_work(bank, capsys):
    assert main(["rank", "bank.toml", "mnist"]) == 2
    assert "unknown data set 'mnist'" in capsys.readouterr().err
    assert not (bank / "features").exists()


@pytest.mark.slow
def test_the_advice_can_be_followed(bank, capsys):
    words = ["finetune", "bank.toml", "a", "folder:hues", "--steps", "30", "--batch-size", "16"]
    assert main([*words, "--learning-rate", "0.05"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    accuracy = float(re.match(r"a on hues: (\d+\.\d+) % of the test images", out)[1])
    assert accuracy > 60  # three hues, chance is 33
    (path,) = (bank / "finetuned").iterdir()
    assert re.fullmatch(r"a-hues-[0-9a-f]{6}\.safetensors", path.name)
    assert f"written to {path.relative_to(bank)}" in out
    loaded = weights.load("resnet18", path)
    assert (loaded.scheme, loaded.module.num_classes) == ("jaxparc", 3)
    # what was written is what was measured
    test = datasets.load("folder:hues", "test")
    margin = (batches.resized(32) - 32) // 2
    squares = [
        np.asarray(Image.fromarray(r["image"]).resize([batches.resized(32)] * 2, 2)) for r in test
    ]
    images = np.stack(squares)[:, margin:-margin, margin:-margin] / np.float32(255)
    given = (images - np.float32(loaded.spec.mean)) / np.float32(loaded.spec.std)
    logits, _ = loaded.module.apply(loaded.variables, given)
    right = 100 * np.mean(np.argmax(logits, axis=1) == test.labels())
    assert right == pytest.approx(accuracy, abs=0.01)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["nobody", "folder:hues"], 2, "bank.toml has no model 'nobody'; it has a, b, c"),
        (["a", "nothing"], 2, "unknown data set 'nothing'"),
        (["a", "folder:hues", "--steps", "0"], 2, "--steps is 0; expected a number above 0"),
        (["a", "folder:hues", "--batch-size", "6"], 2, "expected a multiple of 4 devices"),
        pytest.param(
            ["a", "folder:hues", "--learning-rate", "1e9", "--steps", "4"],
            1,
            "is not finite",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_wrong_advice_is_one_line(words, code, reason, bank, capsys):
    assert main(["finetune", "bank.toml", *words]) == code
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (bank / "finetuned").exists()
