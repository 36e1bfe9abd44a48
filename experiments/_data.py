"""Images of a benchmark's data sets, decoded once and kept."""

import functools

from experiments.benchmarks import Benchmark
from jaxparc import datasets
from jaxparc import input as input_


def prepare(benchmark: Benchmark) -> None:
    """Make every data set ready to read, before anything is trained.

    Raises:
        DatasetError: one cannot be made ready.
    """
    for name in dict.fromkeys((*benchmark.sources, *benchmark.targets)):
        if not datasets.is_prepared(name):
            datasets.prepare(name)


@functools.lru_cache(maxsize=16)
def images(benchmark: Benchmark, name: str, split: str) -> input_.Source:
    """A split, or a TFDS slice of one, at the benchmark's image size."""
    return input_.decode(datasets.load(name, split), size=benchmark.image_size)


def transfer_splits(benchmark: Benchmark, target: str) -> tuple[str, str, str]:
    """The slices of a target that are fine-tuned on, that choose from the grid, and the test.

    Raises:
        ValueError: the first two would overlap.
    """
    available = datasets.spec_of(target).sizes["train"] - benchmark.validation_images
    used = available if benchmark.transfer_images is None else benchmark.transfer_images
    if not 0 < used <= available:
        raise ValueError(
            f"{target}: {used} images to fine-tune on and {benchmark.validation_images} for "
            f"validation do not fit into a training split of {available} and as many"
        )
    return f"train[:{used}]", f"train[-{benchmark.validation_images}:]", "test"
