"""Arrays in files, against NumPy's reader, and whatever is wrong with the file."""

import io
import os
import zipfile

import numpy as np
import pytest

from jaxparc import array_files

ARRAYS = {
    "features": np.arange(6, dtype=np.float32).reshape(3, 2),
    "columns": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "half": np.array([1.5, -2], np.float16),
    "words": np.array(["cat", "modèle"]),
    "unit": np.array("x"),
    "none": np.zeros((0, 5)),
    "dates": np.array(["2024-01-01"], "M8[D]"),
    "swapped": np.array([1, 2], ">i4"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_numpy_reads(save, tmp_path):
    save(tmp_path / "x.npz", **ARRAYS)
    found = array_files.read(tmp_path / "x.npz")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        np.save(tmp_path / "x.npy", array)
        (alone,) = array_files.read(tmp_path / "x.npy").values()
        np.testing.assert_array_equal(alone, array)
        assert found[name].flags.writeable


def test_any_flipped_bit_of_an_npz_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.arange(3, dtype=np.float32), y=np.array([0, 1]))
    whole, expected = path.read_bytes(), array_files.read(path)
    directory = whole.index(b"PK\x01\x02")  # which no checksum covers: all of its bits
    bits = [*(9 * i % 8 + 8 * i for i in range(directory)), *range(8 * directory, 8 * len(whole))]
    refused = 0
    for bit in bits:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            found = array_files.read(path)
        except ValueError:
            refused += 1
            continue
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    assert refused > len(bits) / 3


def npy(array, *, claims=None):
    """The bytes of a .npy file, its header that of an array of another shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file,
        {"shape": claims or array.shape, "fortran_order": False, "descr": array.dtype.str},
    )
    return file.getvalue() + array.tobytes()


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members:
            archive.writestr(name, data)


X = np.arange(4.0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npy(X, claims=(1 << 40,)), "has 32 bytes; float64 (1099511627776,) takes 8796093022208"),
        (npy(X, claims=(3,)), "has 32 bytes; float64 (3,) takes 24"),
        (npy(X, claims=(-4,)), "has 32 bytes"),
        (npy(X)[:-1], "has 31 bytes"),
        (npy(X) * 2, "has 192 bytes"),  # two arrays, of which NumPy reads the first
        (b"\x93NUMPY\x09\x00", "version (9, 0)"),
        (b"<html>", "starts with b'<html>'"),
        (b"", "starts with b''"),
        (b"PK\x03\x04", "not a zip file"),
    ],
)
def test_what_is_not_what_it_says_is_refused_before_it_is_read(data, said, tmp_path):
    for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="cannot be read") as caught:
            array_files.Archive(path)
        assert said in str(caught.value)
    if data.startswith(b"\x93NUMPY"):
        zipped(path, [("x.npy", data)])
        with pytest.raises(ValueError, match="cannot be read"):
            array_files.Archive(path)


def test_hostile_archives_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    zipped(path, [("x.npy", npy(X))], compression=zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match="unsupported compression"):
        array_files.Archive(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped(path, [("x.npy", npy(X)), ("x.npy", npy(X + 1))])
    with pytest.raises(ValueError, match="duplicate member x"):
        array_files.Archive(path)
    zipped(path, [("x.npy", npy(X)), ("notes.txt", b"passed over")])
    assert list(array_files.read(path)) == ["x"]
    # a member that declares 3 GiB in its directory and its header
    zipped(path, [("x.npy", npy(X, claims=(3 << 27,)))])
    data = path.read_bytes()
    size = len(npy(X))
    path.write_bytes(data.replace(size.to_bytes(4, "little"), (3 << 30).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="declares a larger size than the file can hold"):
        array_files.Archive(path)


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{}], object))
    with array_files.Archive(tmp_path / "x.npz") as archive:
        assert archive.headers["x"].dtype == object
        with pytest.raises(ValueError, match="contains Python objects, which are not unpickled"):
            archive["x"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="is a pipe; expected a file"):
        array_files.Archive(tmp_path / "x.npz")
