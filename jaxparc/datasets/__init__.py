"""Image data sets by name: registered ones, prepared once with TFDS, and user images.

`load` prepares a data set on first use. Registered data sets are in the TFDS data folder
(`data_dir`, else the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets) and are read
without TensorFlow. User images (`datasets.user_images`: "folder:PATH", "csv:FILE", "npz:FILE") are
read where they are. The path of a folder, a .csv or an .npz file stands for its address, unless it
is the name of a registered data set.

Only this package imports tensorflow_datasets, and only when a registered set is prepared or read.
"""

import functools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import printing
from jaxparc.datasets import images, prepared, user_images
from jaxparc.datasets.specs import DATASETS as DATASETS
from jaxparc.datasets.specs import DatasetError as DatasetError
from jaxparc.datasets.specs import DatasetSpec as DatasetSpec
from jaxparc.datasets.specs import Record, Rows, registered
from jaxparc.datasets.specs import is_registered as is_registered
from jaxparc.errors import InputError

CLASSES_SHOWN = 12  # in a summary


class Source(Sequence[Record]):
    """The records of a split, or of a slice of it; safe to read from several threads.

    Attributes:
      spec: of the data set.
    """

    def __init__(self, spec: DatasetSpec, rows: Rows, chosen: range, *, decode: bool):
        self.spec = spec
        self._rows, self._chosen, self._decode = rows, chosen, decode

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        """Return one record, with its image decoded if `load` was asked to."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} is out of range for {len(self)} records")
        record = self._rows[self._chosen[index]]
        if self._decode and isinstance(record["image"], bytes):
            try:
                record["image"] = np.asarray(images.open_rgb(record["image"]))
            except (OSError, ValueError) as error:
                raise DatasetError(
                    f"{self.spec.name}: image {self._chosen[index]} cannot be decoded: {error}"
                ) from error
        return record

    def labels(self) -> np.ndarray:
        """Return all labels, without decoding any image.

        Returns:
          (n,) int32 classes, or, for multi-label data sets, (n, c) float32 multi-hot, or, for those
          with values, (n, 1) float64.
        """
        found = self._rows.labels()[self._chosen.start : self._chosen.stop]
        if self.spec.values:
            return np.array(found, np.float64)[:, None]
        if not self.spec.multi_label:
            return np.array(found, np.int32)
        labels = np.zeros((len(found), self.spec.num_classes), np.float32)
        for row, classes in zip(labels, found, strict=True):
            row[list(classes)] = 1
        return labels


def spec_of(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> DatasetSpec:
    """Return the spec of a data set; user images are decoded once for it.

    Raises:
      InputError: the name is unknown (the message lists the known ones), or it is an address with
        unknown options or of nothing that exists.
      DatasetError: user images are in none of the forms that `datasets.user_images` describes, or
        too many of them cannot be decoded.
    """
    name = _address(name)
    return (
        user_images.open_set(name, root_of(data_dir)).spec
        if user_images.is_address(name)
        else registered(name)
    )


def short_name(name: str) -> str:
    """Return the name of a data set in tables and file names, without reading it.

    For a registered data set that is the given name or alias; for user images, the last part of
    their path.

    Raises:
      InputError: as in `spec_of`.
    """
    name = _address(name)
    return (
        user_images.short_name(name)
        if user_images.is_address(name)
        else (registered(name), name)[1]
    )


def require_classes(name: str, purpose: str) -> None:
    """Refuse a data set whose images have values instead of classes, without reading it.

    Args:
      name: as in `load`.
      purpose: what needs classes, for the message.

    Raises:
      InputError: it has no classes, or as in `short_name`.
    """
    name = _address(name)
    if user_images.is_address(name) and (column := user_images.parse(name).values):
        raise InputError(
            f"{name}: {purpose} needs classes; the values of {column!r} are numbers to predict"
        )


def root_of(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the TFDS data folder: `data_dir`, else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        return Path(root).expanduser().absolute()
    except RuntimeError:
        raise DatasetError(
            f"{root}: there is no home folder; set TFDS_DATA_DIR or --data-dir"
        ) from None


def folder_of(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder or file of a data set, whether it exists or not."""
    name = _address(name)
    if user_images.is_address(name):
        return user_images.parse(name).path
    return prepared.folder_of(registered(name), root_of(data_dir))


def is_prepared(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Return whether a data set can be read without preparing it; True for user images."""
    name = _address(name)
    return user_images.is_address(name) or prepared.is_prepared(registered(name), root_of(data_dir))


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    decode: bool = True,
) -> Source:
    """Load a split of a data set, which is prepared first if it has not been.

    Args:
      name: a key of DATASETS, an alias, or the address of user images.
      split: a split or a slice of one, such as "train", "train[:400]", "train[-250:]" or
        "train[:80%]", where percentages of images are rounded to the nearest integer, as in TFDS.
      data_dir: the TFDS data folder; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
      decode: whether images are decoded, to uint8 (h, w, 3) RGB with grey repeated. Otherwise they
        are as stored, mostly the bytes of a file, which `jaxparc.training.batches` decodes faster,
        because it knows the size to which they are shrunk.

    Returns:
      A sequence of records in a fixed order. A record is a dictionary of `image` and `label`, an
      int, a tuple of ints in multi-label data sets, or a float. VOC's records also have `boxes`,
      (k, 4) float32 of ymin, xmin, ymax, xmax in [0, 1] of the sides, and `box_labels`, (k,) int32.

    Raises:
      InputError: the name or the split is unknown, or the slice exceeds the split.
      DatasetError: a package is missing, or the data set cannot be read or prepared.
    """
    name = _address(name)
    spec = spec_of(name, data_dir=data_dir)
    chosen = _chosen(name, spec, split)
    which = split.partition("[")[0]
    if user_images.is_address(name):
        rows: Rows = user_images.open_set(name, root_of(data_dir)).splits[which]
    else:
        if not is_prepared(name, data_dir=data_dir):
            prepare(name, data_dir=data_dir)
        prepared.require(spec, "array_record", "array_record")
        rows = prepared.PreparedRows(spec, folder_of(name, data_dir=data_dir), which)
    return Source(spec, rows, chosen, decode=decode)


def labels(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> np.ndarray:
    """Return all labels of a split in the order of `load`, without decoding any image.

    Arguments and exceptions are those of `load`; the result is that of `Source.labels`.
    """
    return load(name, split, data_dir=data_dir).labels()


def class_counts(
    name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> dict[str, dict[str, int]]:
    """Return split -> class -> number of images; a multi-label image counts in each of its classes.

    Classes of registered data sets are named by their indices; data sets with values have none.
    Arguments and exceptions are those of `load`.
    """
    name = _address(name)
    if user_images.is_address(name):
        splits = user_images.open_set(name, root_of(data_dir)).splits
        return {split: rows.counts() for split, rows in splits.items()}
    spec, counts = registered(name), {}
    for split in spec.sizes:
        found = labels(name, split, data_dir=data_dir)
        each = found.sum(0) if found.ndim == 2 else np.bincount(found, minlength=spec.num_classes)
        counts[split] = {str(code): int(count) for code, count in enumerate(each)}
    return counts


def summary(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Return one line: the numbers of images and classes, and the classes of user images.

    If they have values instead, these are the range and the median of the training images.

    Arguments and exceptions are those of `spec_of`.
    """
    name = _address(name)
    spec = spec_of(name, data_dir=data_dir)
    sizes = ", ".join(f"{split} {size:,}" for split, size in spec.sizes.items())
    if spec.values:
        found = labels(name, "train", data_dir=data_dir)
        low, middle, high = found.min(), np.median(found), found.max()
        what = printing.visible(spec.values)
        return f"{what} {low:g} to {high:g}, median {middle:g}; images: {sizes}"
    line = f"{spec.num_classes:,} classes; images: {sizes}"
    if not user_images.is_address(name):
        return line
    counts = class_counts(name, data_dir=data_dir)
    each = {
        label: " + ".join(f"{counts[split][label]:,}" for split in counts)
        for label in counts["train"]
    }
    shown = [
        f"{printing.visible(label)} {text}" for label, text in list(each.items())[:CLASSES_SHOWN]
    ]
    if len(each) > CLASSES_SHOWN:
        rest = list(counts["train"].values())[CLASSES_SHOWN:]
        shown.append(f"and {len(rest):,} more, of {min(rest):,} to {max(rest):,} to train on")
    return f"{line}: {', '.join(shown)}"


def _address(name: str) -> str:
    """Return the address that a name stands for if it means user images, else the name itself."""
    if not is_registered(name):
        return user_images.address_of(name)
    _warn_ambiguous(name)
    return name


@functools.cache
def _warn_ambiguous(name: str) -> None:
    """Print that a registered data set is meant, if an unrelated folder has the same name."""
    if os.path.isdir(name) and Path(name).absolute() != root_of() / name:
        print(f"{name}: the registered data set, not the folder folder:{name}", file=sys.stderr)


def prepare(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Prepare a data set, or prepare a damaged one again; user images are all decoded once.

    Files are written to a temporary folder that is renamed when complete, so that an interruption
    leaves nothing that would be read. Processes that prepare the same data set wait for each other.
    Downloaded files are not downloaded again.

    Args:
      name: as in `load`.
      data_dir: as in `load`.

    Returns:
      Its folder or file.

    Raises:
      InputError: the name is unknown.
      DatasetError: a package or a file is missing, the folder cannot be written, or user images
        cannot be decoded.
    """
    name = _address(name)
    if user_images.is_address(name):
        user_images.open_set(name, root_of(data_dir))
        return user_images.parse(name).path
    return prepared.prepare(registered(name), root_of(data_dir))


def _chosen(name: str, spec: DatasetSpec, split: str) -> range:
    """Return the indices that a slice selects from a split."""
    match = re.fullmatch(r"([^\[\]]*)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    which = match[1] if match else split
    if which not in spec.sizes:
        raise InputError(f"{name}: unknown split {split!r}; known: {', '.join(spec.sizes)}")
    assert match is not None
    n = spec.sizes[which]
    bounds = []
    for text, default in ((match[2], 0), (match[3], n)):
        number = default if text is None else int(text.rstrip("%"))
        if text is not None and text.endswith("%"):
            number = round(number * n / 100)
        if abs(number) > n:
            raise InputError(f"{name}: {split!r} asks for {abs(number)} images; {which} has {n}")
        bounds.append(number)
    return range(n)[slice(*bounds)]
