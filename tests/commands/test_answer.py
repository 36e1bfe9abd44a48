"""What rank and score print and write: the answer, its table and its files."""

import csv
import json

import numpy as np
import pytest
import tiny_bank
from tiny_bank import rank, rows

from jaxparc.__main__ import main
from jaxparc.bank import costs
from jaxparc.bank import features as bank_features
from jaxparc.bank.entry import Counts

bank = pytest.fixture(tiny_bank.three_models)


def content(folder):
    return json.loads((folder / "ranking.json").read_text())


def table(folder):
    with (folder / "ranking.csv").open(newline="", encoding="utf-8") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def printed_answer(out):
    """The first line after those of the extraction, and the rest."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Fine-tune "))
    return lines[start], lines[start + 1 :]


def test_the_answer_comes_first_and_is_in_every_file(bank, capsys):
    assert rank("--out", "f") == 0
    out, err = capsys.readouterr()
    assert tiny_bank.messages(err) == ""
    assert out.startswith("Fine-tune ")
    answer, rest = printed_answer(out)
    assert rest[0] == ""
    assert rest[1].split()[:2] == ["model", "parc_f32"]
    assert (
        rest[-2]
        == "written to f/scores.csv, with all details in ranking.csv, .json, .md; page: index.html"
    )
    assert rest[-1] == "to fine-tune the best: jaxparc finetune f --top 3"
    assert rest[-3] == "30 images, 3 classes"
    assert "docs/evaluation.md" in rest[-4]
    found = content(bank.path / "f")
    assert found["answer"] == answer
    assert (bank.path / "f" / "ranking.md").read_text().startswith(f"### {answer}\n")
    assert found["evidence"] in out
    assert (found["settings"]["seed"], found["settings"]["probe_sets"]) == (0, 1)
    assert found["models"][0]["name"] == answer.split()[1].rstrip(".,")
    assert found["models"][0]["parameters"] == 11_689_512  # of a ResNet-18
    for name, scores in rows(bank.path / "f").items():
        assert table(bank.path / "f")[name]["parc_f32"] == f"{scores[0]:.6f}"


def test_score_answers_as_well(bank, capsys):
    assert rank("--out", "f") == 0
    ranked, _ = printed_answer(capsys.readouterr().out)
    assert main(["score", "f", "--out", "s"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == ranked.partition(" By ridge")[0]  # which score does not compute
    assert content(bank.path / "s")["settings"]["folder"] == "f"
    assert main(["score", "f", "--methods", "knn", "--out", "s"]) == 0
    assert "docs/evaluation.md" not in capsys.readouterr().out  # it was requested
    assert content(bank.path / "s")["evidence"] == ""


def test_models_without_a_score_have_no_interval(bank):
    assert rank("--methods", "nce", "parc", "--out", "f") == 0
    found = {model["name"]: model for model in content(bank.path / "f")["models"]}
    assert found["c"]["scores"]["nce"] == {
        "score": None,
        "interval": [None, None],
        "rank": None,
        "undefined": "it has no probs",
    }
    low, high = found["c"]["scores"]["parc"]["interval"]
    assert low < found["c"]["scores"]["parc"]["score"] < high
    assert found["c"]["rank"] is None
    assert found["a"]["rank"] is not None


def test_several_methods_by_name_are_all_printed(bank, capsys):
    assert rank("--methods", "parc", "knn", "--out", "f") == 0
    out = capsys.readouterr().out
    _, all_scores = out.split("All scores, of 1 probe set; ±: 95 % interval\n\n")
    assert all_scores.split()[:3] == ["model", "parc", "knn"]
    for name, (parc, knn) in rows(bank.path / "f").items():
        [line] = [line for line in all_scores.splitlines() if line.startswith(f"{name} ")]
        assert f" {parc:.2f} ±" in line
        assert f" {knn:.2f} " in line
    assert rank("--out", "f") == 0
    assert "All scores" not in capsys.readouterr().out


def test_the_output_of_all_methods_fits_a_terminal(bank, capsys):
    assert rank("--methods", "all", "--out", "f") == 0
    table = capsys.readouterr().out.split("All scores")[1]
    assert " more methods in ranking.csv: " in table
    assert max(map(len, table.split("\n\n")[1].splitlines())) <= 80


def test_all_methods_are_those_that_can_be_applied(bank, capsys):
    assert rank("--methods", "all", "--out", "f") == 0
    err = capsys.readouterr().err
    assert "note: skipped: rsa needs reference, from --reference FILE" in err
    head = (bank.path / "f" / "scores.csv").read_text().splitlines()[0].split(",")
    assert head[:3] == ["model", "parc_f32", "ridge"]
    assert {"parc", "nce", "leep", "knn", "logme"} <= set(head)
    assert not {"rsa", "dds", "heuristic", "all"} & set(head)
    assert rank("--methods", "knn", "all", "--out", "f") == 0
    assert content(bank.path / "f")["methods"][:3] == ["knn", "parc_f32", "ridge"]
    # named, it is missed
    assert rank("--methods", "all", "rsa", "--out", "f") == 1
    assert "not scored: rsa needs reference" in capsys.readouterr().err


def test_score_shows_the_costs_that_extract_recorded(bank, capsys):
    assert rank("--out", "f") == 0
    made_of = str(np.load(bank.path / "f" / "b.npz")["made_of"])
    costs.record(bank.path / "f", "b", made_of, 7.5, Counts())
    costs.record(bank.path / "f", "c", "of other features", 9, Counts())
    (bank.path / "bank.toml").unlink()
    assert main(["score", "f", "--out", "s"]) == 0
    found = table(bank.path / "s")
    ranked = table(bank.path / "f")
    for name in "abc":
        for column in ("parameters", "gmacs", "megabytes"):
            assert float(found[name][column]) == float(ranked[name][column])
    assert [found[name]["images_per_second"] for name in "abc"] == ["", "7.5", ""]
    for text in (
        "",
        "model,layers\na,18\n",
        "model,architecture,size\na,nonsense,x\nz,resnet18,\n",
    ):
        (bank.path / "f" / "models.csv").write_text(text)
        assert main(["score", "f", "--out", "s"]) == 0
        assert table(bank.path / "s")["a"]["parameters"] == ""


# Several probe sets


EIGHTEEN = ("--images", "18")


def test_scores_are_means_over_probe_sets(bank, capsys):
    assert rank("--probe-sets", "2", "--seed", "3", "--out", "f", *EIGHTEEN) == 0
    out, err = capsys.readouterr()
    assert "2 probe sets of 18 images, 3 classes" in out
    # 38 images to train on, 18 in each set
    assert "of the images of the 2 probe sets were drawn before; intervals take this into" in err
    both = rows(bank.path / "f")
    assert rank("--seed", "3", "--out", "g", *EIGHTEEN) == 0
    assert rank("--seed", "4", "--out", "h", *EIGHTEEN) == 0
    for name, scores in both.items():
        means = np.mean([rows(bank.path / one)[name] for one in "gh"], axis=0)
        np.testing.assert_allclose(scores, means, atol=2e-6)
    assert content(bank.path / "f")["probe_sets"] == 2
    seeds = [str(bank_features.probe_images("folder:x/pics", 18, seed)) for seed in (3, 4)]
    for path, seen in ((bank.path / "f", seeds[0]), (bank.path / "f" / "seed-4", seeds[1])):
        assert np.load(path / "a.npz")["seen"].tolist()[1] == seen


def test_the_first_probe_set_is_that_of_one(bank, capsys):
    assert rank("--out", "f", "--images", "12") == 0
    bank.extracted.clear()
    assert rank("--probe-sets", "3", "--out", "f", "--images", "12") == 0
    assert bank.extracted == [*"abcabc"]
    bank.extracted.clear()
    assert rank("--probe-sets", "3", "--out", "f", "--images", "12") == 0
    assert bank.extracted == []


def test_a_model_that_fails_on_one_probe_set_is_left_out(bank, capsys, monkeypatch):
    made = bank_features._extract

    def extract(entry, probe, rows, batch_size, load, on_images):
        if (entry.name, probe.seed) == ("b", 1):
            raise ValueError("no")
        return made(entry, probe, rows, batch_size, load, on_images)

    monkeypatch.setattr(bank_features, "_extract", extract)
    assert rank("--probe-sets", "2", "--out", "f", *EIGHTEEN) == 1
    assert capsys.readouterr().err.endswith("jaxparc: 1 model failed: b\n")
    assert list(rows(bank.path / "f")) == ["a", "c"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--probe-sets", "0"), "--probe-sets is 0; expected at least 1"),
        (
            ("--probe-sets", "2"),
            "--probe-sets 2 of 30 images draw 60, of the 38 that there are; expected fewer sets",
        ),
        (
            ("--probe-sets", "2", "--reference", "r.npy"),
            "--reference has features of one probe set, but --probe-sets is 2; expected 1",
        ),
    ],
)
def test_wrong_probe_sets_are_refused(words, reason, bank, capsys):
    assert rank(*words) == 2
    assert reason in capsys.readouterr().err
    assert bank.extracted == []


# What an extraction measures


def test_measured_facts_are_shown_as_long_as_the_features_are_the_same(bank, monkeypatch, capsys):
    made = bank_features._extract
    speeds = {"a": 50.0, "b": 100.0}

    def extract(entry, probe, rows, batch_size, load, on_images):
        arrays, notes = made(entry, probe, rows, batch_size, load, on_images)
        speed = {"images_per_second": speeds[entry.name]} if entry.name in speeds else {}
        return {**arrays, **speed}, notes

    monkeypatch.setattr(bank_features, "_extract", extract)
    for _ in range(2):  # the second time from the features
        assert rank("--out", "f") == 0
        found = table(bank.path / "f")
        assert {name: row["images_per_second"] for name, row in found.items()} == {
            "a": "50.0",
            "b": "100.0",
            "c": "",
        }
    assert "images/s" in capsys.readouterr().out
    assert set(np.load(bank.path / "f" / "a.npz")) == {
        *("features", "probs", "labels", "label_kind", "made_of", "seen")
    }
    path = bank.path / "f" / "speed" / "a.json"
    for text in ("", "{}", "[]", path.read_text().replace("50.0", "-1")):
        path.write_text(text)
        assert rank("--out", "f") == 0
        assert table(bank.path / "f")["a"]["images_per_second"] == ""
    path.write_text((bank.path / "f" / "speed" / "b.json").read_text())  # of other features
    assert rank("--out", "f") == 0
    assert table(bank.path / "f")["a"]["images_per_second"] == ""


def test_a_table_that_cannot_be_written_is_named(bank, capsys):
    assert rank("--out", "f", command="extract") == 0
    (bank.path / "s" / "ranking.json").mkdir(parents=True)
    assert main(["score", "f", "--out", "s"]) == 1
    err = capsys.readouterr().err
    assert tiny_bank.messages(err).startswith("jaxparc: cannot write ")
    assert "ranking.json" in err
