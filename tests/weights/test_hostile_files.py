"""Files made to harm, and names and shapes that no scheme foresees."""

import contextlib
import json
import os
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from weights.written import hdf5, pickled

from jaxparc import weights
from jaxparc.weights import WeightsError, reading, torch_files


def test_hdf5_reads_nothing_outside_of_the_file(tmp_path):
    (tmp_path / "secret").write_bytes(np.arange(8.0).tobytes())
    hdf5(tmp_path / "other.h5", {"g": {"w": np.ones(4, np.float32)}})
    path = tmp_path / "w.h5"
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "g/w", (4,))

    def external(file):
        file.create_dataset("a", (8,), "f8", external=[(str(tmp_path / "secret"), 0, 64)])

    def soft(file):
        file["x"] = np.ones(2, np.float32)
        file["a"] = h5py.SoftLink("/x")

    def hard(file):
        file["g/x"] = np.ones(2, np.float32)
        file["g/a"] = file["g"]

    cases = {
        "a is stored in other files": external,
        "a is stored in other": lambda file: file.create_virtual_dataset("a", layout),
        "a is a link": lambda file: file.__setitem__("a", h5py.ExternalLink("other.h5", "/g/w")),
        "a is a link; links": soft,
        "duplicate group g/a": hard,
    }
    for message, make in cases.items():
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(WeightsError, match=message):
            reading.read(path)


def test_more_memory_than_a_file_may_ask_for(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (1 << 30,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(
        WeightsError, match="a declares 4,294,967,296 bytes, too many for a file of"
    ):
        reading.read(path)
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "a", (1,), "f4", maxshape=(None,), chunks=(1 << 28,), compression="gzip"
        )
    with pytest.raises(WeightsError, match="declares 1,073,741,824 bytes"):
        reading.read(path)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as f,
    ):
        f.write(bytes(1 << 20))
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
    declared = path.read_bytes().replace(
        (1 << 20).to_bytes(4, "little"), (1 << 30).to_bytes(4, "little")
    )
    path.write_bytes(declared)
    assert info.file_size == 1 << 20
    with pytest.raises(WeightsError, match=r"a\.npy declares 1,073,741,824 bytes"):
        reading.read(path)


def test_chunks_of_hdf5_that_become_larger_than_they_say(tmp_path):
    path = tmp_path / "w.h5"
    values = np.arange(256, dtype=np.float32)

    def written(packed=None, **settings):
        with h5py.File(path, "w") as file:
            made = file.create_dataset("a", (256,), "f4", values, chunks=(100,), **settings)
            if packed is not None:
                made.id.write_direct_chunk((0,), packed)
        return path

    for settings in ({}, {"shuffle": True}, {"fletcher32": True}):
        found = reading.read(written(compression="gzip", **settings))
        np.testing.assert_array_equal(found["a"], values)
    with pytest.raises(WeightsError, match="a chunk of a expands to more than its 400 bytes"):
        reading.read(written(zlib.compress(bytes(1 << 20)), compression="gzip"))
    with pytest.raises(WeightsError, match="a has a filter that is not read; known: gzip"):
        reading.read(written(compression="lzf"))


def test_a_size_twenty_thousand_times(tmp_path):
    """300 KB that would be copied to 12 GB."""
    sides = b"(" + b"K\x01" * 100_000 + b"lq\x01"
    calls = b"h\x02h\x01\x85R" * 20_000
    data = b"\x80\x02" + sides + b"ctorch\nSize\nq\x02(" + calls + b"t."
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
    code = (
        "import resource, sys; from jaxparc.weights import torch_files\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        f"torch_files.read({str(path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "WeightsError" in done.stderr
    assert "MemoryError" not in done.stderr


def test_members_that_lie_over_one_another_count_each_time(tmp_path, monkeypatch):
    from weights.test_torch_files import FILES, GOLDEN

    from jaxparc.weights import budget

    path = tmp_path / "w.pth"
    path.write_bytes((GOLDEN / FILES[0]).read_bytes())
    torch_files.read(path)
    monkeypatch.setattr(budget, "SPARE", 500)
    monkeypatch.setattr(budget, "TIMES", 0)
    with pytest.raises(WeightsError, match="bytes, too many for a file of"):
        torch_files.read(path)


def test_pipes_and_devices_are_no_files_of_weights(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "hub").mkdir()
    os.mkfifo(tmp_path / "hub" / "model.safetensors")
    group = {"paths": ["pipe"], "weights": []}
    (tmp_path / "model.json").write_text(json.dumps({"weightsManifest": [group]}))
    for name in ("pipe", "zero", "hub", "model.json"):
        with pytest.raises(WeightsError, match="is a (pipe|device); expected a file"):
            weights.load("resnet18", tmp_path / name)


@pytest.mark.parametrize(
    "names",
    [
        {"conv_stem.weight": np.zeros((0, 3, 3, 3)), "conv_head.weight": np.zeros((8, 4, 1, 1))},
        {"conv_stem.weight": np.zeros(3), "conv_head.weight": np.zeros(3)},
        {"conv1.weight": np.zeros((0, 3, 7, 7))},
        {"conv1.weight": np.zeros((4, 3, 7, 7)), "fc.weight": np.zeros((5, 0))},
        {"conv1.weight": np.zeros(()), "fc.weight": np.zeros(())},
        {"stem.conv1.weight": np.zeros(3)},
        {"res2_0_branch2a_w": np.zeros(3), "conv1_w": np.zeros(())},
        {"res2_0_branch2a_w": np.zeros(3)},
        {"conv1/kernel": np.zeros(3)},
        {"conv1_conv/kernel": np.zeros((1, 1, 1, 1)), "conv9_block1_1_conv/kernel": np.zeros(2)},
        {"Conv1/kernel": np.zeros(3), "expanded_conv_project/kernel": np.zeros(3)},
        {"fire2/squeeze1x1/0": np.zeros(3), "conv1/0": np.zeros(2)},
        {"features.0.weight": np.zeros(()), "classifier.6.weight": np.zeros((2, 2))},
        {"conv1.conv.weight": np.zeros((4, 4)), "inception3a.x": np.zeros(3)},
        {"features.0.0.weight": np.zeros(3), "features.18.0.weight": np.zeros(3)},
        {"": np.zeros(3)},
    ],
)
def test_odd_names_and_shapes_are_errors_of_ours(names, tmp_path):
    path = pickled(tmp_path / "w.pkl", names)
    for name in ("alexnet", "googlenet", "resnet18", "squeezenet1_1", "mobilenet_v2"):
        with pytest.raises(WeightsError, match="w.pkl") as error:
            weights.load(name, path)
        assert "problems)" in str(error.value) or len(str(error.value).splitlines()) < 3
    with contextlib.suppress(WeightsError):
        assert isinstance(weights.guess(path), str)


def test_expanded_tensors_are_read(tmp_path):
    from weights.test_torch_files import archive, tensor_program

    content = {
        "a/data.pkl": tensor_program([3, 4], [0, 1]),
        "a/data/0": np.arange(4, dtype="<f4").tobytes(),
    }
    found = torch_files.read(archive(tmp_path / "a.pth", content))
    np.testing.assert_array_equal(found, np.tile(np.arange(4), (3, 1)))
