"""Units of work, resumed, shown and survived: once, for every stage.

A unit makes one file or folder, which says in itself what it is. It is done when that is there,
whole, and its own; then it is not made again. Whatever else lies there is moved aside. A unit that
fails is recorded and the others go on; what would fail them all (no space, no permission) ends the
run, and what is done stays.
"""

import dataclasses
import errno
import json
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from experiments.benchmarks import Benchmark
from jaxparc import files, interrupts, printing
from jaxparc.training import checkpoints
from jaxparc.units.progress import Progress
from jaxparc.units.progress import say as say

# What a damaged unit raises when it is looked at.
Damage = (checkpoints.CheckpointError, files.DamagedFileError)
# Errors of the place that is written to, not of the unit that writes.
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


# Stages of whose units several processes can each make some; other machines look them up by name.
DIVISIBLE = ("train_sources", "finetune_all", "extract_probes")
NAMES = "NAMES"  # stands for what is missing, in the way to get it


class StageError(RuntimeError):
    """A stage cannot go on; the message is for the user."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """One thing to make.

    Attributes:
        name: shown and recorded, also in what it makes.
        path: of the file or folder that it makes.
        check: reads what is at `path`, given `name`; raises FileNotFoundError if it is to be made,
            CheckpointError or DamagedFileError if it is broken or another's.
        make: makes it, calling its argument with numbers of images as it goes.
        lacks: what it cannot be made without and is not there -> how to get that.
        after: the unit of the same stage that must be done before, if there is one.
        group: units of one are in one shard, as they need each other; alone by default.
    """

    name: str
    path: Path
    check: Callable[[Path, str], Any]
    make: Callable[[Callable[[int], None]], None]
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    after: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """A benchmark and where its files are.

    Attributes:
        benchmark: its settings.
        out: the results folder.
        weights: the folder of the sources' checkpoints.
        allow_missing: whether to leave out what cannot be made for want of data or weights.
        workers: processes that decode images, as `input.batches` takes it.
        grid: how the learning rates of a transfer are tried, one of `grid.PLANS`.
        tensorboard: whether training writes event files, too.
        shard: (i, n) for the i-th of n parts of every stage's units, i from 1.
        executor: what makes units, a key of `EXECUTORS`.
        num_gpus: that a unit takes, with Ray; None for one where there are some.
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

    def seed(self, *parts: object) -> int:
        """A seed for one purpose, the same whatever was done before it."""
        return zlib.crc32("/".join(map(str, (self.benchmark.seed, *parts))).encode())


class Stage(NamedTuple):
    """One of the five.

    Attributes:
        run: makes what is missing; returns the number of failures.
        units: all that it makes.
        name: of its module, by which `DIVISIBLE` knows it.
    """

    run: Callable[[Run], int]
    units: Callable[[Run], Sequence[Unit]] = lambda run: ()
    name: str = ""


def read_result(path: Path, name: str) -> dict[str, Any]:
    """The sealed file of a unit.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFileError: it is not what was written, or another unit's.
    """
    content = files.read_sealed(path)
    if not isinstance(content, dict) or content.get("unit") != name:
        raise files.DamagedFileError(f"{path} is not of the unit {name!r}")
    return content


def write_result(path: Path, name: str, content: dict[str, Any]) -> None:
    """The sealed file of a unit, which `read_result` reads."""
    files.write_sealed(path, {"unit": name, **content})


def is_done(unit: Unit) -> bool:
    """Whether a unit is there, whole and its own; whatever else is there is moved aside."""
    try:
        unit.check(unit.path, unit.name)
    except FileNotFoundError:
        return False
    except Damage as error:
        aside = _free(unit.path.with_name(f"{unit.path.name}.damaged"))
        unit.path.rename(aside)
        say(f"{error}; moved to {aside.name}, made again")
        return False
    return True


def partial(run: Run, stage: str, name: str) -> Path:
    """Where a training run of a stage keeps what it needs to go on after an interruption."""
    return run.out / "partial" / stage / name


def _free(path: Path) -> Path:
    """The path, numbered if something is there."""
    number, free = 1, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}.{number}")
    return free


class Made(NamedTuple):
    """What came of a unit.

    Attributes:
        unit: that was to be made.
        seconds: it took.
        error: what went wrong, on one line; None if nothing did.
        traceback: of that.
    """

    unit: Unit
    seconds: float
    error: str | None = None
    traceback: str = ""


class FatalError(RuntimeError):
    """What would fail all units; the message says what could not be written."""


def make(unit: Unit, on_images: Callable[[int], None]) -> Made:
    """Make a unit, and see that it is there.

    Raises:
        FatalError: nothing can be written.
    """
    started = time.monotonic()
    try:
        unit.make(on_images)
        unit.check(unit.path, unit.name)
    except Exception as error:  # whatever it is, the other units go on
        if isinstance(error, OSError) and error.errno in FATAL:
            raise FatalError(
                f"cannot write {error.filename or unit.path}: {error.strerror}"
            ) from error
        if interrupts.came():  # it is what a library made of the interrupt
            raise KeyboardInterrupt from error
        text = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        return Made(unit, time.monotonic() - started, text, trace)
    return Made(unit, time.monotonic() - started)


def _locally(run: Run, stage: str, todo: Sequence[Unit], progress: Progress) -> Iterator[Made]:
    """One after the other, in this process."""
    del run, stage
    for unit in todo:
        progress.start(unit.name)
        yield make(unit, progress.images)


def _on_ray(run: Run, stage: str, todo: Sequence[Unit], progress: Progress) -> Iterator[Made]:
    from jaxparc.units.executors import made

    return made(run, stage, todo, progress)


Executor: TypeAlias = Callable[[Run, str, Sequence[Unit], Progress], Iterator[Made]]
EXECUTORS: Mapping[str, Executor] = MappingProxyType({"local": _locally, "ray": _on_ray})


def of_shard(run: Run, units: Sequence[Unit]) -> list[Unit]:
    """This run's part of the units."""
    i, n = run.shard
    groups = [unit.group or unit.name for unit in units]
    turn = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    return [unit for unit, group in zip(units, groups, strict=True) if turn[group] % n == i - 1]


def run_units(run: Run, stage: str, units: Sequence[Unit]) -> int:
    """Make what is not done yet, with live progress.

    Args:
        run: whose results folder records failures.
        stage: shown and recorded.
        units: in this order.

    Returns:
        The number of units that failed.

    Raises:
        StageError: nothing can be written, or something that units need is missing and that was
            not allowed.
    """
    units = of_shard(run, units)
    todo = [unit for unit in units if not is_done(unit)]
    total = len(units)
    if left_out := [unit for unit in todo if unit.lacks]:
        if not run.allow_missing:
            raise StageError(f"{stage}: {missing(left_out)}")
        todo = [unit for unit in todo if not unit.lacks]
        total -= len(left_out)
        say(f"{stage}: {len(left_out)} left out, for want of what is missing")
    kept = total - len(todo)
    failures: list[dict[str, str]] = []
    started = time.monotonic()
    part = "" if run.shard == (1, 1) else "-{}of{}".format(*run.shard)
    record = run.out / "failures" / f"{stage}{part}.json"
    record.unlink(missing_ok=True)
    with Progress(stage, total, kept) as progress:
        try:
            executor = run.executor if stage in DIVISIBLE else "local"
            for made in EXECUTORS[executor](run, stage, todo, progress):
                progress.finish(made.unit.name, made.seconds, made.error)
                if made.error is None:
                    kept += 1
                    continue
                failures.append(
                    {"unit": made.unit.name, "error": made.error, "traceback": made.traceback}
                )
                files.write_text(record, json.dumps(failures, indent=1) + "\n")
        except FatalError as error:
            raise StageError(
                f"{stage}: {error}; {kept} of {printing.count(total, 'unit')} are done and kept"
            ) from error
    if failures:
        say(f"{stage}: {len(failures)} of {printing.count(total, 'unit')} failed; see {record}")
    count = len(todo) - len(failures)
    seconds = time.monotonic() - started
    say(f"{stage}: {count} made in {seconds:.1f} s, {kept - count} were there")
    return len(failures)


def missing(units: Sequence[Unit]) -> str:
    """What units lack, by the way to get it."""
    ways: dict[str, dict[str, None]] = {}
    for unit in units:
        for what, way in unit.lacks.items():
            ways.setdefault(way, {})[what] = None
    lines = [f"  {way.replace(NAMES, ' '.join(whats))}" for way, whats in ways.items()]
    need = "needs" if len(units) == 1 else "need"
    count = printing.count(len(units), "unit")
    return f"{count} {need} what is not on this machine:\n" + "\n".join(lines)


def prepare(run: Run) -> None:
    """Claim the folders of a run for its settings, or refuse those of another.

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
