"""Image data sets by name: registered ones, prepared once with TFDS, and people's own images.

`load` prepares a set on first use where it has not been prepared. Registered sets lie in the TFDS
data folder (`data_dir`, else the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets)
and are read without TensorFlow; people's own images (`datasets.own`: "folder:PATH", "csv:FILE",
"npz:FILE") are read where they are. The path of a folder, a .csv or an .npz stands for its address,
unless a registered set is called so.

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
from jaxparc.datasets.specs import Record, Rows, is_registered, registered

CLASSES_SHOWN = 12  # in a line


class Source(Sequence[Record]):
    """The records of one split, or of a slice of one; safe to read from several threads.

    Attributes:
      spec: of the set.
    """

    def __init__(self, spec: DatasetSpec, rows: Rows, chosen: range, *, decode: bool):
        self.spec = spec
        self._rows, self._chosen, self._decode = rows, chosen, decode

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        """Reads one record, and decodes its image if that was asked for."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
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
        """Reads all labels, without decoding an image.

        Returns:
          (n,) int32 classes, or, where an image may have several, (n, c) float32 of zeros and ones.
        """
        found = self._rows.labels()[self._chosen.start : self._chosen.stop]
        if not self.spec.multi_label:
            return np.array(found, np.int32)
        labels = np.zeros((len(found), self.spec.num_classes), np.float32)
        for row, classes in zip(labels, found, strict=True):
            row[list(classes)] = 1
        return labels


def spec_of(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> DatasetSpec:
    """Returns the spec of a data set; of people's own images, after looking at them once.

    Raises:
      ValueError: the name is unknown, the message lists the known ones; or it is an address with
        nothing there, or with unknown options.
      DatasetError: own images are not in one of the forms that `datasets.own` describes, or too
        many cannot be read.
    """
    name = _address(name)
    return (
        user_images.open_set(name, root_of(data_dir)).spec
        if user_images.is_own(name)
        else registered(name)
    )


def short_name(name: str) -> str:
    """Returns what a set is called in tables and in the names of files, without looking at it.

    That is the name itself of a registered set, alias or not, and the last part of the path of
    people's own images.

    Raises:
      ValueError: as `spec_of`.
    """
    name = _address(name)
    return user_images.short_name(name) if user_images.is_own(name) else (registered(name), name)[1]


def root_of(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the TFDS data folder: `data_dir`, else the environment's, else the usual one."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        return Path(root).expanduser().absolute()
    except RuntimeError:
        raise DatasetError(
            f"{root}: there is no home folder; TFDS_DATA_DIR or --data_dir says where the data are"
        ) from None


def folder_of(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns where a set lies, whether it is there or not."""
    name = _address(name)
    if user_images.is_own(name):
        return user_images.parse(name).path
    return prepared.folder_of(registered(name), root_of(data_dir))


def is_prepared(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Tells whether a set can be read at once; of people's own images, whether they are there."""
    name = _address(name)
    return user_images.is_own(name) or prepared.is_prepared(registered(name), root_of(data_dir))


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    decode: bool = True,
) -> Source:
    """Opens one split of a data set, preparing the set first where that has not been done.

    Args:
      name: a key of DATASETS, an alias, or the address of your own images.
      split: a split or a slice of one, such as "train", "train[:400]", "train[-250:]" or
        "train[:80%]", where a share of the images is rounded to the nearest number, as in TFDS.
      data_dir: the TFDS data folder; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
      decode: whether images are given decoded, uint8 (h, w, 3) RGB with grey repeated. Otherwise as
        they are stored, mostly the bytes of a file, which `jaxparc.training.batches` decodes
        faster, as it knows how small they will be.

    Returns:
      A sequence of records, in an order that never changes. A record is a dictionary of `image` and
      `label`, an int, or a tuple of ints where an image may have several classes. With VOC's boxes:
      `boxes`, (k, 4) float32 of ymin, xmin, ymax, xmax as shares of the sides, and `box_labels`.

    Raises:
      ValueError: the name or the split is unknown, or the slice asks for more than there is.
      DatasetError: a package is missing, or the set cannot be read, or its folder not written.
    """
    name = _address(name)
    spec = spec_of(name, data_dir=data_dir)
    chosen = _chosen(name, spec, split)
    which = split.partition("[")[0]
    if user_images.is_own(name):
        rows: Rows = user_images.open_set(name, root_of(data_dir)).splits[which]
    else:
        if not is_prepared(name, data_dir=data_dir):
            prepare(name, data_dir=data_dir)
        prepared.require(spec, "array_record", "array_record")
        rows = prepared.PreparedRows(spec, folder_of(name, data_dir=data_dir), which)
    return Source(spec, rows, chosen, decode=decode)


def labels(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> np.ndarray:
    """Returns all labels of a split in the order of `load`, decoding no image.

    Args and errors are those of `load`; the result is that of `Source.labels`.
    """
    return load(name, split, data_dir=data_dir).labels()


def class_counts(
    name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> dict[str, dict[str, int]]:
    """Returns split -> class -> images; one with several classes counts in each.

    Classes of registered sets have their numbers as names. Args and errors are those of `load`.
    """
    name = _address(name)
    if user_images.is_own(name):
        splits = user_images.open_set(name, root_of(data_dir)).splits
        return {split: rows.counts() for split, rows in splits.items()}
    spec, counts = registered(name), {}
    for split in spec.sizes:
        found = labels(name, split, data_dir=data_dir)
        each = found.sum(0) if found.ndim == 2 else np.bincount(found, minlength=spec.num_classes)
        counts[split] = {str(code): int(count) for code, count in enumerate(each)}
    return counts


def summary(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Returns one line: how many images and classes a set has, and of own images which.

    Args and errors are those of `spec_of`.
    """
    name = _address(name)
    spec = spec_of(name, data_dir=data_dir)
    sizes = ", ".join(f"{split} {size:,}" for split, size in spec.sizes.items())
    line = f"{spec.num_classes:,} classes; images: {sizes}"
    if not user_images.is_own(name):
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
    """The address that a name means, if it means people's own images; else the name itself."""
    if not is_registered(name):
        return user_images.address_of(name)
    _say_which(name)
    return name


@functools.cache
def _say_which(name: str) -> None:
    """Says that a registered set is meant, where there is a folder too that is not the set's."""
    if os.path.isdir(name) and Path(name).absolute() != root_of() / name:
        print(f"{name}: the registered data set, not the folder folder:{name}", file=sys.stderr)


def prepare(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Makes a data set ready to read, and a damaged one anew; looks at all of people's own images.

    Files are written under another name and renamed when whole, so an interruption leaves
    nothing that would be read. Processes that prepare the same set wait for each other. What has
    been downloaded is not downloaded again.

    Args:
      name: as in `load`.
      data_dir: as in `load`.

    Returns:
      Where it lies.

    Raises:
      ValueError: the name is unknown.
      DatasetError: a package or a file is missing, or the folder cannot be written, or own images
        cannot be read.
    """
    name = _address(name)
    if user_images.is_own(name):
        user_images.open_set(name, root_of(data_dir))
        return user_images.parse(name).path
    return prepared.prepare(registered(name), root_of(data_dir))


def _chosen(name: str, spec: DatasetSpec, split: str) -> range:
    """The positions in a split that a slice takes."""
    match = re.fullmatch(r"([^\[\]]*)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    which = match[1] if match else split
    if which not in spec.sizes:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(spec.sizes)}")
    assert match is not None
    n = spec.sizes[which]
    bounds = []
    for text, default in ((match[2], 0), (match[3], n)):
        number = default if text is None else int(text.rstrip("%"))
        if text is not None and text.endswith("%"):
            number = round(number * n / 100)
        if abs(number) > n:
            raise ValueError(f"{name} has {n} images in {which}; {split!r} asks for {abs(number)}")
        bounds.append(number)
    return range(n)[slice(*bounds)]
