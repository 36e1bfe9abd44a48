"""Text of unknown origin, escaped for where it is shown: one function for each kind of output.

For CSV see `files.table_text`, for names of files `files.check_name`.
"""

import contextlib
import difflib
import html as html_
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# Replacements for characters of our tables that an encoding may lack.
_PLAIN = {"±": "+/-", "–": "-", "…": "...", "≈": "~", "’": "'", "×": "x"}  # noqa: RUF001


def visible(text: str) -> str:
    r"""Escape control characters, line ends and bidirectional marks.

    Such as `\x1b`, `\n` or `\u202e`; printable characters and all spaces are unchanged.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text
    )


def shown(text: str, encoding: str | None = None) -> str:
    """Return a line for a terminal or a log: `visible`, in characters that its encoding has.

    Args:
        text: of any origin.
        encoding: of the output; by default that of stdout.
    """
    text = visible(text)
    encoding = encoding or stdout_encoding()
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_fitting(c, encoding) for c in text)
    return text


def lines(text: str) -> str:
    """Apply `shown` to each line of a message."""
    return "\n".join(map(shown, text.split("\n")))


_LONGEST = 700  # characters of an error, which may list every array of a network


def line(error: BaseException) -> str:
    """Format an error as one line that names its file; a long one is shortened in the middle."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        what = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "output"
        text = f"{what}: {error.strerror}"
    else:  # lists have a line for each item, after a colon
        text = re.sub(r"\s*\n\s*", "; ", re.sub(r":\s*\n\s*", ": ", text.strip()))
    text = re.sub(r"\s*\n\s*", " ", text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 200]} ... {text[-200:]}"
    return shown(text) or type(error).__name__


def reason(error: BaseException) -> str:
    """Return why an operation failed, without the path, for a message that has it already."""
    return str(getattr(error, "strerror", None) or error)


def markdown(text: str) -> str:
    """Escape text for a cell or a paragraph of Markdown."""
    text = re.sub(r"[\\`*|]", r"\\\g<0>", html(text, quote=False))
    return text.replace("](", "]\\(")


def html(text: str, *, quote: bool = True) -> str:
    """Escape text for HTML or SVG, including quoted attributes."""
    return html_.escape(visible(text), quote=quote)


def count(number: int, one: str, several: str | None = None) -> str:
    """Format a number of things: "1 model", "2 models"."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def some(names: Sequence[str], most: int = 5) -> str:
    """Join names, at most `most` of them: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def closest(name: str, known: Iterable[str]) -> str:
    """Join the three known names that are most like one, those that contain it first: "a, b, c"."""
    folded = {one.casefold(): one for one in known}
    wanted = name.casefold()
    alike = difflib.get_close_matches(wanted, folded, n=len(folded), cutoff=0)
    ordered = sorted(alike, key=lambda one: wanted not in one)
    return ", ".join(folded[one] for one in ordered[:3])


def duration(seconds: float, most: float | None = None) -> str:
    """Format a rough duration, or a range of it: "40 s", "4 to 6 min", "3.5 h"."""
    most = seconds if most is None else most
    unit, length = next(one for one in _UNITS if most < 90 * one[1] or one is _UNITS[-1])
    ends = dict.fromkeys(f"{end / length:.{int(unit == 'h')}f}" for end in (seconds, most))
    return f"{' to '.join(ends)} {unit}"


_UNITS = (("s", 1), ("min", 60), ("h", 3600))


def by_reason(reasons: Mapping[str, str]) -> str:
    """Join reasons, each once with the names that it is for: "no such file (a, b); damaged (c)"."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{reason} ({', '.join(of)})" for reason, of in names.items())


def stdout_encoding() -> str:
    """Return the encoding of stdout, UTF-8 if unknown."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def progress_bar(*columns: Any, console: "Console", **options: Any) -> "Progress":
    """Return a progress bar, which prints nothing where the console is no terminal.

    Args:
        columns: as of `rich.progress.Progress`.
        console: where the bar is shown.
        options: further arguments of `rich.progress.Progress`.
    """
    from rich.progress import Progress

    class Bar(Progress):
        def stop(self) -> None:
            if not self.disable:  # rich before 14.3 ends a disabled bar with an empty line
                super().stop()

    return Bar(*columns, console=console, disable=not console.is_terminal, **options)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Flush what a command prints, and exit without a traceback if that fails.

    Characters that the encoding lacks are escaped. Exits with 1 if output cannot be written, with
    one line that says why; without one if the reader has closed the pipe, as `head` does.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _drop()
        raise SystemExit(1) from None
    except OSError as error:
        _drop()
        with contextlib.suppress(OSError):
            print(line(error), file=sys.stderr)
        raise SystemExit(1) from None


def _drop() -> None:
    """Discard what could not be written, so that Python does not try again at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # of streams that are not files
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fitting(c: str, encoding: str) -> str:
    try:
        c.encode(encoding)
    except UnicodeEncodeError:
        return _PLAIN.get(c) or _escaped(c)
    return c


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode()
