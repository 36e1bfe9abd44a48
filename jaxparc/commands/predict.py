"""The command predict: classify images with a fine-tuned model."""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxparc import datasets, files, finetuned, printing
from jaxparc.bank import tuning
from jaxparc.commands import saving
from jaxparc.datasets import images as image_files
from jaxparc.errors import InputError, OperationError
from jaxparc.finetuned import Finetuned
from jaxparc.report.sheets import Sheet

TOP = 3  # classes that are shown for each image
SHOWN = 5  # unreadable images that are named
_CHUNK = 512  # images that are decoded at a time


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to classify.

    Attributes:
        name: its path, or the data set and its index.
        image: a path, encoded bytes or (h, w, 3) uint8.
        label: the names of its classes; None if they are unknown.
    """

    name: str
    image: Any
    label: tuple[str, ...] | None = None


def predict(
    weights: Path, images: Sequence[str], *, out: Path | None = None, data_dir: str | None = None
) -> None:
    """Classify images; print or write the classes, and the accuracy where labels are known.

    Args:
        weights: a file that `finetune` wrote.
        images: image files, folders of them, or one data set as `datasets.load` takes it, whose
            test split is classified ("folder:PATH" for that of a folder). Images in a folder that
            is named like a class have that label.
        out: the CSV file to write; None to print a line for each image.
        data_dir: as `datasets.load` takes it.

    Raises:
        InputError: the weights are of another kind, or there are no images.
        OperationError: images cannot be read (the others are still classified), or the file cannot
            be written.
        DatasetError: the data set cannot be read.
    """
    if out is not None:
        saving.require_writable(out)
    model = finetuned.load_finetuned(weights)
    items = _items(images, model.classes, data_dir)
    if trained := _trained_on(model, images):
        print(
            printing.shown(
                f"note: the model was trained on most of these images, whose accuracy says little; "
                f"{trained} is those that it was tested on"
            ),
            file=sys.stderr,
        )
    read: list[Item] = []
    parts: list[np.ndarray] = []
    flaws: dict[str, str] = {}
    for chunk in _chunks(items):
        crops = finetuned.crops([item.image for item in chunk], model.size)
        good = [i for i, crop in enumerate(crops) if not isinstance(crop, Exception)]
        for i in {*range(len(chunk))} - {*good}:
            flaws[chunk[i].name] = printing.reason(crops[i])
        if good:
            read += [chunk[i] for i in good]
            parts.append(model.apply(np.stack([crops[i] for i in good])))
    if parts:
        probs = np.concatenate(parts)
        if out is None:
            _print(read, probs, model.classes)
        else:
            try:
                files.write_text(out, _table(read, probs, model.classes))
            except OSError as error:
                raise OperationError(f"cannot write {out}: {error.strerror}") from error
        _print_accuracy(read, probs, model)
        if unknown := _unknown(items, model.classes):
            print(f"note: {printing.shown(unknown)}", file=sys.stderr)
        if out is not None:
            images_read = printing.count(len(read), "image")
            print(printing.shown(f"the classes of {images_read} were written to {out}"))
    if flaws:
        named = "; ".join(f"{name}: {why}" for name, why in [*flaws.items()][:SHOWN])
        more = f"; and {len(flaws) - SHOWN} more" if len(flaws) > SHOWN else ""
        which = printing.count(len(flaws), "image")
        raise OperationError(f"{which} cannot be read and {_was(flaws)} skipped: {named}{more}")


def _was(things: Any) -> str:
    return "was" if len(things) == 1 else "were"


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def _items(
    addresses: Sequence[str], classes: Sequence[str], data_dir: str | None
) -> Sequence[Item]:
    """List the images of files, folders, or a data set.

    Raises:
        InputError: an address is unknown, or there are no images.
        DatasetError: the data set cannot be read.
    """
    found: list[Item] = []
    if len(addresses) == 1 and datasets.is_registered(addresses[0]):
        return _of_data_set(addresses[0], data_dir)
    for address in addresses:
        path = Path(os.path.expanduser(address))
        if path.is_dir():
            found += _of_folder(path, classes)
        elif path.is_file() and path.suffix.lower() not in (".csv", ".npz"):
            found.append(Item(address, path))
        elif len(addresses) == 1:
            return _of_data_set(address, data_dir)
        else:
            raise InputError(
                f"{address} is no file or folder; expected image files and folders, or one data "
                "set alone"
            )
    if not found:
        raise InputError(f"{', '.join(addresses)}: no images; expected files such as .jpg or .png")
    return found


def _of_folder(folder: Path, classes: Sequence[str]) -> list[Item]:
    """List the images in a folder, at any depth.

    The label of an image is the innermost folder that is named like a class or, if others have
    labels, the folder that it is in.
    """
    paths = [
        Path(root, name)
        for root, folders, names in os.walk(folder)
        if folders.sort() is None  # in place, for the order of the walk
        for name in sorted(names)
        if Path(name).suffix.lower() in image_files.SUFFIXES and not name.startswith(".")
    ]
    known = set(classes)
    labels = []
    for path in paths:
        above = [part for part in path.relative_to(folder).parts[:-1] if part in known]
        labels.append(above[-1] if above else None)
    if all(label is None for label in labels):
        return [Item(str(path), path) for path in paths]
    return [
        Item(str(path), path, (label,) if label is not None else _parent(path, folder))
        for path, label in zip(paths, labels, strict=True)
    ]


def _parent(path: Path, folder: Path) -> tuple[str, ...] | None:
    return None if path.parent == folder else (path.parent.name,)


class _TestSplit(Sequence[Item]):
    """The images of a data set's test split, which are read as they are needed."""

    def __init__(self, name: str, data_dir: str | None) -> None:
        self._source = datasets.load(name, "test", data_dir=data_dir, decode=False)
        self._classes = list(datasets.class_counts(name, data_dir=data_dir)["test"])
        self._name = datasets.short_name(name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record = self._source[index]
        return Item(f"{self._name} test {index}", record["image"], self._names(record["label"]))

    def labels(self) -> list[tuple[str, ...]]:
        """Return the labels of all images, without reading these."""
        found = self._source.labels()
        return [self._names(x if found.ndim == 1 else tuple(np.flatnonzero(x))) for x in found]

    def _names(self, label: Any) -> tuple[str, ...]:
        codes = label if isinstance(label, tuple) else (label,)
        return tuple(self._classes[code] for code in codes)


def _of_data_set(name: str, data_dir: str | None) -> Sequence[Item]:
    datasets.require_classes(name, "the accuracy")
    return _TestSplit(name, data_dir)


def _trained_on(model: Finetuned, addresses: Sequence[str]) -> str:
    """Return the data set that the model was trained on if its folder is classified, else ""."""
    try:
        trained = datasets.folder_of(model.target)
    except InputError:  # it is not here
        return ""
    for address in addresses:
        if os.path.isdir(address) and os.path.isdir(trained) and os.path.samefile(address, trained):
            return model.target if ":" in model.target else f"folder:{model.target}"
    return ""


def _unknown(items: Sequence[Item], classes: Sequence[str]) -> str:
    """Return one line on labels that the model does not know; "" if there are none."""
    labels = items.labels() if isinstance(items, _TestSplit) else [item.label for item in items]
    counts = Counter(name for label in labels for name in {*(label or ())} - {*classes})
    if not counts:
        return ""
    images = printing.count(sum(counts.values()), "image")
    kind = "class" if len(counts) == 1 else "classes"
    return (
        f"unknown {kind} {printing.some(sorted(counts))}: {images} classified, but left out of the "
        f"accuracy; the model knows {printing.some(classes)}"
    )


def _best(probs: np.ndarray) -> np.ndarray:
    """Return the indices of the most probable classes of each image, (n, TOP)."""
    return np.argsort(-probs, axis=1, kind="stable")[:, :TOP]


def _table(items: Sequence[Item], probs: np.ndarray, classes: Sequence[str]) -> str:
    """Return the CSV: path, the labels if any are known, and the most probable classes."""
    places = range(1, min(TOP, len(classes)) + 1)
    labelled = any(item.label is not None for item in items)
    suffixes = ["" if place == 1 else f"_{place}" for place in places]
    head = [f"{word}{suffix}" for suffix in suffixes for word in ("class", "probability")]
    rows: list[list[str]] = [["path", *(["label"] if labelled else []), *head]]
    for item, row, order in zip(items, probs, _best(probs), strict=True):
        cells = [cell for k in order for cell in (classes[k], f"{row[k]:.4f}")]
        label = ["|".join(item.label or ())] if labelled else []
        rows.append([item.name, *label, *cells])
    return files.table_text(rows)


def _print(items: Sequence[Item], probs: np.ndarray, classes: Sequence[str]) -> None:
    for item, row, order in zip(items, probs, _best(probs), strict=True):
        found = ", ".join(f"{classes[k]} {100 * row[k]:.1f} %" for k in order)
        print(printing.shown(f"{item.name}: {found}"))


def _print_accuracy(items: Sequence[Item], probs: np.ndarray, model: Finetuned) -> None:
    """Print the accuracy on the images whose labels are known, and by class."""
    codes = {name: code for code, name in enumerate(model.classes)}
    rows = [i for i, item in enumerate(items) if item.label and set(item.label) <= codes.keys()]
    if not rows:
        return
    labels = np.zeros((len(rows), len(codes)), np.float32)
    for row, i in zip(labels, rows, strict=True):
        row[[codes[name] for name in items[i].label or ()]] = 1
    print()
    if model.multi_label:
        right = np.mean((probs[rows] > 0.5) == (labels > 0.5), axis=1)
        found = tuning.measured(right, labels)
        what = "labels right, one for each image and class,"
    else:
        classes = np.argmax(labels, axis=1)
        correct = np.argmax(probs[rows], axis=1) == classes
        found = tuning.measured(correct.astype(float), classes)
        what = "right,"
        rows_of = tuple(one.cells() for one in tuning.by_class(correct, classes, model.classes))
        head = ("class", "right %", "95 % interval", "images")
        Console(soft_wrap=True).print(Sheet("Accuracy by class", head, rows_of).rich())
    count = printing.count(len(rows), "labelled image")
    print(
        f"{count}: {found.percent:.2f} % {what} 95 % interval {found.low:.1f} to "
        f"{found.high:.1f}; chance level {found.chance:.1f} %"
    )
