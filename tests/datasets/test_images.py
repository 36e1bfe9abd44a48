import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxparc.datasets import images

U16 = np.array([[0, 257, 25700, 65535]], np.uint16)


def encoded(image, name, **options):
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def tiff(pixels, bits, *, form=1, photometric=1, order="<", extra=(), data=None, tile=None):
    """A TIFF without compression, of whatever kind; its tags are those of the specification."""
    height, width, samples = *pixels.shape[:2], pixels.shape[2] if pixels.ndim == 3 else 1
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes() if data is None else data
    tags = {256: (width,), 257: (height,), 258: (bits,) * samples, 259: (1,), 262: (photometric,)}
    tags |= {277: (samples,), 339: (form,) * samples}
    tags |= {338: extra} if extra else {}
    if tile:
        tags |= {322: (tile[0],), 323: (tile[1],), 324: (8,), 325: (len(data),)}
    else:
        tags |= {273: (8,), 278: (height,), 279: (len(data),)}
    start = 8 + len(data) + len(data) % 2
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    entries, further = b"", b""
    for tag in sorted(tags):
        values = struct.pack(f"{order}{len(tags[tag])}I", *tags[tag])
        where = start + 6 + 12 * len(tags) + len(further)
        entries += struct.pack(f"{order}HHI", tag, 4, len(tags[tag]))
        entries += values if len(values) == 4 else struct.pack(f"{order}I", where)
        further += values if len(values) > 4 else b""
    count, last = struct.pack(f"{order}H", len(tags)), bytes(4)
    return (head + data).ljust(start, b"\0") + count + entries + last + further


def png(bits, colour, width, height, rows):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def first(data):
    """The first channel of the first row."""
    return np.asarray(images.open_rgb(data))[0, :, 0].tolist()


# What has a known range is scaled


@pytest.mark.parametrize("order", "<>")
def test_16_bits_are_scaled(order):
    image = images.open_rgb(tiff(U16, 16, order=order))
    assert np.asarray(image)[0].tolist() == [[v, v, v] for v in (0, 1, 100, 255)]
    assert image.info["largest"] == 65535


def test_every_16_bit_value_is_rounded_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = np.asarray(images.open_rgb(encoded(Image.fromarray(values), "PNG")))
    expected = np.rint(values.astype(np.float64) / 257)
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, 2))


def test_12_bits_are_scaled_by_the_depth_that_the_file_states():
    packed = bytes([0x00, 0x0F, 0xFF, 0x00, 0x18, 0x00])  # 0, 4095, 1, 2048
    image = images.open_rgb(tiff(np.zeros((1, 4), np.uint8), 12, data=packed))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 255, 0, 128]
    assert "largest" not in image.info
    for head in (b"P5 4 1 4095\n", b"P5\n# comment\n4 1\n4095\n"):
        values = np.array([0, 4095, 1, 2048], ">u2").tobytes()
        assert first(head + values) == [0, 255, 0, 128]


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_grey_of_which_0_is_white_is_inverted_at_any_depth(bits, dtype):
    pixels = np.array([[0, 0.2, 1]]) * (2**bits - 1)
    assert first(tiff(pixels.astype(dtype), bits, photometric=0)) == [255, 204, 0]


def test_colour_of_16_bits_keeps_its_range():
    rows = b"\0" + struct.pack(">6H", 383, 384, 511, 65535, 0, 25700)
    image = images.open_rgb(png(16, 2, 2, 1, rows))
    assert np.asarray(image).tolist() == [[[1, 1, 1], [255, 0, 100]]]
    assert image.info["largest"] == 65535
    dark = images.open_rgb(tiff(np.full((1, 2, 3), 4000, np.uint16), 16, photometric=2))
    assert 4000 <= dark.info["largest"] < 4096
    grey = Image.fromarray(np.array([[0, 100, 200]], np.uint8))
    assert images.open_rgb(encoded(grey, "SGI", bpc=2)).info["largest"] // 256 == 200


def test_transparency_is_dropped_and_not_warned_of():
    grey = Image.fromarray(np.array([[0, 100, 200, 255]], np.uint8))
    palette = grey.convert("P")
    palette.putpalette([i // 3 for i in range(768)])
    for image, transparency in ((palette, bytes(range(0, 256))), (palette, 1), (grey, 100)):
        assert first(encoded(image, "PNG", transparency=transparency)) == [0, 100, 200, 255]


def test_grey_that_was_multiplied_by_its_transparency_is_divided_by_it():
    pair = np.array([[[60, 120], [10, 255]]], np.uint8)
    try:
        assert first(tiff(pair, 8, extra=(1,))) == [60 * 255 // 120, 10]
    except OSError:
        pytest.skip("this Pillow does not read it")


@pytest.mark.parametrize(("photometric", "pixel"), [(5, (0, 0, 0, 127)), (8, (128, 0, 0))])
def test_other_colour_spaces_are_converted(photometric, pixel):
    data = tiff(np.tile(np.array(pixel, np.uint8), (2, 2, 1)), 8, photometric=photometric)
    assert np.ptp(np.asarray(images.open_rgb(data), int)) <= 1  # grey stays grey
    assert 115 <= first(data)[0] <= 130


# What has none is refused, with the range that it has


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("values", "form", "kind"),
    [
        (np.array([[-1000, 3000]], np.int16), 2, "signed 16-bit integers from -1000 to 3000"),
        (np.array([[-2, 3]], np.int8), 2, "signed 8-bit integers from -2 to 3"),
        (np.array([[0, 70000]], np.int32), 2, "signed 32-bit integers from 0 to 70000"),
        (np.array([[-0.5, 2]], np.float32), 3, "floating-point numbers from -0.5 to 2"),
    ],
)
def test_pixels_of_no_known_range_are_refused_with_what_was_found(order, values, form, kind):
    data = tiff(values, 8 * values.itemsize, form=form, order=order)
    with pytest.raises(
        ValueError, match=f"^its pixels are {kind}; expected 8 or 16 bits, unsigned$"
    ):
        images.open_rgb(data)


def test_unsigned_32_bits_are_refused_with_what_was_found():
    data = tiff(np.array([[1, 2**32 - 1]], np.uint32), 32)
    with pytest.raises(ValueError, match="unsigned 32-bit integers from 1 to 4294967295"):
        images.open_rgb(data)
    compressed = Image.fromarray(np.array([[-7, 70000]], np.int32))
    with pytest.raises(ValueError, match="signed 32-bit integers from -7 to 70000"):
        images.open_rgb(encoded(compressed, "TIFF", compression="tiff_lzw"))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_kinds_that_pillow_does_not_read_are_named(dtype):
    data = tiff(np.ones((1, 2), dtype), 8 * np.dtype(dtype).itemsize, form=3)
    with pytest.raises(OSError, match="^it is a damaged TIFF"):
        images.open_rgb(data)


# Only listed formats are opened


def test_every_listed_format_is_one_of_pillow_and_its_suffixes_are_known():
    Image.init()
    known = Image.registered_extensions()
    for name, suffixes in images.FORMATS.items():
        assert {known.get(suffix, name) for suffix in suffixes} <= {name, "MPO"}, name


def test_the_ending_of_a_format_is_one_that_is_read():
    image = Image.new("RGB", (4, 4))
    for name in ("JPEG", "PNG", "JPEG2000", "TIFF", "PPM", "WEBP"):
        assert images.suffix_of(encoded(image, name)) == images.FORMATS[name][0]
    mpo = encoded(image, "MPO", save_all=True, append_images=[image])
    assert images.suffix_of(mpo) == ".jpg"
    assert np.asarray(images.open_rgb(mpo)).shape == (4, 4, 3)


def test_postscript_is_not_given_to_another_program(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: started.append(a))
    file = tmp_path / "x.png"
    file.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    )
    for data in (file, file.read_bytes()):
        with pytest.raises(OSError, match="^it has an unknown format; known: (AVIF, )?BMP, "):
            images.open_rgb(data)
    assert not started


@pytest.mark.parametrize(
    "data", [b"", b"P", b"\n", b"no image", b"GIF89a", b"II*\0", b"P5 9 9 255\n"]
)
def test_what_is_no_image_is_an_oserror_or_valueerror(data):
    with pytest.raises((OSError, ValueError)):
        images.open_rgb(data)


@pytest.mark.parametrize("name", ["PNG", "TIFF", "JPEG", "GIF", "WEBP", "PPM", "BMP", "SGI", "PCX"])
def test_damaged_files_raise_nothing_else(name):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 11, 3), np.uint8)
    whole = encoded(Image.fromarray(pixels), name)
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(256)
        with contextlib.suppress(OSError, ValueError):
            images.open_rgb(bytes(data[: rng.integers(1, len(data) + 1)]))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"pipe\.png is a pipe; expected a file"):
        images.open_rgb(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"zero\.png is a device; expected a file"):
        images.encoded(tmp_path / "zero.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        ValueError, match=r"large\.png has 1,099,511,627,776 bytes; expected at most"
    ):
        images.encoded(tmp_path / "large.png")


# Bounds


@pytest.mark.parametrize("size", [(9460, 9459), (10000, 9000), (13300, 13300), (2**30, 2**30)])
def test_more_pixels_than_the_bound_are_refused_in_our_words(size):
    with pytest.raises(ValueError, match="^it has [0-9,]+ pixels; expected at most 89,478,485$"):
        images.open_rgb(png(16, 0, *size, b""))


def test_a_tile_larger_than_its_image_counts():
    data = tiff(np.zeros((4, 4), np.uint8), 8, tile=(20000, 20000))
    with pytest.raises(ValueError, match="^it has 400,000,000 pixels"):
        images.open_rgb(data)


def test_threads_share_the_bound(monkeypatch):
    shared = images._Shared(100)
    monkeypatch.setattr(images, "_PIXELS", shared)
    held, most, lock = [0], [0], threading.Lock()
    convert = images._rgb

    def counting(image):
        pixels = image.width * image.height
        with lock:
            held[0] += pixels
            most[0] = max(most[0], held[0])
        try:
            return convert(image)
        finally:
            with lock:
                held[0] -= pixels

    monkeypatch.setattr(images, "_rgb", counting)
    files = [encoded(Image.new("L", (size, size)), "PNG") for size in (3, 10, 5, 7, 2, 9, 6, 4)]
    threads = [
        threading.Thread(target=lambda: [images.open_rgb(file) for file in files * 5])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most[0] <= 100
    assert shared._free == 100  # also after failures:
    with pytest.raises(OSError, match="truncated"):
        images.open_rgb(encoded(Image.new("L", (10, 10)), "BMP")[:-20])
    assert shared._free == 100


def test_a_progressive_jpeg_counts_whole_and_another_as_it_is_decoded(monkeypatch):
    asked = []
    part = images._Shared.part
    monkeypatch.setattr(images._Shared, "part", lambda self, n: (asked.append(n), part(self, n))[1])
    for progressive in (False, True):
        data = encoded(Image.new("RGB", (80, 80)), "JPEG", progressive=progressive)
        assert images.open_square(data, 10).shape == (10, 10, 3)
    assert asked == [100, 6400]


def test_16_bits_take_a_few_bytes_a_pixel(tmp_path):
    file = tmp_path / "x.png"
    pixels = np.zeros((3000, 3000), np.uint16)
    Image.fromarray(pixels).save(file, compress_level=1)
    code = f"""
import resource
from jaxparc.datasets import images
images.open_rgb({encoded(Image.fromarray(U16), "PNG")!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images.open_rgb({str(file)!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 9e6)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 12
