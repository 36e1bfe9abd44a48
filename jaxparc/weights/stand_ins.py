"""What the names in a pickle are replaced with, so that none of them is ever imported or called.

A pickle is a program that names functions and calls them. Every name maps to one of the stand-ins
below, which build arrays from their bytes, or to an `Inert` object, or is refused.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxparc.errors import InputError


class RefusedError(InputError):
    """A pickle asks for more than arrays; the message says for what. Nothing was executed."""


class StandIn:
    """A callable that takes the place of a name: it calls `function` and accepts no state."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    @property
    def stands_for(self) -> Callable[..., Any]:
        """The function that it calls, for code that receives the stand-in as an argument."""
        return self._function

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it sets the state of a function")


class Inert:
    """An object that is not an array; every operation on it does nothing.

    Attributes:
        name: what the pickle names, such as "argparse.Namespace".
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any) -> "Inert":
        """Return another inert object of the same name."""
        return Inert(self.name)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Do nothing."""

    add = extend = append


class Dtype:
    """A NumPy dtype while it is unpickled."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d{1,4}", code):
            raise RefusedError(f"it holds an array of {describe(code)}, not of numbers or strings")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Later:
    """A placeholder for an array until the whole pickle is read."""

    def array(self) -> Any:
        """Return the array, or something inert in its place."""
        raise NotImplementedError

    def __setstate__(self, state: Any) -> None:
        # Without this, a pickle could set attributes after they were checked.
        raise RefusedError("it sets the state of an array")


class _Array(Later):
    """A NumPy array while it is unpickled."""

    def __init__(self, *_: Any) -> None:
        self._array: Any = None

    def array(self) -> Any:
        if self._array is None:
            raise InputError("an array has no content")
        return self._array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self._array = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _from_bytes(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    if isinstance(dtype, Inert):
        return dtype
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, Dtype):
        raise RefusedError("it holds an array that is not made of bytes")
    array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    array = _from_bytes(raw, dtype, ())
    return array if isinstance(array, Inert) else array[()]


def dtype_or_inert(code: Any, *_: Any) -> Any:
    """Return a dtype of numbers or strings, or an `Inert` in place of any other."""
    try:
        return Dtype(code)
    except RefusedError:
        return Inert("numpy.dtype")


def _ndarray(*_: Any) -> None:
    # Pickles only pass it as an argument; a call could allocate any amount of memory.
    raise RefusedError("it calls numpy.ndarray")


def _empty_bytes(*args: Any) -> bytes:
    """Return b"", which protocols 0 to 2 pickle as a call of `bytes`."""
    if args:
        raise RefusedError("it calls bytes")
    return b""


def describe(value: Any) -> str:
    """Return a value as an error message shows it: the repr of a container may be endless."""
    return repr(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"


_STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _ndarray,
    "numpy.dtype": Dtype,
    "__builtin__.bytes": _empty_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _STAND_INS[f"{_core}.multiarray._reconstruct"] = _Array
    _STAND_INS[f"{_core}.multiarray.scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric._frombuffer"] = _from_bytes

STAND_INS: Mapping[str, Callable[..., Any]] = _STAND_INS
"""NumPy's names in a pickle -> what is called in their place."""
