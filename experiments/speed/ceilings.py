"""`python -m experiments.speed ceilings`: the rates of this machine that bound all others.

These are a matrix product in float32 and in bfloat16, a copy on the device and, except for CPUs,
copies from host to device: of pageable memory, in one array and in arrays as large as a model's
features, and of pinned memory where the device has it. Operands are random; the sizes fill the
device.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import measured
from experiments.speed.measured import Case, Section

PACKAGES = ("jax", "jaxlib", "numpy")
PIECE = 500 * 2048 * 4
"""Bytes of the features of one model of the bank table."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        side: number of rows and columns of both factors of a product.
        bytes: bytes that a copy reads.
        repeats: repeats of each measurement.
    """

    side: int = 2048
    bytes: int = 1 << 28
    repeats: int = 5


TINY = Sizes(side=64, bytes=1 << 20, repeats=2)


def default() -> Sizes:
    """Return the sizes for this machine's devices."""
    if jax.default_backend() == "cpu":
        return Sizes()
    return Sizes(side=8192, bytes=1 << 30)


@dataclasses.dataclass
class Row:
    """One rate.

    Attributes:
        what: the operation.
        unit: unit of the rates, per second.
        rates: the rate of every repeat.
    """

    what: str
    unit: str
    rates: list[float]


def _times(run: Callable[[], Any], repeats: int) -> list[float]:
    """Return the seconds of every repeat, after one that is not counted."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return times


@functools.cache
def product(dtype: str, sizes: Sizes) -> list[float]:
    """Return operations per second of matrix products on one device, at highest precision."""
    shape = sizes.side, sizes.side
    a, b = (jax.random.normal(jax.random.key(seed), shape, jnp.dtype(dtype)) for seed in (0, 1))
    multiply = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    times = _times(lambda: multiply(a, b), sizes.repeats)
    return [2 * sizes.side**3 / seconds for seconds in times]


def matrix_rate(dtype: Any) -> float:
    """Return operations per second of the fastest matrix product on one device.

    It is measured once per process.

    Args:
        dtype: dtype of both factors.
    """
    return max(product(jnp.dtype(dtype).name, default()))


@functools.cache
def device_copy(sizes: Sizes) -> list[float]:
    """Return bytes per second, read and written, of copies on one device."""
    x = jax.random.normal(jax.random.key(0), (sizes.bytes // 4,))
    copy = jax.jit(jnp.copy)
    return [2 * x.nbytes / seconds for seconds in _times(lambda: copy(x), sizes.repeats)]


@functools.cache
def host_copy(sizes: Sizes, piece: int | None = None) -> list[float]:
    """Return bytes per second of copies from pageable host memory to one device.

    Args:
        sizes: the number of bytes and of repeats.
        piece: bytes per array; by default all in one array.
    """
    size = min(piece or sizes.bytes, sizes.bytes)
    rng = np.random.default_rng(0)
    arrays = [rng.random(size // 4, np.float32) for _ in range(sizes.bytes // size)]
    device = jax.local_devices()[0]
    times = _times(lambda: jax.device_put(arrays, device), sizes.repeats)
    return [size * len(arrays) / seconds for seconds in times]


@functools.cache
def pinned_copy(sizes: Sizes) -> list[float]:
    """Return bytes per second of copies from pinned host memory to one device.

    Raises:
        ValueError: the device has no pinned host memory.
    """
    device = jax.local_devices()[0]
    pinned, own = (
        jax.sharding.SingleDeviceSharding(device, memory_kind=kind)
        for kind in ("pinned_host", "device")
    )
    x = jax.device_put(np.random.default_rng(0).random(sizes.bytes // 4, np.float32), pinned)
    times = _times(lambda: jax.device_put(x, own), sizes.repeats)
    return [x.nbytes / seconds for seconds in times]


def host_copy_rate() -> float | None:
    """Return bytes per second of the fastest copy from pageable memory; None on a CPU.

    It is measured once per process.
    """
    if jax.default_backend() == "cpu":
        return None
    return max(host_copy(default()) + host_copy(default(), PIECE))


def has_pinned() -> bool:
    """Return whether the device has pinned host memory."""
    kinds = {memory.kind for memory in jax.local_devices()[0].addressable_memories()}
    return {"pinned_host", "device"} <= kinds


def cases(sizes: Sizes) -> list[Case]:
    """Return all rates, in the order of the table."""
    rates: dict[str, tuple[str, Callable[[], list[float]]]] = {
        "float32 product": ("operations", lambda: product("float32", sizes)),
        "bfloat16 product": ("operations", lambda: product("bfloat16", sizes)),
        "copy on the device": ("bytes", lambda: device_copy(sizes)),
    }
    if jax.default_backend() != "cpu":  # whose arrays may share the host's
        rates |= {
            "host to device, pageable": ("bytes", lambda: host_copy(sizes)),
            "host to device, pageable, 4 MB arrays": ("bytes", lambda: host_copy(sizes, PIECE)),
        }
        if has_pinned():
            rates["host to device, pinned"] = "bytes", lambda: pinned_copy(sizes)

    def case(what: str, unit: str, rates: Callable[[], list[float]]) -> Case:
        return Case(what, "ceiling", lambda: [Row(what, unit, rates())])

    return [case(what, unit, run) for what, (unit, run) in rates.items()]


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row."""
    scale, unit = (1e12, "TFLOP/s") if row.unit == "operations" else (1e9, "GB/s")
    return row.what, measured.spread([rate / scale for rate in row.rates]), unit


def best(rows: Sequence[Row]) -> dict[str, float]:
    """Return the highest rate of every operation, as the other tables record them."""
    return {row.what: max(row.rates) for row in rows}


def section(sizes: Sizes) -> Section:
    """Return the section of the rates."""
    return Section(
        name="ceilings",
        packages=PACKAGES,
        sizes=sizes,
        cases=cases(sizes),
        header=("operation", "rate", "unit"),
        cells=cells,
        title="rates of this machine, median (lowest–highest)",
        note=f"Products of {sizes.side:,} x {sizes.side:,} matrices; copies of "
        f"{sizes.bytes / 2**20:.0f} MiB, on the device counted as read and written.",
    )


def add(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    measured.add_out(command)
    command.set_defaults(run=lambda args: measured.run(section(default()), args.out, args.ran))
