"""People's own images as data sets, named by where they are: no code, no copy.

    folder:PATH     one folder per class; or train/ and test/ (or val/), each with these
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

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxparc import files, images, sampling
from jaxparc.datasets import layouts
from jaxparc.datasets.layouts import Groups, Item
from jaxparc.datasets.specs import DatasetError, DatasetSpec, Record

SHOWN = 5  # unreadable images that a message names


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
                image = image.read_bytes()
            except OSError as error:
                raise DatasetError(f"{image} cannot be read any more: {error.strerror}") from error
        return {"image": image, "label": self._class(label)}

    def labels(self) -> list[Any]:
        """Returns all labels."""
        return [self._class(item.label) for item in self.items]

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


def parse(name: str) -> Address:
    """Takes an address apart.

    Raises:
      ValueError: there is nothing at the path, or an option is unknown or has no such value.
    """
    kind, _, rest = name.partition(":")
    path, _, options = rest.rpartition(":")
    if not path or not re.fullmatch(r"\w+=[^,=/]*(,\w+=[^,=/]*)*", options):
        path, options = rest, ""
    address = Address(kind, Path(os.path.abspath(os.path.expanduser(path))))
    if not path or not (address.path.is_dir() if kind == "folder" else address.path.is_file()):
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
    groups = {
        split: list(items) for split, items in layouts.READERS[address.kind](address.path).items()
    }
    readable, content = _readable(name, address, groups, root)
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
    """Sorts "2" before "10"; numbers come before words."""
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)


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
    flaws, content = _looked_at(name, address, paths, root)
    if len(flaws) == len(paths):
        raise DatasetError(f"{name}: none of {len(paths)} images can be read: {_some(flaws)}")
    if len(flaws) > address.skip:
        raise DatasetError(
            f"{name}: {len(flaws)} of {len(paths)} images cannot be read, {address.skip} may be "
            f"skipped (skip={len(flaws)} would do): {_some(flaws)}"
        )
    if flaws:
        print(
            f"{name}: {len(flaws)} of {len(paths)} images left out: {_some(flaws)}", file=sys.stderr
        )
    kept = {
        split: [item for item in items if str(item.image) not in flaws]
        for split, items in groups.items()
    }
    for split, items in kept.items():
        if not items:
            raise DatasetError(f"{name}: no image of the {split} split can be read: {_some(flaws)}")
    return kept, content


def _some(flaws: Mapping[str, str]) -> str:
    named = [f"{path} ({reason})" for path, reason in list(flaws.items())[:SHOWN]]
    return "; ".join(named) + (f"; and {len(flaws) - SHOWN} more" if len(flaws) > SHOWN else "")


def _looked_at(
    name: str, address: Address, paths: Sequence[Path], root: Path
) -> tuple[dict[str, str], str]:
    """Path and reason of every image that cannot be read, and a hash of all files."""
    stamp = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            stamp.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except OSError:
            stamp.update(f"{path}\0missing\n".encode())
    key = hashlib.sha256(f"{address.kind}:{address.path}".encode()).hexdigest()[:8]
    memory = root / "own" / f"{short_name(name)}-{key}.json"
    try:
        known = files.read_sealed(memory)
        if known["stamp"] == stamp.hexdigest():
            return dict(known["unreadable"]), known["content"]
    except (OSError, files.DamagedFileError):
        pass  # not looked at yet
    looks = list(_looks(name, paths))
    flaws = {str(path): look.flaw for path, look in zip(paths, looks, strict=True) if look.flaw}
    content = hashlib.sha256("".join(look.digest for look in looks).encode()).hexdigest()
    known = {"stamp": stamp.hexdigest(), "unreadable": flaws, "content": content}
    with contextlib.suppress(OSError):  # if it cannot be kept, they are looked at again next time
        files.write_sealed(memory, known)
    return flaws, content


class _Look(NamedTuple):
    """What is found in a file: why it cannot be read, "" if it can, and a hash of it."""

    flaw: str
    digest: str


def _looks(name: str, paths: Sequence[Path]) -> Iterator[_Look]:
    """Decodes every image, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from track(
            pool.map(_look, paths),
            description=f"Reading {short_name(name)}",
            total=len(paths),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
    finally:  # an interrupt does not wait for the rest
        pool.shutdown(cancel_futures=True)


def _look(path: Path) -> _Look:
    content = b""
    try:
        content = path.read_bytes()
        images.open_rgb(content, side=1)
    except Exception as error:  # whatever broken bytes make PIL raise
        # PIL names the object that it was given, which says nothing here.
        flaw = re.sub(r" <_io\.BytesIO.*?>", "", str(getattr(error, "strerror", None) or error))
        return _Look(flaw or type(error).__name__, hashlib.sha256(content).hexdigest())
    return _Look("", hashlib.sha256(content).hexdigest())


def _version(address: Address, groups: Groups, content: str) -> str:
    """A hash of all that decides what is read: the files, their names, labels, splits and order."""
    found = hashlib.sha256(json.dumps([address.seed, address.mirror, content]).encode())
    base = address.path if address.kind == "folder" else address.path.parent
    for split, items in groups.items():
        for image, label in items:
            name = os.path.relpath(image, base) if isinstance(image, Path) else ""
            found.update(json.dumps([split, name, label]).encode())
    return found.hexdigest()[:12]
