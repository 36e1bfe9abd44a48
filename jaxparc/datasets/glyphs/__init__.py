"""Letters and digits of printed fonts, distorted; train and test fonts share no family."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxparc.datasets.embedded import EmbeddedBuilder, Example
from jaxparc.datasets.glyphs import render


class GlyphLetters(EmbeddedBuilder):
    """3,640 capital letters of 22 fonts, distorted, 32x32 pixels."""

    VERSION = tfds.core.Version("1.0.0")
    SIDE = render.SIDE
    NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

    def examples(self, split: str) -> Iterator[Example]:
        """Yield 100 train or 40 test images of every letter."""
        return draw(self.NAMES, split, {"train": 100, "test": 40}[split])


class GlyphDigits(EmbeddedBuilder):
    """2,800 digits of 22 fonts, distorted, 32x32 pixels."""

    VERSION = tfds.core.Version("1.0.0")
    SIDE = render.SIDE
    NAMES = "0123456789"

    def examples(self, split: str) -> Iterator[Example]:
        """Yield 200 train or 80 test images of every digit."""
        return draw(self.NAMES, split, {"train": 200, "test": 80}[split])


def draw(characters: str, split: str, count: int) -> Iterator[Example]:
    """Yield `count` images of each character, with the split's fonts about equally often."""
    fonts = render.font_files(split)
    rng = np.random.default_rng([len(characters), render.SPLITS.index(split)])
    for label, character in enumerate(characters):
        shapes = [render.shape_of(character, font) for font in fonts]
        for i in rng.permutation(count):
            yield render.distort(shapes[i % len(shapes)], rng), label
