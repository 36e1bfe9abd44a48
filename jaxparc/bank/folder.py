"""A bank as people keep it: a folder with one file of features per model, from any framework.

A file is a `.npy` with the features (n, d), or an `.npz` with `features` and, if it has them,
`probs` (n, z) and `labels` (`y` in the probe files of the benchmarks). Shapes are read at once,
contents when they are scored, so a bank larger than memory goes through. Nothing is unpickled. A
damaged `.npz` is noticed; a `.npy` has no checksum.
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
LABELS = ("labels", "y")  # members of an .npz, the first that is there


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayFile:
    """An array on disk: its shape is known, `np.asarray` reads it.

    Attributes:
        path: of a .npy or .npz file.
        member: of the .npz; "" for a .npy.
        shape: of the array.
        dtype: likewise.
    """

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the file; the CRC of an .npz is checked on the way."""
        del copy  # it is always a new array
        try:
            with array_files.Archive(self.path) as archive:
                array = archive[self.member]
        except (OSError, KeyError) as error:  # it was there when the bank was opened
            raise InputError(f"{self.path} cannot be read: {printing.reason(error)}") from error
        return array if dtype is None else array.astype(dtype)


class Bank(NamedTuple):
    """What a folder holds.

    Attributes:
        features: per model, (n, d).
        probs: per model that has them, (n, z).
        labels: as `jaxparc.score_bank` takes them.
        reference: the model that is the reference, if one is.
    """

    features: dict[str, ArrayFile]
    probs: dict[str, ArrayFile]
    labels: np.ndarray
    reference: str | None = None


def read_bank(
    folder: str | Path, labels: str | Path | None = None, *, reference: str | Path | None = None
) -> Bank:
    """Opens a folder of feature files.

    Args:
        folder: one `.npz` or `.npy` per model, which is named as the file without its ending; other
            files are passed over.
        labels: a file for `read_labels`; by default `labels.npy` in the folder, else the labels in
            the model files, which must then be identical in all of them.
        reference: a file that may be one of the folder's; it may come without labels.

    Raises:
        ValueError: there is no such folder or file, no model in it, a file cannot be read or has no
            features, two have one name, or labels are missing, differ, or begin with the head of
            their column; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected one of .npz or .npy files")
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
    return Bank(
        {name: arrays["features"] for name, arrays in members.items()},
        {name: arrays["probs"] for name, arrays in members.items() if "probs" in arrays},
        _labels(folder, labels, labelled or members),
        itself,
    )


def read_labels(path: str | Path) -> np.ndarray:
    """Labels of a file: arrays of any form that `score_bank` takes, or text with one per line.

    Lines are integers if all of them are written as integers are, and words otherwise: `1`, `01`
    and `1_0` are three labels.

    Raises:
        ValueError: it cannot be read, or holds nothing, an empty line or several columns.
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
            f"{path}: {len(missing)} of {len(found)} labels are missing, the first in line "
            f"{missing[0]} ({found[missing[0] - 1]!r}); expected one label per line, and none of "
            "these words as a class"
        )
    whole = all(_INTEGER.fullmatch(label) for label in found)
    return np.array([int(label) for label in found]) if whole else np.array(found)


_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # what int64 holds, as `str` writes it


def read_array(path: str | Path, member: str) -> ArrayFile:
    """An array of a .npy file, or of an .npz by its name.

    Raises:
        ValueError: it is not there, or cannot be read.
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
    """What methods want to know of models besides their features, from a CSV file.

    Args:
        path: columns model, and layers or source_images or both.
        names: of the models, each of which needs a row.
        others: that may have one; rows of none of these are passed over.

    Returns:
        Per column that is there, the number of every model with a row.

    Raises:
        ValueError: it cannot be read, a column or a model is missing, a model is there twice, or a
            cell is no positive number.
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
                f"{path} line {row.line}: model {row.cells['model']!r} is in line {first.line} too"
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
    """Open the arrays of a file, reading their headers alone; that of a .npy is called features.

    Raises:
        ValueError: the file cannot be read.
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
    folder: Path, given: str | Path | None, members: Mapping[str, Mapping[str, ArrayFile]]
) -> np.ndarray:
    if given is None and (folder / LABELS_FILE).exists():
        given = folder / LABELS_FILE
    if given is not None:
        labels = read_labels(given)
        seen = {arrays["features"].shape[:1] for arrays in members.values()}
        if labels.dtype.kind == "U" and seen == {(len(labels) - 1,)}:
            raise InputError(
                f"{given} has {printing.count(len(labels), 'label')} for "
                f"{printing.count(len(labels) - 1, 'image')}; the first one, {str(labels[0])!r}, "
                "seems to be the head of their column"
            )
        return labels
    first: tuple[str, np.ndarray] | None = None
    for name, arrays in members.items():
        key = next((key for key in LABELS if key in arrays), None)
        if key is None:
            raise InputError(
                f"model {name!r} comes without labels; expected them in every model's file, in "
                f"{folder / LABELS_FILE}, or in a file of their own (--labels)"
            )
        labels = np.asarray(arrays[key])
        if first is None:
            first = name, labels
        elif not np.array_equal(first[1], labels):
            raise InputError(
                f"labels of model {name!r} differ from those of {first[0]!r}; all models must have "
                "seen the same images in the same order"
            )
    assert first is not None
    return first[1]
