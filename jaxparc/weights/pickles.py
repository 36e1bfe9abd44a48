"""Arrays from pickles, which are parsed and never executed.

The unpickler looks every name up in `stand_ins` instead of importing it, and bounds the memory and
time that a file can take.
"""

import io
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, ClassVar

import numpy as np

from jaxparc.errors import InputError
from jaxparc.printing import visible
from jaxparc.weights.stand_ins import (
    STAND_INS,
    Inert,
    Later,
    RefusedError,
    StandIn,
    describe,
    dtype_or_inert,
)

Names = Mapping[str, Callable[..., Any]]
"""Names that a pickle may use besides NumPy's -> what is called in their place."""


def load(data: bytes, *, inert: bool = False) -> Any:
    """Load a pickle of containers, strings, numbers and NumPy arrays, of any protocol.

    Args:
        data: the whole file.
        inert: whether other objects become `Inert` instead of being refused.

    Returns:
        The pickled object. Arrays are read-only views of `data`; memory and time are bounded by a
        small multiple of its size.

    Raises:
        RefusedError: the pickle names anything else, or holds arrays of objects; with `inert`, it
            names a function that executes programs or accesses files.
        InputError: it is not a pickle, or is truncated.
    """
    return resolved(load_next(io.BytesIO(data), inert=inert))


def load_next(
    file: io.BytesIO,
    names: Names | None = None,
    outside: Callable[[Any], Any] | None = None,
    *,
    inert: bool = False,
) -> Any:
    """Load the next of several pickles in a file, and leave the file's position after it.

    Args:
        file: positioned at the start of the pickle.
        names: names that are admitted besides NumPy's.
        outside: resolves persistent ids, which stand for objects outside of the pickle.
        inert: as in `load`.

    Returns:
        The pickled object, with a `Later` in place of each array; `resolved` puts the arrays in.

    Raises:
        RefusedError: as in `load`.
        InputError: as in `load`.
    """
    try:
        return _Unpickler(file, names or {}, outside, inert).load()
    except RefusedError:
        raise
    except Exception as error:  # broken bytes make an unpickler raise anything
        raise InputError(f"not a valid pickle: {type(error).__name__}: {error}") from error


# A file that names one of these is not a checkpoint; it is refused although nothing would happen.
_UNSAFE = re.compile(
    r"(os|nt|posix|sys|_?io|subprocess|shutil|socket|runpy|pty|ctypes|importlib|_?pickle|marshal|code"
    r"|commands|webbrowser|multiprocessing|asyncio|urllib|http|requests)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|open|compile|__import__|input|breakpoint"
    r"|(get|set|del)attr|globals|locals|vars)"
    r"|numpy\.(load|save|fromfile|memmap|DataSource|.*\.(load|save|fromfile))"
)


# The unpickler in Python: the one in C allocates as much memory as a file declares.
class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, file: io.BytesIO, names: Names, outside: Callable[[Any], Any] | None, inert: bool
    ) -> None:
        super().__init__(file)
        self._names, self._outside, self._inert = names, outside, inert
        self._unencoded = len(file.getbuffer())
        self._uncopied = 1000 + 4 * len(file.getbuffer())
        self.dispatch = _MeteredDispatch(len(file.getbuffer()))  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name."""
        full = f"{module}.{name}"
        if full == "_codecs.encode":
            return StandIn(self._encode)
        if full == "numpy.dtype" and self._inert:
            return StandIn(dtype_or_inert)
        function = STAND_INS.get(full) or self._names.get(full)
        if function is None:
            if not self._inert or _UNSAFE.fullmatch(full):
                raise RefusedError(f"it asks for {visible(full[:200])}")
            return Inert(visible(full[:200]))
        return StandIn(function)

    def make(self, function: Any, args: Any) -> Any:
        """Call a stand-in."""
        if not isinstance(function, StandIn | Inert):
            raise InputError(f"it calls a {type(function).__name__}")
        # Arguments are copied: copies of the same ones must not fill the memory.
        self._uncopied -= sum(len(a) for a in args if isinstance(a, Sized))
        if self._uncopied < 0:
            raise RefusedError("it copies more than it holds")
        return function(*args)

    def persistent_load(self, pid: Any) -> Any:
        if self._outside is None:
            raise RefusedError("it asks for something outside the file")
        return self._outside(pid)

    def get_extension(self, code: int) -> None:
        raise RefusedError(f"it asks for the extension {code}")

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """Encode text, as protocols 0 to 2 pickle bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise RefusedError(f"it encodes as {describe(encoding)}")
        self._unencoded -= len(text)  # of all calls: a pickle may repeat one
        if self._unencoded < 0:
            raise RefusedError("it encodes more than it holds")
        return text.encode(encoding)


def _load_bytearray8(unpickler: Any) -> None:
    """Load a bytearray as pickle does, without allocating its declared size before it is read."""
    (length,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.append(bytearray(unpickler.read(length)))


def _load_reduce(unpickler: Any) -> None:
    args = unpickler.stack.pop()
    unpickler.stack[-1] = unpickler.make(unpickler.stack[-1], args)


def _load_newobj(unpickler: Any) -> None:
    _load_reduce(unpickler)


def _load_newobj_ex(unpickler: Any) -> None:
    unpickler.stack.pop()  # keyword arguments
    _load_reduce(unpickler)


def _load_setitem(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    unpickler.stack[-1][_key(key)] = value


def _load_setitems(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    for key, value in zip(items[::2], items[1::2], strict=True):
        unpickler.stack[-1][_key(key)] = value


def _load_dict(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    unpickler.append(of_pairs(zip(items[::2], items[1::2], strict=True)))


def _load_additems(unpickler: Any) -> None:
    for item in unpickler.pop_mark():
        unpickler.stack[-1].add(_key(item))


def _load_frozenset(unpickler: Any) -> None:
    unpickler.append(frozenset(map(_key, unpickler.pop_mark())))


_Unpickler.dispatch |= {
    pickle.BYTEARRAY8[0]: _load_bytearray8,
    pickle.REDUCE[0]: _load_reduce,
    pickle.NEWOBJ[0]: _load_newobj,
    pickle.NEWOBJ_EX[0]: _load_newobj_ex,
    pickle.SETITEM[0]: _load_setitem,
    pickle.SETITEMS[0]: _load_setitems,
    pickle.DICT[0]: _load_dict,
    pickle.ADDITEMS[0]: _load_additems,
    pickle.FROZENSET[0]: _load_frozenset,
}


class _MeteredDispatch:
    """The functions of opcodes; each lookup counts the memory that the opcode may take.

    An opcode of one byte can make a set of 200 bytes.

    Args:
        size: of the file, in bytes.
    """

    _COSTS: ClassVar[dict[int, int]] = {
        opcode[0]: cost
        for cost, opcodes in (
            (64, (pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.MARK, pickle.LIST, pickle.DICT)),
            (64, (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)),
            (128, (pickle.MEMOIZE, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT)),
            (224, (pickle.EMPTY_SET, pickle.FROZENSET, pickle.REDUCE, pickle.NEWOBJ)),
            (224, (pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ, pickle.GLOBAL, pickle.STACK_GLOBAL)),
        )
        for opcode in opcodes
    }

    def __init__(self, size: int) -> None:
        self._left = (256 << 20) + 8 * size

    def __getitem__(self, opcode: int) -> Any:
        self._left -= self._COSTS.get(opcode, 16)
        if self._left < 0:
            raise RefusedError("it holds more objects than a file of its size may")
        return _Unpickler.dispatch[opcode]


def of_pairs(pairs: Iterable[Any]) -> dict[Any, Any]:
    """Return a dictionary of unpickled keys and values."""
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    """Return a key, if it is cheap to hash: tuples that are nested may take exponential time."""
    parts = key if isinstance(key, tuple) else (key,)
    small = isinstance(parts, tuple) and len(parts) < 16
    if not small or not all(isinstance(part, _ATOMS) and _short(part) for part in parts):
        raise RefusedError(f"it has a {type(key).__name__} as a key")
    return key


_ATOMS = (str, bytes, int, float, complex, bool, type(None), np.generic, Inert)


def _short(part: Any) -> bool:
    return not isinstance(part, int) or part.bit_length() <= 64


def resolved(value: Any) -> Any:
    """Return the value with arrays in place of their `Later`.

    Raises:
        InputError: an array differs from its declaration, or containers are nested too deeply.
    """
    try:
        return _resolved(value, {})
    except RecursionError:
        raise InputError("it nests containers too deeply") from None


def _resolved(value: Any, seen: dict[int, Any]) -> Any:
    if not isinstance(value, Later | dict | list | tuple):
        return value
    if id(value) not in seen:
        # The value is kept alive, so that no other object gets its id. Each container is visited
        # once, however many others hold it.
        seen[id(value)] = value, value
        if isinstance(value, Later):
            seen[id(value)] = value, value.array()
        elif isinstance(value, tuple):
            seen[id(value)] = value, tuple(_resolved(item, seen) for item in value)
        else:
            for key in value if isinstance(value, dict) else range(len(value)):
                value[key] = _resolved(value[key], seen)
    return seen[id(value)][1]
