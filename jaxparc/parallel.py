"""Data parallelism over the local devices: the only module that uses pmap.

A step is an ordinary function of one device's share of a batch that reduces all its results over
`AXIS`. State is replicated, never stacked, and placed once.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
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
    """Compile a step for all devices, including those of other processes.

    Args:
        step: a pure function whose results are all reduced over `AXIS`. The result of one device is
            taken for all, so a missing reduction would go unnoticed. With `out_axes`, a function
            of a device's own rows.
        in_axes: per argument the axis along which `shard` split it; None if it is replicated.
        out_axes: the axis of the results along which the devices' rows are stacked, as by `shard`;
            None for reduced results.
        donate: positions of the arguments whose memory is reused for the results and which must not
            be used afterwards.

    Returns:
        The compiled function, of the arguments of all devices.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate)


def on_each_device(
    function: Callable[..., Any], own: tuple[bool, ...], **options: Any
) -> Callable[..., Any]:
    """Compile a function that every local device calls with arguments of its own.

    Args:
        function: a pure function, which reduces nothing over the devices.
        own: per argument, whether every device has its own, as `spread` places it; the others are
            replicated.
        options: further arguments of `jax.jit`.

    Returns:
        The compiled function. Its own arguments and its results have a leading axis of devices.
    """

    def on_device(*arguments: Any) -> Any:
        given = [
            jax.tree.map(lambda leaf: leaf[0], argument) if has_own else argument
            for argument, has_own in zip(arguments, own, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*given))

    specs = tuple(PartitionSpec(AXIS) if has_own else PartitionSpec() for has_own in own)
    mapped = jax.shard_map(
        on_device, mesh=_mesh(), in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
    )
    return jax.jit(mapped, **options)


def replicate(tree: T, *, copy: bool = False) -> T:
    """Place a copy of every leaf on each local device, as the results of a step are placed.

    Otherwise a step would be compiled twice: for the unplaced state and for its own result.

    Args:
        tree: a pytree of arrays.
        copy: always copy, so that donating the result does not invalidate `tree`.
    """
    sharding = NamedSharding(_mesh(), PartitionSpec())
    if copy:  # even with may_alias=False, device_put reuses arrays on the first device
        tree = jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, tree)
    return jax.device_put(tree, sharding, may_alias=False if copy else None)


def shard(batch: dict[str, np.ndarray], axis: int = 0) -> dict[str, jax.Array]:
    """Split this process's share of a batch over its devices and place it there.

    Args:
        batch: arrays with b rows along `axis`, b a multiple of the number of local devices.
        axis: axis of the rows.

    Returns:
        Arrays in which (devices, b / devices) replaces the axis of the rows.

    Raises:
        InputError: the number of rows is not a multiple of the number of devices.
    """
    devices = jax.local_device_count()
    rows = {value.shape[axis] for value in batch.values()}
    if any(count % devices for count in rows):
        raise InputError(
            f"the batch has {max(rows)} rows; expected a multiple of {devices} devices"
        )
    split = {
        k: v.reshape(*v.shape[:axis], devices, -1, *v.shape[axis + 1 :]) for k, v in batch.items()
    }
    return jax.device_put(split, NamedSharding(_mesh(), PartitionSpec(*[None] * axis, AXIS)))


def spread(arrays: Sequence[np.ndarray | jax.Array]) -> jax.Array:
    """Place one array on each local device.

    Args:
        arrays: as many arrays of one shape as there are local devices.

    Returns:
        (devices, ...), as `on_each_device` takes arguments.
    """
    devices = jax.local_devices()
    placed = [jax.device_put(x, device)[None] for x, device in zip(arrays, devices, strict=True)]
    sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))
    shape = (len(placed), *arrays[0].shape)
    return jax.make_array_from_single_device_arrays(shape, sharding, placed)


def in_order(calls: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """Make calls one after another, in another thread, while the following ones are prepared.

    A call that starts a program of an accelerator may block as long as the program has a loop.

    Args:
        calls: the calls, which are prepared by iterating.
        ahead: maximum number of calls that are prepared before the result of the first of them is
            yielded; with 0, all calls are made in this thread.

    Yields:
        The results, in order.
    """
    if ahead == 0:
        for call in calls:
            yield call()
        return
    config: Any = jax.config
    device, x64 = config.jax_default_device, config.jax_enable_x64  # of this thread

    def made(call: Callable[[], T]) -> T:
        with jax.default_device(device), enable_x64(x64):
            return call()

    with futures.ThreadPoolExecutor(1) as thread:
        waiting: deque[futures.Future[T]] = deque()
        for call in calls:
            waiting.append(thread.submit(made, call))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def initialize(
    address: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join the other processes of a training run; call this before any other use of JAX.

    Batch sizes count the rows of all processes; each process takes its `share`, and all processes
    get the same losses and weights.

    Args:
        address: HOST:PORT of the first process; None if JAX can detect it, as on Slurm.
        processes: number of processes; None if JAX can detect it.
        process: index of this process, from 0; None if JAX can detect it.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # used on CPUs only
    jax.distributed.initialize(address, processes, process)


def share() -> tuple[int, int]:
    """Return (i, k): this process takes part i, from 0, of the k parts of every batch."""
    return jax.process_index(), jax.process_count()


def peak_bytes(compiled: Any) -> int:
    """Return the compiler's estimate of the bytes that a compiled step needs on a device."""
    need = compiled.memory_analysis()
    parts = (need.argument_size_in_bytes, need.output_size_in_bytes, need.temp_size_in_bytes)
    return sum(parts) - need.alias_size_in_bytes


def memory() -> int | None:
    """Return the memory of a local device in bytes; None where it is unknown, as on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


@functools.cache
def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def enable_x64(enabled: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which JAX has float64, or has not: `jax.enable_x64` of any version."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    older: Any = jax.experimental  # before JAX 0.8
    return older.enable_x64(enabled)


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Compute on the CPU if JAX may use it."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = None
    with jax.default_device(device):
        yield


@contextlib.contextmanager
def one_lapack_thread() -> Iterator[None]:
    """Let LAPACK use one thread meanwhile, if threadpoolctl is installed.

    XLA calls it for eigenvalues of matrices on a CPU, and runs on all cores itself: on two cores,
    eighteen methods take 113 ms per model with a second thread of LAPACK, and 69 ms without.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # as scores need little more than JAX
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield
