"""Files that are complete or absent: written under a temporary name, then renamed; and tables.

A sealed file is JSON with the SHA-256 of its content, so that a reader detects any damage.
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


LONGEST = 200  # bytes of a name; file systems allow 255, with suffixes and temporary names
# Of the formatting characters only bidirectional ones are refused: joiners occur in emoji.
_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def check_name(name: str) -> None:
    """Check that a name can be that of a file in a folder, without its suffix.

    Raises:
        InputError: it is empty, a path, hidden, too long, or contains control characters.
    """
    shown = repr(name if len(name) <= 60 else f"{name[:50]}...")
    size = len(name.encode(errors="replace"))
    if not name:
        flaw = "is empty"
    elif "/" in name:
        flaw = "contains '/'"
    elif name[0] == ".":
        flaw = "starts with a full stop"
    elif size > LONGEST:
        flaw = f"is {size} bytes long; expected at most {LONGEST}"
    elif any(
        unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in _BIDI
        for c in name
    ):
        flaw = "contains a control character"
    else:
        return
    raise InputError(f"the name {shown} {flaw}; expected a name that a file can have")


def path_of(folder: Path, name: str) -> Path:
    """Return the path of a named file in a folder; the name is UTF-8 on disk in any locale."""
    return folder / os.fsdecode(name.encode(errors="surrogateescape"))


def stem_of(path: Path) -> str:
    """Return the name of a file without its suffix; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path.stem).decode(errors="backslashreplace")


def require_regular(path: Path) -> os.stat_result:
    """Return the status of a regular file; reading a pipe or a device might never end.

    Raises:
        InputError: it is not a regular file.
        OSError: it does not exist.
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
        kind = kinds.get(stat.S_IFMT(status.st_mode), "not a regular file")
        raise InputError(f"{path} is {kind}; expected a file")
    return status


_FOREIGN = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Read a UTF-8 file, without its byte order mark, with line feeds as line ends.

    Raises:
        InputError: it is not a regular file, or not UTF-8.
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


# What pandas reads as a missing value.
MISSING = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null"),
    )
)


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: where it starts, as an editor counts.
        cells: column name -> text.
    """

    line: int
    cells: dict[str, str]


def read_table(path: Path, *, ours: bool = False) -> tuple[list[str], list[Row]]:
    """Read a CSV file, without blank lines and without the empty columns that spreadsheets append.

    Args:
        path: of the file.
        ours: whether `table_text` may have written it; its apostrophes before formulas are removed.

    Returns:
        The column names and the rows.

    Raises:
        InputError: it is not UTF-8, has duplicate columns or an unclosed quote, or a row has more
            or fewer cells than the header; the message names the file and the line.
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
                    raise InputError(f"{path} has a duplicate column {twice[0]!r}")
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


# What a spreadsheet would evaluate, after any number of apostrophes, so that the one added can be
# told from those of the cell.
_ACTS = r"(?:\s*[=+\-@＝＋－＠]|[\t\r\n])"  # noqa: RUF001
_FORMULA = re.compile(f"'*{_ACTS}")
_QUOTED = re.compile(f"'+{_ACTS}")
_N = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)"
_NUMBER = re.compile(_N, re.ASCII | re.IGNORECASE)
# as in our tables: "-5.4 ± 0.1", "-3 to 7 ≈", "-5.42 [-5.4]"
_NUMBERS = re.compile(rf"{_N}(?: (?:±|to) {_N})?(?: ≈)?(?: \[{_N}\])?", re.ASCII | re.IGNORECASE)


def table_text(rows: Iterable[Iterable[object]]) -> str:
    """Format rows as CSV, with an apostrophe before what a spreadsheet would evaluate.

    `read_table` removes it again. Numbers are unchanged.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(_inert, row) for row in rows)
    return text.getvalue()


def _inert(value: object) -> str:
    cell = str(value)
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBERS.fullmatch(cell) else cell


def number(cell: str) -> float:
    """Parse a cell of a table; only ASCII digits, where `float` would read 1_0 as 10.

    Raises:
        InputError: it is not a number.
    """
    if not _NUMBER.fullmatch(cell.strip()):
        raise InputError(f"{cell!r} is not a number")
    return float(cell)


def _trimmed(cells: list[str], least: int) -> list[str]:
    """Drop empty cells at the end of a row, down to `least` cells."""
    while len(cells) > least and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8; lone surrogates become escapes."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode(errors="backslashreplace"))


def write_sealed(path: Path, content: Any) -> None:
    """Write any JSON content atomically, with its hash."""
    content = json.loads(json.dumps(content))  # as it will be read: tuples as lists, keys as text
    sealed = {"content": content, "sha256": digest(content)}
    write_text(path, json.dumps(sealed, indent=1) + "\n")


def read_sealed(path: Path) -> Any:
    """Read what `write_sealed` wrote.

    Raises:
        FileNotFoundError: it does not exist.
        DamagedFileError: it is not what was written.
    """
    try:
        sealed = json.loads(path.read_bytes())
        content, seal = sealed["content"], sealed["sha256"]
    except (ValueError, KeyError, TypeError, IsADirectoryError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    if seal != digest(content):
        raise DamagedFileError(f"{path} is damaged: its content does not match its SHA-256")
    return content


def sha256(path: Path) -> str:
    """Return the hash of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """Return the SHA-256 of content that JSON can hold; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
