"""Fine-tuned models: weights in a file that says how to use them.

`jaxparc finetune` writes such files. Their header has, besides what `weights.native` saves, the
names of the classes, the preprocessing, and how the model was trained and tested.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxparc import extraction, printing, weights
from jaxparc.datasets import images as image_files
from jaxparc.errors import InputError
from jaxparc.geometry import Geometry
from jaxparc.preprocessing import central_crop
from jaxparc.training import decoding
from jaxparc.weights import WeightsError, native

KEY = "finetuned"  # of the header's entry
INTERPOLATION = "bilinear"


@dataclasses.dataclass(frozen=True, eq=False)
class Finetuned:
    """A fine-tuned model.

    Attributes:
        loaded: the network, its weights, and the mean and std of its images.
        classes: names of the c classes, in the order of the probabilities.
        size: height and width of its input, in pixels.
        multi_label: whether an image may have several classes.
        target: the data set that it was fine-tuned on, as `datasets.load` takes it.
        about: how it was trained and tested, as the file has it: `learning_rate`, `steps`,
            `accuracy` and others.
    """

    loaded: weights.Loaded
    classes: tuple[str, ...]
    size: int
    multi_label: bool = False
    target: str = ""
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Accuracy on the test images of the target, in percent; None if it was not measured."""
        return self.about.get("accuracy")

    def apply(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        """Classify images that have the size of the network's input.

        Args:
            images: (b, size, size, 3) uint8 RGB: an array, or anything that returns rows when
                sliced.
            batch_size: images per batch, over all local devices.

        Returns:
            (b, c) float32 probabilities, which add up to 1 for each image unless `multi_label`.

        Raises:
            InputError: the images have another shape or dtype.
        """
        if isinstance(images, np.ndarray | jax.Array):
            expected = (self.size, self.size, 3)
            if images.shape[1:] != expected or images.dtype != np.uint8 or not len(images):
                raise InputError(
                    f"images are {images.dtype} {images.shape}; expected uint8 "
                    f"(b, {self.size}, {self.size}, 3), or `predict` for images of any size"
                )
        # `extract` would return the softmax of logits: of several classes, that is wrong.
        logits = extraction.extract(
            lambda batch: self._network(batch)[1], images, batch_size=batch_size, jit=False
        ).features
        if self.multi_label:
            return np.asarray(jax.nn.sigmoid(logits))
        return np.asarray(jax.nn.softmax(logits))

    __call__ = apply

    def predict(self, images: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
        """Classify images of any size, preprocessed like the test images of the training.

        Args:
            images: n images: paths, encoded bytes, or (h, w, 3) or (h, w) uint8.
            batch_size: images per batch, over all local devices.

        Returns:
            (n, c) float32 probabilities, as those of `apply`.

        Raises:
            InputError: an image cannot be read; the message has its path, or its index.
        """
        found = crops(images, self.size)
        for index, crop in enumerate(found):
            if isinstance(crop, Exception):
                image = images[index]
                name = image if isinstance(image, str | Path) else f"image {index}"
                raise InputError(f"{name} cannot be read: {printing.reason(crop)}") from crop
        return self.apply(np.stack(found), batch_size=batch_size)

    @functools.cached_property
    def _network(self) -> Callable[[np.ndarray], tuple[jax.Array, ...]]:
        spec = self.loaded.spec
        return extraction.compile_network(
            self.loaded.module,
            self.loaded.variables,
            mean=spec.mean,
            std=spec.std,
            dtype=np.dtype(np.float32),  # as it was trained
        )

    def facts(self) -> dict[str, Any]:
        """Return what the file records besides the network: classes, preprocessing, `about`."""
        return {
            "classes": list(self.classes),
            "num_classes": len(self.classes),
            "size": self.size,
            "resized": decoding.resized(self.size),
            "interpolation": INTERPOLATION,
            "multi_label": self.multi_label,
            "target": self.target,
            **self.about,
        }

    def with_facts(self, **facts: Any) -> "Finetuned":
        """Return the same model with more entries of `about`."""
        return dataclasses.replace(self, about={**self.about, **facts})

    def header(self) -> dict[str, Any]:
        """Return the entry of the file's header, as `native.save` takes it."""
        return {KEY: self.facts()}


def crops(images: Sequence[Any], size: int) -> list[Any]:
    """Return the central crops of images: (size, size, 3) uint8, or the error of one that failed.

    Args:
        images: as `Finetuned.predict` takes them.
        size: side of the crops, in pixels.
    """
    with futures.ThreadPoolExecutor(decoding.THREADS) as pool:
        return list(pool.map(functools.partial(_crop, size), images))


def _crop(size: int, image: Any) -> Any:
    try:
        if isinstance(image, str | Path):
            image = image_files.encoded(image)
        elif not isinstance(image, bytes):
            image = np.asarray(image)
            if image.dtype != np.uint8 or image.ndim not in (2, 3):
                raise InputError(f"it is {image.dtype} {image.shape}; expected uint8 (h, w, 3)")
            image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
        return central_crop(image, Geometry(size))
    except (OSError, ValueError) as error:
        return error


def load_finetuned(path: str | Path) -> Finetuned:
    """Load a model that `jaxparc finetune` wrote.

    Args:
        path: the .safetensors file.

    Raises:
        InputError: the file is damaged, or does not record its classes and preprocessing, as files
            of `convert` and of other libraries do not.
        OSError: it cannot be read.
    """
    facts = read_facts(path)
    if facts is None:
        raise InputError(
            f"{path} does not record classes and preprocessing; expected a file that `jaxparc "
            "finetune` wrote"
        )
    loaded = weights.load(None, path)
    classes = tuple(facts["classes"])
    if len(classes) != loaded.module.num_classes:
        raise WeightsError(
            f"{path}: the head has {loaded.module.num_classes} classes, and the header names "
            f"{len(classes)}"
        )
    given = {"classes", "num_classes", "size", "resized", "interpolation", "multi_label", "target"}
    about = {key: value for key, value in facts.items() if key not in given}
    return Finetuned(loaded, classes, facts["size"], facts["multi_label"], facts["target"], about)


def read_facts(path: str | Path) -> dict[str, Any] | None:
    """Return what `Finetuned.header` wrote, without reading weights; None if not ours.

    Raises:
        WeightsError: the file is damaged, or an entry is wrong.
        OSError: it cannot be read.
    """
    header = native.read_header(Path(path))
    facts = None if header is None else header.get(KEY)
    if not isinstance(facts, dict):
        return None
    for key, (fits, expected) in _ENTRIES.items():
        if not fits(facts.get(key)):
            shown = str(facts.get(key))[:60]
            raise WeightsError(f"{path}: {key} is {shown} in the header; expected {expected}")
    return facts


_ENTRIES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "classes": (
        lambda x: isinstance(x, list) and len(x) > 1 and all(isinstance(one, str) for one in x),
        "a list of at least two names",
    ),
    "size": (
        lambda x: isinstance(x, int) and not isinstance(x, bool) and 0 < x <= 10**4,
        "an integer from 1 to 10000",
    ),
    "interpolation": (lambda x: x == INTERPOLATION, INTERPOLATION),
    "multi_label": (lambda x: isinstance(x, bool), "true or false"),
    "target": (lambda x: isinstance(x, str), "a string"),
}
