"""The settings of a benchmark: its networks, data sets, training recipes and methods."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from jaxparc import datasets, models, selectors
from jaxparc.bank.entry import Entry
from jaxparc.errors import InputError
from jaxparc.evaluation import SCRATCH, Transfer
from jaxparc.training.steps import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark: every architecture trained on every source, then fine-tuned to every target.

    With a bank file, it is every network of the file instead, as it was published.

    Attributes:
        name: name of the benchmark and its results folder.
        architectures: keys of `models.MODELS`.
        sources: names of data sets or addresses of user images, as `datasets.load` takes them;
            tables and file names use their `datasets.short_name`.
        targets: data sets, like `sources`; a source is not its own target.
        extra_targets: data sets, like `sources`, that are left out of Mean PC.
        external: (architecture, source) of models that were pretrained elsewhere. import_probes
            imports their probe files and accuracies.
        bank: path of a bank file whose networks take the place of architectures and sources; "" for
            none.
        networks: those of `bank` that can be fine-tuned, which `with_networks` reads.
        external_from_oracle: whether `external` is read from the results folder's oracle.csv.
        annotations: annotations of the targets' images, "labels" or "boxes" of objects.
        widths: architecture -> multiplier of its channels.
        stem: stem of the networks, "imagenet" or "small".
        dropout: whether networks with dropout layers use them.
        image_size: side of the images, in pixels.
        source_recipe: recipe for training on sources; its learning rate is replaced by the next
            field.
        source_learning_rates: architecture -> learning rate.
        source_steps: source -> number of steps, if it differs from the recipe's.
        source_start: source whose models the other sources' models start from; "" for random
            weights.
        from_scratch: whether to train the source models that come with the package, too
            (`shipped`).
        transfer_recipe: recipe for fine-tuning; its learning rate is replaced by those of the grid.
        learning_rates: architecture -> grid, from which one rate is chosen per target; "" for any
            other architecture.
        repeats: number of times that a transfer is fine-tuned with the chosen rate, each with
            another seed; their mean is its accuracy.
        linear_probes: whether to train a linear classifier on the features of every transfer, too.
        halving: whether the worse half of a grid is stopped after a quarter, and again after half,
            of the steps, by the mean over the sources.
        transfer_images: number of images of the target's training split to fine-tune on, the first
            in the order of the data set; None for all but the validation images.
        validation_images: number of images of the same split, the last ones, used to choose the
            learning rate.
        scratch: whether to fine-tune a random initialisation too.
        probe_images: n, size of a probe set, which is drawn from the target's training split.
        probe_sets: number of probe sets per target.
        methods: labels of the methods that score the transfers.
        reference: architecture of the model trained on the target itself, with which RSA and DDS
            compare.
        published_images: data set -> number of images in eq. 4, if it is not the size of the
            training split.
        ell_max: number of layers with relative depth 1 in eq. 6.
        dtype: dtype of the computation in training, "float32" or "bfloat16"; parameters and
            statistics are float32.
        sync_batch_norm: whether batch norm uses the images of all devices, or of each separately.
        momentum: momentum of SGD.
        weight_decay: weight decay of convolution and linear weights.
        eval_batch_size: batch size of evaluation and extraction, over all devices.
        seed: base seed of all random choices.
    """

    name: str
    architectures: tuple[str, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    extra_targets: tuple[str, ...] = ()
    external: tuple[tuple[str, str], ...] = ()
    external_from_oracle: bool = False
    bank: str = ""
    networks: tuple[Entry, ...] = ()
    annotations: str = "labels"
    widths: Mapping[str, float] = dataclasses.field(hash=False)
    stem: str
    dropout: bool
    image_size: int
    source_recipe: Recipe
    source_learning_rates: Mapping[str, float] = dataclasses.field(hash=False)
    source_steps: Mapping[str, int] = dataclasses.field(hash=False, default_factory=dict)
    source_start: str = ""
    from_scratch: bool = True
    transfer_recipe: Recipe
    learning_rates: Mapping[str, tuple[float, ...]] = dataclasses.field(hash=False)
    repeats: int = 1
    linear_probes: bool = False
    halving: bool = False
    transfer_images: int | None
    validation_images: int
    scratch: bool = True
    probe_images: int = 500
    probe_sets: int = 5
    methods: tuple[str, ...] = ("parc", "parc_f32", "knn", "heuristic")
    reference: str = "resnet50"
    published_images: Mapping[str, int] = dataclasses.field(hash=False, default_factory=dict)
    ell_max: float = 50
    dtype: str = "float32"
    sync_batch_norm: bool = True
    momentum: float = 0.9
    weight_decay: float = 1e-4
    eval_batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings before anything is trained."""
        for architecture in self.architectures:
            models.get(architecture)
        for field in ("widths", "source_learning_rates", "learning_rates"):
            if lacking := set(self.architectures) - getattr(self, field).keys():
                raise InputError(
                    f"benchmark {self.name}: {field} has no value for {', '.join(sorted(lacking))}"
                )
        self._check_names()
        for architecture, _ in self.external:
            models.get(architecture)
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"benchmark {self.name}: unknown dtype {self.dtype!r}; known: float32, bfloat16"
            )
        if self.source_start and self.source_start not in self.source_names:
            raise InputError(
                f"benchmark {self.name}: source_start is {self.source_start!r}; expected one of "
                f"its sources {', '.join(self.source_names)}"
            )
        if self.bank and (self.architectures or self.sources):
            raise InputError(
                f"benchmark {self.name}: a bank file takes the place of architectures and sources, "
                "of which this benchmark has its own; expected --benchmark real"
            )
        if self.bank and self.scratch:
            raise InputError(f"benchmark {self.name}: scratch needs sources, not a bank file")
        if self.repeats < 1:
            raise InputError(f"benchmark {self.name}: repeats is {self.repeats}; expected >= 1")
        needs = {need for method in self.methods for need in selectors.method(method).needs}
        if "reference" in needs and self.bank:
            raise InputError(
                f"benchmark {self.name}: RSA and DDS need a model trained on each target, which a "
                "bank file does not have"
            )
        if "reference" in needs:
            if self.reference not in self.architectures:
                raise InputError(
                    f"benchmark {self.name}: reference is {self.reference!r}; expected one of its "
                    f"architectures {', '.join(self.architectures)}"
                )
            if lacking := sorted(set(self.target_names) - set(self.source_names)):
                raise InputError(
                    f"benchmark {self.name}: RSA and DDS need a model trained on each target; "
                    f"{', '.join(lacking)} is not a source"
                )

    def _check_names(self) -> None:
        """Check that names and data sets correspond one to one, and that these have classes."""
        names: dict[str, str] = {}
        identities: dict[Any, str] = {}
        for address in self.addresses:
            datasets.require_classes(address, f"benchmark {self.name}")
            identity = datasets.folder_of(address)
            if identities.setdefault(identity, address) != address:
                raise InputError(
                    f"benchmark {self.name}: {identities[identity]} and {address} are the same "
                    "data set"
                )
            name = datasets.short_name(address)
            if names.setdefault(name, address) != address:
                raise InputError(
                    f"benchmark {self.name}: {names[name]} and {address} both have the name {name}"
                )

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources, as used in tables and file names."""
        return tuple(map(datasets.short_name, self.sources))

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets, extra targets last."""
        return tuple(map(datasets.short_name, (*self.targets, *self.extra_targets)))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of all data sets, as `datasets.load` takes them."""
        return tuple(dict.fromkeys((*self.sources, *self.targets, *self.extra_targets)))

    def address(self, name: str) -> str:
        """Return the address of a data set, given its name."""
        return next(known for known in self.addresses if datasets.short_name(known) == name)

    def data(self, name: str) -> datasets.DatasetSpec:
        """Return the spec of a data set, given its name."""
        return datasets.spec_of(self.address(name))

    def images(self, name: str) -> float:
        """Return the number of images of a data set in eq. 4; NaN if the data set is unknown."""
        if name in self.published_images:
            return self.published_images[name]
        names = map(datasets.short_name, self.addresses)
        return self.data(name).sizes["train"] if name in names else math.nan

    def source_images(self, architecture: str, source: str) -> float:
        """Return the number of images that a model was trained on, in eq. 4; NaN if unknown."""
        if not self.bank:
            return self.images(source)
        return self.network(architecture, source).source_images or math.nan

    def layers(self, architecture: str, source: str) -> int:
        """Return the number of layers of a model, as eq. 4 and 6 take it."""
        given = self.network(architecture, source).layers if self.bank else None
        return given or models.get(architecture).layers

    def settings(self) -> dict[str, Any]:
        """Return everything that determines the results, as JSON values."""
        settings = self._as_dict()
        if self.external_from_oracle:
            del settings["external"]
        for key in ("bank", "networks"):  # each network's checkpoint has what determines it
            settings.pop(key, None)
        return settings | {
            "sources": self.source_names,
            "targets": tuple(map(datasets.short_name, self.targets)),
            "extra_targets": tuple(map(datasets.short_name, self.extra_targets)),
            "dataset_versions": self._versions({*self.source_names, *self.target_names}),
        }

    def models(self) -> tuple[tuple[str, str], ...]:
        """Return the (architecture, source) of the models that are fine-tuned here.

        Of a bank file, the source is the training set, or else the name of the network. Where
        several networks have both in common, it is their names.
        """
        if not self.bank:
            return tuple(itertools.product(self.architectures, self.source_names))
        pairs = [(one.architecture, one.source or one.name) for one in self.networks]
        return tuple(
            pair if pairs.count(pair) == 1 else (one.architecture, one.name)
            for pair, one in zip(pairs, self.networks, strict=True)
        )

    def network(self, architecture: str, source: str) -> Entry:
        """Return the entry of the bank file that is one of `models`."""
        return dict(zip(self.models(), self.networks, strict=True))[architecture, source]

    def rates(self, architecture: str) -> tuple[float, ...]:
        """Return the grid of learning rates of an architecture."""
        return self.learning_rates.get(architecture) or self.learning_rates[""]

    def transfers(self, *, scratch: bool = False) -> Iterator[Transfer]:
        """Iterate over the transfers of models trained here, and of random weights if `scratch`."""
        sources = (*self.source_names, SCRATCH)
        models = itertools.product(self.architectures, sources) if scratch else self.models()
        for (architecture, source), target in itertools.product(models, self.target_names):
            if source != target:  # a source is not its own target
                yield Transfer(architecture, source, target)

    def external_transfers(self) -> Iterator[Transfer]:
        """Iterate over the transfers of models that were pretrained elsewhere."""
        for (architecture, source), target in itertools.product(self.external, self.target_names):
            yield Transfer(architecture, source, target)

    def references(self) -> Iterator[Transfer]:
        """Iterate over the reference models and their targets, if a method needs them."""
        if any("reference" in selectors.method(method).needs for method in self.methods):
            for target in self.target_names:
                yield Transfer(self.reference, target, target)

    def source_settings(self) -> dict[str, Any]:
        """Return the settings that determine the source models."""
        settings = self._as_dict()
        return {key: settings[key] for key in _OF_SOURCES if key in settings} | {
            "dataset_versions": self._versions(set(self.source_names))
        }

    def _as_dict(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self)
        # Folders that were made before a setting existed remain valid.
        for name, before in (("from_scratch", True), ("repeats", 1), ("linear_probes", False)):
            if settings[name] == before:
                del settings[name]
        return settings

    def _versions(self, names: set[str]) -> dict[str, str]:
        return {name: self.data(name).version for name in sorted(names)}


_OF_SOURCES = (
    "widths",
    "stem",
    "dropout",
    "image_size",
    "source_recipe",
    "source_learning_rates",
    "source_steps",
    "source_start",
    "from_scratch",
    "dtype",
    "sync_batch_norm",
    "momentum",
    "weight_decay",
    "eval_batch_size",
    "seed",
)
