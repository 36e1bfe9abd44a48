import argparse
import collections
import contextlib
import datetime
import functools
import os
import pathlib
import pickle
import pickletools
import ssl
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxparc.weights import pickles
from jaxparc.weights.pickles import RefusedError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "f2", "i8", "u1", "bool", "U3", "S2"])
def test_arrays_come_back_as_they_were(dtype, protocol):
    values = np.random.default_rng(0).integers(0, 2, (4, 3))
    for array in (
        values.astype(dtype),
        np.asfortranarray(values.astype(dtype)),
        np.zeros(0, dtype),
    ):
        for content in (array, {"a": array}, [array, 1], {"a": [array, "text", None]}):
            found = pickles.load(pickle.dumps(content, protocol=protocol))
            while isinstance(found, dict | list):
                found = found["a"] if isinstance(found, dict) else found[0]
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
            assert not found.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_and_containers_come_back(protocol):
    content = {"s": "text", "f": np.float32(1.5), "i": np.int64(-3), "n": None, "t": (1, 2.5, True)}
    assert pickles.load(pickle.dumps(content, protocol=protocol)) == content


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_of_older_numpy(protocol):
    array = np.arange(6.0).reshape(2, 3)
    data = pickle.dumps({"a": array}, protocol=protocol)
    older = data.replace(b"numpy._core", b"numpy.core")
    if protocol >= 4:  # the length of the name comes before it
        for name in (b"multiarray", b"numeric"):
            before = b"numpy.core." + name
            older = older.replace(bytes([len(before) + 1]) + before, bytes([len(before)]) + before)
        # and that of the frame before all
        at = older.index(b"\x95")
        (length,) = struct.unpack("<Q", older[at + 1 : at + 9])
        shrunk = length - (len(data) - len(older))
        older = older[: at + 1] + struct.pack("<Q", shrunk) + older[at + 9 :]
    list(pickletools.genops(older))  # it is a pickle
    assert b"numpy._core" not in older
    np.testing.assert_array_equal(pickles.load(older)["a"], array)


class Runs:
    """What a malicious pickle has: on reading, it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (os.system, ("touch {}",), f"{os.name}.system"),
        (eval, ("open('{}', 'w')",), "eval"),
        (open, ("{}", "w"), "open"),
        (getattr, ("{}", "format"), "getattr"),
        (subprocess.Popen, (["touch", "{}"],), "subprocess.Popen"),
        (np.fromfile, ("{}",), "numpy.fromfile"),
        (np.load, ("{}",), "numpy.load"),
        (bytearray, (10,), "bytearray"),
    ],
)
def test_what_names_anything_else_is_refused_by_name_and_not_run(
    function, args, name, protocol, tmp_path
):
    target = tmp_path / "made"
    args = tuple(
        [a.format(target) for a in arg] if isinstance(arg, list) else str(arg).format(target)
        for arg in args
    )
    data = pickle.dumps({"features": Runs(function, *args)}, protocol=protocol)
    with pytest.raises(RefusedError, match=f"it asks for .*{name.rpartition('.')[2]}"):
        pickles.load(data)
    assert not target.exists()


def test_what_is_admitted_cannot_be_turned_to_other_ends(tmp_path):
    """Hand-written programs on the admitted names."""
    ndarray = b"cnumpy\nndarray\n"
    programs = {
        "it calls numpy.ndarray": ndarray + b"((I1000000000000\nttR.",
        "it sets the state of a function": ndarray + b"}b.",
        "it encodes as 'rot13'": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        "it holds an array of 'O'": b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.",
        "it holds an array of 'V8'": b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8tR.",
        "it asks for something outside": b"Pname\n.",
        "it calls bytes": b"c__builtin__\nbytes\n(I1000000000000\ntR.",
        "it asks for the extension 1": b"\x82\x01.",
        "it asks for jaxparc.weights.stand_ins._Array": b"cjaxparc.weights.stand_ins\n_Array\n.",
        "it asks for numpy.ndarray.__init__": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    }
    for message, program in programs.items():
        with pytest.raises(RefusedError, match=message):
            pickles.load(program)


def test_an_object_array_is_refused():
    with pytest.raises(RefusedError, match="it holds an array of 'O8', not of numbers"):
        pickles.load(pickle.dumps(np.array([{}, []], object)))


# Of a few bytes each, which announce or would grow to gigabytes.
BOMBS = {
    "bytes": b"\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "bytearray": b"\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "text": b"\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "memo": b"\x80\x02]r" + struct.pack("<I", (1 << 32) - 1) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b".",
    "encode": (
        b"\x80\x02c_codecs\nencode\nq\x000X" + struct.pack("<I", 1000) + b"a" * 1000 + b"q\x010"
        b"X\x06\x00\x00\x00latin1q\x020]" + b"h\x00h\x01h\x02\x86Ra" * 100_000 + b"."
    ),
    "sets": b"\x80\x04" + b"\x8f" * 2_000_000 + b".",
    "memoised": b"\x80\x04N" + b"\x94" * 3_000_000 + b".",
    "dtype": b"cnumpy\ndtype\n(X\x0b\x00\x00\x00U9000000000tR.",
}


@pytest.fixture(scope="module")
def outcomes():
    """Name of a bomb -> what became of it, in one process of little memory for all of them."""
    code = """
import ast, resource, sys
from jaxparc.weights import pickles
bombs = ast.literal_eval(sys.stdin.read())
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
for name, bomb in bombs.items():
    try:
        pickles.load(bomb)
        print(name, "loaded", flush=True)
    except ValueError as error:
        print(name, "refused:", error, flush=True)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=repr(BOMBS).encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_bounded_memory(name, outcomes):
    assert outcomes[name].startswith("refused:") or name == "memo"
    assert "MemoryError" not in outcomes[name]


# Of a few bytes each, which would take for ever, or gigabytes, to hash, copy or print.
ENDLESS = {
    "key": b"\x80\x02}K\x00K\x01\x86" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
    "keys": b"\x80\x02}(K\x00K\x01\x86" + b"q\x00h\x00\x86" * 60 + b"K\x01u.",
    "dict": b"\x80\x02(K\x00K\x01\x86" + b"q\x00h\x00\x86" * 60 + b"K\x01d.",
    "set": b"\x80\x04\x8f(K\x00K\x01\x86" + b"q\x00h\x00\x86" * 60 + b"\x90.",
    "frozenset": b"\x80\x04(K\x00K\x01\x86" + b"q\x00h\x00\x86" * 60 + b"\x91.",
    "dtype": b"\x80\x02cnumpy\ndtype\nK\x00K\x01\x86" + b"q\x00h\x00\x86" * 60 + b"\x85R.",
    "encoding": (
        b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aK\x00K\x01\x86" + b"q\x00h\x00\x86" * 60 + b"\x86R."
    ),
    "number": b"\x80\x02}\x8a\xff" + b"\x7f" * 255 + b"K\x01s.",
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}


@pytest.mark.parametrize("inert", [False, True])
@pytest.mark.parametrize("name", ENDLESS)
def test_what_would_take_for_ever_is_refused(name, inert):
    if (name, inert) == ("dtype", True):
        assert isinstance(pickles.load(ENDLESS[name], inert=True), pickles.Inert)
        return
    with pytest.raises(ValueError, match=r"^it [a-z]+ "):
        pickles.load(ENDLESS[name], inert=inert)


class Settings(argparse.Namespace):
    pass


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, inner=argparse.Namespace(path=pathlib.Path("x"))),
    "class": Settings,
    "object": Settings(a=1),
    "dates": [datetime.datetime(2026, 1, 1), datetime.timedelta(3)],
    "path": pathlib.Path("a/b"),
    "enum": argparse.Namespace(kind=ssl.TLSVersion.TLSv1_3),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "deque": collections.deque([1, 2]),
    "partial": functools.partial(max, 3),
    "objects": np.array([{}, None], object),
    "records": np.zeros(2, [("a", "f4"), ("b", "i8")]),
    "times": np.array(["2026-01-01"], "datetime64[D]"),
    "generator": np.random.default_rng(0).bit_generator.state,
    "random": np.random.RandomState(0),
    "rng": np.random.default_rng(0),
    "sets": [{1, 2}, frozenset("ab"), slice(1, 2), range(3), 1 + 2j],
    "key": {pathlib.Path("x"): 1, (1, "a"): 2},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", [*BESIDE])
def test_what_is_named_beside_arrays_is_inert(name, protocol):
    content = {"weights": np.arange(3.0), name: BESIDE[name], "last": "text"}
    found = pickles.load(pickle.dumps(content, protocol), inert=True)
    assert list(found) == ["weights", name, "last"]
    np.testing.assert_array_equal(found["weights"], np.arange(3.0))
    assert found["last"] == "text"
    beside = found[name]
    if isinstance(BESIDE[name], argparse.Namespace):
        assert isinstance(beside, pickles.Inert)


def test_what_acts_is_refused_beside_arrays_too(tmp_path):
    for function, args in (
        (os.system, (f"touch {tmp_path / 'made'}",)),
        (subprocess.Popen, (["touch", str(tmp_path / "made")],)),
        (eval, ("1",)),
        (open, (str(tmp_path / "made"), "w")),
        (getattr, ("text", "format")),
        (np.load, ("x",)),
    ):
        data = pickle.dumps({"weights": np.ones(3), "x": Runs(function, *args)})
        with pytest.raises(RefusedError, match="it asks for"):
            pickles.load(data, inert=True)
    assert not (tmp_path / "made").exists()


def test_names_are_told_on_one_line():
    program = b"\x80\x04\x8c\x04a\n\x1b[\x8c\x01b\x93."
    with pytest.raises(RefusedError) as error:
        pickles.load(program)
    assert str(error.value) == "it asks for a\\n\\x1b[.b"


@pytest.mark.parametrize("data", [b"", b"text", b"\x80\x05", b"<html>", b"\x80\xff."])
def test_what_is_no_pickle_is_said_to_be_none(data):
    with pytest.raises(ValueError, match="not a valid pickle"):
        pickles.load(data)


WHOLE = pickle.dumps({"a": np.arange(30.0), "b": [np.float64(1), "text"], "c": (1, 2)}, protocol=2)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6), st.data()
)
def test_any_damage_is_a_value_error_or_a_value(flips, data):
    damaged = bytearray(WHOLE)
    for at, byte in flips:
        damaged[at] = byte
    end = data.draw(st.integers(0, len(damaged)))
    with contextlib.suppress(ValueError):
        pickles.load(bytes(damaged[:end] if data.draw(st.booleans()) else damaged))
