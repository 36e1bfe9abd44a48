"""The models of a bank, and the kinds of networks that can be among them."""

import dataclasses
import functools
import importlib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxparc.errors import InputError
from jaxparc.geometry import Geometry

Colour = tuple[float, float, float]


class Counts(NamedTuple):
    """The size of a network; None if unknown.

    Attributes:
        layers: depth, as the PARC paper counts it.
        parameters: number of parameters.
        gmacs: billion multiply-adds per image of its input size.
    """

    layers: int | None = None
    parameters: int | None = None
    gmacs: float | None = None

    def or_else(self, other: "Counts") -> "Counts":
        """Return the same, and where it is unknown what another count says."""
        known = {key: value for key, value in self._asdict().items() if value is not None}
        return other._replace(**known)


class Model(NamedTuple):
    """A model with its weights in memory.

    Attributes:
        geometry: how images are resized and cropped for it.
        start: function that prepares it for running, and returns a function of (b, size, size, 3)
            uint8 images that returns features (b, d), or features and logits (b, z).
        counts: its size, as far as it is known from the loaded network.
        notes: what the user should know about it.
        start_all: like `start`, and the function also returns, last, a mapping from the names of
            other layers to their activations (b, d); None if they are not known.
    """

    geometry: Geometry
    start: Callable[[], Callable[[np.ndarray], Any]]
    counts: Counts = Counts()
    notes: tuple[str, ...] = ()
    start_all: Callable[[], Callable[[np.ndarray], Any]] | None = None


class Implementation(Protocol):
    """The module of a kind."""

    def load(self, entry: "Entry") -> Model:
        """Read a model.

        Raises:
            InputError: a package is missing, or the model or its weights are not what they should
                be.
            OSError: a file cannot be read.
        """

    def fingerprint(self, entry: "Entry") -> Any:
        """Return what identifies the network and its weights besides the entry, as JSON holds it.

        Raises:
            InputError: as `load`.
            OSError: likewise.
        """

    def counts(self, entry: "Entry") -> Counts:
        """Return what is known of its size without reading weights.

        Raises:
            InputError: the network does not take images of the entry's size.
        """


class Kind(NamedTuple):
    """A kind of network; the key of a bank file that names one is the kind's name.

    Attributes:
        module: name of its `Implementation`.
        keys: keys that it takes besides `COMMON`.
        needs: keys that it requires.
        address: whether a model can be addressed as NAME:VALUE on the command line.
    """

    module: str
    keys: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    address: bool = True


# Keys of every kind, besides the one that names the network.
COMMON = frozenset(
    ("name", "source", "source_images", "layers", "size", "mean", "std", "crop", "resize")
    + ("interpolation", "licence", "prior")
)
_WEIGHTS = frozenset(("scheme", "variant", "weights_key", "ignore", "channels", "stride_in_1x1"))

KINDS: Mapping[str, Kind] = types.MappingProxyType(
    {
        "architecture": Kind(
            "jaxparc.bank.kinds.native",
            frozenset(("weights", *_WEIGHTS)),
            frozenset(("weights",)),
            address=False,
        ),
        "timm": Kind("jaxparc.bank.kinds.timm_networks", frozenset(("weights",))),
        "torch": Kind(
            "jaxparc.bank.kinds.torch_modules", frozenset(("features",)), frozenset(("mean", "std"))
        ),
        "onnx": Kind(
            "jaxparc.bank.kinds.onnx_graphs", frozenset(("features",)), frozenset(("mean", "std"))
        ),
        "keras": Kind("jaxparc.bank.kinds.keras_networks", frozenset(("weights", "features"))),
        "jax": Kind("jaxparc.bank.kinds.jax_functions", needs=frozenset(("mean", "std"))),
    }
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of a bank; fields that are None follow from the weights or the network.

    The fields are the keys of a bank file, and:

    Attributes:
        architecture: the name of the network, as its kind takes it.
        weights: path of the weights; None if the kind finds them, or a hub has them.
        hub: repository of a hub that has the weights, OWNER/NAME.
        kind: a key of `KINDS`.
        refused: why the model's name cannot be used as a file name; None if it can.
    """

    name: str
    architecture: str
    weights: Path | None = None
    hub: str | None = None
    kind: str = "architecture"
    scheme: str | None = None
    variant: str | None = None
    weights_key: str | None = None
    ignore: tuple[str, ...] = ()
    channels: str | None = None
    stride_in_1x1: bool | None = None
    features: str | None = None
    source: str | None = None
    source_images: int | None = None
    layers: int | None = None
    size: int | None = None
    mean: Colour | None = None
    std: Colour | None = None
    crop: float | None = None
    resize: str | None = None
    interpolation: str | None = None
    licence: str | None = None
    prior: float | None = None
    refused: str | None = None

    @property
    def address(self) -> str:
        """The network in words: "resnet50", "timm:vit_base_patch16_224"."""
        return self.architecture if self.native else f"{self.kind}:{self.architecture}"

    @property
    def native(self) -> bool:
        """Whether it is a network of `jaxparc.models`; only these can be fine-tuned here."""
        return self.kind == "architecture"

    @property
    def normalisation(self) -> tuple[Colour, Colour]:
        """Mean and std, of kinds that need both.

        Raises:
            InputError: one is missing.
        """
        if self.mean is None or self.std is None:
            raise InputError(f"{self.name}: {self.address} needs mean and std of images in [0, 1]")
        return self.mean, self.std

    @property
    def where(self) -> str:
        """Where it comes from: the path or the repository of its weights, or its address."""
        return f"hf://{self.hub}" if self.hub else str(self.weights or self.address)

    def fetched_weights(self) -> Path | None:
        """Return the path of its weights, downloaded if necessary; None if it gives none.

        Raises:
            InputError: they are of a hub and neither in the cache nor can be fetched.
        """
        if self.hub is None:
            return self.weights
        from jaxparc.bank import hub  # imports Flax, which scores of features do not need

        return hub.folder(self.hub)

    def cached_weights(self) -> Path | None:
        """Return the path of its weights; None if it gives none, or a hub's are not here yet."""
        if self.hub is None:
            return self.weights
        from jaxparc.bank import hub

        return hub.cached_folder(self.hub)

    @property
    def implementation(self) -> Implementation:
        """The module of its kind, whose packages are imported when they are needed."""
        module: Any = importlib.import_module(KINDS[self.kind].module)
        return module

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What determines the features: settings, and a hash of the weights, which is read once.

        Raises:
            OSError: the weights cannot be read.
            InputError: the weights are not a regular file, or a package is missing.
        """
        settings = {key: getattr(self, key) for key in AFFECTING}
        return {**settings, "weights": self.implementation.fingerprint(self)}

    def counts(self) -> Counts:
        """Return what is known of the size of its network without reading weights.

        Raises:
            InputError: the network does not take images of this size.
        """
        return Counts(layers=self.layers).or_else(self.implementation.counts(self))

    def geometry(self, default: Geometry) -> Geometry:
        """Return how images are resized and cropped: as the entry says, or else as by default."""
        given = {key: getattr(self, key) for key in Geometry._fields}
        return default._replace(**{k: v for k, v in given.items() if v is not None})


# Fields that the features depend on, besides the weights themselves.
AFFECTING = ("kind", "architecture", *sorted(_WEIGHTS), "features", "size", "mean", "std") + (
    "crop",
    "resize",
    "interpolation",
)
