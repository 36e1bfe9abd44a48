"""Records in, padded batches out: a pure function of (seed, epoch), whatever the threads do.

The grain pipeline maps over whole batches: one step of it then crops as many images as a batch has.
Images stay uint8 until they are on the device, which normalises them: a quarter of the bytes
cross the bus.
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
    """Return epochs of a source in batches of one shape.

    Each example appears exactly once in an epoch. The order, and each example's crop and flip,
    follow from (seed, epoch, position in source) alone: neither `batch_size` nor `threads` nor
    `workers` changes them.

    Args:
      source: the records; `decoding.decode` it first where several epochs are read.
      batch_size: rows of every batch, the last one of an epoch included.
      size: side of the images given.
      train: shuffle, crop at random and, with `mirror`, flip; otherwise keep the order of
        `source` and take the central crop.
      mirror: whether training may mirror images left to right, with probability one half.
      seed: not negative.
      epoch: the first one, not negative.
      epochs: how many follow one another.
      start: how many of their batches to skip at the beginning.
      share: (i, k) for the i-th of k equal parts of every batch, as process i of k takes them.
      num_classes: None where a record has one class; else the number of classes, of which a
        record may have several.
      threads: in each process, that assemble batches ahead of the caller.
      workers: processes that do so instead of this one: for images that are decoded again in every
        epoch, on many cores. A script that uses them starts under `if __name__ == "__main__"`.

    Returns:
      An iterator of dictionaries:
        image: (b, size, size, 3) uint8.
        label: (b,) int32; with `num_classes`, (b, num_classes) float32 of zeros and ones.
        mask: (b,) bool, False for the rows that pad the last batch.
        index: (b,) int32, position in `source`; -1 where padded.

    Raises:
      InputError: batch_size or size below 1, seed or epoch negative, `source` was decoded for
        another size, or a batch cannot be shared equally.
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
    """The images of each batch, and their crops; the fields are those of `batches`.

    Raises:
      InputError: as of `batches`.
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
            raise InputError(
                f"seed is {self.seed} and epoch {self.epoch}; expected no negative number"
            )
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
        """Return a batch by its number, counted from the first epoch.

        Returns:
          For each row of the share, 0 where it is padding but for `index`:
            index: int32, position in the source; -1 where padded.
            top, left: int32, corner of the crop in the resized square.
            flip: bool, whether the crop is mirrored.
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
    """Return labels of records as batches have them: (n,) int32 or (n, num_classes) float32."""
    if num_classes is None:
        return np.array(labels, np.int32)
    array = np.zeros((len(labels), num_classes), np.float32)
    for row, classes in zip(array, labels, strict=True):
        row[list(classes)] = 1
    return array


@dataclasses.dataclass(frozen=True, eq=False)
class _Assemble:
    """Assemble a batch by its number; an object rather than a closure, which cannot be pickled."""

    source: Source
    order: Order
    num_classes: int | None

    def __call__(self, number: int) -> Batch:
        source, size = self.source, self.order.size
        rows = self.order(number)
        index = rows["index"]
        image = np.zeros((len(index), size, size, 3), np.uint8)
        labels: list[Any] = []
        # Lists, because indexing them one by one is several times faster than indexing arrays.
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

    `place` is expected to return at once, as `jax.device_put` does, so no thread is needed:
    the copies run while the caller computes.

    Args:
      iterator: the batches.
      place: puts one batch on the device.
      size: batches placed beyond the one the caller holds.

    Yields:
      What `place` returned, in order.
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
    """Draw a whole epoch: the order of examples and, by example, crop corner and flip."""
    if not train:
        corner = np.full(n, margin // 2, np.int32)
        return np.arange(n, dtype=np.int32), corner, corner, np.zeros(n, bool)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(n).astype(np.int32)
    top, left = rng.integers(0, margin + 1, (2, n)).astype(np.int32)
    return order, top, left, (rng.random(n) < 0.5) & mirror


def _ahead(dataset: Any, threads: int, workers: int = 0) -> Iterator[Any]:
    """Iterate over a grain dataset in order, with several items made in parallel, ahead of use."""
    ahead = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # grain reads some, and nobody parses them here
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=4))
    return iter(ahead)
