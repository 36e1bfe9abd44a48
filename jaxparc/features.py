"""What a network sees in images: features and class probabilities."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxparc import input as input_
from jaxparc import parallel, train


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some records of a source, in the order of their indices."""

    source: input_.Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class _Unlabelled:
    """The images of a source, whatever form its labels have."""

    source: input_.Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return {"image": self.source[index]["image"], "label": 0}


def extract(
    task: train.Task,
    variables: train.Variables,
    source: input_.Source,
    *,
    size: int,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Features and class probabilities of every image, in inference mode.

    Args:
        task: the network.
        variables: its weights.
        source: n images.
        size: side of the images, in pixels.
        batch_size: of all devices together.

    Returns:
        (n, d) float32, the input of the last linear layer, and (n, z) float32, the softmax of its
        output (also for multi-label networks).
    """
    step = _compiled_look(task)
    unlabelled = _Unlabelled(source)
    batches = input_.batches(unlabelled, batch_size=batch_size, size=size, train=False)
    rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for batch in batches:
        shares = parallel.shard({"image": batch["image"]})
        for kept, output in zip(rows, jax.device_get(step(variables, shares)), strict=True):
            # Every device's rows come back whole, in order; the padding of the last batch goes.
            kept.append(output.reshape(batch_size, -1)[batch["mask"]])
    return np.concatenate(rows[0]), np.concatenate(rows[1])


def look(
    task: train.Task, variables: train.Variables, batch: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Features (devices, b, d) and probabilities (devices, b, z) of all devices' shares."""
    images = train.normalise(batch["image"], task)
    logits, activations = task.module.apply(variables, images)
    seen = activations["features"], jax.nn.softmax(logits)
    return jax.lax.all_gather(seen, parallel.AXIS)


@functools.lru_cache(maxsize=32)
def _compiled_look(task: train.Task) -> Callable[..., tuple[Array, Array]]:
    return parallel.data_parallel(functools.partial(look, task), (None, 0))
