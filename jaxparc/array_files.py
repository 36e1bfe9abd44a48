"""Arrays in .npy and .npz files, with checksums verified, which NumPy's reader does not.

Nothing is unpickled, and no more memory is allocated than the file can fill.
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

ONLY = ""  # the name given to the array of a .npy file
_EXPANSION = 1032  # the greatest ratio of deflate
_BLOCK = 1 << 20
_TAIL = 22 + 0xFFFF  # bytes of the end record of a zip file, at most
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    """The header of an array.

    Attributes:
        shape: of the array.
        dtype: of the array.
        columns: whether it is stored in column-major (Fortran) order.
        start: offset of its first element, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    columns: bool
    start: int


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an .npz file, or the one of an .npy file, each read on access.

    A member of an .npz is verified by its CRC; an .npy has none, so only its size is checked.

    Attributes:
        path: of the file.
        headers: name -> header of the array.

    Raises:
        InputError: it is not such a file, or damaged; likewise when an array is read. The message
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
                raise InputError(f"{name or 'it'} contains Python objects, which are not unpickled")
            file.read(header.start)
            array = np.empty(math.prod(header.shape), header.dtype)
            octets: Any = array.view(np.uint8)  # some dtypes, such as dates, have no buffer
            left = memoryview(octets)
            while len(left):
                count = file.readinto(left[:_BLOCK])
                if not count:
                    raise InputError("it is truncated")
                left = left[count:]
            file.read(1)  # reaching the end compares the CRC
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
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        start = self._file.read(6)
        if start == b"\x93NUMPY":
            self.headers[ONLY] = self._header(ONLY, size)
            return
        if not start.startswith(b"PK"):
            raise InputError(f"it starts with {start!r}; expected a .npy or .npz file")
        self._zip = zipfile.ZipFile(self._file)
        members = self._zip.infolist()
        # A directory entry whose length is corrupted hides those after it.
        self._file.seek(max(0, size - _TAIL))
        tail = self._file.read(_TAIL)
        end = tail.rfind(b"PK\5\6")
        listed = int.from_bytes(tail[end + 10 : end + 12], "little")
        if listed not in (len(members), 0xFFFF):
            raise InputError(f"its directory lists {len(members)} members; expected {listed}")
        packed = 0
        for info in members:
            packed += info.compress_size
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(
                    f"{info.filename} has an unsupported compression; expected deflate"
                )
            if packed > size or info.file_size > _EXPANSION * info.compress_size:
                raise InputError(f"{info.filename} declares a larger size than the file can hold")
            with self._zip.open(info):
                pass  # compares the names in the directory and at the member
            name = info.filename.removesuffix(".npy")
            if name == info.filename:
                continue
            if name in self.headers:
                raise InputError(f"duplicate member {name}")
            self.headers[name] = self._header(name, info.file_size)

    def _header(self, name: str, size: int) -> Header:
        """Read the header of a member, which must account for its `size` in bytes."""
        with self._member(name) as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise InputError(f"unknown version {version} of the .npy format")
            shape, columns, dtype = _HEADERS[version](file)
            start = file.tell()
        if not dtype.hasobject:
            needed = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or needed != size - start or not dtype.itemsize:
                raise InputError(
                    f"{name or 'it'} has {size - start} bytes; {dtype} {shape} takes {needed}"
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
        """Turn whatever is raised into an error that names the file."""
        try:
            yield
        except Exception as error:  # zipfile and NumPy raise a dozen types on damaged files
            raise InputError(f"{self.path} cannot be read: {error}") from error


def read(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file, with their checksums verified.

    Raises:
        InputError: it is not such a file, or damaged; the message names it.
        OSError: it cannot be opened.
    """
    with Archive(path) as archive:
        return dict(archive)
