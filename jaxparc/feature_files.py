"""A bank as people keep it: a folder with one file of features per model, from any framework.

A file is a `.npy` with the features (n, d), or an `.npz` with `features` and, if it has them,
`probs` (n, z) and `labels` (`y` in the probe files of the benchmarks). Shapes are read at once,
contents when they are scored, so a bank larger than memory goes through. Nothing is unpickled.
"""

import csv
import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import files
from jaxparc.labels import is_missing

LABELS_FILE = "labels.npy"
LABELS = ("labels", "y")  # members of an .npz, the first that is there
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayFile:
    """An array on disk: its shape is known, `np.asarray` reads it.

    Attributes:
        path: of a .npy or .npz file.
        member: of the .npz; None for a .npy.
        shape: of the array.
        dtype: likewise.
    """

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the file; a .npz checks its CRC on the way."""
        del copy  # it is always a new array
        try:
            with self.path.open("rb") as file:
                loaded = files.load_arrays(file)
                array = loaded if self.member is None else loaded[self.member]
        except Exception as error:  # zipfile and NumPy raise a dozen kinds on broken bytes
            raise ValueError(f"{self.path} cannot be read: {error}") from error
        return array if dtype is None else array.astype(dtype)


class Bank(NamedTuple):
    """What a folder holds.

    Attributes:
        features: per model, (n, d).
        probs: per model that has them, (n, z).
        labels: as `jaxparc.score_bank` takes them.
    """

    features: dict[str, ArrayFile]
    probs: dict[str, ArrayFile]
    labels: np.ndarray


def read_bank(
    folder: str | Path, labels: str | Path | None = None, *, leave_out: str | Path | None = None
) -> Bank:
    """Opens a folder of feature files.

    Args:
        folder: one `.npz` or `.npy` per model, which is named as the file without its ending; other
            files are passed over.
        labels: a file for `read_labels`; by default `labels.npy` in the folder, else the labels in
            the model files, which must then be identical in all of them.
        leave_out: a file in the folder that is no model of the bank.

    Raises:
        ValueError: there is no such folder or file, no model in it, a file cannot be read or has no
            features, two have one name, or labels are missing or differ; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one of .npz or .npy files")
    left_out = {folder / LABELS_FILE, *(Path(p) for p in (labels, leave_out) if p is not None)}
    left_out = {path.resolve() for path in left_out}
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".npz", ".npy")
        and not path.name.startswith(".")
        and path.resolve() not in left_out
    )
    if not paths:
        raise ValueError(f"{folder} holds no .npz or .npy file of a model's features")
    members: dict[str, dict[str, ArrayFile]] = {}
    for path in paths:
        if path.stem in members:
            raise ValueError(f"{folder} holds {path.stem}.npy and {path.stem}.npz; expected one")
        members[path.stem] = arrays = _arrays(path)
        if "features" not in arrays:
            found = ", ".join(arrays) or "nothing"
            raise ValueError(f"{path} holds {found}; expected an array 'features'")
        for what in ("features", "probs"):
            if what in arrays and arrays[what].dtype.kind not in "biuf":
                raise ValueError(f"{path}: {what} are {arrays[what].dtype}; expected numbers")
    return Bank(
        {name: arrays["features"] for name, arrays in members.items()},
        {name: arrays["probs"] for name, arrays in members.items() if "probs" in arrays},
        _labels(folder, labels, members),
    )


def read_labels(path: str | Path) -> np.ndarray:
    """Labels of a file: a .npy of any form that `score_bank` takes, or text with one per line.

    Raises:
        ValueError: it cannot be read, or holds nothing.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return np.asarray(read_array(path, "labels"))
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as labels: {_reason(error)}") from error
    found = [line.strip() for line in lines]
    while found and not found[-1]:
        found.pop()
    if not found or not all(found):
        what = f"line {found.index('') + 1} is empty" if found else "it is empty"
        raise ValueError(f"{path}: {what}; expected one label per line")
    if missing := [number for number, label in enumerate(found, start=1) if is_missing(label)]:
        raise ValueError(
            f"{path}: {len(missing)} of {len(found)} labels are missing, the first in line "
            f"{missing[0]} ({found[missing[0] - 1]!r}); expected one label per line, and none of "
            "these words as a class"
        )
    try:
        return np.array([int(label) for label in found])
    except ValueError:
        return np.array(found)


def read_array(path: str | Path, member: str) -> ArrayFile:
    """An array of a .npy file, or of an .npz by its name.

    Raises:
        ValueError: it is not there, or cannot be read.
    """
    arrays = _arrays(Path(path))
    if Path(path).suffix == ".npy":
        return arrays["features"]
    if member not in arrays:
        raise ValueError(f"{path} holds {', '.join(arrays)}; expected an array {member!r}")
    return arrays[member]


def read_facts(path: str | Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """What methods want to know of models besides their features, from a CSV file.

    Args:
        path: columns model, and layers or source_images or both.
        names: of the models, each of which needs a row; rows of others are passed over.

    Returns:
        Per column that is there, the number of every model.

    Raises:
        ValueError: it cannot be read, a column or a model is missing, or a cell is no positive
            number.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = {row["model"]: (number, row) for number, row in enumerate(reader, start=2)}
            if "model" not in (reader.fieldnames or ()):
                raise KeyError("model")
            columns = [c for c in ("layers", "source_images") if c in (reader.fieldnames or ())]
    except KeyError:
        raise ValueError(f"{path} has no column 'model'") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error
    if not columns:
        raise ValueError(f"{path} has neither a column 'layers' nor 'source_images'")
    facts: dict[str, dict[str, float]] = {column: {} for column in columns}
    for name in names:
        if name not in rows:
            raise ValueError(f"{path} has no row for model {name!r}")
        number, row = rows[name]
        for column in columns:
            try:
                facts[column][name] = float(row[column])
            except (TypeError, ValueError):
                facts[column][name] = float("nan")
            if not 0 < facts[column][name] < float("inf"):
                raise ValueError(
                    f"{path} line {number}: {column} is {row[column]!r}; expected a number above 0"
                )
    return facts


def _arrays(path: Path) -> dict[str, ArrayFile]:
    """The arrays of a file, by their headers alone; that of a .npy is called features."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return {"features": ArrayFile(path, None, *_header(file))}
        found = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        member = name.removesuffix(".npy")
                        found[member] = ArrayFile(path, member, *_header(file))
        return found
    except Exception as error:  # as many kinds as in ArrayFile
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"format {version} of .npy files is not known")
    shape, _, dtype = _HEADERS[version](file)
    return shape, dtype


def _labels(
    folder: Path, given: str | Path | None, members: Mapping[str, Mapping[str, ArrayFile]]
) -> np.ndarray:
    if given is not None:
        return read_labels(given)
    if (folder / LABELS_FILE).exists():
        return read_labels(folder / LABELS_FILE)
    first: tuple[str, np.ndarray] | None = None
    for name, arrays in members.items():
        key = next((key for key in LABELS if key in arrays), None)
        if key is None:
            raise ValueError(
                f"model {name!r} comes without labels; expected them in every model's file, in "
                f"{folder / LABELS_FILE}, or in a file of their own (--labels)"
            )
        labels = np.asarray(arrays[key])
        if first is None:
            first = name, labels
        elif not np.array_equal(first[1], labels):
            raise ValueError(
                f"labels of model {name!r} differ from those of {first[0]!r}; all models must have "
                "seen the same images in the same order"
            )
    assert first is not None
    return first[1]


def _reason(error: Exception) -> str:
    """What went wrong, without the path, which the message has already."""
    return str(getattr(error, "strerror", None) or error)
