"""Checkpoints come back bit for bit, or not at all."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from jaxparc import files
from jaxparc.training import checkpoints


@pytest.fixture
def variables():
    rng = np.random.default_rng(0)
    return {
        "params": {
            "conv1": {"kernel": rng.normal(size=(3, 3, 8, 16)).astype(np.float32)},
            "head": {"bias": np.zeros(16, ml_dtypes.bfloat16)},
        },
        "batch_stats": {"bn": {"mean": rng.normal(size=300).astype(np.float32)}},
    }


@pytest.fixture
def saved(tmp_path, variables):
    path = tmp_path / "bank" / "model"
    checkpoints.save(path, variables, {"accuracy": 87.5})
    return path


def refused(path, message):
    with pytest.raises(checkpoints.CheckpointError, match=message) as caught:
        checkpoints.restore(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def data_files(path):
    """Files that hold weights, largest first."""
    return sorted((path / "weights").rglob("d/*"), key=lambda p: -p.stat().st_size)


def test_round_trip(saved, variables):
    restored, metadata = checkpoints.restore(saved)
    assert metadata == {"accuracy": 87.5} == checkpoints.metadata(saved)
    for part, expected in (
        (restored["params"]["conv1"]["kernel"], variables["params"]["conv1"]["kernel"]),
        (restored["params"]["head"]["bias"], variables["params"]["head"]["bias"]),
        (restored["batch_stats"]["bn"]["mean"], variables["batch_stats"]["bn"]["mean"]),
    ):
        assert part.dtype == expected.dtype
        np.testing.assert_array_equal(part, expected)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_a_relative_path_works(tmp_path, variables, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = (tmp_path / "here").relative_to(tmp_path)
    checkpoints.save(path, variables, {})
    assert checkpoints.restore(path)[1] == {}


def test_saving_again_replaces(saved, variables):
    checkpoints.save(saved, variables, {"accuracy": 1})
    assert checkpoints.restore(saved)[1] == {"accuracy": 1}


def test_what_an_interrupted_save_left_is_no_obstacle(saved, variables):
    (saved.parent / ".model.incomplete" / "weights").mkdir(parents=True)
    checkpoints.save(saved, variables, {})
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_flipped_bits_are_found_in_every_file(saved):
    """Orbax itself restores some of these as wrong weights."""
    for file in sorted(p for p in (saved / "weights").rglob("*") if p.is_file()):
        whole = file.read_bytes()
        if not whole:
            continue
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
        refused(saved, "damaged")
        file.write_bytes(whole)
    checkpoints.restore(saved)


def test_wrong_weights_are_found_whatever_the_files_say(saved, monkeypatch):
    """The hash of the leaves holds even where Orbax misreads intact files."""
    orbax = checkpoints.ocp.StandardCheckpointer.restore

    def misread(self, *args, **options):
        restored = orbax(self, *args, **options)
        restored["batch_stats"]["bn"]["mean"] = restored["batch_stats"]["bn"]["mean"] + 1
        return restored

    monkeypatch.setattr(checkpoints.ocp.StandardCheckpointer, "restore", misread)
    refused(saved, "batch_stats/bn/mean")


def test_truncation_is_found(saved):
    file = data_files(saved)[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(saved, "damaged")


def test_an_emptied_checkpoint_is_found(saved):
    for child in saved.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    refused(saved, "missing")


def test_missing_weights_are_found(saved):
    shutil.rmtree(saved / "weights")
    refused(saved, "damaged")


def test_nothing_there_is_said(tmp_path):
    refused(tmp_path / "nowhere", "missing")


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    refused(tmp_path, "missing")


@pytest.mark.parametrize("text", ["", "{", "[]", "<html></html>", '{"content": {}}'])
def test_a_foreign_manifest_is_refused(saved, text):
    (saved / checkpoints.MANIFEST).write_text(text)
    refused(saved, "damaged")


def test_a_changed_manifest_is_refused(saved):
    file = saved / checkpoints.MANIFEST
    changed = json.loads(file.read_text())
    changed["content"]["metadata"]["accuracy"] = 99
    file.write_text(json.dumps(changed))
    refused(saved, "damaged")


def test_a_sealed_file_round_trips_and_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "a.json"
    content = {"x": [1, 2.5, None, "é"]}
    files.write_sealed(path, content)
    assert files.read_sealed(path) == content
    with pytest.raises(TypeError):
        files.write_sealed(path, {"x": object()})
    assert files.read_sealed(path) == content
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_failure_while_replacing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail():
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
