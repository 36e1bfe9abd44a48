"""Units as tasks of a Ray cluster, whose machines see the same files."""

import dataclasses
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.runner import command_line as _main
from jaxparc.units import run as _run
from jaxparc.units.progress import Progress

RETRIES = 3  # of a unit whose machine is lost
_PASSED_ON = ("JAX_", "TFDS_", "XLA_")  # beginnings of the variables that machines are given


def made(
    run: _run.Run, stage: str, todo: Sequence[_run.Unit], progress: Progress
) -> Iterator[_run.Made]:
    """Makes units wherever there is room, and gives them as they end.

    A unit whose machine is lost is made anew elsewhere; one that another has made is left as it is.

    Args:
        run: on files that all machines see under the same paths.
        stage: the module of `experiments` whose `units` these are.
        todo: the units.
        progress: shows how many are under way.

    Raises:
        StageError: Ray is not installed.
        FatalError: nothing can be written.
    """
    try:
        import ray
    except ImportError as error:
        raise _run.StageError('--executor ray needs: pip install "jaxparc[cluster]"') from error
    if not todo:
        return
    if not ray.is_initialized():
        passed = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
        ray.init(log_to_driver=False, runtime_env={"env_vars": passed})
    gpus = run.num_gpus
    if gpus is None:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_work)
    there = dataclasses.replace(
        run, out=run.out.absolute(), weights=run.weights.absolute(), executor="local", shard=(1, 1)
    )
    under_way: dict[str, Any] = {}
    for unit in todo:  # Ray starts a task when those that it is given have ended
        before = [under_way[unit.after]] if unit.after in under_way else []
        under_way[unit.name] = task.remote(there, stage, unit.name, *before)
    waiting = {under_way[unit.name]: unit for unit in todo}
    while waiting:
        machines = sum(node["Alive"] for node in ray.nodes())
        progress.start(f"{len(waiting)} to do on {machines} machines")
        (ended,), _ = ray.wait(list(waiting), num_returns=1)
        unit = waiting.pop(ended)
        try:
            seconds, text, trace = ray.get(ended)
        except _run.FatalError as error:
            raise _run.FatalError(str(error.__cause__ or error)) from error
        except ray.exceptions.RayError as error:
            seconds, text, trace = 0.0, f"{type(error).__name__}: {error}", ""
        yield _run.Made(unit, seconds, text, trace)


def _work(run: _run.Run, stage: str, name: str, *before: Any) -> tuple[float, str | None, str]:
    """Makes a unit on a machine of the cluster, if it is not there yet."""
    del before
    _main.cache_compilations()
    units = importlib.import_module(f"experiments.{stage}").units(run)
    unit = next(unit for unit in units if unit.name == name)
    if _run.is_done(unit):
        return 0.0, None, ""
    made = _run.make(unit, lambda images: None)
    return made.seconds, made.error, made.traceback
