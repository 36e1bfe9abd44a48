"""Files that are whole or not there: written under a temporary name, renamed, and sealed.

A sealed file is JSON with the SHA-256 of its own content, so that a reader notices a flipped digit.
"""

import codecs
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import locks
from jaxparc.errors import InputError, OperationError


class DamagedFileError(OperationError):
    """A file is not what was written to it; the message names its path."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block succeeds.

    The file gets the permissions that the umask leaves, whatever the block's writer gives it.
    What a killed process left of the same file is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_INCOMPLETE}")
    # The lock tells others that this process is alive, on any machine and whoever gets its number.
    # It is a file of its own, as Windows lets nobody write or rename a locked one.
    lock = temporary.with_name(f"{temporary.name}{_LOCK}")
    try:
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # a file system without locks
                held.enter_context(locks.exclusive(lock, wait=False))
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            if stat.S_IMODE(temporary.stat().st_mode) != mode:
                temporary.chmod(mode)
            temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


_INCOMPLETE, _LOCK = ".incomplete", ".lock"


def clear(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written in a folder, of one file or of all.

    What a living process is writing stays, and so does what cannot be removed.
    """
    pattern = re.compile(
        rf"\.{'.+' if name == '*' else re.escape(name)}\.\d+{re.escape(_INCOMPLETE)}"
    )
    with contextlib.suppress(OSError):
        names = {name.removesuffix(_LOCK) for name in os.listdir(folder)}
        for half in (folder / name for name in names if pattern.fullmatch(name)):
            lock = half.with_name(f"{half.name}{_LOCK}")
            if half.is_symlink() or half.is_dir():
                continue
            with contextlib.suppress(OSError), locks.exclusive(lock, wait=False):
                half.unlink(missing_ok=True)
                lock.unlink()


LONGEST = 200  # bytes of a name: the file system takes 255, endings and temporary names included
# Marks of direction, alone of the characters that format: those that join emoji may be in names.
_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def check_name(name: str) -> None:
    """Refuse what cannot name a file in a folder, its ending apart.

    Raises:
        ValueError: it is empty, a path, hidden, too long, or holds control characters; the message
            shows it.
    """
    shown = repr(name if len(name) <= 60 else f"{name[:50]}...")
    size = len(name.encode(errors="replace"))
    if not name:
        flaw = "is empty"
    elif "/" in name:
        flaw = "holds '/'"
    elif name[0] == ".":
        flaw = "begins with a full stop"
    elif size > LONGEST:
        flaw = f"is {size} bytes long; at most {LONGEST} fit"
    elif any(
        unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in _BIDI
        for c in name
    ):
        flaw = "holds a control character"
    else:
        return
    raise InputError(f"the name {shown} {flaw}; a name is also that of a file")


def path_of(folder: Path, name: str) -> Path:
    """The file of a name in a folder: UTF-8 on disk, whatever the locale says."""
    return folder / os.fsdecode(name.encode(errors="surrogateescape"))


def stem_of(path: Path) -> str:
    """The name of a file without its ending, in any locale; bytes that are not UTF-8 as escapes."""
    return os.fsencode(path.stem).decode(errors="backslashreplace")


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
        raise InputError(f"{path} is {kind}; expected a file")
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
        raise InputError(f"{path} is UTF-16; expected UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} line {line} is not UTF-8: {error.reason}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


# Text that stands for a value that is not there, as pandas reads it.
MISSING = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null"),
    )
)


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: on which it starts, as an editor counts.
        cells: column -> text.
    """

    line: int
    cells: dict[str, str]


def read_table(path: Path, *, ours: bool = False) -> tuple[list[str], list[Row]]:
    """The columns and the rows of a CSV file. Blank lines, and columns that are empty throughout
    and have no name, as spreadsheets add them, are passed over.

    Args:
        path: of the file.
        ours: `table_text` may have written it: the apostrophe that it puts before formulas goes.

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
            if ours:
                cells = [cell[1:] if _QUOTED.match(cell) else cell for cell in cells]
            if not head:
                head = _trimmed(cells, 0)
                if twice := sorted({name for name in head if head.count(name) > 1}):
                    raise InputError(f"{path} has two columns {twice[0]!r}")
                continue
            cells = _trimmed(cells, len(head))
            if len(cells) != len(head):
                raise InputError(
                    f"{path} line {start} has {len(cells)} cells; expected {len(head)}: "
                    f"{', '.join(head)}"
                )
            rows.append(Row(start, dict(zip(head, cells, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path} line {line}: {error}") from None
    return head, rows


# What a spreadsheet computes, or takes for the command of another program; any number of
# apostrophes before it, so that one more can be told from the cell's own.
_ACTS = r"(?:\s*[=+\-@＝＋－＠]|[\t\r\n])"  # noqa: RUF001
_FORMULA = re.compile(f"'*{_ACTS}")
_QUOTED = re.compile(f"'+{_ACTS}")
_N = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)"
_NUMBER = re.compile(_N, re.ASCII | re.IGNORECASE)
# as our tables have them: "-5.4 ± 0.1", "-3 to 7 ≈", "-5.42 [-5.4]"
_NUMBERS = re.compile(rf"{_N}(?: (?:±|to) {_N})?(?: ≈)?(?: \[{_N}\])?", re.ASCII | re.IGNORECASE)


def table_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, with an apostrophe before what a spreadsheet would compute.

    `read_table` takes it off again. Numbers stay what they are.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(_inert, row) for row in rows)
    return text.getvalue()


def _inert(value: object) -> str:
    cell = str(value)
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBERS.fullmatch(cell) else cell


def number(cell: str) -> float:
    """The number in a cell of a table: ASCII digits, where `float` takes 1_0 for 10.

    Raises:
        ValueError: it is none.
    """
    if not _NUMBER.fullmatch(cell.strip()):
        raise InputError(f"{cell!r} is no number")
    return float(cell)


def _trimmed(cells: list[str], least: int) -> list[str]:
    """Cells without empty ones at the end, as many as `least` kept."""
    while len(cells) > least and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8; lone surrogates become their escapes."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode(errors="backslashreplace"))


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
