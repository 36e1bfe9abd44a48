"""Every image file of a set is decoded once, before anything else is done with the set."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from jaxparc import files, printing
from jaxparc.datasets import folders, images


def looked_at(
    name: str, title: str, place: str, paths: Sequence[Path], root: Path
) -> tuple[dict[str, str], str]:
    """Looks at every image of a set, unless nothing has changed since the last time.

    Args:
      name: the set's address.
      title: what it is called.
      place: where it lies.
      paths: of its images.
      root: the TFDS data folder, which keeps what is found.

    Returns:
      Path and reason of every image that cannot be read, and a hash of all files.
    """
    stamp = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()  # with its ctime, which no program sets, and with the permissions
            facts = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError:
            facts = "missing"
        stamp.update(os.fsencode(path) + f"\0{facts}\n".encode())
    key = hashlib.sha256(os.fsencode(place)).hexdigest()[:8]
    memory = root / "own" / f"{title}-{key}.json"
    try:
        known = files.read_sealed(memory)
        if known["stamp"] == stamp.hexdigest():
            _say_dark(name, *known["deep"])
            return dict(known["unreadable"]), known["content"]
    except (OSError, KeyError, files.DamagedFileError):
        pass  # not looked at yet
    looks = list(_looks(title, paths))
    flaws = {str(path): look.flaw for path, look in zip(paths, looks, strict=True) if look.flaw}
    content = hashlib.sha256("".join(look.digest for look in looks).encode()).hexdigest()
    largest = [look.largest for look in looks if look.largest is not None]
    deep = len(largest), max(largest, default=0)
    known = {"stamp": stamp.hexdigest(), "unreadable": flaws, "content": content, "deep": deep}
    if not any(look.may_pass for look in looks):
        # If it cannot be kept, they are looked at again next time.
        with contextlib.suppress(OSError):
            files.write_sealed(memory, known)
    _say_dark(name, *deep)
    return flaws, content


def _say_dark(name: str, count: int, largest: int) -> None:
    """Says that images seem to have fewer bits than the 16 that they are scaled from."""
    if count and largest < 2**15:
        folders.say(
            name,
            f"{count} images of 16 bits hold no value above {largest:,} and come out dark, as "
            f"65,535 is white: if they have {largest.bit_length()} bits, scale them",
        )


class _Look(NamedTuple):
    """What is found in a file.

    Attributes:
      flaw: why it cannot be read, "" if it can.
      digest: a hash of it.
      largest: of 16 bits, the largest value.
      may_pass: whether the flaw is not one of the file, so that it may be read next time.
    """

    flaw: str = ""
    digest: str = ""
    largest: int | None = None
    may_pass: bool = False


def _looks(title: str, paths: Sequence[Path]) -> Iterator[_Look]:
    """Decodes every image, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from track(
            pool.map(_look, paths),
            description=f"Reading {title}",
            total=len(paths),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
    finally:  # an interrupt does not wait for the rest
        pool.shutdown(cancel_futures=True)


def _look(path: Path) -> _Look:
    try:
        images.require(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        may_pass = not isinstance(error, FileNotFoundError)
        return _Look(printing.reason(error), may_pass=may_pass)
    except ValueError as error:
        return _Look(str(error).removeprefix(f"{path} "))
    try:
        image = images.open_rgb(path, side=1)
    except (OSError, ValueError) as error:
        return _Look(printing.reason(error), digest)
    except MemoryError:
        return _Look("too little memory to decode it", digest, may_pass=True)
    return _Look("", digest, image.info.get("largest"))
