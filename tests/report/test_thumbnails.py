"""Small pictures of a probe set."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from jaxparc.errors import InputError
from jaxparc.report import thumbnails
from jaxparc.report.thumbnails import Thumbnails


def shades(n, side=100):
    """Images of n shades of grey."""
    steps = np.arange(n, dtype=np.uint8) * (255 // n)
    return np.broadcast_to(steps[:, None, None, None], (n, side, side // 2, 3))


def shade_of(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (32, 64)
    return int(np.asarray(picture).mean().round())


def test_a_few_images_of_each_class_are_shown():
    labels = np.array([2, 0, 2, 2, 0, 2, 2, 2])
    found = thumbnails.thumbnails(shades(8), labels, "classes", ["cat", "dog", "<emu>"])
    assert [(group.caption, len(group.pictures)) for group in found.groups] == [
        ("cat (2)", 2),
        ("<emu> (6)", 4),
    ]
    assert found.note == ""
    shown = [shade_of(uri) for uri in found.groups[1].pictures]
    assert shown == pytest.approx([31 * i for i in (0, 2, 3, 5)], abs=2)
    text = found.html()
    assert "&lt;emu&gt; (6)" in text
    assert text.count("<img") == 6


def test_further_classes_are_counted_and_the_page_stays_small():
    labels = np.arange(1000) % 250
    noise = np.random.default_rng(0).integers(0, 255, (1000, 64, 64, 3), np.uint8)
    found = thumbnails.thumbnails(noise, labels, "classes")
    assert len(found.groups) == 10
    assert found.groups[3].caption == "class 3 (4)"
    assert found.note == "and 240 more classes"
    assert len(found.html()) < 300_000  # of noise, which JPEG does not compress


def test_images_of_several_classes_are_shown_with_each():
    labels = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1]], np.float32)
    found = thumbnails.thumbnails(shades(3), labels, "multi_label", ["a", "b", "c"])
    assert [(group.caption, len(group.pictures)) for group in found.groups] == [
        ("a (2)", 2),
        ("c (2)", 2),
    ]


def test_images_with_numbers_are_sorted_and_captioned_by_them():
    labels = np.array([[3.25], [-1], [10], [7]])
    found = thumbnails.thumbnails(shades(4), labels, "values")
    assert [group.caption for group in found.groups] == ["-1", "3.25", "7", "10"]
    assert [shade_of(group.pictures[0]) for group in found.groups] == pytest.approx(
        [63, 0, 189, 126], abs=2
    )
    many = thumbnails.thumbnails(shades(100), np.arange(100.0), "values")
    assert len(many.groups) == 12
    assert (many.groups[0].caption, many.groups[-1].caption) == ("0", "99")
    two = thumbnails.thumbnails(shades(1), np.array([[1.5, 2]]), "values")
    assert two.groups[0].caption == "1.5, 2"
    assert thumbnails.thumbnails(shades(1), np.array([[0.5]]), "vectors").groups[0].caption == ""


def test_images_that_cannot_be_decoded_are_left_out():
    class Broken:
        def __getitem__(self, rows):
            if rows.start in (0, 2):
                raise InputError("image 0 of the source cannot be decoded")
            return shades(6)[rows]

    found = thumbnails.thumbnails(Broken(), np.array([0, 0, 1, 0, 0, 0]), "classes")
    assert [(group.caption, len(group.pictures)) for group in found.groups] == [("class 0 (5)", 4)]


def test_nothing_to_show_is_nothing():
    assert Thumbnails().html() == ""
