"""Arrays out of pickles, of which nothing is run.

A pickle is a program: it names functions, and calls them. Here every name maps to a stand-in of
ours, or is refused, and arrays are built from their bytes by us.
"""

import io
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np


class RefusedError(ValueError):
    """A pickle asks for more than arrays; the message says for what. Nothing of it was run."""


def load(data: bytes) -> Any:
    """Reads a pickle of containers, strings, numbers and NumPy arrays, of any protocol.

    Args:
        data: the whole file.

    Returns:
        What was pickled. Arrays are read-only views of what was read; memory is bounded by a small
        multiple of the file's size.

    Raises:
        RefusedError: it asks for anything else, or for arrays of objects.
        ValueError: it is no pickle, or is cut off.
    """
    try:
        return _arrays(_Unpickler(data).load())
    except RefusedError:
        raise
    except Exception as error:  # broken bytes make an unpickler raise anything
        raise ValueError(f"no whole pickle: {type(error).__name__}: {error}") from error


class _StandIn:
    """What a name is replaced with: calls one function of ours, and takes no state."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it sets the state of a function")


class _Dtype:
    """A dtype while it is read."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d{1,4}", code):
            raise RefusedError(f"it holds an array of {code!r}, not of numbers or strings")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array while it is read."""

    array: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = _of_bytes(raw, dtype, shape, "F" if fortran else "C")


def _of_bytes(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise RefusedError("it holds an array that is not made of bytes")
    array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    return _of_bytes(raw, dtype, ())[()]


def _ndarray(*_: Any) -> None:
    # Pickles name it as an argument alone; called, it would set aside any amount of memory.
    raise RefusedError("it calls numpy.ndarray")


def _no_bytes(*args: Any) -> bytes:
    """How the older protocols hold no bytes at all."""
    if args:
        raise RefusedError("it calls bytes")
    return b""


_STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _Dtype,
    "__builtin__.bytes": _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _STAND_INS[f"{_core}.multiarray._reconstruct"] = _Array
    _STAND_INS[f"{_core}.multiarray.scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric._frombuffer"] = _of_bytes


# The Python one of the two unpicklers: the other sets aside as much memory as a file announces.
class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._unencoded = len(data)

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what the file names."""
        full = f"{module}.{name}"
        if full == "_codecs.encode":
            return _StandIn(self._encode)
        if full not in _STAND_INS:
            raise RefusedError(f"it asks for {full}")
        return _StandIn(_STAND_INS[full])

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("it asks for something outside the file")

    def get_extension(self, code: int) -> None:
        raise RefusedError(f"it asks for the extension {code}")

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """How the older protocols hold bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise RefusedError(f"it encodes as {encoding!r}")
        self._unencoded -= len(text)  # each text once: not one of them a million times
        if self._unencoded < 0:
            raise RefusedError("it encodes more than it holds")
        return text.encode(encoding)


def _load_bytearray8(unpickler: Any) -> None:
    """As the original, which sets aside as much as is announced before it reads."""
    (length,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.append(bytearray(unpickler.read(length)))


_Unpickler.dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray8


def _arrays(value: Any, depth: int = 2) -> Any:
    """The value with arrays in place of what stood for them, down to a depth."""
    if isinstance(value, _Array):
        return value.array
    if depth and type(value) is dict:
        return {key: _arrays(item, depth - 1) for key, item in value.items()}
    if depth and type(value) in (list, tuple):
        return type(value)(_arrays(item, depth - 1) for item in value)
    return value
