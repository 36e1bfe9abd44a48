"""Commands on a target of numbers: csv:FILE:values=COLUMN, and score --label-kind values."""

import numpy as np
import pytest
import tiny_bank
from tiny_bank import rank, rows

from jaxparc import score_bank
from jaxparc.__main__ import main
from jaxparc.bank import features as bank_features

TARGET = "csv:ages.csv:values=age"
AGES = np.random.default_rng(0).integers(18, 90, 48)


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """Three models, the features of which follow the age the less the later they come."""
    found = tiny_bank.three_models(tmp_path, monkeypatch)
    files = [f"x/pics/class{k}/{i}.png" for k in range(3) for i in range(16)]
    lines = [f"{file},{age}" for file, age in zip(files, AGES, strict=True)]
    (tmp_path / "ages.csv").write_text("\n".join(["path,age", *lines]) + "\n")

    def extract(entry, probe, rows, batch_size, load, on_images):
        found.extracted.append(entry.name)
        noise = np.random.default_rng(0).normal(size=(len(probe.labels), 5))
        ages = probe.labels * np.eye(1, 5) + 5 * (1 + 2 * entry.weights.read_bytes()[0]) * noise
        return {"features": ages.astype(np.float32)}, ()

    monkeypatch.setattr(bank_features, "_extract", extract)
    return found


def test_rank_prints_the_range_and_scores_by_the_default_method(bank, capsys):
    assert rank("--out", "f", target=TARGET) == 0
    out, err = capsys.readouterr()
    assert err.startswith("ages: age 18 to ")
    assert out.startswith("Fine-tune ")
    with np.load("f/a.npz") as file:
        assert str(file["label_kind"]) == "values"
        labels = file["labels"]
    assert labels.shape == (30, 1)
    assert set(labels[:, 0]) <= set(AGES.tolist())
    assert f"30 images, values {labels.min():g} to {labels.max():g}\n" in out
    assert "not scored" not in err
    found = rows(bank.path / "f")
    features = {name: np.load(f"f/{name}.npz")["features"] for name in "abc"}
    expected = score_bank(features, labels, label_kind="values").values[:, 0]
    np.testing.assert_allclose([found[name][0] for name in "abc"], expected, rtol=1e-4)


def test_images_are_drawn_at_random_with_the_seed(bank):
    drawn = []
    for seed in ("0", "0", "1"):
        folder = f"f{len(drawn)}"
        words = ("--seed", seed, "--out", folder)
        assert rank(*words, command="extract", target=TARGET, images="10") == 0
        drawn.append(np.load(f"{folder}/a.npz")["labels"][:, 0].tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_methods_of_classes_are_left_out_by_name(bank, capsys):
    words = ("--methods", "ridge", "gbc", "knn", "logme", "mean(ridge,knn)", "--out", "f")
    assert rank(*words, target=TARGET) == 1
    line = "not scored: method 'gbc' takes classes labels; these are values"
    assert capsys.readouterr().err.endswith(f"jaxparc: {line}\n")
    header = (bank.path / "f" / "scores.csv").read_text().splitlines()[0]
    assert header == 'model,ridge,knn,logme,"mean(ridge,knn)"'
    assert rank("--methods", "gbc", "--out", "g", target=TARGET) == 2


def test_score_reads_the_kind_from_the_files(bank, capsys):
    assert rank("--out", "f", command="extract", target=TARGET) == 0
    assert main(["score", "f", "--methods", "ridge", "--out", "s"]) == 0
    assert "30 images, values " in capsys.readouterr().out
    best = rows(bank.path / "s")
    assert best["a"][0] > best["b"][0] > best["c"][0]
    assert best["a"][0] < 1


def test_score_and_rank_take_a_reference_of_the_same_images(bank):
    assert rank("--out", "f", command="extract", target=TARGET) == 0
    file = np.load("f/a.npz")
    np.savez("r.npz", features=file["features"][:, 1:], labels=file["labels"][:, 0])
    words = ("--methods", "rsa", "dds", "--reference", "r.npz", "--out", "f")
    assert rank(*words, target=TARGET) == 0
    assert np.isfinite(rows(bank.path / "f")["b"]).all()


def test_finetune_refuses_before_anything_is_read(bank, capsys):
    (bank.path / "x" / "pics" / "class0" / "0.png").write_text("no image")
    assert main(["finetune", "bank.toml", "a", TARGET]) == 2
    line = f"{TARGET}: fine-tuning needs classes; the values of 'age' are numbers to predict"
    assert capsys.readouterr().err == f"jaxparc: {line}\n"
    assert not (bank.path / "finetuned").exists()


def test_columns_and_cells_that_are_wrong_are_named(bank, capsys):
    assert rank(target="csv:ages.csv:values=height") == 1
    assert "has the columns path, age; missing: height" in capsys.readouterr().err
    text = (bank.path / "ages.csv").read_text().splitlines()
    (bank.path / "ages.csv").write_text("\n".join([*text[:5], text[5] + " years", *text[6:]]))
    assert rank(target=TARGET) == 1
    err = capsys.readouterr().err
    assert "ages.csv line 6: age is " in err
    assert err.count("\n") == 1
    assert bank.extracted == []
