"""Files of `torch.save` (.pth, .pt, .th) as NumPy arrays: parsed without torch, never executed.

Both formats are read: a zip archive (since PyTorch 1.6), and a sequence of pickles followed by the
storages. TorchScript archives hold programs and are refused.
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
from jaxparc.weights import pickles
from jaxparc.weights.budget import Budget
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.stand_ins import Inert, Later, RefusedError

ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older format
_PROTOCOL = 1001  # the second one

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
    # Not of any network here, but a checkpoint may hold them beside one.
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "QInt8Storage": np.dtype("i1"),
    "QUInt8Storage": np.dtype("u1"),
    "QInt32Storage": np.dtype("<i4"),
    "UntypedStorage": np.dtype("u1"),
    "storage.UntypedStorage": np.dtype("u1"),
}


def read(path: str | Path) -> Any:
    """Read the saved object: containers, strings and numbers, with an array for each tensor.

    Args:
        path: of the file, which is read whole.

    Returns:
        Arrays keep their dtype (bfloat16 is that of ml_dtypes) and are read-only views of the
        file's content, so that a small file cannot fill the memory. Other objects, and tensors of
        dtypes that no network here has, are `stand_ins.Inert`.

    Raises:
        WeightsError: the file is not of torch.save, or truncated, or names functions that execute
            programs, or declares more memory than its size allows; the message names the file.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    storages = _Storages({}, Budget(len(data)))
    try:
        return _read_zip(data, storages) if data[:4] == ZIP else _read_legacy(data, storages)
    except RefusedError as error:
        raise WeightsError(f"{path} is refused, nothing in it was executed: {error}") from None
    except Exception as error:  # zipfile and NumPy raise a dozen kinds on broken bytes
        raise WeightsError(f"{path} is not a valid torch.save file: {error}") from error


def is_legacy(start: bytes) -> bool:
    """Return whether a file is of the older format, by its first 64 bytes."""
    try:
        return bool(pickles.load_next(io.BytesIO(start)) == _MAGIC)
    except ValueError:  # another pickle, or none
        return False


class _Storages(NamedTuple):
    """The storages that have been read, by key, and the memory that is left for others."""

    arrays: dict[str, np.ndarray]
    budget: Budget


class _StorageType:
    """A class of storages, which a pickle may name and not call."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def __call__(self, *_: Any) -> Any:
        raise RefusedError("it makes a storage of its own")


class _Storage(NamedTuple):
    """The declaration of a storage, on which one or more tensors lie."""

    key: str
    dtype: np.dtype
    length: int


_MAX_AXES = 32


class _Tensor(Later):
    """A view of a storage."""

    def __init__(
        self, storages: _Storages, storage: Any, offset: Any, size: Any, stride: Any
    ) -> None:
        if len(size) > _MAX_AXES or len(size) != len(stride):
            raise InputError(f"a tensor has {len(size)} axes and {len(stride)} strides")
        if not isinstance(storage, _Storage) or not all(
            isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)
        ):
            raise InputError("a tensor has no storage, or a negative size or stride")
        # `Later` lets no pickle change these after the checks.
        self._storages, self._storage = storages, storage
        self._offset, self._size, self._stride = offset, tuple(size), tuple(stride)

    def array(self) -> np.ndarray:
        numbers = self._storages.arrays[self._storage.key]
        elements = math.prod(self._size)
        last = sum((n - 1) * step for n, step in zip(self._size, self._stride, strict=True))
        outside = InputError(f"a tensor of shape {self._size} exceeds its storage")
        if elements and self._offset + last >= len(numbers):
            raise outside
        if elements > len(numbers):  # expanded: strides of 0
            try:
                self._storages.budget.take(elements * numbers.itemsize, "a tensor")
            except WeightsError as error:
                raise outside from error
        strides = [step * numbers.itemsize for step in self._stride]
        return np.lib.stride_tricks.as_strided(
            numbers[self._offset :], self._size, strides, writeable=False
        )


class _State(dict[Any, Any]):
    """An OrderedDict, whose attributes (versions of modules) are not needed."""

    def __setstate__(self, state: Any) -> None:
        pass


def _state(pairs: Any = ()) -> _State:
    return _State(pickles.of_pairs(pairs))


def _size(sides: Any = ()) -> tuple[Any, ...]:
    if len(sides) > _MAX_AXES:
        raise InputError(f"a size has {len(sides)} axes")
    return tuple(sides)


def _names(storages: _Storages) -> pickles.Names:
    """Return the names that a file of tensors uses -> what is called in their place."""

    def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
        if isinstance(storage, Inert):
            return storage
        return _Tensor(storages, storage, offset, size, stride)

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
    names.update({f"torch.{name}": _StorageType(dtype) for name, dtype in _STORAGES.items()})
    return names


def _storage(pid: Any) -> _Storage | Inert:
    """Return the storage that a persistent id of a pickle declares."""
    if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module" and isinstance(pid[1], Inert):
        return pid[1]  # a class with its source code
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise RefusedError("it asks for an object outside the file that is not a storage")
    if isinstance(pid[1], Inert):  # of a dtype that no network here has
        return pid[1]
    kind = getattr(pid[1], "stands_for", None)
    if not isinstance(kind, _StorageType) or not isinstance(pid[2], str):
        raise RefusedError("it asks for an object outside the file that is not a storage")
    if len(pid) > 5 and pid[5] is not None:
        raise InputError("its storages are views of other storages, as before PyTorch 0.4")
    if not isinstance(pid[4], int) or pid[4] < 0:
        raise InputError("a storage has a negative size")
    return _Storage(pid[2], kind.dtype, pid[4])


def _read_zip(data: bytes, storages: _Storages) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name, info in members.items():
            if name.startswith("/") or ".." in name.split("/"):
                raise InputError(f"the archive has a member {name!r}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"member {name!r} is compressed, which torch.save does not do")
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InputError(f"the archive has {len(roots)} members data.pkl; expected one")
        (root,) = roots
        if f"{root}constants.pkl" in members:
            raise InputError("it is a TorchScript archive, which holds a program")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise InputError("its numbers are big-endian; expected little-endian")

        def read(name: str) -> bytes:
            # Members may overlap, and be larger in total than the file.
            storages.budget.take(archive.getinfo(root + name).file_size, name)
            return archive.read(root + name)

        def storage(pid: Any) -> _Storage | Inert:
            declared = _storage(pid)
            if isinstance(declared, Inert):
                return declared
            key = declared.key
            if key not in storages.arrays:
                storages.arrays[key] = _numbers(read(f"data/{key}"), declared)
            if storages.arrays[key].dtype != declared.dtype:
                raise InputError(f"storage {key} is declared twice, with different dtypes")
            return declared

        file = io.BytesIO(read("data.pkl"))
        return pickles.resolved(pickles.load_next(file, _names(storages), storage, inert=True))


def _read_legacy(data: bytes, storages: _Storages) -> Any:
    if data[:1] != b"\x80":
        raise InputError(f"it begins with {data[:16]!r}")
    file = io.BytesIO(data)
    if pickles.load_next(file) != _MAGIC or pickles.load_next(file) != _PROTOCOL:
        raise InputError("it does not begin with torch.save's magic number and protocol")
    system = pickles.load_next(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("its numbers are big-endian; expected little-endian")
    declarations: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage | Inert:
        declared = _storage(pid)
        if isinstance(declared, Inert):
            if pid[0] == "module":
                return declared
            # Its size in bytes is unknown, and so is where the next storage begins.
            raise InputError(f"it holds a storage of an unknown dtype: {declared.name}")
        if declarations.setdefault(declared.key, declared) != declared:
            raise InputError(f"storage {declared.key} is declared twice, differently")
        return declared

    content = pickles.load_next(file, _names(storages), storage, inert=True)
    keys = pickles.load_next(file)
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not named or set(keys) != set(declarations):
        raise InputError("its list of storages is not that of its tensors")
    for key in keys:
        declared = declarations[key]
        if (count := int.from_bytes(file.read(8), "little")) != declared.length:
            raise InputError(f"storage {key} has {count} numbers; expected {declared.length}")
        storages.arrays[key] = _numbers(file.read(count * declared.dtype.itemsize), declared)
    return pickles.resolved(content)


def _numbers(raw: bytes, declared: _Storage) -> np.ndarray:
    if len(raw) < declared.length * declared.dtype.itemsize:
        raise InputError(f"storage {declared.key} is truncated")
    return np.frombuffer(raw, declared.dtype, declared.length)
