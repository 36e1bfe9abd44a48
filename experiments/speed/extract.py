"""`python -m experiments.speed extract`: images per second of feature extraction.

The sides are this library's extraction (batch norm folded, on a CPU with Winograd convolutions and
chunks, on an accelerator in bfloat16), the same Flax network unchanged and, if torch and
torchvision are installed, the original network in torch, in both of its memory layouts. All take
the same batches of uint8 images in host memory, have the same weights and return features, which
are first checked to agree. The sides alternate; each starts after a pause with a batch that is not
counted.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from experiments.speed import measured
from jaxparc import extraction, models, parallel
from jaxparc.training import steps
from jaxparc.weights import torchvision

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision")
Side = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        architectures: keys of `models.MODELS`.
        batch_sizes: numbers of rows of a batch.
        images: minimum number of images per repeat; batches are whole.
        repeats: repeats of each side.
    """

    architectures: tuple[str, ...] = tuple(models.MODELS)
    batch_sizes: tuple[int, ...] = (1, 32, 128)
    images: int = 16
    repeats: int = 3


QUICK = Sizes(architectures=("resnet18", "resnet50"), batch_sizes=(1, 32))


@dataclasses.dataclass
class Row:
    """One architecture at one batch size: images per second of every repeat, by side."""

    architecture: str
    batch_size: int
    images_per_second: dict[str, list[float]]


def ours(name: str, variables: Any) -> dict[str, Side]:
    """Return this library's extraction, and the unchanged Flax network."""
    spec = models.get(name)
    module = spec.module(num_classes=1000, axis_name=parallel.AXIS)
    apply_fn = extraction.compile_network(module, variables, mean=spec.mean, std=spec.std)

    @jax.jit
    def plain(variables: Any, images: Any) -> Any:
        images = models.layers.normalise(images, spec.mean, spec.std)
        return module.apply(variables, images)[1]["features"]

    placed = jax.device_put(variables)
    return {
        "jaxparc": lambda images: np.asarray(apply_fn(images)[0]),
        "Flax as it is": lambda images: np.asarray(plain(placed, images)),
    }


def original(name: str, variables: Any) -> dict[str, Side]:
    """Return the network in torch, with the same weights; empty if torch is not installed."""
    try:
        import torch

        network, head = in_torch(name)
    except ImportError:
        return {}
    load(network, name, variables)
    network.eval()
    captured: list[Any] = []
    head.register_forward_pre_hook(lambda _, given: captured.append(given[0]))
    spec = models.get(name)
    mean, std = (255 * torch.tensor(c).reshape(3, 1, 1) for c in (spec.mean, spec.std))

    def side(layout: Any) -> Side:
        def features(images: np.ndarray) -> Any:
            network.to(memory_format=layout)
            with torch.inference_mode():
                given = torch.from_numpy(images).permute(0, 3, 1, 2)
                network(((given.float() - mean) / std).contiguous(memory_format=layout))
            found = captured.pop()
            return (found.mean((2, 3)) if found.ndim == 4 else found).numpy()

        return features

    return {
        "torch": side(torch.contiguous_format),
        "torch, channels last": side(torch.channels_last),
    }


def load(network: Any, name: str, variables: Any) -> None:
    """Load the weights of one of our networks into the torch network.

    Raises:
        AssertionError: some weights of the torch network are not replaced, apart from the unused
            counters of batch norm.
    """
    import torch

    flat = traverse_util.flatten_dict(variables)
    state = {
        entry.key: torch.from_numpy(entry.to_torch(np.asarray(flat[entry.path])))
        for entry in torchvision.entries(name, variables)
    }
    lacking = network.load_state_dict(state, strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in lacking), lacking


def in_torch(name: str) -> tuple[Any, Any]:
    """Return a network in torch, and its last linear layer."""
    if name.startswith("efficientnet_lite"):
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name(name.replace("_", "-"))
        return network, network._fc
    import torchvision as originals

    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    network = getattr(originals.models, name)(**options)
    if name == "squeezenet1_1":
        return network, network.classifier[1]
    return network, network.fc if hasattr(network, "fc") else network.classifier[-1]


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure every row of the table.

    Raises:
        AssertionError: a side's features differ from the others'.
    """
    rng = np.random.default_rng(0)
    for name in sizes.architectures:
        spec = models.get(name)
        variables = steps.initial(spec.module(num_classes=1000), spec.input_size, 0)
        sides = ours(name, variables) | original(name, variables)
        for batch_size in sizes.batch_sizes:
            shape = (batch_size, spec.input_size, spec.input_size, 3)
            images = rng.integers(0, 256, shape, np.uint8)
            features = {
                what: np.reshape(side(images), (batch_size, -1)) for what, side in sides.items()
            }
            expected = features["Flax as it is"]
            tolerance = 1e-3 if jax.default_backend() == "cpu" else 5e-2  # bfloat16
            for found in features.values():
                np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
            calls = {
                what: (functools.partial(side, images), batch_size) for what, side in sides.items()
            }
            rates = measured.alternate(calls, sizes.images, sizes.repeats)
            yield Row(name, batch_size, rates)


SIDES = ("jaxparc", "Flax as it is", "torch", "torch, channels last")
HEADER = ("architecture", "batch", *SIDES, "to the faster torch")


def to_torch(middle: Mapping[str, float]) -> str:
    """Return this library's rate over that of the faster torch side; "–" without torch."""
    torch = [rate for what, rate in middle.items() if what.startswith("torch")]
    return f"{middle['jaxparc'] / max(torch):.2f}" if torch else "–"


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row."""
    rates = row.images_per_second
    middle = {what: statistics.median(values) for what, values in rates.items()}
    return (
        row.architecture,
        str(row.batch_size),
        *(measured.spread(rates.get(side, [])) for side in SIDES),
        to_torch(middle),
    )


def run(sizes: Sizes, out: Path | None = None) -> list[Row]:
    """Measure and print row by row, and write OUT.md and OUT.json."""
    title = "images per second, median (lowest–highest)"
    return measured.run("extract", PACKAGES, sizes, measure(sizes), HEADER, cells, title, out)


def add(commands: measured.Commands) -> None:
    """Add the command and its options."""
    command = measured.command(
        commands, "extract", "images per second of feature extraction", "networks"
    )
    command.set_defaults(run=lambda args: run(QUICK if args.quick else Sizes(), args.out))
