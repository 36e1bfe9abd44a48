"""Units of work, resumed, shown and survived: once, for every stage.

A unit makes one file or folder, which says in itself what it is. It is done when that is there,
whole, and its own; then it is not made again. Whatever else lies there is moved aside. A unit that
fails is recorded and the others go on; what would fail them all (no space, no permission) ends the
run, and what is done stays.
"""

import argparse
import contextlib
import dataclasses
import errno
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
import traceback
import typing
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import benchmarks, oracle
from experiments._terminal import Progress
from experiments._terminal import say as say
from experiments.benchmarks import Benchmark
from jaxparc import checkpoints, datasets, files, grid

# What a damaged unit raises when it is looked at.
Damage = (checkpoints.CheckpointError, files.DamagedFileError)
# Errors of the place that is written to, not of the unit that writes.
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


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
    """

    name: str
    path: Path
    check: Callable[[Path, str], Any]
    make: Callable[[Callable[[int], None]], None]
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
    """

    benchmark: Benchmark
    out: Path
    weights: Path
    allow_missing: bool = False
    workers: int = 0
    grid: str = "auto"
    tensorboard: bool = False

    def seed(self, *parts: object) -> int:
        """A seed for one purpose, the same whatever was done before it."""
        return zlib.crc32("/".join(map(str, (self.benchmark.seed, *parts))).encode())


class Stage(NamedTuple):
    """One of the five.

    Attributes:
        run: makes what is missing; returns the number of failures.
        units: all that it makes.
    """

    run: Callable[[Run], int]
    units: Callable[[Run], Sequence[Unit]] = lambda run: ()


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
    todo = [unit for unit in units if not is_done(unit)]
    total = len(units)
    if left_out := [unit for unit in todo if unit.lacks]:
        if not run.allow_missing:
            raise StageError(f"{stage}: {_missing(left_out)}")
        todo = [unit for unit in todo if not unit.lacks]
        total -= len(left_out)
        say(f"{stage}: {len(left_out)} left out, for want of what is missing")
    kept = total - len(todo)
    failures: list[dict[str, str]] = []
    started = time.monotonic()
    record = run.out / "failures" / f"{stage}.json"
    record.unlink(missing_ok=True)
    with Progress(stage, total, kept) as progress:
        for unit in todo:
            progress.start(unit.name)
            try:
                unit.make(progress.images)
                unit.check(unit.path, unit.name)
                progress.finish(None)
                kept += 1
            except Exception as error:  # whatever it is, the other units go on
                if isinstance(error, OSError) and error.errno in FATAL:
                    raise StageError(
                        f"{stage}: cannot write {error.filename or unit.path}: {error.strerror}; "
                        f"{kept} of {total} units are done and kept"
                    ) from error
                text = f"{type(error).__name__}: {error}"
                trace = "".join(traceback.format_exception(error))
                failures.append({"unit": unit.name, "error": text, "traceback": trace})
                files.write_text(record, json.dumps(failures, indent=1) + "\n")
                progress.finish(text)
    if failures:
        say(f"{stage}: {len(failures)} of {total} units failed; see {record}")
    made = len(todo) - len(failures)
    seconds = time.monotonic() - started
    say(f"{stage}: {made} made in {seconds:.1f} s, {kept - made} were there")
    return len(failures)


def _missing(units: Sequence[Unit]) -> str:
    """What units lack, by the way to get it."""
    ways: dict[str, dict[str, None]] = {}
    for unit in units:
        for what, way in unit.lacks.items():
            ways.setdefault(way, {})[what] = None
    lines = [f"  {way.replace(NAMES, ' '.join(whats))}" for way, whats in ways.items()]
    return f"{len(units)} units need what is not on this machine:\n" + "\n".join(lines)


def _preflight(run: Run, stages: Sequence[Stage]) -> None:
    """Say what is missing before anything starts, and go on only if that is allowed.

    Raises:
        StageError: it is not.
    """
    units = [unit for stage in stages for unit in stage.units(run)]
    if lacking := [unit for unit in units if unit.lacks and not unit.path.exists()]:
        if not run.allow_missing:
            raise StageError(
                f"{run.benchmark.name}: {_missing(lacking)}\n"
                f"--allow-missing runs the other {len(units) - len(lacking)}"
            )
        say(f"{run.benchmark.name}: left out: {_missing(lacking)}")


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


def main(description: str | None, *stages: Stage) -> None:
    """The command line that all stages share; exits with 0 if nothing failed.

    Args:
        description: for --help.
        stages: run in this order, also after failures, of which each returns the number.
    """
    spec = sys.modules["__main__"].__spec__
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if spec else None,
        description=description,
        epilog="Weights go to checkpoints/NAME.\n"
        "Exit codes: 0 done; 1 some units failed, the others are done; 2 it could not go on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(benchmarks.BENCHMARKS)
    parser.add_argument(
        "--benchmark", default="demo", metavar="NAME", help=f"one of {known} [demo]"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="results folder [results/NAME]")
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="leave out what needs data or weights that are not there",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that decode images which are not kept decoded; 0 for threads [0]",
    )
    parser.add_argument(
        "--grid",
        choices=grid.PLANS,
        default="auto",
        help="learning rates of a transfer in one program or one after the other; auto is the "
        "faster one [auto]",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write tensorboard/ beside metrics/; needs jaxparc[tensorboard]",
    )
    _add_settings(parser)
    args: dict[str, Any] = vars(parser.parse_args())
    chosen, out = args.pop("benchmark"), args.pop("out")
    options = {name: args.pop(name) for name in ("allow_missing", "workers", "grid", "tensorboard")}
    try:
        changes: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in args.items()
        }
        benchmark = dataclasses.replace(benchmarks.get(chosen), **changes)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    out = out or Path("results") / benchmark.name
    try:
        if benchmark.external_from_oracle:
            benchmark = _with_external(benchmark, out / "oracle.csv")
        run = Run(benchmark, out, Path("checkpoints") / benchmark.name, **options)
        if run.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            raise StageError('--tensorboard needs: pip install "jaxparc[tensorboard]"')
        _check_devices(benchmark)
        _cache_compilations()
        _preflight(run, stages)
        with _alone_in(run.out), _alone_in(run.weights):
            signal.signal(signal.SIGTERM, _interrupt)
            prepare(run)
            failures = [stage.run(run) for stage in stages]
    except (StageError, datasets.DatasetError, *Damage) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except OSError as error:
        if error.errno not in FATAL:
            raise
        where = error.filename or out
        parser.exit(2, f"{parser.prog}: {where}: {error.strerror}; what is done is kept\n")
    except KeyboardInterrupt:  # or SIGTERM, as before a machine is taken away
        parser.exit(130, "interrupted; what is done is kept, and the same command goes on\n")
    sys.exit(1 if any(failures) else 0)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _with_external(benchmark: Benchmark, table: Path) -> Benchmark:
    """With the models that a table of accuracies lists, if it is there, as external ones."""
    try:
        rows = oracle.read(table)
    except FileNotFoundError:
        return benchmark
    except oracle.OracleError as error:
        raise StageError(str(error)) from error
    models = dict.fromkeys((t.architecture, t.source) for t in rows)
    return dataclasses.replace(benchmark, external=tuple(models))


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One flag for every setting that is a word, a number, or a list of words."""
    group = parser.add_argument_group(
        "settings of the benchmark (with others than its own, give it another --name)"
    )
    for name, hint in typing.get_type_hints(Benchmark).items():
        options: dict[str, Any]
        if hint is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif hint == tuple[str, ...]:
            options = {"nargs": "+", "metavar": "NAME"}
        elif (
            kind := next((k for k in (str, int, float) if hint in (k, k | None)), None)
        ) is not None:
            options = {"type": kind, "metavar": {str: "NAME", int: "N", float: "X"}[kind]}
        else:
            continue
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, **options)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, and clear away what a killed one left half-written."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder, wait=False))
        except BlockingIOError as error:
            raise StageError(f"another process is at work in {folder}") from error
        except OSError as error:
            raise StageError(f"cannot write {folder}: {error.strerror}") from error
        for half in list(folder.rglob(".*.incomplete")):
            shutil.rmtree(half) if half.is_dir() else half.unlink(missing_ok=True)
        yield


def _check_devices(benchmark: Benchmark) -> None:
    devices = jax.local_device_count()
    for size in (
        benchmark.source_recipe.batch_size,
        benchmark.transfer_recipe.batch_size,
        benchmark.eval_batch_size,
    ):
        if size % devices:
            raise StageError(
                f"batches of {size} do not divide over {devices} devices; let fewer be seen, "
                "for example by CUDA_VISIBLE_DEVICES"
            )


def _cache_compilations() -> None:
    """Keep compiled programs between runs: a resumed run does not compile again."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = os.path.expanduser("~/.cache/jaxparc/compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A process killed while it wrote leaves a broken entry; it is compiled again, and that is all.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
