"""`python -m experiments.speed input`: from JPEG files to batches, and whether training waits.

JPEGs with the size and detail of photographs are generated. The sides are a plain loop (PIL: open,
resize to 256, random 224 crop and flip, stack), this library's pipeline with threads and with
worker processes, and its cache of decoded images in memory and on disk; they alternate. Then a
network is trained at 224 px: on images that are already on the device, which gives the rate that
it can consume, and from the cache and the pipeline, measuring the time that it waits for batches.
"""

import argparse
import dataclasses
import functools
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.speed import measured
from experiments.speed.measured import Case, Section
from jaxparc import models, parallel
from jaxparc.training import batches, decoding, feed, steps
from jaxparc.training.program import Point, Program
from jaxparc.training.steps import Recipe, Task

PACKAGES = ("jax", "jaxlib", "numpy", "pillow", "grain")
SIZE = 224
ENDLESS = 10**6  # epochs
DISTINCT = 512  # JPEGs with different content


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        photographs: sizes (width, height) of the JPEGs, in pixels.
        images: number of JPEGs of each size; those beyond `DISTINCT` are repeated.
        batch_size: rows of a batch.
        repeats: repeats of each side.
        steps: number of steps that count in each repeat of a training.
        architecture: key of `models.MODELS`, of the network that is trained.
        dtype: dtype of its computation.
        workers: whether worker processes are measured.
    """

    photographs: tuple[tuple[int, int], ...] = ((500, 375), (1024, 768))
    images: int = 512
    batch_size: int = 32
    repeats: int = 5
    steps: int = 2
    architecture: str = "resnet18"
    dtype: str = "float32"
    workers: bool = True


QUICK = Sizes(images=128, repeats=3, steps=1)
ACCELERATOR = Sizes(
    images=2048,
    batch_size=256,
    repeats=3,
    steps=20,
    architecture="resnet50",
    dtype="bfloat16",
)
TINY = Sizes(
    photographs=((48, 36),),
    images=4,
    batch_size=4,
    repeats=1,
    steps=1,
    architecture="squeezenet1_1",
    workers=False,
)


def default(quick: bool = False) -> Sizes:
    """Return the sizes for this machine's devices."""
    if jax.default_backend() == "cpu":
        return QUICK if quick else Sizes()
    short = dataclasses.replace(ACCELERATOR, photographs=ACCELERATOR.photographs[:1])
    return short if quick else ACCELERATOR


@dataclasses.dataclass
class Row:
    """One row of the table.

    Attributes:
        what: name of the side.
        photographs: size of the JPEGs, WIDTHxHEIGHT.
        cores: number of cores that the side may use.
        images_per_second: rates of all repeats.
        waiting: share of the time that training waits for batches, in [0, 1]; None for other sides.
    """

    what: str
    photographs: str
    cores: int
    images_per_second: list[float]
    waiting: float | None = None


def photographs(width: int, height: int, count: int) -> list[dict[str, Any]]:
    """Return labelled JPEG files with the mixture of smooth areas and detail of photographs."""
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = []
    for i in range(min(count, DISTINCT)):
        coarse = rng.integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain_ = rng.normal(0, 9, (height, width, 1))
        pixels = np.clip(np.asarray(smooth) + grain_, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=90)
        records.append({"image": file.getvalue(), "label": i % 10})
    return [records[i % DISTINCT] for i in range(count)]


def plain(records: list[dict[str, Any]], batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches endlessly from a straightforward loop."""
    rng = np.random.default_rng(0)
    side = decoding.resized(SIZE)
    for start in itertools.cycle(range(0, len(records), batch_size)):
        rows = []
        for record in records[start : start + batch_size]:
            image = Image.open(io.BytesIO(record["image"])).convert("RGB")
            pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
            top, left = rng.integers(0, side - SIZE + 1, 2)
            crop = pixels[top : top + SIZE, left : left + SIZE]
            rows.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        yield np.stack(rows)


def sides(
    records: list[dict[str, Any]], sizes: Sizes, folder: Path
) -> dict[str, tuple[int, Callable[[], Iterator[Any]]]]:
    """Return name of the side -> the number of cores it may use, and its endless batches."""
    epochs = functools.partial(
        batches.batches,
        batch_size=sizes.batch_size,
        size=SIZE,
        train=True,
        mirror=True,
        epochs=ENDLESS,
    )
    cores = decoding.THREADS
    memory = decoding.decode(records, size=SIZE, limit=1 << 40)
    disk = decoding.decode(records, size=SIZE, limit=0, file=folder / f"{id(records)}")
    found: dict[str, tuple[int, Callable[[], Iterator[Any]]]] = {
        "plain PIL loop": (1, lambda: plain(records, sizes.batch_size)),
        "pipeline, 1 thread": (1, lambda: epochs(records, threads=1)),
        f"pipeline, {cores} threads": (cores, lambda: epochs(records, threads=cores)),
    }
    if sizes.workers:
        found[f"pipeline, {cores} worker processes"] = (
            cores,
            lambda: epochs(records, threads=1, workers=cores),
        )
    found["decoded, in memory"] = cores, lambda: epochs(memory, threads=cores)
    found["decoded, on disk"] = cores, lambda: epochs(disk, threads=cores)
    return found


def images_per_second(side: Callable[[], Iterator[Any]], sizes: Sizes) -> float:
    """Return the steady-state rate, after using up batches that were prepared in advance."""
    iterator = side()
    count = sizes.images // sizes.batch_size
    for _ in range(count):
        next(iterator)
    started = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return count * sizes.batch_size / (time.perf_counter() - started)


class Trainer:
    """A training whose steps are dispatched one ahead, as those of `loop.fit`.

    The first steps of a repeat are not counted: their batches were prepared before it.
    """

    uncounted = 1 + feed.AHEAD

    def __init__(self, sizes: Sizes) -> None:
        spec = models.get(sizes.architecture)
        module = spec.module(num_classes=10, axis_name=parallel.AXIS, dtype=jnp.dtype(sizes.dtype))
        task = Task(module, spec.mean, spec.std)
        recipe = Recipe(
            steps=self.uncounted + sizes.steps,
            batch_size=sizes.batch_size,
            learning_rate=0.01,
            warmup=0.0,
        )
        self._sizes = sizes
        self._program = Program(task, [Point(recipe)])
        initial = self._program.initial(steps.initial(module, SIZE, 0))
        self._state = parallel.replicate(initial, copy=True)

    def __call__(self, fed: Iterator[Any]) -> tuple[float, float]:
        """Take the steps of a repeat; return images per second, and the share of time it waits."""
        waited, before = 0.0, None
        for number in range(self.uncounted + self._sizes.steps):
            if number == self.uncounted:
                jax.block_until_ready(before)
                waited, started = 0.0, time.perf_counter()
            asked = time.perf_counter()
            given = next(fed)
            waited += time.perf_counter() - asked
            self._state, metrics = self._program(self._state, given, number, 1)
            jax.block_until_ready(before)
            before = metrics
        jax.block_until_ready(before)
        seconds = time.perf_counter() - started
        return self._sizes.steps * self._sizes.batch_size / seconds, waited / seconds


ON_DEVICE, DECODED, JPEGS = "images on the device", "from decoded images", "from JPEGs"


def measure_training(sizes: Sizes, sources: tuple[str, ...]) -> Iterator[Row]:
    """Measure training on batches of every source, in alternation."""
    width, height = sizes.photographs[0]
    records = photographs(width, height, sizes.images)
    options: dict[str, Any] = {
        "batch_size": sizes.batch_size,
        "size": SIZE,
        "train": True,
        "mirror": True,
        "epochs": ENDLESS,
        "num_classes": None,
    }
    calls = (Trainer.uncounted + sizes.steps) * (1 + sizes.repeats)

    def stacks(source: Any) -> Iterator[Any]:
        return feed.stacks(source, None, [1] * calls, [0], **options)

    of_source: dict[str, Callable[[], Iterator[Any]]] = {
        ON_DEVICE: lambda: itertools.repeat(next(stacks(records))),
        DECODED: lambda: stacks(decoding.decode(records, size=SIZE, limit=1 << 40)),
        JPEGS: lambda: stacks(records),
    }
    train = Trainer(sizes)
    fed = {source: of_source[source]() for source in sources}
    found: dict[str, list[tuple[float, float]]] = {source: [] for source in sources}
    for repeat in range(1 + sizes.repeats):
        for source in sources:
            rate = train(fed[source])
            if repeat:  # the first round compiles
                found[source].append(rate)
    for source, rates in found.items():
        yield Row(
            f"{sizes.architecture} training, {source}",
            f"{width}x{height}",
            decoding.THREADS,
            [rate for rate, _ in rates],
            statistics.mean(waiting for _, waiting in rates),
        )


def measure_pipelines(sizes: Sizes, width: int, height: int) -> Iterator[Row]:
    """Measure every way from JPEGs of one size to batches, in alternation."""
    records = photographs(width, height, sizes.images)
    with tempfile.TemporaryDirectory() as folder:
        compared = sides(records, sizes, Path(folder))
        found: dict[str, list[float]] = {what: [] for what in compared}
        for repeat in range(1 + sizes.repeats):
            for what, (_, side) in compared.items():
                rate = images_per_second(side, sizes)
                if repeat:  # the first round warms up
                    found[what].append(rate)
    for what, (cores, _) in compared.items():
        yield Row(what, f"{width}x{height}", cores, found[what])


def cases(sizes: Sizes) -> list[Case]:
    """Return all cases, in the order of the table."""

    def pipelines(width: int, height: int) -> Case:
        return Case(
            f"pipelines, {width}x{height}",
            "pipelines",
            lambda: measure_pipelines(sizes, width, height),
            1 if (width, height) == sizes.photographs[0] else 3,
        )

    def training(sources: tuple[str, ...], priority: int) -> Case:
        name = f"{sizes.architecture} training, {' and '.join(sources)}"
        return Case(name, "fed", lambda: measure_training(sizes, sources), priority)

    return [
        *(pipelines(*size) for size in sizes.photographs),
        training((ON_DEVICE, DECODED), 0),
        training((JPEGS,), 2),
    ]


HEADER = ("side", "JPEGs", "images/s", "per core", "to the plain loop", "waiting")


def cells(row: Row, plain_rate: float | None) -> tuple[str, ...]:
    """Return the cells of a row."""
    middle = statistics.median(row.images_per_second)
    training = row.waiting is not None
    return (
        row.what,
        row.photographs,
        measured.spread(row.images_per_second),
        "–" if training else f"{middle / row.cores:.0f}",
        "–" if training or plain_rate is None else f"{middle / plain_rate:.1f}",
        f"{100 * row.waiting:.1f} %" if row.waiting is not None else "–",
    )


def section(sizes: Sizes) -> Section:
    """Return the section of the sizes."""
    rates: list[float] = []

    def line(row: Row) -> tuple[str, ...]:
        if row.what == "plain PIL loop":
            rates.append(statistics.median(row.images_per_second))
        return cells(row, rates[-1] if rates else None)

    return Section(
        name="input",
        packages=PACKAGES,
        sizes=sizes,
        cases=cases(sizes),
        header=HEADER,
        cells=line,
        title=f"{SIZE} px, batches of {sizes.batch_size}, median (lowest–highest)",
    )


def add(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    measured.add_quick(command, "images")
    measured.add_out(command)
    command.set_defaults(
        run=lambda args: measured.run(section(default(args.quick)), args.out, args.ran)
    )
