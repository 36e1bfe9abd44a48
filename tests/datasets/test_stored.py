"""Notes on images of very different sizes, or of different channels."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_up import class_folders, picture
from PIL import Image

from jaxparc import datasets, files
from jaxparc.datasets import images, stored, user_images

RGB = images.Stored(12, 10, "RGB")
RESIZED = "all are resized to the input size of a network"


def note(*found):
    """Return the note on images a/0.png, a/1.png, ..., from a summary that was a JSON file."""
    named = [(Path(f"/f/a/{i}.png"), one) for i, one in enumerate(found)]
    return stored.note(json.loads(json.dumps(stored.summary(named))))


@pytest.mark.parametrize("channels", ["RGB", "grayscale", "alpha", "CMYK"])
def test_images_that_are_alike_have_no_note(channels):
    assert note(*[images.Stored(12, 10, channels)] * 3) == ""
    assert note() == ""


def test_sizes_are_noted_above_a_ratio():
    assert note(images.Stored(400, 100, "RGB"), images.Stored(50, 50, "RGB")) == ""
    assert note(RGB, images.Stored(401, 100, "RGB"), images.Stored(50, 50, "RGB")) == (
        f"images from 12x10 (a/0.png) to 401x100 pixels (a/1.png); {RESIZED}"
    )


def test_channels_are_noted_if_they_differ():
    gray, alpha = images.Stored(12, 10, "grayscale"), images.Stored(12, 10, "alpha")
    assert note(RGB, gray, alpha, gray) == (
        "of 4 images, 2 are grayscale (first: a/1.png), 1 has an alpha channel (first: a/2.png); "
        "all are read as RGB"
    )
    assert note(gray, images.Stored(12, 10, "CMYK")) == (
        "of 2 images, 1 is grayscale (first: a/0.png), 1 is CMYK (first: a/1.png); all are read "
        "as RGB"
    )


def test_both_are_one_note():
    assert note(RGB, images.Stored(1200, 1000, "grayscale")) == (
        f"images from 12x10 (a/0.png) to 1200x1000 pixels (a/1.png); {RESIZED}; of 2 images, 1 is "
        "grayscale (first: a/1.png); all are read as RGB"
    )


@pytest.mark.parametrize(
    ("mode", "suffix", "options", "channels"),
    [
        ("RGB", ".png", {}, "RGB"),
        ("RGB", ".jpg", {}, "RGB"),
        ("P", ".png", {}, "RGB"),
        ("L", ".png", {}, "grayscale"),
        ("L", ".jpg", {}, "grayscale"),
        ("1", ".png", {}, "grayscale"),
        ("I;16", ".png", {}, "grayscale"),
        ("LA", ".png", {}, "alpha"),
        ("RGBA", ".png", {}, "alpha"),
        ("RGBA", ".webp", {"lossless": True}, "alpha"),
        ("P", ".png", {"transparency": 0}, "alpha"),
        ("RGB", ".png", {"transparency": (0, 0, 0)}, "alpha"),
        ("CMYK", ".jpg", {}, "CMYK"),
    ],
)
def test_what_is_stored_is_known_after_decoding(mode, suffix, options, channels, tmp_path):
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(np.arange(640 * 480, dtype=np.uint16).reshape(480, 640))
    image = image if mode == "I;16" else picture(0, (640, 480)).convert(mode)
    if mode == "RGBA":
        image.putalpha(100)  # WebP stores no alpha channel of opaque images
    image.save(path, **options)
    # also if a JPEG is decoded at a part of its size
    for side in (None, 1):
        found = images.open_rgb(path, side=side).info["stored"]
        assert found == images.Stored(640, 480, channels)


def test_a_folder_is_noted_once_and_also_without_decoding_it_again(tmp_path, data_dir, capsys):
    root = class_folders(tmp_path / "f", {"a": 4, "b": 4})
    picture(0, mode="L").save(root / "b" / "gray.png")
    picture(0, (120, 100)).save(root / "b" / "large.png")
    (root / "b" / "broken.png").write_bytes(b"broken")
    name = f"folder:{root}:skip=1"
    line = (
        f"{name}: images from 12x10 (a/0.png) to 120x100 pixels (b/large.png); {RESIZED}; of 10 "
        "images, 1 is grayscale (first: b/gray.png); all are read as RGB\n"
    )
    for _ in range(2):
        user_images.open_set.cache_clear()
        for split in ("train", "test"):
            datasets.load(name, split, data_dir=data_dir)
        assert capsys.readouterr().err.count(line) == 1


def test_images_that_an_earlier_version_scanned_are_scanned_again(tmp_path, data_dir, capsys):
    root = class_folders(tmp_path / "f", {"a": 4, "b": 4})
    picture(0, mode="L").save(root / "b" / "gray.png")
    datasets.spec_of(f"folder:{root}", data_dir=data_dir)
    (cache,) = (data_dir / "own").glob("*.json")
    known = files.read_sealed(cache)
    files.write_sealed(cache, {key: x for key, x in known.items() if key != "stored"})
    capsys.readouterr()
    user_images.open_set.cache_clear()
    datasets.spec_of(f"folder:{root}", data_dir=data_dir)
    assert "1 is grayscale" in capsys.readouterr().err
    assert files.read_sealed(cache) == known
