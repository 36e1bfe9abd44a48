"""`python -m experiments.speed input`: from JPEG files to batches, and whether training waits.

JPEGs with the size and detail of photographs are generated. The sides are a plain loop (PIL: open,
resize to 256, random 224 crop and flip, stack), this library's pipeline with threads and with
worker processes, and its cache of decoded images in memory and on disk; they alternate. Then a
ResNet-18 is trained at 224 px: on images that are already on the device, which gives the rate that
it can consume, and from the pipeline, measuring the time that it waits for batches.
"""

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
import numpy as np
from PIL import Image

from experiments.speed import measured
from jaxparc import models, parallel
from jaxparc.training import batches, decoding, feed, steps
from jaxparc.training.program import Point, Program
from jaxparc.training.steps import Recipe, Task

PACKAGES = ("jax", "jaxlib", "numpy", "pillow", "grain")
SIZE = 224
ENDLESS = 10**6  # epochs


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        photographs: sizes (width, height) of the JPEGs, in pixels.
        images: number of JPEGs of each size.
        batch_size: rows of a batch.
        repeats: repeats of each side.
        steps: number of steps in each training, not counting the first.
    """

    photographs: tuple[tuple[int, int], ...] = ((500, 375), (1024, 768))
    images: int = 512
    batch_size: int = 32
    repeats: int = 5
    steps: int = 8


QUICK = Sizes(images=128, repeats=3, steps=3)


@dataclasses.dataclass
class Row:
    """One row of the table.

    Attributes:
        what: name of the side.
        photographs: size of the JPEGs, WIDTHxHEIGHT.
        cores: number of cores that the side may use.
        images_per_second: rates of all repeats, or of all training steps.
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
    records = []
    for i in range(count):
        coarse = rng.integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain_ = rng.normal(0, 9, (height, width, 1))
        pixels = np.clip(np.asarray(smooth) + grain_, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=90)
        records.append({"image": file.getvalue(), "label": i % 10})
    return records


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
        f"pipeline, {cores} worker processes": (
            cores,
            lambda: epochs(records, threads=1, workers=cores),
        ),
        "decoded, in memory": (cores, lambda: epochs(memory, threads=cores)),
        "decoded, on disk": (cores, lambda: epochs(disk, threads=cores)),
    }
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


def train_steps(fed: Iterator[Any], sizes: Sizes) -> tuple[list[float], float]:
    """Return images per second for every step of a ResNet-18, and the share of time it waits."""
    spec = models.get("resnet18")
    module = spec.module(num_classes=10, axis_name=parallel.AXIS)
    task = Task(module, spec.mean, spec.std)
    variables = steps.initial(module, SIZE, 0)
    recipe = Recipe(steps=1 + sizes.steps, batch_size=sizes.batch_size, learning_rate=0.01)
    program = Program(task, [Point(recipe)])
    state = parallel.replicate(program.initial(variables), copy=True)
    rates, waited, total = [], 0.0, 0.0
    for number in range(1 + sizes.steps):
        started = time.perf_counter()
        given = next(fed)
        arrived = time.perf_counter()
        state, metrics = program(state, given, number, 1)
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - started
        if number:  # the first one compiles
            rates.append(sizes.batch_size / seconds)
            waited, total = waited + arrived - started, total + seconds
    return rates, waited / total


def measure(sizes: Sizes) -> Iterator[Row]:
    """Measure every row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        for width, height in sizes.photographs:
            records = photographs(width, height, sizes.images)
            compared = sides(records, sizes, Path(folder))
            found: dict[str, list[float]] = {what: [] for what in compared}
            for repeat in range(1 + sizes.repeats):
                for what, (_, side) in compared.items():
                    rate = images_per_second(side, sizes)
                    if repeat:  # the first round warms up
                        found[what].append(rate)
            for what, (cores, _) in compared.items():
                yield Row(what, f"{width}x{height}", cores, found[what])
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

        def stacks(source: Any) -> Iterator[Any]:
            return feed.stacks(source, None, [1] * (1 + sizes.steps), [0], **options)

        fixed = next(stacks(records))
        decoded = decoding.decode(records, size=SIZE, limit=1 << 40)
        trainings: dict[str, Iterator[Any]] = {
            "ResNet-18 training, images on the device": itertools.repeat(fixed),
            "ResNet-18 training, from JPEGs": stacks(records),
            "ResNet-18 training, from decoded images": stacks(decoded),
        }
        for what, placed in trainings.items():
            rates, waiting = train_steps(placed, sizes)
            yield Row(what, f"{width}x{height}", decoding.THREADS, rates, waiting)


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


def run(sizes: Sizes, out: Path | None = None) -> list[Row]:
    """Measure and print row by row, and write OUT.md and OUT.json."""
    rates: list[float] = []

    def line(row: Row) -> tuple[str, ...]:
        if row.what == "plain PIL loop":
            rates.append(statistics.median(row.images_per_second))
        return cells(row, rates[-1] if rates else None)

    title = f"{SIZE} px, median (lowest–highest)"
    return measured.run("input", PACKAGES, sizes, measure(sizes), HEADER, line, title, out)


def add(commands: measured.Commands) -> None:
    """Add the command and its options."""
    command = measured.command(
        commands, "input", "images per second from JPEGs to batches", "images"
    )
    command.set_defaults(run=lambda args: run(QUICK if args.quick else Sizes(), args.out))
