"""Assemble padded batches from records, as a pure function of (seed, epoch), not of threads.

The grain pipeline maps over whole batches, so each of its steps crops all images of a batch. Images
stay uint8 until the device normalises them, which quarters the bytes to transfer.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import grain
import numpy as np
from absl import flags

from jaxparc.errors import InputError
from jaxparc.training import decoding
from jaxparc.training.decoding import THREADS, Decoded, Source, resized

Batch = dict[str, np.ndarray]
B = TypeVar("B")
P = TypeVar("P")


def batches(
    source: Source,
    *,
    batch_size: int,
    size: int,
    train: bool,
    mirror: bool = False,
    seed: int = 0,
    epoch: int = 0,
    epochs: int = 1,
    start: int = 0,
    share: tuple[int, int] = (0, 1),
    num_classes: int | None = None,
    threads: int = THREADS,
    workers: int = 0,
) -> Iterator[Batch]:
    """Return the batches of some epochs of a source, all of the same shape.

    Each example appears exactly once in an epoch. The order, and each example's crop and flip,
    follow from (seed, epoch, position in source) alone: neither `batch_size` nor `threads` nor
    `workers` changes them.

    Args:
      source: the records; pass it through `decoding.decode` first to read several epochs.
      batch_size: rows of every batch, including the last one of an epoch.
      size: side of the returned images, in pixels.
      train: shuffle, crop at random and, with `mirror`, flip; otherwise keep the order of
        `source` and take the central crop.
      mirror: whether training may mirror images left to right, with probability one half.
      seed: seed of order, crops and flips, >= 0.
      epoch: number of the first epoch, >= 0.
      epochs: number of epochs.
      start: number of batches to skip at the beginning.
      share: (i, k) for part i, from 0, of k equal parts of every batch, as process i of k takes it.
      num_classes: None if a record has one class; else the number of classes, and a record may have
        several.
      threads: number of threads, in each process, that assemble batches ahead of the caller.
      workers: number of processes that assemble batches instead of this one, for images that are
        decoded again in every epoch, on many cores. A script that uses workers must be guarded by
        `if __name__ == "__main__"`.

    Returns:
      An iterator of dictionaries:
        image: (b, size, size, 3) uint8.
        label: (b,) int32; with `num_classes`, (b, num_classes) float32 of zeros and ones.
        mask: (b,) bool, False for the rows that pad the last batch.
        index: (b,) int32, position in `source`; -1 where padded.

    Raises:
      InputError: batch_size or size is below 1, seed or epoch is negative, `source` was decoded for
        another size, or batch_size is not a multiple of k.
    """
    order = Order(len(source), batch_size, size, train, mirror, seed, epoch, share)
    side = resized(size)
    if isinstance(source, Decoded) and source.images.shape[1] != side:
        raise InputError(
            f"the source was decoded to {source.images.shape[1]} px; size {size} needs {side} px"
        )
    numbers = grain.MapDataset.range(start, epochs * order.batches)
    return _ahead(numbers.map(_Assemble(source, order, num_classes)), threads, workers)


@dataclasses.dataclass(frozen=True)
class Order:
    """The choice of images, crops and flips for each batch.

    The fields are the arguments of `batches`, and `n`, the number of records.

    Raises:
      InputError: as for `batches`.
    """

    n: int
    batch_size: int
    size: int
    train: bool
    mirror: bool = False
    seed: int = 0
    epoch: int = 0
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.seed < 0 or self.epoch < 0:
            raise InputError(f"seed is {self.seed} and epoch {self.epoch}; expected at least 0")
        if self.batch_size < 1 or self.size < 1:
            raise InputError(
                f"batch_size is {self.batch_size} and size {self.size}; expected at least 1"
            )
        if self.batch_size % self.share[1]:
            raise InputError(
                f"batch_size is {self.batch_size}; expected a multiple of {self.share[1]} processes"
            )

    @property
    def batches(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.n // self.batch_size)

    def __call__(self, number: int) -> Batch:
        """Return the choices for a batch, given its number from the start of the first epoch.

        Returns:
          A dictionary of arrays with one entry per row of the share:
            index: int32, position in the source; -1 where padded.
            top, left: int32, corner of the crop in the resized square; 0 where padded.
            flip: bool, whether the crop is mirrored; False where padded.
        """
        epoch, part = divmod(number, self.batches)
        margin = resized(self.size) - self.size
        order, *crops = _plan(
            self.n, margin, self.train, self.mirror, self.seed, self.epoch + epoch
        )
        i, of = self.share
        rows = self.batch_size // of
        start = part * self.batch_size + i * rows
        index = order[start : start + rows]
        pad = (0, rows - len(index))
        top, left, flip = (np.pad(crop[index], pad) for crop in crops)
        index = np.pad(index, pad, constant_values=-1)
        return {"index": index, "top": top, "left": left, "flip": flip}


def label_array(labels: list[Any], num_classes: int | None) -> np.ndarray:
    """Return labels in the form of batches: (n,) int32 or (n, num_classes) float32."""
    if num_classes is None:
        return np.array(labels, np.int32)
    array = np.zeros((len(labels), num_classes), np.float32)
    for row, classes in zip(array, labels, strict=True):
        row[list(classes)] = 1
    return array


@dataclasses.dataclass(frozen=True, eq=False)
class _Assemble:
    """Assemble a batch by its number. This is a class because a closure cannot be pickled."""

    source: Source
    order: Order
    num_classes: int | None

    def __call__(self, number: int) -> Batch:
        source, size = self.source, self.order.size
        rows = self.order(number)
        index = rows["index"]
        image = np.zeros((len(index), size, size, 3), np.uint8)
        labels: list[Any] = []
        # Lists, as looping over them is several times faster than over arrays.
        chosen = (rows[k].tolist() for k in ("index", "top", "left", "flip"))
        for j, (i, y, x, mirrored) in enumerate(zip(*chosen, strict=True)):
            if i < 0:
                labels.append(0 if self.num_classes is None else ())
                continue
            if isinstance(source, Decoded):
                square, label = source.images[i], source.labels[i]
            else:
                square, label = decoding.read(source, i, resized(size))
            crop = square[y : y + size, x : x + size]
            image[j] = crop[:, ::-1] if mirrored else crop
            labels.append(label)
        return {
            "image": image,
            "label": label_array(labels, self.num_classes),
            "mask": index >= 0,
            "index": index,
        }


def prefetch(iterator: Iterable[B], place: Callable[[B], P], size: int = 2) -> Iterator[P]:
    """Place batches on the device ahead of their use.

    `place` must return immediately, as `jax.device_put` does. No thread is needed: the copies run
    while the caller computes.

    Args:
      iterator: the batches.
      place: puts one batch on the device.
      size: number of batches to place beyond the one that the caller holds.

    Yields:
      The results of `place`, in order.
    """
    ahead: collections.deque[P] = collections.deque()
    for batch in iterator:
        ahead.append(place(batch))
        if len(ahead) > size:
            yield ahead.popleft()
    yield from ahead


@functools.lru_cache(maxsize=4)
def _plan(
    n: int, margin: int, train: bool, mirror: bool, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw an epoch: the order of examples and, for each example, its crop corner and flip."""
    if not train:
        corner = np.full(n, margin // 2, np.int32)
        return np.arange(n, dtype=np.int32), corner, corner, np.zeros(n, bool)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(n).astype(np.int32)
    top, left = rng.integers(0, margin + 1, (2, n)).astype(np.int32)
    return order, top, left, (rng.random(n) < 0.5) & mirror


def _ahead(dataset: Any, threads: int, workers: int = 0) -> Iterator[Any]:
    """Iterate over a grain dataset in order, computing several items in parallel ahead of use."""
    ahead = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # grain reads absl flags, which are never parsed here
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=4))
    return iter(ahead)
