"""People's own images as data sets, named by where they are: no code, no copy.

    folder:PATH     one folder per class; or train/ and test/ (or val/, and others that
                    `folders.SPLITS` lists), each with these
    csv:FILE        columns path and label, optionally split; several labels as cat|dog
    npz:FILE        images (n, h, w[, 3]) uint8 and labels; optionally test_images, test_labels

After the path come options, as in "folder:pets:skip=10,mirror=no":

    skip=N          images that may be unreadable; they are named and left out [0]
    test=SHARE      of the images that are held out as test split where there is none [0.2]
    seed=N          of that choice and of the order of the images [0]
    mirror=no       mirror images do not keep their meaning, as of letters and digits [yes]

Every image is decoded once, before anything else is done with them; what was unreadable is kept in
the TFDS data folder, so that it is looked at again only when a file has changed.
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

SHOWN = 5  # unreadable images that a message names

Groups = dict[str, list[Item]]
"""The images of each split; without test split of `train` alone."""


class Address(NamedTuple):
    """A data set's name, taken apart."""

    kind: str
    path: Path
    skip: int = 0
    test: float = 0.2
    seed: int = 0
    mirror: bool = True


@dataclasses.dataclass(frozen=True)
class OwnRows:
    """A split of people's own images.

    Attributes:
      items: in the order in which they are read.
      codes: class name -> its number.
    """

    items: Sequence[Item]
    codes: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Record:
        """Reads one record, its image the bytes of the file, or pixels (h, w, 3)."""
        image, label = self.items[index]
        if not isinstance(image, Path):
            image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
        else:
            try:
                image = images.encoded(image)
            except (OSError, ValueError) as error:
                why = printing.reason(error)
                raise DatasetError(f"{image} cannot be read any more: {why}") from error
        return {"image": image, "label": self._class(label)}

    def labels(self) -> list[Any]:
        """Returns all labels."""
        return [self._class(item.label) for item in self.items]

    def counts(self) -> dict[str, int]:
        """Returns how many images each class has, in the order of their numbers."""
        found = Counter(one for item in self.items for one in _classes(item.label))
        return {label: found[label] for label in self.codes}

    def _class(self, label: Any) -> Any:
        if isinstance(label, tuple):
            return tuple(self.codes[one] for one in label)
        return self.codes[label]


class Own(NamedTuple):
    """An opened set."""

    spec: DatasetSpec
    splits: Mapping[str, OwnRows]
    class_names: tuple[str, ...]


def is_own(name: str) -> bool:
    """Tells whether a data set's name is an address of people's own images."""
    return name.partition(":")[0] in layouts.READERS and ":" in name


def address_of(name: str) -> str:
    """Returns the address that the path of a folder, .csv or .npz stands for; else the name.

    Raises:
      ValueError: it is the path of another file, or of nothing.
    """
    path, _ = _parts(name)
    place = os.path.abspath(os.path.expanduser(path))
    if is_own(name) or not path:
        return name
    if os.path.isdir(place):
        return f"folder:{name}"
    kind = place.rpartition(".")[2].lower()
    if os.path.isfile(place):
        if kind not in ("csv", "npz"):
            raise ValueError(f"{name}: {place} is a file; expected a folder, .csv or .npz")
        return f"{kind}:{name}"
    if os.sep in path:
        raise ValueError(f"{name}: there is no {place}; expected a folder, .csv or .npz")
    return name


def _parts(path: str) -> tuple[str, str]:
    """A path, and the options behind it."""
    before, _, options = path.rpartition(":")
    if before and re.fullmatch(r"\w+=[^,=/]*(,\w+=[^,=/]*)*", options):
        return before, options
    return path, ""


def parse(name: str) -> Address:
    """Takes an address apart.

    Raises:
      ValueError: there is nothing at the path, or an option is unknown or has no such value.
    """
    kind, _, rest = name.partition(":")
    path, options = _parts(rest)
    address = Address(kind, Path(os.path.abspath(os.path.expanduser(path))))
    is_there = os.path.isdir if kind == "folder" else os.path.isfile
    if not path or not is_there(address.path):
        expected = "folder" if kind == "folder" else "file"
        raise ValueError(f"{name}: {path and address.path or 'nothing'} is no {expected}")
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in _OPTIONS:
            raise ValueError(f"{name}: unknown option {key!r}; known: {', '.join(_OPTIONS)}")
        read, expected = _OPTIONS[key]
        try:
            address = address._replace(**{key: read(value)})
        except (ValueError, KeyError):
            raise ValueError(f"{name}: {key} is {value!r}; expected {expected}") from None
    return address


def short_name(name: str) -> str:
    """Returns what the set is called in tables and in the names of files: its path's last part."""
    stem = parse(name).path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "own"


@functools.lru_cache(maxsize=16)
def open_set(name: str, root: Path) -> Own:
    """Lists and checks a set.

    Args:
      name: its address.
      root: the TFDS data folder, which keeps what is known to be unreadable.

    Raises:
      ValueError: the address is wrong.
      DatasetError: the set is not in the form described above, or more images than allowed cannot
        be read, or none can.
    """
    address = parse(name)
    listing = layouts.READERS[address.kind](address.path)
    if passed := folders.said(listing.passed):
        folders.say(name, f"passed over: {passed}")
    readable, content = _readable(name, address, listing.groups, root)
    if "test" not in readable:
        readable = _split(address, readable["train"])
    classes = sorted(
        {one for item in readable["train"] for one in _classes(item.label)}, key=_natural
    )
    for item in readable["test"]:
        if lacking := set(_classes(item.label)) - set(classes):
            raise DatasetError(
                f"{name}: class {min(lacking)!r} has images in the test split and none to train on"
            )
    if len(classes) < 2:
        raise DatasetError(f"{name}: all images are of class {classes[0]!r}; expected two classes")
    if alike := _alike(classes):
        folders.say(name, f"classes that differ in spelling alone stay apart: {alike}")
    codes = {label: code for code, label in enumerate(classes)}
    splits = {}
    for number, (split, items) in enumerate(readable.items()):
        order = np.random.default_rng([address.seed, number]).permutation(len(items))
        splits[split] = OwnRows([items[i] for i in order], codes)
    spec = DatasetSpec(
        name=short_name(name),
        version=_version(address, readable, content),
        num_classes=len(classes),
        sizes=MappingProxyType({split: len(rows) for split, rows in splits.items()}),
        multi_label=any(isinstance(item.label, tuple) for item in readable["train"]),
        mirror=address.mirror,
        description=f"images of {address.path}",
        licence="your own",
    )
    return Own(spec, MappingProxyType(splits), tuple(classes))


def _count(value: str) -> int:
    if not value.isdecimal():
        raise ValueError
    return int(value)


def _share(value: str) -> float:
    if not 0 < float(value) < 1:
        raise ValueError
    return float(value)


_OPTIONS: Mapping[str, tuple[Callable[[str], Any], str]] = MappingProxyType(
    {
        "skip": (_count, "a number of images"),
        "test": (_share, "a share between 0 and 1"),
        "seed": (_count, "a number"),
        "mirror": ({"yes": True, "no": False}.__getitem__, "yes or no"),
    }
)


def _classes(label: Any) -> tuple[str, ...]:
    return label if isinstance(label, tuple) else (label,)


def _natural(label: str) -> tuple[Any, ...]:
    """Sorts "2" before "10", and "01" before "1"; numbers come before words."""
    if not (label.isascii() and label.isdecimal()):
        return 1, 0, label
    digits = label.lstrip("0")  # which may be more than int() takes
    return 0, len(digits), digits, label


def _alike(classes: Sequence[str]) -> str:
    """Classes that differ by case, white space or the composition of letters alone, if any."""
    groups: dict[str, list[str]] = {}
    for label in classes:
        key = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        groups.setdefault(key, []).append(label)
    several = [" and ".join(map(ascii, group)) for group in groups.values() if len(group) > 1]
    return printing.some(several)


def _split(address: Address, items: list[Item]) -> Groups:
    """Holds out a test split."""
    labels = np.array(["|".join(_classes(item.label)) for item in items])
    count = min(max(round(address.test * len(items)), 1), len(items) - 1)
    held = sampling.held_out(labels, count, seed=address.seed)
    train = [item for item, out in zip(items, held, strict=True) if not out]
    test: list[Item] = []
    trained = {one for item in train for one in _classes(item.label)}
    for item in (item for item, out in zip(items, held, strict=True) if out):
        # Where images have several classes, or classes one image, a class could be lost.
        (test if trained.issuperset(_classes(item.label)) else train).append(item)
        trained.update(_classes(item.label))
    if not test:
        raise DatasetError(
            f"{address.kind}:{address.path}: none of {len(items)} images can be held out as test "
            "split; expected a class with at least two"
        )
    return {"train": train, "test": test}


def _readable(name: str, address: Address, groups: Groups, root: Path) -> tuple[Groups, str]:
    """What of a set can be read, and a hash of its pixels or files; says what cannot."""
    paths = [i.image for items in groups.values() for i in items if isinstance(i.image, Path)]
    if not paths:  # arrays have been read
        pixels = hashlib.sha256()
        for items in groups.values():
            for item in items:
                pixels.update(f"{item.image.shape}".encode() + item.image.tobytes())
        return groups, pixels.hexdigest()
    place = f"{address.kind}:{address.path}"
    flaws, content = scan.looked_at(name, short_name(name), place, paths, root)
    if len(flaws) == len(paths):
        raise DatasetError(f"{name}: none of {len(paths)} images can be read: {_some(flaws)}")
    if len(flaws) > address.skip:
        raise DatasetError(
            f"{name}: {len(flaws)} of {len(paths)} images cannot be read, {address.skip} may be "
            f"skipped (skip={len(flaws)} would do): {_some(flaws)}"
        )
    if flaws:
        folders.say(name, f"{len(flaws)} of {len(paths)} images left out: {_some(flaws)}")
    kept = {
        split: [item for item in items if str(item.image) not in flaws]
        for split, items in groups.items()
    }
    for split, items in kept.items():
        if not items:
            raise DatasetError(f"{name}: no image of the {split} split can be read: {_some(flaws)}")
    return kept, content


def _some(flaws: Mapping[str, str]) -> str:
    named = [
        f"{path if len(path) < 500 else f'...{path[-200:]}'} ({reason})"
        for path, reason in list(flaws.items())[:SHOWN]
    ]
    return "; ".join(named) + (f"; and {len(flaws) - SHOWN} more" if len(flaws) > SHOWN else "")


def _version(address: Address, groups: Groups, content: str) -> str:
    """A hash of all that decides what is read: the files, their names, labels, splits and order."""
    found = hashlib.sha256(json.dumps([address.seed, address.mirror, content]).encode())
    base = address.path if address.kind == "folder" else address.path.parent
    for split, items in groups.items():
        for image, label in items:
            name = os.path.relpath(image, base) if isinstance(image, Path) else ""
            found.update(json.dumps([split, name, label]).encode())
    return found.hexdigest()[:12]
