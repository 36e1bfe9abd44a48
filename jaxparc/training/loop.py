"""The loop that trains: feeds the steps of `train`, watches them, saves on the way and goes on.

The host stays ahead of the devices: it waits for the losses of a step only when the next one has
been handed over. Images that fit live on the devices, which crop and mirror them themselves.
"""

import collections
import contextlib
import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import interrupts, parallel
from jaxparc.errors import InputError, OperationError
from jaxparc.training import batches as input_
from jaxparc.training import checkpoints, feed
from jaxparc.training import steps as train

STEPS_PER_CALL = 10
"""Training steps in one program, where images live on an accelerator."""


class DivergedError(OperationError):
    """The loss became infinite or NaN."""


class Point(NamedTuple):
    """A point of a grid: what one of several runs of a network has of its own.

    Attributes:
        recipe: how it is trained.
        seed: of order, augmentation and dropout.
    """

    recipe: train.Recipe
    seed: int = 0


class Steps(NamedTuple):
    """Steps that are done, of g runs at once.

    Attributes:
        first: number of the first one.
        metrics: `loss`, `accuracy` (a share) and `learning_rate`, (g, k) float32 each.
        images: that were trained on in them; 0 of steps before an interruption.
        seconds: since the steps before were told of, or since the start.
    """

    first: int
    metrics: dict[str, np.ndarray]
    images: int
    seconds: float


class Fitted(NamedTuple):
    """A run that has ended.

    Attributes:
        variables: on the devices.
        losses: (steps,) float32, as far as it went.
        diverged: the first step whose loss is not finite, if there is one.
        seconds: that it took; of runs at once each has an equal share.
    """

    variables: train.Variables
    losses: np.ndarray
    diverged: int | None
    seconds: float


def fit(
    task: train.Task,
    variables: train.Variables,
    source: input_.Source,
    recipe: train.Recipe,
    *,
    seed: int = 0,
    **options: Any,
) -> tuple[train.Variables, np.ndarray]:
    """Train all weights of a network.

    Deterministic: the same arguments give the same weights on one machine, also if the training was
    stopped in between and goes on from `partial`.

    Args:
        task: the network.
        variables: to start from.
        source: the training images.
        recipe: steps, batch size, learning rate.
        seed: of order, augmentation and dropout.
        options: of `fit_together`.

    Returns:
        The trained variables, on the devices, and (steps,) float32 losses.

    Raises:
        DivergedError: the loss is no longer finite; what is left of the steps is not done.
        OSError: the state cannot be saved.
    """
    (fitted,) = fit_together(task, variables, source, [Point(recipe, seed)], **options)
    if fitted.diverged is not None:
        raise DivergedError(f"the loss of step {fitted.diverged} is not finite")
    return fitted.variables, fitted.losses


def fit_together(
    task: train.Task,
    variables: train.Variables,
    source: input_.Source,
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
        variables: that all start from.
        source: the training images.
        points: of the same steps and batch size.
        size: side of the images, in pixels.
        mirror: whether a mirror image keeps its meaning.
        workers: processes that decode the images, as `input.batches` takes it.
        until: the step before which to stop; all of the recipe's by default.
        watch: told of steps as soon as they are known to be done.
        partial: where the state is saved on the way, and found again; it is left there at the end.
            A state of another network, grid or number of images, or a damaged one, is not taken.
        every: seconds from one save to the next. KeyboardInterrupt, as of SIGTERM, saves at once;
            so does `until`.
        per_call: steps in one program; by default `STEPS_PER_CALL` or, where images come from the
            host and on a CPU, one.

    Returns:
        One for each point. They stop early only when the last of them has diverged.

    Raises:
        ValueError: the points differ in steps or batch size.
        OSError: the state cannot be saved.
    """
    steps, batch_size = _shape_of(points)
    run = _Run(points, watch, partial, _told(task, points, size, mirror, len(source)))
    state = run.resumed(_fresh(task, variables, len(points)))
    start = run.done
    left = max(0, (steps if until is None else min(steps, until)) - start)
    data = feed.resident(source, task.classes)
    seeds = [point.seed for point in points]
    k = per_call or (STEPS_PER_CALL if data and jax.default_backend() != "cpu" else 1)
    # What does not fill a call is done one by one: two programs, whatever the number of steps.
    sizes = [k] * (left // k) + [1] * (left % k)
    batches = feed.stacks(
        source,
        data,
        sizes,
        seeds if len(set(seeds)) > 1 else seeds[:1],
        batch_size=batch_size,
        size=size,
        train=True,
        epochs=-(-steps * batch_size // len(source)),
        workers=workers,
        mirror=mirror,
        num_classes=task.classes,
        start=start,
    )
    program, rates, keys = _program(task, points, run.rates)
    state, keys = parallel.replicate((state, keys), copy=True)
    saved = time.monotonic()
    with _Interrupts() as torn:
        try:
            for count, given in zip(sizes, batches, strict=True):
                now = jax.tree.map(lambda x, i=run.sent, n=count: x[..., i : i + n], rates)
                # The call takes the old state away: until it has given the new one, an interrupt
                # waits. The first call compiles, which can take long, and has nothing to lose.
                with torn.held(run.sent > start):
                    state, metrics = program(state, given, now, keys)
                    run.send(count, metrics)
                run.settle(but=1)
                if run.all_diverged():
                    break
                if partial is not None and time.monotonic() - saved > every:
                    run.save(state)
                    saved = time.monotonic()
            run.settle()
        except KeyboardInterrupt:
            interrupts.busy()
            if run.sent > start:
                run.watch = None
                run.save(state)
            raise
    if until is not None and run.done > start:
        run.save(state)
    return run.fitted(state)


class _Run:
    """What is known of a training run: how far it is, and how it went."""

    def __init__(
        self,
        points: Sequence[Point],
        watch: Callable[[Steps], None] | None,
        partial: Path | None,
        told: dict[str, Any],
    ) -> None:
        self.watch = watch
        self.sent = self.done = 0  # steps
        self._lanes, self._images = len(points), sum(p.recipe.batch_size for p in points)
        self.rates = np.stack([point.recipe.learning_rates() for point in points])  # (g, steps)
        self._partial, self._told = partial, told
        self._pending: collections.deque[tuple[int, dict[str, Array]]] = collections.deque()
        # (g, k) each
        self._history: dict[str, list[np.ndarray]] = {"loss": [], "accuracy": []}
        self._started = self._told_at = time.monotonic()

    def send(self, count: int, metrics: dict[str, Array]) -> None:
        """So many steps have been handed to the devices."""
        self._pending.append((count, metrics))
        self.sent += count

    def settle(self, but: int = 0) -> None:
        """Wait for what was sent, but for the last ones, and tell of it."""
        while len(self._pending) > but:
            count, metrics = self._pending.popleft()
            arrays = {
                k: np.asarray(v, np.float32).reshape(self._lanes, count) for k, v in metrics.items()
            }
            self._note(arrays, count * self._images)

    def _note(self, arrays: dict[str, np.ndarray], images: int) -> None:
        first = self.done
        for name, values in arrays.items():
            self._history[name].append(values)
        self.done += arrays["loss"].shape[1]
        seconds, self._told_at = time.monotonic() - self._told_at, time.monotonic()
        if self.watch is not None:
            rates = self.rates[:, first : self.done]
            self.watch(Steps(first, arrays | {"learning_rate": rates}, images, seconds))

    def all_diverged(self) -> bool:
        """Whether no run of the grid has a finite loss any more."""
        return not np.isfinite(self._history["loss"][-1][:, -1]).any() if self.done else False

    def save(self, state: train.TrainState) -> None:
        """Save a state of `sent` steps, all of which are waited for."""
        self.settle()
        if self._partial is None or jax.process_index() != 0:
            return
        momentum = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state.momentum))}
        arrays = {"variables": state.variables, "momentum": momentum}
        history = {k: np.concatenate(v, axis=1).tolist() for k, v in self._history.items()}
        metadata = {"told": self._told, "history": history}
        checkpoints.save(self._partial, jax.device_get(arrays), metadata)

    def resumed(self, fresh: train.TrainState) -> train.TrainState:
        """The saved state, of which this run then is, or the fresh one."""
        if self._partial is None:
            return fresh
        try:
            arrays, metadata = checkpoints.restore(self._partial)
        except checkpoints.CheckpointError:  # not there, or damaged
            return fresh
        if metadata.get("told") != self._told:
            return fresh
        leaves, structure = jax.tree.flatten(fresh.momentum)
        momentum = [arrays["momentum"][str(i)] for i in range(len(leaves))]
        self._note({k: np.array(v, np.float32) for k, v in metadata["history"].items()}, images=0)
        self.sent = self.done
        step = np.full_like(fresh.step, self.done)
        return train.TrainState(step, arrays["variables"], jax.tree.unflatten(structure, momentum))

    def fitted(self, state: train.TrainState) -> list[Fitted]:
        """How the runs ended."""
        losses = np.concatenate([*self._history["loss"], np.empty((self._lanes, 0))], axis=1)
        seconds = (time.monotonic() - self._started) / self._lanes
        ended = []
        for lane, of_lane in enumerate(losses.astype(np.float32)):
            finite = np.isfinite(of_lane)
            diverged = None if finite.all() else int(np.argmin(finite))
            variables = state.variables
            if self._lanes > 1:
                variables = jax.tree.map(lambda x, i=lane: x[i], variables)
            ended.append(Fitted(variables, of_lane, diverged, seconds))
        return ended


class _Interrupts:
    """Holds back Ctrl-C and SIGTERM where they would tear a step apart."""

    def __init__(self) -> None:
        self._holding = False
        self._came: list[tuple[int, Any]] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self._holding:
            self._came.append((number, frame))
        else:
            self._handlers[number](number, frame)

    @contextlib.contextmanager
    def held(self, hold: bool) -> Iterator[None]:
        """What comes within is handled at its end."""
        self._holding = hold
        try:
            yield
        finally:
            self._holding = False
        while self._came:
            number, frame = self._came.pop(0)
            self._handlers[number](number, frame)


def _told(
    task: train.Task, points: Sequence[Point], size: int, mirror: bool, images: int
) -> dict[str, Any]:
    """What a saved state belongs to; JSON gives it back as it is."""
    return {
        "task": repr(task),
        "points": [{"seed": p.seed, **dataclasses.asdict(p.recipe)} for p in points],
        "size": size,
        "mirror": mirror,
        "images": images,
    }


def _shape_of(points: Sequence[Point]) -> tuple[int, int]:
    """Steps and batch size."""
    shapes = {(point.recipe.steps, point.recipe.batch_size) for point in points}
    if len(shapes) != 1:
        raise InputError(
            f"a grid's points have the same steps and batch size; found {sorted(shapes)}"
        )
    return shapes.pop()


def _fresh(task: train.Task, variables: train.Variables, lanes: int) -> train.TrainState:
    """The state before the first step, (lanes, ...) if there are several."""
    state = train.new_state(task, variables)
    if lanes == 1:
        return state
    return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (lanes, *np.shape(x))), state)


def _program(
    task: train.Task, points: Sequence[Point], learning: np.ndarray
) -> tuple[Callable[..., Any], train.Rates, Array]:
    """What is called, the rates of all steps, and the keys."""
    decays = np.array([point.recipe.weight_decay for point in points], np.float32)
    rates = train.Rates(learning, np.broadcast_to(decays[:, None], learning.shape))
    keys = jnp.stack([jax.random.key(point.seed) for point in points])
    if len(points) > 1:
        return train.compiled_train_grid(task), rates, keys
    alone = train.compiled_train_steps(task)
    rates, keys = jax.tree.map(lambda x: x[0], (rates, keys))
    return lambda state, batches, *rest: alone(state, batches[0], *rest), rates, keys


def accuracy(
    task: train.Task,
    variables: train.Variables,
    source: input_.Source,
    *,
    size: int,
    batch_size: int,
) -> float:
    """Percent of the images that are classified right: over all of them, the last batch included.

    Args:
        task: the network.
        variables: its weights.
        source: images with labels.
        size: side of the images, in pixels.
        batch_size: of all devices together.
    """
    step = train.compiled_eval_step(task)
    data = feed.resident(source, task.classes)
    batches = feed.host_batches(
        source, data, batch_size=batch_size, size=size, train=False, num_classes=task.classes
    )
    place = functools.partial(feed.placed, data, size, 0)
    sums = [step(variables, batch) for batch in input_.prefetch(batches, place)]
    right, count = np.array(jax.device_get(sums), np.float64).sum(axis=0).tolist()
    return 100.0 * right / count
