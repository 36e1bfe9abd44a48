"""A ranking for the terminal and as CSV, JSON and Markdown."""

import importlib.metadata
import json
import math
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import files, printing
from jaxparc._version import __version__
from jaxparc.bank.ranked import Ranked, Row
from jaxparc.report.sheets import Sheet

COLUMNS = 80  # minimum width that tables are laid out for
FOLDED = 12  # minimum width of a column of names
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def write(ranking: Ranked, folder: Path) -> None:
    """Write ranking.csv, ranking.json and ranking.md.

    Raises:
        OSError: a file cannot be written; its name is in the error.
    """
    files.write_text(folder / "ranking.csv", csv(ranking))
    files.write_text(folder / "ranking.json", json_text(ranking))
    files.write_text(folder / "ranking.md", markdown(ranking))


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        head: heading.
        cell: function from a model to the cell's text; "" for nothing.
        key: function from a model to the number or word that the column is sorted by; None if it
            is unknown.
        is_text: whether cells are words, which may be folded, rather than numbers.
    """

    head: str
    cell: Callable[[Row], str]
    key: Callable[[Row], float | str | None]
    is_text: bool = False


def columns_of(ranking: Ranked) -> list[Column]:
    """Return the columns of the table that are not empty for all models."""
    columns = [
        Column("", lambda row: "" if row.rank is None else f"{_tie(row)}{row.rank}", _rank),
        Column("model", lambda row: row.name, lambda row: row.name, is_text=True),
        Column(ranking.scores.methods[0], _score, lambda row: _defined(row.score)),
    ]
    columns += [_second(method) for method in ranking.scores.methods[1:2]]
    columns += [
        Column(
            "params", lambda row: _large(row.facts.parameters), lambda row: row.facts.parameters
        ),
        Column("GMACs", lambda row: _gmacs(row.facts.gmacs), lambda row: row.facts.gmacs),
        Column("images/s", _speed, lambda row: row.facts.images_per_second),
        Column("MB", lambda row: _plain(row.facts.megabytes), lambda row: row.facts.megabytes),
        Column("seen", _seen, lambda row: row.images),
        _words("dropped", lambda row: row.dropped),
        _words("licence", lambda row: row.facts.licence),
        _words("source", lambda row: row.facts.source),
    ]
    always = columns[:3]
    return always + [c for c in columns[3:] if any(c.cell(row) for row in ranking.rows)]


def _second(method: str) -> Column:
    return Column(
        f"by {method}", lambda row: _place(row, method), lambda row: row.ranks.get(method)
    )


def _words(head: str, of: Callable[[Row], str | None]) -> Column:
    return Column(head, lambda row: of(row) or "", of, is_text=True)


def _rank(row: Row) -> int | None:
    return row.rank


def _seen(row: Row) -> str:
    return "" if row.images is None else str(row.images)


def _tie(row: Row) -> str:
    return "= " if row.tied and row.rank != 1 else ""


def _score(row: Row) -> str:
    return "" if row.images == 0 else score_text(row.score, row.low, row.high)


def score_text(score: float, low: float, high: float) -> str:
    """Return a score with its interval: "71.20 ± 3.10", or "99.20 +0.80 -3.10" if it is uneven."""
    if math.isnan(score):
        return "undefined"
    above, below = f"{high - score:.2f}", f"{score - low:.2f}"
    if math.isnan(low):
        return f"{score:.2f}"
    return f"{score:.2f} ± {above}" if above == below else f"{score:.2f} +{above} -{below}"


def cell_of(ranking: Ranked, row: Row, method: str) -> str:
    """Return a model's score by any method, with its interval; "" if it was not computed."""
    numbers = ranking.numbers[method, row.name]
    return "" if row.dropped and math.isnan(numbers[0]) else score_text(*numbers)


def _place(row: Row, method: str) -> str:
    """Return the rank by a further method, marked if it is above the best one by that method."""
    rank = row.ranks.get(method)
    mark = "^ " if method in row.better_by else ""
    return "" if rank is None else f"{mark}{rank}"


def _large(number: int | None) -> str:
    """Format a number of parameters: 722 k, 3.4 M, 23.5 M, 1.1 G."""
    if number is None:
        return ""
    for unit, one in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= one:
            return f"{number / one:.{0 if number >= 100 * one else 1}f} {unit}"
    return str(number)


def _plain(number: float | None) -> str:
    return "" if number is None else f"{number:,.{0 if number >= 10 else 1}f}"


def _gmacs(number: float | None) -> str:
    return "" if number is None else f"{number:#.2g}" if number < 9.95 else f"{number:.0f}"


def _speed(row: Row) -> str:
    speed = _plain(row.facts.images_per_second)
    return f"* {speed}" if speed and row.frontier else speed


def notes_of(ranking: Ranked) -> list[str]:
    """Return what the marks of the table mean, and what the method was chosen by."""
    level = f"{100 * ranking.scores.level:g} %"
    heads, rows = [column.head for column in columns_of(ranking)], ranking.rows
    notes = []
    if any(not math.isnan(row.low) for row in rows):
        notes.append(f"±: {level} interval over the choice of images")
    if any(_tie(row) for row in rows):
        notes.append("=: tied with the best, paired over the images")
    for second in ranking.scores.methods[1:2]:
        if f"by {second}" in heads:
            above = any(second in row.better_by for row in rows)
            what = "^: above the best one" if above else "none is above the best one"
            notes.append(f"by {second}: rank by it; {what} by more than chance ({level})")
    if "images/s" in heads:
        notes.append("images/s: feature extraction here; *: no other is as good and faster")
    if ranking.rounds:
        notes.append("seen: images that the score is of; models were dropped in a race")
    return [*notes, *filter(None, [ranking.evidence])]


def text(ranking: Ranked, width: int | None = None) -> str:
    """Return the answer, the table with its notes and, if it is detailed, all scores.

    Args:
        ranking: the ranking.
        width: as `terminal` takes it.
    """
    parts = [printing.shown(ranking.answer), terminal(ranking, width)]
    if ranking.detailed:
        parts.append(all_scores(ranking, width))
    return "\n\n".join(parts)


def terminal(ranking: Ranked, width: int | None = None) -> str:
    """Return the table and its notes as text for stdout.

    Args:
        ranking: the ranking.
        width: of the terminal, in characters; by default that of this one, at least 80. Where
            the table is wider, it loses sources and licences, and then names are folded; numbers
            never are.
    """
    width = width or _terminal_width()
    columns = columns_of(ranking)
    notes = notes_of(ranking)
    left_out: list[str] = []
    while _width(ranking, columns) > width and columns[-1].head in ("licence", "source"):
        left_out.insert(0, columns.pop().head)
    if left_out:
        notes.append(f"too wide for this terminal: {' and '.join(left_out)}, in ranking.csv")
    return "\n".join([_drawn(ranking, columns, width), "", *map(printing.shown, notes)])


def all_scores(ranking: Ranked, width: int | None = None) -> str:
    """Return the scores by all methods as text for stdout.

    Args:
        ranking: the ranking.
        width: as `terminal` takes it. The methods that do not fit are left to ranking.csv.
    """
    width = width or _terminal_width()
    columns = [columns_of(ranking)[1], *map(_scores_by(ranking), ranking.scores.methods)]
    fitting = [
        count for count in range(1, len(columns) + 1) if _width(ranking, columns[:count]) <= width
    ]
    shown = columns[: max([2, *fitting])]
    sets = printing.count(len(ranking.scores.values_per_run), "probe set")
    level = f"{100 * ranking.scores.level:g} %"
    lines = [printing.shown(f"All scores, of {sets}; ±: {level} interval"), ""]
    lines.append(_drawn(ranking, shown, width))
    if hidden := [column.head for column in columns[len(shown) :]]:
        methods = printing.count(len(hidden), "more method")
        lines += ["", printing.shown(f"{methods} in ranking.csv: {', '.join(hidden)}")]
    return "\n".join(lines)


def _scores_by(ranking: Ranked) -> Callable[[str], Column]:
    """Return a function from a method to the column of its scores."""

    def column(method: str) -> Column:
        return Column(
            method,
            lambda row: cell_of(ranking, row, method),
            lambda row: _defined(ranking.numbers[method, row.name][0]),
        )

    return column


def _terminal_width() -> int:
    return max(COLUMNS, shutil.get_terminal_size().columns)


def _drawn(ranking: Ranked, columns: Sequence[Column], width: int) -> str:
    """Return a table as text for stdout; names are folded to fit the width, numbers are not."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        longest = _longest(ranking, column)
        table.add_column(
            Text(printing.shown(column.head)),
            justify="left" if column.is_text else "right",
            overflow="fold",
            no_wrap=not column.is_text,
            min_width=min(longest, FOLDED) if column.is_text else longest,
        )
    for row in ranking.rows:
        table.add_row(*(Text(printing.shown(column.cell(row))) for column in columns))
    needed = sum((column.min_width or 0) + 2 for column in table.columns)
    console = Console(width=max(width, needed), color_system=None, force_jupyter=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _longest(ranking: Ranked, column: Column) -> int:
    cells = [column.head, *(column.cell(row) for row in ranking.rows)]
    return max(len(printing.shown(cell)) for cell in cells)


def _width(ranking: Ranked, columns: Sequence[Column]) -> int:
    """Return the width of the table with no name folded."""
    return sum(_longest(ranking, column) + 2 for column in columns) - 2


def markdown(ranking: Ranked) -> str:
    """Return the answer, the table and its notes in Markdown."""
    columns = columns_of(ranking)
    columns = [columns[1], columns[0]._replace(head="rank"), *columns[2:]]
    rows = [tuple(column.cell(row) for column in columns) for row in ranking.rows]
    notes = (*notes_of(ranking), *ranking.notes)
    head = tuple(column.head for column in columns)
    return Sheet(ranking.answer, head, tuple(rows), notes).markdown()


def csv(ranking: Ranked) -> str:
    """Return the table as CSV, with all methods and unrounded numbers; unknown cells are empty."""
    scores = ranking.scores
    numbers = ranking.numbers
    head = ["rank", "model", "tied"]
    for method in scores.methods:
        head += [method, f"{method}_low", f"{method}_high", f"{method}_rank"]
    head += ["better_by", *Row("", None, 0).facts._fields, "frontier", "seen", "dropped"]
    table: list[list[Any]] = [head]
    for row in ranking.rows:
        line: list[Any] = [row.rank, row.name, int(row.tied)]
        for method in scores.methods:
            found = numbers[method, row.name]
            line += [None if math.isnan(number) else f"{number:.6f}" for number in found]
            line.append(row.ranks.get(method))
        line += [" ".join(row.better_by), *row.facts, int(row.frontier), row.images, row.dropped]
        table.append(["" if cell is None else cell for cell in line])
    return files.table_text(table)


def json_text(ranking: Ranked) -> str:
    """Return everything about a ranking as JSON; undefined numbers are null."""
    scores = ranking.scores
    numbers = ranking.numbers
    models = [
        {
            "name": row.name,
            "rank": row.rank,
            "tied": row.tied,
            "better_by": list(row.better_by),
            "frontier": row.frontier,
            "scores": {
                method: {
                    "score": _defined(numbers[method, row.name][0]),
                    "interval": [*map(_defined, numbers[method, row.name][1:])],
                    "rank": row.ranks.get(method),
                    "undefined": scores.undefined.get((row.name, method)),
                }
                for method in scores.methods
            },
            **row.facts._asdict(),
            "seen": row.images,
            "dropped": row.dropped,
        }
        for row in ranking.rows
    ]
    content = {
        "answer": ranking.answer,
        "method": scores.methods[0],
        "methods": list(scores.methods),
        "evidence": ranking.evidence,
        "level": scores.level,
        "probe_sets": len(scores.values_per_run),
        "models": models,
        "notes": list(ranking.notes),
        "settings": dict(ranking.settings),
        "versions": versions(),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _defined(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def versions() -> dict[str, str]:
    """Return the versions of this package and of those that scores depend on."""
    found = {"jaxparc": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
