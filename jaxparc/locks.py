"""Locks between processes: files that the operating system unlocks when their holder dies.

All are exclusive, as Windows has no other kind without further packages.
"""

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxparc.errors import OperationError


@contextmanager
def exclusive(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock on a file, which is created and stays.

    Args:
        path: of the lock file; nothing else may be written to it.
        wait: whether to wait for the process that holds it.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        OSError: the file cannot be created, or its file system has no locks.
    """
    import portalocker  # scoring arrays, which imports this module, works without it

    flags = portalocker.LockFlags.EXCLUSIVE
    with path.open("a") as file:
        try:
            portalocker.lock(file, flags if wait else flags | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.AlreadyLocked as error:
            raise BlockingIOError(
                errno.EWOULDBLOCK, "locked by another process", str(path)
            ) from error
        except portalocker.LockException as error:
            raise OSError(errno.ENOLCK, f"cannot be locked: {error}", str(path)) from error
        yield


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock on a file."""
    try:
        with exclusive(path, wait=False):
            return False
    except BlockingIOError:
        return True


@contextmanager
def folder(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a folder, which is created if necessary.

    Args:
        path: of the folder; the lock is the file `.lock` in it.
        wait: whether to wait for the process that holds it.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        OSError: the folder cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    with exclusive(path / ".lock", wait=wait):
        yield


@contextmanager
def alone(path: Path, busy: str, *, shard: tuple[int, int] = (1, 1)) -> Iterator[None]:
    """Hold a folder for one command, without waiting for another one.

    Commands with different shards of the same work hold it together; a command without a shard
    holds it alone.

    Args:
        path: of the folder, created if necessary.
        busy: what another process does, for the message.
        shard: (i, n) for the i-th of n shards; (1, 1) for all of the work.

    Raises:
        OperationError: another process holds it, or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            # Taking one lock and checking others is one step, for one process at a time.
            path.mkdir(parents=True, exist_ok=True)
            with exclusive(path / ".gate", wait=True):
                if shard == (1, 1):
                    held.enter_context(folder(path, wait=False))
                    taken = any(map(is_held, (path / "shards").glob("*/.lock")))
                else:
                    name = "{}of{}".format(*shard)
                    held.enter_context(folder(path / "shards" / name, wait=False))
                    taken = is_held(path / ".lock")
                if taken:
                    raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process", str(path))
        except BlockingIOError:
            raise OperationError(busy) from None
        except OSError as error:
            raise OperationError(f"cannot write {path}: {error.strerror}") from error
        yield
