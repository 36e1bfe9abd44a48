"""Crops of scikit-learn's two sample photographs: a source that is far from characters."""

import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxparc.datasets.embedded import EmbeddedBuilder, Example

_ROWS, _COLUMNS = 2, 3  # parts of a photograph
_STRIPE = 42  # columns of pixels; a part of 213 has three for training and two for tests
_COUNTS = {"train": 200, "test": 80}  # crops of each part


class PhotoCrops(EmbeddedBuilder):
    """3,360 crops of two photographs, 32x32 pixels; the class is the part that a crop is from."""

    VERSION = tfds.core.Version("1.0.0")
    SIDE = 32
    NAMES = tuple(
        f"{photograph} {part}"
        for photograph in ("temple", "flower")
        for part in range(_ROWS * _COLUMNS)
    )

    def examples(self, split: str) -> Iterator[Example]:
        """Yield 200 train or 80 test crops of every part, from stripes that take turns."""
        from sklearn.datasets import load_sample_images

        rng = np.random.default_rng(["train", "test"].index(split))
        greys = [
            np.rint(photograph @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
            for photograph in load_sample_images().images
        ]
        parts = itertools.product(greys, range(_ROWS), range(_COLUMNS))
        for label, (grey, row, column) in enumerate(parts):
            height, width = grey.shape[0] // _ROWS, grey.shape[1] // _COLUMNS
            stripes = range(split == "test", width // _STRIPE, 2)
            for stripe in rng.choice(stripes, _COUNTS[split]):
                top = row * height + rng.integers(height - self.SIDE + 1)
                left = column * width + stripe * _STRIPE + rng.integers(_STRIPE - self.SIDE + 1)
                yield grey[top : top + self.SIDE, left : left + self.SIDE], label
