"""A scan of a data set of image files: each is decoded once, and the result is cached."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import files, printing
from jaxparc.datasets import folders, images, stored


def scan(
    name: str, title: str, place: str, paths: Sequence[Path], root: Path
) -> tuple[dict[str, str], str]:
    """Decode every image of a data set, or return the cached result if no file has changed.

    Args:
      name: address of the data set.
      title: its short name, for the progress bar and the cache.
      place: its address without options.
      paths: of its images.
      root: the TFDS data folder, which holds the cache.

    Returns:
      Path -> reason for every image that cannot be decoded, and a hash of all files.
    """
    stamp = hashlib.sha256()
    for path in paths:
        try:
            status = (
                path.stat()
            )  # the ctime, which programs cannot set, also changes with permissions
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError:
            state = "missing"
        stamp.update(os.fsencode(path) + f"\0{state}\n".encode())
    key = hashlib.sha256(os.fsencode(place)).hexdigest()[:8]
    cache = root / "own" / f"{title}-{key}.json"
    try:
        known = files.read_sealed(cache)
        if known["stamp"] == stamp.hexdigest():
            _print_notes(name, known)
            return dict(known["unreadable"]), known["content"]
    except (OSError, KeyError, files.DamagedFileError):
        pass  # not scanned yet
    found = list(_decode_all(title, paths))
    flaws = {str(path): facts.flaw for path, facts in zip(paths, found, strict=True) if facts.flaw}
    content = hashlib.sha256("".join(facts.digest for facts in found).encode()).hexdigest()
    largest = [facts.largest for facts in found if facts.largest is not None]
    deep = len(largest), max(largest, default=0)
    decoded = [(p, one.stored) for p, one in zip(paths, found, strict=True) if one.stored]
    known = {
        "stamp": stamp.hexdigest(),
        "unreadable": flaws,
        "content": content,
        "deep": deep,
        "stored": stored.summary(decoded),
    }
    if not any(facts.transient for facts in found):
        # Without a cache, they are decoded again next time.
        with contextlib.suppress(OSError):
            files.write_sealed(cache, known)
    _print_notes(name, known)
    return flaws, content


def _print_notes(name: str, known: Mapping[str, Any]) -> None:
    """Print how images are stored if that differs a lot, or seems to be dark.

    Images that are dark may have fewer bits than the 16 from which they are scaled.
    """
    if text := stored.note(known["stored"]):
        folders.say(name, text)
    count, largest = known["deep"]
    if count and largest < 2**15:
        folders.say(
            name,
            f"{count} images of 16 bits have no value above {largest:,} and are dark, because "
            f"65,535 is white: if they have {largest.bit_length()} bits, scale them",
        )


class _Facts(NamedTuple):
    """What decoding an image file showed.

    Attributes:
      flaw: why it cannot be decoded; "" if it can.
      digest: SHA-256 of the file.
      largest: of images with 16 bits, the largest value.
      stored: how it is stored; None if it cannot be decoded.
      transient: whether the flaw is not the file's, so that it may be decoded next time.
    """

    flaw: str = ""
    digest: str = ""
    largest: int | None = None
    stored: images.Stored | None = None
    transient: bool = False


def _decode_all(title: str, paths: Sequence[Path]) -> Iterator[_Facts]:
    """Decode every image, with a progress bar on a terminal."""
    from rich.console import Console

    bar = printing.progress_bar(console=Console(stderr=True), transient=True)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with bar:
            yield from bar.track(
                pool.map(_decode, paths), total=len(paths), description=f"Reading {title}"
            )
    finally:  # an interrupt does not wait for pending images
        pool.shutdown(cancel_futures=True)


def _decode(path: Path) -> _Facts:
    try:
        images.require(path)
        digest = files.sha256(path)
    except OSError as error:
        transient = not isinstance(error, FileNotFoundError)
        return _Facts(printing.reason(error), transient=transient)
    except ValueError as error:
        return _Facts(str(error).removeprefix(f"{path} "))
    try:
        image = images.open_rgb(path, side=1)
    except (OSError, ValueError) as error:
        return _Facts(printing.reason(error), digest)
    except MemoryError:
        return _Facts("too little memory to decode it", digest, transient=True)
    return _Facts("", digest, image.info.get("largest"), image.info["stored"])
