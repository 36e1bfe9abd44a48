"""Which files a load opens, that each is parsed once, and that the fingerprint covers all."""

import contextlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file
from weights.test_torch_files import FILES, GOLDEN
from weights.written import hdf5, keras_mobilenet, pickled, state_of, tfjs

from jaxparc import array_files, weights
from jaxparc.__main__ import main
from jaxparc.weights import WeightsError, keras, pickles, torch_files

READERS = {
    "safe_open": safetensors,
    "read": array_files,
    "load": pickles,
    "of_hdf5": keras,
    "of_archive": keras,
    "of_tfjs": keras,
}


def in_form(form, folder):
    """Write weights in a form; return the path to load, and the readers that it takes."""
    if form in ("hdf5", "keras", "tfjs"):
        state = keras_mobilenet(state_of("mobilenet_v2"))
        if form == "tfjs":
            return tfjs(folder, state) / "model.json", ["of_tfjs"]
        path = hdf5(folder / "w.h5", {"model_weights": state})
        if form == "hdf5":
            return path, ["of_hdf5"]
        with zipfile.ZipFile(folder / "w.keras", "w") as archive:
            archive.write(path, keras.MEMBER)
        return folder / "w.keras", ["of_archive"]
    if form in FILES:
        path = folder / "w.pth"
        path.write_bytes((GOLDEN / form).read_bytes())
        return path, ["torch_files.read"]
    state = state_of("resnet18")
    if form == "npz":
        np.savez(folder / "w.npz", **state)
        return folder / "w.npz", ["read"]
    if form == "pickle":
        return pickled(folder / "w.pkl", {"state_dict": state}), ["load"]
    if form == "shards":
        names = list(state)
        parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for shard, keys in parts.items():
            save_file({key: state[key] for key in keys}, folder / shard)
        weight_map = {key: shard for shard, keys in parts.items() for key in keys}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        return index, ["safe_open"] * 2
    path = folder / "model.safetensors"
    save_file(state, path)
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    return path, ["safe_open"]


FORMS = ("npz", "pickle", "hdf5", "keras", "tfjs", "shards", "hub", *FILES)


@pytest.fixture
def parsed(monkeypatch):
    """The names of the readers, each as often as it was called."""
    calls = []

    def count(module, name, label):
        original = getattr(module, name)

        def counted(*args, **kwargs):
            calls.append(label)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    for name, module in READERS.items():
        count(module, name, name)
    count(torch_files, "read", "torch_files.read")
    return calls


@pytest.fixture
def opened(monkeypatch):
    """The paths that were opened to be read."""
    paths = []
    original = io.open

    def noted(file, mode="r", *args, **kwargs):
        if "r" in mode and not isinstance(file, int):
            paths.append(Path(os.fspath(file)))
        return original(file, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", noted)
    return paths


def load(path):
    """Guess the architecture and load; torch's golden files have the names of no network."""
    with contextlib.suppress(WeightsError):
        weights.load(None, path)


@pytest.mark.parametrize("form", FORMS)
def test_guessing_and_loading_parse_a_file_once(form, parsed, tmp_path):
    path, readers = in_form(form, tmp_path)
    parsed.clear()  # of what writing took
    load(path)
    assert parsed == readers


@pytest.mark.parametrize("form", ["hub", "tfjs"])
def test_convert_parses_a_file_once(form, parsed, tmp_path, capsys):
    path, readers = in_form(form, tmp_path)
    assert main(["convert", str(path), str(tmp_path / "own.safetensors")]) == 0
    assert parsed == readers
    assert "own.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
def test_the_fingerprint_is_of_all_files_that_a_load_opens(form, opened, tmp_path):
    path, _ = in_form(form, tmp_path)
    (tmp_path / "README.md").write_text("not of the weights")
    if form not in ("hub", "shards"):
        (tmp_path / "config.json").write_text("{}")  # only read in the folder of a hub
    opened.clear()
    load(path)
    read = {file for file in opened if file.parent == tmp_path}
    assert path in read
    first = weights.fingerprint(path)
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        # the index stays one that can be parsed
        file.write_bytes(whole + b" ")
        assert (weights.fingerprint(path) != first) == (file in read), file
        file.write_bytes(whole)
    assert weights.fingerprint(path) == first


def test_a_shard_of_the_same_size_is_another_fingerprint(tmp_path):
    for form in ("shards", "tfjs"):
        folder = tmp_path / form
        folder.mkdir()
        path, _ = in_form(form, folder)
        first = weights.fingerprint(path)
        assert weights.fingerprint(folder) == first
        shard = folder / ("b.safetensors" if form == "shards" else "shard")
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
        assert weights.fingerprint(path) == weights.fingerprint(folder) != first


def test_what_cannot_be_read_has_no_fingerprint(tmp_path):
    path, _ = in_form("shards", tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        weights.fingerprint(path)
    with pytest.raises(FileNotFoundError):
        weights.fingerprint(tmp_path / "nothing")
    path.write_text("{")
    with pytest.raises(WeightsError, match=r"index\.json cannot be read"):
        weights.fingerprint(path)
    path.write_text("{}")
    with pytest.raises(WeightsError, match="has neither weightsManifest nor weight_map"):
        weights.fingerprint(path)
    path.write_text(json.dumps({"weight_map": {"a": "../secret"}}))
    with pytest.raises(WeightsError, match=r"shard '\.\./secret' is outside of the folder"):
        weights.fingerprint(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="is a pipe; expected a file"):
        weights.fingerprint(tmp_path / "pipe")
