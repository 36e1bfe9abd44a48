"""The command line that all stages share."""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import sys
import typing
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments import benchmarks
from experiments.benchmarks import Benchmark
from experiments.tables import oracle
from jaxparc import datasets, files, interrupts, printing
from jaxparc.training import grid
from jaxparc.units import run as _run
from jaxparc.units.run import Run, Stage, StageError, say


def main(description: str | None, *stages: Stage) -> None:
    """The command line that all stages share; exits with 0 if nothing failed.

    Args:
        description: for --help.
        stages: run in this order, also after failures, of which each returns the number.
    """
    with printing.ending():
        _main(description, stages)


def _main(description: str | None, stages: Sequence[Stage]) -> None:
    spec = sys.modules["__main__"].__spec__
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if spec else None,
        description=description,
        epilog="Weights go to checkpoints/NAME.\n"
        "Exit codes: 0 done; 1 some units failed, the others are done; 2 it could not go on; "
        "130 interrupted.",
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
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="I/N",
        help="only the I-th of N parts of the work, I from 1: for the jobs of an array",
    )
    parser.add_argument(
        "--executor",
        choices=_run.EXECUTORS,
        default="local",
        help="where the work is done: in this process, or by a Ray cluster [local]",
    )
    parser.add_argument(
        "--num-gpus",
        type=float,
        metavar="X",
        help="of the cluster for each piece of work [1 if it has any]",
    )
    _add_settings(parser)
    args: dict[str, Any] = vars(parser.parse_args())
    chosen, out = args.pop("benchmark"), args.pop("out")
    # What no result depends on; the rest are settings of the benchmark.
    options = {f.name: args.pop(f.name) for f in dataclasses.fields(Run) if f.name in args}
    try:
        changes: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in args.items()
        }
        benchmark = dataclasses.replace(benchmarks.get(chosen), **changes)
    except (ValueError, datasets.DatasetError) as error:
        parser.exit(2, f"{parser.prog}: {printing.lines(str(error))}\n")
    out = out or Path("results") / benchmark.name
    try:
        if benchmark.external_from_oracle:
            benchmark = _with_external(benchmark, out / "oracle.csv")
        run = Run(benchmark, out, Path("checkpoints") / benchmark.name, **options)
        if run.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            raise StageError('--tensorboard needs: pip install "jaxparc[tensorboard]"')
        if run.shard != (1, 1) and not all(stage.name in _run.DIVISIBLE for stage in stages):
            raise StageError(
                f"--shard is for {', '.join(_run.DIVISIBLE[:-1])} and {_run.DIVISIBLE[-1]}; this "
                "needs what all of them make"
            )
        _check_devices(benchmark)
        cache_compilations()
        _preflight(run, stages)
        with _alone_in(run.out, run.shard), _alone_in(run.weights, run.shard):
            if not interrupts.watching():  # as it was not started by python -m
                signal.signal(signal.SIGTERM, _interrupt)
            _run.prepare(run)
            failures = [stage.run(run) for stage in stages]
    except (RuntimeError, MemoryError) as error:  # of a stage, a data set or damage, or of JAX
        parser.exit(2, f"{parser.prog}: {printing.lines(str(error))}\n")
    except BrokenPipeError:
        raise  # nobody reads what is said, either
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {printing.line(error)}; what is done is kept\n")
    except KeyboardInterrupt:  # or SIGTERM, as before a machine is taken away
        print("interrupted; what is done is kept, and the same command goes on", file=sys.stderr)
        interrupts.leave(interrupts.CODE)
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


def _shard(text: str) -> tuple[int, int]:
    """I/N as numbers."""
    if not re.fullmatch(r"\d+/\d+", text):
        raise argparse.ArgumentTypeError(f"expected I/N, such as 1/8, got {text!r}")
    i, n = map(int, text.split("/"))
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"I must be from 1 to N, got {text!r}")
    return i, n


@contextlib.contextmanager
def _alone_in(folder: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Keep other processes out of a folder, and clear away what a killed one left half-written.

    One with a shard lets those with others in, and clears nothing away, as it may be theirs.
    """
    whole = shard == (1, 1)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder, wait=False, shared=not whole))
            if not whole:
                own = folder / "shards" / "{}of{}".format(*shard)
                stack.enter_context(files.locked(own, wait=False))
        except BlockingIOError as error:
            raise StageError(f"another process is at work in {folder}") from error
        except OSError as error:
            raise StageError(f"cannot write {folder}: {error.strerror}") from error
        for half in list(folder.rglob(".*.incomplete")) if whole else ():
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


def cache_compilations() -> None:
    """Keep compiled programs between runs: a resumed run does not compile again."""
    folder = os.path.expanduser("~/.cache/jaxparc/compiled")
    # There may be no home: neither in the environment nor for the user.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and folder[0] != "~":
        jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A process killed while it wrote leaves a broken entry; it is compiled again, and that is all.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _preflight(run: Run, stages: Sequence[Stage]) -> None:
    """Say what is missing before anything starts, and go on only if that is allowed.

    Raises:
        StageError: it is not.
    """
    units = [unit for stage in stages for unit in _run.of_shard(run, stage.units(run))]
    if lacking := [unit for unit in units if unit.lacks and not unit.path.exists()]:
        if not run.allow_missing:
            raise StageError(
                f"{run.benchmark.name}: {_run.missing(lacking)}\n"
                f"--allow-missing runs the other {len(units) - len(lacking)}"
            )
        say(f"{run.benchmark.name}: left out: {_run.missing(lacking)}")
