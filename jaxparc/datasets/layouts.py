"""The layouts of user images: class folders (`folders`), CSV files, and arrays in .npz files."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jaxparc import array_files, files
from jaxparc.datasets import folders
from jaxparc.datasets.folders import Item, Listing
from jaxparc.datasets.specs import DatasetError

NPZ_NAMES = (
    ("images", "labels", "test_images", "test_labels"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


def read_csv(where: Path, values: str = "") -> Listing:
    """Read the columns path (absolute, or relative to the file), label and optionally split.

    Args:
      where: the file.
      values: a column of numbers to read in place of label; "" for label.

    Raises:
      DatasetError: the file cannot be read, lacks a column, or a cell is invalid.
    """
    target = " ".join(values.lower().split()) or "label"
    try:
        columns, table = files.read_table(where)
    except OSError as error:
        raise DatasetError(f"csv:{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        flaw = str(error).removeprefix(f"{where} ")
        raise DatasetError(f"csv:{where} cannot be read: {flaw}") from error
    names = [" ".join(name.lower().split()) for name in columns]
    if missing := {"path", target} - set(names):
        hint = ""
        if columns and missing == {"label"}:
            hint = " (for a column of numbers to predict, add its name: values=COLUMN)"
        raise DatasetError(
            f"csv:{where} has the columns {', '.join(columns) or 'none'}; missing: "
            f"{' and '.join(sorted(missing))}{hint}"
        )
    if duplicate := [name for name in ("path", target, "split") if names.count(name) > 1]:
        raise DatasetError(f"csv:{where}: duplicate column {duplicate[0]!r}")
    rows = [
        (row.line, dict(zip(names, map(str.strip, row.cells.values()), strict=True)))
        for row in table
    ]
    if incomplete := [(line, row) for line, row in rows if _is_incomplete(row, target)]:
        line, row = incomplete[0]
        what = "empty"
        if all(cell for cell in (row["path"], *row[target].split("|"))):
            what = f"missing ({row['path']}, {row[target]})"
        others = len(incomplete) - 1
        more = f"; likewise in {others} more of {len(rows)} rows" if others else ""
        raise DatasetError(f"csv:{where} line {line}: path or {target} is {what}{more}")
    groups: dict[str, list[Item]] = {}
    lines: dict[str, int] = {}
    several = not values and any("|" in row["label"] for _, row in rows)
    for number, row in rows:
        if "\0" in "".join(row.values()):
            raise DatasetError(f"csv:{where} line {number} holds a NUL character; expected text")
        path = where.parent / os.path.expanduser(row["path"])
        real = os.path.realpath(path)
        if real in lines:
            hint = "" if values else "; write several labels of an image as a|b"
            raise DatasetError(
                f"csv:{where} line {number}: duplicate image {row['path']}, also in line "
                f"{lines[real]}{hint}"
            )
        lines[real] = number
        split = folders.split_of(row.get("split") or "train")
        if split is None:
            raise DatasetError(
                f"csv:{where} line {number}: split is {row['split']!r}; known: {folders.KNOWN}"
            )
        label: str | float | tuple[str, ...] = row[target]
        if values:
            label = _value(f"csv:{where} line {number}: {target}", row[target])
        elif several:
            label = tuple(dict.fromkeys(one.strip() for one in row[target].split("|")))
        groups.setdefault(split, []).append(Item(path, label))
    if not groups.get("train"):
        raise DatasetError(f"csv:{where} has no images in the split train")
    found = Listing({"train": groups.pop("train")})
    if test := folders.test_split(groups):
        found.groups["test"] = groups.pop(test)
    for split, items in groups.items():
        found.skipped[f"images of {split} beside a test split"] += len(items)
    return found


def _value(what: str, cell: str) -> float:
    try:
        number = files.number(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DatasetError(f"{what} is {cell!r}; expected a finite number, such as -0.5 or 1e3")
    return number


def _is_incomplete(row: Mapping[str, str], target: str) -> bool:
    cells = (row["path"], *map(str.strip, row[target].split("|")))
    return any(not cell or cell in files.MISSING for cell in cells)


def _read_npz(root: Path) -> Listing:
    """Read arrays of images and labels, under their usual names."""
    where = f"npz:{root}"
    try:
        with array_files.Archive(root) as archive:
            if array_files.ONLY in archive:
                raise DatasetError(
                    f"{where} is a single array; expected images and labels in an .npz"
                )
            members = list(archive)
            names = next((n for n in NPZ_NAMES if set(n[:2]) <= set(members)), None)
            if names is None:
                raise DatasetError(
                    f"{where} holds {', '.join(members) or 'nothing'}; expected images and labels"
                )
            found = {name: _member(where, archive, name) for name in names if name in members}
    except DatasetError:
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen kinds on broken bytes
        raise DatasetError(f"{where} cannot be read: {error}") from error
    listing = Listing({})
    for split, (pixels, labels) in {"train": names[:2], "test": names[2:]}.items():
        if pixels in found and labels in found:
            pairs = _pairs(where, pixels, found.pop(pixels), labels, found.pop(labels))
            listing.groups[split] = pairs
    unused = [member for member in members if member not in names or member in found]
    listing.skipped.update(f"array {name}" for name in unused[: folders.SHOWN])
    listing.skipped["other arrays"] += len(unused[folders.SHOWN :])
    listing.skipped = +listing.skipped
    return listing


def _member(where: str, archive: array_files.Archive, name: str) -> np.ndarray:
    if archive.headers[name].dtype.hasobject:
        raise DatasetError(
            f"{where} cannot be read: {name} holds Python objects, such as images of several sizes "
            "or missing labels; expected images uint8 (n, h, w) or (n, h, w, 3), and labels "
            "integers or strings; use files, as folder: or csv:, for images of several sizes"
        )
    return archive[name]


def _pairs(where: str, pixels: str, x: np.ndarray, labels: str, y: np.ndarray) -> list[Item]:
    if x.dtype != np.uint8 or not (x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))):
        raise DatasetError(
            f"{where}: {pixels} is {x.dtype} {x.shape}; expected uint8 (n, h, w) or (n, h, w, 3)"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape[:1] != x.shape[:1] or y.ndim > 2 or y.dtype.kind not in "biuUS":
        hint = ""
        if y.dtype.kind == "f":
            absent = int(np.isnan(y).sum())
            hint = f"; {absent} are NaN" if absent else f"; convert with {labels}.astype(int)"
        raise DatasetError(
            f"{where}: {labels} is {y.dtype} {y.shape}, for {len(x)} images; expected ({len(x)},) "
            f"integers or strings, or (n, c) multi-hot{hint}"
        )
    if not x.size:
        raise DatasetError(f"{where}: {pixels} holds no images")
    x = x[..., 0] if x.ndim == 4 and x.shape[3] == 1 else x
    if y.ndim == 1:
        try:
            words = (np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y.astype(str)).tolist()
        except UnicodeDecodeError as error:
            raise DatasetError(f"{where}: {labels} is not UTF-8: {error.reason}") from error
        if missing := [i for i, w in enumerate(words) if w in files.MISSING or not w.strip()]:
            raise DatasetError(
                f"{where}: {labels} has {len(missing)} missing labels; the first is "
                f"{words[missing[0]]!r} at index {missing[0]}"
            )
        return [Item(image, label) for image, label in zip(x, words, strict=True)]
    if not np.isin(y, (0, 1)).all() or not y.any(axis=1).all():
        raise DatasetError(
            f"{where}: {labels} is not multi-hot; expected zeros and ones, and a one in each row"
        )
    return [
        Item(image, tuple(map(str, np.flatnonzero(row)))) for image, row in zip(x, y, strict=True)
    ]


READERS: Mapping[str, Callable[[Path], Listing]] = MappingProxyType(
    {"folder": folders.read, "csv": read_csv, "npz": _read_npz}
)
