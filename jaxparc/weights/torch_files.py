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

from jaxparc import pickles
from jaxparc.weights import WeightsError

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
}


def read(path: str | Path) -> Any:
    """What was saved: containers, strings and numbers, with a NumPy array for each tensor.

    Args:
        path: of the file. It is read whole.

    Returns:
        Arrays have their own dtype (bfloat16 that of ml_dtypes) and are read-only views of what was
        read, so that a small file cannot fill the memory.

    Raises:
        WeightsError: it is no such file, or is cut off, or asks for more than tensors; the message
            names the file, and what it asks for. Nothing of it was run.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        return _read_zip(data) if data[:4] == ZIP else _read_legacy(data)
    except pickles.RefusedError as error:
        raise WeightsError(f"{path} is refused, and nothing of it was run: {error}") from None
    except Exception as error:  # zipfile and NumPy raise a dozen kinds on broken bytes
        raise WeightsError(f"{path} is no whole file of torch.save: {error}") from error


Storages = dict[str, np.ndarray]


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


class _Tensor(pickles.Later):
    """A view of a storage."""

    def __init__(self, found: Storages, storage: Any, offset: Any, size: Any, stride: Any) -> None:
        if not isinstance(storage, _Storage) or not all(
            isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)
        ):
            raise ValueError("a tensor is of no storage, or of a negative size")
        # `Later` lets no pickle change these after they were looked at.
        self._found, self._storage = found, storage
        self._offset, self._size, self._stride = offset, tuple(size), tuple(stride)

    def array(self) -> np.ndarray:
        numbers = self._found[self._storage.key]
        elements = math.prod(self._size)
        last = sum((n - 1) * step for n, step in zip(self._size, self._stride, strict=True))
        # As many elements as the storage has at most: otherwise a small file could fill memory.
        if elements > len(numbers) or (elements and self._offset + last >= len(numbers)):
            raise ValueError(f"a tensor of {self._size} does not lie in its storage")
        strides = [step * numbers.itemsize for step in self._stride]
        return np.lib.stride_tricks.as_strided(
            numbers[self._offset :], self._size, strides, writeable=False
        )


class _State(dict[Any, Any]):
    """An OrderedDict, whose attributes (the versions of modules) are of no use here."""

    def __setstate__(self, state: Any) -> None:
        pass


def _names(found: Storages) -> pickles.Names:
    """What a file of tensors names, and what is called in its place."""

    def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
        return _Tensor(found, storage, offset, size, stride)

    names: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _State,
        "torch._utils._rebuild_tensor": rebuild,
        "torch._utils._rebuild_tensor_v2": rebuild,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch.Size": tuple,
    }
    names.update({f"torch.{name}": _Kind(dtype) for name, dtype in _STORAGES.items()})
    return names


def _storage(pid: Any) -> _Storage:
    """What a pickle says of a storage outside of it."""
    kind = getattr(pid[1], "stands_for", None)
    if pid[0] != "storage" or not isinstance(kind, _Kind) or not isinstance(pid[2], str):
        raise pickles.RefusedError("it asks for something outside the file that is no storage")
    if len(pid) > 5 and pid[5] is not None:
        raise ValueError("its storages are views of others, as before PyTorch 0.4")
    return _Storage(pid[2], kind.dtype, int(pid[4]))


def _read_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name, info in members.items():
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"the archive has a member {name!r}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its member {name!r} is compressed, which torch.save does not do")
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"the archive has {len(roots)} data.pkl")
        (root,) = roots
        if f"{root}constants.pkl" in members:
            raise ValueError("it is a TorchScript archive: a program, not weights alone")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        found: Storages = {}

        def storage(pid: Any) -> _Storage:
            told = _storage(pid)
            if told.key not in found:
                raw = archive.read(f"{root}data/{told.key}")
                found[told.key] = _numbers(raw, told)
            if found[told.key].dtype != told.dtype:
                raise ValueError(f"the storage {told.key} is announced in two ways")
            return told

        file = io.BytesIO(archive.read(f"{root}data.pkl"))
        return pickles.resolved(pickles.load_next(file, _names(found), storage))


def _read_legacy(data: bytes) -> Any:
    if data[:1] != b"\x80":
        raise ValueError(f"it begins with {data[:16]!r}")
    file = io.BytesIO(data)
    if pickles.load_next(file) != MAGIC or pickles.load_next(file) != PROTOCOL:
        raise ValueError("it does not begin as one")
    system = pickles.load_next(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    announced: dict[str, _Storage] = {}
    found: Storages = {}

    def storage(pid: Any) -> _Storage:
        told = _storage(pid)
        if announced.setdefault(told.key, told) != told:
            raise ValueError(f"the storage {told.key} is announced in two ways")
        return told

    content = pickles.load_next(file, _names(found), storage)
    keys = pickles.load_next(file)
    if not isinstance(keys, list) or set(keys) != set(announced):
        raise ValueError("the list of its storages is another's")
    for key in keys:
        told = announced[key]
        if (count := int.from_bytes(file.read(8), "little")) != told.length:
            raise ValueError(f"the storage {key} has {count} numbers instead of {told.length}")
        found[key] = _numbers(file.read(count * told.dtype.itemsize), told)
    return pickles.resolved(content)


def _numbers(raw: bytes, told: _Storage) -> np.ndarray:
    if len(raw) < told.length * told.dtype.itemsize:
        raise ValueError(f"the storage {told.key} is cut off")
    return np.frombuffer(raw, told.dtype, told.length)
