"""Images on their way to the training steps: kept on the devices, or placed ahead of their use."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import parallel
from jaxparc.training import batches as input_

RESIDENT = 1 << 28
"""Bytes of decoded images of one split that are put on a device that does not say what it holds;
of one that does, an eighth of that."""


def resident(source: input_.Source, num_classes: int | None) -> dict[str, Array] | None:
    """A source as `crops` takes it, if it is decoded and fits on the devices.

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


def crops(size: int, data: Mapping[str, Array], rows: Mapping[str, Array]) -> dict[str, Array]:
    """Batches out of images that are on the device.

    Args:
        size: side of the crops.
        data: `images` (n, r, r, 3) uint8 and `labels` (n, ...).
        rows: of `input.Order`, (..., b) each.

    Returns:
        `image` (..., b, size, size, 3) uint8, `label` (..., b, ...) and `mask` (..., b). Where a
        batch is padded, its rows are image 0.
    """
    index = jnp.maximum(rows["index"], 0)

    def crop(i: Array, top: Array, left: Array) -> Array:
        start = (i, top, left, jnp.zeros_like(i))
        return jax.lax.dynamic_slice(data["images"], start, (1, size, size, 3))[0]

    places = (array.reshape(-1) for array in (index, rows["top"], rows["left"]))
    image = jax.vmap(crop)(*places).reshape(*index.shape, size, size, 3)
    image = jnp.where(rows["flip"][..., None, None, None], image[..., ::-1, :], image)
    return {"image": image, "label": data["labels"][index], "mask": rows["index"] >= 0}


@functools.lru_cache(maxsize=32)
def _compiled_crops(size: int, axis: int) -> Callable[..., dict[str, Array]]:
    """Apart from the steps, which then are compiled once for data sets of all sizes."""
    made = functools.partial(crops, size)
    return parallel.data_parallel(made, (None, axis), out_axes=axis)


def placed(data: Any, size: int, axis: int, batch: dict[str, np.ndarray]) -> dict[str, Array]:
    """What `host_batches` gave, as training steps take it.

    Args:
        data: what `resident` gave of the source.
        size: side of the images, in pixels.
        axis: of the rows.
        batch: on the host.

    Returns:
        `image`, `label` and `mask`, on the devices, with (devices, rows) in the place of the rows.
    """
    on_devices = parallel.shard(batch, axis)
    return on_devices if data is None else _compiled_crops(size, axis)(data, on_devices)


def host_batches(
    source: input_.Source, data: Any, *, workers: int = 0, num_classes: int | None, **options: Any
) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of batches, on the host: images, or rows of `data`.

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
    source: input_.Source,
    data: Any,
    sizes: Sequence[int],
    seeds: Sequence[int],
    *,
    size: int,
    **options: Any,
) -> Iterator[list[dict[str, Array]]]:
    """Batches as `train.train_grid` takes them, on the devices ahead of their use.

    Args:
        source: images with labels.
        data: what `resident` gave of it.
        sizes: for each call, the number of its steps.
        seeds: of order and augmentation; as many batches come side by side.
        size: side of the images, in pixels.
        options: of `host_batches`.
    """

    def stacked(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        for steps in sizes:
            several = list(itertools.islice(batches, steps))
            yield {k: np.stack([batch[k] for batch in several]) for k in several[0]}

    feeds = [stacked(host_batches(source, data, size=size, seed=seed, **options)) for seed in seeds]
    return input_.prefetch(
        zip(*feeds, strict=True), lambda fed: [placed(data, size, 1, stack) for stack in fed]
    )
