"""Tables of accuracies after fine-tuning, ours or published: read, and every row checked."""

import math
from pathlib import Path

from jaxparc import files, models
from jaxparc.errors import InputError
from jaxparc.evaluation import Transfer

COLUMNS = ("Architecture", "Source Dataset", "Target Dataset", "Oracle")
NOT_AVAILABLE = -1  # what a published table has where an accuracy is not known


class OracleError(InputError):
    """A table cannot be taken; the message names the file and the line."""


def read(path: Path) -> dict[Transfer, float]:
    """The accuracy of every transfer, in percent.

    NaN where it is not available: an empty cell, as we write it where every run diverged, or -1, as
    the published table of the crowd-sourced benchmark has it.

    Raises:
        FileNotFoundError: it is not there.
        OracleError: a column is missing, or a row names an unknown architecture, or is there twice,
            or has an accuracy outside [0, 100].
    """
    try:
        columns, rows = files.read_table(path, ours=True)
    except ValueError as error:
        raise OracleError(str(error)) from error
    if lacking := [column for column in COLUMNS if column not in columns]:
        raise OracleError(f"{path} has no column {', '.join(lacking)}")
    found: dict[Transfer, float] = {}
    lines: dict[Transfer, int] = {}
    for line, row in rows:
        where = f"{path} line {line}"
        cells = [row[column] for column in COLUMNS]
        if not all(cells[:3]):
            raise OracleError(f"{where}: a cell is empty")
        transfer = Transfer(*cells[:3])
        if transfer.architecture not in models.MODELS:
            raise OracleError(
                f"{where}: unknown architecture {transfer.architecture!r}; "
                f"known: {', '.join(models.MODELS)}"
            )
        if transfer in lines:
            raise OracleError(f"{where}: {' '.join(transfer)} is in line {lines[transfer]} too")
        lines[transfer] = line
        found[transfer] = _accuracy(where, cells[3])
    return found


def _accuracy(where: str, cell: str) -> float:
    if not cell:
        return math.nan
    try:
        accuracy = files.number(cell)
    except ValueError:
        accuracy = math.nan
    if accuracy == NOT_AVAILABLE:
        return math.nan
    if not 0 <= accuracy <= 100:
        raise OracleError(f"{where}: Oracle is {cell!r}; expected a percentage in [0, 100], or -1")
    return accuracy
