"""The base of our own TFDS builders: images that an installed package carries or draws.

Nothing is downloaded and TensorFlow is not needed: images are handed to TFDS as PIL images
and stored as PNG in array_record files.
"""

import abc
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

Example = tuple[np.ndarray, int]
"""A grey uint8 (h, w) image and its class."""


class EmbeddedBuilder(tfds.core.GeneratorBasedBuilder):
    """Grey images of one size with one label each, in the splits train and test.

    A subclass gives VERSION, SIDE, NAMES and `examples`; raise VERSION when its images change.
    """

    SIDE: ClassVar[int]
    NAMES: ClassVar[str]

    # Called once per example, so that whoever prepares the set can show how far it is.
    on_example: Callable[[], object] = staticmethod(lambda: None)

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[Example]:
        """Yields the images and labels of one split, the same ones every time."""

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(self.SIDE, self.SIDE, 1), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=list(self.NAMES)),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (image, label) in enumerate(self.examples(split)):
            self.on_example()
            yield key, {"image": Image.fromarray(image), "label": int(label)}
