"""What a network sees in images: features and class probabilities."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxparc import parallel
from jaxparc.models import inference
from jaxparc.training import batches as input_
from jaxparc.training import steps as train


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
    dtype: DTypeLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features and class probabilities of every image, in inference mode.

    Args:
        task: the network.
        variables: its weights.
        source: n images.
        size: side of the images, in pixels.
        batch_size: of all devices together.
        dtype: as `ready` takes it.

    Returns:
        (n, d) float32, the input of the last linear layer, and (n, z) float32, the softmax of its
        output (also for multi-label networks).
    """
    see = ready(task, variables, dtype)
    unlabelled = _Unlabelled(source)
    batches = input_.batches(unlabelled, batch_size=batch_size, size=size, train=False)
    rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for batch in batches:
        for kept, output in zip(rows, jax.device_get(see(batch["image"])), strict=True):
            # Every device's rows come back whole, in order; the padding of the last batch goes.
            kept.append(output.reshape(batch_size, -1)[batch["mask"]])
    return np.concatenate(rows[0]), np.concatenate(rows[1])


def ready(
    task: train.Task, variables: train.Variables, dtype: DTypeLike | None = None
) -> Callable[[np.ndarray], tuple[Array, Array]]:
    """A network on all devices, prepared for inference.

    Args:
        task: the network.
        variables: its weights.
        dtype: of the computation; by default the network's on a CPU and bfloat16 elsewhere.

    Returns:
        A function of (b, h, w, 3) uint8, b a multiple of the number of devices, that gives features
        (devices, b / devices, d) and probabilities (devices, b / devices, z), float32.
    """
    if dtype is None and jax.default_backend() != "cpu":
        dtype = jnp.bfloat16
    if dtype is not None:
        task = task._replace(module=task.module.clone(dtype=dtype))
    prepared = parallel.replicate(inference.prepare(task.module, variables))
    step = _compiled_look(task)
    return lambda images: step(prepared, parallel.shard({"image": images}))


def look(
    task: train.Task, variables: train.Variables, batch: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Features (devices, b, d) and probabilities (devices, b, z) of all devices' shares."""
    images = train.normalise(batch["image"], task)
    features, logits = inference.apply(task.module, variables, images)
    return jax.lax.all_gather((features, jax.nn.softmax(logits)), parallel.AXIS)


@functools.lru_cache(maxsize=32)
def _compiled_look(task: train.Task) -> Callable[..., tuple[Array, Array]]:
    return parallel.data_parallel(functools.partial(look, task), (None, 0))
