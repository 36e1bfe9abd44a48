"""Resizing and cropping, compared with Pillow step by step."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxparc.errors import InputError
from jaxparc.geometry import INTERPOLATIONS, Geometry
from jaxparc.preprocessing import central_crop


def picture(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("width", "height", "size", "crop", "resized", "corner"),
    [
        (300, 200, 32, 0.875, (54, 36), (11, 2)),
        (200, 301, 32, 0.875, (36, 54), (2, 11)),
        (40, 50, 32, 1.0, (32, 40), (0, 4)),
        (64, 64, 30, 0.9, (33, 33), (2, 2)),  # an odd margin: 1.5 is rounded to even
        (20, 21, 24, 0.95, (25, 26), (0, 1)),
    ],
)
def test_the_shorter_side_is_resized(width, height, size, crop, resized, corner, interpolation):
    image = picture(width, height)
    left, top = corner
    expected = image.resize(resized, INTERPOLATIONS[interpolation])
    expected = expected.crop((left, top, left + size, top + size))
    geometry = Geometry(size, crop, "shortest", interpolation)
    np.testing.assert_array_equal(central_crop(np.asarray(image), geometry), expected)
    np.testing.assert_array_equal(central_crop(encoded(image, "PNG"), geometry), expected)


@pytest.mark.parametrize(("crop", "side"), [(0.875, 36), (1.0, 32), (0.9, 36), (0.95, 34)])
def test_images_are_squashed_with_equal_margins(crop, side):
    image = picture(90, 50)
    geometry = Geometry(32, crop, "squash", "bicubic")
    assert geometry.resized == side
    margin = (side - 32) // 2
    expected = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    expected = expected[margin : margin + 32, margin : margin + 32]
    np.testing.assert_array_equal(central_crop(np.asarray(image), geometry), expected)


def test_a_jpeg_is_decoded_smaller_only_where_that_makes_no_difference():
    image = picture(1200, 900)
    data = encoded(image, "JPEG", quality=95)
    geometry = Geometry(64, 0.875, "shortest", "bicubic")
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    found = central_crop(data, geometry).astype(int)
    assert np.abs(found - central_crop(whole, geometry)).max() <= 2


def test_an_image_that_resizing_would_make_too_large():
    thin = np.zeros((1, 80_000, 3), np.uint8)
    with pytest.raises(InputError, match="80000x1 pixels, too thin to be resized"):
        central_crop(thin, Geometry(224, 1.0, "shortest"))
