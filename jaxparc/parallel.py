"""Data parallelism over the local devices: the only file that says pmap.

A step is an ordinary function of one device's share of a batch that reduces over `AXIS` whatever
it returns. State is kept once per device, never stacked, and placed once.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
T = TypeVar("T")


def data_parallel(step: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """Compile a step that runs on all local devices at once.

    Args:
        step: a pure function whose every result is reduced over `AXIS`: one device's result is
            taken for all, so a forgotten reduction would go unnoticed.
        in_axes: per argument 0 if it went through `shard`, None if every device gets it whole.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=in_axes, out_axes=None)


def replicate(tree: T) -> T:
    """Place a copy of every leaf on each local device, as the step's own results will be.

    Without it the first call compiles for an unplaced state and the second one again.
    """
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def shard(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Split a host batch over the local devices and place it there.

    Args:
        batch: arrays (b, ...), b a multiple of the number of devices.

    Returns:
        Arrays (devices, b / devices, ...).

    Raises:
        ValueError: the rows do not divide evenly.
    """
    devices = jax.local_device_count()
    rows = {len(value) for value in batch.values()}
    if any(count % devices for count in rows):
        raise ValueError(f"a batch of {max(rows)} rows does not divide over {devices} devices")
    split = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
    return jax.device_put(split, NamedSharding(_mesh(), PartitionSpec(AXIS)))


@functools.cache
def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))
