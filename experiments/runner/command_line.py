"""The command line that all stages share."""

import argparse
import contextlib
import dataclasses
import importlib.util
import shutil
import signal
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from experiments import benchmarks, memory, pretrained
from experiments.benchmarks import Benchmark
from experiments.runner.run import Run, Stage, StageError, prepare
from experiments.tables import read
from jaxparc import datasets, extras, interrupts, locks, printing
from jaxparc.errors import InputError, OperationError, is_out_of_memory
from jaxparc.training import grid
from jaxparc.units import options
from jaxparc.units.compilation import cache_compilations
from jaxparc.units.progress import say
from jaxparc.units.run import missing, of_shard


def main(description: str | None, *stages: Stage) -> None:
    """Run stages from the command line, and exit with 0 if nothing failed.

    Args:
        description: description for --help.
        stages: the stages, run in this order, even after failures.
    """
    with printing.ending():
        parser = stage_parser(description)
        run_stages(parser, parser.parse_args(), stages)


def stage_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a stage, to which a command may add its own arguments.

    Args:
        description: description for --help.
    """
    spec = sys.modules["__main__"].__spec__
    parser = options.Parser(
        prog=f"python -m {spec.name}" if spec else None,
        description=description,
        epilog="Weights go to checkpoints/NAME.\n"
        "Exit codes: 0 success; 1 some units failed, the others are done; 2 wrong usage, or a "
        "stage could not continue; 130 interrupted.",
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
        help="skip units that need missing data or weights",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that decode images outside the cache of decoded ones; 0 for threads [0]",
    )
    parser.add_argument(
        "--grid",
        choices=grid.PLANS,
        default="auto",
        help="train the learning rates of a transfer together in one program, or one after "
        "another; auto uses the faster way [auto]",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write event files to tensorboard/; needs jaxparc[tensorboard]",
    )
    options.add_shard(parser)
    options.add_executor(parser)
    _add_settings(parser)
    return parser


def run_stages(
    parser: argparse.ArgumentParser, parsed: argparse.Namespace, stages: Sequence[Stage]
) -> NoReturn:
    """Run stages with parsed arguments, and exit with 0 if nothing failed.

    Args:
        parser: the parser, from `stage_parser`.
        parsed: the arguments, without those that a command added.
        stages: the stages, run in this order, even after failures.
    """
    args = dict(vars(parsed))
    chosen, out = args.pop("benchmark"), args.pop("out")
    # These do not affect results; all others are settings of the benchmark.
    how = {f.name: args.pop(f.name) for f in dataclasses.fields(Run) if f.name in args}
    try:
        changes: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in args.items()
        }
        benchmark = dataclasses.replace(benchmarks.get(chosen), **changes)
        benchmark = pretrained.with_networks(benchmark)
    except (InputError, datasets.DatasetError) as error:
        parser.exit(2, f"{parser.prog}: {printing.lines(str(error))}\n")
    out = out or Path("results") / benchmark.name
    try:
        if benchmark.external_from_oracle:
            benchmark = _with_external(benchmark, out / "oracle.csv")
        run = Run(benchmark, out, Path("checkpoints") / benchmark.name, **how)
        if run.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            raise StageError(f"--tensorboard: {extras.missing('tensorboardX', 'tensorboard')}")
        if run.shard != (1, 1):
            _require_divisible(stages)
        _check_devices(benchmark)
        cache_compilations()
        memory.release_after_compiling()
        _preflight(run, stages)
        with _alone_in(run.out, run.shard), _alone_in(run.weights, run.shard):
            if not interrupts.watching():  # not started by python -m
                signal.signal(signal.SIGTERM, _interrupt)
            prepare(run)
            failures = []
            for stage in stages:
                failures.append(stage.run(run))
                jax.clear_caches()  # a stage runs other programs than the one before it
                memory.release()
    except (InputError, OperationError) as error:
        parser.exit(2, f"{parser.prog}: {printing.lines(str(error))}\n")
    except BrokenPipeError:
        raise  # no reader is left for a message
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {printing.line(error)}; finished work is kept\n")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        parser.exit(2, f"{parser.prog}: out of memory: {printing.line(error)}\n")
    except KeyboardInterrupt:  # or SIGTERM, which precedes the loss of a preempted machine
        print("interrupted; finished work is kept, the same command resumes", file=sys.stderr)
        interrupts.leave(interrupts.CODE)
    sys.exit(1 if any(failures) else 0)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _with_external(benchmark: Benchmark, table: Path) -> Benchmark:
    """Add the models in a table of accuracies, if it exists, as external models."""
    try:
        rows = read.read_accuracies(table)
    except FileNotFoundError:
        return benchmark
    except read.TableError as error:
        raise StageError(str(error)) from error
    models = dict.fromkeys((t.architecture, t.source) for t in rows)
    return dataclasses.replace(benchmark, external=tuple(models))


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting that is a bool, a string, a number or a tuple of strings."""
    group = parser.add_argument_group(
        "settings of the benchmark (if you change any, give it another --name)"
    )
    for name, hint in typing.get_type_hints(Benchmark).items():
        flag: dict[str, Any]
        if hint is bool:
            flag = {"action": argparse.BooleanOptionalAction}
        elif hint == tuple[str, ...]:
            flag = {"nargs": "+", "metavar": "NAME"}
        elif (
            kind := next((k for k in (str, int, float) if hint in (k, k | None)), None)
        ) is not None:
            flag = {"type": kind, "metavar": {str: "NAME", int: "N", float: "X"}[kind]}
        else:
            continue
        group.add_argument(options.flag_of(name), default=argparse.SUPPRESS, **flag)


@contextlib.contextmanager
def _alone_in(folder: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Lock a folder, and remove incomplete files that a killed process left in it.

    With a shard nothing is removed, as another shard may be writing these files.
    """
    with locks.alone(folder, f"another process is using {folder}", shard=shard):
        for half in list(folder.rglob(".*.incomplete*")) if shard == (1, 1) else ():
            shutil.rmtree(half) if half.is_dir() else half.unlink(missing_ok=True)
        yield


def _require_divisible(stages: Sequence[Stage]) -> None:
    """Refuse --shard for stages that cannot be divided."""
    if whole := [stage.name for stage in stages if not stage.divisible]:
        raise StageError(
            f"--shard: {' and '.join(whole)} cannot be divided; use it with train_sources, "
            "finetune_all, linear_probes and extract_probes"
        )


def _check_devices(benchmark: Benchmark) -> None:
    devices = jax.local_device_count()
    for size in (
        benchmark.source_recipe.batch_size,
        benchmark.transfer_recipe.batch_size,
        benchmark.eval_batch_size,
    ):
        if size % devices:
            raise StageError(
                f"batches of {size} cannot be divided over {devices} devices; use fewer, for "
                "example with CUDA_VISIBLE_DEVICES"
            )


def _preflight(run: Run, stages: Sequence[Stage]) -> None:
    """Report missing data and weights before anything starts.

    Raises:
        StageError: something is missing, and --allow-missing is not given.
    """
    units = [unit for stage in stages for unit in of_shard(stage.units(run), run.shard)]
    if lacking := [unit for unit in units if unit.lacks and not unit.path.exists()]:
        if not run.allow_missing:
            others = len(units) - len(lacking)
            hint = f"\n--allow-missing runs the other {others}" if others else ""
            raise StageError(f"{run.benchmark.name}: {missing(lacking)}{hint}")
        say(f"{run.benchmark.name}: skipped: {missing(lacking)}")
