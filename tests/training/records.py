"""Records of images for the tests of decoding and batches."""

import io

import numpy as np
from PIL import Image

SIZE = 14  # resized(14) is 16: a margin of 2, so nine possible crops


def square_source(n=37, side=16, seed=0):
    """Images that need no resizing, so crops can be found without PIL."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, side, side, 3), np.uint8)
    return [{"image": image, "label": i % 5} for i, image in enumerate(images)]


def odd_source(n=11):
    """Images of several shapes, some of them encoded."""
    rng = np.random.default_rng(1)
    records = []
    for i in range(n):
        image = rng.integers(0, 256, (20 + i, 45 - i, 3), np.uint8)
        if i % 2:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "png")
            records.append({"image": file.getvalue(), "label": i})
        else:
            records.append({"image": image, "label": i})
    return records


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
