import csv
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxparc
from jaxparc.__main__ import main
from jaxparc.bank import folder as feature_files

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path):
    """Three models of one golden probe set: as .npz, as .npy, and as half precision."""
    golden = np.load(GOLDEN / "c101.npz")
    bank = tmp_path / "bank"
    bank.mkdir()
    np.savez(
        bank / "whole.npz",
        features=golden["features"],
        probs=golden["probs"],
        labels=golden["labels"],
    )
    np.savez_compressed(
        bank / "narrow.v2.npz",
        features=golden["features"][:, :99].astype(np.float16),
        probs=golden["probs"][:, ::-1],
        labels=golden["labels"],
    )
    np.save(bank / "reference.npy", golden["reference"])
    np.save(bank / "labels.npy", golden["labels"])
    (bank / "notes.txt").write_text("passed over")
    return bank


def score(folder, *words):
    return main(["score", str(folder), "--out", str(folder.parent), *words])


def table(folder):
    with (folder.parent / "scores.csv").open(newline="", encoding="utf-8") as file:
        return {
            row.pop("model"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)
        }


def test_golden_features_get_their_golden_scores(folder, capsys):
    reference = (folder / "reference.npy").rename(folder.parent / "reference.npy")
    words = ("--methods", "parc", "rsa", "knn", "--probs", "--reference", str(reference))
    assert score(folder, *words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"written to {folder.parent}/scores.csv" in out
    scores = table(folder)
    assert list(scores) == ["narrow.v2", "whole"]
    assert list(scores["whole"]) == ["parc", "rsa", "knn", "nce", "leep"]
    expected = json.loads((GOLDEN / "expected.json").read_text())["cases"]["c101"]["scores"]
    for method, key in (
        ("parc", "parc_ties_exact"),
        ("rsa", "rsa"),
        ("nce", "nce"),
        ("leep", "leep"),
    ):
        assert scores["whole"][method] == pytest.approx(expected[key], abs=1e-3)
    for name in scores:
        assert name in out
    assert out.index("whole") < out.index("narrow.v2")  # ranked by the first method


@pytest.mark.slow
def test_the_folder_scores_as_its_arrays_do(folder):
    assert score(folder) == 0
    bank = feature_files.read_bank(folder)
    arrays = {name: np.asarray(array) for name, array in bank.features.items()}
    expected = jaxparc.score_bank(arrays, bank.labels)
    assert {name: row["parc_f32"] for name, row in table(folder).items()} == pytest.approx(
        dict(zip(expected.names, expected.values[:, 0].tolist(), strict=True)), abs=1e-5
    )


def test_nothing_is_read_before_it_is_scored(folder, monkeypatch):
    monkeypatch.setattr(
        feature_files.ArrayFile, "__array__", lambda *_, **__: pytest.fail("read too early")
    )
    np.save(folder / "labels.npy", np.arange(303) % 101)
    monkeypatch.setattr(feature_files, "read_labels", np.load)
    bank = feature_files.read_bank(folder)
    assert bank.features["whole"].shape == (303, 256)
    assert bank.features["narrow.v2"].dtype == np.float16
    assert set(bank.probs) == {"whole", "narrow.v2"}


def test_labels_are_those_of_the_flag_then_the_file_then_the_models(folder, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("\n".join(f"class {i % 5}" for i in range(303)) + "\n")
    assert feature_files.read_bank(folder, words).labels[6] == "class 1"
    np.testing.assert_array_equal(
        feature_files.read_bank(folder).labels, np.load(folder / "labels.npy")
    )
    (folder / "labels.npy").unlink()
    (folder / "reference.npy").unlink()
    golden = np.load(GOLDEN / "c101.npz")["labels"]
    np.testing.assert_array_equal(feature_files.read_bank(folder).labels, golden)


def test_text_labels_are_numbers_where_they_can_be(tmp_path):
    (tmp_path / "y.txt").write_text("3\n10\n2\n\n")
    np.testing.assert_array_equal(feature_files.read_labels(tmp_path / "y.txt"), [3, 10, 2])


@pytest.mark.parametrize(
    "words",
    [
        ("1", "01", "001"),
        ("1", "1_0", "10"),
        ("1", "+1", "2"),
        ("1", "１", "2"),  # noqa: RUF001
        ("0", "-0", "1"),
        ("1", "1.0", "2"),
        ("1", "9" * 19, "2"),
        ("1", "9" * 5000, "2"),
    ],
)
def test_labels_that_are_written_differently_are_different(words, tmp_path):
    (tmp_path / "y.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    assert feature_files.read_labels(tmp_path / "y.txt").tolist() == list(words)


def test_text_labels_have_no_byte_order_mark_and_end_at_line_feeds_alone(tmp_path):
    (tmp_path / "y.txt").write_bytes("\ufeff0\r\n1\r\n0\r\n".encode())
    np.testing.assert_array_equal(feature_files.read_labels(tmp_path / "y.txt"), [0, 1, 0])
    (tmp_path / "y.txt").write_text("a\u2028b\nc\x0bd\n", encoding="utf-8")
    labels = feature_files.read_labels(tmp_path / "y.txt").tolist()
    assert labels == ["a\u2028b", "c\x0bd"]


def test_labels_of_an_npz_are_its_member(tmp_path):
    np.savez(tmp_path / "y.npz", y=[3, 1], x=[0, 0])
    np.testing.assert_array_equal(feature_files.read_labels(tmp_path / "y.npz"), [3, 1])


def test_a_byte_order_mark_in_a_table_is_no_part_of_its_head(tmp_path):
    (tmp_path / "m.csv").write_text("\ufeffmodel,layers\n'=x,3\n", encoding="utf-8")
    assert feature_files.read_facts(tmp_path / "m.csv", ["=x"]) == {"layers": {"=x": 3}}


def test_a_reference_in_the_folder_may_lack_what_others_have(tmp_path, capsys):
    rng = np.random.default_rng(0)
    bank = tmp_path / "bank"
    bank.mkdir()
    labels = np.arange(12) % 3
    for name in ("a", "b"):
        features, probs = rng.normal(size=(12, 4)), rng.dirichlet(np.ones(3), 12)
        np.savez(bank / f"{name}.npz", features=features, probs=probs, labels=labels)
    np.save(bank / "target.npy", rng.normal(size=(12, 4)))
    (tmp_path / "models.csv").write_text("model,layers\na,1\nb,2\n")
    words = ("--methods", "nce", "nce+l", "rsa", "--models", str(tmp_path / "models.csv"))
    assert score(bank, *words, "--reference", str(bank / "target.npy")) == 0
    err = capsys.readouterr().err
    assert "note: model 'target' is the reference, and not scored by rsa\n" in err
    assert "note: nce+l is NaN for target, without probs or layers\n" in err
    found = table(bank)
    assert np.isnan(list(found.pop("target").values())).all()
    assert np.isfinite([x for row in found.values() for x in row.values()]).all()


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_the_reference_is_left_out_by_what_compares_with_it_alone(place, tmp_path, capsys):
    rng = np.random.default_rng(0)
    bank, labels = tmp_path / "bank", np.arange(12) % 3
    bank.mkdir()
    layers = {"a": 50, "b": 18, "c": 34}
    for name in layers:
        features, probs = rng.normal(size=(12, 4)), rng.dirichlet(np.ones(3), 12)
        np.savez(bank / f"{name}.npz", features=features, probs=probs, labels=labels)
    facts = tmp_path / "models.csv"
    facts.write_text("model,layers\n" + "".join(f"{n},{d}\n" for n, d in layers.items()))
    reference = bank / "a.npz"
    if place == "outside":
        reference = reference.rename(tmp_path / "a.npz")
    words = ("--methods", "nce", "rsa", "rsa+l", "--models", str(facts))
    assert score(bank, *words, "--reference", str(reference)) == 0
    arrays = {name: np.asarray(of) for name, of in feature_files.read_bank(bank).features.items()}
    others = {name: arrays[name] for name in ("b", "c")}
    expected = jaxparc.score_bank(
        others,
        labels,
        methods=["rsa", "rsa+l"],
        reference=np.load(reference)["features"],
        layers={name: layers[name] for name in others},
    )
    found = table(bank)
    for name, row in zip(expected.names, expected.values, strict=True):
        assert [found[name]["rsa"], found[name]["rsa+l"]] == pytest.approx(row, abs=1e-4)
        assert np.isfinite(found[name]["nce"])
    err = capsys.readouterr().err
    if place == "outside":
        assert (list(found), err) == (["b", "c"], "")
        return
    assert err == "note: model 'a' is the reference, and not scored by rsa, rsa+l\n"
    assert np.isnan([found["a"]["rsa"], found["a"]["rsa+l"]]).all()
    assert np.isfinite(found["a"]["nce"])


def test_names_are_the_same_in_any_locale_and_encoding(tmp_path):
    (tmp_path / "bank").mkdir()
    for name in ("modèle-日本", "=a\x1b[31m"):
        features = np.random.default_rng(0).normal(size=(6, 2))
        np.savez(tmp_path / "bank" / f"{name}.npz", features=features, labels=[0, 1, 0, 1, 0, 1])
    words = (sys.executable, "-m", "jaxparc", "score", "bank", "--methods", "hscore")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(words, capture_output=True, cwd=tmp_path, env={**os.environ, **locale})
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout
    assert rb"mod\xe8le-\u65e5\u672c" in done.stdout
    assert list(table(tmp_path / "bank")) == ["'=a\x1b[31m", "modèle-日本"]


def test_a_labels_file_in_the_folder_is_no_model(folder):
    (folder / "labels.npy").rename(folder / "mine.npy")
    bank = feature_files.read_bank(folder, folder / "mine.npy")
    assert "mine" not in bank.features


def test_layers_come_from_a_table(folder, tmp_path):
    (folder / "reference.npy").unlink()
    facts = tmp_path / "models.csv"
    facts.write_text("model,layers,source_images\nother,1,1\nwhole,50,1000\nnarrow.v2,18,1000\n")
    words = ("--facts", str(facts), "--target-images", "500", "--methods", "heuristic", "knn+l")
    assert score(folder, *words) == 0
    assert table(folder)["whole"]["heuristic"] == pytest.approx(50 + np.log(1500), abs=1e-4)
    assert table(folder)["narrow.v2"]["heuristic"] == pytest.approx(18 + np.log(1500), abs=1e-4)


def test_undefined_scores_are_noted_and_written(folder, capsys):
    np.save(folder / "broken.npy", np.full((303, 8), np.nan, np.float32))
    assert score(folder) == 0
    assert np.isnan(table(folder)["broken"]["parc_f32"])
    err = capsys.readouterr().err
    assert err.startswith(
        "note: model 'broken': parc_f32 is undefined (NaN): features are not finite"
    )
    assert err.count("\n") == 1


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


def clip(folder):
    os.truncate(folder / "whole.npz", 9000)


def flip(folder):
    content = bytearray((folder / "whole.npz").read_bytes())
    content[5000] ^= 1
    (folder / "whole.npz").write_bytes(bytes(content))


def differ(folder):
    np.savez(
        folder / "z.npz", features=np.ones((303, 4)), labels=np.load(folder / "labels.npy")[::-1]
    )
    (folder / "labels.npy").unlink()
    (folder / "reference.npy").unlink()


def empty(folder):
    for path in folder.glob("*.np*"):
        path.unlink()


def save(name, array):
    return lambda folder: np.save(folder / name, array)


def pipe(name):
    def make(folder):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def nothing(_):
    pass


LABELS = ("--labels", "{folder}/y.txt")
FACTS = ("--methods", "parc+l", "--models", "{folder}/models.csv")

# how to break the folder, more words on the command line, and what is then said
BROKEN = {
    "differing labels": (differ, (), "labels of model 'z' differ from those of 'narrow.v2'"),
    "no labels": (lambda f: (f / "labels.npy").unlink(), (), "model 'reference' has no lab"),
    "empty": (empty, (), "holds no .npz or .npy file"),
    "truncated": (clip, (), "whole.npz cannot be read"),
    "flipped": (flip, (), "whole.npz cannot be read: Bad CRC-32"),
    "text": (text("a.npy", "<html>"), (), "a.npy cannot be read"),
    "no features": (lambda f: np.savez(f / "a.npz", x=[1]), (), "a.npz holds x; expected an array"),
    "pickle": (
        lambda f: (f / "a.npy").write_bytes(pickle.dumps(Evil())),
        (),
        "a.npy cannot be read",
    ),
    "objects": (save("a.npy", np.array([Evil(), 1])), (), "a.npy: features are object; expected"),
    "words": (save("a.npy", np.array([["a", "b"]] * 303)), (), "a.npy: features are <U1"),
    "two of a name": (save("whole.npy", np.ones((303, 4))), (), "whole.npy and whole.npz"),
    "other images": (
        save("a.npy", np.ones((7, 4))),
        (),
        "model 'a': features have shape (7, 4); expected (303, d)",
    ),
    "no matrix": (save("a.npy", np.ones(303)), (), "model 'a': features have shape (303,)"),
    "no reference": (nothing, ("--methods", "dds"), "dds needs reference, from --reference FILE"),
    "no layers": (nothing, ("--methods", "knn+l"), "knn+l needs layers, from the column layers"),
    "missing labels": (nothing, LABELS, "y.txt cannot be read as labels: No such file"),
    "empty labels": (text("y.txt", ""), LABELS, "y.txt: it is empty"),
    "head of labels": (
        text("y.txt", "label\n" + "0\n1\n2\n" * 101),
        LABELS,
        "y.txt has 304 labels for 303 images; the first one, 'label', seems to be a column",
    ),
    "table of labels": (
        text("y.csv", "path,label\na.png,1\n"),
        ("--labels", "{folder}/y.csv"),
        "y.csv has the columns path, label; expected one label per line",
    ),
    "piped labels": (pipe("y.txt"), LABELS, "y.txt is a pipe; expected a file"),
    "piped features": (pipe("a.npy"), (), "a.npy is a pipe; expected a file"),
    "piped model": (pipe("a.npz"), (), "a.npz is a pipe; expected a file"),
    "piped facts": (pipe("models.csv"), FACTS, "models.csv is a pipe; expected a file"),
    "foreign labels": (save("labels.npy", np.array(["a", None])), (), "labels.npy cannot be read"),
    "gap in labels": (text("y.txt", "a\n\nb\n"), LABELS, "y.txt: line 2 is empty"),
    "unknown method": (nothing, ("--methods", "park"), "unknown method 'park'; known: parc"),
    "no facts": (nothing, FACTS, "models.csv cannot be read: No such file"),
    "no model column": (text("models.csv", "name,layers\na,1\n"), FACTS, "has no column 'model'"),
    "no known column": (text("models.csv", "model,depth\na,3\n"), FACTS, "neither a column 'lay"),
    "two rows": (
        text("models.csv", "model,layers\nwhole,3\n\nwhole,4\n"),
        FACTS,
        "models.csv line 4: model 'whole' is also on line 2",
    ),
    "more cells": (
        text("models.csv", "model,layers\nwhole,3,4\n"),
        FACTS,
        "models.csv line 2 has 3 cells; expected 2: model, layers",
    ),
    "grouped number": (
        text("models.csv", "model,layers\nnarrow.v2,5_0\n"),
        FACTS,
        "models.csv line 2: layers is '5_0'; expected a number above 0",
    ),
    "no row": (text("models.csv", "model,layers\na,3\n"), FACTS, "no row for model 'narrow.v2'"),
    "no number": (
        text("models.csv", "model,layers\nnarrow.v2,deep\n"),
        FACTS,
        "models.csv line 2: layers is 'deep'; expected a number above 0",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_gets_one_line_and_exit_code_2(case, folder, capsys, monkeypatch):
    breaking, words, said = BROKEN[case]
    monkeypatch.chdir(folder)
    breaking(folder)
    assert score(folder, *(word.format(folder=folder) for word in words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxparc: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (folder.parent / "scores.csv").exists()
    assert not (folder / "owned").exists()


def test_no_folder_is_refused_and_an_unwritable_place_fails(folder, capsys):
    assert main(["score", str(folder / "none")]) == 2
    assert "none is not a folder" in capsys.readouterr().err
    assert main(["score", str(folder), "--out", str(folder / "whole.npz")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_damage_that_shows_when_it_is_read_names_the_file(folder):
    array = feature_files.read_bank(folder).features["whole"]
    flip(folder)
    with pytest.raises(ValueError, match=r"whole\.npz cannot be read: Bad CRC-32"):
        np.asarray(array)


# ----------------------------------------------------------------------------------------- values


@pytest.fixture
def ages(tmp_path):
    """Two models of 40 images, labelled with numbers in a file beside them."""
    rng = np.random.default_rng(0)
    y = np.round(rng.normal(40, 12, 40), 1)
    bank = tmp_path / "bank"
    bank.mkdir()
    for name, noise in (("a", 1), ("b", 9)):
        x = np.c_[y, 9 * rng.normal(size=(40, 3))] + noise * rng.normal(size=(40, 4))
        np.save(bank / f"{name}.npy", x.astype(np.float32))
    (tmp_path / "ages.txt").write_text("\n".join(map(str, y)) + "\n")
    return bank


VALUES = ("--label-kind", "values")


def test_text_labels_are_values_on_request(ages, capsys):
    words = ("--labels", str(ages.parent / "ages.txt"), *VALUES, "--methods", "parc", "ridge")
    assert score(ages, *words) == 0
    out, err = capsys.readouterr()
    y = np.loadtxt(ages.parent / "ages.txt")
    assert f"40 images, values {y.min():g} to {y.max():g}" in out
    assert err == ""
    bank = {name: np.load(ages / f"{name}.npy") for name in "ab"}
    expected = jaxparc.score_bank(bank, y, methods=["parc", "ridge"], label_kind="values")
    for name, row in table(ages).items():
        assert row == pytest.approx({m: expected[m][name] for m in row}, rel=1e-4)


def test_several_columns_of_values_have_a_range_each(ages, capsys):
    np.save(ages / "labels.npy", np.arange(80).reshape(40, 2))
    assert score(ages, *VALUES) == 0
    assert "40 images, values 0 to 78, 1 to 79" in capsys.readouterr().out


def test_the_kind_of_labels_is_read_from_the_models(ages, capsys):
    y = np.loadtxt(ages.parent / "ages.txt")
    for name in "ab":
        x = np.load(ages / f"{name}.npy")
        np.savez(ages / f"{name}.npz", features=x, labels=y, label_kind=np.array("values"))
        (ages / f"{name}.npy").unlink()
    assert feature_files.read_bank(ages).label_kind == "values"
    assert score(ages) == 0
    # what is asked for wins
    assert feature_files.read_bank(ages, label_kind="classes").label_kind == "classes"
    np.savez(ages / "b.npz", features=x, labels=y, label_kind=np.array("vectors"))
    assert score(ages) == 2
    said = "label_kind differs between models: values (model 'a'), vectors (model 'b')"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("age\n3\n4\n", VALUES, "y.txt line 1: 'age'; expected a number"),
        ("3\n4\n3,5\n", VALUES, "y.txt line 3: '3,5'; expected a number"),
        ("3\n" * 40, VALUES, "labels: all 40 values are 3; expected at least two different ones"),
        (
            "3\n4\n" * 20,
            (*VALUES, "--num-classes", "9"),
            "num_classes is 9; labels that are values",
        ),
        ("3\n4\n" * 20, ("--label-kind", "age"), "unknown label kind 'age'; known: classes, mul"),
        ("3\n4\n" * 20, (*VALUES, "--methods", "gbc"), "takes classes labels; these are values"),
    ],
)
def test_labels_that_are_no_values_are_refused(content, words, message, ages, capsys):
    (ages.parent / "y.txt").write_text(content)
    assert score(ages, "--labels", str(ages.parent / "y.txt"), *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
