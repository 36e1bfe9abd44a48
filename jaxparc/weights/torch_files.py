"""PyTorch's files, .pth, .pt or .th, as NumPy arrays: without torch, and running nothing of them.

Both formats of `torch.save`: a zip archive (since 1.6) and a sequence of pickles with the numbers
behind them. TorchScript archives hold programs and are refused.
"""

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxparc.errors import InputError
from jaxparc.weights import WeightsError, pickles
from jaxparc.weights.budget import Budget
from jaxparc.weights.pickles import Inert

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older format
PROTOCOL = 1001  # the second one

_STORAGES: Mapping[str, np.dtype] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("bool"),
    # Of no network here, but they may lie beside one.
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "QInt8Storage": np.dtype("i1"),
    "QUInt8Storage": np.dtype("u1"),
    "QInt32Storage": np.dtype("<i4"),
    "UntypedStorage": np.dtype("u1"),
    "storage.UntypedStorage": np.dtype("u1"),
}


def read(path: str | Path) -> Any:
    """What was saved: containers, strings and numbers, with a NumPy array for each tensor.

    Args:
        path: of the file. It is read whole.

    Returns:
        Arrays have their own dtype (bfloat16 that of ml_dtypes) and are read-only views of what was
        read, so that a small file cannot fill the memory. Other objects, and tensors of kinds that
        no network here has, are `pickles.Inert`.

    Raises:
        WeightsError: it is no such file, or is cut off, or asks for what runs programs, or for more
            memory than its size allows; the message names the file, and what it asks for. Nothing
            of it was run.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    found = _Found({}, Budget(len(data)))
    try:
        return _read_zip(data, found) if data[:4] == ZIP else _read_legacy(data, found)
    except pickles.RefusedError as error:
        raise WeightsError(f"{path} is refused, and nothing of it was run: {error}") from None
    except Exception as error:  # zipfile and NumPy raise a dozen kinds on broken bytes
        raise WeightsError(f"{path} is no whole file of torch.save: {error}") from error


class _Found(NamedTuple):
    """The numbers of storages that have been read, and what may still be read."""

    storages: dict[str, np.ndarray]
    budget: Budget


class _Kind:
    """A storage's class, which is named and not called."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def __call__(self, *_: Any) -> Any:
        raise pickles.RefusedError("it makes a storage of its own")


class _Storage(NamedTuple):
    """The numbers of one or more tensors, which may not have been read yet."""

    key: str
    dtype: np.dtype
    length: int


_MOST_AXES = 32


class _Tensor(pickles.Later):
    """A view of a storage."""

    def __init__(self, found: _Found, storage: Any, offset: Any, size: Any, stride: Any) -> None:
        if len(size) > _MOST_AXES or len(size) != len(stride):
            raise InputError(f"a tensor has {len(size)} axes and {len(stride)} strides")
        if not isinstance(storage, _Storage) or not all(
            isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)
        ):
            raise InputError("a tensor is of no storage, or of a negative size")
        # `Later` lets no pickle change these after they were looked at.
        self._found, self._storage = found, storage
        self._offset, self._size, self._stride = offset, tuple(size), tuple(stride)

    def array(self) -> np.ndarray:
        numbers = self._found.storages[self._storage.key]
        elements = math.prod(self._size)
        last = sum((n - 1) * step for n, step in zip(self._size, self._stride, strict=True))
        outside = ValueError(f"a tensor of {self._size} does not lie in its storage")
        if elements and self._offset + last >= len(numbers):
            raise outside
        if elements > len(numbers):  # expanded: the same numbers several times
            try:
                self._found.budget.take(elements * numbers.itemsize, "a tensor")
            except WeightsError as error:
                raise outside from error
        strides = [step * numbers.itemsize for step in self._stride]
        return np.lib.stride_tricks.as_strided(
            numbers[self._offset :], self._size, strides, writeable=False
        )


class _State(dict[Any, Any]):
    """An OrderedDict, whose attributes (the versions of modules) are of no use here."""

    def __setstate__(self, state: Any) -> None:
        pass


def _state(pairs: Any = ()) -> _State:
    return _State(pickles.of_pairs(pairs))


def _size(sides: Any = ()) -> tuple[Any, ...]:
    if len(sides) > _MOST_AXES:
        raise InputError(f"a size has {len(sides)} axes")
    return tuple(sides)


def _names(found: _Found) -> pickles.Names:
    """What a file of tensors names, and what is called in its place."""

    def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
        if isinstance(storage, Inert):
            return storage
        return _Tensor(found, storage, offset, size, stride)

    def of_type(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
        if getattr(function, "stands_for", None) is not rebuild:
            return Inert("torch.Tensor")
        return rebuild(*arguments)

    names: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _state,
        "torch._utils._rebuild_tensor": rebuild,
        "torch._utils._rebuild_tensor_v2": rebuild,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
        "torch._tensor._rebuild_from_type_v2": of_type,
        "torch.Size": _size,
    }
    names.update({f"torch.{name}": _Kind(dtype) for name, dtype in _STORAGES.items()})
    return names


def _storage(pid: Any) -> _Storage | Inert:
    """What a pickle says of a storage outside of it."""
    if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module" and isinstance(pid[1], Inert):
        return pid[1]  # a class, with its source
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise pickles.RefusedError("it asks for something outside the file that is no storage")
    if isinstance(pid[1], Inert):  # of numbers of another kind
        return pid[1]
    kind = getattr(pid[1], "stands_for", None)
    if not isinstance(kind, _Kind) or not isinstance(pid[2], str):
        raise pickles.RefusedError("it asks for something outside the file that is no storage")
    if len(pid) > 5 and pid[5] is not None:
        raise InputError("its storages are views of others, as before PyTorch 0.4")
    if not isinstance(pid[4], int) or pid[4] < 0:
        raise InputError("a storage is of a negative size")
    return _Storage(pid[2], kind.dtype, pid[4])


def _read_zip(data: bytes, found: _Found) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name, info in members.items():
            if name.startswith("/") or ".." in name.split("/"):
                raise InputError(f"the archive has a member {name!r}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"its member {name!r} is compressed, which torch.save does not do")
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InputError(f"the archive has {len(roots)} data.pkl")
        (root,) = roots
        if f"{root}constants.pkl" in members:
            raise InputError("it is a TorchScript archive: a program, not weights alone")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise InputError("its numbers are big-endian")

        def read(name: str) -> bytes:
            # Members may lie over one another, and be more together than the file.
            found.budget.take(archive.getinfo(root + name).file_size, name)
            return archive.read(root + name)

        def storage(pid: Any) -> _Storage | Inert:
            told = _storage(pid)
            if isinstance(told, Inert):
                return told
            if told.key not in found.storages:
                found.storages[told.key] = _numbers(read(f"data/{told.key}"), told)
            if found.storages[told.key].dtype != told.dtype:
                raise InputError(f"the storage {told.key} is announced in two ways")
            return told

        file = io.BytesIO(read("data.pkl"))
        return pickles.resolved(pickles.load_next(file, _names(found), storage, inert=True))


def _read_legacy(data: bytes, found: _Found) -> Any:
    if data[:1] != b"\x80":
        raise InputError(f"it begins with {data[:16]!r}")
    file = io.BytesIO(data)
    if pickles.load_next(file) != MAGIC or pickles.load_next(file) != PROTOCOL:
        raise InputError("it does not begin as one")
    system = pickles.load_next(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("its numbers are big-endian")
    announced: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage | Inert:
        told = _storage(pid)
        if isinstance(told, Inert):  # of which we do not know how many bytes follow
            if pid[0] == "module":
                return told
            raise InputError(f"it holds numbers of a kind that is not known: {told.name}")
        if announced.setdefault(told.key, told) != told:
            raise InputError(f"the storage {told.key} is announced in two ways")
        return told

    content = pickles.load_next(file, _names(found), storage, inert=True)
    keys = pickles.load_next(file)
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not named or set(keys) != set(announced):
        raise InputError("the list of its storages is another's")
    for key in keys:
        told = announced[key]
        if (count := int.from_bytes(file.read(8), "little")) != told.length:
            raise InputError(f"the storage {key} has {count} numbers instead of {told.length}")
        found.storages[key] = _numbers(file.read(count * told.dtype.itemsize), told)
    return pickles.resolved(content)


def _numbers(raw: bytes, told: _Storage) -> np.ndarray:
    if len(raw) < told.length * told.dtype.itemsize:
        raise InputError(f"the storage {told.key} is cut off")
    return np.frombuffer(raw, told.dtype, told.length)
