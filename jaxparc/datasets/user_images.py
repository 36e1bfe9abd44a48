"""User images as data sets, named by their address: no code, no copy.

    folder:PATH     one folder per class, or one folder per split (train/, test/, val/ and others
                    in `folders.SPLITS`) with these inside
    csv:FILE        columns path and label, optionally split; several labels as cat|dog
    npz:FILE        images (n, h, w[, 3]) uint8 and labels; optionally test_images, test_labels

Options follow the path, as in "folder:pets:skip=10,mirror=no":

    skip=N          images that may be undecodable; they are listed and skipped [0]
    test=SHARE      of the images to hold out as a test split if there is none [0.2]
    seed=N          of that choice and of the order of the images [0]
    mirror=no       mirroring changes an image's class, as for letters and digits [yes]
    values=COLUMN   a column of csv:FILE with a number per image to predict, in place of label

Every image is decoded once before anything else; the result is cached in the TFDS data folder until
a file changes.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxparc import printing, sampling
from jaxparc.datasets import folders, images, layouts, scan
from jaxparc.datasets.folders import Item
from jaxparc.datasets.specs import DatasetError, DatasetSpec, Record
from jaxparc.errors import InputError

SHOWN = 5  # undecodable images that a message names

Groups = dict[str, list[Item]]
"""Split -> images; only `train` if there is no test split."""


class Address(NamedTuple):
    """The parsed name of a data set of user images."""

    kind: str
    path: Path
    skip: int = 0
    test: float = 0.2
    seed: int = 0
    mirror: bool = True
    values: str = ""


@dataclasses.dataclass(frozen=True)
class UserRows:
    """A split of user images.

    Attributes:
      items: images and labels, in reading order.
      codes: class name -> index; empty if the labels are numbers.
    """

    items: Sequence[Item]
    codes: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Record:
        """Return one record; its image is the bytes of the file, or pixels (h, w, 3) uint8."""
        image, label = self.items[index]
        if not isinstance(image, Path):
            image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
        else:
            try:
                image = images.encoded(image)
            except (OSError, ValueError) as error:
                why = printing.reason(error)
                raise DatasetError(f"{image} can no longer be read: {why}") from error
        return {"image": image, "label": self._class(label)}

    def labels(self) -> list[Any]:
        """Return all labels."""
        return [self._class(item.label) for item in self.items]

    def counts(self) -> dict[str, int]:
        """Return class name -> number of images, in the order of the class indices."""
        found = Counter(one for item in self.items for one in _classes(item.label))
        return {label: found[label] for label in self.codes}

    def _class(self, label: Any) -> Any:
        if isinstance(label, float):
            return label
        if isinstance(label, tuple):
            return tuple(self.codes[one] for one in label)
        return self.codes[label]


class UserSet(NamedTuple):
    """A data set of user images, listed and checked."""

    spec: DatasetSpec
    splits: Mapping[str, UserRows]
    class_names: tuple[str, ...]


def is_address(name: str) -> bool:
    """Return whether a data set's name is an address of user images."""
    return name.partition(":")[0] in layouts.READERS and ":" in name


def address_of(name: str) -> str:
    """Return the address for the path of a folder, .csv or .npz file; any other name unchanged.

    Raises:
      InputError: it is the path of another file, or does not exist.
    """
    path, _ = _parts(name)
    place = os.path.abspath(os.path.expanduser(path))
    if is_address(name) or not path:
        return name
    if os.path.isdir(place):
        return f"folder:{name}"
    kind = place.rpartition(".")[2].lower()
    if os.path.isfile(place):
        if kind not in ("csv", "npz"):
            raise InputError(f"{name}: {place} is a file; expected a folder, .csv or .npz")
        return f"{kind}:{name}"
    if os.sep in path:
        raise InputError(f"{name}: {place} does not exist; expected a folder, .csv or .npz")
    return name


def _parts(path: str) -> tuple[str, str]:
    """Split an address into its path and the options after it."""
    before, _, options = path.rpartition(":")
    if before and re.fullmatch(r"\w+=[^,=/]*(,\w+=[^,=/]*)*", options):
        return before, options
    return path, ""


def parse(name: str) -> Address:
    """Parse an address.

    Raises:
      InputError: the path does not exist, or an option is unknown or has an invalid value.
    """
    kind, _, rest = name.partition(":")
    path, options = _parts(rest)
    address = Address(kind, Path(os.path.abspath(os.path.expanduser(path))))
    is_there = os.path.isdir if kind == "folder" else os.path.isfile
    if not path or not is_there(address.path):
        expected = "folder" if kind == "folder" else "file"
        raise InputError(f"{name}: {path and address.path or 'the empty path'} is not a {expected}")
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in _OPTIONS:
            raise InputError(f"{name}: unknown option {key!r}; known: {', '.join(_OPTIONS)}")
        read, expected = _OPTIONS[key]
        try:
            address = address._replace(**{key: read(value)})
        except (ValueError, KeyError):
            raise InputError(f"{name}: {key} is {value!r}; expected {expected}") from None
    if address.values and kind != "csv":
        raise InputError(f"{name}: values is a column of csv:FILE; {kind}: has no columns")
    return address


def short_name(name: str) -> str:
    """Return the name of a data set in tables and file names: the last part of its path."""
    stem = parse(name).path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "own"


@functools.lru_cache(maxsize=16)
def open_set(name: str, root: Path) -> UserSet:
    """List and check a data set of user images.

    Args:
      name: its address.
      root: the TFDS data folder, where the result of decoding all images is cached.

    Raises:
      InputError: the address is invalid.
      DatasetError: the data set has none of the forms above, or more images than allowed, or all of
        them, cannot be decoded.
    """
    address = parse(name)
    if address.values:
        listing = layouts.read_csv(address.path, address.values)
    else:
        listing = layouts.READERS[address.kind](address.path)
    if skipped := folders.described(listing.skipped):
        folders.say(name, f"skipped: {skipped}")
    decodable, content = _decodable(name, address, listing.groups, root)
    if "test" not in decodable:
        decodable = _split(address, decodable["train"])
    classes = []
    if address.values:
        _require_different(name, address.values, decodable["train"])
    else:
        classes = _class_names(name, decodable)
    codes = {label: code for code, label in enumerate(classes)}
    splits = {}
    for number, (split, items) in enumerate(decodable.items()):
        order = np.random.default_rng([address.seed, number]).permutation(len(items))
        splits[split] = UserRows([items[i] for i in order], codes)
    spec = DatasetSpec(
        name=short_name(name),
        version=_version(address, decodable, content),
        num_classes=len(classes),
        sizes=MappingProxyType({split: len(rows) for split, rows in splits.items()}),
        multi_label=any(isinstance(item.label, tuple) for item in decodable["train"]),
        values=address.values,
        mirror=address.mirror,
        description=f"images of {address.path}",
        licence="your own",
    )
    return UserSet(spec, MappingProxyType(splits), tuple(classes))


def _class_names(name: str, groups: Groups) -> list[str]:
    """Return the classes of the training images, which those of the test images must be among."""
    classes = sorted(
        {one for item in groups["train"] for one in _classes(item.label)}, key=_natural
    )
    for item in groups["test"]:
        if missing := set(_classes(item.label)) - set(classes):
            raise DatasetError(
                f"{name}: class {min(missing)!r} has images in the test split and none in train"
            )
    if len(classes) < 2:
        raise DatasetError(
            f"{name}: all images are of class {classes[0]!r}; expected at least 2 classes"
        )
    if alike := _alike(classes):
        folders.say(name, f"classes that only differ in spelling are kept separate: {alike}")
    return classes


def _require_different(name: str, column: str, items: Sequence[Item]) -> None:
    if len({item.label for item in items}) < 2:
        raise DatasetError(
            f"{name}: {column} is {items[0].label:g} for all {len(items)} images to train on; "
            "expected at least two different values"
        )


def _count(value: str) -> int:
    if not value.isdecimal():
        raise ValueError
    return int(value)


def _share(value: str) -> float:
    if not 0 < float(value) < 1:
        raise ValueError
    return float(value)


def _column(value: str) -> str:
    if not value.strip():
        raise ValueError
    return value.strip()


_OPTIONS: Mapping[str, tuple[Callable[[str], Any], str]] = MappingProxyType(
    {
        "skip": (_count, "an integer of at least 0"),
        "test": (_share, "a number above 0 and below 1"),
        "seed": (_count, "an integer of at least 0"),
        "mirror": ({"yes": True, "no": False}.__getitem__, "yes or no"),
        "values": (_column, "the name of a column"),
    }
)


def _classes(label: Any) -> tuple[str, ...]:
    return label if isinstance(label, tuple) else (label,)


def _natural(label: str) -> tuple[Any, ...]:
    """Return a sort key: "2" before "10", "01" before "1", and numbers before words."""
    if not (label.isascii() and label.isdecimal()):
        return 1, 0, label
    digits = label.lstrip("0")  # compared as text: int() limits their number
    return 0, len(digits), digits, label


def _alike(classes: Sequence[str]) -> str:
    """Return the classes that only differ by case, white space or normalisation; "" if none."""
    groups: dict[str, list[str]] = {}
    for label in classes:
        key = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        groups.setdefault(key, []).append(label)
    several = [" and ".join(map(ascii, group)) for group in groups.values() if len(group) > 1]
    return printing.some(several)


def _split(address: Address, items: list[Item]) -> Groups:
    """Hold out a test split, of images of all classes, or at random if they have values."""
    of_class = [() if address.values else _classes(item.label) for item in items]
    labels = np.array(["|".join(classes) for classes in of_class])
    count = min(max(round(address.test * len(items)), 1), len(items) - 1)
    held = sampling.held_out(labels, count, seed=address.seed)
    train = [item for item, out in zip(items, held, strict=True) if not out]
    test: list[Item] = []
    trained = {one for place in np.flatnonzero(~held) for one in of_class[place]}
    for item, classes, out in zip(items, of_class, held, strict=True):
        if out:
            # Multi-label images and classes with one image could leave a class without training
            # images.
            (test if trained.issuperset(classes) else train).append(item)
            trained.update(classes)
    if not test:
        raise DatasetError(
            f"{address.kind}:{address.path}: no image can be held out for a test split; expected a "
            "class with at least 2 images"
        )
    return {"train": train, "test": test}


def _decodable(name: str, address: Address, groups: Groups, root: Path) -> tuple[Groups, str]:
    """Return the images that can be decoded, and a hash of all pixels or files."""
    paths = [i.image for items in groups.values() for i in items if isinstance(i.image, Path)]
    if not paths:  # the images are arrays
        pixels = hashlib.sha256()
        for items in groups.values():
            for item in items:
                pixels.update(f"{item.image.shape}".encode() + item.image.tobytes())
        return groups, pixels.hexdigest()
    place = f"{address.kind}:{address.path}"
    flaws, content = scan.scan(name, short_name(name), place, paths, root)
    if len(flaws) == len(paths):
        raise DatasetError(f"{name}: none of {len(paths)} images can be decoded: {_some(flaws)}")
    if len(flaws) > address.skip:
        raise DatasetError(
            f"{name}: {len(flaws)} of {len(paths)} images cannot be decoded; expected at most "
            f"{address.skip} (allow them with skip={len(flaws)}): {_some(flaws)}"
        )
    if flaws:
        folders.say(name, f"{len(flaws)} of {len(paths)} images skipped: {_some(flaws)}")
    kept = {
        split: [item for item in items if str(item.image) not in flaws]
        for split, items in groups.items()
    }
    for split, items in kept.items():
        if not items:
            raise DatasetError(
                f"{name}: no image of the {split} split can be decoded: {_some(flaws)}"
            )
    return kept, content


def _some(flaws: Mapping[str, str]) -> str:
    named = [
        f"{path if len(path) < 500 else f'...{path[-200:]}'} ({reason})"
        for path, reason in list(flaws.items())[:SHOWN]
    ]
    return "; ".join(named) + (f"; and {len(flaws) - SHOWN} more" if len(flaws) > SHOWN else "")


def _version(address: Address, groups: Groups, content: str) -> str:
    """Return a hash of all that decides what is read: files, names, labels, splits and order."""
    found = hashlib.sha256(json.dumps([address.seed, address.mirror, content]).encode())
    base = address.path if address.kind == "folder" else address.path.parent
    for split, items in groups.items():
        for image, label in items:
            name = os.path.relpath(image, base) if isinstance(image, Path) else ""
            found.update(json.dumps([split, name, label]).encode())
    return found.hexdigest()[:12]
