"""The commands extract and rank, with networks that take no time; real ones: test_bank_file."""

import dataclasses
import functools
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_bank
from PIL import Image
from tiny_bank import MODEL, pictures, rank, rows

from jaxparc import locks, selectors
from jaxparc.__main__ import main
from jaxparc.bank import features as bank_features
from jaxparc.bank import folder as feature_files
from jaxparc.bank import toml_file as bank_file
from jaxparc.bank.entry import Entry
from jaxparc.bank.ranked import Row
from jaxparc.commands import RANKED_BY
from jaxparc.commands import rank as rank_command
from jaxparc.labels import KINDS

bank = pytest.fixture(tiny_bank.three_models)


@pytest.mark.parametrize("words", [("rank", "--probe-sets", "2"), ("rank", "--race"), ("extract",)])
def test_images_that_differ_a_lot_are_noted_once(words, bank, capsys):
    pixels = np.zeros((60, 60), np.uint8)
    Image.fromarray(pixels).save(bank.path / "x" / "pics" / "class1" / "gray.png")
    assert rank("--out", "f", *words[1:], command=words[0], images="15") == 0
    err = capsys.readouterr().err
    note = (
        "folder:x/pics: images from 6x6 (class0/0.png) to 60x60 pixels (class1/gray.png); all are "
        "resized to the input size of a network; of 49 images, 1 is grayscale (first: "
        "class1/gray.png); all are read as RGB\n"
    )
    assert err.count("60x60") == err.count(note) == 1


# Whose features they are


def test_no_two_targets_banks_or_settings_share_a_folder(bank, capsys):
    pictures(bank.path / "y" / "pics", seed=1)
    (bank.path / "other").mkdir()
    (bank.path / "other" / "bank.toml").write_text(MODEL.format("a"))
    (bank.path / "other" / "a.bin").write_bytes(b"7")
    extract = functools.partial(rank, command="extract")
    assert extract() == 0
    assert extract(target="folder:y/pics") == 0
    assert extract("--seed", "1") == 0
    assert extract(images="27") == 0
    assert extract(bank="other/bank.toml") == 0
    folders = sorted((bank.path / "features").iterdir())
    assert len(folders) == 5
    assert all(re.fullmatch("bank-pics-[0-9a-f]{6}", folder.name) for folder in folders)
    assert capsys.readouterr().err.count(" s, 0 already done\n") == 5
    assert (
        extract() == extract(target=f"folder:{bank.path}/x/pics") == 0
    )  # the same, said otherwise
    assert capsys.readouterr().err.count("extract: 0 made in 0.0 s, 3 already done\n") == 2
    assert sorted((bank.path / "features").iterdir()) == folders


@pytest.mark.parametrize("other", ["seed", "target", "images", "command"])
def test_a_folder_of_other_images_is_refused_and_kept(other, bank, capsys):
    pictures(bank.path / "y" / "pics", seed=1)
    assert rank("--out", "f", command="extract") == 0
    before = {path.name: path.read_bytes() for path in (bank.path / "f").iterdir()}
    bank.extracted.clear()
    capsys.readouterr()
    done = {
        "seed": lambda: rank("--out", "f", "--seed", "1"),
        "target": lambda: rank("--out", "f", target="folder:y/pics"),
        "images": lambda: rank("--out", "f", images="27"),
        "command": lambda: rank("--out", "f", "--seed", "1", command="extract"),
    }[other]()
    err = capsys.readouterr().err
    assert (done, tiny_bank.messages(err).count("\n"), bank.extracted) == (2, 1, [])
    assert (
        f"f/a.npz was extracted from other images (30 images of {bank.path}/x/pics, seed 0, not"
        in err
    )
    assert "move f away, or give another --out" in err
    assert {path.name: path.read_bytes() for path in (bank.path / "f").iterdir()} == before


def test_a_copy_of_the_images_elsewhere_is_the_same(bank, capsys):
    pictures(bank.path / "y" / "pics")
    words = ("--out", "f")
    assert rank(*words, command="extract") == 0
    assert rank(*words, command="extract", target="folder:y/pics") == 0
    assert ", 3 already done\n" in capsys.readouterr().err


def test_files_that_nobody_asked_for_are_neither_ranked_nor_written_over(bank, capsys):
    (bank.path / "f").mkdir()
    np.savez(bank.path / "f" / "stranger.npz", features=np.ones((30, 4)))
    assert rank("--out", "f") == 0
    assert tiny_bank.messages(capsys.readouterr().err) == "note: not in this bank: stranger in f\n"
    assert list(rows(bank.path / "f")) == ["a", "b", "c"]
    (bank.path / "g").mkdir()
    np.savez(bank.path / "g" / "b.npz", features=np.ones((30, 4)))
    assert rank("--out", "g") == 2
    assert (
        "g/b.npz does not record which images it was extracted from, and would be"
        in capsys.readouterr().err
    )
    assert feature_files.read_array(bank.path / "g" / "b.npz", "features").shape == (30, 4)


def test_a_folder_in_use_is_refused_and_its_reader_is_not(bank, capsys):
    assert rank("--out", "f") == 0
    capsys.readouterr()
    with locks.folder(bank.path / "f", wait=False):
        assert rank("--out", "f") == rank("--out", "f", command="extract") == 1
        said = "another process is using f; wait for it, or give another --out\n"
        assert tiny_bank.messages(capsys.readouterr().err) == 2 * f"jaxparc: {said}"
        assert main(["score", "f"]) == 0


def test_a_damaged_file_is_made_again(bank):
    """Wherever a bit is flipped, and where its end is missing; NumPy compares no CRC in time."""
    assert rank("--out", "f") == 0
    path = bank.path / "f" / "b.npz"
    whole, scores = path.read_bytes(), rows(bank.path / "f")
    probe = bank_features.probe_images("folder:x/pics", 30, 0)
    made_of = bank_features.fingerprint(bank_file.read("bank.toml")[1], probe)
    there = bank_features._checked(path, made_of, probe)
    damaged = 0
    for position in range(0, len(whole), 11):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        found = bank_features._checked(path, made_of, probe)
        damaged += found is None
        for name, array in (found or {}).items():  # dates, and what else the format has
            np.testing.assert_array_equal(array, there[name], strict=True)
    assert damaged > 0.8 * len(whole) / 11
    for content in (whole[: len(whole) // 2], b"", b"PK"):
        path.write_bytes(content)
        bank.extracted.clear()
        assert rank("--out", "f") == 0
        assert bank.extracted == ["b"]
        assert rows(bank.path / "f") == scores


def test_what_decides_the_features_is_looked_at_by_its_content(bank, monkeypatch):
    entry = bank_file.read("bank.toml")[0]
    probe = bank_features.probe_images("folder:x/pics", 30, 0)
    first = bank_features.fingerprint(entry, probe)
    status = entry.weights.stat()

    def changed(**options):
        changes = {key: value for key, value in options.items() if key != "probe"}
        return bank_features.fingerprint(
            dataclasses.replace(entry, **changes), options.get("probe", probe)
        )

    os.utime(entry.weights)  # a copy, or another machine
    assert changed() == first
    assert changed(licence="MIT", layers=7, source="x", source_images=5, name="z") == first
    for change in ({"size": 33}, {"mean": (0, 0, 0)}, {"std": (1, 1, 1)}, {"scheme": "timm"}):
        assert changed(**change) != first
    for change in ({"variant": "msra"}, {"weights_key": "ema"}, {"ignore": ("x",)}):
        assert changed(**change) != first
    for change in ({"channels": "bgr"}, {"stride_in_1x1": False}, {"stride_in_1x1": True}):
        assert changed(**change) != first
    entry.weights.write_bytes(b"X")  # as many bytes, at the same time
    os.utime(entry.weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed() != first
    monkeypatch.setattr(bank_features, "package", lambda: "another version")
    entry.weights.write_bytes(bytes([0]))
    assert changed() != first


def test_models_that_cannot_be_run_do_not_stop_the_others(bank, capsys):
    os.remove(bank.path / "a.bin")
    os.mkfifo(bank.path / "a.bin")
    os.remove(bank.path / "b.bin")
    text = (bank.path / "bank.toml").read_text()
    escape = MODEL.format("x").replace('"x"', r'"\u001b[2J"')
    (bank.path / "bank.toml").write_text(text + escape)
    assert rank("--out", "f") == 1
    out, err = capsys.readouterr()
    assert "extract: a FAILED: a.bin is a pipe; expected a file" in err
    assert "extract: b FAILED: b.bin: No such file or directory" in err
    assert r"extract: '\x1b[2J' FAILED: the name '\x1b[2J' contains a control character" in err
    assert tiny_bank.messages(err) == "jaxparc: 3 models failed: a, b, '\\x1b[2J'\n"
    assert list(rows(bank.path / "f")) == ["c"]


def test_features_outlive_weights_that_are_not_there(bank, capsys):
    assert rank("--out", "f") == 0
    os.rename(bank.path / "b.bin", bank.path / "elsewhere")
    assert rank("--out", "f") == 1
    assert list(rows(bank.path / "f")) == ["a", "c"]
    os.rename(bank.path / "elsewhere", bank.path / "b.bin")
    capsys.readouterr()
    assert rank("--out", "f") == 0
    assert ", 3 already done\n" in capsys.readouterr().err


def test_halves_that_a_killed_process_left_are_cleared_away(bank):
    (bank.path / "f").mkdir()
    half = bank.path / "f" / ".a.npz.12345.incomplete"
    half.write_bytes(b"PK")
    assert rank("--out", "f") == 0
    assert not half.exists()


# What cannot be scored


def test_what_cannot_be_scored_does_not_stop_the_rest(bank, capsys):
    assert rank("--methods", "rsa", "parc", "heuristic", "--probs", "--out", "f") == 1
    out, err = capsys.readouterr()
    notes = tiny_bank.messages(err).splitlines()
    assert notes[:2] == [
        "note: nce is NaN for c, without probs",
        "note: leep is NaN for c, without probs",
    ]
    assert notes[-1] == (
        "jaxparc: not scored: rsa needs reference, from --reference FILE; heuristic "
        "needs source_images, from the key source_images of models"
    )
    assert (bank.path / "f" / "scores.csv").read_text().startswith("model,parc,nce,leep\n")
    scores = rows(bank.path / "f")
    assert np.isnan(scores["c"]).tolist() == [False, True, True]
    assert np.isfinite(scores["a"]).all()
    # the others have what they have without it
    assert main(["score", "f", "--methods", "parc", "--out", "s"]) == 0
    assert {name: values[0] for name, values in scores.items()} == {
        name: values[0] for name, values in rows(bank.path / "s").items()
    }
    assert main(["score", "f", "--methods", "nce", "leep", "dds", "--out", "s"]) == 1
    assert np.isnan(rows(bank.path / "s")["c"]).all()
    os.remove(bank.path / "f" / "c.npz")
    assert main(["score", "f", "--methods", "nce", "leep", "--out", "s"]) == 0
    assert {name: scores[name][1:] for name in "ab"} == rows(bank.path / "s")


def test_rank_takes_a_reference(bank, capsys):
    assert rank("--out", "f", command="extract") == 0
    words = ("--methods", "rsa", "dds", "--reference", "f/b.npz")
    assert rank(*words, "--out", "f") == 0
    found = rows(bank.path / "f")
    assert list(found) == ["a", "b", "c"]  # what is ranked is what the bank has
    assert np.isnan(found["b"]).all()
    assert np.isfinite([found["a"], found["c"]]).all()
    note = "note: model 'b' is the reference, and not scored by rsa, dds\n"
    assert note in capsys.readouterr().err
    # a copy elsewhere is no other model
    shutil.copy(bank.path / "f" / "b.npz", bank.path / "copy.npz")
    assert rank(*words[:-1], "copy.npz", "--out", "f") == 0
    assert np.isnan(rows(bank.path / "f")["b"]).all()


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("none.npy", "none.npy cannot be read"),
        ("short.npy", "short.npy: reference has shape (29, 8); expected (30, d)"),
        ("nan.npy", "nan.npy: reference: features are not finite"),
        ("other.npz", "other.npz has other labels than the 30 images of"),
    ],
)
def test_a_wrong_reference_is_refused_before_a_model_runs(file, reason, bank, capsys):
    np.save("short.npy", np.eye(29, 8))
    np.save("nan.npy", np.full((30, 8), np.nan))
    np.savez("other.npz", features=np.eye(30, 8), labels=np.zeros(30))
    assert rank("--methods", "rsa", "--reference", file) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert bank.extracted == []
    assert not (bank.path / "features").exists()


@pytest.mark.parametrize(
    ("labels", "words", "reason"),
    [
        (range(9), (), "method 'parc_f32' compares images of one class with others; no class has"),
        ([*range(8), 0], ("--methods", "knn", "logistic"), "'knn' needs two images of every class"),
        ([0, 1] * 9, ("--batch-size", "0"), "--batch-size is 0; expected at least 1"),
        ([0, 1] * 9, ("--seed", "-1"), "--seed is -1; expected at least 0"),
        ([0, 1] * 9, ("--methods", "parc", "nope"), "unknown method 'nope'"),
        (
            [0, 1] * 9,
            ("--methods", "rsa", "dds"),
            "rsa needs reference, from --reference FILE; dds",
        ),
    ],
)
def test_methods_that_cannot_be_are_refused_before_a_model_runs(
    labels, words, reason, bank, capsys
):
    pixels = np.random.default_rng(0).integers(0, 255, (len(labels), 6, 6, 3), np.uint8)
    arrays = {"images": pixels, "labels": np.array(labels)}
    np.savez("z.npz", **arrays, **{f"test_{name}": array for name, array in arrays.items()})
    assert rank(*words, target="npz:z.npz") == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert bank.extracted == []
    assert not (bank.path / "features").exists()


def test_what_ranks_without_being_asked_for(bank, capsys):
    assert rank("--out", "f") == 0
    assert tiny_bank.messages(capsys.readouterr().err) == ""
    head, *_ = (bank.path / "f" / "scores.csv").read_text().splitlines()
    assert head == "model,parc_f32,ridge"
    assert main(["score", "f", "--out", "s"]) == 0
    assert (bank.path / "s" / "scores.csv").read_text().startswith("model,parc_f32\n")


def test_a_method_that_nobody_asked_for_is_skipped_where_it_does_not_apply(
    bank, capsys, monkeypatch
):
    monkeypatch.setattr("jaxparc.commands.rank.RANKED_BY", ("parc_f32", "knn"))
    labels = np.array([*range(8), 0])  # knn needs two images of each class, parc of one
    pixels = np.random.default_rng(0).integers(0, 255, (9, 6, 6, 3), np.uint8)
    arrays = {"images": pixels, "labels": labels}
    np.savez("z.npz", **arrays, **{f"test_{name}": array for name, array in arrays.items()})

    def features_of(entry, probe, rows, batch_size, load, on_images):
        return {"features": np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)}, ()

    monkeypatch.setattr(bank_features, "_extract", features_of)
    assert rank("--out", "f", target="npz:z.npz") == 0
    err = capsys.readouterr().err
    assert "note: skipped: method 'knn' needs two images of every class" in err
    assert (bank.path / "f" / "scores.csv").read_text().startswith("model,parc_f32\n")
    assert rank("--methods", "knn", "parc_f32", "--out", "f", target="npz:z.npz") == 1
    assert "not scored: method 'knn'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_what_ranks_without_being_asked_for_takes_every_kind_of_labels(kind):
    assert all(kind in selectors.method(name).kinds for name in RANKED_BY)


def test_methods_for_classes_are_left_out_where_images_have_several(bank, capsys, monkeypatch):
    names = ["a|b", "b|c", "c|a", "a", "b", "c"]
    listing = [f"x/pics/class{k}/{i}.png,{names[i % 6]}" for k in range(3) for i in range(16)]
    (bank.path / "several.csv").write_text("path,label\n" + "\n".join(listing) + "\n")

    def extract(entry, probe, rows, batch_size, load, on_images):
        rng = np.random.default_rng([*entry.weights.read_bytes()])
        return {"features": rng.normal(size=(len(probe.labels), 8)).astype(np.float32)}, ()

    monkeypatch.setattr(bank_features, "_extract", extract)
    words = ("--methods", "parc", "hscore", "--out", "f")
    assert rank(*words, target="csv:several.csv", images="20") == 1
    out, err = capsys.readouterr()
    said = "not scored: method 'hscore' takes classes labels; these are multi_label"
    assert tiny_bank.messages(err) == f"jaxparc: {said}\n"
    assert (bank.path / "f" / "scores.csv").read_text().startswith("model,parc\n")


def test_fine_tuning_is_advised_as_far_as_it_is_possible():
    kind_of = {"j": "architecture", "t": "timm"}

    def advised(kinds, defined=5):
        entries = [Entry(str(i), "resnet18", kind=kind_of[k]) for i, k in enumerate(kinds)]
        rows = [Row(e.name, i if i < defined else None, 1.0) for i, e in enumerate(entries)]
        return rank_command._tunable(SimpleNamespace(rows=rows), entries)

    found = {kinds: advised(kinds) for kinds in ("jjjjj", "jjtjj", "jtjjj", "tjjjj", "jj")}
    assert found == {"jjjjj": 3, "jjtjj": 2, "jtjjj": 1, "tjjjj": 0, "jj": 2}
    assert advised("jjj", defined=1) == 1
