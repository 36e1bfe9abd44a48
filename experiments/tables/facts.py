"""Read facts about models, such as their layers and parameters, from a JSON or CSV file."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxparc import files, printing
from jaxparc.errors import InputError


class Facts(NamedTuple):
    """Facts about models.

    Attributes:
        path: file that they were read from, for messages.
        cells: model -> column -> text; "" if unknown.
    """

    path: str
    cells: Mapping[str, Mapping[str, str]]

    def columns(self) -> list[str]:
        """Return the names of all columns, in order of appearance."""
        return list(dict.fromkeys(column for row in self.cells.values() for column in row))

    def texts(self, column: str, models: Iterable[str]) -> dict[str, str]:
        """Return the text of a column by model; "" if unknown.

        Raises:
            InputError: the column does not exist, or a model has no row.
        """
        if column not in self.columns():
            raise InputError(
                f"{self.path} has no column {column!r}; known: {', '.join(self.columns())}"
            )
        models = list(models)
        if lacking := [model for model in models if model not in self.cells]:
            raise InputError(f"{self.path} has no row for model {lacking[0]!r}")
        return {model: self.cells[model].get(column, "") for model in models}

    def numbers(self, column: str, models: Iterable[str]) -> dict[str, float]:
        """Return the number in a column by model; NaN if unknown.

        Raises:
            InputError: as for `texts`, or a cell is not a number.
        """
        numbers = {}
        for model, text in self.texts(column, models).items():
            try:
                numbers[model] = files.number(text) if text else math.nan
            except InputError:
                raise InputError(
                    f"{self.path}: {column} of model {model!r} is {text!r}; expected a number"
                ) from None
        return numbers


def read_facts(path: Path) -> Facts:
    """Read facts from JSON, {model: {column: value}}, or from CSV with a column model.

    Raises:
        InputError: the file cannot be read, has another form, or has two rows for a model.
    """
    try:
        if path.suffix.lower() == ".json":
            return Facts(str(path), _of_json(path))
        head, rows = files.read_table(path, ours=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {printing.reason(error)}") from error
    if "model" not in head:
        raise InputError(f"{path} has no column 'model'")
    cells: dict[str, Mapping[str, str]] = {}
    for row in rows:
        model = row.cells["model"]
        if model in cells:
            raise InputError(f"{path} line {row.line}: duplicate model {model!r}")
        cells[model] = {column: cell for column, cell in row.cells.items() if column != "model"}
    return Facts(str(path), cells)


def _of_json(path: Path) -> dict[str, Mapping[str, str]]:
    try:
        content = json.loads(files.read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise InputError(f"{path}: expected an object with an object of facts for each model")
    return {
        model: {key: "" if value is None else str(value) for key, value in facts.items()}
        for model, facts in content.items()
    }
