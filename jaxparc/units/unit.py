"""A unit of work: what it makes, whether that is done, and making it.

A unit makes one file or folder that says in itself which unit it is of. It is done when that is
there, undamaged, and of this unit; it is then not made again. Anything else found in its place is
moved aside.
"""

import dataclasses
import errno
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import files, interrupts, printing
from jaxparc.errors import InputError, OperationError
from jaxparc.units.progress import say

# Errors of the file system that is written to, which would fail every other unit as well.
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One thing to make.

    Attributes:
        name: unique among the units of a run; recorded in what the unit makes.
        path: of the file or folder that it makes.
        check: reads what is at `path`, given `path` and `name`; raises FileNotFoundError if it is
            still to be made, and DamagedFileError if it is damaged or of another unit.
        make: makes it. Calls its argument with numbers of images as it processes them; returns
            notes for the user, one line each, or None.
        lacks: prerequisite that is missing -> the command that provides it.
        after: name of the unit that must be done first, if there is one.
        group: units of one group go to the same shard; by default each is a group of its own.
    """

    name: str
    path: Path
    check: Callable[[Path, str], Any]
    make: Callable[[Callable[[int], None]], Iterable[str] | None]
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    after: str = ""
    group: str = ""


class Made(NamedTuple):
    """The outcome of one unit.

    Attributes:
        name: of the unit.
        seconds: that it took.
        error: why it failed, in one line; None if it succeeded.
        traceback: of the error.
        notes: what `Unit.make` returned.
    """

    name: str
    seconds: float
    error: str | None = None
    traceback: str = ""
    notes: tuple[str, ...] = ()


class FatalError(OperationError):
    """An error that would fail every unit; the message says what cannot be written."""


def is_done(unit: Unit) -> bool:
    """Return whether a unit is done; move a damaged or foreign file in its place aside."""
    try:
        unit.check(unit.path, unit.name)
    except FileNotFoundError:
        return False
    except files.DamagedFileError as error:
        aside = _unused(unit.path.with_name(f"{unit.path.name}.damaged"))
        unit.path.rename(aside)
        say(f"{error}; moved to {aside.name}, made again")
        return False
    return True


def _unused(path: Path) -> Path:
    """Return the path, with a number appended if it exists."""
    number, unused = 1, path
    while unused.exists():
        number, unused = number + 1, path.with_name(f"{path.name}.{number}")
    return unused


def make(unit: Unit, on_images: Callable[[int], None]) -> Made:
    """Make a unit and check the result.

    Raises:
        FatalError: nothing can be written.
        KeyboardInterrupt: the process was interrupted, whatever a library made of that.
    """
    started = time.monotonic()
    try:
        notes = tuple(unit.make(on_images) or ())
        unit.check(unit.path, unit.name)
    except Exception as error:  # whatever it is, the other units go on
        if isinstance(error, OSError) and error.errno in FATAL:
            raise FatalError(
                f"cannot write {error.filename or unit.path}: {error.strerror}"
            ) from error
        if interrupts.came():
            raise KeyboardInterrupt from error
        text = printing.line(error)
        if not isinstance(error, InputError | OperationError):  # whose message says it all
            text = f"{type(error).__name__}: {text}"
        trace = "".join(traceback.format_exception(error))
        return Made(unit.name, time.monotonic() - started, text, trace)
    return Made(unit.name, time.monotonic() - started, notes=notes)


def read_result(path: Path, name: str) -> dict[str, Any]:
    """Read the sealed file of a unit.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is damaged, or of another unit.
    """
    content = files.read_sealed(path)
    if not isinstance(content, dict) or content.get("unit") != name:
        raise files.DamagedFileError(f"{path} is not of the unit {name!r}")
    return content


def write_result(path: Path, name: str, content: dict[str, Any]) -> None:
    """Write the sealed file of a unit, for `read_result`."""
    files.write_sealed(path, {"unit": name, **content})
