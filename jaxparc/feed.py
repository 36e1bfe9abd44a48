"""Images on their way to the training steps: kept on the devices, or placed ahead of their use."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax import Array

from jaxparc import input as input_
from jaxparc import parallel

RESIDENT = 1 << 28
"""Bytes of decoded images of one split that are put on a device that does not say what it holds;
of one that does, an eighth of that."""


def resident(source: input_.Source, num_classes: int | None) -> dict[str, Array] | None:
    """A source as `train.taken` takes it, if it is decoded and fits on the devices.

    The last few are kept there.

    Args:
        source: images with labels.
        num_classes: as `input.batches` takes it.
    """
    limit = parallel.memory()
    limit = RESIDENT if limit is None else limit // 8
    if not isinstance(source, input_.Decoded) or source.images.nbytes > limit:
        return None
    return _resident(source, num_classes)


@functools.lru_cache(maxsize=3)
def _resident(source: input_.Decoded, num_classes: int | None) -> Any:
    labels = input_.label_array(source.labels, num_classes)
    return parallel.replicate({"images": source.images, "labels": labels})


def host_batches(
    source: input_.Source, data: Any, *, workers: int = 0, num_classes: int | None, **options: Any
) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of batches, on the host, as `train.taken` takes them.

    Args:
        source: images with labels.
        data: what `resident` gave of it.
        workers: as `input.batches` takes it.
        num_classes: likewise.
        options: likewise.
    """
    options |= {"share": parallel.share()}
    if data is None:
        batches = input_.batches(source, workers=workers, num_classes=num_classes, **options)
        return ({k: batch[k] for k in ("image", "label", "mask")} for batch in batches)
    start, epochs = options.pop("start", 0), options.pop("epochs", 1)
    order = input_.Order(len(source), **options)
    return map(order, range(start, epochs * order.batches))


def stacks(
    source: input_.Source, data: Any, sizes: Sequence[int], seeds: Sequence[int], **options: Any
) -> Iterator[list[dict[str, Array]]]:
    """Batches as `train.train_grid` takes them, on the devices ahead of their use.

    Args:
        source: images with labels.
        data: what `resident` gave of it.
        sizes: for each call, the number of its steps.
        seeds: of order and augmentation; as many batches come side by side.
        options: of `host_batches`.
    """

    def stacked(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        for size in sizes:
            several = list(itertools.islice(batches, size))
            yield {k: np.stack([batch[k] for batch in several]) for k in several[0]}

    feeds = [stacked(host_batches(source, data, seed=seed, **options)) for seed in seeds]
    return input_.prefetch(
        zip(*feeds, strict=True), lambda fed: [parallel.shard(stack, axis=1) for stack in fed]
    )
