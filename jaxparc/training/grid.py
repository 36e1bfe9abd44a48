"""Train a grid of runs, in one program or one after another, whichever is faster.

On a CPU runs are trained one after another (`backend.Choices.timed_grids`). On other devices both
ways are timed for some steps. Their rounding differs, so the choice is recorded and an interrupted
grid keeps to it.
"""

import functools
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxparc import backend, files, parallel
from jaxparc.errors import InputError
from jaxparc.training import feed, loop, resume, steps
from jaxparc.training.batches import Source
from jaxparc.training.history import Steps
from jaxparc.training.program import Point
from jaxparc.training.steps import Task, Variables

PLANS = ("auto", "apart", "together")
PLAN_FILE = "plan.json"

_MEMORY = 0.9  # share of a device's memory that training may use
_TRIAL = 4 * backend.ACCELERATOR.steps_per_call  # steps to time each way; the first call compiles


def fit_grid(
    task: Task,
    variables: Variables,
    source: Source,
    points: Sequence[Point],
    *,
    size: int,
    plan: str = "auto",
    runs_at_once: int | None = None,
    done: Collection[int] = (),
    watch: Callable[[int, Steps], None] | None = None,
    partial: Path | None = None,
    mirror: bool = False,
    **options: Any,
) -> Iterator[tuple[int, loop.Fitted]]:
    """Train a network once for every point of a grid.

    Args:
        task: the network.
        variables: the weights that all runs start from.
        source: the training images.
        points: the grid; all points have the same number of steps and batch size.
        size: side of the images, in pixels.
        plan: "together" to train as many runs in one program as the devices' memory is estimated to
            hold; "apart" for one run after another; "auto" for the faster of the two.
        runs_at_once: number of runs in one program, if an earlier part of the same grid recorded
            it; by default the number recorded in `partial`, else the one that `plan` implies.
        done: indices of points whose results are not needed. They are trained only if they share a
            program with others, whose results would change without them.
        watch: called with the index of a point and its steps.
        partial: folder of the plan and of the states of unfinished runs; see `loop.fit_together`.
        mirror: whether training may mirror images left to right.
        options: further arguments of `loop.fit_together`.

    Yields:
        The index of each point that is not done, and its result, as soon as its run has ended.

    Raises:
        InputError: an unknown plan, runs_at_once below 1, or points of different lengths.
        OSError: a state cannot be saved.
    """
    if plan not in PLANS:
        raise InputError(f"unknown plan {plan!r}; known: {', '.join(PLANS)}")
    if runs_at_once is not None and runs_at_once < 1:
        raise InputError(f"runs_at_once is {runs_at_once}; expected at least 1")
    fit: Callable[..., list[loop.Fitted]] = functools.partial(
        loop.fit_together, task, variables, source, size=size, mirror=mirror, **options
    )
    if runs_at_once is None:
        identity = {
            "plan": plan,
            **resume.fingerprint(task, points, size=size, mirror=mirror, images=len(source)),
        }
        runs_at_once = _recorded(partial, identity)
        if runs_at_once is None:
            runs_at_once = _choose(plan, fit, task, variables, source, points, size)
            _record(partial, identity, runs_at_once)
    for start in range(0, len(points), runs_at_once):
        group = points[start : start + runs_at_once]
        if all(number in done for number in range(start, start + len(group))):
            continue
        ended = fit(
            group,
            watch=None if watch is None else functools.partial(_watch_each, watch, start),
            partial=None if partial is None else partial / _name(group),
        )
        for number in range(start, start + len(group)):
            fitted = ended.pop(0)  # frees its memory on the devices before the next runs
            if number not in done:
                yield number, fitted._replace(runs_at_once=runs_at_once)
            del fitted


def _recorded(partial: Path | None, identity: dict[str, Any]) -> int | None:
    """Return the runs at once recorded by an interrupted run of the same grid, or None."""
    if partial is None:
        return None
    try:
        record = files.read_sealed(partial / PLAN_FILE)
    except (FileNotFoundError, files.DamagedFileError):
        return None
    return record["runs_at_once"] if record["identity"] == identity else None


def _record(partial: Path | None, identity: dict[str, Any], runs_at_once: int) -> None:
    if partial is not None and jax.process_index() == 0:
        record = {"identity": identity, "runs_at_once": runs_at_once}
        files.write_sealed(partial / PLAN_FILE, record)


def _choose(
    plan: str,
    fit: Callable[..., list[loop.Fitted]],
    task: Task,
    variables: Variables,
    source: Source,
    points: Sequence[Point],
    size: int,
) -> int:
    """Return the number of runs to train in one program."""
    if plan == "apart" or (plan == "auto" and not backend.choices().timed_grids):
        return 1
    batch_size = points[0].recipe.batch_size
    most = min(len(points), runs_that_fit(task, variables, batch_size=batch_size, size=size))
    if plan == "together" or most == 1:
        return most
    kind = task, size, batch_size, most, feed.resident(source, task.classes) is None
    if kind not in _VMAPPED_IS_FASTER:
        _VMAPPED_IS_FASTER[kind] = vmapped_is_faster(fit, points[:most])
    return most if _VMAPPED_IS_FASTER[kind] else 1


# Results of the timings in this process, by everything that determines them.
_VMAPPED_IS_FASTER: dict[Any, bool] = {}


def runs_that_fit(task: Task, variables: Variables, *, batch_size: int, size: int) -> int:
    """Return an estimate of how many runs a device can hold at once; at least 1.

    The estimate uses the compiler's figure for one run: parameters, momentum, gradients and
    activations. It reserves memory for the batches placed ahead of their use, and for all splits
    that `feed.resident` may place, as validation and test images are added between runs.

    Args:
        task: the network.
        variables: its weights.
        batch_size: images per batch, over all devices.
        size: side of the images, in pixels.
    """
    limit = parallel.memory()
    if limit is None:
        return sys.maxsize
    one_run = peak_bytes(task, variables, batch_size=batch_size, size=size)
    image_bytes = batch_size // jax.device_count() * size * size * 3
    ahead = (1 + feed.AHEAD) * backend.choices().steps_per_call * image_bytes
    free = _MEMORY * limit - feed.budget() - ahead
    return max(1, int(free // one_run))


def peak_bytes(
    task: Task, variables: Variables, *, batch_size: int, size: int, runs: int = 1
) -> int:
    """Return the compiler's estimate of the bytes that runs in one program need on a device.

    Args:
        task: the network.
        variables: its weights.
        batch_size: images per batch, over all devices.
        size: side of the images, in pixels.
        runs: g, the number of runs.
    """
    shape = jax.ShapeDtypeStruct
    state = jax.tree.map(
        lambda x: shape((runs, *np.shape(x)), x.dtype), steps.new_state(task, variables)
    )
    rows = 1, jax.local_device_count(), batch_size // jax.device_count()
    labels = (*rows, task.classes) if task.classes else rows
    batch = {
        "image": shape((*rows, size, size, 3), np.uint8),
        "label": shape(labels, np.float32 if task.classes else np.int32),
        "mask": shape(rows, bool),
    }
    rate: Any = shape((runs, 1), np.float32)
    rates = steps.Rates(rate, rate)
    keys = jax.random.split(jax.random.key(0), runs)
    compiled: Any = steps.compiled_train_runs(task)
    return parallel.peak_bytes(compiled.lower(state, [batch], rates, keys).compile())


def vmapped_is_faster(
    fit: Callable[..., Any],
    points: Sequence[Point],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Return whether training all points in one program is faster than one after another.

    Args:
        fit: `loop.fit_together` without the points; it is called for a few steps each way.
        points: the points of the grid.
        clock: returns the time in seconds.
    """
    seconds = []
    for group in (points, points[:1]):
        times: list[tuple[int, float]] = []

        def note(done: Steps, times: list[tuple[int, float]] = times) -> None:
            times.append((done.first, clock()))

        fit(group, watch=note, until=_TRIAL)
        if len(times) < 2:
            return False  # too short to matter
        (first, start), (last, end) = times[0], times[-1]
        seconds.append((end - start) / (last - first) * len(points) / len(group))
    return seconds[0] < seconds[1]


def _watch_each(watch: Callable[[int, Steps], None], start: int, done: Steps) -> None:
    """Report the steps of a group of runs to `watch`, run by run."""
    runs = len(done.metrics["loss"])
    for run in range(runs):
        metrics = {name: values[run : run + 1] for name, values in done.metrics.items()}
        watch(start + run, done._replace(metrics=metrics, images=done.images // runs))


def _name(points: Sequence[Point]) -> str:
    """Return a folder name that identifies the points."""
    return f"{zlib.crc32(repr(points).encode()):08x}"
