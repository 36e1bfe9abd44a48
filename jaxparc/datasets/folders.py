"""Folders of images: what lies in them, and which of them are classes and which splits."""

import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxparc import printing
from jaxparc.datasets import images
from jaxparc.datasets.specs import DatasetError

# What people call a split. Of those that are not trained on, the first that is there is the test
# split, and the others are passed over.
SPLITS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("train", "training", "trn", "trainval"),
        "test": ("test", "testing", "tst", "holdout", "heldout"),
        "val": (
            *("val", "valid", "validation", "validate", "dev", "devel", "development"),
            *("eval", "evaluation"),
        ),
    }
)
KNOWN = ", ".join(name for names in SPLITS.values() for name in names)
# Words beside these that say nothing, as in train_set, TrainImages and val2017.
_FILLERS = ("set", "split", "data", "dataset", "folder", "images", "image", "imgs", "img")
# Names that other systems leave, beside those that begin with a full stop.
_LEFT = frozenset(
    (
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("lost+found", "@eadir", "#recycle", "#snapshot", "__pycache__"),
    )
)
_DEEPEST = 64
SHOWN = 5  # endings of names, or arrays, in a message


class Item(NamedTuple):
    """An image and its class, or classes, in the words of whoever made the set."""

    image: Any  # a Path, or (h, w[, 3]) uint8
    label: Any  # a string, or a tuple of strings


@dataclass
class Listing:
    """What a set holds.

    Attributes:
      groups: the images of each split; without test split of `train` alone.
      passed: what was passed over, and how often.
    """

    groups: dict[str, list[Item]]
    passed: Counter[str] = field(default_factory=Counter)


def split_of(name: str) -> str | None:
    """Which split a name means, in any spelling; None if it is none of SPLITS."""
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word not in _FILLERS]
    word = re.sub(rf"(?<=.)({'|'.join(_FILLERS)})$", "", "".join(words))
    return next((split for split, names in SPLITS.items() if word in names), None)


def tested(splits: Iterable[str]) -> str | None:
    """Which of those that are there is the test split; None if there is but `train`."""
    return next((split for split in SPLITS if split != "train" and split in splits), None)


@dataclass(eq=False)
class _Folder:
    """A folder.

    Attributes:
      images: that lie in it.
      folders: likewise.
      passed: what lies in it and is passed over.
    """

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list["_Folder"] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return self.path.name

    def below(self) -> Iterator["_Folder"]:
        """All folders in it, at any depth."""
        for folder in self.folders:
            yield folder
            yield from folder.below()

    def all_passed(self) -> Counter[str]:
        """What is passed over in it, at any depth."""
        return sum((folder.passed for folder in (self, *self.below())), Counter[str]())

    def total(self) -> int:
        """How many images are in it, at any depth."""
        return len(self.images) + sum(folder.total() for folder in self.folders)


class _Walk:
    """Lists folders, and follows links, each file and each folder once."""

    def __init__(self) -> None:
        self.seen: dict[str, Path] = {}  # by the path without links
        self.again: list[tuple[Path, Path]] = []  # first and further places

    def folder(self, path: Path, real: str, above: tuple[str, ...], depth: int = 0) -> _Folder:
        """Lists one, with all in it.

        Args:
          path: as the user has it.
          real: without links.
          above: the folders around it, without links.
          depth: how many of them belong to the set.
        """
        found = _Folder(path)
        if depth > _DEEPEST:
            raise DatasetError(f"folder {path} lies more than {_DEEPEST} folders deep")
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise DatasetError(f"folder {path} cannot be listed: {error.strerror}") from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _LEFT:
                found.passed["hidden"] += 1
                continue
            place = path / entry.name
            target = os.path.realpath(place) if entry.is_symlink() else f"{real}/{entry.name}"
            is_image = place.suffix.lower() in images.SUFFIXES
            try:
                is_folder = stat.S_ISDIR(os.stat(place).st_mode)
            except OSError as error:
                # A lost class would not be missed otherwise; a lost image is named when it is read.
                if depth == 0 and not is_image:
                    raise DatasetError(f"{place} cannot be followed: {error.strerror}") from error
                if not is_image:
                    found.passed["links to nothing"] += 1
                    continue
                is_folder = False
            if target in (*above, real):
                found.passed["links to a folder above"] += 1
            elif not is_folder and not is_image:
                found.passed[f"ending in {place.suffix}" if place.suffix else "without ending"] += 1
            elif target in self.seen:
                self.again.append((self.seen[target], place))
            else:
                self.seen[target] = place
                if is_folder:
                    found.folders.append(self.folder(place, target, (*above, real), depth + 1))
                else:
                    found.images.append(place)
        return found


def read(root: Path) -> Listing:
    """One folder per class, in the folder itself or in one per split.

    Raises:
      DatasetError: the folders are neither, or a file is in two classes, or a class has no image.
    """
    walk = _Walk()
    real = os.path.realpath(root)
    top = walk.folder(root, real, tuple(map(str, Path(real).parents)))
    passed = top.all_passed()
    _check_links(root, walk, {}, {root})
    splits = _splits(root, top, passed)
    places: dict[Path, tuple[str, str]] = {}
    groups: dict[str, list[Item]] = {}
    test = tested(splits)
    for split, folder in splits.items():
        if split not in ("train", test):
            passed[f"images of {folder.name} beside a test split"] += folder.total()
            continue
        passed["images beside the folders of classes"] += len(folder.images)
        if not folder.folders:
            raise DatasetError(f"folder:{folder.path} holds no folders; expected one per class")
        names = {cls.name for cls in folder.folders}
        for cls in folder.folders:
            _check_class(root, cls, names - {cls.name})
            places[cls.path] = split, cls.name
            paths = sorted(image for folder in (cls, *cls.below()) for image in folder.images)
            items = [Item(image, cls.name) for image in paths]
            groups.setdefault("train" if split == "train" else "test", []).extend(items)
    _check_links(root, walk, places, {folder.path for folder in splits.values()})
    passed["links to what is read anyway"] += len(walk.again)
    return Listing(groups, +passed)


def _check_links(
    root: Path, walk: _Walk, places: Mapping[Path, tuple[str, str]], above: set[Path]
) -> None:
    """No image is in two classes or splits, and no folder just below `above` there twice."""
    for pair in walk.again:
        first, second = (
            next((places[one] for one in (path, *path.parents) if one in places), None)
            for path in pair
        )
        lost = pair[1].parent in above and os.path.isdir(pair[1])
        if lost or (second is not None and first != second):
            names = " and ".join(str(path.relative_to(root)) for path in pair)
            raise DatasetError(
                f"folder:{root}: {names} are the same by a link; expected each image in one class "
                "and one split"
            )


def _splits(root: Path, top: _Folder, passed: Counter[str]) -> dict[str, _Folder]:
    """The folders that hold those of the classes, by split."""
    holding = [folder for folder in top.folders if folder.total()]
    splits = [split_of(folder.name) for folder in holding]
    # Of splits, some images may lie beside the folders of the classes.
    deep = [
        folder
        for folder in holding
        if folder.total() > len(folder.images) and (not folder.images or None not in splits)
    ]
    names = printing.some([folder.name for folder in holding])
    if not deep:
        if len({split for split in splits if split}) > 1:
            flat = [folder.name for folder in holding if split_of(folder.name)]
            raise DatasetError(
                f"folder:{root}: {printing.some(flat)} are splits, and hold images without a "
                "folder per class"
            )
        return {"train": top}
    for folder in top.folders:
        held = folder.all_passed()
        if split_of(folder.name) and not folder.total() and held.total() > held["hidden"]:
            raise DatasetError(
                f"folder:{root}: {folder.name} holds no image, but what is {said(held)}"
            )
    known = f"expected one folder per class, or such in folders of splits, known: {KNOWN}"
    if len(holding) == 1 and splits == [None]:
        raise DatasetError(
            f"folder:{root} holds nothing but {names}, and that folders: is folder:{deep[0].path} "
            f"meant? {known}"
        )
    if flat := [folder.name for folder in holding if folder not in deep]:
        trained = [folder for folder in deep if split_of(folder.name) == "train"]
        hint = f"folder:{trained[0].path} reads that alone; " if trained else ""
        raise DatasetError(
            f"folder:{root}: {printing.some(flat)} hold{'s' * (len(flat) < 2)} images, and "
            f"{printing.some([folder.name for folder in deep])} only folders of images; {hint}"
            f"{known}"
        )
    if None in splits or "train" not in splits:
        raise DatasetError(
            f"folder:{root}: {names} hold folders of images and are not all splits, of which one "
            f"is to train on; {known}"
        )
    if len(set(splits)) < len(splits):
        raise DatasetError(f"folder:{root}: of {names}, two are the same split; {known}")
    passed["folders without images"] += len(top.folders) - len(holding)
    passed["images beside the folders of splits"] += len(top.images)
    folders = dict(zip(splits, holding, strict=True))
    return {split: folders[split] for split in SPLITS if split in folders}


def _check_class(root: Path, cls: _Folder, others: set[str]) -> None:
    """A class has images of its own, and no folders in it that seem to be something else."""
    name = cls.path.relative_to(root)
    if not cls.total():
        held = said(cls.all_passed(), ", but what is {}")
        raise DatasetError(
            f"folder:{root}: {name} holds no image{held}; expected one folder per class"
        )
    if not cls.images:
        raise DatasetError(
            f"folder:{root}: {name} holds no image itself, but its folders do; expected one folder "
            "per class"
        )
    for folder in cls.below():
        if folder.images and folder.name != cls.name:
            what = "of a split" if split_of(folder.name) else "of another class"
            if split_of(folder.name) or folder.name in others:
                raise DatasetError(
                    f"folder:{root}: {folder.path.relative_to(root)} is in a class and has the "
                    f"name {what}; expected splits above the classes, and no class in another"
                )


def say(name: str, text: str) -> None:
    """Says something of a data set on stderr."""
    print(printing.visible(f"{name}: {text}"), file=sys.stderr)


def said(passed: Counter[str], form: str = "{}") -> str:
    """What was passed over, as a text in a form; "" if nothing was."""
    endings = Counter({what: n for what, n in passed.items() if what.startswith("ending in ")})
    rest = passed - endings
    shown = [f"{what} ({n:,})" for what, n in [*rest.items(), *endings.most_common(SHOWN)]]
    if more := endings.total() - sum(n for _, n in endings.most_common(SHOWN)):
        shown.append(f"of other endings ({more:,})")
    return form.format(", ".join(shown)) if shown else ""
