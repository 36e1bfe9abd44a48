"""Read tables of accuracies, scores and times, and check every row.

A table of accuracies has one of two heads:

    Architecture,Source Dataset,Target Dataset,Oracle     the published benchmarks', and ours
    model,target,accuracy[,<method>,...]                  any other; scores may be further columns

A table of scores has Architecture,Source Dataset,Target Dataset or model,target, then a column per
method, and optionally a column Run with the number of the probe set.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxparc import files, models
from jaxparc.errors import InputError
from jaxparc.evaluation import Transfer, outcomes
from jaxparc.evaluation.outcomes import Outcomes

TRANSFER = ("Architecture", "Source Dataset", "Target Dataset")
ORACLE = (*TRANSFER, "Oracle")
LONG = ("model", "target", "accuracy")
SEED = "Seed "  # and its number: a column of single accuracies
LINEAR = "Linear Probe"
RUN = "Run"
TIMES = ("Stage", "Method", "Items", "Seconds")
UNIT = "Unit"
SWEEP = ("What", "Value", "Method", RUN, "Mean PC", "Milliseconds")
NOT_AVAILABLE = -1  # an accuracy that the published tables do not have

Accuracies = dict[Transfer, float]
Scores = dict[str, list[dict[Transfer, float]]]


class TableError(InputError):
    """A table is malformed; the message names the file and, for a bad row, its line."""


def read(accuracies: Path, scores: Path | None = None) -> Outcomes:
    """Read a table of accuracies, of either head, and join a table of scores to it.

    Args:
        accuracies: the table of accuracies. With the head model,target,accuracy, further columns
            may hold scores of one probe set, and sources are "".
        scores: table of further scores, which replace those of the same methods in `accuracies`.

    Returns:
        All transfers of the table of accuracies, and all methods in the order of their columns.

    Raises:
        FileNotFoundError: a file is missing.
        TableError: a file has another head, no row, an empty name, a duplicate row, a cell that is
            not a number, or a score without an accuracy.
    """
    table = _table(accuracies)
    if "Oracle" in table.columns:
        found, of_methods = _oracle(table), Scores()
    elif set(LONG) <= set(table.columns):
        found, of_methods = _long(table)
    else:
        raise TableError(
            f"{accuracies} has the columns {', '.join(table.columns) or 'none'}; expected "
            f"{', '.join(ORACLE)}, or {', '.join(LONG)}"
        )
    if scores is not None:
        of_methods |= read_scores(scores, found)
    return outcomes.collect(found, of_methods)


def read_accuracies(path: Path) -> Accuracies:
    """Read a table with the columns of the published benchmarks, such as oracle.csv.

    Returns:
        Accuracies in [0, 100]; NaN where unavailable, that is, where a cell is empty (written by
        finetune_all if every run diverged) or -1 (used in the published crowd-sourced table).

    Raises:
        FileNotFoundError: the file is missing.
        TableError: a column is missing, or a row names an unknown architecture, is a duplicate, or
            has an accuracy outside [0, 100].
    """
    return _oracle(_table(path, ORACLE))


def read_seeds(path: Path) -> dict[str, Accuracies]:
    """Read the accuracies of the single seeds of a table such as oracle.csv.

    Returns:
        Name of a seed, such as "Seed 0" -> accuracies in percent; NaN where it diverged. Empty if
        the table has no such columns.

    Raises:
        FileNotFoundError: the file is missing.
        TableError: as for `read_accuracies`.
    """
    table = _table(path)
    seeds = [column for column in table.columns if column.startswith(SEED)]
    return {seed: _oracle(table, seed) for seed in seeds}


def read_linear(path: Path) -> Accuracies:
    """Read a table of linear probes; empty if there is none.

    Raises:
        TableError: as for `read_accuracies`.
    """
    return _oracle(_table(path), LINEAR) if path.exists() else {}


def read_truth(
    path: Path, column: str = LONG[2], without: Mapping[str, str] | None = None
) -> tuple[Accuracies, list[Transfer]]:
    """Read a table with the columns model, target and accuracy, in percent or as fractions.

    Args:
        path: the table; columns that are not named here are skipped.
        column: name of the column of accuracies. If none of them is above 1, they are fractions.
        without: column -> value of the rows to leave out.

    Returns:
        Accuracies in percent, and the transfers of the rows that are left out.

    Raises:
        FileNotFoundError: the file is missing.
        TableError: a column is missing, a row is a duplicate or has an empty name, an accuracy is
            not a number in [0, 100], or no row remains.
    """
    without = without or {}
    table = _table(path, (*LONG[:2], column, *without))
    accuracies: Accuracies = {}
    left_out = []
    for row, transfer in _transfers(table):
        if any(row.cells[name] == value for name, value in without.items()):
            left_out.append(transfer)
            continue
        accuracies[transfer] = row.number(column)
        if not 0 <= accuracies[transfer] <= 100:
            raise TableError(
                f"{row.where}: {column} is {row.cells[column]!r}; expected a number in [0, 100]"
            )
    if not accuracies:
        raise TableError(f"{path} has no row" + (" that is not left out" if left_out else ""))
    scale = 100.0 if max(accuracies.values()) <= 1 else 1.0
    return {transfer: scale * value for transfer, value in accuracies.items()}, left_out


def read_scores(
    path: Path,
    accuracies: Collection[Transfer],
    *,
    required: Sequence[str] = (),
    partial: bool = False,
) -> Scores:
    """Read a table of scores.

    Args:
        path: the table.
        accuracies: the transfers that have an accuracy.
        required: columns that the table must have besides the names of the transfer.
        partial: whether to accept the table of an unfinished benchmark: one without rows, or with
            scores of transfers without an accuracy, which are skipped. Both are errors by default.

    Returns:
        Method -> the scores of each probe set, in order of appearance; an empty cell is NaN.

    Raises:
        FileNotFoundError: the file is missing.
        TableError: a column is missing, a row is a duplicate or has an empty name, a score is not
            a number or has no accuracy, or there is no row.
    """
    table = _table(path)
    table.require([*_names(table), *required])
    methods = [name for name in table.columns if name and name not in (RUN, *TRANSFER, *LONG[:2])]
    if not methods or not (table.rows or partial):
        raise TableError(f"{path} has no {'row' if methods else 'column of scores'}")
    runs: dict[str, dict[str, dict[Transfer, float]]] = {method: {} for method in methods}
    for row, transfer in _transfers(table, by_run=True):
        if transfer not in accuracies:
            if partial:
                continue
            raise TableError(
                f"{row.where}: no accuracy for {_shown(transfer)!r}, which has a score"
            )
        for method in methods:
            of_run = runs[method].setdefault(row.cells.get(RUN, ""), {})
            of_run[transfer] = row.number(method)
    return {method: list(of_runs.values()) for method, of_runs in runs.items()}


def read_times(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Read times.csv.

    Returns:
        Stage -> total seconds, and method -> median milliseconds per transfer.

    Raises:
        FileNotFoundError: the file is missing.
        TableError: a column is missing, a cell is not a number, or Items is not above 0.
    """
    table = _table(path, TIMES)
    stages: dict[str, float] = defaultdict(float)
    transfers: dict[str, list[float]] = defaultdict(list)
    for row in table.rows:
        seconds, items = row.number("Seconds"), row.number("Items")
        if not items > 0:
            raise TableError(f"{row.where}: Items is {row.cells['Items']!r}; expected above 0")
        stages[row.cells["Stage"]] += seconds
        if row.cells["Method"]:
            transfers[row.cells["Method"]].append(1e3 * seconds / items)
    return dict(stages), {method: statistics.median(ms) for method, ms in transfers.items()}


def read_seconds(path: Path, stage: str) -> dict[str, float]:
    """Read the seconds of the units of one stage from times.csv.

    Raises:
        FileNotFoundError: the file is missing.
        TableError: a column is missing, or a cell is not a number.
    """
    table = _table(path, (*TIMES, UNIT))
    of_stage = (row for row in table.rows if row.cells["Stage"] == stage)
    return {row.cells[UNIT]: row.number("Seconds") for row in of_stage}


def read_sweep(path: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Read a table of the folder sweeps.

    Returns:
        (method, value) -> Mean PC, NaN if undefined, and milliseconds per transfer, of every probe
        set.

    Raises:
        FileNotFoundError: the file is missing.
        TableError: a column is missing, or a cell is not a number.
    """
    points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in _table(path, SWEEP).rows:
        point = row.number("Mean PC"), row.number("Milliseconds")
        points[row.cells["Method"], row.cells["Value"]].append(point)
    return dict(points)


class _Row(NamedTuple):
    """The cells of a row by column, and its place for error messages."""

    where: str
    line: int
    cells: dict[str, str]

    def number(self, column: str) -> float:
        cell = self.cells[column]
        try:
            return files.number(cell) if cell else math.nan
        except ValueError:
            raise TableError(f"{self.where}: {column} is {cell!r}; expected a number") from None


class _Table(NamedTuple):
    path: Path
    columns: list[str]
    rows: list[_Row]

    def require(self, columns: Sequence[str]) -> None:
        if lacking := [column for column in columns if column not in self.columns]:
            raise TableError(f"{self.path} has no column {', '.join(lacking)}")


def _table(path: Path, columns: Sequence[str] = ()) -> _Table:
    try:
        head, rows = files.read_table(path, ours=True)
    except ValueError as error:
        raise TableError(str(error)) from error
    numbered = [_Row(f"{path} line {line}", line, cells) for line, cells in rows]
    table = _Table(path, head, numbered)
    table.require(columns)
    return table


def _names(table: _Table) -> tuple[str, ...]:
    """Return the columns that name a transfer."""
    return TRANSFER if TRANSFER[0] in table.columns else LONG[:2]


def _transfers(table: _Table, *, by_run: bool = False) -> Iterator[tuple[_Row, Transfer]]:
    """Yield rows with their transfers, which are unique, or unique per run."""
    names = _names(table)
    lines: dict[tuple[str, Transfer], int] = {}
    for row in table.rows:
        cells = [row.cells[name] for name in names]
        transfer = Transfer(*cells) if len(cells) == 3 else Transfer(cells[0], "", cells[1])
        for name, cell in zip(names, cells, strict=True):
            if not cell and name != TRANSFER[1]:
                raise TableError(f"{row.where}: {name} is empty")
        key = (row.cells.get(RUN, "") if by_run else "", transfer)
        if key in lines:
            raise TableError(
                f"{row.where}: duplicate transfer {_shown(transfer)!r}, first on line {lines[key]}"
            )
        lines[key] = row.line
        yield row, transfer


def _shown(transfer: Transfer) -> str:
    return "/".join(filter(None, transfer))


def _oracle(table: _Table, column: str = ORACLE[-1]) -> Accuracies:
    table.require((*TRANSFER, column))
    found = {}
    for row, transfer in _transfers(table):
        if not transfer.source:
            raise TableError(f"{row.where}: {TRANSFER[1]} is empty")
        try:
            models.get(transfer.architecture)
        except InputError as error:
            raise TableError(f"{row.where}: {error}") from None
        found[transfer] = _percentage(row, column)
    return found


def _percentage(row: _Row, column: str) -> float:
    cell = row.cells[column]
    if not cell:
        return math.nan
    try:
        accuracy = files.number(cell)
    except ValueError:
        accuracy = math.nan
    if accuracy == NOT_AVAILABLE:
        return math.nan
    if not 0 <= accuracy <= 100:
        raise TableError(
            f"{row.where}: {column} is {cell!r}; expected a percentage in [0, 100], or -1"
        )
    return accuracy


def _long(table: _Table) -> tuple[Accuracies, Scores]:
    methods = [name for name in table.columns if name and name not in LONG]
    accuracies: Accuracies = {}
    scores: dict[str, dict[Transfer, float]] = {method: {} for method in methods}
    for row, transfer in _transfers(table):
        accuracies[transfer] = row.number("accuracy")
        for method in methods:
            scores[method][transfer] = row.number(method)
    if not accuracies:
        raise TableError(f"{table.path} has no row")
    return accuracies, {method: [of_run] for method, of_run in scores.items()}
