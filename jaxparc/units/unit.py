"""A unit of work, which makes one file or folder.

The file or folder records the name of its unit. A unit is done if its file exists, is undamaged and
records the unit's name; it is then not made again. Anything else in its place is moved aside.
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

# Errors of the file system written to, which would make every other unit fail as well.
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One unit of work.

    Attributes:
        name: unique among the units of a run; recorded in the file that the unit makes.
        path: path of the file or folder that it makes.
        check: called with `path` and `name`; raises FileNotFoundError if the file is yet to be
            made, and DamagedFileError if it is damaged or belongs to another unit.
        make: makes the file. It is called with a function that it must call with the number of
            images as it processes them; it returns notes for the user, one line each, or None.
        lacks: missing prerequisite -> the command that provides it.
        after: name of the unit that must be done first; "" for none.
        group: units of one group belong to the same shard; by default each is its own group.
        prepare: reads what `make` will need, in another thread while an earlier unit is made. It
            must not raise: `make` meets the same error.
    """

    name: str
    path: Path
    check: Callable[[Path, str], Any]
    make: Callable[[Callable[[int], None]], Iterable[str] | None]
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    after: str = ""
    group: str = ""
    prepare: Callable[[], None] = lambda: None


class Made(NamedTuple):
    """The outcome of one unit.

    Attributes:
        name: name of the unit.
        seconds: time that it took.
        error: why it failed, in one line; None if it succeeded.
        traceback: traceback of the error; "" if it succeeded.
        notes: the notes that `Unit.make` returned.
    """

    name: str
    seconds: float
    error: str | None = None
    traceback: str = ""
    notes: tuple[str, ...] = ()


class FatalError(OperationError):
    """An error that would make every unit fail; the message names what cannot be written."""


def is_done(unit: Unit) -> bool:
    """Return whether a unit is done, moving aside any damaged or foreign file in its place."""
    try:
        unit.check(unit.path, unit.name)
    except FileNotFoundError:
        return False
    except files.DamagedFileError as error:
        aside = _unused(unit.path.with_name(f"{unit.path.name}.damaged"))
        unit.path.rename(aside)
        say(f"{error}; moved to {aside.name} and recreated")
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
        KeyboardInterrupt: the process was interrupted, even if a library raised another error.
    """
    started = time.monotonic()
    try:
        notes = tuple(unit.make(on_images) or ())
        unit.check(unit.path, unit.name)
    except Exception as error:  # no error may stop the other units
        if isinstance(error, OSError) and error.errno in FATAL:
            raise FatalError(
                f"cannot write {error.filename or unit.path}: {error.strerror}"
            ) from error
        if interrupts.came():
            raise KeyboardInterrupt from error
        text = printing.line(error)
        if not isinstance(error, InputError | OperationError):  # their messages need no type
            text = f"{type(error).__name__}: {text}"
        trace = "".join(traceback.format_exception(error))
        return Made(unit.name, time.monotonic() - started, text, trace)
    return Made(unit.name, time.monotonic() - started, notes=notes)


def read_result(path: Path, name: str) -> dict[str, Any]:
    """Read the sealed file of a unit.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedFileError: the file is damaged, or belongs to another unit.
    """
    content = files.read_sealed(path)
    if not isinstance(content, dict) or content.get("unit") != name:
        raise files.DamagedFileError(f"{path} does not belong to the unit {name!r}")
    return content


def write_result(path: Path, name: str, content: dict[str, Any]) -> None:
    """Write the sealed file of a unit, for `read_result`."""
    files.write_sealed(path, {"unit": name, **content})
