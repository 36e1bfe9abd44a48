"""The command predict, with a narrow network."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tiny_bank import pictures, weights_of

import jaxparc
from jaxparc import weights
from jaxparc.__main__ import main
from jaxparc.datasets import user_images
from jaxparc.finetuned import Finetuned
from jaxparc.weights import native

CLASSES = ("class0", "class1", "class2", "class3")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A fine-tuned model in m.safetensors, images of three of its four classes in pics."""
    save_file(weights_of("resnet18", 4), tmp_path / "w.safetensors")
    loaded = weights.load("resnet18", tmp_path / "w.safetensors")
    model = Finetuned(loaded, CLASSES, 32, False, "folder:trained")
    native.save(loaded, tmp_path / "m.safetensors", model.header())
    pictures(tmp_path / "pics", counts=(3, 2, 4))
    user_images.open_set.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path


def predict(*words):
    return main(["predict", "m.safetensors", *words])


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_are_printed_with_their_three_most_probable_classes(folder, capsys):
    assert predict("pics/class0/0.png", "pics/class1/1.png") == 0
    out, err = capsys.readouterr()
    assert err == ""
    probs = jaxparc.load_finetuned("m.safetensors").predict(
        ["pics/class0/0.png", "pics/class1/1.png"]
    )
    expected = ""
    for name, row in zip(("pics/class0/0.png", "pics/class1/1.png"), probs, strict=True):
        best = np.argsort(-row)[:3]
        found = ", ".join(f"{CLASSES[k]} {100 * row[k]:.1f} %" for k in best)
        expected += f"{name}: {found}\n"
    assert out == expected


def test_a_folder_of_classes_is_evaluated(folder, capsys):
    assert predict("pics", "--out", "deep/o.csv") == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = table(folder / "deep" / "o.csv")
    head = ["path", "label", "class", "probability", "class_2", "probability_2"]
    assert list(rows[0]) == [*head, "class_3", "probability_3"]
    assert [row["path"] for row in rows[:3]] == [f"pics/class0/{i}.png" for i in range(3)]
    assert [row["label"] for row in rows] == ["class0"] * 3 + ["class1"] * 2 + ["class2"] * 4
    right = sum(row["class"] == row["label"] for row in rows)
    assert f"9 labelled images: {100 * right / 9:.2f} % right, 95 % interval " in out
    assert "; chance level 44.4 %\n" in out
    for name in CLASSES[:3]:
        assert f"│ {name} │" in out
    assert "class3" not in out  # without images
    assert out.endswith("the classes of 9 images were written to deep/o.csv\n")


def test_labels_are_the_innermost_folders_that_are_classes(folder, capsys):
    shutil.copytree("pics", "deep/test")
    shutil.copytree("pics/class0", "deep/test/class1/extra")
    Image.new("RGB", (8, 8)).save("deep/alone.png")
    assert predict("deep", "--out", "o.csv") == 0
    labels = {row["path"]: row["label"] for row in table(folder / "o.csv")}
    assert labels["deep/test/class1/0.png"] == labels["deep/test/class1/extra/0.png"] == "class1"
    assert labels["deep/alone.png"] == ""
    assert "12 labelled images" in capsys.readouterr().out


def test_unknown_classes_are_one_line(folder, capsys):
    shutil.copytree("pics/class0", "pics/zebra")
    assert predict("pics") == 0
    out, err = capsys.readouterr()
    assert err == (
        "note: unknown class zebra: 3 images classified, but left out of the accuracy; the model "
        "knows class0, class1, class2, class3\n"
    )
    assert "9 labelled images" in out
    assert out.count(".png: ") == 12


def test_a_folder_without_known_classes_is_not_evaluated(folder, capsys):
    shutil.copytree("pics/class0", "new/a")
    assert predict("new", "--out", "o.csv") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == "the classes of 3 images were written to o.csv\n"
    assert "label" not in table(folder / "o.csv")[0]


def test_unreadable_images_are_named_and_skipped(folder, capsys):
    (folder / "pics" / "class0" / "0.png").write_text("no image")
    (folder / "pics" / "class0" / "1.png").write_bytes(
        (folder / "pics" / "class0" / "2.png").read_bytes()[:60]
    )
    assert predict("pics", "--out", "o.csv") == 1
    out, err = capsys.readouterr()
    assert err.startswith("jaxparc: 2 images cannot be read and were skipped: pics/class0/0.png: ")
    assert "; pics/class0/1.png: " in err
    assert err.count("\n") == 1
    assert len(table(folder / "o.csv")) == 7
    assert "7 labelled images" in out
    assert predict("pics/class0/0.png") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxparc: 1 image cannot be read and was skipped: pics/class0/0.png: ")


def test_a_data_set_is_its_test_split(folder, capsys):
    assert predict("folder:pics", "--out", "o.csv") == 0
    rows = table(folder / "o.csv")
    out, err = capsys.readouterr()
    assert [row["path"] for row in rows] == [f"pics test {i}" for i in range(len(rows))]
    assert f"{len(rows)} labelled images" in out
    assert err == ""
    np.savez("x.npz", images=np.zeros((6, 5, 5, 3), np.uint8), labels=["class0", "b"] * 3)
    user_images.open_set.cache_clear()
    assert predict("x.npz") == 0
    assert "note: unknown class b: " in capsys.readouterr().err


def test_images_of_several_classes_have_their_measure(folder, capsys):
    model = jaxparc.load_finetuned("m.safetensors")
    several = Finetuned(model.loaded, CLASSES, 32, True, "csv:x.csv")
    native.save(model.loaded, folder / "m.safetensors", several.header())
    lines = [f"pics/class{k}/{i}.png,class{k}|class{k + 1}" for k in range(3) for i in range(2)]
    lines += [f"pics/class2/{i}.png,class{i}" for i in (2, 3)]
    (folder / "x.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    assert predict("x.csv") == 0
    out = capsys.readouterr().out
    assert "labels right, one for each image and class, 95 % interval" in out
    assert "by class" not in out


def test_images_that_the_model_was_trained_on_are_a_note(folder, capsys):
    (folder / "pics").rename(folder / "trained")
    assert predict("trained") == 0
    said = "note: the model was trained on most of these images, whose accuracy says little; "
    assert capsys.readouterr().err == f"{said}folder:trained is those that it was tested on\n"
    assert predict("folder:trained") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["w.safetensors", "pics"], 2, "w.safetensors does not record classes and preprocessing"),
        (["cut.safetensors", "pics"], 2, "cut.safetensors is damaged: "),
        (["none.safetensors", "pics"], 1, "none.safetensors: No such file or directory"),
        (["pics", "pics"], 2, "pics is a folder; expected a file"),
        (["m.safetensors", "empty"], 2, "empty: no images; expected files such as .jpg or .png"),
        (["m.safetensors", "nothing"], 2, "unknown data set 'nothing'"),
        (["m.safetensors", "pics", "nothing"], 2, "nothing is no file or folder; expected image"),
        (["m.safetensors", "csv:a.csv:values=age"], 2, "the accuracy needs classes; the values"),
        (["m.safetensors", "pics", "--out", "pics"], 1, "cannot write pics: it is a folder"),
    ],
)
def test_wrong_arguments_are_one_line(words, code, reason, folder, capsys):
    (folder / "empty").mkdir()
    (folder / "cut.safetensors").write_bytes((folder / "m.safetensors").read_bytes()[:200])
    (folder / "a.csv").write_text("path,age\npics/class0/0.png,3\n")
    assert main(["predict", *words]) == code
    out, err = capsys.readouterr()
    assert reason in err
    assert err.count("\n") == 1
    assert out == ""
