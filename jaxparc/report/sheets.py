"""Tables of what a summary says, in plain cells: for the terminal, Markdown, CSV and the page."""

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

APART = "≈"  # behind a number that cannot be told from the one below it


class Sheet(NamedTuple):
    """A table.

    Attributes:
      title: in one line.
      head: of the columns.
      rows: of cells; the first is the row's name.
      notes: what a reader has to know, a line each.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The sheet in Markdown; what it says is escaped."""
        head, *rows = ([*map(printing.markdown, row)] for row in (self.head, *self.rows))
        lines = [head, ["---", *["---:"] * (len(self.head) - 1)], *rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "".join(f"\n{printing.markdown(note)}\n" for note in self.notes)
        return f"### {printing.markdown(self.title)}\n\n{body}\n{notes}"

    def csv(self) -> str:
        """The head and the rows."""
        return files.table_text([self.head, *self.rows])

    def rich(self) -> Table:
        """The sheet for a terminal."""
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
    """One measure: the number of each method, its interval, and that of each target.

    Args:
      summary: of all methods.
      measure: a key of `MEASURES` that the summary has.
      title: of a method.
    """
    known = MEASURES[measure]
    rows = []
    for method, cell in summary.cells[measure].items():
        std = "" if math.isnan(cell.std) else f" ± {known.scale * cell.std:.1f}"
        mark = "" if cell.told_apart else f" {APART}"
        mean = f"{number(known.scale * cell.interval.value)}{std}{mark}"
        values = [number(known.scale * value) for value in cell.targets]
        rows.append((title(method), mean, _band(cell.interval, known), *values))
    band = summary.chance[measure]
    rows.append(("a random order", number(known.scale * band.value), _band(band, known)))
    rows[-1] += ("",) * len(summary.outcomes.targets)
    notes = [
        f"95 % intervals of {summary.resamples:,} resamples of models, targets and probe sets. "
        f"{APART}: not told from the method below at 5 %, on the same resamples. A random order: "
        "of the models, the same for all targets."
    ]
    if summary.undefined:
        told = ", ".join(f"{title(m)} {n}" for m, n in summary.undefined.items())
        notes.append(f"Undefined scores: {told}.")
    return Sheet(
        f"{known.title}: mean over targets",
        ("method", "mean", "95 % interval", *summary.outcomes.targets),
        tuple(rows),
        tuple(notes),
    )


def measures(summary: Summary, title: Callable[[str], str]) -> Sheet:
    """All measures side by side, methods in the order of the first."""
    first = next(iter(summary.cells))
    rows = []
    for method in summary.cells[first]:
        cells = []
        for name, of_measure in summary.cells.items():
            cell = of_measure[method]
            value = number(MEASURES[name].scale * cell.interval.value)
            cells.append(value if cell.told_apart else f"{value} {APART}")
        rows.append((title(method), *cells))
    chance = (number(MEASURES[name].scale * band.value) for name, band in summary.chance.items())
    return Sheet(
        "Every measure: mean over targets",
        ("method", *(MEASURES[name].title for name in summary.cells)),
        (*rows, ("a random order", *chance)),
        (
            "Correlations times 100; a regret is in points of accuracy, and small is good. Of "
            f"equal scores the worst model counts as chosen. {APART}: not told, at 5 %, from the "
            "next by that measure.",
        ),
    )


def beyond(summary: Summary, title: Callable[[str], str], circular: Collection[str] = ()) -> Sheet:
    """Whether scores know more than depth, and than which models are good in general.

    Args:
      summary: of all methods, with "pearson".
      title: of a method.
      circular: methods that are made of the accuracies on the other targets: without each model's
        mean, they have nothing but what was taken away.
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
            + "Without each model's mean: after each model's mean over the targets is taken from "
            "its scores and accuracies, which leaves whether a method knows which model suits "
            "which target.",
        ),
    )


def long_csv(summary: Summary) -> str:
    """Every number, unrounded, a line for each method and measure."""
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
