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
    """A benchmark and where its files are.

    Attributes:
        benchmark: its settings.
        out: the results folder.
        weights: the folder of the checkpoints of the sources.
        allow_missing: as of `Execution`.
        workers: processes that decode images, as `batches.batches` takes it.
        grid: how the learning rates of a transfer are tried, one of `grid.PLANS`.
        tensorboard: whether training writes event files, too.
        shard: as of `Execution`, for the units of every stage.
        executor: as of `Execution`.
        num_gpus: as of `Execution`.
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
        """How the units of its stages are run."""
        return Execution(self.executor, self.num_gpus, self.shard, self.allow_missing)

    def seed(self, *parts: object) -> int:
        """Return the seed for one purpose, which depends on nothing done before."""
        return zlib.crc32("/".join(map(str, (self.benchmark.seed, *parts))).encode())


class Stage(NamedTuple):
    """One of the five.

    Attributes:
        run: makes what is not done; returns the number of failures.
        units: lists all that it makes.
        name: of its module.
        divisible: whether processes with different shards can each make a part of its units.
    """

    run: Callable[[Run], int]
    units: Callable[[Run], Sequence[Unit]] = lambda run: ()
    name: str = ""
    divisible: bool = False


def list_by_name(module: str, run: Run) -> Callable[[], Sequence[Unit]]:
    """Return a picklable function that lists the units of a stage in another process.

    Args:
        module: of the stage. It is imported by its name, as a module that runs as `__main__` here
            is not `__main__` there.
        run: the argument of its `units`.
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
        run: in whose results folder failures are recorded.
        stage: shown and recorded.
        units: as `jaxparc.units.run.run_units` takes them.
        listing: likewise.

    Raises:
        OperationError: likewise.
    """
    return len(units_run.run_units(stage, units, run.out, execution=run.execution, listing=listing))


def partial_folder(run: Run, stage: str, name: str) -> Path:
    """Return where a training run of a stage keeps its state while it is not done."""
    return run.out / "partial" / stage / name


def prepare(run: Run) -> None:
    """Claim the folders of a run for its settings.

    Raises:
        StageError: a folder was made with other settings.
    """
    claim(run.out, run.benchmark.settings())
    claim(run.weights, run.benchmark.source_settings())


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Claim one folder.

    Raises:
        StageError: it was made with other settings.
    """
    settings = json.loads(json.dumps(settings))
    file = folder / "settings.json"
    try:
        found = files.read_sealed(file) if file.exists() else None
        if found is None:
            files.write_sealed(file, settings)
    except files.DamagedFileError as error:
        raise StageError(f"{error}; move {folder} away to start anew") from error
    if found is not None and found != settings:
        keys = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
        lines = [f"  {k}: {found.get(k)} there, {settings.get(k)} now" for k in keys]
        raise StageError(
            f"{folder} was made with other settings; move it away to start anew, or give "
            "these another --name:\n" + "\n".join(lines)
        )
