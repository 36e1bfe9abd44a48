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
from jaxparc.training import batches as pipeline
from jaxparc.training.batches import Decoded, Order, Source

RESIDENT = 1 << 28
"""Bytes of decoded images that are kept on a device that does not say how much it holds."""

AHEAD = 2
"""Calls whose batches are placed on the devices ahead of the current one."""

# Splits on the devices, the least recently used one first.
_resident: dict[tuple[Decoded, int | None], dict[str, Array]] = {}


def budget() -> int:
    """Return the bytes on each device that resident splits may take, all of them together."""
    limit = parallel.memory()
    return RESIDENT if limit is None else limit // 8


def resident(source: Source, num_classes: int | None) -> dict[str, Array] | None:
    """Return a split as `crops` takes it, on the devices; None unless decoded and within `budget`.

    It stays there for later calls, until others need its place.

    Args:
        source: images with labels.
        num_classes: as `batches.batches` takes it.
    """
    if not isinstance(source, Decoded):
        return None
    key = source, num_classes
    if (found := _resident.pop(key, None)) is None:
        labels = pipeline.label_array(source.labels, num_classes)
        size = source.images.nbytes + labels.nbytes
        if size > budget():
            return None
        while _resident and size + resident_bytes() > budget():
            del _resident[next(iter(_resident))]
        split: dict[str, Any] = {"images": source.images, "labels": labels}
        found = parallel.replicate(split)
    _resident[key] = found
    return found


def resident_bytes() -> int:
    """Return the bytes that resident splits take on each device."""
    return sum(array.nbytes for split in _resident.values() for array in split.values())


def crops(size: int, data: Mapping[str, Array], rows: Mapping[str, Array]) -> dict[str, Array]:
    """Cut batches out of images that are on the device.

    Args:
        size: side of the crops.
        data: `images` (n, r, r, 3) uint8 and `labels` (n, ...).
        rows: of `batches.Order`, (..., b) each.

    Returns:
        `image` (..., b, size, size, 3) uint8, `label` (..., b, ...) and `mask` (..., b). Where a
        batch is padded, its rows are image 0.
    """
    index = jnp.maximum(rows["index"], 0)

    def crop(i: Array, top: Array, left: Array) -> Array:
        start = (i, top, left, jnp.zeros_like(i))
        return jax.lax.dynamic_slice(data["images"], start, (1, size, size, 3))[0]

    corners = (array.reshape(-1) for array in (index, rows["top"], rows["left"]))
    image = jax.vmap(crop)(*corners).reshape(*index.shape, size, size, 3)
    image = jnp.where(rows["flip"][..., None, None, None], image[..., ::-1, :], image)
    return {"image": image, "label": data["labels"][index], "mask": rows["index"] >= 0}


@functools.lru_cache(maxsize=32)
def _compiled_crops(size: int, axis: int) -> Callable[..., dict[str, Array]]:
    """Apart from the steps, which then are compiled once for data sets of all sizes."""
    cut = functools.partial(crops, size)
    return parallel.data_parallel(cut, (None, axis), out_axes=axis)


def placed(data: Any, size: int, axis: int, batch: dict[str, np.ndarray]) -> dict[str, Array]:
    """Place a batch of `host_batches` on the devices, as training steps take it.

    Args:
        data: the split, from `resident`.
        size: side of the images, in pixels.
        axis: of the rows.
        batch: on the host.

    Returns:
        `image`, `label` and `mask`, with (devices, rows) in the place of the rows.
    """
    on_devices = parallel.shard(batch, axis)
    return on_devices if data is None else _compiled_crops(size, axis)(data, on_devices)


def host_batches(
    source: Source, data: Any, *, workers: int = 0, num_classes: int | None, **options: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Return this process's part of batches, on the host: images, or rows of `data`.

    Args:
        source: images with labels.
        data: the split, from `resident`.
        workers: as `batches.batches` takes it.
        num_classes: likewise.
        options: likewise.
    """
    options |= {"share": parallel.share()}
    if data is None:
        batches = pipeline.batches(source, workers=workers, num_classes=num_classes, **options)
        return ({k: batch[k] for k in ("image", "label", "mask")} for batch in batches)
    start, epochs = options.pop("start", 0), options.pop("epochs", 1)
    order = Order(len(source), **options)
    return map(order, range(start, epochs * order.batches))


def stacks(
    source: Source,
    data: Any,
    counts: Sequence[int],
    seeds: Sequence[int],
    *,
    size: int,
    **options: Any,
) -> Iterator[list[dict[str, Array]]]:
    """Return batches as `steps.train_runs` takes them, on the devices ahead of their use.

    Args:
        source: images with labels.
        data: the split, from `resident`.
        counts: for each call, the number of its steps.
        seeds: of order and augmentation; each gives its own batches.
        size: side of the images, in pixels.
        options: of `host_batches`.
    """

    def stacked(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        for count in counts:
            several = list(itertools.islice(batches, count))
            yield {k: np.stack([batch[k] for batch in several]) for k in several[0]}

    feeds = [stacked(host_batches(source, data, size=size, seed=seed, **options)) for seed in seeds]
    return pipeline.prefetch(
        zip(*feeds, strict=True), lambda fed: [placed(data, size, 1, stack) for stack in fed], AHEAD
    )
