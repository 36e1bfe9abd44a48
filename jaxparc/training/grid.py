"""A grid of training runs: in one program or one after the other, whichever is faster.

On a CPU one after the other: there XLA's convolutions are slower with several sets of weights
(`python -m experiments.speed train`). Elsewhere both are measured for some steps. Rounding differs
between the two, so what was chosen is recorded, and an interrupted grid keeps to it.
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

from jaxparc import files, parallel
from jaxparc.errors import InputError
from jaxparc.training import feed, loop, resume, steps
from jaxparc.training.batches import Source
from jaxparc.training.history import Steps
from jaxparc.training.program import Point
from jaxparc.training.steps import Task, Variables

PLANS = ("auto", "apart", "together")
PLAN_FILE = "plan.json"

_MEMORY = 0.9  # share of a device that training may fill
_TRIAL = 4 * loop.STEPS_PER_CALL  # steps of each kind that are measured; the first call compiles


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
        variables: that all runs start from.
        source: the training images.
        points: of the same steps and batch size.
        size: side of the images, in pixels.
        plan: "together" for one program, of as many runs as the devices' memory is estimated to
            hold; "apart" for one run after the other; "auto" for the faster one.
        runs_at_once: the number of runs in one program, as recorded of the same grid before; by
            default as `partial` has recorded it, else as `plan` says.
        done: numbers of points that are not needed. They are trained only where they share a
            program with others, whose results would not be the same without them.
        watch: called with the number of a point and its steps.
        partial: folder of the plan and of the states of unfinished runs; see `loop.fit_together`.
        mirror: whether training may mirror images left to right.
        options: of `loop.fit_together`.

    Yields:
        The number of each point that is not done, and how its run ended, as soon as it has.

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
            fitted = ended.pop(0)  # the devices need not keep it through the next runs
            if number not in done:
                yield number, fitted._replace(runs_at_once=runs_at_once)
            del fitted


def _recorded(partial: Path | None, identity: dict[str, Any]) -> int | None:
    """The runs at once that an interrupted grid had chosen; None if it was another or none."""
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
    """The number of runs in one program."""
    if plan == "apart" or (plan == "auto" and jax.default_backend() == "cpu"):
        return 1
    batch_size = points[0].recipe.batch_size
    most = min(len(points), runs_that_fit(task, variables, batch_size=batch_size, size=size))
    if plan == "together" or most == 1:
        return most
    kind = task, size, batch_size, most, feed.resident(source, task.classes) is None
    if kind not in _VMAPPED_IS_FASTER:
        _VMAPPED_IS_FASTER[kind] = vmapped_is_faster(fit, points[:most])
    return most if _VMAPPED_IS_FASTER[kind] else 1


# What was measured in this process, by all that decides it.
_VMAPPED_IS_FASTER: dict[Any, bool] = {}


def runs_that_fit(task: Task, variables: Variables, *, batch_size: int, size: int) -> int:
    """Return how many runs a device is estimated to hold at once; at least 1.

    By the compiler's account of one run: parameters, momentum, gradients and activations. Beside
    the runs a device holds batches ahead of their use and, whatever it holds now, all the splits
    that `feed.resident` may place there: validation and test images come between runs.

    Args:
        task: the network.
        variables: its weights.
        batch_size: of all devices together.
        size: side of the images, in pixels.
    """
    limit = parallel.memory()
    if limit is None:
        return sys.maxsize
    one_run = peak_bytes(task, variables, batch_size=batch_size, size=size)
    image_bytes = batch_size // jax.device_count() * size * size * 3
    ahead = (1 + feed.AHEAD) * loop.STEPS_PER_CALL * image_bytes
    free = _MEMORY * limit - feed.budget() - ahead
    return max(1, int(free // one_run))


def peak_bytes(
    task: Task, variables: Variables, *, batch_size: int, size: int, runs: int = 1
) -> int:
    """Return the memory of runs in one program on a device, by the compiler's account.

    Args:
        task: the network.
        variables: its weights.
        batch_size: of all devices together.
        size: side of the images, in pixels.
        runs: g.
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
    """Return whether all points at once take less time than one of them, times their number.

    Args:
        fit: `loop.fit_together` without the points; it is called for a few steps of each kind.
        points: of the grid.
        clock: in seconds.
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
    """Report each run of a group, of which `Steps` reports all."""
    runs = len(done.metrics["loss"])
    for run in range(runs):
        metrics = {name: values[run : run + 1] for name, values in done.metrics.items()}
        watch(start + run, done._replace(metrics=metrics, images=done.images // runs))


def _name(points: Sequence[Point]) -> str:
    """A folder's name, another one for other points."""
    return f"{zlib.crc32(repr(points).encode()):08x}"
