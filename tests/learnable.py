"""A network and images that it learns in a few steps."""

import numpy as np

from jaxparc import models, parallel
from jaxparc.training import batches, decoding
from jaxparc.training.decoding import Decoded
from jaxparc.training.steps import Task

SIZE = 16


def task_of(name="resnet18", num_classes=5, **fields):
    spec = models.get(name)
    module = spec.module(
        num_classes=num_classes, width=0.0625, stem="small", axis_name=parallel.AXIS, **fields
    )
    return Task(module, spec.mean, spec.std)


def source_of(n=72, num_classes=5, seed=0):
    """Images whose class is their brightest quarter: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    side = decoding.resized(SIZE)
    images = rng.integers(0, 100, (n, side, side, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label) % 4, 2)
        half = side // 2
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 100
        if label >= 4:
            image[:] = 255 - image
    return Decoded(images, labels.tolist())


def batches_of(source, batch_size):
    return list(batches.batches(source, batch_size=batch_size, size=SIZE, train=True, seed=3))


def without_index(batch):
    return {k: batch[k] for k in ("image", "label", "mask")}
