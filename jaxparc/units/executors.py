"""Execute units in this process, or on a Ray cluster whose machines share the same files."""

import functools
import os
import pickle
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent import futures
from types import MappingProxyType
from typing import Any, TypeAlias

from jaxparc import extras
from jaxparc.errors import OperationError
from jaxparc.units.compilation import cache_compilations
from jaxparc.units.progress import Progress
from jaxparc.units.unit import FatalError, Made, Unit, is_done, make

RETRIES = 3  # attempts after the first for a unit whose machine is lost
# Prefixes of environment variables that workers inherit; a token of a hub is not among them, as Ray
# shows these to everyone on the cluster.
_INHERITED = ("JAX_", "TFDS_", "XLA_", "HF_HOME", "HF_HUB_", "HF_ENDPOINT", "XDG_CACHE_HOME")

Listing: TypeAlias = Callable[[], Sequence[Unit]]
Executor: TypeAlias = Callable[
    [Sequence[Unit], Listing | None, Progress, float | None], Generator[Made]
]


def locally(
    todo: Sequence[Unit], listing: Listing | None, progress: Progress, num_gpus: float | None
) -> Generator[Made]:
    """Make units one after another in this process, and prepare the next one meanwhile.

    Args:
        todo: the units.
        listing: ignored.
        progress: display of the current unit.
        num_gpus: ignored.

    Yields:
        The outcome of each unit.

    Raises:
        FatalError: nothing can be written.
    """
    del listing, num_gpus
    with futures.ThreadPoolExecutor(1) as pool:
        ahead: futures.Future[None] | None = None
        for number, unit in enumerate(todo, 1):
            progress.start(unit.name)
            if ahead is not None:
                ahead.result()
            ahead = pool.submit(todo[number].prepare) if number < len(todo) else None
            yield make(unit, progress.images)


def on_ray(
    todo: Sequence[Unit], listing: Listing | None, progress: Progress, num_gpus: float | None
) -> Generator[Made]:
    """Make units on a Ray cluster, as resources become free.

    A unit whose machine is lost is retried on another one; a unit that another worker has made in
    the meantime is kept. Workers run in the working directory of this process.

    Args:
        todo: the units.
        listing: lists the same units in a worker; it must be picklable.
        progress: display of how many units are left.
        num_gpus: GPUs reserved for each unit; None for one if the cluster has any.

    Yields:
        The outcome of each unit, in order of completion.

    Raises:
        OperationError: Ray is not installed.
        FatalError: nothing can be written.
    """
    try:
        import ray
    except ImportError as error:
        raise OperationError(f"--executor ray: {extras.missing('ray', 'cluster')}") from error
    if not todo:
        return
    if not ray.is_initialized():
        passed = {k: v for k, v in os.environ.items() if k.startswith(_INHERITED)}
        ray.init(log_to_driver=False, runtime_env={"env_vars": passed})
    if num_gpus is None:
        num_gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task: Any = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=RETRIES)(_make)
    folder, pickled = os.getcwd(), pickle.dumps(listing)
    tasks: dict[str, Any] = {}
    for unit in todo:  # Ray starts a task once the tasks among its arguments have ended
        before = [tasks[unit.after]] if unit.after in tasks else []
        tasks[unit.name] = task.remote(folder, pickled, unit.name, *before)
    waiting = {tasks[unit.name]: unit for unit in todo}
    try:
        while waiting:
            machines = sum(node["Alive"] for node in ray.nodes())
            progress.start(f"{len(waiting)} to do on {machines} machines")
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            unit = waiting.pop(ended)
            try:
                yield ray.get(ended)
            except FatalError as error:
                raise FatalError(str(error.__cause__ or error)) from error
            except ray.exceptions.RayError as error:
                yield Made(unit.name, 0.0, f"{type(error).__name__}: {error}")
    finally:  # the caller may stop before all are made
        for task in waiting:
            ray.cancel(task)


def _make(folder: str, listing: bytes, name: str, *before: Made) -> Made:
    """Make a unit in a worker, unless it is already done."""
    del before
    os.chdir(folder)
    cache_compilations()
    unit = _listed(listing)[name]
    return Made(name, 0.0) if is_done(unit) else make(unit, lambda images: None)


@functools.lru_cache(maxsize=1)
def _listed(listing: bytes) -> dict[str, Unit]:
    """Return units by name, cached because a worker makes many units of one listing."""
    return {unit.name: unit for unit in pickle.loads(listing)()}


EXECUTORS: Mapping[str, Executor] = MappingProxyType({"local": locally, "ray": on_ray})
