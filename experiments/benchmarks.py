"""The benchmarks as frozen data: what is trained, on what, and how it is scored."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from jaxparc import datasets, models, selectors, train
from jaxparc.evaluation import SCRATCH, Transfer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark: every architecture trained on every source, then fine-tuned to every target.

    Attributes:
        name: of its results folder.
        architectures: names in `models.MODELS`.
        sources: what `datasets.load` takes: names and addresses of own images, which appear in
            tables and names of files under their `datasets.short_name`.
        targets: likewise; a source is not its own target.
        widths: per architecture, the multiplier of its channels.
        stem: of the networks, "imagenet" or "small".
        dropout: whether the networks that have dropout use it.
        image_size: side of the images, in pixels.
        source_recipe: how sources are trained; the learning rate is the next field's.
        source_learning_rates: per architecture.
        transfer_recipe: how they are fine-tuned; its learning rate is replaced by each of the grid.
        learning_rates: per architecture, the grid; chosen from per (target, architecture).
        transfer_images: images of the target's training split that are fine-tuned on; the first
            ones, in the order of the data set. None for all that validation leaves.
        validation_images: images of the same split, its last ones, that choose from the grid.
        scratch: whether to fine-tune a random initialisation too.
        probe_images: n, images of a probe set, from the target's training split.
        probe_sets: how many are drawn.
        methods: what scores them.
        reference: the architecture whose model trained on the target itself is what RSA and DDS
            compare with.
        ell_max: the depth that counts 1 in eq. 6.
        momentum: of SGD.
        weight_decay: of convolution and linear weights.
        eval_batch_size: of evaluation and extraction.
        seed: everything random follows from it.
    """

    name: str
    architectures: tuple[str, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    widths: Mapping[str, float] = dataclasses.field(hash=False)
    stem: str
    dropout: bool
    image_size: int
    source_recipe: train.Recipe
    source_learning_rates: Mapping[str, float] = dataclasses.field(hash=False)
    transfer_recipe: train.Recipe
    learning_rates: Mapping[str, tuple[float, ...]] = dataclasses.field(hash=False)
    transfer_images: int | None
    validation_images: int
    scratch: bool = True
    probe_images: int = 500
    probe_sets: int = 5
    methods: tuple[str, ...] = ("parc", "parc_f32", "knn", "heuristic")
    reference: str = "resnet50"
    ell_max: float = 50
    momentum: float = 0.9
    weight_decay: float = 1e-4
    eval_batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown names before anything is trained."""
        for architecture in self.architectures:
            models.get(architecture)
        for field in ("widths", "source_learning_rates", "learning_rates"):
            if lacking := set(self.architectures) - getattr(self, field).keys():
                raise ValueError(
                    f"benchmark {self.name}: {field} has no value for {', '.join(sorted(lacking))}"
                )
        self._check_names()
        needs = {need for method in self.methods for need in selectors.method(method).needs}
        if "reference" in needs:
            if self.reference not in self.architectures:
                raise ValueError(
                    f"benchmark {self.name}: reference {self.reference!r} is none of its "
                    f"architectures {', '.join(self.architectures)}"
                )
            if lacking := sorted(set(self.target_names) - set(self.source_names)):
                raise ValueError(
                    f"benchmark {self.name}: RSA and DDS need a model trained on each target; "
                    f"{', '.join(lacking)} is no source"
                )

    def _check_names(self) -> None:
        """One name is of one data set, and one data set has one name."""
        names: dict[str, str] = {}
        identities: dict[Any, str] = {}
        for address in dict.fromkeys((*self.sources, *self.targets)):
            identity = datasets.folder_of(address)
            if identities.setdefault(identity, address) != address:
                raise ValueError(
                    f"benchmark {self.name}: {identities[identity]} and {address} are the same set"
                )
            name = datasets.short_name(address)
            if names.setdefault(name, address) != address:
                raise ValueError(
                    f"benchmark {self.name}: {names[name]} and {address} are both called {name}"
                )

    @property
    def source_names(self) -> tuple[str, ...]:
        """What the sources are called in tables and in names of files."""
        return tuple(map(datasets.short_name, self.sources))

    @property
    def target_names(self) -> tuple[str, ...]:
        """Likewise the targets."""
        return tuple(map(datasets.short_name, self.targets))

    def address(self, name: str) -> str:
        """What `datasets.load` takes for the data set that is called so."""
        known = (*self.sources, *self.targets)
        return next(address for address in known if datasets.short_name(address) == name)

    def data(self, name: str) -> datasets.DatasetSpec:
        """What is known of the data set that is called so."""
        return datasets.spec_of(self.address(name))

    def settings(self) -> dict[str, Any]:
        """Everything that decides the results, as JSON can hold it."""
        return dataclasses.asdict(self) | {
            "sources": self.source_names,
            "targets": self.target_names,
            "dataset_versions": self._versions({*self.source_names, *self.target_names}),
        }

    def transfers(self, *, scratch: bool = False) -> Iterator[Transfer]:
        """Every transfer; with `scratch` those from random initialisation too."""
        sources = self.source_names + ((SCRATCH,) if scratch else ())
        for parts in itertools.product(self.architectures, sources, self.target_names):
            if parts[1] != parts[2]:  # a source is not its own target
                yield Transfer(*parts)

    def references(self) -> Iterator[Transfer]:
        """What looks at the targets besides the transfers' sources, if a method needs it."""
        if any("reference" in selectors.method(method).needs for method in self.methods):
            for target in self.target_names:
                yield Transfer(self.reference, target, target)

    def source_settings(self) -> dict[str, Any]:
        """The part of them that decides what a source model is."""
        settings = dataclasses.asdict(self)
        return {key: settings[key] for key in _OF_SOURCES} | {
            "dataset_versions": self._versions(set(self.source_names))
        }

    def _versions(self, names: set[str]) -> dict[str, str]:
        return {name: self.data(name).version for name in sorted(names)}


_OF_SOURCES = (
    "widths",
    "stem",
    "dropout",
    "image_size",
    "source_recipe",
    "source_learning_rates",
    "momentum",
    "weight_decay",
    "eval_batch_size",
    "seed",
)


# As the paper's Table 1 lists them, each with and without "+ layers".
_METHODS = tuple(
    method + layers
    for method in (
        "heuristic",
        "nce",
        "leep",
        "hscore",
        "hscore_f32",
        "knn",
        "logistic",
        "rsa",
        "rsa_f32",
        "dds",
        "dds_f32",
        "parc",
        "parc_f32",
    )
    for layers in ("", "+l")
)

# Four architectures at 32 pixels, as wide as keeps the whole run within minutes on two cores.
DEMO = Benchmark(
    name="demo",
    architectures=("alexnet", "googlenet", "resnet18", "resnet50"),
    sources=("digits", "mnist5k", "glyph_letters", "glyph_digits"),
    targets=("digits", "mnist5k", "glyph_letters"),
    widths={"alexnet": 0.125, "googlenet": 0.0625, "resnet18": 0.125, "resnet50": 0.125},
    stem="small",
    dropout=False,  # it starves networks this narrow
    image_size=32,
    source_recipe=train.Recipe(steps=140, batch_size=32, learning_rate=0.1),
    # From a few trials on glyph_letters, by loss and test accuracy there; of sources alone.
    source_learning_rates={"alexnet": 0.01, "googlenet": 0.1, "resnet18": 0.1, "resnet50": 0.03},
    transfer_recipe=train.Recipe(steps=40, batch_size=32, learning_rate=0.05),
    # Without batch norm AlexNet takes smaller steps; by validation accuracy.
    learning_rates={"alexnet": (0.003, 0.01)}
    | dict.fromkeys(("googlenet", "resnet18", "resnet50"), (0.03, 0.1)),
    transfer_images=400,
    validation_images=250,
    probe_sets=3,
    methods=_METHODS,
)

# Every stage of the demo at a size that tests can afford.
SMOKE = dataclasses.replace(
    DEMO,
    name="smoke",
    architectures=("alexnet", "resnet18"),
    sources=("digits", "glyph_digits", "glyph_letters"),
    targets=("digits", "glyph_letters"),
    widths={"alexnet": 0.125, "resnet18": 0.125},
    source_learning_rates={"alexnet": 0.01, "resnet18": 0.1},
    learning_rates={"alexnet": (0.003, 0.01), "resnet18": (0.03, 0.1)},
    source_recipe=train.Recipe(steps=40, batch_size=32, learning_rate=0.1),
    transfer_recipe=train.Recipe(steps=16, batch_size=32, learning_rate=0.05),
    transfer_images=200,
    validation_images=100,
    probe_images=120,
    probe_sets=2,
    reference="resnet18",
)

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType({b.name: b for b in (DEMO, SMOKE)})


def get(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        ValueError: unknown; the message lists the known ones.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
