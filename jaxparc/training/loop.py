"""The training loop: feed compiled steps, report their metrics, save the state and resume.

The host stays ahead of the devices: it waits for the losses of a step only after dispatching the
next one. Images that fit are kept on the devices, which crop and mirror them.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxparc import backend, interrupts, parallel
from jaxparc.errors import OperationError
from jaxparc.training import feed, resume
from jaxparc.training.batches import Source, prefetch
from jaxparc.training.history import History, Steps
from jaxparc.training.program import Point, Program
from jaxparc.training.steps import Recipe, Task, TrainState, Variables, compiled_eval_step


class DivergedError(OperationError):
    """The loss became infinite or NaN."""


class Fitted(NamedTuple):
    """The result of a run.

    Attributes:
        variables: the trained variables, on the devices.
        losses: (steps,) float32, the losses of the completed steps.
        diverged: the first step whose loss is infinite or NaN; None if there is none.
        seconds: duration of the run; the time of a program is divided equally among its runs.
        runs_at_once: the largest number of runs in one program of its grid.
    """

    variables: Variables
    losses: np.ndarray
    diverged: int | None
    seconds: float
    runs_at_once: int = 1


def fit(
    task: Task,
    variables: Variables,
    source: Source,
    recipe: Recipe,
    *,
    seed: int = 0,
    **options: Any,
) -> tuple[Variables, np.ndarray]:
    """Train all weights of a network.

    Training is deterministic on a CPU: on one machine the same arguments give the same weights,
    even if the training was interrupted and resumed from `partial`. On a GPU, XLA may choose
    kernels that add in varying order, unless XLA_FLAGS has --xla_gpu_deterministic_ops=true.

    Args:
        task: the network.
        variables: initial variables.
        source: the training images.
        recipe: steps, batch size, learning rate.
        seed: seed of order, augmentation and dropout.
        options: further arguments of `fit_together`.

    Returns:
        The trained variables, on the devices, and (steps,) float32 losses.

    Raises:
        DivergedError: the loss became infinite or NaN; the remaining steps are skipped.
        OSError: the state cannot be saved.
    """
    (fitted,) = fit_together(task, variables, source, [Point(recipe, seed)], **options)
    if fitted.diverged is not None:
        raise DivergedError(f"the loss of step {fitted.diverged} is not finite")
    return fitted.variables, fitted.losses


def fit_together(
    task: Task,
    variables: Variables,
    source: Source,
    points: Sequence[Point],
    *,
    size: int,
    mirror: bool = False,
    workers: int = 0,
    until: int | None = None,
    watch: Callable[[Steps], None] | None = None,
    partial: Path | None = None,
    every: float = 600.0,
    per_call: int | None = None,
) -> list[Fitted]:
    """Train a network once for every point of a grid, all in one program.

    Args:
        task: the network.
        variables: the weights that all runs start from.
        source: the training images.
        points: the points; all have the same number of steps and batch size.
        size: side of the images, in pixels.
        mirror: whether training may mirror images left to right.
        workers: number of processes that decode the images, as `batches.batches` takes it.
        until: number of steps after which to stop; by default all steps of the recipe.
        watch: called with steps as soon as their metrics are known.
        partial: folder of the training state, which is saved there during training and resumed
            from; it is not removed at the end. A damaged state, or one of another network, grid or
            number of images, is ignored.
        every: seconds between saves. The state is also saved on KeyboardInterrupt (which SIGTERM
            raises too), and when `until` is reached.
        per_call: steps in one program; by default `backend.Choices.steps_per_call`, but one if the
            images come from the host.

    Returns:
        One result per point. The runs stop early only once all of them have diverged.

    Raises:
        InputError: the points differ in steps or batch size.
        OSError: the state cannot be saved.
    """
    started = time.monotonic()
    program = Program(task, points)
    history = History(program.learning_rates, program.runs * program.batch_size, watch)
    identity = resume.fingerprint(task, points, size=size, mirror=mirror, images=len(source))
    state = program.initial(variables)
    if partial is not None and (saved := resume.restore(partial, identity, state)) is not None:
        state = saved[0]
        history.resume(saved[1])

    def save(state: TrainState) -> None:
        history.wait()
        if partial is not None:
            resume.save(partial, identity, state, history.metrics())

    start = history.done
    last = program.steps if until is None else min(program.steps, until)
    data = feed.resident(source, task.classes)
    k = per_call or (backend.choices().steps_per_call if data else 1)
    counts = _calls(max(0, last - start), k)
    stacks = feed.stacks(
        source,
        data,
        counts,
        program.seeds,
        batch_size=program.batch_size,
        size=size,
        train=True,
        epochs=-(-program.steps * program.batch_size // len(source)),
        workers=workers,
        mirror=mirror,
        num_classes=task.classes,
        start=start,
    )
    state = parallel.replicate(state, copy=True)
    saved_at = time.monotonic()
    with interrupts.Deferral() as interrupt:
        try:
            for count, batches in zip(counts, stacks, strict=True):
                # The call donates the old state, so interrupts are deferred until it has returned
                # the new one; except in the first call, which compiles and has no progress to lose.
                with interrupt.deferred(history.dispatched > start):
                    state, metrics = program(state, batches, history.dispatched, count)
                    history.dispatch(count, metrics)
                history.wait(all_but=1)
                if history.all_diverged():
                    break
                if partial is not None and time.monotonic() - saved_at > every:
                    save(state)
                    saved_at = time.monotonic()
            history.wait()
        except KeyboardInterrupt:
            interrupts.busy()
            if history.dispatched > start and not _is_consumed(state):
                history.watch = None
                save(state)
            raise
    if until is not None and history.done > start:
        save(state)
    seconds = (time.monotonic() - started) / program.runs
    losses = history.metrics()["loss"]
    return [
        Fitted(of_run, loss, _diverged(loss), seconds, program.runs)
        for of_run, loss in zip(program.split(state), losses, strict=True)
    ]


def _calls(count: int, per_call: int) -> list[int]:
    """Return the number of steps in each call.

    The remainder is called step by step, so that at most two programs are compiled.
    """
    return [per_call] * (count // per_call) + [1] * (count % per_call)


def _is_consumed(state: TrainState) -> bool:
    """Return whether a call that raised an error had already taken the memory of the state."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _diverged(losses: np.ndarray) -> int | None:
    """Return the first step whose loss is infinite or NaN; None if there is none."""
    finite = np.isfinite(losses)
    return None if finite.all() else int(np.argmin(finite))


def accuracy(
    task: Task,
    variables: Variables,
    source: Source,
    *,
    size: int,
    batch_size: int,
) -> float:
    """Return the percentage of all images that are classified correctly.

    The padding of the last batch does not count.

    Args:
        task: the network.
        variables: its weights.
        source: images with labels.
        size: side of the images, in pixels.
        batch_size: images per batch, over all devices.
    """
    step = compiled_eval_step(task)
    data = feed.resident(source, task.classes)
    batches = feed.host_batches(
        source, data, batch_size=batch_size, size=size, train=False, num_classes=task.classes
    )
    place = functools.partial(feed.placed, data, size, 0)
    sums = [step(variables, batch) for batch in prefetch(batches, place)]
    right, count = np.array(jax.device_get(sums), np.float64).sum(axis=0).tolist()
    return 100.0 * right / count
