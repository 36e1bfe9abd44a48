"""Files that are whole or not there: written under a temporary name, renamed, and sealed.

A sealed file is JSON with the SHA-256 of its own content, so that a reader notices a flipped digit.
"""

import codecs
import csv
import fcntl
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np


class DamagedFileError(RuntimeError):
    """A file that is not what was written; the message names its path."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which takes the place of `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, *, wait: bool, shared: bool = False) -> Iterator[None]:
    """Hold a folder's lock, which the system lets go when the process dies.

    Args:
        folder: made if it is not there; the lock is the file `.lock` in it.
        wait: until another process lets go; otherwise that is a BlockingIOError.
        shared: with others that share it, and against those that do not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(
            file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        )
        yield


def load_arrays(file: BinaryIO) -> Any:
    """What `np.load` gives of a .npy or .npz file; of any other file it speaks of pickles.

    Raises:
        ValueError: it is neither, and others, of a dozen kinds, if it is broken.
    """
    start = file.read(6)
    file.seek(0)
    if not start.startswith((b"PK", b"\x93NUMPY")):
        raise ValueError(f"it begins with {start!r}, as no .npy or .npz file does")
    return np.load(file)


def require_regular(path: Path) -> os.stat_result:
    """The status of a regular file; a pipe or a device would be read for ever.

    Raises:
        ValueError: it is something else; the message names it.
        OSError: it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kinds = {
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        kind = kinds.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise ValueError(f"{path} is {kind}; expected a file")
    return status


_FOREIGN = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark, its lines ended by line feeds.

    Raises:
        ValueError: it is no regular file or not UTF-8; the message names it.
        OSError: it cannot be read.
    """
    require_regular(path)
    data = path.read_bytes()
    if data.startswith(_FOREIGN):
        raise ValueError(f"{path} is UTF-16; expected UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} line {line} is not UTF-8: {error.reason}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: on which it starts, as an editor counts.
        cells: column -> text.
    """

    line: int
    cells: dict[str, str]


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """The columns and the rows of a CSV file. Blank lines, and columns that are empty throughout
    and have no name, as spreadsheets add them, are passed over.

    Raises:
        ValueError: it is not UTF-8, two columns have one name, a quote is not closed, or a row has
            more or fewer cells than the first; the message names the file and the line.
        OSError: it cannot be read.
    """
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    head: list[str] = []
    rows: list[Row] = []
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not any(cells) and len(cells) < 2:
                continue
            if not head:
                head = _trimmed(cells, 0)
                if twice := sorted({name for name in head if head.count(name) > 1}):
                    raise ValueError(f"{path} has two columns {twice[0]!r}")
                continue
            cells = _trimmed(cells, len(head))
            if len(cells) != len(head):
                raise ValueError(
                    f"{path} line {start} has {len(cells)} cells; expected {len(head)}: "
                    f"{', '.join(head)}"
                )
            rows.append(Row(start, dict(zip(head, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path} line {line}: {error}") from None
    return head, rows


def _trimmed(cells: list[str], least: int) -> list[str]:
    """Cells without empty ones at the end, as many as `least` kept."""
    while len(cells) > least and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_sealed(path: Path, content: Any) -> None:
    """Write anything that JSON can hold, with its hash."""
    content = json.loads(json.dumps(content))  # as it will be read: tuples as lists, keys as text
    sealed = {"content": content, "sha256": _hash(content)}
    write_text(path, json.dumps(sealed, indent=1) + "\n")


def read_sealed(path: Path) -> Any:
    """Read what `write_sealed` wrote.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFileError: it is not what was written.
    """
    try:
        sealed = json.loads(path.read_bytes())
        content, seal = sealed["content"], sealed["sha256"]
    except (ValueError, KeyError, TypeError, IsADirectoryError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    if seal != _hash(content):
        raise DamagedFileError(f"{path} is damaged: its content does not match its SHA-256")
    return content


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
