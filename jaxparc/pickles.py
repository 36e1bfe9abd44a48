"""Arrays out of pickles, of which nothing is run.

A pickle is a program: it names functions, and calls them. Here every name maps to a stand-in of
ours, or is refused, and arrays are built from their bytes by us.
"""

import io
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np


class RefusedError(ValueError):
    """A pickle asks for more than arrays; the message says for what. Nothing of it was run."""


Names = Mapping[str, Callable[..., Any]]
"""What a pickle may name besides NumPy's arrays -> what is called in its place."""


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
    return resolved(load_next(io.BytesIO(data)))


def load_next(
    file: io.BytesIO, names: Names | None = None, outside: Callable[[Any], Any] | None = None
) -> Any:
    """Reads one of several pickles, and leaves the file behind it.

    Args:
        file: where the pickle begins.
        names: admitted besides NumPy's.
        outside: finds what is not in the pickle, by what the pickle calls it.

    Returns:
        What was pickled, with a `Later` for each array: `resolved` puts the arrays in their places.

    Raises: as `load`.
    """
    try:
        return _Unpickler(file, names or {}, outside).load()
    except RefusedError:
        raise
    except Exception as error:  # broken bytes make an unpickler raise anything
        raise ValueError(f"no whole pickle: {type(error).__name__}: {error}") from error


class _StandIn:
    """What a name is replaced with: calls one function of ours, and takes no state."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._make(*args, **kwargs)

    @property
    def stands_for(self) -> Callable[..., Any]:
        """What it calls, for who is handed it as an argument."""
        return self._make

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


class Later:
    """Stands for an array until everything is read."""

    def array(self) -> np.ndarray:
        """What it stands for."""
        raise NotImplementedError

    def __setstate__(self, state: Any) -> None:
        # Without this, a pickle could set attributes after they were checked.
        raise RefusedError("it sets the state of an array")


class _Array(Later):
    """An array while it is read."""

    def __init__(self, *_: Any) -> None:
        self._array: np.ndarray | None = None

    def array(self) -> np.ndarray:
        if self._array is None:
            raise ValueError("an array is not filled")
        return self._array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self._array = _of_bytes(raw, dtype, shape, "F" if fortran else "C")


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

    def __init__(
        self, file: io.BytesIO, names: Names, outside: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(file)
        self._names, self._outside = names, outside
        self._unencoded = len(file.getbuffer())

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what the file names."""
        full = f"{module}.{name}"
        if full == "_codecs.encode":
            return _StandIn(self._encode)
        make = _STAND_INS.get(full) or self._names.get(full)
        if make is None:
            raise RefusedError(f"it asks for {full}")
        return _StandIn(make)

    def persistent_load(self, pid: Any) -> Any:
        if self._outside is None:
            raise RefusedError("it asks for something outside the file")
        return self._outside(pid)

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


def resolved(value: Any) -> Any:
    """The value with arrays in place of what stood for them.

    Raises:
        ValueError: an array is not what was announced.
    """
    return _resolved(value, {})


def _resolved(value: Any, seen: dict[int, Any]) -> Any:
    if not isinstance(value, Later | dict | list | tuple):
        return value
    if id(value) not in seen:
        # With the value itself, so that nothing else comes to have its id; a container is looked
        # at once, however often it is in others.
        seen[id(value)] = value, value
        if isinstance(value, Later):
            seen[id(value)] = value, value.array()
        elif isinstance(value, tuple):
            seen[id(value)] = value, tuple(_resolved(item, seen) for item in value)
        else:
            for key in value if isinstance(value, dict) else range(len(value)):
                value[key] = _resolved(value[key], seen)
    return seen[id(value)][1]
