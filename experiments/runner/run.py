"""A benchmark with its folders, and the stages that run on it."""

import dataclasses
import functools
import importlib
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks import Benchmark
from jaxparc import files
from jaxparc.errors import OperationError
from jaxparc.units import run as units_run
from jaxparc.units.options import Execution
from jaxparc.units.unit import Unit


class StageError(OperationError):
    """A stage cannot continue; the message is for the user."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A benchmark, its folders, and how it is run.

    Attributes:
        benchmark: its settings.
        out: the results folder.
        weights: the folder of the sources' checkpoints.
        allow_missing: see `Execution`.
        workers: number of processes that decode images, as `batches.batches` takes it.
        grid: how to train the learning rates of a transfer, one of `grid.PLANS`.
        tensorboard: whether training also writes event files.
        shard: see `Execution`; applies to the units of every stage.
        executor: see `Execution`.
        num_gpus: see `Execution`.
    """

    benchmark: Benchmark
    out: Path
    weights: Path
    allow_missing: bool = False
    workers: int = 0
    grid: str = "auto"
    tensorboard: bool = False
    shard: tuple[int, int] = (1, 1)
    executor: str = "local"
    num_gpus: float | None = None

    @property
    def execution(self) -> Execution:
        """The settings with which the units of all stages are run."""
        return Execution(self.executor, self.num_gpus, self.shard, self.allow_missing)

    def seed(self, *parts: object) -> int:
        """Return the seed for one purpose, independently of any other seed drawn."""
        return zlib.crc32("/".join(map(str, (self.benchmark.seed, *parts))).encode())


class Stage(NamedTuple):
    """A stage of a benchmark.

    Attributes:
        run: makes the units that are not done; returns the number of failures.
        units: lists all units of the stage.
        name: name of its module.
        divisible: whether processes with different shards can each make a part of the units.
    """

    run: Callable[[Run], int]
    units: Callable[[Run], Sequence[Unit]] = lambda run: ()
    name: str = ""
    divisible: bool = False


def list_by_name(module: str, run: Run) -> Callable[[], Sequence[Unit]]:
    """Return a picklable function that lists the units of a stage in another process.

    Args:
        module: name of the stage's module. It is imported by name, as the module that is `__main__`
            in this process is not `__main__` in the other.
        run: the argument for the module's `units`.
    """
    return functools.partial(_list, module, run)


def _list(module: str, run: Run) -> Sequence[Unit]:
    units: Sequence[Unit] = importlib.import_module(module).units(run)
    return units


def run_units(
    run: Run,
    stage: str,
    units: Sequence[Unit],
    listing: Callable[[], Sequence[Unit]] | None = None,
) -> int:
    """Make the units of a stage that are not done yet; return the number of failures.

    Args:
        run: the run, in whose results folder failures are recorded.
        stage: name of the stage, shown and used to name the record.
        units: as `jaxparc.units.run.run_units` takes them.
        listing: as `jaxparc.units.run.run_units` takes it.

    Raises:
        OperationError: as for `jaxparc.units.run.run_units`.
    """
    return len(units_run.run_units(stage, units, run.out, execution=run.execution, listing=listing))


def partial_folder(run: Run, stage: str, name: str) -> Path:
    """Return the folder of the state of an unfinished training run of a stage."""
    return run.out / "partial" / stage / name


def prepare(run: Run) -> None:
    """Claim the folders of a run for its settings.

    Raises:
        StageError: a folder was created with other settings.
    """
    claim(run.out, run.benchmark.settings())
    claim(run.weights, run.benchmark.source_settings())


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Record settings in a folder, or check that they equal those recorded before.

    Raises:
        StageError: the folder was created with other settings, or its record is damaged.
    """
    settings = json.loads(json.dumps(settings))
    file = folder / "settings.json"
    try:
        found = files.read_sealed(file) if file.exists() else None
        if found is None:
            files.write_sealed(file, settings)
    except files.DamagedFileError as error:
        raise StageError(f"{error}; move {folder} away to start over") from error
    if found is not None and found != settings:
        keys = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
        lines = [f"  {k}: {found.get(k)} there, {settings.get(k)} now" for k in keys]
        raise StageError(
            f"{folder} was created with other settings; move it away to start over, or give "
            "these another --name:\n" + "\n".join(lines)
        )
