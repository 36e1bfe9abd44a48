"""Folders of images: which of them are classes, and which are splits."""

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

# Usual names of splits. Of those other than train, the first that exists is the test split, and the
# others are skipped.
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
# Words that are ignored in such names, as in train_set, TrainImages and val2017.
_FILLERS = ("set", "split", "data", "dataset", "folder", "images", "image", "imgs", "img")
# Files of operating systems and tools, besides those whose names begin with a full stop.
_SYSTEM_FILES = frozenset(
    (
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("lost+found", "@eadir", "#recycle", "#snapshot", "__pycache__"),
    )
)
_MAX_DEPTH = 64
SHOWN = 5  # file extensions, or arrays, that a message names


class Item(NamedTuple):
    """An image and its class or classes, by the names in the data set, or its value."""

    image: Any  # a Path, or (h, w[, 3]) uint8
    label: Any  # a string, a tuple of strings, or a float


@dataclass
class Listing:
    """The images of a data set.

    Attributes:
      groups: split -> images; only `train` if there is no test split.
      skipped: a description of what was skipped -> how often.
    """

    groups: dict[str, list[Item]]
    skipped: Counter[str] = field(default_factory=Counter)


def split_of(name: str) -> str | None:
    """Return the split that a name means, in any spelling; None if it is none of SPLITS."""
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word not in _FILLERS]
    word = re.sub(rf"(?<=.)({'|'.join(_FILLERS)})$", "", "".join(words))
    return next((split for split, names in SPLITS.items() if word in names), None)


def test_split(splits: Iterable[str]) -> str | None:
    """Return which of the given splits is the test split; None if there is only `train`."""
    return next((split for split in SPLITS if split != "train" and split in splits), None)


@dataclass(eq=False)
class _Folder:
    """A folder.

    Attributes:
      path: of the folder.
      images: in the folder itself.
      folders: in the folder itself.
      skipped: a description of what was skipped in the folder itself -> how often.
    """

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list["_Folder"] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return self.path.name

    def below(self) -> Iterator["_Folder"]:
        """Yield all folders in it, at any depth."""
        for folder in self.folders:
            yield folder
            yield from folder.below()

    def all_skipped(self) -> Counter[str]:
        """Return what was skipped in it, at any depth."""
        return sum((folder.skipped for folder in (self, *self.below())), Counter[str]())

    def total(self) -> int:
        """Return the number of images in it, at any depth."""
        return len(self.images) + sum(folder.total() for folder in self.folders)


class _Walk:
    """A walk through folders that follows links, and visits each file and each folder once."""

    def __init__(self) -> None:
        self.seen: dict[str, Path] = {}  # resolved path -> path
        self.again: list[tuple[Path, Path]] = []  # first and later path of the same file or folder

    def folder(self, path: Path, real: str, above: tuple[str, ...], depth: int = 0) -> _Folder:
        """List a folder with all that is in it.

        Args:
          path: as the user wrote it.
          real: the resolved path.
          above: the resolved paths of the folders around it.
          depth: how many of them are in the data set.
        """
        found = _Folder(path)
        if depth > _MAX_DEPTH:
            raise DatasetError(f"folder {path} is nested more than {_MAX_DEPTH} folders deep")
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise DatasetError(f"folder {path} cannot be listed: {error.strerror}") from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                found.skipped["hidden files"] += 1
                continue
            place = path / entry.name
            target = os.path.realpath(place) if entry.is_symlink() else f"{real}/{entry.name}"
            is_image = place.suffix.lower() in images.SUFFIXES
            try:
                is_folder = stat.S_ISDIR(os.stat(place).st_mode)
            except OSError as error:
                # Otherwise a class would be lost silently; images are reported when decoded.
                if depth == 0 and not is_image:
                    raise DatasetError(f"{place} cannot be followed: {error.strerror}") from error
                if not is_image:
                    found.skipped["broken links"] += 1
                    continue
                is_folder = False
            if target in (*above, real):
                found.skipped["links to a folder above"] += 1
            elif not is_folder and not is_image:
                found.skipped[
                    f"{place.suffix} files" if place.suffix else "files without extension"
                ] += 1
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
    """List a folder with one folder per class, or with one folder per split that holds these.

    Raises:
      DatasetError: the folders are neither, a file is in two classes, or a class has no images.
    """
    walk = _Walk()
    real = os.path.realpath(root)
    top = walk.folder(root, real, tuple(map(str, Path(real).parents)))
    skipped = top.all_skipped()
    _check_links(root, walk, {}, {root})
    splits = _splits(root, top, skipped)
    places: dict[Path, tuple[str, str]] = {}
    groups: dict[str, list[Item]] = {}
    test = test_split(splits)
    for split, folder in splits.items():
        if split not in ("train", test):
            skipped[f"images of {folder.name} beside a test split"] += folder.total()
            continue
        skipped["images beside the folders of classes"] += len(folder.images)
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
    skipped["links to images that are read anyway"] += len(walk.again)
    return Listing(groups, +skipped)


def _check_links(
    root: Path, walk: _Walk, places: Mapping[Path, tuple[str, str]], above: set[Path]
) -> None:
    """Check that no image is in two classes or splits, and no folder in `above` is a duplicate."""
    for pair in walk.again:
        first, second = (
            next((places[one] for one in (path, *path.parents) if one in places), None)
            for path in pair
        )
        lost = pair[1].parent in above and os.path.isdir(pair[1])
        if lost or (second is not None and first != second):
            names = " and ".join(str(path.relative_to(root)) for path in pair)
            raise DatasetError(
                f"folder:{root}: {names} are linked to each other; expected each image in one "
                "class and one split"
            )


def _splits(root: Path, top: _Folder, skipped: Counter[str]) -> dict[str, _Folder]:
    """Return split -> the folder that holds its class folders."""
    holding = [folder for folder in top.folders if folder.total()]
    splits = [split_of(folder.name) for folder in holding]
    # In folders of splits, images may lie beside the class folders.
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
                f"folder:{root}: the splits {printing.some(flat)} hold images; expected one folder "
                "per class in each"
            )
        return {"train": top}
    for folder in top.folders:
        held = folder.all_skipped()
        if split_of(folder.name) and not folder.total() and held.total() > held["hidden files"]:
            raise DatasetError(
                f"folder:{root}: {folder.name} holds no images, but {described(held)}"
            )
    known = f"expected one folder per class, or one per split with these inside ({KNOWN})"
    if len(holding) == 1 and splits == [None]:
        raise DatasetError(
            f"folder:{root} only holds {names}, which holds folders; did you mean "
            f"folder:{deep[0].path}? {known}"
        )
    if flat := [folder.name for folder in holding if folder not in deep]:
        trained = [folder for folder in deep if split_of(folder.name) == "train"]
        hint = f"folder:{trained[0].path} reads only that split; " if trained else ""
        raise DatasetError(
            f"folder:{root}: {printing.some(flat)} hold{'s' * (len(flat) < 2)} images, and "
            f"{printing.some([folder.name for folder in deep])} only folders of images; {hint}"
            f"{known}"
        )
    if None in splits or "train" not in splits:
        raise DatasetError(
            f"folder:{root}: {names} hold folders of images, and are not splits that include "
            f"train; {known}"
        )
    if len(set(splits)) < len(splits):
        raise DatasetError(f"folder:{root}: duplicate split among {names}; {known}")
    skipped["folders without images"] += len(top.folders) - len(holding)
    skipped["images beside the folders of splits"] += len(top.images)
    folders = dict(zip(splits, holding, strict=True))
    return {split: folders[split] for split in SPLITS if split in folders}


def _check_class(root: Path, cls: _Folder, others: set[str]) -> None:
    """Check that a class has images itself, and no folders that look like splits or classes."""
    name = cls.path.relative_to(root)
    if not cls.total():
        held = described(cls.all_skipped(), ", but {}")
        raise DatasetError(
            f"folder:{root}: {name} holds no images{held}; expected one folder per class"
        )
    if not cls.images:
        raise DatasetError(
            f"folder:{root}: {name} only holds images in its folders; expected one folder per class"
        )
    for folder in cls.below():
        if folder.images and folder.name != cls.name:
            what = "a split" if split_of(folder.name) else "another class"
            if split_of(folder.name) or folder.name in others:
                raise DatasetError(
                    f"folder:{root}: {folder.path.relative_to(root)} is in a class and named like "
                    f"{what}; expected class folders inside those of splits, and not in each other"
                )


def say(name: str, text: str) -> None:
    """Print a line about a data set to stderr."""
    print(printing.visible(f"{name}: {text}"), file=sys.stderr)


def described(skipped: Counter[str], form: str = "{}") -> str:
    """Return what was skipped, formatted into `form`; "" if nothing was."""
    endings = Counter({what: n for what, n in skipped.items() if what.startswith(".")})
    rest = skipped - endings
    shown = [f"{what} ({n:,})" for what, n in [*rest.items(), *endings.most_common(SHOWN)]]
    if more := endings.total() - sum(n for _, n in endings.most_common(SHOWN)):
        shown.append(f"files of other types ({more:,})")
    return form.format(", ".join(shown)) if shown else ""
