"""Arrays out of pickles, of which nothing is run.

A pickle is a program: it names functions, and calls them. Here every name maps to a stand-in of
ours, to something inert, or is refused, and arrays are built from their bytes by us.
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


class RefusedError(InputError):
    """A pickle asks for more than arrays; the message says for what. Nothing of it was run."""


Names = Mapping[str, Callable[..., Any]]
"""What a pickle may name besides NumPy's arrays -> what is called in its place."""


def load(data: bytes, *, inert: bool = False) -> Any:
    """Reads a pickle of containers, strings, numbers and NumPy arrays, of any protocol.

    Args:
        data: the whole file.
        inert: whether what it names besides is an `Inert` in its place, rather than refused.

    Returns:
        What was pickled. Arrays are read-only views of what was read; memory and time are bounded
        by a small multiple of the file's size.

    Raises:
        RefusedError: it asks for anything else, or for arrays of objects; with `inert`, for what
            runs programs, or changes files.
        ValueError: it is no pickle, or is cut off.
    """
    return resolved(load_next(io.BytesIO(data), inert=inert))


def load_next(
    file: io.BytesIO,
    names: Names | None = None,
    outside: Callable[[Any], Any] | None = None,
    *,
    inert: bool = False,
) -> Any:
    """Reads one of several pickles, and leaves the file behind it.

    Args:
        file: where the pickle begins.
        names: admitted besides NumPy's.
        outside: finds what is not in the pickle, by what the pickle calls it.
        inert: as of `load`.

    Returns:
        What was pickled, with a `Later` for each array: `resolved` puts the arrays in their places.

    Raises: as `load`.
    """
    try:
        return _Unpickler(file, names or {}, outside, inert).load()
    except RefusedError:
        raise
    except Exception as error:  # broken bytes make an unpickler raise anything
        raise InputError(f"no whole pickle: {type(error).__name__}: {error}") from error


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


class Inert:
    """Stands for what a pickle names and that is no array; whatever is done to it does nothing.

    Attributes:
        name: what the pickle asks for.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any) -> "Inert":
        """Makes another one."""
        return Inert(self.name)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Adds nothing."""

    add = extend = append


# A file that asks for one of these is no mere checkpoint, though nothing would come of it.
_ACTING = re.compile(
    r"(os|nt|posix|sys|_?io|subprocess|shutil|socket|runpy|pty|ctypes|importlib|_?pickle|marshal|code"
    r"|commands|webbrowser|multiprocessing|asyncio|urllib|http|requests)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|open|compile|__import__|input|breakpoint"
    r"|(get|set|del)attr|globals|locals|vars)"
    r"|numpy\.(load|save|fromfile|memmap|DataSource|.*\.(load|save|fromfile))"
)


class _Dtype:
    """A dtype while it is read."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d{1,4}", code):
            raise RefusedError(f"it holds an array of {_shown(code)}, not of numbers or strings")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Later:
    """Stands for an array until everything is read."""

    def array(self) -> Any:
        """What it stands for, an array or something inert."""
        raise NotImplementedError

    def __setstate__(self, state: Any) -> None:
        # Without this, a pickle could set attributes after they were checked.
        raise RefusedError("it sets the state of an array")


class _Array(Later):
    """An array while it is read."""

    def __init__(self, *_: Any) -> None:
        self._array: Any = None

    def array(self) -> Any:
        if self._array is None:
            raise InputError("an array is not filled")
        return self._array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self._array = _of_bytes(raw, dtype, shape, "F" if fortran else "C")


def _of_bytes(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    if isinstance(dtype, Inert):
        return dtype
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise RefusedError("it holds an array that is not made of bytes")
    array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    found = _of_bytes(raw, dtype, ())
    return found if isinstance(found, Inert) else found[()]


def _dtype_or_inert(code: Any, *_: Any) -> Any:
    """A dtype, or something inert in place of one that is not of numbers or strings."""
    try:
        return _Dtype(code)
    except RefusedError:
        return Inert("numpy.dtype")


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
        self, file: io.BytesIO, names: Names, outside: Callable[[Any], Any] | None, inert: bool
    ) -> None:
        super().__init__(file)
        self._names, self._outside, self._inert = names, outside, inert
        self._unencoded = len(file.getbuffer())
        self._uncopied = 1000 + 4 * len(file.getbuffer())
        self.dispatch = _Charged(len(file.getbuffer()))  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what the file names."""
        full = f"{module}.{name}"
        if full == "_codecs.encode":
            return _StandIn(self._encode)
        if full == "numpy.dtype" and self._inert:
            return _StandIn(_dtype_or_inert)
        make = _STAND_INS.get(full) or self._names.get(full)
        if make is None:
            if not self._inert or _ACTING.fullmatch(full):
                raise RefusedError(f"it asks for {visible(full[:200])}")
            return Inert(visible(full[:200]))
        return _StandIn(make)

    def make(self, function: Any, args: Any) -> Any:
        """What a name makes of its arguments."""
        if not isinstance(function, _StandIn | Inert):
            raise InputError(f"it calls a {type(function).__name__}")
        # Arguments are copied: the same ones a million times must not fill the memory.
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
        """How the older protocols hold bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise RefusedError(f"it encodes as {_shown(encoding)}")
        self._unencoded -= len(text)  # each text once: not one of them a million times
        if self._unencoded < 0:
            raise RefusedError("it encodes more than it holds")
        return text.encode(encoding)


def _load_bytearray8(unpickler: Any) -> None:
    """As the original, which sets aside as much as is announced before it reads."""
    (length,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.append(bytearray(unpickler.read(length)))


def _load_reduce(unpickler: Any) -> None:
    args = unpickler.stack.pop()
    unpickler.stack[-1] = unpickler.make(unpickler.stack[-1], args)


def _load_newobj(unpickler: Any) -> None:
    _load_reduce(unpickler)


def _load_newobj_ex(unpickler: Any) -> None:
    unpickler.stack.pop()  # arguments by name
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


class _Charged:
    """The functions of opcodes, of which each costs memory: a set from a single byte takes 200.

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
    """A dictionary of keys and values that a pickle holds."""
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    """A key that takes no time to hash, as a tuple of tuples of tuples may for ever."""
    parts = key if isinstance(key, tuple) else (key,)
    small = isinstance(parts, tuple) and len(parts) < 16
    if not small or not all(isinstance(part, _ATOMS) and _short(part) for part in parts):
        raise RefusedError(f"it has a {type(key).__name__} as a key")
    return key


_ATOMS = (str, bytes, int, float, complex, bool, type(None), np.generic, Inert)


def _short(part: Any) -> bool:
    return not isinstance(part, int) or part.bit_length() <= 64


def _shown(value: Any) -> str:
    """A value in a message: the rest of a container may be endless."""
    return repr(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"


def resolved(value: Any) -> Any:
    """The value with arrays in place of what stood for them.

    Raises:
        ValueError: an array is not what was announced, or containers are too deep.
    """
    try:
        return _resolved(value, {})
    except RecursionError:
        raise InputError("it nests containers too deeply") from None


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
