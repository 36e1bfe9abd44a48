"""Records in, padded batches out: a pure function of (seed, epoch), whatever the threads do.

The grain pipeline maps over whole batches: one step of it then crops as many images as a batch has.

Images stay uint8 until they are on the device, which normalises them: a quarter of the bytes
cross the bus. Every image is resized to a square a little larger than the network's input
(eight sevenths: 256 for 224, 36 for 32), as BiT does; its aspect is not kept. Training takes a
random crop of it, evaluation the central one.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import grain
import numpy as np
from PIL import Image

from jaxparc.images import open_rgb

Batch = dict[str, np.ndarray]
B = TypeVar("B")
P = TypeVar("P")

CACHE_LIMIT = 1 << 30
"""Bytes of decoded images that `decode` keeps: 276,000 images for 32 px, 5,400 for 224 px."""


class Source(Protocol):
    """Records read at random: `image`, uint8 (h, w, 3) or an encoded file, and `label`.

    A label is an int or, where an image may have several classes, a collection of ints.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """A source whose images have been decoded and resized, once for all epochs.

    Attributes:
      images: (n, r, r, 3) uint8, where r is `resized(size)`.
      labels: n labels.
    """

    images: np.ndarray
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": self.labels[index]}


def resized(size: int) -> int:
    """Returns the side that images are resized to before a size x size crop is taken.

    Eight sevenths of `size`, rounded so that the central crop is exactly central.
    """
    return size + 2 * round(size / 14)


def decode(source: Source, *, size: int, limit: int = CACHE_LIMIT, threads: int = 2) -> Source:
    """Decodes and resizes a whole source, where that fits in memory.

    Do this once before the first epoch; `batches` gives the same bytes either way.

    Args:
      source: the records.
      size: side of the crops that will be taken.
      limit: bytes that may be kept; a source that needs more is returned as it is.
      threads: that decode.

    Returns:
      A Decoded or, beyond the limit, `source` itself.
    """
    side = resized(size)
    if isinstance(source, Decoded) or len(source) * side * side * 3 > limit:
        return source
    images = np.empty((len(source), side, side, 3), np.uint8)
    labels: list[Any] = [None] * len(source)

    def fill(chunk: int) -> int:
        for i in range(chunk, min(chunk + 64, len(source))):
            record = source[i]
            images[i] = _square(record["image"], side)
            labels[i] = record["label"]
        return chunk

    for _ in _threaded(range(0, len(source), 64), fill, threads):
        pass
    return Decoded(images, labels)


def batches(
    source: Source,
    *,
    batch_size: int,
    size: int,
    train: bool,
    mirror: bool = False,
    seed: int = 0,
    epoch: int = 0,
    num_classes: int | None = None,
    threads: int = 2,
) -> Iterator[Batch]:
    """Gives one epoch of a source in batches of one shape.

    Each example appears exactly once. The order, and each example's crop and flip, follow from
    (seed, epoch, position in source) alone: neither `batch_size` nor `threads` changes them.

    Args:
      source: the records; `decode` it first where several epochs are read.
      batch_size: rows of every batch, the last one included.
      size: side of the images given.
      train: shuffle, crop at random and, with `mirror`, flip; otherwise keep the order of
        `source` and take the central crop.
      mirror: whether training may mirror images left to right, with probability one half.
      seed: not negative.
      epoch: not negative.
      num_classes: None where a record has one class; else the number of classes, of which a
        record may have several.
      threads: that assemble batches ahead of the caller.

    Returns:
      An iterator of dictionaries:
        image: (b, size, size, 3) uint8.
        label: (b,) int32; with `num_classes`, (b, num_classes) float32 of zeros and ones.
        mask: (b,) bool, False for the rows that pad the last batch.
        index: (b,) int32, position in `source`; -1 where padded.

    Raises:
      ValueError: batch_size or size below 1, or `source` was decoded for another size.
    """
    if batch_size < 1 or size < 1:
        raise ValueError(f"batch_size and size must be at least 1, got {batch_size} and {size}")
    side = resized(size)
    if isinstance(source, Decoded) and source.images.shape[1] != side:
        raise ValueError(
            f"this source was decoded to {source.images.shape[1]} px; size {size} needs {side}"
        )
    order, top, left, flip = _plan(len(source), side - size, train, mirror, seed, epoch)

    def assemble(start: int) -> Batch:
        rows = order[start : start + batch_size]
        image = np.zeros((batch_size, size, size, 3), np.uint8)
        label = np.zeros(
            batch_size if num_classes is None else (batch_size, num_classes),
            np.int32 if num_classes is None else np.float32,
        )
        for j, i in enumerate(rows.tolist()):
            if isinstance(source, Decoded):
                square, label_of_row = source.images[i], source.labels[i]
            else:
                record = source[i]
                square, label_of_row = _square(record["image"], side), record["label"]
            crop = square[top[i] : top[i] + size, left[i] : left[i] + size]
            image[j] = crop[:, ::-1] if flip[i] else crop
            if num_classes is None:
                label[j] = label_of_row
            else:
                label[j, list(label_of_row)] = 1
        padding = batch_size - len(rows)
        return {
            "image": image,
            "label": label,
            "mask": np.arange(batch_size) < len(rows),
            "index": np.pad(rows, (0, padding), constant_values=-1),
        }

    return _threaded(range(0, len(source), batch_size), assemble, threads)


def prefetch(iterator: Iterable[B], place: Callable[[B], P], size: int = 2) -> Iterator[P]:
    """Places batches on the device ahead of their use.

    `place` is expected to return at once, as `jax.device_put` does, so no thread is needed:
    the copies run while the caller computes.

    Args:
      iterator: the batches.
      place: puts one batch on the device.
      size: batches placed beyond the one the caller holds.

    Yields:
      What `place` returned, in order. What `iterator` or `place` raises, this raises.
    """
    ahead: collections.deque[P] = collections.deque()
    for batch in iterator:
        ahead.append(place(batch))
        if len(ahead) > size:
            yield ahead.popleft()
    yield from ahead


def _plan(
    n: int, margin: int, train: bool, mirror: bool, seed: int, epoch: int
) -> tuple[np.ndarray, list[int], list[int], list[bool]]:
    """Draws an epoch at once: the order of examples; and, by example, crop corner and flip."""
    if not train:
        return np.arange(n, dtype=np.int32), [margin // 2] * n, [margin // 2] * n, [False] * n
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(n).astype(np.int32)
    top, left = rng.integers(0, margin + 1, (2, n))
    flip = (rng.random(n) < 0.5) & mirror
    # Lists, because indexing them one by one is several times faster than indexing arrays.
    return order, top.tolist(), left.tolist(), flip.tolist()


def _square(image: np.ndarray | bytes, side: int) -> np.ndarray:
    """Decodes where needed, and resizes to (side, side, 3), averaging where it shrinks."""
    if isinstance(image, bytes):
        opened = open_rgb(image, side=side)
    elif image.shape[:2] == (side, side):
        return image
    else:
        opened = Image.fromarray(image)
    return np.asarray(opened.resize((side, side), Image.Resampling.BILINEAR))


def _threaded(items: Iterable[int], work: Callable[[int], B], threads: int) -> Iterator[B]:
    """Maps `work` over items in order, several at a time, a few ahead of the caller."""
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(list(items)).map(work).to_iter_dataset(ahead))
