"""NABirds, which TFDS does not have, from the folder that its authors distribute.

    images/<class>/<image>.jpg
    images.txt                 image id, path under images/
    image_class_labels.txt     image id, class id
    train_test_split.txt       image id, 1 to train on, 0 to test
    classes.txt                class id, name

The 1,011 classes form a hierarchy; the labels are its 555 visual categories, such as "House Sparrow
(Female/Juvenile)", which are the classes that have images, in the order of their ids.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from jaxparc import files
from jaxparc.datasets.specs import DATASETS, DatasetError

FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


class Photograph(NamedTuple):
    """An image of images.txt, with its class and split from the other files."""

    path: Path
    class_id: int
    train: bool


class Nabirds(tfds.core.GeneratorBasedBuilder):
    """North American birds: photographs of 555 visual categories."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = DATASETS["nabirds"].manual

    # Called once per example, to show progress.
    on_example: Callable[[], object] = staticmethod(lambda: None)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=DATASETS["nabirds"].num_classes),
                    "filename": tfds.features.Text(),
                }
            ),
            homepage="https://dl.allaboutbirds.org/nabirds",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        photographs, names = read_folder(Path(dl_manager.manual_dir))
        codes = {class_id: code for code, class_id in enumerate(names)}
        self.info.features["label"].names = [f"{i} {name}" for i, name in names.items()]
        return {
            split: self._generate_examples(
                {i: p for i, p in photographs.items() if p.train == (split == "train")}, codes
            )
            for split in ("train", "test")
        }

    def _generate_examples(
        self, photographs: Mapping[str, Photograph], codes: Mapping[int, int]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for image_id, photograph in photographs.items():
            self.on_example()
            yield (
                image_id,
                {
                    "image": photograph.path,
                    "label": codes[photograph.class_id],
                    "filename": photograph.path.name,
                },
            )


def read_folder(manual: Path) -> tuple[dict[str, Photograph], dict[int, str]]:
    """Read the text files of the official folder.

    Args:
        manual: the folder nabirds/, or the folder that holds it.

    Returns:
        Image id -> Photograph, and class id -> name for every class that has images, sorted by id.

    Raises:
        DatasetError: a file or an image is missing, a line is malformed, or the numbers of images
            and classes are not those published.
    """
    places = (manual, manual / "nabirds", manual / "nabirds" / "nabirds")
    root = next((place for place in places if (place / FILES[0]).is_file()), None)
    if root is None:
        raise DatasetError(
            f"nabirds: {manual} holds no {FILES[0]}; put {DATASETS['nabirds'].manual}"
        )
    paths, labels, splits, classes = (_read(root / name) for name in FILES)
    for name, table in zip(FILES[1:3], (labels, splits), strict=True):
        if different := sorted(paths.keys() ^ table.keys()):
            raise DatasetError(
                f"nabirds: {root / name} and {FILES[0]} list different images: "
                f"{different[0]} is only in one of them"
            )
    photographs = {}
    for image_id, path in paths.items():
        file, label, train = root / "images" / path, labels[image_id], splits[image_id]
        if label not in classes or not label.isdecimal():
            raise DatasetError(f"nabirds: image {image_id} has class {label}, not in {FILES[3]}")
        if train not in ("0", "1"):
            raise DatasetError(f"nabirds: {FILES[2]} has {train!r} for {image_id}; expected 0 or 1")
        if not file.is_file():
            raise DatasetError(f"nabirds: {file} is missing")
        photographs[image_id] = Photograph(file, int(label), train == "1")
    used = sorted({photograph.class_id for photograph in photographs.values()})
    expected = DATASETS["nabirds"]
    trained = sum(photograph.train for photograph in photographs.values())
    found = {"train": trained, "test": len(photographs) - trained}
    if len(used) != expected.num_classes or found != dict(expected.sizes):
        raise DatasetError(
            f"nabirds: {root} has {len(used)} classes and {found} images; expected "
            f"{expected.num_classes} and {dict(expected.sizes)}"
        )
    return photographs, {class_id: classes[str(class_id)] for class_id in used}


def _read(path: Path) -> dict[str, str]:
    """Read a file whose lines are a key, a space, and a value."""
    try:
        text = files.read_text(path)
    except OSError as error:
        raise DatasetError(f"nabirds: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"nabirds: {error}") from error
    table: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        key, _, value = line.strip().partition(" ")
        if not value:
            raise DatasetError(
                f"nabirds: {path} line {number}: {line!r}; expected an id, a space and a value"
            )
        if key in table:
            raise DatasetError(f"nabirds: {path} line {number}: duplicate id {key}")
        table[key] = value
    return table
