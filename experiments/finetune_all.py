"""Stage 2: fine-tune every source model to every target, which gives the ground truth.

Trains missing sources first. Writes a folder for each transfer to transfers/, with a file for each
learning rate, and training metrics to metrics/. From the transfers it writes oracle.csv (the
accuracy of each transfer), scratch.csv (that of random initialisations) and grid.csv (every
learning rate tried, its number of steps, and which rate was chosen).

With --halving, the worse half of a grid is stopped after a quarter, and again after half, of the
steps. A rate is stopped for all sources of an architecture and target together, as it is chosen for
all of them together.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import train_sources
from experiments.benchmarks import Benchmark
from experiments.runner import command_line, data, telemetry
from experiments.runner.run import Run, Stage, StageError, list_by_name, partial_folder, run_units
from jaxparc import files, locks
from jaxparc.errors import InputError
from jaxparc.evaluation import SCRATCH, Transfer
from jaxparc.training import checkpoints, grid, halving, loop
from jaxparc.training.decoding import Source
from jaxparc.training.program import Point
from jaxparc.training.steps import Task, with_new_head
from jaxparc.units.unit import Unit, read_result, write_result

_GRID = (
    "Architecture",
    "Source Dataset",
    "Target Dataset",
    "Learning Rate",
    "Steps",
    "Validation",
    "Test",
    "Chosen",
)


class Candidate(NamedTuple):
    """One training run: a transfer with one learning rate of the grid."""

    transfer: Transfer
    learning_rate: float


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
    if not imported:
        # The last of several shards finds the results of all.
        with locks.folder(run.out / "metrics", wait=True):
            _write_tables(run)
    return failures


def units(run: Run) -> list[Unit]:
    """Return the units of all transfers, each of which trains a grid; with halving, rungs first.

    Raises:
        StageError: a target has too few images.
    """
    return [unit for wave in _waves(run) for unit in wave]


def _waves(run: Run) -> list[list[Unit]]:
    benchmark = run.benchmark
    transfers = list(benchmark.transfers(scratch=benchmark.scratch))
    for target in {transfer.target for transfer in transfers}:
        data.transfer_splits(benchmark, target)
    waves = []
    for rung, steps in enumerate((*rungs(benchmark), None)):
        wave = []
        for transfer in transfers:
            name = _name(transfer) if steps is None else _rung_name(transfer, steps)
            wave.append(
                Unit(
                    name,
                    _folder(run, transfer) if steps is None else _rung_path(run, transfer, steps),
                    functools.partial(_check, run, transfer) if steps is None else read_result,
                    functools.partial(_finetune, run, transfer, rung, steps),
                    _lacking(run, transfer),
                    group=" ".join(map(str, _rate_key(transfer))) if benchmark.halving else "",
                )
            )
        waves.append(wave)
    return waves


def rungs(benchmark: Benchmark) -> tuple[int, ...]:
    """Return the numbers of steps after which half of a grid is stopped."""
    return halving.rungs(benchmark.transfer_recipe.steps) if benchmark.halving else ()


def remaining_rates(run: Run, transfer: Transfer, rung: int) -> tuple[float, ...]:
    """Return the learning rates of a transfer's grid that continue after a number of rungs.

    At every rung the better half, rounded up, continues, by mean validation accuracy over the
    sources that share a learning rate. All continue if one of these has not reached it.
    """
    rates = run.benchmark.learning_rates[transfer.architecture]
    together = [
        other
        for other in run.benchmark.transfers(scratch=run.benchmark.scratch)
        if _rate_key(other) == _rate_key(transfer)
    ]
    for steps in rungs(run.benchmark)[:rung]:
        if len(rates) == 1:
            break
        try:
            found = [_at_rung(run, other, steps) for other in together]
        except (FileNotFoundError, files.DamagedFileError):
            break
        means = {rate: _mean([of_rates[f"{rate:g}"] for of_rates in found]) for rate in rates}
        rates = tuple(halving.better_half(means))
    return rates


def _at_rung(run: Run, transfer: Transfer, steps: int) -> dict[str, float | None]:
    """Return validation accuracies after a number of steps, by learning rate."""
    content = read_result(_rung_path(run, transfer, steps), _rung_name(transfer, steps))
    return content["validation"]


def _mean(accuracies: Sequence[float | None]) -> float:
    """Return the mean over the sources; minus infinity if a run diverged."""
    return float(np.mean([-np.inf if v is None else v for v in accuracies]))


def _check(run: Run, transfer: Transfer, path: Path, name: str) -> None:
    """Check the result of every candidate, as the folder itself does not record its unit."""
    del path, name
    for candidate in _last(run, transfer):
        read_result(_path(run, candidate), _unit_name(candidate))


def _last(run: Run, transfer: Transfer) -> list[Candidate]:
    """Return the candidates that are trained to the end."""
    return [
        Candidate(transfer, r) for r in remaining_rates(run, transfer, len(rungs(run.benchmark)))
    ]


def _lacking(run: Run, transfer: Transfer) -> dict[str, str]:
    found = data.lacking(run.benchmark, transfer.target)
    if transfer.source != SCRATCH:
        found |= train_sources.lacking(run, transfer.architecture, transfer.source)
    return found


def candidates(run: Run) -> Iterator[Candidate]:
    """Iterate over the training runs of the benchmark."""
    benchmark = run.benchmark
    for transfer in benchmark.transfers(scratch=benchmark.scratch):
        for rate in benchmark.learning_rates[transfer.architecture]:
            yield Candidate(transfer, rate)


def choose(
    validation: Mapping[Candidate, float | None],
) -> dict[Transfer, float]:
    """Choose the learning rate of every transfer, only by accuracy on the validation images.

    One rate is chosen per (target, architecture), the best on average over the sources, and one for
    random initialisations. A rate at which a run diverged comes last; ties go to the first rate.

    Args:
        validation: accuracies in percent, None where the run diverged, for the whole grid of every
            transfer.
    """
    groups: dict[tuple[str, str, bool], list[Candidate]] = {}
    for candidate in validation:
        groups.setdefault(_rate_key(candidate.transfer), []).append(candidate)
    chosen = {}
    for group in groups.values():
        transfers = dict.fromkeys(c.transfer for c in group)
        rates = list(dict.fromkeys(c.learning_rate for c in group))
        of_rates = [[validation[Candidate(t, rate)] for t in transfers] for rate in rates]
        means = list(map(_mean, of_rates))
        chosen.update(dict.fromkeys(transfers, rates[int(np.argmax(means))]))
    return chosen


def _rate_key(transfer: Transfer) -> tuple[str, str, bool]:
    """Return a key shared by the transfers for which one learning rate is chosen."""
    return transfer.architecture, transfer.target, transfer.source == SCRATCH


def _name(transfer: Transfer) -> str:
    return "{} {} to {}".format(*transfer)


def _rung_name(transfer: Transfer, steps: int) -> str:
    return f"{_name(transfer)}, first {steps} steps"


def _unit_name(candidate: Candidate) -> str:
    return f"{_name(candidate.transfer)} at {candidate.learning_rate:g}"


def _folder(run: Run, transfer: Transfer) -> Path:
    return run.out / "transfers" / "_".join(transfer)


def _rung_path(run: Run, transfer: Transfer, steps: int) -> Path:
    return _folder(run, transfer) / f"first_{steps}.json"


def _path(run: Run, candidate: Candidate) -> Path:
    return _folder(run, candidate.transfer) / f"{candidate.learning_rate:g}.json"


def _finetune(
    run: Run,
    transfer: Transfer,
    rung: int,
    until: int | None,
    on_images: Callable[[int], None],
) -> None:
    """Train the rest of a transfer's grid, to a rung or to the end, keeping existing results."""
    benchmark = run.benchmark
    tried = [Candidate(transfer, rate) for rate in remaining_rates(run, transfer, rung)]
    done: dict[int, dict[str, Any]] = {}  # existing results, by index in the grid
    at_rung: dict[str, Any] = {"validation": {}, "seconds": 0.0}
    if until is None:
        for i, candidate in enumerate(tried):
            with contextlib.suppress(FileNotFoundError):
                done[i] = read_result(_path(run, candidate), _unit_name(candidate))
    elif len(tried) == 1:  # no rate is left to stop
        _write_rung(run, transfer, until, at_rung)
        return
    task = train_sources.task_of(benchmark, transfer.architecture, transfer.target, training=True)
    if transfer.source == SCRATCH:
        variables = train_sources.initial(run, transfer.architecture, transfer.target, SCRATCH)
    else:
        # The runs of a grid start from the same weights and differ only in the learning rate.
        variables = with_new_head(
            train_sources.source_model(run, transfer.architecture, transfer.source),
            task.module.num_classes,
            run.seed("head", *transfer),
        )
    tuning, validation, test = (
        data.images(benchmark, transfer.target, split)
        for split in data.transfer_splits(benchmark, transfer.target)
    )
    recipe = dataclasses.replace(benchmark.transfer_recipe, weight_decay=benchmark.weight_decay)
    seed = run.seed("finetune", *transfer)
    partial = partial_folder(run, "finetune_all", _folder(run, transfer).name)
    names = [f"{_folder(run, transfer).name}_{c.learning_rate:g}" for c in tried]
    # The states of runs that were trained together can only be resumed together.
    plan = "apart" if benchmark.halving else run.grid
    with telemetry.watching(run, "finetune_all", names, on_images) as watch:
        for i, fitted in grid.fit_grid(
            task,
            variables,
            tuning,
            [
                Point(dataclasses.replace(recipe, learning_rate=c.learning_rate), seed)
                for c in tried
            ],
            plan=plan,
            runs_at_once=_runs_at_once(plan, done.values()),
            done=done,
            size=benchmark.image_size,
            mirror=benchmark.data(transfer.target).mirror,
            workers=run.workers,
            until=until,
            watch=watch,
            partial=partial,
        ):
            if until is None:
                result = _result(benchmark, task, fitted, {"validation": validation, "test": test})
                result["grid"] = {"plan": plan, "runs_at_once": fitted.runs_at_once}
                write_result(_path(run, tried[i]), _unit_name(tried[i]), result)
            else:
                result = _result(benchmark, task, fitted, {"validation": validation})
                at_rung["validation"][f"{tried[i].learning_rate:g}"] = result["validation"]
                at_rung["seconds"] += result["seconds"]
    if until is None:
        checkpoints.remove(partial)
    else:
        _write_rung(run, transfer, until, at_rung)


def _runs_at_once(plan: str, results: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the runs at once that the results of a grid record for a plan, or None."""
    for result in results:
        recorded = result.get("grid", {})
        if recorded.get("plan") == plan:
            return recorded["runs_at_once"]
    return None


def _write_rung(run: Run, transfer: Transfer, steps: int, content: dict[str, Any]) -> None:
    path = _rung_path(run, transfer, steps)
    write_result(path, _rung_name(transfer, steps), content)


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


def seconds(run: Run) -> Iterator[tuple[str, float]]:
    """Iterate over the names and seconds of all finished training runs and rungs."""
    benchmark = run.benchmark
    made = [
        (_rung_path(run, transfer, steps), _rung_name(transfer, steps))
        for steps in rungs(benchmark)
        for transfer in benchmark.transfers(scratch=benchmark.scratch)
    ]
    made += [(_path(run, candidate), _unit_name(candidate)) for candidate in candidates(run)]
    for path, name in made:
        if path.exists():
            yield name, read_result(path, name)["seconds"]


def losses(run: Run) -> dict[Transfer, list[float]]:
    """Return the training loss of every step, for the chosen runs whose files exist."""
    found: dict[Transfer, list[float]] = {}
    path = run.out / "grid.csv"
    try:
        head, rows = files.read_table(path, ours=True)
        if head != list(_GRID):
            raise InputError(
                f"{path} has the columns {', '.join(head) or 'none'}; expected {', '.join(_GRID)}"
            )
        for row in (row.cells for row in rows if row.cells["Chosen"] == "1"):
            transfer = Transfer(*(row[column] for column in _GRID[:3]))
            candidate = Candidate(transfer, files.number(row["Learning Rate"]))
            result = read_result(_path(run, candidate), _unit_name(candidate))
            found[transfer] = result["losses"]
    except FileNotFoundError:
        return found
    except ValueError as error:
        raise StageError(f"{error}; python -m experiments.finetune_all writes it") from error
    return found


def _write_tables(run: Run) -> None:
    """Write oracle.csv, scratch.csv and grid.csv from the results that exist."""
    results: dict[Candidate, dict[str, Any]] = {}
    missing = set()
    for candidate in candidates(run):
        transfer = candidate.transfer
        try:
            if candidate in _last(run, transfer):
                result = read_result(_path(run, candidate), _unit_name(candidate))
                steps = run.benchmark.transfer_recipe.steps
            else:
                result, steps = _stopped(run, candidate)
            results[candidate] = result | {"steps": steps}
        except FileNotFoundError:
            missing.add(_rate_key(transfer))
    # A rate is chosen for all sources together, so all of them must be done.
    whole = {c: r for c, r in results.items() if _rate_key(c.transfer) not in missing}
    chosen = choose({c: r["validation"] if "losses" in r else None for c, r in whole.items()})
    oracle: list[Sequence[object]] = [(*_GRID[:3], "Oracle")]
    scratch = oracle.copy()
    tried: list[Sequence[object]] = [_GRID]
    for candidate, result in whole.items():
        transfer, rate = candidate
        accuracies = [_percent(result[name]) for name in ("validation", "test")]
        was_chosen = int(chosen[transfer] == rate)
        tried.append((*transfer, f"{rate:g}", result["steps"], *accuracies, was_chosen))
        if chosen[transfer] == rate:
            table = scratch if transfer.source == SCRATCH else oracle
            table.append((*transfer, accuracies[1]))
    for name, rows in (("oracle", oracle), ("scratch", scratch), ("grid", tried)):
        files.write_text(run.out / f"{name}.csv", files.table_text(rows))


def _stopped(run: Run, candidate: Candidate) -> tuple[dict[str, Any], int]:
    """Return the result of a run that was stopped at a rung, and its steps."""
    key = f"{candidate.learning_rate:g}"
    for steps in reversed(rungs(run.benchmark)):
        found = _at_rung(run, candidate.transfer, steps)
        if key in found:
            return {"validation": found[key], "test": None}, steps
    raise FileNotFoundError(key)


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.4f}"


STAGE = Stage(stage, units, "finetune_all", divisible=True)

if __name__ == "__main__":
    command_line.main(__doc__, train_sources.STAGE, STAGE)
