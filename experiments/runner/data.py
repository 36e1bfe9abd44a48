"""Images of a benchmark's data sets, decoded once and kept."""

import functools

import numpy as np

from experiments import _run
from experiments.benchmarks import Benchmark
from jaxparc import datasets
from jaxparc import labels as labels_
from jaxparc.training import decoding
from jaxparc.training.decoding import Source


def prepare(benchmark: Benchmark) -> None:
    """Make every data set ready to read that installed packages carry, and look at own images.

    Raises:
        DatasetError: one cannot be made ready.
    """
    for address in benchmark.addresses:
        if not datasets.is_prepared(address) and datasets.spec_of(address).embedded:
            datasets.prepare(address)


def lacking(benchmark: Benchmark, *names: str) -> dict[str, str]:
    """Those data sets that are not there, and that nothing but their user can bring."""
    way = f"python -m jaxparc data prepare {_run.NAMES}"
    return {
        name: way
        for name in names
        if not datasets.is_prepared(benchmark.address(name)) and not benchmark.data(name).embedded
    }


def part_name(split: str) -> str:
    """A slice as part of a file's name: another one for every slice."""
    for mark, word in (("[", "_"), ("]", ""), (":", "to"), ("%", "pct")):
        split = split.replace(mark, word)
    return split


MEMORY = 1 << 28
"""Bytes of decoded images of one split that are kept in memory; larger ones go onto disk."""


@functools.lru_cache(maxsize=16)
def images(benchmark: Benchmark, name: str, split: str) -> Source:
    """A split, or a TFDS slice of one, at the benchmark's image size."""
    address = benchmark.address(name)
    source = datasets.load(address, split, decode=False)
    file = datasets.root_of() / "decoded" / f"{name}-{source.spec.version}-{part_name(split)}"
    try:
        return decoding.decode(source, size=benchmark.image_size, limit=MEMORY, file=file)
    except OSError as error:
        _run.say(
            f"{name}: decoded anew in every epoch, as {file.parent} cannot be written: {error}"
        )
        return source


@functools.lru_cache(maxsize=16)
def labels(benchmark: Benchmark, name: str, split: str) -> np.ndarray:
    """The labels of a split as `datasets.labels` gives them, or annotation vectors of its boxes."""
    address = benchmark.address(name)
    if benchmark.annotations == "labels":
        return datasets.labels(address, split)
    boxes, classes = [], []
    for record in datasets.load(address, split, decode=False):
        boxes.append(record["boxes"])
        classes.append(record["box_labels"])
    return labels_.from_boxes(boxes, classes, benchmark.data(name).num_classes)


def transfer_splits(benchmark: Benchmark, target: str) -> tuple[str, str, str]:
    """The slices of a target that are fine-tuned on, that choose from the grid, and the test.

    Raises:
        StageError: the first two would overlap.
    """
    size = benchmark.data(target).sizes["train"]
    available = size - benchmark.validation_images
    used = available if benchmark.transfer_images is None else benchmark.transfer_images
    if not 0 < used <= available:
        raise _run.StageError(
            f"{target}: {used} images to fine-tune on and {benchmark.validation_images} for "
            f"validation do not fit into a training split of {size}; --transfer_images and "
            "--validation_images set them"
        )
    return f"train[:{used}]", f"train[-{benchmark.validation_images}:]", "test"
