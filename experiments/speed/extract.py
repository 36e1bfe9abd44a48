"""`python -m experiments.speed extract`: images per second of feature extraction.

The sides are this library's extraction (batch norm folded, on a CPU with Winograd convolutions and
chunks, on an accelerator in bfloat16), on a CPU the same Flax network unchanged and, if torch and
the package of the network are installed, the original network in torch: on a CPU in both of its
memory layouts, on an accelerator compiled, channels last and in bfloat16. All take the same batches
of uint8 images, in host memory or on the device, have the same weights, normalise on the device and
return features to the host, which are first checked to agree. The sides alternate; each starts
after a pause with a call that is not counted.
"""

import argparse
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.speed import measured, originals
from experiments.speed.measured import Case, Section
from jaxparc import extraction, models, parallel
from jaxparc.training import steps

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision", "timm")
Side = Callable[[Sequence[Any]], np.ndarray]  # takes batches; returns the features of all images


class Torch(NamedTuple):
    """How torch runs: the memory layout, the dtype of weights and images, and compiled or not."""

    layout: str
    dtype: str
    compiled: bool


TORCH: Mapping[str, Torch] = MappingProxyType(
    {
        "torch": Torch("contiguous_format", "float32", compiled=False),
        "torch, channels last": Torch("channels_last", "float32", compiled=False),
        "torch, compiled": Torch("channels_last", "bfloat16", compiled=True),
    }
)


# Networks that torchvision, timm, or the package that published them, has as well.
ARCHITECTURES = (
    *("alexnet", "googlenet", "resnet18", "resnet50", "resnet101", "squeezenet1_1"),
    *("mobilenet_v2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    *originals.TIMM,
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        architectures: keys of `models.MODELS`, the most important first.
        batch_sizes: numbers of rows of a batch, the most important first.
        images: minimum number of images per repeat; batches are whole.
        repeats: repeats of each side.
        places: where the images are, "host" or "device".
        batches: number of batches per call.
        flax: whether the Flax network is measured too.
        torch: keys of `TORCH`, measured if it is installed.
    """

    architectures: tuple[str, ...] = ARCHITECTURES
    batch_sizes: tuple[int, ...] = (1, 32, 128)
    images: int = 16
    repeats: int = 3
    places: tuple[str, ...] = ("host",)
    batches: int = 1
    flax: bool = True
    torch: tuple[str, ...] = ("torch", "torch, channels last")


QUICK = Sizes(architectures=("resnet18", "resnet50"), batch_sizes=(1, 32))
ACCELERATOR = Sizes(
    architectures=("resnet50", *(name for name in ARCHITECTURES if name != "resnet50")),
    batch_sizes=(256, 512, 128),
    images=8_192,
    places=("device", "host"),
    batches=8,
    flax=False,
    torch=("torch, compiled",),
)
TINY = Sizes(("squeezenet1_1",), (4,), images=8, repeats=2, places=("device", "host"), batches=2)


def default(quick: bool = False) -> Sizes:
    """Return the sizes for this machine's devices."""
    if jax.default_backend() == "cpu":
        return QUICK if quick else Sizes()
    short = dataclasses.replace(ACCELERATOR, architectures=("resnet50",), batch_sizes=(256,))
    return short if quick else ACCELERATOR


@dataclasses.dataclass
class Row:
    """One architecture at one batch size: images per second of every repeat, by side."""

    architecture: str
    batch_size: int
    place: str
    images_per_second: dict[str, list[float]]


def ours(name: str, variables: Any, *, flax: bool) -> dict[str, Side]:
    """Return this library's extraction and, with `flax`, the unchanged Flax network."""
    spec = models.get(name)
    module = spec.module(num_classes=1000, axis_name=parallel.AXIS)
    apply_fn = extraction.compile_network(module, variables, mean=spec.mean, std=spec.std)

    @jax.jit
    def plain(variables: Any, images: Any) -> Any:
        images = models.layers.normalise(images, spec.mean, spec.std)
        return module.apply(variables, images)[1]["features"]

    placed = jax.device_put(variables)
    found: dict[str, Side] = {
        "jaxparc": lambda batches: _joined([apply_fn(batch)[0] for batch in batches])
    }
    if flax:
        found["Flax as it is"] = lambda batches: _joined(
            [plain(placed, batch) for batch in batches]
        )
    return found


def _joined(features: Sequence[Any]) -> np.ndarray:
    """Fetch the features of batches that are all dispatched, (n, d)."""
    return np.concatenate([np.asarray(found).reshape(len(found), -1) for found in features])


def original(name: str, variables: Any, how: Torch) -> Side:
    """Return the network in torch, with the same weights."""
    import torch

    where = originals.device()
    spec = models.get(name)
    layout, dtype = getattr(torch, how.layout), getattr(torch, how.dtype)
    originals.tune()
    network = originals.feature_network(name, variables)
    network.to(where, dtype, memory_format=layout)
    normalise = originals.normaliser(spec.mean, spec.std)

    def features(images: Any) -> Any:
        return network(normalise(images).to(dtype).contiguous(memory_format=layout)).float()

    run = torch.compile(features, dynamic=False) if how.compiled else features

    def of_batches(batches: Sequence[Any]) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = (
                torch.cat([run(torch.as_tensor(batch).to(where)) for batch in batches])
                .cpu()
                .numpy()
            )
            return found

    return of_batches


def placed(images: np.ndarray, place: str, what: str) -> Any:
    """Return a batch where a row has it, in the form that a side takes."""
    if place == "host":
        return images
    if what.startswith("torch"):
        import torch

        return torch.from_numpy(images).to(originals.device())
    return jax.device_put(images, jax.local_devices()[0])


def cases(sizes: Sizes) -> list[Case]:
    """Return all cases, in the order of the table."""

    def case(name: str, batch_size: int) -> Case:
        return Case(
            f"{name}, batch {batch_size}",
            "extract",
            lambda: measure(name, batch_size, sizes),
            # Batches after the first are less important than other networks.
            2 * (batch_size != sizes.batch_sizes[0]) + (name != sizes.architectures[0]),
        )

    return [case(name, size) for name in sizes.architectures for size in sizes.batch_sizes]


def measure(name: str, batch_size: int, sizes: Sizes) -> Iterator[Row]:
    """Measure one network at one batch size, with images in every place.

    Raises:
        Exception: a side in torch failed; the rows of the other sides are yielded first.
        AssertionError: a side's features differ from the others'; if it is in torch, likewise.
    """
    spec = models.get(name)
    variables = steps.initial(spec.module(num_classes=1000), spec.input_size, 0)
    shape = (batch_size, spec.input_size, spec.input_size, 3)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, np.uint8) for _ in range(sizes.batches)]
    sides = ours(name, variables, flax=sizes.flax)
    expected = sides["Flax as it is" if sizes.flax else "jaxparc"](images)
    accelerated = jax.default_backend() != "cpu"

    def check(what: str) -> None:
        found = sides[what](images)  # compiles
        coarse = accelerated or (what in TORCH and TORCH[what].dtype == "bfloat16")
        tolerance = 5e-2 if coarse else 1e-3
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=tolerance * largest, err_msg=what)

    check("jaxparc")
    errors: list[Exception] = []
    for what in sizes.torch if originals.installed(name) else ():
        try:
            sides[what] = original(name, variables, TORCH[what])
            check(what)
        except Exception as error:
            errors.append(error)
            sides.pop(what, None)
    for place in sizes.places:
        counted = {
            what: (
                functools.partial(side, [placed(batch, place, what) for batch in images]),
                batch_size * sizes.batches,
            )
            for what, side in sides.items()
        }
        rates = measured.alternate(counted, sizes.images, sizes.repeats)
        yield Row(name, batch_size, place, rates)
    for failed in errors[:1]:
        raise failed


SIDES = ("jaxparc", "Flax as it is", *TORCH)
HEADER = ("architecture", "batch", "images on", *SIDES, "to the fastest torch")


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row."""
    rates = row.images_per_second
    middle = {what: statistics.median(values) for what, values in rates.items()}
    return (
        row.architecture,
        str(row.batch_size),
        row.place,
        *(measured.spread(rates.get(side, [])) for side in SIDES),
        originals.ratio(middle),
    )


def section(sizes: Sizes) -> Section:
    """Return the section of the sizes."""
    return Section(
        name="extract",
        packages=PACKAGES,
        sizes=sizes,
        cases=cases(sizes),
        header=HEADER,
        cells=cells,
        title="images per second, median (lowest–highest)",
    )


def add(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    measured.add_quick(command, "networks")
    command.add_argument(
        "--architectures",
        nargs="+",
        choices=list(models.MODELS),
        metavar="NAME",
        help=f"[{len(ARCHITECTURES)} with an original]",
    )
    measured.add_out(command)
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    sizes = default(args.quick)
    if args.architectures:
        sizes = dataclasses.replace(sizes, architectures=tuple(args.architectures))
    measured.run(section(sizes), args.out, args.ran)
