"""The forms that people's own images come in: class folders, CSV files, arrays."""

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxparc import array_files
from jaxparc.datasets.specs import DatasetError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# What people call the images that are not trained on; the first that is there is the test split.
TEST_NAMES = ("test", "val", "valid", "validation")
NPZ_NAMES = (
    ("images", "labels", "test_images", "test_labels"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


class Item(NamedTuple):
    """An image and its class, or classes, in the words of whoever made the set."""

    image: Any  # a Path, or (h, w[, 3]) uint8
    label: Any  # a string, or a tuple of strings


Groups = dict[str, list[Item]]
"""The images of each split; without test split of `train` alone."""


def _read_folder(root: Path) -> Groups:
    """One folder per class, in the folder itself or in one per split."""
    parts = {path.name.lower(): path for path in _subfolders(root)}
    test = next((name for name in TEST_NAMES if name in parts), None)
    if "train" not in parts or (test is None and len(parts) > 1):
        return {"train": _class_folders(root)}
    named = {"train": parts["train"]} | ({"test": parts[test]} if test else {})
    return {split: _class_folders(path) for split, path in named.items()}


def _subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_folders(path: Path) -> list[Item]:
    items = []
    for folder in _subfolders(path):
        found = [
            Item(file, folder.name)
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        ]
        if not found:
            raise DatasetError(
                f"folder:{path}: {folder.name} holds no image; expected one folder per class"
            )
        items += found
    if not items:
        raise DatasetError(f"folder:{path} holds no folders; expected one per class")
    return items


def _read_csv(where: Path) -> Groups:
    """The columns path (from the file's own folder, or absolute), label and perhaps split."""
    groups: Groups = {}
    lines: dict[Path, int] = {}
    try:
        with where.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            rows = list(enumerate(reader, start=2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"csv:{where} cannot be read: {error}") from error
    if lacking := {"path", "label"} - set(columns):
        raise DatasetError(
            f"csv:{where} has the columns {', '.join(columns) or 'none'}; it lacks "
            f"{' and '.join(sorted(lacking))}"
        )
    several = any("|" in (row["label"] or "") for _, row in rows)
    for number, row in rows:
        text, label = (row["path"] or "").strip(), (row["label"] or "").strip()
        labels = tuple(dict.fromkeys(one.strip() for one in label.split("|")))
        if not text or not all(labels):
            raise DatasetError(f"csv:{where} line {number}: path or label is empty")
        path = where.parent / os.path.expanduser(text)
        if path in lines:
            raise DatasetError(
                f"csv:{where} line {number}: {text} was in line {lines[path]} already; several "
                "labels of one image are written as a|b"
            )
        lines[path] = number
        split = (row.get("split") or "train").strip().lower()
        if split != "train" and split not in TEST_NAMES:
            raise DatasetError(
                f"csv:{where} line {number}: split is {split!r}; known: train, "
                f"{', '.join(TEST_NAMES)}"
            )
        groups.setdefault(split, []).append(Item(path, labels if several else label))
    if not groups.get("train"):
        raise DatasetError(f"csv:{where} lists no images to train on")
    test = next((name for name in TEST_NAMES if name in groups), None)
    return {"train": groups["train"]} | ({"test": groups[test]} if test else {})


def _read_npz(root: Path) -> Groups:
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
            found = {name: archive[name] for name in names if name in members}
    except DatasetError:
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen kinds on broken bytes
        raise DatasetError(f"{where} cannot be read: {error}") from error
    groups = {}
    for split, (pixels, labels) in {"train": names[:2], "test": names[2:]}.items():
        if pixels in found and labels in found:
            groups[split] = _pairs(where, pixels, found[pixels], labels, found[labels])
    return groups


def _pairs(where: str, pixels: str, x: np.ndarray, labels: str, y: np.ndarray) -> list[Item]:
    if x.dtype != np.uint8 or not (x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))):
        raise DatasetError(
            f"{where}: {pixels} are {x.dtype} {x.shape}; expected uint8 (n, h, w) or (n, h, w, 3)"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if len(y) != len(x) or y.ndim > 2 or y.dtype.kind not in "biuUS":
        raise DatasetError(
            f"{where}: {labels} are {y.dtype} {y.shape}, for {len(x)} images; expected ({len(x)},) "
            "integers or words, or (n, c) zeros and ones"
        )
    if not len(x):
        raise DatasetError(f"{where}: {pixels} holds no image")
    x = x[..., 0] if x.ndim == 4 and x.shape[3] == 1 else x
    if y.ndim == 1:
        words = y.astype(str).tolist()
        return [Item(image, label) for image, label in zip(x, words, strict=True)]
    if not np.isin(y, (0, 1)).all() or not y.any(axis=1).all():
        raise DatasetError(f"{where}: rows of {labels} must be zeros and ones, with a one in each")
    return [
        Item(image, tuple(map(str, np.flatnonzero(row)))) for image, row in zip(x, y, strict=True)
    ]


READERS: Mapping[str, Callable[[Path], Groups]] = MappingProxyType(
    {"folder": _read_folder, "csv": _read_csv, "npz": _read_npz}
)
