"""Arrays in .npy and .npz files, read to the last byte: NumPy stops before a member's checksum.

Nothing is unpickled, and nothing is allocated that the file cannot hold.
"""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import files
from jaxparc.errors import InputError

ONLY = ""  # the name of the array of a .npy file
_EXPANSION = 1032  # bytes that deflate makes of one, at most
_BLOCK = 1 << 20
_TAIL = 22 + 0xFFFF  # of a zip file's end, at most
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    """What an array is.

    Attributes:
        shape: of the array.
        dtype: likewise.
        columns: whether it is stored column by column.
        start: bytes before its first number.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    columns: bool
    start: int


class Archive(Mapping[str, np.ndarray]):
    """The arrays of a .npz file, or the one of a .npy, each read when it is asked for.

    A member of a .npz is checked by its CRC; a .npy has none, and its size alone can be checked.

    Attributes:
        path: of the file.
        headers: name -> what the array is.

    Raises:
        ValueError: it is no such file, or a broken one; likewise when an array is read. The message
            names the file.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers: dict[str, Header] = {}
        self._zip: zipfile.ZipFile | None = None
        files.require_regular(path)
        self._file = path.open("rb")
        try:
            with self._reading():
                self._open()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> np.ndarray:
        header = self.headers[name]
        with self._reading(), self._member(name) as file:
            if header.dtype.hasobject:
                raise InputError(f"{name or 'it'} holds Python objects, which are not unpickled")
            file.read(header.start)
            array = np.empty(math.prod(header.shape), header.dtype)
            octets: Any = array.view(np.uint8)  # dates, for one, have no buffer
            left = memoryview(octets)
            while len(left):
                count = file.readinto(left[:_BLOCK])
                if not count:
                    raise InputError("it ends too early")
                left = left[count:]
            file.read(1)  # the end, where the CRC is compared
            shape = header.shape
            return array.reshape(shape[::-1]).T if header.columns else array.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _open(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        start = self._file.read(6)
        if start == b"\x93NUMPY":
            self.headers[ONLY] = self._header(ONLY, size)
            return
        if not start.startswith(b"PK"):
            raise InputError(f"it begins with {start!r}, as no .npy or .npz file does")
        self._zip = zipfile.ZipFile(self._file)
        members = self._zip.infolist()
        # An entry of the directory that is longer than it was swallows those behind it.
        self._file.seek(max(0, size - _TAIL))
        tail = self._file.read(_TAIL)
        end = tail.rfind(b"PK\5\6")
        listed = int.from_bytes(tail[end + 10 : end + 12], "little")
        if listed not in (len(members), 0xFFFF):
            raise InputError(f"its directory lists {len(members)} members of {listed}")
        packed = 0
        for info in members:
            packed += info.compress_size
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{info.filename} is compressed by another method than deflate")
            if packed > size or info.file_size > _EXPANSION * info.compress_size:
                raise InputError(f"{info.filename} declares more than the file can hold")
            with self._zip.open(info):
                pass  # compares its two names
            name = info.filename.removesuffix(".npy")
            if name == info.filename:
                continue
            if name in self.headers:
                raise InputError(f"it holds {name} twice")
            self.headers[name] = self._header(name, info.file_size)

    def _header(self, name: str, size: int) -> Header:
        """The header of a member of `size` bytes, which it must account for."""
        with self._member(name) as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise InputError(f"format {version} of .npy files is not known")
            shape, columns, dtype = _HEADERS[version](file)
            start = file.tell()
        if not dtype.hasobject:
            needed = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or needed != size - start or not dtype.itemsize:
                raise InputError(
                    f"{name or 'it'} holds {size - start} bytes; {dtype} {shape} takes {needed}"
                )
        return Header(shape, dtype, columns, start)

    @contextlib.contextmanager
    def _member(self, name: str) -> Iterator[Any]:
        if self._zip is None:
            self._file.seek(0)
            yield self._file
        else:
            with self._zip.open(f"{name}.npy") as file:
                yield file

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Says what is wrong with the file, in one kind of error."""
        try:
            yield
        except Exception as error:  # zipfile and NumPy raise a dozen kinds on broken bytes
            raise InputError(f"{self.path} cannot be read: {error}") from error


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, every byte of them checked.

    Raises:
        ValueError: it is no such file, or a broken one; the message names it.
        OSError: it cannot be opened.
    """
    with Archive(path) as archive:
        return dict(archive)
