"""Decoding of image files to RGB pixels."""

import contextlib
import functools
import io
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from jaxparc import files
from jaxparc.errors import InputError

# The formats of Pillow that their first bytes tell (not TGA's), that hold pixels, and that Pillow
# decodes itself (PostScript needs Ghostscript).
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

# Above this, Pillow warns. Decoding such an image takes 0.5 GB as PNG and 1.4 GB as WebP.
MAX_PIXELS = 89_478_485
MAX_BYTES = 6 * MAX_PIXELS  # uncompressed colour at 16 bits


class Stored(NamedTuple):
    """How an image is stored.

    Attributes:
        width: in pixels.
        height: in pixels.
        channels: "grayscale", "RGB" (or another colour space, or a palette), "CMYK" or, whatever
            else is stored, "alpha".
    """

    width: int
    height: int
    channels: str


# Tags of TIFF.
_BITS, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 258, 262, 322, 323, 339
_UNSIGNED, _SIGNED = 1, 2


class _Shared:
    """A semaphore with amounts: threads are served in the order of their requests."""

    def __init__(self, amount: int):
        self._amount = amount
        self.reset()

    def reset(self) -> None:
        """Free the whole amount, in a process that was forked while threads held parts."""
        self._free = self._amount
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextlib.contextmanager
    def part(self, amount: int) -> Iterator[None]:
        """Hold a part of the amount, as soon as it is free."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify()


_PIXELS = _Shared(MAX_PIXELS)  # that are decoded at the same time
os.register_at_fork(after_in_child=_PIXELS.reset)


def require(path: Path) -> None:
    """Check that a file is regular and has at most MAX_BYTES; exceptions are those of `encoded`."""
    if (size := files.require_regular(path).st_size) > MAX_BYTES:
        raise InputError(f"{path} has {size:,} bytes; expected at most {MAX_BYTES:,}")


def encoded(path: str | Path) -> bytes:
    """Read the file of an image, without decoding it.

    Raises:
        OSError: it does not exist or cannot be read.
        InputError: it is not a regular file, or has more than MAX_BYTES; the message names it.
    """
    require(Path(path))
    return Path(path).read_bytes()


def suffix_of(data: bytes) -> str:
    """Return the usual file extension for an encoded image; exceptions are those of `open_rgb`."""
    with _pillow_errors():
        form = _opened(io.BytesIO(data)).format or ""
    return FORMATS["JPEG" if form == "MPO" else form][0]


def open_rgb(file: str | Path | bytes, *, side: int | None = None) -> Image.Image:
    """Decode an image. All threads together decode at most MAX_PIXELS at a time.

    Args:
        file: a path, or the encoded bytes.
        side: the number of pixels to which the caller will shrink every side, if any; a JPEG is
            then decoded at 1/2, 1/4 or 1/8 of its size, as long as no side falls below it.

    Returns:
        An RGB image: grey is repeated, 16 bits (or 12, if the file declares them) are scaled to 8,
        transparency is dropped, and animations give their first frame. Orientation tags are
        ignored. `info["stored"]` is a `Stored`. For 16 bits, `info["largest"]` is the largest value
        before scaling.

    Raises:
        OSError: it does not exist, has none of FORMATS, or is truncated.
        InputError: the range of its pixels is unknown (signed, 32-bit or floating-point numbers),
            or it has more than MAX_PIXELS, or is not a regular file.
    """
    with _decoded(file, side) as image:
        return image


def open_square(
    file: str | Path | bytes, side: int, method: int = Image.Resampling.BILINEAR
) -> np.ndarray:
    """Decode an image as `open_rgb` does, and resize it, with antialiasing.

    Args:
        file: a path, or the encoded bytes.
        side: in pixels.
        method: of interpolation.

    Returns:
        (side, side, 3) uint8.
    """
    with _decoded(file, side) as image:
        return np.asarray(image.resize((side, side), method))


@contextlib.contextmanager
def _decoded(file: str | Path | bytes, side: int | None) -> Iterator[Image.Image]:
    if not isinstance(file, bytes):
        require(Path(file))
    with io.BytesIO(file) if isinstance(file, bytes) else Path(file).open("rb") as stream:
        with _pillow_errors():
            image = _opened(stream)
            stored = Stored(*image.size, _channels(image))
            pixels = image.width * image.height
            if image.format == "TIFF":  # tiles are decoded whole
                tags = image.tag_v2  # type: ignore[attr-defined]
                tile = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
                pixels = max(pixels, tile[0] * tile[1])
        if pixels > MAX_PIXELS:
            raise InputError(f"it has {pixels:,} pixels; expected at most {MAX_PIXELS:,}")
        if side is not None and image.format in ("JPEG", "MPO"):
            image.draft("RGB", (side, side))
            if (
                "progressive" not in image.info
            ):  # those are held at full size while they are decoded
                pixels = image.width * image.height
        with _PIXELS.part(pixels):
            with _pillow_errors():
                rgb = _rgb(image)
            rgb.info["stored"] = stored
            yield rgb


@contextlib.contextmanager
def _pillow_errors() -> Iterator[None]:
    """Turn whatever Pillow raises on broken bytes into an OSError or a ValueError."""
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
    """Open an image as Image.open does, without its check of the number of pixels, which warns."""
    start = stream.read(16)
    flaw = f"it has an unknown format; known: {', '.join(_openers())}"
    for name, (opener, accepts) in _openers().items():
        stream.seek(0)
        try:
            if (accepted := accepts(start)) and not isinstance(accepted, str):
                return opener(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            flaw = f"it is a damaged {name} ({error})" if start else flaw
    raise OSError(flaw)


def _channels(image: Image.Image) -> str:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return "alpha"
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return "grayscale"
    return "CMYK" if image.mode == "CMYK" else "RGB"


def _rgb(image: ImageFile.ImageFile) -> Image.Image:
    deep = any(mark in str(image.tile) for mark in (";16", "SGI16"))
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if image.mode == "F" or tags and (image.mode == "I" or _SIGNED in tags.get(_SAMPLE_FORMAT, ())):
        raise InputError(_unknown_range(image, tags))
    if image.mode.startswith("I"):  # 0 to 65,535, which Pillow's conversion would clip at 255
        values = np.asarray(image)
        bits = tags.get(_BITS, (16,))[0]
        inverted = bool(tags) and not tags.get(_PHOTOMETRIC, 0)
        largest = int(values.max())
        values = _eight_bits(values, bits, inverted)
        rgb = Image.fromarray(values).convert("RGB")
        return _with_largest(rgb, largest) if bits == 16 else rgb
    if image.mode == "La":  # premultiplied alpha
        return image.convert("LA").convert("RGB")
    image.load()
    image.info.pop("transparency", None)  # of which convert would warn
    rgb = image.convert("RGB")
    if deep and image.mode in ("L", "RGB", "RGBA"):  # of which Pillow keeps the upper byte
        return _with_largest(rgb, 256 * int(np.max(rgb.getextrema())) + 255)
    return rgb


def _with_largest(image: Image.Image, largest: int) -> Image.Image:
    image.info["largest"] = largest
    return image


def _unknown_range(image: Image.Image, tags: Mapping[int, tuple[int, ...]]) -> str:
    """Return an error message for pixels whose black and white are unknown."""
    values = np.asarray(image)
    if image.mode == "F":
        kind = "floating-point numbers"
    else:
        bits, signed = tags[_BITS][0], tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _SIGNED
        kind = f"{'signed' if signed else 'unsigned'} {bits}-bit integers"
        values = values.view(f"{'i' if signed else 'u'}{values.itemsize}")
    return (
        f"its pixels are {kind} from {values.min():.10g} to {values.max():.10g}; expected 8 or 16 "
        "bits, unsigned"
    )


def _eight_bits(values: np.ndarray, bits: int, inverted: bool) -> np.ndarray:
    """Scale (h, w) of `bits` bits to 8, row by row, because indexing takes 8 bytes per pixel."""
    scaled = np.empty(values.shape, np.uint8)
    table = _table(bits)[:: -1 if inverted else 1]
    for row, deep in zip(scaled, values, strict=True):
        row[:] = table[deep]
    return scaled


@functools.cache
def _table(bits: int) -> np.ndarray:
    """Return every value of `bits` bits, scaled to 8 bits and rounded."""
    most = 2**bits - 1
    return ((510 * np.arange(most + 1, dtype=np.uint32) + most) // (2 * most)).astype(np.uint8)
