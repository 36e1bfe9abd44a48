import csv
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import jaxparc
from jaxparc import feature_files
from jaxparc.__main__ import main

GOLDEN = Path(__file__).parent / "golden"


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
    with (folder.parent / "scores.csv").open(newline="") as file:
        return {
            row.pop("model"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)
        }


def test_golden_features_get_their_golden_scores(folder, capsys):
    words = ("--methods", "parc", "rsa", "knn", "--probs", "--reference", f"{folder}/reference.npy")
    assert score(folder, *words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"written to {folder.parent}/scores.csv" in out
    scores = table(folder)
    assert list(scores) == ["narrow.v2", "whole"]  # the reference is no candidate
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


def test_a_labels_file_in_the_folder_is_no_model(folder):
    (folder / "labels.npy").rename(folder / "mine.npy")
    bank = feature_files.read_bank(folder, folder / "mine.npy")
    assert "mine" not in bank.features


def test_layers_come_from_a_table(folder, tmp_path):
    (folder / "reference.npy").unlink()
    facts = tmp_path / "models.csv"
    facts.write_text("model,layers,source_images\nother,1,1\nwhole,50,1000\nnarrow.v2,18,1000\n")
    words = ("--models", str(facts), "--target_images", "500", "--methods", "heuristic", "knn+l")
    assert score(folder, *words) == 0
    assert table(folder)["whole"]["heuristic"] == pytest.approx(50 + np.log(1500), abs=1e-4)
    assert table(folder)["narrow.v2"]["heuristic"] == pytest.approx(18 + np.log(1500), abs=1e-4)


def test_undefined_scores_are_noted_and_written(folder, capsys):
    np.save(folder / "broken.npy", np.full((303, 8), np.nan, np.float32))
    assert score(folder) == 0
    assert np.isnan(table(folder)["broken"]["parc_f32"])
    err = capsys.readouterr().err
    assert err.startswith("note: model 'broken': features are not finite")
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


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def nothing(_):
    pass


LABELS = ("--labels", "{folder}/y.txt")
FACTS = ("--methods", "parc+l", "--models", "{folder}/models.csv")

# how to break the folder, more words on the command line, and what is then said
BROKEN = {
    "differing labels": (differ, (), "labels of model 'z' differ from those of 'narrow.v2'"),
    "no labels": (lambda f: (f / "labels.npy").unlink(), (), "model 'reference' comes without lab"),
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
    "other images": (save("a.npy", np.ones((7, 4))), (), "model 'a': features of 7 images"),
    "no matrix": (save("a.npy", np.ones(303)), (), "model 'a': features have shape (303,)"),
    "no reference": (nothing, ("--methods", "dds"), "dds needs reference, from --reference FILE"),
    "no layers": (nothing, ("--methods", "knn+l"), "knn+l needs layers, from the column layers"),
    "missing labels": (nothing, LABELS, "y.txt cannot be read as labels: No such file"),
    "empty labels": (text("y.txt", ""), LABELS, "y.txt: it is empty"),
    "gap in labels": (text("y.txt", "a\n\nb\n"), LABELS, "y.txt: line 2 is empty"),
    "unknown method": (nothing, ("--methods", "park"), "unknown method 'park'; known: parc"),
    "no facts": (nothing, FACTS, "models.csv cannot be read: No such file"),
    "no model column": (text("models.csv", "name,layers\na,1\n"), FACTS, "has no column 'model'"),
    "no known column": (text("models.csv", "model,depth\na,3\n"), FACTS, "neither a column 'lay"),
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
    assert err.startswith("python -m jaxparc: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (folder.parent / "scores.csv").exists()
    assert not (folder / "owned").exists()


def test_no_folder_is_refused_and_an_unwritable_place_fails(folder, capsys):
    assert main(["score", str(folder / "none")]) == 2
    assert "none is no folder" in capsys.readouterr().err
    assert main(["score", str(folder), "--out", str(folder / "whole.npz")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_damage_that_shows_when_it_is_read_names_the_file(folder):
    array = feature_files.read_bank(folder).features["whole"]
    flip(folder)
    with pytest.raises(ValueError, match=r"whole\.npz cannot be read: Bad CRC-32"):
        np.asarray(array)
