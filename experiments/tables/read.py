"""Tables of accuracies and of scores, ours or others': read, and every row checked.

Two forms are known by their heads:

    Architecture,Source Dataset,Target Dataset,Oracle       the published benchmark's, and ours
    model,target,accuracy[,score,...]                       anybody's, one line for each transfer

Scores stand in a second table, Run,Architecture,Source Dataset,Target Dataset,<method>,... or
model,target,<method>,... (with or without Run), or in further columns of the second form.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.tables import oracle
from experiments.tables.oracle import OracleError
from jaxparc import files
from jaxparc.evaluation import Transfer

LONG = ("model", "target", "accuracy")
RUN = "Run"
TIMES = ("Stage", "Method", "Items", "Seconds")
Scores = dict[str, list[dict[Transfer, float]]]


class Read(NamedTuple):
    """What the tables hold.

    Attributes:
        accuracies: of every transfer, NaN where it is not available; in the second form, the
            architecture is the model's name, and the source is "".
        scores: method -> the scores of each run.
    """

    accuracies: dict[Transfer, float]
    scores: Scores


def read(accuracies: Path, scores: Path | None = None) -> Read:
    """Reads a table of accuracies, and one of scores.

    Raises:
        FileNotFoundError: a file is not there.
        OracleError: a file is of neither form, or a row has an empty name, is there twice, or has
            something else than a number; or a score has no accuracy. The message names the file
            and the line.
    """
    head, rows = _rows(accuracies)
    if "Oracle" in head:
        found = Read(oracle.read(accuracies), {})
    elif set(LONG) <= set(head):
        found = _long(accuracies, head, rows)
    else:
        raise OracleError(
            f"{accuracies} has the columns {', '.join(head) or 'none'}; expected "
            f"{', '.join(oracle.COLUMNS)}, or {', '.join(LONG)}"
        )
    if scores is not None:
        found = found._replace(scores=found.scores | _scores(scores, found.accuracies))
    return found


def _rows(path: Path) -> tuple[list[str], list[files.Row]]:
    try:
        return files.read_table(path, ours=True)
    except ValueError as error:
        raise OracleError(str(error)) from error


def _long(path: Path, head: Sequence[str], rows: Sequence[files.Row]) -> Read:
    accuracies: dict[Transfer, float] = {}
    methods = [name for name in head if name and name not in LONG]
    scores: Scores = {method: [{}] for method in methods}
    for line, row in rows:
        transfer = _transfer(path, line, row)
        if transfer in accuracies:
            raise OracleError(f"{path} line {line}: {' '.join(transfer)} is there twice")
        accuracies[transfer] = _number(path, line, row, "accuracy")
        for method in methods:
            scores[method][0][transfer] = _number(path, line, row, method)
    if not accuracies:
        raise OracleError(f"{path} has no row")
    return Read(accuracies, scores)


def _scores(path: Path, accuracies: dict[Transfer, float]) -> Scores:
    head, rows = _rows(path)
    names = oracle.COLUMNS[:3] if "Architecture" in head else LONG[:2]
    methods = [name for name in head if name and name not in (RUN, *names)]
    if lacking := [name for name in names if name not in head]:
        raise OracleError(f"{path} has no column {', '.join(lacking)}")
    if not methods or not rows:
        raise OracleError(f"{path} has no {'row' if methods else 'column of scores'}")
    runs: dict[str, dict[str, dict[Transfer, float]]] = {method: {} for method in methods}
    seen: set[tuple[str, Transfer]] = set()
    for line, row in rows:
        transfer = _transfer(path, line, row)
        run = row.get(RUN) or ""
        if transfer not in accuracies:
            raise OracleError(f"{path} line {line}: {' '.join(transfer)} has no accuracy")
        if (run, transfer) in seen:
            raise OracleError(f"{path} line {line}: {' '.join(transfer)} is there twice")
        seen.add((run, transfer))
        for method in methods:
            runs[method].setdefault(run, {})[transfer] = _number(path, line, row, method)
    return {method: list(of_runs.values()) for method, of_runs in runs.items()}


def _transfer(path: Path, line: int, row: dict[str, str]) -> Transfer:
    if "Architecture" in row:
        cells = [row[name] for name in oracle.COLUMNS[:3]]
    else:
        cells = [row["model"], "", row["target"]]
    if not all((cells[0], cells[2])):
        raise OracleError(f"{path} line {line}: a cell is empty")
    return Transfer(*cells)


def _number(path: Path, line: int, row: dict[str, str], column: str) -> float:
    cell = row[column]
    try:
        return files.number(cell) if cell != "" else math.nan
    except ValueError:
        raise OracleError(f"{path} line {line}: {column} is {cell!r}; expected a number") from None


def read_times(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each stage, and per method the median milliseconds of a transfer, of times.csv.

    Raises:
        FileNotFoundError: it is not there.
        OracleError: it is no such table.
    """
    head, rows = _rows(path)
    if lacking := [name for name in TIMES if name not in head]:
        raise OracleError(f"{path} has no column {', '.join(lacking)}")
    stages: dict[str, float] = defaultdict(float)
    transfers: dict[str, list[float]] = defaultdict(list)
    for line, row in rows:
        seconds, items = (_number(path, line, row, name) for name in ("Seconds", "Items"))
        if not items > 0:
            raise OracleError(f"{path} line {line}: Items is {row['Items']!r}; expected above 0")
        stages[row["Stage"]] += seconds
        if row["Method"]:
            transfers[row["Method"]].append(1e3 * seconds / items)
    return dict(stages), {method: statistics.median(ms) for method, ms in transfers.items()}
