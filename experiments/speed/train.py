"""`python -m experiments.speed train`: images per second of training, and of grids.

The sides are this library's step and, if torch and torchvision are installed, the original network
in torch, channels last, uncompiled and compiled. All have the same uint8 images on the device, the
same weights and no dropout; each normalises, computes the gradient and takes a step with momentum
and weight decay. Their losses are first checked to agree. The sides alternate; each starts after a
pause with a call that is not counted. For a grid, "apart" means one run after another.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import benchmarks
from experiments.speed import extract, measured
from jaxparc import backend, models, parallel
from jaxparc.training import steps
from jaxparc.training.program import Point, Program
from jaxparc.training.steps import Rates, Recipe, Task

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision")
Side = Callable[[], float]  # takes some steps; returns the loss of the last
_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        architectures: keys of `models.MODELS`.
        pixels: sides of the images: 32 for networks with the demo's widths and the small stem, 224
            for full-width networks.
        batch_size: batch size of every step.
        images: minimum number of images per repeat, for each of `pixels`.
        repeats: repeats of each side.
        grid: number of runs in one program, for each of `pixels`; 1 for no grid.
        dtype: dtype of the computation.
    """

    architectures: tuple[str, ...] = ("alexnet", "googlenet", "resnet18", "resnet50")
    pixels: tuple[int, ...] = (32, 224)
    batch_size: int = 32
    images: tuple[int, ...] = (320, 32)
    repeats: int = 3
    grid: tuple[int, ...] = (3, 1)  # a grid of full-width networks takes minutes per step on a CPU
    dtype: str = "float32"


def default(quick: bool) -> Sizes:
    """Return the sizes for this machine's devices."""
    if jax.default_backend() == "cpu":
        sizes = Sizes()
    else:
        sizes = Sizes(batch_size=128, images=(25_600, 12_800), grid=(3, 3), dtype="bfloat16")
    if quick:
        return dataclasses.replace(
            sizes, architectures=("resnet18",), pixels=(32,), images=(320,), grid=sizes.grid[:1]
        )
    return sizes


@dataclasses.dataclass
class Row:
    """One architecture at one size of images.

    Attributes:
        architecture: key of `models.MODELS`.
        pixels: side of the images.
        batch_size: batch size of every step.
        dtype: dtype of the computation.
        images_per_second: rates of all repeats, by side.
        operations: operations per image, three times those of the forward pass.
        share: operations per second over the devices' matrix rate in the same dtype.
        compile_seconds: compilation time of the step.
        peak_bytes: the compiler's estimate of the memory that the step needs.
    """

    architecture: str
    pixels: int
    batch_size: int
    dtype: str
    images_per_second: dict[str, list[float]]
    operations: float
    share: float
    compile_seconds: float
    peak_bytes: int


def task_of(name: str, pixels: int, dtype: str) -> Task:
    """Return the network to measure."""
    spec = models.get(name)
    small = pixels < 64
    module = spec.module(
        num_classes=_CLASSES,
        width=benchmarks.DEMO.widths[name] if small else 1.0,
        stem="small" if small else "imagenet",
        axis_name=parallel.AXIS,
        dtype=jnp.dtype(dtype),
    )
    if hasattr(module, "dropout_rate"):
        module = module.clone(dropout_rate=0.0)
    return Task(module, spec.mean, spec.std)


class Ours:
    """This library's step, of one run or of a grid, on a fixed batch."""

    def __init__(
        self, task: Task, variables: Any, batch: dict[str, np.ndarray], runs: int = 1
    ) -> None:
        self.steps = backend.choices().steps_per_call
        stack = {k: np.stack([v] * self.steps) for k, v in batch.items()}
        given = [parallel.shard(stack, axis=1)]
        rates = Rates(*(np.full((runs, self.steps), x, np.float32) for x in (_RATE, _DECAY)))
        recipe = Recipe(steps=self.steps, batch_size=len(batch["mask"]), learning_rate=_RATE)
        initial = Program(task, [Point(recipe)] * runs).initial(variables)
        key = jax.random.split(jax.random.key(0), runs)
        self._state, key = parallel.replicate((initial, key), copy=True)
        started = time.perf_counter()
        program: Any = steps.compiled_train_runs(task)
        self._compiled = program.lower(self._state, given, rates, key).compile()
        self.compile_seconds = time.perf_counter() - started
        self.peak_bytes = parallel.peak_bytes(self._compiled)
        self._rest = given, rates, key

    def __call__(self) -> float:
        """Take `steps` steps; return the loss of the last one, in the first run."""
        self._state, metrics = self._compiled(self._state, *self._rest)
        return float(metrics["loss"][0, -1])


_RATE, _DECAY = 0.01, 1e-4


def original(
    name: str, task: Task, variables: Any, batch: dict[str, np.ndarray], dtype: str
) -> dict[str, Side]:
    """Return the same training in torch; empty if torch is not installed."""
    try:
        import torch
        import torchvision as originals
    except ImportError:
        return {}
    del originals
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = models.get(name)
    mean, std = (
        255 * torch.tensor(c, device=device).reshape(3, 1, 1) for c in (spec.mean, spec.std)
    )
    images = torch.from_numpy(batch["image"]).to(device).permute(0, 3, 1, 2)
    labels = torch.from_numpy(batch["label"]).long().to(device)

    def side(compiled: bool) -> Side:
        network = in_torch(name, task, variables).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(network.parameters(), _RATE, 0.9, weight_decay=_DECAY)
        torch._dynamo.reset()  # or it treats sizes that differ between rows as dynamic
        forward = torch.compile(network, dynamic=False) if compiled else network

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            given = ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = torch.nn.functional.cross_entropy(forward(given).float(), labels)
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return step

    return {"torch": side(False), "torch, compiled": side(True)}


def in_torch(name: str, task: Task, variables: Any) -> Any:
    """Return one of our networks in torch, with the same width, stem and weights; no dropout."""
    import torch
    from torch import nn

    network, _ = extract.in_torch(name)
    width, small = task.module.width, task.module.stem == "small"
    if small:
        first = nn.Conv2d(3, 64, 3, padding=1, bias=name == "alexnet")
        if name == "alexnet":
            network.features[0], network.features[2] = first, nn.Identity()
        elif name == "googlenet":
            network.conv1.conv = first
            network.maxpool1 = network.maxpool2 = nn.Identity()
        else:
            network.conv1, network.maxpool = first, nn.Identity()
    if name == "googlenet":
        network.transform_input = False
    _narrow(network, width)
    network(torch.zeros(2, 3, 64, 64))  # lazy layers infer their number of inputs
    extract.load(network, name, variables)
    return network.train()


def _narrow(module: Any, width: float) -> None:
    """Scale the number of outputs of every layer of a torch module to that of our network."""
    from torch import nn

    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d):
            layer = nn.LazyConv2d(
                models.layers.scaled(layer.out_channels, width),
                layer.kernel_size,
                layer.stride,
                layer.padding,
                bias=layer.bias is not None,
            )
        elif isinstance(layer, nn.BatchNorm2d):
            layer = nn.LazyBatchNorm2d(layer.eps)
        elif isinstance(layer, nn.Linear):
            head = layer.out_features == 1000
            layer = nn.LazyLinear(
                _CLASSES if head else models.layers.scaled(layer.out_features, width)
            )
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
        else:
            _narrow(layer, width)
        setattr(module, name, layer)


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure every row of the table.

    Raises:
        AssertionError: a side's loss differs from the others'.
    """
    rate = measured.matrix_rate(jnp.dtype(sizes.dtype))
    rng = np.random.default_rng(0)
    for pixels, images, runs in zip(sizes.pixels, sizes.images, sizes.grid, strict=True):
        batch = {
            "image": rng.integers(0, 256, (sizes.batch_size, pixels, pixels, 3), np.uint8),
            "label": rng.integers(0, _CLASSES, sizes.batch_size).astype(np.int32),
            "mask": np.ones(sizes.batch_size, bool),
        }
        for name in sizes.architectures:
            yield _row(name, batch, sizes, images, runs, rate)


def _row(
    name: str, batch: dict[str, np.ndarray], sizes: Sizes, images: int, runs: int, rate: float
) -> Row:
    pixels = batch["image"].shape[1]
    task = task_of(name, pixels, sizes.dtype)
    variables = steps.initial(task.module, pixels, 0)
    one = Ours(task, variables, batch)
    sides: dict[str, tuple[Side, int]] = {
        "jaxparc": (one, one.steps * sizes.batch_size),
    }
    if runs > 1:
        several = Ours(task, variables, batch, runs)
        sides["grid"] = several, several.steps * sizes.batch_size * runs
    torch_sides = original(name, task, variables, batch, sizes.dtype)
    sides |= {what: (side, sizes.batch_size) for what, side in torch_sides.items()}
    if one.steps == 1:
        expected = one()
        tolerance = 1e-3 if sizes.dtype == "float32" else 5e-2
        for what, side in torch_sides.items():
            np.testing.assert_allclose(side(), expected, rtol=tolerance, err_msg=f"{name}, {what}")
    found = measured.alternate(sides, images, sizes.repeats)
    operations = 3 * forward_operations(task, variables, pixels)
    return Row(
        name,
        pixels,
        sizes.batch_size,
        sizes.dtype,
        found,
        operations,
        statistics.median(found["jaxparc"]) * operations / (rate * jax.device_count()),
        one.compile_seconds,
        one.peak_bytes,
    )


def forward_operations(task: Task, variables: Any, pixels: int) -> float:
    """Return the operations of the forward pass of one image; a multiply-add counts as two."""
    module = task.module.clone(axis_name=None)
    image = jax.ShapeDtypeStruct((1, pixels, pixels, 3), np.float32)
    lowered = jax.jit(lambda v, x: module.apply(v, x)[0]).lower(variables, image)
    costs: Any = lowered.cost_analysis()
    return float(costs["flops"])


HEADER = (
    "architecture",
    "pixels",
    "batch",
    "jaxparc",
    "ms/step",
    "of matrix rate",
    "compiled in",
    "peak MiB",
    "grid at once",
    "to apart",
    "torch",
    "torch, compiled",
    "to the faster torch",
)


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row."""
    rates = row.images_per_second
    middle = {what: statistics.median(values) for what, values in rates.items()}
    return (
        row.architecture,
        str(row.pixels),
        f"{row.batch_size}, {row.dtype}",
        measured.spread(rates["jaxparc"]),
        f"{1000 * row.batch_size / middle['jaxparc']:.1f}",
        f"{100 * row.share:.0f} %",
        f"{row.compile_seconds:.0f} s",
        f"{row.peak_bytes / 2**20:.0f}",
        measured.spread(rates.get("grid", [])),
        f"{middle['grid'] / middle['jaxparc']:.2f}" if "grid" in middle else "–",
        *(measured.spread(rates.get(side, [])) for side in ("torch", "torch, compiled")),
        extract.to_torch(middle),
    )


def run(sizes: Sizes, out: Path | None = None) -> list[Row]:
    """Measure and print row by row, and write OUT.md and OUT.json."""
    title = "images per second of training, median (lowest–highest)"
    return measured.run("train", PACKAGES, sizes, measure(sizes), HEADER, cells, title, out)


def add(commands: measured.Commands) -> None:
    """Add the command and its options."""
    command = measured.command(commands, "train", "images per second of training", "networks")
    command.add_argument(
        "--architectures", nargs="+", choices=list(models.MODELS), metavar="NAME", help="[four]"
    )
    command.add_argument("--pixels", type=int, choices=(32, 224), help="[both]")
    command.set_defaults(run=_from)


def _from(args: argparse.Namespace) -> None:
    sizes = default(args.quick)
    if args.architectures:
        sizes = dataclasses.replace(sizes, architectures=tuple(args.architectures))
    if args.pixels in sizes.pixels:
        i = sizes.pixels.index(args.pixels)
        one: dict[str, Any] = {
            name: (getattr(sizes, name)[i],) for name in ("pixels", "images", "grid")
        }
        sizes = dataclasses.replace(sizes, **one)
    run(sizes, args.out)
