"""Feed images to training steps: keep them on the devices, or place batches ahead of their use."""

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
"""Bytes of decoded images to keep on a device that does not report its memory."""

AHEAD = 2
"""Number of calls whose batches are placed on the devices ahead of the current one."""

# Splits on the devices, least recently used first.
_resident: dict[tuple[Decoded, int | None], dict[str, Array]] = {}


def budget() -> int:
    """Return the bytes that all resident splits together may take on each device."""
    limit = parallel.memory()
    return RESIDENT if limit is None else limit // 8


def resident(source: Source, num_classes: int | None) -> dict[str, Array] | None:
    """Place a split on the devices, for `crops`; return None unless it is decoded and fits.

    It stays there for later calls until other splits need the memory (see `budget`).

    Args:
        source: images with labels.
        num_classes: as `batches.batches` takes it.

    Returns:
        `images` (n, r, r, 3) uint8 and `labels` (n, ...), replicated.
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
    """Crop batches from images that are on the device.

    Args:
        size: side of the crops, in pixels.
        data: `images` (n, r, r, 3) uint8 and `labels` (n, ...).
        rows: the choices of `batches.Order`, (..., b) each.

    Returns:
        `image` (..., b, size, size, 3) uint8, `label` (..., b, ...) and `mask` (..., b) bool.
        Padded rows hold crops of image 0.
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
    """Compile `crops` separately from the steps, which then need not recompile per data set."""
    cut = functools.partial(crops, size)
    return parallel.data_parallel(cut, (None, axis), out_axes=axis)


def placed(data: Any, size: int, axis: int, batch: dict[str, np.ndarray]) -> dict[str, Array]:
    """Place a batch of `host_batches` on the devices, in the form that steps take.

    Args:
        data: the split, from `resident`.
        size: side of the images, in pixels.
        axis: axis of the rows.
        batch: a batch on the host.

    Returns:
        `image`, `label` and `mask`, in which (devices, rows) replaces the axis of the rows.
    """
    on_devices = parallel.shard(batch, axis)
    return on_devices if data is None else _compiled_crops(size, axis)(data, on_devices)


def host_batches(
    source: Source, data: Any, *, workers: int = 0, num_classes: int | None, **options: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Return this process's share of batches on the host: images, or choices for `crops`.

    Args:
        source: images with labels.
        data: the split, from `resident`; if it is None, batches contain the images.
        workers: as `batches.batches` takes it.
        num_classes: as `batches.batches` takes it.
        options: further arguments of `batches.batches`.
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
    """Return the batches of each call of `steps.train_runs`, placed ahead of their use.

    Args:
        source: images with labels.
        data: the split, from `resident`.
        counts: number of steps in each call.
        seeds: seeds of order and augmentation; each has its own batches.
        size: side of the images, in pixels.
        options: further arguments of `host_batches`.
    """

    def stacked(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        for count in counts:
            several = list(itertools.islice(batches, count))
            yield {k: np.stack([batch[k] for batch in several]) for k in several[0]}

    feeds = [stacked(host_batches(source, data, size=size, seed=seed, **options)) for seed in seeds]
    return pipeline.prefetch(
        zip(*feeds, strict=True), lambda fed: [placed(data, size, 1, stack) for stack in fed], AHEAD
    )
