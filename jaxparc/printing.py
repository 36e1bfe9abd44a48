"""What others named or wrote, made fit for where it is shown: one function for each kind of output.

CSV has its own in `files.table_text`, and names of files `files.check_name`.
"""

import contextlib
import html as html_
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence

# What a narrow encoding lacks of what our tables are written with.
_PLAIN = {"±": "+/-", "–": "-", "…": "...", "≈": "~", "’": "'", "×": "x"}  # noqa: RUF001


def visible(text: str) -> str:
    r"""One line in which nothing acts or hides: controls, line ends and marks of direction escaped.

    Such as `\x1b`, `\n` or `\u202e`; what is printed stays, and so do all spaces.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text
    )


def shown(text: str, encoding: str | None = None) -> str:
    """A line for a terminal or a log: visible, and in characters that its encoding has.

    Args:
        text: of anybody.
        encoding: that of stdout by default.
    """
    text = visible(text)
    encoding = encoding or stdout_encoding()
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_fitting(c, encoding) for c in text)
    return text


def lines(text: str) -> str:
    """`shown`, of a message whose own lines stay lines."""
    return "\n".join(map(shown, text.split("\n")))


_LONGEST = 700  # characters of an error: it may list every array of a network


def line(error: BaseException) -> str:
    """An error as one line that names its file; of a long list, the beginning and the end."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        what = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "output"
        text = f"{what}: {error.strerror}"
    else:  # lists have a line for each item, behind a colon
        text = re.sub(r"\s*\n\s*", "; ", re.sub(r":\s*\n\s*", ": ", text.strip()))
    text = re.sub(r"\s*\n\s*", " ", text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 200]} ... {text[-200:]}"
    return shown(text) or type(error).__name__


def reason(error: BaseException) -> str:
    """What went wrong, without the path, which the message has already."""
    return str(getattr(error, "strerror", None) or error)


def markdown(text: str) -> str:
    """A cell or a paragraph of Markdown that shows the text as it is."""
    text = re.sub(r"[\\`*|]", r"\\\g<0>", html(text, quote=False))
    return text.replace("](", "]\\(")


def html(text: str, *, quote: bool = True) -> str:
    """Text for HTML or SVG, also within quotes of an attribute."""
    return html_.escape(visible(text), quote=quote)


def count(number: int, one: str, several: str | None = None) -> str:
    """How many there are: "1 model", "2 models"."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def some(names: Sequence[str], most: int = 5) -> str:
    """Names, the first `most` of many: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def stdout_encoding() -> str:
    """That of the terminal, UTF-8 where it is not known."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """What a command prints reaches its reader, whatever the encoding, or it ends without a trace.

    Characters that the encoding lacks are escaped. Exits with 1 if output cannot be written: with
    one line that says why, and without where its reader has gone, as `head` goes.
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
    """Forget what could not be written, so that Python does not try again as it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # of streams that are no files
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fitting(c: str, encoding: str) -> str:
    try:
        c.encode(encoding)
    except UnicodeEncodeError:
        return _PLAIN.get(c) or _escaped(c)
    return c


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode()
