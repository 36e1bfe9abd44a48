"""Records in, padded batches out: a pure function of (seed, epoch), whatever the threads do.

The grain pipeline maps over whole batches: one step of it then crops as many images as a batch has.

Images stay uint8 until they are on the device, which normalises them: a quarter of the bytes
cross the bus. Every image is resized to a square a little larger than the network's input
(eight sevenths: 256 for 224, 36 for 32), as BiT does; its aspect is not kept. Training takes a
random crop of it, evaluation the central one.
"""

import collections
import dataclasses
import functools
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grain
import numpy as np
from absl import flags
from PIL import Image

from jaxparc import files, locks
from jaxparc.datasets.images import open_square
from jaxparc.errors import InputError

Batch = dict[str, np.ndarray]
B = TypeVar("B")
P = TypeVar("P")

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""The processors that this process may use."""

CACHE_LIMIT = 1 << 30
"""Bytes of decoded images kept in memory: 276,000 images for 32 px, 5,400 for 224 px."""


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


def decode(
    source: Source,
    *,
    size: int,
    limit: int = CACHE_LIMIT,
    file: Path | None = None,
    threads: int = THREADS,
) -> Source:
    """Decodes and resizes a whole source, once for all epochs, into memory or onto disk.

    Do this before the first epoch; `batches` gives the same bytes either way.

    Args:
      source: the records.
      size: side of the crops that will be taken.
      limit: bytes that may be kept in memory.
      file: where what needs more is kept, if there is room for it twice; it is found there again
        by whoever asks for the same `file`, whose name must therefore tell all that decides the
        content but the size. Its directory is made.
      threads: that decode.

    Returns:
      A Decoded or, beyond the limit and without a file or room for it, `source` itself.

    Raises:
      OSError: the file cannot be written.
    """
    side = resized(size)
    shape = len(source), side, side, 3
    if isinstance(source, Decoded):
        return source
    if math.prod(shape) <= limit:
        images = np.empty(shape, np.uint8)
        return Decoded(images, _fill(images, source, threads))
    if file is None:
        return source
    kept = file.with_name(f"{file.name}-{side}.npy")
    facts = kept.with_suffix(".json")  # written last: it says that the images are whole
    with locks.folder(file.parent, wait=True):
        files.clear(file.parent)
        try:
            known = files.read_sealed(facts)
            labels = [tuple(x) if isinstance(x, list) else x for x in known["labels"]]
            if known["sha256"] == _digest(kept):
                return Decoded(_mapped(kept, shape), labels)
        except (FileNotFoundError, files.DamagedFileError, KeyError, ValueError):
            pass  # not there, damaged, or kept by an earlier version: made again
        for old in (facts, kept):
            old.unlink(missing_ok=True)
        if 2 * math.prod(shape) > shutil.disk_usage(file.parent).free:
            return source
        with files.replacing(kept) as temporary:
            mapped = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            if hasattr(os, "posix_fallocate"):  # a disk that fills up would end the process later
                with temporary.open("r+b") as opened:
                    os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)
            labels = _fill(mapped, source, threads)
            mapped.flush()
        files.write_sealed(facts, {"labels": labels, "sha256": _digest(kept)})
        return Decoded(_mapped(kept, shape), labels)


def _digest(file: Path) -> str:
    """Of a file of pixels: one pass over it in each process is all that notices damage."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    images = np.load(file, mmap_mode="r")
    if images.shape != shape or images.dtype != np.uint8:
        raise InputError(f"{file} holds {images.dtype} {images.shape}; expected uint8 {shape}")
    return images


def _fill(images: np.ndarray, source: Source, threads: int) -> list[Any]:
    """Decodes all of a source into `images`; returns the labels."""
    labels: list[Any] = [None] * len(source)

    def fill(chunk: int) -> int:
        for i in range(chunk, min(chunk + 64, len(source))):
            images[i], labels[i] = _read(source, i, images.shape[1])
        return chunk

    for _ in _ahead(grain.MapDataset.range(0, len(source), 64).map(fill), threads):
        pass
    return labels


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
    """Gives epochs of a source in batches of one shape.

    Each example appears exactly once in an epoch. The order, and each example's crop and flip,
    follow from (seed, epoch, position in source) alone: neither `batch_size` nor `threads` nor
    `workers` changes them.

    Args:
      source: the records; `decode` it first where several epochs are read.
      batch_size: rows of every batch, the last one of an epoch included.
      size: side of the images given.
      train: shuffle, crop at random and, with `mirror`, flip; otherwise keep the order of
        `source` and take the central crop.
      mirror: whether training may mirror images left to right, with probability one half.
      seed: not negative.
      epoch: the first one, not negative.
      epochs: how many follow one another.
      start: how many of their batches to leave out, at the beginning.
      share: (i, k) for the i-th of k equal parts of every batch, as process i of k takes them.
      num_classes: None where a record has one class; else the number of classes, of which a
        record may have several.
      threads: that assemble batches ahead of the caller, in each process.
      workers: processes that do so instead of this one: for images that are decoded again in every
        epoch, on many cores. A script that uses them starts under `if __name__ == "__main__"`.

    Returns:
      An iterator of dictionaries:
        image: (b, size, size, 3) uint8.
        label: (b,) int32; with `num_classes`, (b, num_classes) float32 of zeros and ones.
        mask: (b,) bool, False for the rows that pad the last batch.
        index: (b,) int32, position in `source`; -1 where padded.

    Raises:
      ValueError: batch_size or size below 1, seed or epoch negative, `source` was decoded for
        another size, or a batch cannot be shared equally.
    """
    order = Order(len(source), batch_size, size, train, mirror, seed, epoch, share)
    side = resized(size)
    if isinstance(source, Decoded) and source.images.shape[1] != side:
        raise InputError(
            f"this source was decoded to {source.images.shape[1]} px; size {size} needs {side}"
        )
    numbers = grain.MapDataset.range(start, epochs * order.batches)
    return _ahead(numbers.map(_Assemble(source, order, num_classes)), threads, workers)


@dataclasses.dataclass(frozen=True)
class Order:
    """Which images a batch has, and how they are cropped; the fields are those of `batches`.

    Raises:
      ValueError: as of `batches`.
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
        """Refuse what makes no batch."""
        if self.seed < 0 or self.epoch < 0:
            raise InputError(
                f"seed and epoch must not be negative, got {self.seed} and {self.epoch}"
            )
        if self.batch_size < 1 or self.size < 1:
            raise InputError(
                f"batch_size and size must be at least 1, got {self.batch_size} and {self.size}"
            )
        if self.batch_size % self.share[1]:
            raise InputError(
                f"a batch of {self.batch_size} rows does not divide over {self.share[1]} processes"
            )

    @property
    def batches(self) -> int:
        """How many an epoch has."""
        return -(-self.n // self.batch_size)

    def __call__(self, number: int) -> Batch:
        """A batch by its number, counted from the first epoch.

        Returns:
          Per row of the share, and of 0 where it pads:
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
    """Labels of records as batches have them: (n,) int32 or (n, num_classes) float32."""
    if num_classes is None:
        return np.array(labels, np.int32)
    array = np.zeros((len(labels), num_classes), np.float32)
    for row, classes in zip(array, labels, strict=True):
        row[list(classes)] = 1
    return array


@dataclasses.dataclass(frozen=True, eq=False)
class _Assemble:
    """Makes a batch of its number; an object, and no closure, so that it can go to processes."""

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
                square, label = _read(source, i, resized(size))
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


@functools.lru_cache(maxsize=4)
def _plan(
    n: int, margin: int, train: bool, mirror: bool, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws an epoch at once: the order of examples; and, by example, crop corner and flip."""
    if not train:
        corner = np.full(n, margin // 2, np.int32)
        return np.arange(n, dtype=np.int32), corner, corner, np.zeros(n, bool)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(n).astype(np.int32)
    top, left = rng.integers(0, margin + 1, (2, n)).astype(np.int32)
    return order, top, left, (rng.random(n) < 0.5) & mirror


def _read(source: Source, index: int, side: int) -> tuple[np.ndarray, Any]:
    """The image of a record, decoded and resized, and its label."""
    record = source[index]
    try:
        return _square(record["image"], side), record["label"]
    except (OSError, ValueError) as error:
        raise InputError(f"image {index} of the source cannot be decoded: {error}") from error


def _square(image: np.ndarray | bytes, side: int) -> np.ndarray:
    """Decodes where needed, and resizes to (side, side, 3), averaging where it shrinks."""
    if isinstance(image, bytes):
        return open_square(image, side)
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def _ahead(dataset: Any, threads: int, workers: int = 0) -> Iterator[Any]:
    """The items of a grain dataset in order, several made at a time, a few ahead of the caller."""
    ahead = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # grain reads some, and nobody parses them here
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=4))
    return iter(ahead)
