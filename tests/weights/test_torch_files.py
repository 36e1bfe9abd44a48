import argparse
import collections
import contextlib
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from weights import written

from jaxparc import weights
from jaxparc.__main__ import main
from jaxparc.weights import WeightsError, native, reading, torch_files

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FILES = ("torch_zip.pth", "torch_legacy.pth")


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "torch_expected.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", FILES)
def test_tensors_are_those_that_torch_saved(name, expected):
    content = torch_files.read(GOLDEN / name)
    tensors = content.pop("state_dict")
    assert content == {"epoch": 90, "arch": "resnet", "best": 76.1, "none": None}
    assert list(tensors) == list(expected)
    for key, array in tensors.items():
        # the golden file has these two, which NumPy lacks or torch rounds, in float32
        found = array.astype(np.float32) if "float16" in key else array
        assert found.dtype == expected[key].dtype
        np.testing.assert_array_equal(found, expected[key])
        assert not array.flags.writeable


def test_torch_is_not_imported():
    code = (
        "import sys; from jaxparc.weights import torch_files; "
        f"torch_files.read({str(GOLDEN / FILES[0])!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# What is no such file


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def members():
    with zipfile.ZipFile(GOLDEN / FILES[0]) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def without(*left_out):
    return {k: v for k, v in members().items() if k.split("/", 1)[1] not in left_out}


class Runs:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_programs_are_refused_by_name_and_not_run(tmp_path):
    program = pickle.dumps({"weight": Runs(tmp_path / "made")}, protocol=2)
    in_zip = archive(tmp_path / "a.pth", members() | {"torch_zip/data.pkl": program})
    legacy = (GOLDEN / FILES[1]).read_bytes()
    start = 0
    for _ in range(3):  # magic number, protocol, system
        start += pickle_length(legacy[start:])
    (tmp_path / "b.pth").write_bytes(legacy[:start] + program)
    (tmp_path / "c.pth").write_bytes(program)
    for path in (in_zip, tmp_path / "b.pth", tmp_path / "c.pth"):
        with pytest.raises(WeightsError) as error:
            torch_files.read(path)
        asked = f"{path} is refused, nothing in it was executed: it asks for {os.name}.system"
        assert str(error.value) == asked
    assert not (tmp_path / "made").exists()


def pickle_length(data):
    file = io.BytesIO(data)
    pickle.Unpickler(file).load()
    return file.tell()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it begins with b''"),
        (b"<!DOCTYPE html><html>not found</html>", "it begins with b'<!DOCTYPE html><'"),
        (b"weights of a network", "it begins with b'weights of a net'"),
        (b"\x80\x02.", "not a valid pickle"),
        (pickle.dumps(3), "it does not begin with torch.save's magic number"),
        (pickle.dumps({"a": np.ones(3)}), "it does not begin with torch.save's magic number"),
        (b"PK\x03\x04", "not a zip file"),
    ],
)
def test_other_files_are_said_to_be_none(content, reason, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        torch_files.read(path)
    assert str(error.value).startswith(f"{path} is not a valid torch.save file: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_other_archives_are_said_to_be_none(tmp_path):
    path = tmp_path / "a.pth"
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    cases = {
        "the archive has 0 members data.pkl": without("data.pkl"),
        "the archive has 2 members data.pkl": members() | {"other/data.pkl": b""},
        "it is a TorchScript archive": members() | {"torch_zip/constants.pkl": b""},
        "has a member '/etc/passwd'": members() | {"/etc/passwd": b""},
        "has a member '../x'": members() | {"../x": b""},
        "its numbers are big-endian": members() | {"torch_zip/byteorder": b"big"},
        "There is no item named 'torch_zip/data/3'": without("data/3"),
        "storage 0 is truncated": members() | {"torch_zip/data/0": bytes(100)},
    }
    for reason, content in cases.items():
        with pytest.raises(WeightsError) as error:
            torch_files.read(archive(path, content))
        assert reason in str(error.value)
    with pytest.raises(WeightsError, match="is compressed, which torch.save does not do"):
        torch_files.read(archive(path, members(), zipfile.ZIP_DEFLATED))
    (tmp_path / "x.npz").rename(path)
    with pytest.raises(WeightsError, match=r"the archive has 0 members data\.pkl"):
        torch_files.read(path)


def tensor_program(size, stride, offset=0, count=4):
    """A pickle of one tensor over a storage of four numbers."""

    def integers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K" + bytes([count]) + b"tQ"
        b"K" + bytes([offset]) + integers(size) + integers(stride) + b"\x89N" + b"tR."
    )


def test_tensors_lie_in_their_storage(tmp_path):
    numbers = np.arange(4, dtype="<f4")

    def read(*arguments, **options):
        content = {
            "a/data.pkl": tensor_program(*arguments, **options),
            "a/data/0": numbers.tobytes(),
        }
        return torch_files.read(archive(tmp_path / "a.pth", content))

    np.testing.assert_array_equal(read([2, 2], [1, 2]), numbers.reshape(2, 2).T)
    for size, stride, offset in (
        ([5], [1], 0),
        ([2, 2], [2, 2], 0),
        ([4], [1], 1),
        ([1 << 30], [0], 0),  # the same number a thousand million times
        ([1 << 20, 1 << 20], [0, 0], 0),
    ):
        with pytest.raises(WeightsError, match="exceeds its storage"):
            read(size, stride, offset)
    with pytest.raises(WeightsError, match="a negative size or stride"):
        read([-1], [1])
    with pytest.raises(WeightsError, match="a negative size or stride"):
        read([4], [-1])
    with pytest.raises(WeightsError, match="is truncated"):
        read([5], [1], count=5)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_torch_saves_beside_the_weights(zipped, tmp_path):
    """Needs torch: what is beside is inert, and the tensors are those that were saved."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    state = {
        "w": torch.arange(12.0).reshape(3, 4).T,
        "p": torch.nn.Parameter(torch.ones(3)),
        "h": torch.ones(2, dtype=torch.bfloat16),
        "e": torch.ones(1).expand(2048),
    }
    beside = {
        "args": argparse.Namespace(data=pathlib.Path("x"), dtype=torch.float32),
        "device": torch.device("cpu"),
        "complex": torch.ones(2, dtype=torch.complex64),
        "rng": torch.get_rng_state(),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(3, device="meta"),
        "half": torch.ones(2, dtype=torch.uint16),
        "storage": torch.ones(3).untyped_storage(),
        "module": torch.nn.Linear(2, 2),
        "optimizer": torch.optim.Adam([state["p"]]).state_dict(),
        "counts": collections.Counter("abc"),
        "objects": np.array([None, {}], object),
    }
    for name, value in beside.items():
        content = {"state_dict": state, name: value}
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        found = reading.read(tmp_path / "w.pth")
        assert list(found) == list(state)
        for key, tensor in state.items():
            np.testing.assert_array_equal(found[key].astype("f4"), tensor.detach().float().numpy())


@pytest.mark.parametrize("state", [b"}X\x07\x00\x00\x00_strideK\x00\x85s", b"N}\x86", b"}"])
def test_a_tensor_cannot_be_changed_after_it_was_checked(state, tmp_path):
    """BUILD would set its attributes: another stride reads outside of the storage."""
    program = tensor_program([4], [1])[:-1] + state + b"b."
    content = {"a/data.pkl": program, "a/data/0": bytes(16)}
    with pytest.raises(WeightsError, match="it sets the state of an array"):
        torch_files.read(archive(tmp_path / "a.pth", content))


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_noticed(name, tmp_path):
    whole = (GOLDEN / name).read_bytes()
    path = tmp_path / "cut.pth"
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        with pytest.raises(WeightsError):
            torch_files.read(path)


def damaged(whole, read, path, examples):
    """Flips bytes of a file; whatever comes of it is an error of ours or a content."""
    flips = st.lists(
        st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=8
    )

    @settings(max_examples=examples, deadline=None)
    @given(flips)
    def reads(changes):
        content = bytearray(whole)
        for at, byte in changes:
            content[at] = byte
        path.write_bytes(content)
        with contextlib.suppress(WeightsError, FileNotFoundError):  # of a shard by another name
            read(path)

    reads()


@pytest.mark.parametrize("name", FILES)
def test_damage_is_an_error_of_ours(name, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "damaged.pth"
    damaged((GOLDEN / name).read_bytes(), torch_files.read, path, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_much_damage_is_an_error_of_ours(name, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "damaged.pth"
    damaged((GOLDEN / name).read_bytes(), torch_files.read, path, 2000)


def network(folder, form):
    """A small network in one of the formats, in a file that can be loaded."""
    state = written.state_of("mobilenet_v2" if form in ("model.json", "w.h5") else "resnet18")
    if form == "model.json":
        return written.tfjs(folder, written.keras_mobilenet(state)) / form
    path = folder / form
    if form == "w.h5":
        return written.hdf5(path, {"model_weights": written.keras_mobilenet(state)})
    if form == "w.safetensors":
        save_file(state, path)
    elif form == "own.safetensors":
        np.savez(folder / "w.npz", **state)
        native.save(weights.load("resnet18", folder / "w.npz"), path)
    elif form == "w.npz":
        np.savez(path, **state)
    elif form == "w.pth":
        path.write_bytes((GOLDEN / FILES[0]).read_bytes())
    else:
        path.write_bytes(pickle.dumps({"model": state, "list": [np.ones(3)]}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    ["w.safetensors", "own.safetensors", "w.npz", "w.pkl", "w.h5", "model.json", "w.pth"],
)
def test_much_damage_is_an_error_of_ours_wherever_it_is_met(form, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("fuzz")
    path = network(folder, form)
    name = "mobilenet_v2" if form in ("model.json", "w.h5") else "resnet18"

    def read(path):
        with contextlib.suppress(WeightsError):
            reading.read(path)
        with contextlib.suppress(WeightsError):
            assert isinstance(weights.guess(path), str)
        words = [str(path), str(folder / "out.safetensors"), "--architecture", name]
        assert main(["convert", *words]) in (0, 1, 2)
        weights.load(name, path)

    damaged(path.read_bytes(), read, path, 40 if form == "w.h5" else 100)


def other_files(folder):
    """A small file of every other format, with a name that says which."""
    arrays = {
        "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "a.bias": np.ones(2, np.float32),
    }
    save_file(arrays, folder / "w.safetensors")
    np.savez(folder / "w.npz", **arrays)
    (folder / "w.pkl").write_bytes(pickle.dumps({"model": arrays, "list": [np.ones(3)]}))
    with h5py.File(folder / "w.h5", "w") as file:
        for name, array in arrays.items():
            file[f"a/{name}:0"] = array
    weights = [{"name": k, "shape": a.shape, "dtype": "float32"} for k, a in arrays.items()]
    manifest = {"weightsManifest": [{"paths": ["shard.bin"], "weights": weights}]}
    (folder / "model.json").write_text(json.dumps(manifest))
    (folder / "shard.bin").write_bytes(b"".join(a.tobytes() for a in arrays.values()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.pkl", "w.h5", "model.json"])
def test_much_damage_of_other_formats_is_an_error_of_ours(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    other_files(folder)
    assert set(reading.read(folder / name)) in (
        {"a.weight", "a.bias"},
        {"a/a.weight:0", "a/a.bias:0"},
    )
    damaged((folder / name).read_bytes(), reading.read, folder / name, 1000)
