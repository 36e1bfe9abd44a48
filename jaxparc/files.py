"""Files that are whole or not there: written under a temporary name, renamed, and sealed.

A sealed file is JSON with the SHA-256 of its own content, so that a reader notices a flipped digit.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

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
