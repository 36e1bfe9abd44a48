"""The paper's tables with our numbers above the printed ones."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from experiments.settings import Benchmark
from experiments.tables.published import TABLES, TIME, TRAINING, Row, Table, printed
from jaxparc import evaluation, models, report
from jaxparc.evaluation import controls
from jaxparc.evaluation.outcomes import Outcomes
from jaxparc.printing import count
from jaxparc.report.sheets import Sheet

HEADING = "The paper’s tables"
_LACKING = "–"
NOT_COMPUTED = f"{_LACKING} not computed here: needs the published probe files"

# Column of correlations -> what varies among the models that are compared.
_VARYING: Mapping[str, str] = MappingProxyType(
    {
        "Mean PC": "source and architecture",
        "PC": "source and architecture",
        "Original": "source and architecture",
        "With heuristic": "source and architecture",
        "Source Dataset & Arch": "source and architecture",
        "Architecture": "architecture",
        "Source Dataset": "source",
        "Target Dataset": "target",
    }
)


class Swept(NamedTuple):
    """The results of one method with one reference, from the sweep of references.

    Attributes:
        mean_pcs: Mean PC of every probe set, in [-100, 100]; NaN if undefined.
        milliseconds: milliseconds per transfer, without feature extraction.
    """

    mean_pcs: Sequence[float]
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Ours:
    """Our results on a benchmark, as far as there are any.

    Attributes:
        outcomes: accuracies and scores of the transfers that count; None if there are none.
        milliseconds: method -> milliseconds per transfer, without feature extraction.
        swept: (method, architecture of the reference) -> results of `sweep reference`.
        hours: architecture -> hours of training a reference on a target, the mean over targets.
    """

    outcomes: Outcomes | None = None
    milliseconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    swept: Mapping[tuple[str, str], Swept] = dataclasses.field(default_factory=dict)
    hours: Mapping[str, float] = dataclasses.field(default_factory=dict)


def tables(benchmark: Benchmark, ours: Ours) -> dict[str, Sheet]:
    """Return the paper's tables of a benchmark by file name; none if the paper does not have it.

    Below the row of a method is that of the numbers printed for it. Methods that are not in a table
    of the paper are left out.
    """
    return {table.name: _sheet(benchmark, table, ours) for table in TABLES.get(benchmark.name, ())}


def _sheet(benchmark: Benchmark, table: Table, ours: Ours) -> Sheet:
    rows = []
    for row in table.rows:
        theirs = [printed(benchmark.name, table.name, row.name, c) for c in table.columns]
        here = (
            (_cell(benchmark, row, column, ours) or _LACKING) if text else ""
            for column, text in zip(table.columns, theirs, strict=True)
        )
        rows += [(row.name, *here), (f"{row.name} (paper)", *theirs)]
    return Sheet(
        table.title, ("method", *table.columns), tuple(rows), _notes(benchmark, table, ours, rows)
    )


def _notes(
    benchmark: Benchmark, table: Table, ours: Ours, rows: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    about = "Rows marked (paper) have the numbers printed in the paper"
    if ours.outcomes is not None:
        about += f"; the others are of {count(int(ours.outcomes.where.sum()), 'transfer')} here"
    notes = [f"{about}. Mean ± standard deviation over probe sets; PC is times 100."]
    lacking = [row for row in rows if _LACKING in row]
    if lacking:
        notes.append(f"{NOT_COMPUTED}.")
    elsewhere = [row.name for row in table.rows if _other_reference(benchmark, row)]
    if any(row[0] in elsewhere for row in lacking):
        notes.append(
            f"{', '.join(elsewhere)}: computed by python -m experiments.sweep reference "
            f"--benchmark {benchmark.name}."
        )
    if TIME in table.columns and ours.milliseconds:
        notes.append(
            "Our times are medians over targets and probe sets, without feature extraction, and "
            "from another machine than the paper's."
        )
    if TRAINING in table.columns:
        notes.append(
            "Training time is that of the reference model of RSA and DDS, where it is trained here."
        )
    return (*notes, *table.notes)


def _other_reference(benchmark: Benchmark, row: Row) -> bool:
    """Return whether the benchmark's own scores have another reference than a row of the paper."""
    return row.reference not in ("", benchmark.reference)


def _cell(benchmark: Benchmark, row: Row, column: str, ours: Ours) -> str | None:
    """Return our number for a cell; None if it cannot be computed."""
    swept = ours.swept.get((row.method, row.reference))
    other = _other_reference(benchmark, row)
    if column == TRAINING:
        hours = ours.hours.get(row.reference)
        return None if hours is None else f"{hours:.2f}"
    if column == TIME:
        # "+ layers" takes the time of the method itself.
        own = ours.milliseconds.get(row.method.removesuffix("+l"))
        time = (swept.milliseconds if swept else None) if other else own
        return None if time is None else f"{time:,.2f}"
    if other:
        values = swept.mean_pcs if swept and column == "Mean PC" else None
    else:
        method = f"{row.method}+l" if column == "With heuristic" else row.method
        values = _mean_pcs(ours.outcomes, method, _VARYING[column], benchmark.ell_max)
    return None if values is None else report.spread_of(values).text("z.2f", ".2f")


def _mean_pcs(
    found: Outcomes | None, method: str, varying: str, ell_max: float
) -> Sequence[float] | None:
    """Return Mean PC of every probe set; None if the method has no scores."""
    plain = method.removesuffix("+l")
    if found is None or plain not in found.scores:
        return None
    scores = found.scores[plain]
    if method != plain:
        layers = {a: float(models.get(a).layers) for a, _ in found.models}
        scores = controls.plus_layers(found, plain, layers, pooled=True, ell_max=ell_max)
    accuracies = found.by_transfer(found.accuracies)
    with np.errstate(all="ignore"):  # infinite scores are undefined
        return [evaluation.mean_pc(found.by_transfer(s), accuracies, varying) for s in scores]
