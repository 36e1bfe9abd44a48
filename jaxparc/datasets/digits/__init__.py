"""scikit-learn's handwritten digits."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxparc.datasets.embedded import EmbeddedBuilder, Example
from jaxparc.sampling import held_out


class Digits(EmbeddedBuilder):
    """1,797 handwritten digits of 8x8 pixels, from scikit-learn."""

    VERSION = tfds.core.Version("1.0.0")
    SIDE = 8
    NAMES = "0123456789"

    def examples(self, split: str) -> Iterator[Example]:
        """Yield 1,297 train or 500 test images, stratified by class."""
        from sklearn.datasets import load_digits

        data = load_digits()
        test = held_out(data.target, 500, seed=0)
        # Pixels are integers from 0 to 16; scaling by 255 / 16 leaves fractions, which are rounded.
        images = np.rint(data.images * (255 / 16)).astype(np.uint8)
        for i in np.nonzero(test == (split == "test"))[0]:
            yield images[i], data.target[i]
