"""The command extract: shards, failure records, a Ray cluster; what rank shares: test_rank."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import clusters
import numpy as np
import pytest
import tiny_bank
from golden import drawn
from safetensors.numpy import save_file
from tiny_bank import MODEL, pictures, rank, rows

from jaxparc.__main__ import main
from jaxparc.bank import features as bank_features
from jaxparc.bank import folder as feature_files
from jaxparc.bank import sources
from jaxparc.errors import InputError
from jaxparc.weights import torchvision

bank = pytest.fixture(tiny_bank.three_models)


def extract(*words):
    return rank(*words, "--out", "f", command="extract")


def test_shards_make_every_file_once_and_rank_reuses_them(bank, capsys):
    assert extract("--shard", "1/2") == 0
    out = capsys.readouterr().out
    assert bank.extracted == ["a", "c"]
    said = "features are in f: jaxparc score f (once all shards are done)\n"
    assert out == said
    assert extract("--shard", "2/2") == 0
    assert bank.extracted == ["a", "c", "b"]
    assert rank("--out", "f") == 0
    assert bank.extracted == ["a", "c", "b"]
    assert list(rows(bank.path / "f")) == ["a", "b", "c"]
    methods = (bank.path / "f" / "scores.csv").read_text().split("\n")[0].split(",")[1:]
    assert main(["score", "f", "--methods", *methods, "--out", "s"]) == 0
    assert rows(bank.path / "s") == rows(bank.path / "f")


def test_shards_work_at_the_same_time_and_keep_others_out(bank, capsys):
    folder = bank.path / "f"
    probe = bank_features.probe_images("folder:x/pics", 30, 0)
    with bank_features.alone_in(folder, probe, [], shard=(1, 2)):
        assert extract("--shard", "2/2") == 0
        capsys.readouterr()
        for words in (["--shard", "1/2"], []):
            assert extract(*words) == 1
            assert tiny_bank.messages(capsys.readouterr().err) == (
                "jaxparc: another process is using f; wait for it, or give another --out\n"
            )
        assert rank("--out", "f") == 1
    assert rank("--out", "f") == 0


def test_a_failure_that_another_division_mended_leaves_no_model_out(bank, capsys, monkeypatch):
    def failing(entry, *args):
        raise InputError("no")

    with monkeypatch.context() as patch:
        patch.setattr(bank_features, "_extract", failing)
        assert extract() == 1
        assert extract("--shard", "1/3") == 1
    capsys.readouterr()
    for shard in ("1/2", "2/2"):
        assert rank("--out", "f", "--shard", shard) == 0
    assert len(tiny_bank.rows(bank.path / "f")) == 3
    assert tiny_bank.messages(capsys.readouterr().err) == ""


def test_the_last_shard_ranks_all_models(bank, capsys, monkeypatch):
    working = bank_features._extract

    def failing(entry, *args):
        if entry.name == "b":
            raise InputError("its features are not finite")
        return working(entry, *args)

    monkeypatch.setattr(bank_features, "_extract", failing)
    assert rank("--out", "f", "--shard", "1/2") == 0
    out = capsys.readouterr().out
    assert "1 model left to the other shards; the last of them prints the ranking\n" in out
    assert not (bank.path / "f" / "ranking.csv").exists()
    assert rank("--out", "f", "--shard", "2/2") == 1
    out, err = capsys.readouterr()
    assert "Fine-tune " in out
    assert err.endswith("jaxparc: 1 model failed: b\n")
    assert rank("--out", "g") == 1
    for name in ("scores.csv", "a.npz", "c.npz"):
        assert (bank.path / "f" / name).read_bytes() == (bank.path / "g" / name).read_bytes()


@pytest.mark.parametrize("words", [["--shard", "3/2"], ["--executor", "slurm"]])
def test_wrong_ways_to_run_are_refused(words, bank, capsys):
    with pytest.raises(SystemExit) as stop:
        extract(*words)
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_failures_are_recorded_until_they_are_mended(bank, capsys, monkeypatch):
    working = bank_features._extract

    def failing(entry, probe, rows, batch_size, load, on_images):
        if entry.name == "a":
            raise InputError("its features are not finite")
        if entry.name == "b":
            raise OSError(13, "Permission denied", "b.bin")  # of the weights: b's alone
        return working(entry, probe, rows, batch_size, load, on_images)

    with monkeypatch.context() as patch:
        patch.setattr(bank_features, "_extract", failing)
        assert extract() == 1
    record = bank.path / "f" / "failures" / "extract.json"
    found = {failure["unit"]: failure for failure in json.loads(record.read_text())}
    assert {name: failure["error"] for name, failure in found.items()} == {
        "a": "its features are not finite",
        "b": "b.bin: Permission denied",
    }
    assert "in failing" in found["a"]["traceback"]
    out, err = capsys.readouterr()
    assert "extract: 2 of 3 models failed; see f/failures/extract.json\n" in err
    assert tiny_bank.messages(err) == "jaxparc: 2 models failed: a, b\n"
    assert list(feature_files.read_bank(bank.path / "f").features) == ["c"]
    assert extract() == 0
    assert not record.exists()


def test_stale_features_of_a_model_that_fails_are_removed(bank, monkeypatch):
    def failing(entry, probe, rows, batch_size, load, on_images):
        raise InputError("no")

    assert extract() == 0
    (bank.path / "a.bin").write_bytes(b"other weights")
    monkeypatch.setattr(bank_features, "_extract", failing)
    assert extract() == 1
    assert list(feature_files.read_bank(bank.path / "f").features) == ["b", "c"]


def test_a_full_disk_ends_the_command_and_says_what_is_kept(bank, capsys, monkeypatch):
    savez = np.savez

    def full(file, **arrays):
        if len(bank.extracted) == 2:
            raise OSError(28, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    assert extract() == 1
    said = "extract: cannot write f/b.npz: No space left on device; 1 of 3 models are done and kept"
    assert tiny_bank.messages(capsys.readouterr().err) == f"jaxparc: {said}\n"
    assert bank.extracted == ["a", "b"]


def test_notes_on_the_weights_are_shown(bank, capsys, monkeypatch):
    working = bank_features._extract

    def noted(entry, probe, rows, batch_size, load, on_images):
        return working(entry, probe, rows, batch_size, load, on_images)[0], (
            "two keys were ignored",
        )

    monkeypatch.setattr(bank_features, "_extract", noted)
    assert extract() == 0
    assert "extract: a: two keys were ignored\n" in capsys.readouterr().err


def test_the_same_units_are_listed_in_another_process(bank):
    entries = pickle.loads(pickle.dumps(sources.read(["bank.toml"])))
    units = bank_features.list_units(entries, "folder:x/pics", 30, 0, None, Path("f"), 32)
    assert [(unit.name, str(unit.path)) for unit in units] == [
        (name, f"f/{name}.npz") for name in "abc"
    ]
    assert extract() == 0
    for unit in units:
        unit.check(unit.path, unit.name)


def draw_weights(folder, names):
    """Write the weights of narrow networks."""
    shapes = torchvision.variable_shapes("resnet18", num_classes=7, width=0.0625)
    entries = torchvision.entries("resnet18", shapes)
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        weights = drawn.weights({entry.key: entry.torch_shape for entry in entries})
        for key, x in weights.items():
            weights[key] = (x * (1 + rng.random(x.shape))).astype(x.dtype)
        save_file(weights, folder / f"{name}.bin")


def started(folder, *words):
    """Start a command in another process."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxparc", *words],
        cwd=folder,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "TFDS_DATA_DIR": str(folder / "tfds"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")  # Ray starts its own
def test_a_race_on_a_cluster_that_loses_a_machine_is_that_of_one(tmp_path, monkeypatch):
    names = [f"m{i}" for i in range(8)]
    draw_weights(tmp_path, names)
    (tmp_path / "bank.toml").write_text("\n".join(map(MODEL.format, names)))
    pictures(tmp_path / "x" / "pics", (60, 60, 60))
    words = ("bank.toml", "x/pics", "--images", "120", "--race", "--batch-size", "8")
    first = tmp_path / "ray" / "first-64"
    with clusters.two_nodes(monkeypatch) as lose_one:
        process = started(tmp_path, "rank", *words, "--out", "ray", "--executor", "ray")
        lose_one(process, lambda: list(first.glob("*.npz")))
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert "FAILED" not in err
    assert "extract 64 images: 8 made" in err
    alone = started(tmp_path, "rank", *words, "--out", "one")
    out, err = alone.communicate(timeout=300)
    assert alone.returncode == 0, err
    files = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.npz")]
    assert len(files) > 8
    for file in [*files, "scores.csv"]:
        assert (tmp_path / "ray" / file).read_bytes() == (tmp_path / "one" / file).read_bytes()


@pytest.mark.slow
def test_a_ray_cluster_of_the_command_extracts(tmp_path, monkeypatch, capsys):
    """It is started here, and what it leaves is used; what it computes: the test above."""
    pytest.importorskip("ray")
    draw_weights(tmp_path, "ac")
    (tmp_path / "b.bin").write_text("<html>")
    (tmp_path / "bank.toml").write_text("\n".join(MODEL.format(name) for name in "abc"))
    pictures(tmp_path / "x" / "pics")
    words = ("bank.toml", "folder:x/pics", "--images", "6", "--out", "ray")
    process = started(tmp_path, "extract", *words, "--executor", "ray")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert err.splitlines()[-1] == "jaxparc: 1 model failed: b"
    assert "extract: b FAILED: b.bin begins with b'<html>'" in err
    assert "extract: 2 made in" in err
    record = json.loads((tmp_path / "ray" / "failures" / "extract.json").read_text())
    assert [failure["unit"] for failure in record] == ["b"]
    assert "Traceback" in record[0]["traceback"]
    made = feature_files.read_bank(tmp_path / "ray").features
    assert list(made) == ["a", "c"]
    tiny_bank.work_in(tmp_path, monkeypatch)
    assert main(["extract", *words[:-1], "local"]) == 1
    local = feature_files.read_bank(tmp_path / "local").features
    for name in "ac":
        np.testing.assert_allclose(made[name], local[name], rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    assert main(["rank", *words]) == 1
    assert ", 2 already done\n" in capsys.readouterr().err
    assert (tmp_path / "ray" / "scores.csv").exists()
