"""Load the images and labels of a benchmark's data sets, decoded once and cached."""

import functools

import numpy as np

from experiments.benchmarks import Benchmark
from experiments.runner.run import StageError
from jaxparc import datasets
from jaxparc import labels as labels_
from jaxparc.training import decoding
from jaxparc.training.decoding import Source
from jaxparc.units.progress import say
from jaxparc.units.run import NAMES


def prepare(benchmark: Benchmark) -> None:
    """Prepare the data sets that come with installed packages, and check user images.

    Raises:
        DatasetError: a data set cannot be prepared.
    """
    for address in benchmark.addresses:
        if not datasets.is_prepared(address) and datasets.spec_of(address).embedded:
            datasets.prepare(address)


def lacking(benchmark: Benchmark, *names: str) -> dict[str, str]:
    """Return missing data set -> command to get it, for those that the user must prepare."""
    way = f"jaxparc data prepare {NAMES}"
    return {
        name: way
        for name in names
        if not datasets.is_prepared(benchmark.address(name)) and not benchmark.data(name).embedded
    }


def part_name(split: str) -> str:
    """Return a string that identifies a TFDS slice and is valid in file names."""
    for mark, word in (("[", "_"), ("]", ""), (":", "to"), ("%", "pct")):
        split = split.replace(mark, word)
    return split


MEMORY = 1 << 28
"""Maximum bytes of decoded images of a split kept in memory; larger splits are kept on disk."""


@functools.lru_cache(maxsize=16)
def images(benchmark: Benchmark, name: str, split: str) -> Source:
    """Return a split, or a TFDS slice of one, at the benchmark's image size."""
    address = benchmark.address(name)
    source = datasets.load(address, split, decode=False)
    file = datasets.root_of() / "decoded" / f"{name}-{source.spec.version}-{part_name(split)}"
    try:
        return decoding.decode(source, size=benchmark.image_size, limit=MEMORY, file=file)
    except OSError as error:
        say(f"{name}: decoding in every epoch, as {file.parent} cannot be written: {error}")
        return source


@functools.lru_cache(maxsize=16)
def labels(benchmark: Benchmark, name: str, split: str) -> np.ndarray:
    """Return the labels of a split, as `datasets.labels` does, or annotation vectors of boxes."""
    address = benchmark.address(name)
    if benchmark.annotations == "labels":
        return datasets.labels(address, split)
    boxes, classes = [], []
    for record in datasets.load(address, split, decode=False):
        boxes.append(record["boxes"])
        classes.append(record["box_labels"])
    return labels_.from_boxes(boxes, classes, benchmark.data(name).num_classes)


def transfer_splits(benchmark: Benchmark, target: str) -> tuple[str, str, str]:
    """Return the slices of a target for fine-tuning, for validation and for testing.

    Raises:
        StageError: the slices for fine-tuning and validation would overlap.
    """
    size = benchmark.data(target).sizes["train"]
    available = size - benchmark.validation_images
    used = available if benchmark.transfer_images is None else benchmark.transfer_images
    if not 0 < used <= available:
        raise StageError(
            f"{target}: {used} images to fine-tune on and {benchmark.validation_images} for "
            f"validation do not fit into a training split of {size}; change --transfer-images or "
            "--validation-images"
        )
    return f"train[:{used}]", f"train[-{benchmark.validation_images}:]", "test"
