"""Decode images: a whole data set once for all epochs, or central crops as they are read.

Every image is resized to a square a little larger than the network's input (eight sevenths: 256 for
224, 36 for 32), as in BiT, ignoring its aspect ratio. Training uses a random crop, evaluation the
central one.
"""

import dataclasses
import functools
import math
import os
import shutil
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxparc import files, locks
from jaxparc.errors import InputError
from jaxparc.geometry import Geometry
from jaxparc.preprocessing import central_crop, resized_square

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Number of CPUs that this process may use."""

CACHE_LIMIT = 1 << 30
"""Bytes of decoded images kept in memory: 276,000 images for 32 px, 5,400 for 224 px."""

_CHUNK = 64  # images that a thread decodes at a time


class Source(Protocol):
    """Random-access records with `image`, uint8 (h, w, 3) or encoded bytes, and `label`.

    A label is an int or, if an image may have several classes, a collection of ints.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """A source whose images have been decoded and resized, once for all epochs.

    Attributes:
      images: (n, r, r, 3) uint8, with r = `resized(size)`.
      labels: n labels.
    """

    images: np.ndarray
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": self.labels[index]}


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some records of a source, in the order of their indices."""

    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class CentralCrops:
    """The central crops of a source, as used in evaluation, decoded when sliced.

    Attributes:
      source: n records.
      geometry: how images are resized and cropped.
      threads: number of decoding threads.
    """

    source: Source
    geometry: Geometry
    threads: int = THREADS

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return (b, size, size, 3) uint8."""
        indices = range(len(self.source))[rows]
        with futures.ThreadPoolExecutor(self.threads) as pool:
            return np.stack(list(pool.map(self._crop, indices)))

    def _crop(self, index: int) -> np.ndarray:
        crop = functools.partial(central_crop, geometry=self.geometry)
        return _decoded(self.source, index, crop)[0]


KEPT_LIMIT = 1 << 28
"""Bytes of crops of one size that are kept in memory: 1,783 for 224 px."""


class KeptCrops:
    """Central crops that are decoded and resized when first sliced, and then kept in memory.

    Args:
      crops: n crops.
      limit: bytes that may be kept; of larger sets, nothing is.
    """

    def __init__(self, crops: CentralCrops, limit: int = KEPT_LIMIT) -> None:
        self._crops = crops
        shape = len(crops), crops.geometry.size, crops.geometry.size, 3
        self._kept = np.empty(shape, np.uint8) if math.prod(shape) <= limit else None
        self._there = np.zeros(len(crops), bool)

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return (b, size, size, 3) uint8."""
        if self._kept is None:
            return self._crops[rows]
        if not self._there[rows].all():
            self._kept[rows] = self._crops[rows]
            self._there[rows] = True
        return self._kept[rows]


def resized(size: int) -> int:
    """Return the side that images are resized to before a size x size crop is taken.

    This is eight sevenths of `size`, rounded so that the margins of the central crop are equal.
    """
    return Geometry(size).resized


def decode(
    source: Source,
    *,
    size: int,
    limit: int = CACHE_LIMIT,
    file: Path | None = None,
    threads: int = THREADS,
) -> Source:
    """Decode and resize a whole source, once for all epochs, into memory or onto disk.

    Do this before the first epoch; `batches` returns the same bytes either way.

    Args:
      source: the records.
      size: side of the crops that will be taken, in pixels.
      limit: bytes that may be kept in memory.
      file: cache on disk for a source that exceeds the limit, used if twice its size is free. Later
        calls with the same `file` reuse it, so its name must identify the content (except for the
        size). Its folder is created.
      threads: number of decoding threads.

    Returns:
      A Decoded or, beyond the limit and without a file or space for it, `source` itself.

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
    facts = kept.with_suffix(".json")  # written last, so it marks a complete cache
    with locks.folder(file.parent, wait=True):
        files.clear(file.parent)
        try:
            known = files.read_sealed(facts)
            labels = [tuple(x) if isinstance(x, list) else x for x in known["labels"]]
            if known["sha256"] == files.sha256(kept):  # the only check for damage
                return Decoded(_mapped(kept, shape), labels)
        except (FileNotFoundError, files.DamagedFileError, KeyError, ValueError):
            pass  # missing, damaged, or of an earlier version: recreated below
        for old in (facts, kept):
            old.unlink(missing_ok=True)
        if 2 * math.prod(shape) > shutil.disk_usage(file.parent).free:
            return source
        with files.replacing(kept) as temporary:
            mapped = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would cause SIGBUS
                with temporary.open("r+b") as opened:
                    os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)
            labels = _fill(mapped, source, threads)
            mapped.flush()
        files.write_sealed(facts, {"labels": labels, "sha256": files.sha256(kept)})
        return Decoded(_mapped(kept, shape), labels)


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    images = np.load(file, mmap_mode="r")
    if images.shape != shape or images.dtype != np.uint8:
        raise InputError(f"{file} holds {images.dtype} {images.shape}; expected uint8 {shape}")
    return images


def _fill(images: np.ndarray, source: Source, threads: int) -> list[Any]:
    """Decode a whole source into `images`, and return its labels."""
    labels: list[Any] = [None] * len(source)

    def fill(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(source))):
            images[i], labels[i] = read(source, i, images.shape[1])

    with futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, range(0, len(source), _CHUNK)):
            pass
    return labels


def read(source: Source, index: int, side: int) -> tuple[np.ndarray, Any]:
    """Return the image of a record, decoded and resized to (side, side, 3) uint8, and the label.

    Raises:
      InputError: the image cannot be decoded; the message has its index.
    """
    return _decoded(source, index, functools.partial(resized_square, side=side))


def _decoded(
    source: Source, index: int, bring: Callable[[np.ndarray | bytes], np.ndarray]
) -> tuple[np.ndarray, Any]:
    """Return the image of a record, decoded and resized by a function, and the label.

    Raises:
      InputError: the image cannot be decoded; the message has its index.
    """
    record = source[index]
    try:
        return bring(record["image"]), record["label"]
    except (OSError, ValueError) as error:
        raise InputError(f"image {index} of the source cannot be decoded: {error}") from error
