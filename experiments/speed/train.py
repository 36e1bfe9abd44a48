"""`python -m experiments.speed train`: images per second of training, and of grids.

The sides are this library's step and, if torch and torchvision are installed, the original network
in torch, channels last, compiled and uncompiled. All have the same uint8 images on the device, the
same weights and no dropout; each normalises, computes the gradient and takes a step with momentum
and weight decay, and fetches the losses as often. Their first losses are checked to agree. The
sides alternate; each starts after a pause with a call that is not counted. For a grid, "apart"
means one run after another.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import ceilings, measured, originals
from experiments.speed.measured import Case, Section
from experiments.speed.originals import Training
from jaxparc import backend, models, parallel
from jaxparc.training import steps
from jaxparc.training.program import Point, Program
from jaxparc.training.steps import Rates, Recipe, Task

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision")

_RATE, _DECAY = 0.01, 1e-4
TORCH = ("torch", "torch, compiled")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What to measure at one size of images.

    Attributes:
        pixels: side of the images: below 64, networks are narrow and have the small stem.
        architectures: keys of `models.MODELS`.
        batch_sizes: batch sizes of a step.
        images: minimum number of images per repeat.
        grid: number of runs in one program; 1 for no grid.
        torch: the sides in torch, of `TORCH`; measured if it is installed.
    """

    pixels: int
    architectures: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    images: int
    grid: int = 1
    torch: tuple[str, ...] = TORCH


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        shapes: networks, batches and sides, for every size of images; the first batch of the first
            architecture is the most important.
        repeats: repeats of each side.
        dtype: dtype of the computation.
        steps_per_call: number of steps after which the losses are fetched.
    """

    shapes: tuple[Shape, ...]
    repeats: int = 3
    dtype: str = "float32"
    steps_per_call: int = 1


FOUR = ("alexnet", "googlenet", "resnet18", "resnet50")
_NARROW = {"alexnet": 0.125, "googlenet": 0.0625, "resnet18": 0.125, "resnet50": 0.125}
CPU = Sizes(
    (
        Shape(32, FOUR, (32,), images=320, grid=3),
        Shape(224, FOUR, (32,), images=32),  # a grid of these takes minutes per step on a CPU
    )
)
ACCELERATOR = Sizes(
    (
        Shape(
            224,
            ("resnet50", "alexnet", "googlenet", "resnet18"),
            (256, 512, 128),
            images=7_680,
            torch=("torch, compiled",),
        ),
        Shape(32, ("resnet18", "resnet50", "googlenet", "alexnet"), (32,), 6_400, grid=8, torch=()),
    ),
    dtype="bfloat16",
    steps_per_call=10,
)
TINY = Sizes(
    (Shape(16, ("resnet18",), (4,), images=8, grid=2, torch=()),), repeats=2, steps_per_call=2
)


def default(quick: bool = False) -> Sizes:
    """Return the sizes for this machine's devices."""
    sizes = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    if quick:
        shapes = [shape for shape in sizes.shapes if shape.pixels == 32]
        one = dataclasses.replace(shapes[0], architectures=("resnet18",))
        return dataclasses.replace(sizes, shapes=(one,))
    return sizes


def of_size(sizes: Sizes, pixels: int) -> Sizes:
    """Return the sizes for images of one size; below 64 pixels networks are narrow."""
    alike = [shape for shape in sizes.shapes if (shape.pixels < 64) == (pixels < 64)]
    shapes = tuple(dataclasses.replace(shape, pixels=pixels) for shape in alike)
    return dataclasses.replace(sizes, shapes=shapes)


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
        grid: number of runs of the side "grid"; 1 without.
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
    grid: int = 1


def task_of(name: str, pixels: int, dtype: str) -> Task:
    """Return the network to measure."""
    spec = models.get(name)
    small = pixels < 64
    module = spec.module(
        num_classes=originals.CLASSES,
        width=_NARROW.get(name, 0.125) if small else 1.0,
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
        self,
        task: Task,
        variables: Any,
        batch: dict[str, np.ndarray],
        steps_per_call: int,
        runs: int = 1,
    ) -> None:
        self.steps = steps_per_call
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

    def __call__(self) -> np.ndarray:
        """Take `steps` steps; return their losses in the first run, (steps,)."""
        self._state, metrics = self._compiled(self._state, *self._rest)
        return np.asarray(metrics["loss"][0])


def cases(sizes: Sizes) -> list[Case]:
    """Return all cases, in the order of the table."""

    def case(name: str, shape: Shape, batch_size: int) -> Case:
        return Case(
            f"{name}, {shape.pixels} px, batch {batch_size}",
            f"train {shape.pixels}",
            lambda: measure(name, shape, batch_size, sizes),
            # Batches after the first are less important than other networks.
            2 * (batch_size != shape.batch_sizes[0]) + (name != shape.architectures[0]),
        )

    return [
        case(name, shape, batch_size)
        for shape in sizes.shapes
        for name in shape.architectures
        for batch_size in shape.batch_sizes
    ]


def measure(name: str, shape: Shape, batch_size: int, sizes: Sizes) -> Iterator[Row]:
    """Measure one network at one batch size.

    Raises:
        Exception: a side in torch failed; the row of the other sides is yielded first.
        AssertionError: likewise, as its loss differs.
    """
    pixels, runs = shape.pixels, shape.grid
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (batch_size, pixels, pixels, 3), np.uint8),
        "label": rng.integers(0, originals.CLASSES, batch_size).astype(np.int32),
        "mask": np.ones(batch_size, bool),
    }
    task = task_of(name, pixels, sizes.dtype)
    variables = steps.initial(task.module, pixels, 0)
    one = Ours(task, variables, batch, sizes.steps_per_call)
    sides: dict[str, Any] = {"jaxparc": one}
    if runs > 1:
        sides["grid"] = Ours(task, variables, batch, sizes.steps_per_call, runs)
    expected = one()
    tolerance = 1e-3 if sizes.dtype == "float32" else 5e-2
    training = Training(sizes.steps_per_call, _RATE, task.momentum, _DECAY, sizes.dtype)
    errors: list[Exception] = []
    for what in shape.torch if originals.installed(name) else ():
        try:
            network = originals.training_network(name, task, variables)
            side = training.side(network, batch, task, compiled=what != "torch")
            losses = side()  # compiles
            np.testing.assert_allclose(losses[0], expected[0], rtol=tolerance, err_msg=what)
            sides[what] = side
        except Exception as error:
            errors.append(error)
    counted = {
        what: (side, sizes.steps_per_call * batch_size * (runs if what == "grid" else 1))
        for what, side in sides.items()
    }
    found = measured.alternate(counted, shape.images, sizes.repeats)
    operations = 3 * forward_operations(task, variables, pixels)
    rate = ceilings.matrix_rate(jnp.dtype(sizes.dtype)) * jax.device_count()
    yield Row(
        name,
        pixels,
        batch_size,
        sizes.dtype,
        found,
        operations,
        statistics.median(found["jaxparc"]) * operations / rate,
        one.compile_seconds,
        one.peak_bytes,
        runs,
    )
    for failed in errors[:1]:
        raise failed


def forward_operations(task: Task, variables: Any, pixels: int) -> float:
    """Return the operations of the forward pass of one image; a multiply-add counts as two."""
    module = task.module.clone(axis_name=None)
    image = jax.ShapeDtypeStruct((1, pixels, pixels, 3), np.float32)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    cpu = jax.default_device(jax.local_devices(backend="cpu")[0])  # others may not count them
    with cpu, backend.using(backend.counted()):
        costs: Any = (
            jax.jit(lambda v, x: module.apply(v, x)[0]).lower(shapes, image).cost_analysis()
        )
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
    *TORCH,
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
        *(measured.spread(rates.get(side, [])) for side in TORCH),
        originals.ratio(middle),
    )


def section(sizes: Sizes) -> Section:
    """Return the section of the sizes."""
    return Section(
        name="train",
        packages=PACKAGES,
        sizes=sizes,
        cases=cases(sizes),
        header=HEADER,
        cells=cells,
        title="images per second of training, median (lowest–highest)",
    )


def add(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    measured.add_quick(command, "networks")
    measured.add_out(command)
    command.add_argument(
        "--architectures", nargs="+", choices=list(models.MODELS), metavar="NAME", help="[four]"
    )
    command.add_argument(
        "--pixels", type=int, choices=(32, 64, 96, 128, 160, 224), help="[32 and 224]"
    )
    command.add_argument(
        "--uncompiled", action="store_true", help="measure uncompiled torch on accelerators too"
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    sizes = default(args.quick)
    if args.pixels is not None:
        sizes = of_size(sizes, args.pixels)
    changes: dict[str, Any] = {}
    if args.architectures:
        changes["architectures"] = tuple(args.architectures)
    if args.uncompiled:
        changes["torch"] = TORCH
    shapes = tuple(dataclasses.replace(shape, **changes) for shape in sizes.shapes)
    if not shapes:
        sys.exit(f"{args.ran}: --quick measures 32 pixels alone")
    measured.run(section(dataclasses.replace(sizes, shapes=shapes)), args.out, args.ran)
