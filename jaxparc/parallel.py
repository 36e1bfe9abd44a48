"""Data parallelism over the local devices: the only file that says pmap.

A step is an ordinary function of one device's share of a batch that reduces over `AXIS` whatever
it returns. State is kept once per device, never stacked, and placed once.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxparc.errors import InputError

AXIS = "batch"
T = TypeVar("T")


def data_parallel(
    step: Callable[..., Any],
    in_axes: tuple[int | None, ...],
    *,
    out_axes: int | None = None,
    donate: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Compile a step that runs on all devices at once, those of other processes included.

    Args:
        step: a pure function whose every result is reduced over `AXIS`: one device's result is
            taken for all, so a forgotten reduction would go unnoticed. With `out_axes`, one of a
            device's own rows.
        in_axes: per argument the axis along which `shard` split it, None if every device gets it
            whole.
        out_axes: the axis of the results along which devices' rows are put side by side, as `shard`
            does.
        donate: numbers of the arguments whose memory the results take: they are gone afterwards.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate)


def replicate(tree: T, *, copy: bool = False) -> T:
    """Place a copy of every leaf on each local device, as the step's own results will be.

    Without it the first call compiles for an unplaced state and the second one again.

    Args:
        tree: of arrays.
        copy: in any case, as for what is donated: it may not share memory with what was given.
    """
    sharding = NamedSharding(_mesh(), PartitionSpec())
    if copy:  # device_put's may_alias=False keeps what is on the first device already
        tree = jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, tree)
    return jax.device_put(tree, sharding, may_alias=False if copy else None)


def shard(batch: dict[str, np.ndarray], axis: int = 0) -> dict[str, jax.Array]:
    """Split this process's part of a batch over its devices and place it there.

    Args:
        batch: arrays of b rows along `axis`, b a multiple of the number of local devices.
        axis: of the rows.

    Returns:
        Arrays with (devices, b / devices) in the place of the rows.

    Raises:
        ValueError: the rows do not divide evenly.
    """
    devices = jax.local_device_count()
    rows = {value.shape[axis] for value in batch.values()}
    if any(count % devices for count in rows):
        raise InputError(f"a batch of {max(rows)} rows does not divide over {devices} devices")
    split = {
        k: v.reshape(*v.shape[:axis], devices, -1, *v.shape[axis + 1 :]) for k, v in batch.items()
    }
    return jax.device_put(split, NamedSharding(_mesh(), PartitionSpec(*[None] * axis, AXIS)))


def initialize(
    address: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join the other processes of a training run, before anything else is done with JAX.

    Batches are of all processes together, each takes its `share` of them, and all get the same
    losses and weights.

    Args:
        address: HOST:PORT of the first process. None, here and in what follows, for what a cluster
            says that JAX knows, such as Slurm.
        processes: how many there are.
        process: which one this is, from 0.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # read on a CPU alone
    jax.distributed.initialize(address, processes, process)


def share() -> tuple[int, int]:
    """Which part of every batch this process takes, and of how many: `input.batches`' `share`."""
    return jax.process_index(), jax.process_count()


def peak_bytes(compiled: Any) -> int:
    """Memory that a compiled step needs on a device, by the compiler's account."""
    need = compiled.memory_analysis()
    parts = (need.argument_size_in_bytes, need.output_size_in_bytes, need.temp_size_in_bytes)
    return sum(parts) - need.alias_size_in_bytes


def memory() -> int | None:
    """Bytes that a local device may hold, where it says so; a CPU does not."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


@functools.cache
def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))
