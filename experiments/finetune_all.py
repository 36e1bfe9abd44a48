"""Stage 2: fine-tune every source model to every target, which gives the ground truth.

Trains missing sources first. Writes a folder for each transfer to transfers/, with a file for each
learning rate, and training metrics to metrics/. From the transfers it writes oracle.csv (the
accuracy of each transfer), scratch.csv (that of random initialisations) and grid.csv (every
learning rate tried, its number of steps, and which rate was chosen). With --repeats, it trains each
transfer again at the chosen rate, with other seeds of the head, the order of the images, crops and
mirroring; oracle.csv has the mean, and a column for each seed.

With --halving, the worse half of a grid is stopped after a quarter, and again after half, of the
steps. A rate is stopped for all sources of an architecture and target together, as it is chosen for
all of them together.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import train_sources
from experiments import transfer_results as results
from experiments.benchmarks import Benchmark
from experiments.runner import command_line, data, telemetry
from experiments.runner.run import Run, Stage, StageError, list_by_name, partial_folder, run_units
from jaxparc import locks
from jaxparc.errors import InputError
from jaxparc.evaluation import SCRATCH, Transfer
from jaxparc.training import checkpoints, grid, loop
from jaxparc.training.decoding import Source
from jaxparc.training.program import Point
from jaxparc.training.steps import Task, with_new_head
from jaxparc.units.unit import Unit, read_result, write_result


def stage(run: Run) -> int:
    """Fine-tune the transfers that are missing; return the number of failures."""
    data.prepare(run.benchmark)
    waves = _waves(run)
    imported = (run.out / "oracle.csv").exists() and not (run.out / "transfers").exists()
    if imported and any(not unit.lacks for wave in waves for unit in wave):
        raise StageError(
            f"{run.out / 'oracle.csv'} was imported and would be replaced; to fine-tune, "
            "give another --out"
        )
    # The rates that continue after a rung are known once all sources have reached it.
    listing = list_by_name("experiments.finetune_all", run)
    failures = sum(run_units(run, "finetune_all", wave, listing) for wave in waves)
    # Without a transfer, such as in a shard that has none, a table would look like an imported one.
    if not imported and (run.out / "transfers").exists():
        # The last of several shards finds the results of all.
        with locks.folder(run.out / "metrics", wait=True):
            results.write_tables(run)
    return failures


def units(run: Run) -> list[Unit]:
    """Return the units of all transfers, each of which trains a grid; with halving, rungs first.

    Raises:
        StageError: a target has too few images.
    """
    return [unit for wave in _waves(run) for unit in wave]


def _waves(run: Run) -> list[list[Unit]]:
    benchmark = run.benchmark
    transfers = results.transfers(benchmark)
    for target in {transfer.target for transfer in transfers}:
        data.transfer_splits(benchmark, target)
    rungs = results.rungs(benchmark)
    kinds = [functools.partial(_rung_unit, run, rung, steps) for rung, steps in enumerate(rungs)]
    kinds += [functools.partial(_whole_unit, run, len(rungs))]
    kinds += [functools.partial(_repeat_unit, run, n) for n in range(1, benchmark.repeats)]
    return [[unit_of(transfer) for transfer in transfers] for unit_of in kinds]


def _rung_unit(run: Run, rung: int, steps: int, transfer: Transfer) -> Unit:
    return _unit(
        run,
        transfer,
        results.rung_name(transfer, steps),
        results.rung_path(run, transfer, steps),
        read_result,
        functools.partial(_finetune, run, transfer, rung, steps),
    )


def _whole_unit(run: Run, rung: int, transfer: Transfer) -> Unit:
    return _unit(
        run,
        transfer,
        results.name_of(transfer),
        results.folder_of(run, transfer),
        functools.partial(_check, run, transfer),
        functools.partial(_finetune, run, transfer, rung, None),
    )


def _repeat_unit(run: Run, number: int, transfer: Transfer) -> Unit:
    return _unit(
        run,
        transfer,
        results.repeat_name(transfer, number),
        results.repeat_path(run, transfer, number),
        functools.partial(results.check_repeat, run, transfer),
        functools.partial(_repeat, run, transfer, number),
        # Its rate is known once all of these are trained.
        {k: v for t in results.sharing_rate(run, transfer) for k, v in _lacking(run, t).items()},
    )


def _unit(
    run: Run,
    transfer: Transfer,
    name: str,
    path: Path,
    check: Callable[[Path, str], Any],
    make: Callable[[Callable[[int], None]], None],
    lacks: Mapping[str, str] | None = None,
) -> Unit:
    """Return a unit of a transfer; one shard makes all those that depend on each other."""
    benchmark = run.benchmark
    together = benchmark.halving or benchmark.repeats > 1
    group = " ".join(map(str, results.rate_key(transfer))) if together else ""
    return Unit(name, path, check, make, lacks or _lacking(run, transfer), group=group)


def _check(run: Run, transfer: Transfer, path: Path, name: str) -> None:
    """Check the result of every candidate, as the folder itself does not record its unit."""
    del path, name
    for candidate in results.last(run, transfer):
        read_result(results.path_of(run, candidate), results.unit_name(candidate))


def _lacking(run: Run, transfer: Transfer) -> dict[str, str]:
    found = data.lacking(run.benchmark, transfer.target)
    if transfer.source != SCRATCH:
        found |= train_sources.lacking(run, transfer.architecture, transfer.source)
    return found


def _finetune(
    run: Run,
    transfer: Transfer,
    rung: int,
    until: int | None,
    on_images: Callable[[int], None],
) -> None:
    """Train the rest of a transfer's grid, to a rung or to the end, keeping existing results."""
    rates = results.remaining_rates(run, transfer, rung)
    tried = [results.Candidate(transfer, rate) for rate in rates]
    done: dict[int, dict[str, Any]] = {}  # existing results, by index in the grid
    at_rung: dict[str, Any] = {"validation": {}, "seconds": 0.0}
    if until is None:
        for i, candidate in enumerate(tried):
            with contextlib.suppress(FileNotFoundError):
                done[i] = read_result(results.path_of(run, candidate), results.unit_name(candidate))
    elif len(tried) == 1:  # no rate is left to stop
        _write_rung(run, transfer, until, at_rung)
        return
    plan = _plan(run)
    for i, result in _trained(
        run,
        transfer,
        rates,
        on_images,
        runs_at_once=_runs_at_once(plan, done.values()),
        done=done,
        until=until,
    ):
        if until is None:
            write_result(results.path_of(run, tried[i]), results.unit_name(tried[i]), result)
        else:
            at_rung["validation"][f"{tried[i].learning_rate:g}"] = result["validation"]
            at_rung["seconds"] += result["seconds"]
    if until is None:
        checkpoints.remove(_partial(run, transfer))
    else:
        _write_rung(run, transfer, until, at_rung)


def _repeat(run: Run, transfer: Transfer, number: int, on_images: Callable[[int], None]) -> None:
    """Train a transfer again, at its chosen learning rate and with another seed."""
    try:
        rate = results.chosen_rate(run, transfer)
        found = results.outcome(run, results.Candidate(transfer, rate))
    except FileNotFoundError as error:
        raise InputError(
            f"its learning rate is chosen when all transfers of {transfer.architecture} to "
            f"{transfer.target} are trained; {error.filename or error} is missing"
        ) from error
    if found["test"] is None:  # it diverged, at every rate
        result = {"losses": [], "seconds": 0.0, "validation": None, "test": None}
    else:
        ((_, result),) = _trained(run, transfer, [rate], on_images, number=number)
    name = results.repeat_name(transfer, number)
    write_result(results.repeat_path(run, transfer, number), name, result | {"learning_rate": rate})
    checkpoints.remove(_partial(run, transfer, number))


def _partial(run: Run, transfer: Transfer, number: int = 0) -> Path:
    return partial_folder(run, "finetune_all", _run_name(run, transfer, number))


def _run_name(run: Run, transfer: Transfer, number: int) -> str:
    return results.folder_of(run, transfer).name + (f"_seed_{number}" if number else "")


def _plan(run: Run) -> str:
    # The states of runs that were trained together can only be resumed together.
    return "apart" if run.benchmark.halving else run.grid


def _trained(
    run: Run,
    transfer: Transfer,
    rates: Sequence[float],
    on_images: Callable[[int], None],
    *,
    number: int = 0,
    runs_at_once: int | None = None,
    done: Collection[int] = (),
    until: int | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Train a transfer at several learning rates, to a rung or to the end.

    Args:
        run: the run.
        transfer: the transfer.
        rates: the learning rates.
        on_images: called with the numbers of images that were trained on.
        number: number of the seed.
        runs_at_once: as `grid.fit_grid` takes it.
        done: indices of the rates that are not to be trained.
        until: number of steps to stop after; None for all.

    Yields:
        The index of a rate, and its result, with accuracies on the validation images and, after all
        steps, the test images.
    """
    benchmark = run.benchmark
    parts = (*transfer, number) if number else transfer
    task = train_sources.task_of(
        benchmark, transfer.architecture, transfer.source, target=transfer.target, training=True
    )
    if transfer.source == SCRATCH:
        variables = train_sources.initial(run, transfer.architecture, transfer.target, SCRATCH)
    else:
        # The runs of a grid start from the same weights and differ only in the learning rate.
        variables = with_new_head(
            train_sources.source_model(run, transfer.architecture, transfer.source),
            task.module.num_classes,
            run.seed("head", *parts),
        )
    tuning, validation, test = (
        data.images(benchmark, transfer.target, split)
        for split in data.transfer_splits(benchmark, transfer.target)
    )
    recipe = dataclasses.replace(benchmark.transfer_recipe, weight_decay=benchmark.weight_decay)
    seed, plan = run.seed("finetune", *parts), _plan(run)
    names = [f"{_run_name(run, transfer, number)}_{rate:g}" for rate in rates]
    with telemetry.watching(run, "finetune_all", names, on_images) as watch:
        for i, fitted in grid.fit_grid(
            task,
            variables,
            tuning,
            [Point(dataclasses.replace(recipe, learning_rate=rate), seed) for rate in rates],
            plan=plan,
            runs_at_once=runs_at_once,
            done=done,
            size=benchmark.image_size,
            mirror=benchmark.data(transfer.target).mirror,
            workers=run.workers,
            until=until,
            watch=watch,
            partial=_partial(run, transfer, number),
        ):
            tested = {"validation": validation} | ({"test": test} if until is None else {})
            result = _result(benchmark, task, fitted, tested)
            if until is None:
                result["grid"] = {"plan": plan, "runs_at_once": fitted.runs_at_once}
            yield i, result


def _runs_at_once(plan: str, results: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the runs at once that the results of a grid record for a plan, or None."""
    for result in results:
        recorded = result.get("grid", {})
        if recorded.get("plan") == plan:
            return recorded["runs_at_once"]
    return None


def _write_rung(run: Run, transfer: Transfer, steps: int, content: dict[str, Any]) -> None:
    path = results.rung_path(run, transfer, steps)
    write_result(path, results.rung_name(transfer, steps), content)


def _result(
    benchmark: Benchmark,
    task: Task,
    fitted: loop.Fitted,
    sources: Mapping[str, Source],
) -> dict[str, Any]:
    """Return losses, seconds and accuracies on `sources` in percent, None if the run diverged."""
    finite = fitted.losses[: fitted.diverged]
    result: dict[str, Any] = {
        "losses": [round(float(loss), 4) for loss in finite],
        "seconds": fitted.seconds,
    }
    if fitted.diverged is not None:
        result["diverged"] = f"the loss of step {fitted.diverged} is not finite"
        return result | dict.fromkeys(sources)
    started = time.monotonic()
    for name, source in sources.items():
        result[name] = loop.accuracy(
            task,
            fitted.variables,
            source,
            size=benchmark.image_size,
            batch_size=benchmark.eval_batch_size,
        )
    result["seconds"] += time.monotonic() - started
    return result


STAGE = Stage(stage, units, "finetune_all", divisible=True)

if __name__ == "__main__":
    command_line.main(__doc__, train_sources.STAGE, STAGE)
