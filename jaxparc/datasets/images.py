"""Encoded images to RGB pixels, the same way wherever one is opened."""

import contextlib
import functools
import io
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from jaxparc import files
from jaxparc.errors import InputError

# Of what Pillow reads, the formats that can be told by their first bytes (TGA cannot), that hold
# pixels, and that no other program decodes, as Ghostscript does PostScript.
FORMATS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "AVIF": (".avif", ".avifs"),
        "BMP": (".bmp",),
        "GIF": (".gif",),
        "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
        "PCX": (".pcx",),
        "PNG": (".png", ".apng"),
        "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
        "QOI": (".qoi",),
        "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
        "SUN": (".ras",),
        "TIFF": (".tif", ".tiff"),
        "WEBP": (".webp",),
    }
)
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Beyond this Pillow warns. One such image takes 0.5 GB as PNG and 1.4 GB as WebP.
MAX_PIXELS = 89_478_485
MAX_BYTES = 6 * MAX_PIXELS  # of colour at 16 bits, as it is

# Tags of TIFF.
_BITS, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 258, 262, 322, 323, 339
_UNSIGNED, _SIGNED = 1, 2


class _Shared:
    """An amount that threads share; who asks first is served first, so that none starves."""

    def __init__(self, amount: int):
        self._amount = amount
        self.give_back()

    def give_back(self) -> None:
        """Makes all of it free: in a process that was forked while others held parts."""
        self._free = self._amount
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextlib.contextmanager
    def part(self, amount: int) -> Iterator[None]:
        """Holds a part of it, as soon as that is free."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify()


_PIXELS = _Shared(MAX_PIXELS)  # that are decoded at one time
os.register_at_fork(after_in_child=_PIXELS.give_back)


def require(path: Path) -> None:
    """Refuses what would be read for ever; errors are those of `encoded`."""
    if (size := files.require_regular(path).st_size) > MAX_BYTES:
        raise InputError(f"{path} has {size:,} bytes; expected at most {MAX_BYTES:,}")


def encoded(path: str | Path) -> bytes:
    """Reads the file of an image.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is no regular file, or larger than an image can be; the message names it.
    """
    require(Path(path))
    return Path(path).read_bytes()


def suffix_of(data: bytes) -> str:
    """Returns the usual ending of an encoded image's name; errors are those of `open_rgb`."""
    with _failing():
        form = _opened(io.BytesIO(data)).format or ""
    return FORMATS["JPEG" if form == "MPO" else form][0]


def open_rgb(file: str | Path | bytes, *, side: int | None = None) -> Image.Image:
    """Opens and decodes an image whole, while all threads together decode MAX_PIXELS at most.

    Args:
        file: a path, or the encoded bytes.
        side: if every side will be shrunk to this many pixels anyway; a JPEG is then decoded at a
            half, quarter or eighth of its size, as long as no side falls below that.

    Returns:
        An RGB image; grey is repeated, 16 bits (or 12, where the file says so) scaled to 8,
        transparency dropped, and of an animation the first frame taken. Orientation tags are not
        looked at. Of 16 bits, `info["largest"]` is the largest value before it was scaled.

    Raises:
        OSError: it is not there, or is no image of FORMATS, or is cut off.
        ValueError: its pixels are of no known range, as numbers with a sign, of 32 bits or with a
            fraction are; or it has more than MAX_PIXELS, or is no regular file.
    """
    with _decoded(file, side) as image:
        return image


def open_square(file: str | Path | bytes, side: int) -> np.ndarray:
    """Opens and decodes an image as `open_rgb` does, and resizes it, averaging where it shrinks.

    Returns:
        (side, side, 3) uint8.
    """
    with _decoded(file, side) as image:
        return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


@contextlib.contextmanager
def _decoded(file: str | Path | bytes, side: int | None) -> Iterator[Image.Image]:
    if not isinstance(file, bytes):
        require(Path(file))
    with io.BytesIO(file) if isinstance(file, bytes) else Path(file).open("rb") as stream:
        with _failing():
            image = _opened(stream)
            pixels = image.width * image.height
            if image.format == "TIFF":  # a tile is decoded whole
                tags = image.tag_v2  # type: ignore[attr-defined]
                tile = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
                pixels = max(pixels, tile[0] * tile[1])
        if pixels > MAX_PIXELS:
            raise InputError(f"it has {pixels:,} pixels; expected at most {MAX_PIXELS:,}")
        if side is not None and image.format in ("JPEG", "MPO"):
            image.draft("RGB", (side, side))
            if "progressive" not in image.info:  # of which all is kept while it is decoded
                pixels = image.width * image.height
        with _PIXELS.part(pixels):
            with _failing():
                rgb = _rgb(image)
            yield rgb


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Whatever broken bytes make Pillow raise, as one of two kinds."""
    try:
        yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


@functools.cache
def _openers() -> dict[str, tuple[Any, Any]]:
    Image.init()
    return {name: Image.OPEN[name] for name in FORMATS if name in Image.OPEN}


def _opened(stream: BinaryIO) -> ImageFile.ImageFile:
    """What Image.open does, without its own bound, of which it warns."""
    start = stream.read(16)
    flaw = f"it is of no format that is read: {', '.join(_openers())}"
    for name, (opener, accepts) in _openers().items():
        stream.seek(0)
        try:
            if (accepted := accepts(start)) and not isinstance(accepted, str):
                return opener(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            flaw = f"it is {name} that cannot be read ({error})" if start else flaw
    raise OSError(flaw)


def _rgb(image: ImageFile.ImageFile) -> Image.Image:
    deep = any(mark in str(image.tile) for mark in (";16", "SGI16"))
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if image.mode == "F" or tags and (image.mode == "I" or _SIGNED in tags.get(_SAMPLE_FORMAT, ())):
        raise InputError(_unbounded(image, tags))
    if image.mode.startswith("I"):  # 0 to 65,535; Pillow's own conversion would clip them at 255
        values = np.asarray(image)
        bits = tags.get(_BITS, (16,))[0]
        inverted = bool(tags) and not tags.get(_PHOTOMETRIC, 0)
        largest = int(values.max())
        values = _eight_bits(values, bits, inverted)
        rgb = Image.fromarray(values).convert("RGB")
        return _noting(rgb, largest) if bits == 16 else rgb
    if image.mode == "La":  # multiplied by its transparency
        return image.convert("LA").convert("RGB")
    image.load()
    image.info.pop("transparency", None)  # which it would warn of
    rgb = image.convert("RGB")
    if deep and image.mode in ("L", "RGB", "RGBA"):  # of which Pillow has kept the upper half
        return _noting(rgb, 256 * int(np.max(rgb.getextrema())) + 255)
    return rgb


def _noting(image: Image.Image, largest: int) -> Image.Image:
    image.info["largest"] = largest
    return image


def _unbounded(image: Image.Image, tags: Mapping[int, tuple[int, ...]]) -> str:
    """What pixels are, of which nobody knows what is black and what is white."""
    values = np.asarray(image)
    if image.mode == "F":
        kind = "floating-point numbers"
    else:
        bits, signed = tags[_BITS][0], tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _SIGNED
        kind = f"{'signed' if signed else 'unsigned'} {bits}-bit integers"
        values = values.view(f"{'i' if signed else 'u'}{values.itemsize}")
    return (
        f"its pixels are {kind} from {values.min():.10g} to {values.max():.10g}, of no known range"
    )


def _eight_bits(values: np.ndarray, bits: int, inverted: bool) -> np.ndarray:
    """Scales (h, w) of `bits` bits to 8, row by row, as an index takes 8 bytes a pixel."""
    scaled = np.empty(values.shape, np.uint8)
    table = _table(bits)[:: -1 if inverted else 1]
    for row, deep in zip(scaled, values, strict=True):
        row[:] = table[deep]
    return scaled


@functools.cache
def _table(bits: int) -> np.ndarray:
    """Every value of `bits` bits, scaled to 8 and rounded."""
    most = 2**bits - 1
    return ((510 * np.arange(most + 1, dtype=np.uint32) + most) // (2 * most)).astype(np.uint8)
