"""Read a bank from a folder with one file of features per model, written by any framework.

A file is a `.npy` with the features (n, d), or an `.npz` with `features` and optionally `probs`
(n, z), `labels` (`y` in the probe files of the benchmarks) and `label_kind`. Shapes are read at
once and contents only when they are scored, so a bank may be larger than memory. Nothing is
unpickled. Damage to an `.npz` is detected; a `.npy` has no checksum.
"""

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import array_files, files, printing
from jaxparc.errors import InputError
from jaxparc.labels import is_missing

LABELS_FILE = "labels.npy"
LABELS = ("labels", "y")  # members of an .npz; the first one present is used


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayFile:
    """An array on disk, whose shape is known; `np.asarray` reads its content.

    Attributes:
        path: path of a .npy or .npz file.
        member: name of the array in an .npz; "" for a .npy.
        shape: shape of the array.
        dtype: dtype of the array.
    """

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read the file; the CRC of an .npz is checked."""
        del copy  # the array is always new
        try:
            with array_files.Archive(self.path) as archive:
                array = archive[self.member]
        except (OSError, KeyError) as error:  # it existed when the bank was opened
            raise InputError(f"{self.path} cannot be read: {printing.reason(error)}") from error
        return array if dtype is None else array.astype(dtype)


class Bank(NamedTuple):
    """The features of a bank on one probe set, such as the content of a folder.

    Attributes:
        features: model -> features (n, d), an `ArrayFile` or an array.
        probs: model -> class probabilities (n, z), likewise; models without them are absent.
        labels: as `jaxparc.score_bank` takes them.
        reference: name of the model that serves as the reference; None if it is not in the folder.
        label_kind: as `jaxparc.score_bank` takes it.
        images: numbers of the images, (n,) int, by which several probe sets know those that they
            share; None if they share none.
    """

    features: Mapping[str, Any]
    probs: Mapping[str, Any]
    labels: np.ndarray
    reference: str | None = None
    label_kind: str | None = None
    images: np.ndarray | None = None


def read_bank(
    folder: str | Path,
    labels: str | Path | None = None,
    *,
    reference: str | Path | None = None,
    label_kind: str | None = None,
) -> Bank:
    """Open a folder of feature files.

    Args:
        folder: folder with one `.npz` or `.npy` per model, named after the model; other files are
            skipped.
        labels: a file for `read_labels`; by default `labels.npy` in the folder, else the labels in
            the model files, which must then be identical in all of them.
        reference: file of the reference model; if it is in the folder, it may lack labels.
        label_kind: as `jaxparc.score_bank` takes it; by default the text `label_kind` in the model
            files, if the labels are from there and these have it.

    Raises:
        InputError: the folder or a file does not exist, the folder holds no model, a file cannot be
            read or has no features, two files have one name, or labels are missing, differ between
            models or begin with a column header.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one with .npz or .npy files")
    left_out = {(folder / LABELS_FILE).resolve()}
    left_out |= set() if labels is None else {Path(labels).resolve()}
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".npz", ".npy")
        and not path.name.startswith(".")
        and path.resolve() not in left_out
    )
    if not paths:
        raise InputError(f"{folder} holds no .npz or .npy file of a model's features")
    members: dict[str, dict[str, ArrayFile]] = {}
    for path in paths:
        name = files.stem_of(path)
        if name in members:
            raise InputError(f"{folder} holds {name}.npy and {name}.npz; expected one")
        members[name] = arrays = arrays_of(path)
        if "features" not in arrays:
            found = ", ".join(arrays) or "nothing"
            raise InputError(f"{path} holds {found}; expected an array 'features'")
        for what in ("features", "probs"):
            if what in arrays and arrays[what].dtype.kind not in "biuf":
                raise InputError(f"{path}: {what} are {arrays[what].dtype}; expected numbers")
    itself = None
    if reference is not None:
        target = Path(reference).resolve()
        where = {name: arrays["features"].path.resolve() for name, arrays in members.items()}
        itself = next((name for name, path in where.items() if path == target), None)
    labelled = {
        name: arrays
        for name, arrays in members.items()
        if name != itself or not arrays.keys().isdisjoint(LABELS)
    }
    values, recorded = _labels(folder, labels, labelled or members, label_kind)
    return Bank(
        {name: arrays["features"] for name, arrays in members.items()},
        {name: arrays["probs"] for name, arrays in members.items() if "probs" in arrays},
        values,
        itself,
        label_kind or recorded,
    )


def read_labels(path: str | Path, kind: str | None = None) -> np.ndarray:
    """Read labels: an array in any form that `score_bank` takes, or text with one label per line.

    Lines are read as integers if all of them are canonical integers, and as strings otherwise: `1`,
    `01` and `1_0` are three labels. If `kind` is "values", all must be numbers.

    Raises:
        InputError: the file cannot be read, is empty, or holds an empty line, a missing label,
            several columns, or a label that is not of the kind.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return np.asarray(read_array(path, "labels"))
    if path.suffix == ".npz":
        held = arrays_of(path)
        return np.asarray(read_array(path, next((m for m in LABELS if m in held), LABELS[0])))
    try:
        found = [line.strip() for line in files.read_text(path).split("\n")]
    except OSError as error:
        raise InputError(f"{path} cannot be read as labels: {printing.reason(error)}") from error
    while found and not found[-1]:
        found.pop()
    if not found or not all(found):
        what = f"line {found.index('') + 1} is empty" if found else "it is empty"
        raise InputError(f"{path}: {what}; expected one label per line")
    if path.suffix.lower() in (".csv", ".tsv"):
        columns = max((next(csv.reader(found[:1], delimiter=d)) for d in ",;\t"), key=len)
        if len(columns) > 1:
            raise InputError(
                f"{path} has the columns {', '.join(columns)}; expected one label per line"
            )
    if missing := [number for number, label in enumerate(found, start=1) if is_missing(label)]:
        raise InputError(
            f"{path}: {len(missing)} of {len(found)} labels are missing, the first on line "
            f"{missing[0]} ({found[missing[0] - 1]!r}); expected one label per line, and no class "
            "named like a missing value"
        )
    if kind == "values":
        return np.array([_value(path, line, text) for line, text in enumerate(found, start=1)])
    whole = all(_INTEGER.fullmatch(label) for label in found)
    return np.array([int(label) for label in found]) if whole else np.array(found)


def _value(path: Path, line: int, text: str) -> float:
    try:
        return files.number(text)
    except ValueError:
        raise InputError(f"{path} line {line}: {text!r}; expected a number") from None


_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # fits into int64, as `str` writes it


def read_array(path: str | Path, member: str) -> ArrayFile:
    """Open the array of a .npy file, or the array of a given name in an .npz.

    Raises:
        InputError: the array does not exist, or the file cannot be read.
    """
    arrays = arrays_of(Path(path))
    if "features" in arrays and arrays["features"].member == array_files.ONLY:
        return arrays["features"]
    if member not in arrays:
        found = ", ".join(arrays) or "nothing"
        raise InputError(f"{path} holds {found}; expected an array {member!r}")
    return arrays[member]


def read_facts(
    path: str | Path, names: Sequence[str], others: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Read the numbers of layers or source images of models from a CSV file.

    Args:
        path: CSV file with the columns model, and layers or source_images or both.
        names: models that must each have a row.
        others: models that may have a row; the rows of any further models are skipped.

    Returns:
        Column -> model -> number, for the columns present.

    Raises:
        InputError: the file cannot be read, a column or a model is missing, a model has two rows,
            or a cell is not a positive number.
    """
    try:
        head, table = files.read_table(Path(path), ours=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {printing.reason(error)}") from error
    if "model" not in head:
        raise InputError(f"{path} has no column 'model'")
    columns = [column for column in ("layers", "source_images") if column in head]
    rows: dict[str, files.Row] = {}
    for row in table:
        first = rows.setdefault(row.cells["model"], row)
        if first is not row:
            raise InputError(
                f"{path} line {row.line}: model {row.cells['model']!r} is also on line {first.line}"
            )
    if not columns:
        raise InputError(f"{path} has neither a column 'layers' nor 'source_images'")
    facts: dict[str, dict[str, float]] = {column: {} for column in columns}
    for name in (*names, *(other for other in others if other in rows)):
        if name not in rows:
            raise InputError(f"{path} has no row for model {name!r}")
        row = rows[name]
        for column in columns:
            try:
                facts[column][name] = files.number(row.cells[column])
            except ValueError:
                facts[column][name] = float("nan")
            if not 0 < facts[column][name] < float("inf"):
                raise InputError(
                    f"{path} line {row.line}: {column} is {row.cells[column]!r}; expected a number "
                    "above 0"
                )
    return facts


def arrays_of(path: Path) -> dict[str, ArrayFile]:
    """Open the arrays of a file, reading only their headers; the array of a .npy is "features".

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with array_files.Archive(path) as archive:
            return {
                name or "features": ArrayFile(path, name, header.shape, header.dtype)
                for name, header in archive.headers.items()
            }
    except OSError as error:
        raise InputError(f"{path} cannot be read: {printing.reason(error)}") from error


def _labels(
    folder: Path,
    given: str | Path | None,
    members: Mapping[str, Mapping[str, ArrayFile]],
    kind: str | None,
) -> tuple[np.ndarray, str | None]:
    """Return the labels of a folder, and their kind if the models' files say it."""
    if given is None and (folder / LABELS_FILE).exists():
        given = folder / LABELS_FILE
    if given is not None:
        labels = read_labels(given, kind)
        images = {arrays["features"].shape[:1] for arrays in members.values()}
        if labels.dtype.kind == "U" and images == {(len(labels) - 1,)}:
            raise InputError(
                f"{given} has {printing.count(len(labels), 'label')} for "
                f"{printing.count(len(labels) - 1, 'image')}; the first one, {str(labels[0])!r}, "
                "seems to be a column header"
            )
        return labels, None
    first: tuple[str, np.ndarray] | None = None
    recorded: dict[str, str] = {}  # kind -> a model whose file says so
    for name, arrays in members.items():
        key = next((key for key in LABELS if key in arrays), None)
        if key is None:
            raise InputError(
                f"model {name!r} has no labels; expected them in every model's file, in "
                f"{folder / LABELS_FILE}, or in a separate file (--labels)"
            )
        labels = np.asarray(arrays[key])
        if first is None:
            first = name, labels
        elif not np.array_equal(first[1], labels):
            raise InputError(
                f"labels of model {name!r} differ from those of {first[0]!r}; expected features of "
                "the same images in the same order"
            )
        if "label_kind" in arrays:
            recorded.setdefault(str(np.asarray(arrays["label_kind"])), name)
    if len(recorded) > 1:
        said = ", ".join(f"{kind} (model {name!r})" for kind, name in recorded.items())
        raise InputError(f"{folder}: label_kind differs between models: {said}")
    assert first is not None
    return first[1], next(iter(recorded), None)
