"""The base of our TFDS builders for images that an installed package ships or draws.

Nothing is downloaded and TensorFlow is not needed: TFDS gets PIL images and stores them as PNG in
array_record files.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

Example = tuple[np.ndarray, int]
"""A grey image, (h, w) uint8, and its class."""


class EmbeddedBuilder(tfds.core.GeneratorBasedBuilder):
    """Grey images of one size with one label each, in the splits train and test.

    A subclass defines VERSION, SIDE, NAMES and `examples`; VERSION rises when its images change.
    """

    SIDE: ClassVar[int]
    NAMES: ClassVar[Sequence[str]]

    # Called once per example, to show progress.
    on_example: Callable[[], object] = staticmethod(lambda: None)

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[Example]:
        """Yield the images and labels of a split, deterministically."""

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
