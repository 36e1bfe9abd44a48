"""Tables of a summary as plain cells: for the terminal, Markdown, CSV and the page."""

import math
from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from jaxparc import files, printing
from jaxparc.evaluation import controls
from jaxparc.evaluation.measures import MEASURES, Measure
from jaxparc.evaluation.resampling import Interval
from jaxparc.evaluation.summary import Summary
from jaxparc.report.results import number

SIMILAR = "≈"  # marks a number that is not significantly different from the next one below


class Sheet(NamedTuple):
    """A table of text cells.

    Attributes:
        title: title, one line.
        head: column names.
        rows: rows of cells, the first of which names the row.
        notes: paragraphs printed below the table.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return the sheet in Markdown, with its text escaped."""
        head, *rows = ([*map(printing.markdown, row)] for row in (self.head, *self.rows))
        lines = [head, ["---", *["---:"] * (len(self.head) - 1)], *rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "".join(f"\n{printing.markdown(note)}\n" for note in self.notes)
        return f"### {printing.markdown(self.title)}\n\n{body}\n{notes}"

    def csv(self) -> str:
        """Return the head and the rows as CSV."""
        return files.table_text([self.head, *self.rows])

    def rich(self) -> Table:
        """Return the sheet for a terminal."""
        table = Table(title=Text(printing.shown(self.title), style="italic"))
        if self.notes:
            notes = "\n".join(map(printing.shown, self.notes))
            table.caption = Text(notes, style="dim italic")
        table.caption_justify = "left"
        for index, name in enumerate(self.head):
            justify: Literal["left", "right"] = "right" if index else "left"
            table.add_column(Text(printing.shown(name)), justify=justify)
        for row in self.rows:
            table.add_row(*(Text(printing.shown(cell)) for cell in row))
        return table


def intervals(summary: Summary, measure: str, title: Callable[[str], str]) -> Sheet:
    """Return a table of one measure: mean over targets, interval and values per target by method.

    Args:
        summary: the summary of all methods.
        measure: a key of `summary.cells`.
        title: method -> title.
    """
    known = MEASURES[measure]
    rows = []
    for method, cell in summary.cells[measure].items():
        std = "" if math.isnan(cell.std) else f" ± {known.scale * cell.std:.1f}"
        mark = "" if cell.significant else f" {SIMILAR}"
        mean = f"{number(known.scale * cell.interval.value)}{std}{mark}"
        values = [number(known.scale * value) for value in cell.targets]
        rows.append((title(method), mean, _band(cell.interval, known), *values))
    band = summary.chance[measure]
    rows.append(("a random order", number(known.scale * band.value), _band(band, known)))
    rows[-1] += ("",) * len(summary.outcomes.targets)
    notes = [
        f"95 % intervals of {summary.resamples:,} resamples of models, targets and probe sets. "
        f"{SIMILAR}: no significant difference from the method below (5 %, on the same resamples). "
        "A random order of the models is the same for all targets."
    ]
    if summary.undefined:
        counts = ", ".join(f"{title(m)} {n}" for m, n in summary.undefined.items())
        notes.append(f"Undefined scores: {counts}.")
    return Sheet(
        f"{known.title}: mean over targets",
        ("method", "mean", "95 % interval", *summary.outcomes.targets),
        tuple(rows),
        tuple(notes),
    )


def measures(summary: Summary, title: Callable[[str], str]) -> Sheet:
    """Return a table of all measures, with methods in the order of the first measure."""
    first = next(iter(summary.cells))
    rows = []
    for method in summary.cells[first]:
        cells = []
        for name, of_measure in summary.cells.items():
            cell = of_measure[method]
            value = number(MEASURES[name].scale * cell.interval.value)
            cells.append(value if cell.significant else f"{value} {SIMILAR}")
        rows.append((title(method), *cells))
    chance = (number(MEASURES[name].scale * band.value) for name, band in summary.chance.items())
    return Sheet(
        "Every measure: mean over targets",
        ("method", *(MEASURES[name].title for name in summary.cells)),
        (*rows, ("a random order", *chance)),
        (
            "Correlations are times 100; regrets are in points of accuracy, smaller is better. "
            f"Ties are broken towards the worst model. {SIMILAR}: no significant difference (5 %) "
            "from the next method by that measure.",
        ),
    )


def beyond(summary: Summary, title: Callable[[str], str], circular: Collection[str] = ()) -> Sheet:
    """Return a table of Mean PC after removing depth and general model quality.

    Args:
        summary: the summary of all methods, including the measure "pearson".
        title: method -> title.
        circular: methods computed from the accuracies on the other targets. Without each model's
            mean they are meaningless, so these cells are dashes.
    """
    outcomes = summary.outcomes
    columns: dict[str, Callable[..., np.ndarray]] = {
        "without each model's mean": controls.without_model_effects
    }
    if len({architecture for architecture, _ in outcomes.models}) < len(outcomes.models):
        columns = {"within one architecture": controls.within_architectures} | columns
    pearson = MEASURES["pearson"]
    rows = [
        (
            title(method),
            number(100 * summary.cells["pearson"][method].interval.value),
            *(
                "–"
                if f is controls.without_model_effects and method in circular
                else number(100 * float(f(outcomes, method, pearson).mean()))
                for f in columns.values()
            ),
        )
        for method in summary.cells["pearson"]
    ]
    return Sheet(
        "What is left of Mean PC",
        ("method", "Mean PC", *columns),
        tuple(rows),
        (
            ("Within one architecture: over its sources alone. " if len(columns) > 1 else "")
            + "Without each model's mean: after subtracting each model's mean over targets from "
            "its scores and accuracies; what is left measures whether a method knows which model "
            "suits which target.",
        ),
    )


def long_csv(summary: Summary) -> str:
    """Return every number, unrounded, as CSV with a row per method and measure."""
    targets = summary.outcomes.targets
    head = ("method", "measure", "mean", "low", "high", "std", "next", "p_next", "undefined")
    rows: list[list[str]] = [[*head, *targets]]
    for name, cells in summary.cells.items():
        for method, cell in cells.items():
            below, p = cell.worse or ("", math.nan)
            numbers = [*cell.interval[:3], cell.std, below, p, summary.undefined.get(method, 0)]
            rows.append([method, name, *map(_raw, [*numbers, *cell.targets])])
        band = summary.chance[name]
        rows.append(["random order", name, *map(_raw, band[:3]), *[""] * (4 + len(targets))])
    return files.table_text(rows)


def _raw(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def _band(found: Interval, measure: Measure) -> str:
    if math.isnan(found.low):
        return "–"
    return f"{measure.scale * found.low:z.1f} to {measure.scale * found.high:z.1f}"
