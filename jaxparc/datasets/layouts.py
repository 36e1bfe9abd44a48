"""The forms that people's own images come in: class folders (`folders`), CSV files, arrays."""

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


def _read_csv(where: Path) -> Listing:
    """The columns path (from the file's own folder, or absolute), label and perhaps split."""
    try:
        columns, table = files.read_table(where)
    except OSError as error:
        raise DatasetError(f"csv:{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        flaw = str(error).removeprefix(f"{where} ")
        raise DatasetError(f"csv:{where} cannot be read: {flaw}") from error
    names = [name.strip().lower() for name in columns]
    if lacking := {"path", "label"} - set(names):
        raise DatasetError(
            f"csv:{where} has the columns {', '.join(columns) or 'none'}; it lacks "
            f"{' and '.join(sorted(lacking))}"
        )
    if twice := [name for name in ("path", "label", "split") if names.count(name) > 1]:
        raise DatasetError(f"csv:{where} has two columns {twice[0]!r}")
    rows = [
        (row.line, dict(zip(names, map(str.strip, row.cells.values()), strict=True)))
        for row in table
    ]
    if lost := [(line, row) for line, row in rows if _lacks(row)]:
        line, row = lost[0]
        what = "empty"
        if all(cell for cell in (row["path"], *row["label"].split("|"))):
            what = f"missing ({row['path']}, {row['label']})"
        more = f"; so it is in {len(lost) - 1} more of {len(rows)} rows" if lost[1:] else ""
        raise DatasetError(f"csv:{where} line {line}: path or label is {what}{more}")
    groups: dict[str, list[Item]] = {}
    lines: dict[str, int] = {}
    several = any("|" in row["label"] for _, row in rows)
    for number, row in rows:
        labels = tuple(dict.fromkeys(one.strip() for one in row["label"].split("|")))
        if "\0" in "".join(row.values()):
            raise DatasetError(f"csv:{where} line {number} holds a NUL; expected text")
        path = where.parent / os.path.expanduser(row["path"])
        real = os.path.realpath(path)
        if real in lines:
            raise DatasetError(
                f"csv:{where} line {number}: {row['path']} was in line {lines[real]} already; "
                "several labels of one image are written as a|b"
            )
        lines[real] = number
        split = folders.split_of(row.get("split") or "train")
        if split is None:
            raise DatasetError(
                f"csv:{where} line {number}: split is {row['split']!r}; known: {folders.KNOWN}"
            )
        groups.setdefault(split, []).append(Item(path, labels if several else row["label"]))
    if not groups.get("train"):
        raise DatasetError(f"csv:{where} lists no images to train on")
    found = Listing({"train": groups.pop("train")})
    if test := folders.tested(groups):
        found.groups["test"] = groups.pop(test)
    for split, items in groups.items():
        found.passed[f"images of {split} beside a test split"] += len(items)
    return found


def _lacks(row: Mapping[str, str]) -> bool:
    cells = (row["path"], *map(str.strip, row["label"].split("|")))
    return any(not cell or cell in files.MISSING for cell in cells)


def _read_npz(root: Path) -> Listing:
    """Arrays of images and labels, under the names that are usual."""
    where = f"npz:{root}"
    try:
        with array_files.Archive(root) as archive:
            if array_files.ONLY in archive:
                raise DatasetError(f"{where} is one array; expected images and labels in an .npz")
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
    listing.passed.update(f"array {name}" for name in unused[: folders.SHOWN])
    listing.passed["other arrays"] += len(unused[folders.SHOWN :])
    listing.passed = +listing.passed
    return listing


def _member(where: str, archive: array_files.Archive, name: str) -> np.ndarray:
    if archive.headers[name].dtype.hasobject:
        raise DatasetError(
            f"{where} cannot be read: {name} holds Python objects, as of images of several sizes "
            "or of missing labels; expected images uint8 (n, h, w) or (n, h, w, 3), and labels "
            "integers or words; images of several sizes can be files, as folder: or csv:"
        )
    return archive[name]


def _pairs(where: str, pixels: str, x: np.ndarray, labels: str, y: np.ndarray) -> list[Item]:
    if x.dtype != np.uint8 or not (x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))):
        raise DatasetError(
            f"{where}: {pixels} are {x.dtype} {x.shape}; expected uint8 (n, h, w) or (n, h, w, 3)"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape[:1] != x.shape[:1] or y.ndim > 2 or y.dtype.kind not in "biuUS":
        hint = ""
        if y.dtype.kind == "f":
            absent = int(np.isnan(y).sum())
            hint = f"; {absent} are NaN" if absent else f": {labels}.astype(int)"
        raise DatasetError(
            f"{where}: {labels} are {y.dtype} {y.shape}, for {len(x)} images; expected ({len(x)},) "
            f"integers or words, or (n, c) zeros and ones{hint}"
        )
    if not x.size:
        raise DatasetError(f"{where}: {pixels} holds no image")
    x = x[..., 0] if x.ndim == 4 and x.shape[3] == 1 else x
    if y.ndim == 1:
        try:
            words = (np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y.astype(str)).tolist()
        except UnicodeDecodeError as error:
            raise DatasetError(f"{where}: {labels} are not UTF-8: {error.reason}") from error
        if lost := [i for i, word in enumerate(words) if word in files.MISSING or not word.strip()]:
            raise DatasetError(
                f"{where}: {len(lost)} of {labels} are missing; the first is {words[lost[0]]!r} at "
                f"{lost[0]}"
            )
        return [Item(image, label) for image, label in zip(x, words, strict=True)]
    if not np.isin(y, (0, 1)).all() or not y.any(axis=1).all():
        raise DatasetError(f"{where}: rows of {labels} must be zeros and ones, with a one in each")
    return [
        Item(image, tuple(map(str, np.flatnonzero(row)))) for image, row in zip(x, y, strict=True)
    ]


READERS: Mapping[str, Callable[[Path], Listing]] = MappingProxyType(
    {"folder": folders.read, "csv": _read_csv, "npz": _read_npz}
)
