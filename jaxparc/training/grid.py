"""A grid of training runs: in one program or one after the other, whichever is faster.

On a CPU one after the other: there XLA's convolutions are slower with several sets of weights
(`python -m experiments.speed train`). Elsewhere both are tried for some steps.
"""

import functools
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxparc import parallel
from jaxparc.errors import InputError
from jaxparc.training import batches as input_
from jaxparc.training import feed
from jaxparc.training import loop as fitting
from jaxparc.training import steps as train

PLANS = ("auto", "apart", "together")

_MEMORY = 0.9  # share of a device that training may fill
_TRIAL = 4 * fitting.STEPS_PER_CALL  # steps of each kind that are tried; the first call compiles


def fit_grid(
    task: train.Task,
    variables: train.Variables,
    source: input_.Source,
    points: Sequence[fitting.Point],
    *,
    size: int,
    plan: str = "auto",
    watch: Callable[[int, fitting.Steps], None] | None = None,
    partial: Path | None = None,
    **options: Any,
) -> Iterator[tuple[int, fitting.Fitted]]:
    """Train a network once for every point of a grid.

    Args:
        task: the network.
        variables: that all start from.
        source: the training images.
        points: of the same steps and batch size.
        size: side of the images, in pixels.
        plan: "together" for one program, of as many as the devices' memory is estimated to hold;
            "apart" for one run after the other; "auto" for the faster one.
        watch: told the number of a point, and of its steps.
        partial: a folder for the states of what is under way; see `fitting.fit_together`.
        options: of `fitting.fit_together`.

    Yields:
        Numbers of points, and how their runs ended: each as soon as it has.

    Raises:
        ValueError: an unknown plan, or points of different lengths.
        OSError: a state cannot be saved.
    """
    if plan not in PLANS:
        raise InputError(f"unknown plan {plan!r}; known: {', '.join(PLANS)}")
    fit: Callable[..., list[fitting.Fitted]] = functools.partial(
        fitting.fit_together, task, variables, source, size=size, **options
    )
    most = 1
    if plan == "together" or (plan == "auto" and jax.default_backend() != "cpu"):
        batch_size = points[0].recipe.batch_size
        data = feed.resident(source, task.classes)
        most = min(len(points), room(task, variables, batch_size=batch_size, size=size, data=data))
        if plan == "auto" and most > 1:
            kind = task, size, batch_size, most, data is None
            if kind not in _PAYS:
                _PAYS[kind] = pays(fit, points[:most])
            most = most if _PAYS[kind] else 1
    for start in range(0, len(points), most):
        group = points[start : start + most]
        ended = fit(
            group,
            watch=None if watch is None else functools.partial(_tell_each, watch, start),
            partial=None if partial is None else partial / _name(group),
        )
        yield from enumerate(ended, start)


# Whether one program is faster, by what decides it.
_PAYS: dict[Any, bool] = {}


def room(
    task: train.Task, variables: train.Variables, *, batch_size: int, size: int, data: Any
) -> int:
    """How many runs a device is estimated to hold at once; at least 1.

    By the compiler's account of one run: parameters, momentum, gradients and activations.

    Args:
        task: the network.
        variables: its weights.
        batch_size: of all devices together.
        size: side of the images, in pixels.
        data: what `feed.resident` gave of the images.
    """
    limit = parallel.memory()
    if limit is None:
        return sys.maxsize
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), train.new_state(task, variables)
    )
    rows = 1, jax.local_device_count(), batch_size // jax.device_count()
    labels = (*rows, task.classes) if task.classes else rows
    batch = {
        "image": jax.ShapeDtypeStruct((*rows, size, size, 3), np.uint8),
        "label": jax.ShapeDtypeStruct(labels, np.float32 if task.classes else np.int32),
        "mask": jax.ShapeDtypeStruct(rows, bool),
    }
    rate: Any = jax.ShapeDtypeStruct((1,), np.float32)
    steps: Any = train.compiled_train_steps(task)
    program = steps.lower(state, batch, train.Rates(rate, rate), jax.random.key(0))
    each = parallel.peak_bytes(program.compile())
    there = sum(leaf.nbytes for leaf in jax.tree.leaves(data))
    return max(1, int((_MEMORY * limit - there) // each))


def pays(
    fit: Callable[..., Any],
    points: Sequence[fitting.Point],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Whether all points at once take less time than one of them, times their number.

    Args:
        fit: `fitting.fit_together` but for the points; it is called for a few steps of each kind.
        points: of the grid.
        clock: in seconds.
    """
    seconds = []
    for group in (points, points[:1]):
        times: list[tuple[int, float]] = []

        def tell(done: fitting.Steps, times: list[tuple[int, float]] = times) -> None:
            times.append((done.first, clock()))

        fit(group, watch=tell, until=_TRIAL)
        if len(times) < 2:
            return False  # too short to matter
        (first, start), (last, end) = times[0], times[-1]
        seconds.append((end - start) / (last - first) * len(points) / len(group))
    return seconds[0] < seconds[1]


def _tell_each(
    watch: Callable[[int, fitting.Steps], None], start: int, done: fitting.Steps
) -> None:
    """Tell of every run of a group what `fitting.Steps` says of all."""
    lanes = len(done.metrics["loss"])
    for lane in range(lanes):
        metrics = {name: values[lane : lane + 1] for name, values in done.metrics.items()}
        watch(start + lane, done._replace(metrics=metrics, images=done.images // lanes))


def _name(points: Sequence[fitting.Point]) -> str:
    """Another one for other points."""
    return f"{zlib.crc32(repr(points).encode()):08x}"
