"""The results of fine-tuning: their files, the choice of a learning rate, and the tables.

A transfer's folder has a file for each learning rate, for each rung of successive halving, and for
each further seed of the chosen rate.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks import Benchmark
from experiments.runner.run import Run, StageError
from experiments.tables import read
from jaxparc import files
from jaxparc.errors import InputError
from jaxparc.evaluation import SCRATCH, Transfer
from jaxparc.training import halving
from jaxparc.units.unit import read_result

_GRID = (
    *read.TRANSFER,
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


def transfers(benchmark: Benchmark) -> list[Transfer]:
    """Return the transfers that are fine-tuned, those of random weights included."""
    return list(benchmark.transfers(scratch=benchmark.scratch))


def rungs(benchmark: Benchmark) -> tuple[int, ...]:
    """Return the numbers of steps after which half of a grid is stopped."""
    return halving.rungs(benchmark.transfer_recipe.steps) if benchmark.halving else ()


def remaining_rates(run: Run, transfer: Transfer, rung: int) -> tuple[float, ...]:
    """Return the learning rates of a transfer's grid that continue after a number of rungs.

    At every rung the better half, rounded up, continues, by mean validation accuracy over the
    sources that share a learning rate. All continue if one of these has not reached it.
    """
    rates = run.benchmark.rates(transfer.architecture)
    together = sharing_rate(run, transfer)
    for steps in rungs(run.benchmark)[:rung]:
        if len(rates) == 1:
            break
        try:
            found = [_at_rung(run, other, steps) for other in together]
            means = {rate: _mean([of_rates[f"{rate:g}"] for of_rates in found]) for rate in rates}
        except (FileNotFoundError, files.DamagedFileError, KeyError):
            break  # KeyError: other rates had remained when fewer networks were in the bank
        rates = tuple(halving.better_half(means))
    return rates


def sharing_rate(run: Run, transfer: Transfer) -> list[Transfer]:
    """Return the transfers for which one learning rate is chosen, this one among them."""
    key = rate_key(transfer)
    return [other for other in transfers(run.benchmark) if rate_key(other) == key]


def _at_rung(run: Run, transfer: Transfer, steps: int) -> dict[str, float | None]:
    """Return validation accuracies after a number of steps, by learning rate."""
    content = read_result(rung_path(run, transfer, steps), rung_name(transfer, steps))
    return content["validation"]


def _mean(accuracies: Sequence[float | None]) -> float:
    """Return the mean over the sources; minus infinity if a run diverged."""
    return float(np.mean([-np.inf if v is None else v for v in accuracies]))


def check_repeat(run: Run, transfer: Transfer, path: Path, name: str) -> None:
    """Check that a run with another seed has the learning rate that is chosen now."""
    result = read_result(path, name)
    if result["learning_rate"] != chosen_rate(run, transfer):
        raise FileNotFoundError(f"{path} has another learning rate")


def last(run: Run, transfer: Transfer) -> list[Candidate]:
    """Return the candidates that are trained to the end."""
    return [
        Candidate(transfer, r) for r in remaining_rates(run, transfer, len(rungs(run.benchmark)))
    ]


def candidates(run: Run) -> Iterator[Candidate]:
    """Iterate over the training runs of the benchmark."""
    for transfer in transfers(run.benchmark):
        for rate in run.benchmark.rates(transfer.architecture):
            yield Candidate(transfer, rate)


def choose(
    validation: Mapping[Candidate, float | None],
) -> dict[Transfer, float]:
    """Choose the learning rate of every transfer, only by accuracy on the validation images.

    One rate is chosen per (target, architecture), the best on average over the sources, and one for
    random initialisations. A rate at which a run diverged comes last; ties go to the first rate.

    Args:
        validation: accuracies in percent, None where the run diverged, of every transfer with all
            rates that were trained to the end.
    """
    groups: dict[tuple[str, str, bool], list[Candidate]] = {}
    for candidate in validation:
        groups.setdefault(rate_key(candidate.transfer), []).append(candidate)
    chosen = {}
    for group in groups.values():
        transfers = dict.fromkeys(c.transfer for c in group)
        rates = list(dict.fromkeys(c.learning_rate for c in group))
        of_rates = [[validation[Candidate(t, rate)] for t in transfers] for rate in rates]
        means = list(map(_mean, of_rates))
        chosen.update(dict.fromkeys(transfers, rates[int(np.argmax(means))]))
    return chosen


def rate_key(transfer: Transfer) -> tuple[str, str, bool]:
    """Return a key shared by the transfers for which one learning rate is chosen."""
    return transfer.architecture, transfer.target, transfer.source == SCRATCH


def name_of(transfer: Transfer) -> str:
    """Return the name of a transfer's unit."""
    return "{} {} to {}".format(*transfer)


def rung_name(transfer: Transfer, steps: int) -> str:
    """Return the name of the unit of the first steps of a transfer."""
    return f"{name_of(transfer)}, first {steps} steps"


def unit_name(candidate: Candidate) -> str:
    """Return the name that the file of a training run records."""
    return f"{name_of(candidate.transfer)} at {candidate.learning_rate:g}"


def folder_of(run: Run, transfer: Transfer) -> Path:
    """Return the folder of the results of a transfer."""
    return run.out / "transfers" / "_".join(transfer)


def rung_path(run: Run, transfer: Transfer, steps: int) -> Path:
    """Return the path of the results of the first steps of a transfer."""
    return folder_of(run, transfer) / f"first_{steps}.json"


def repeat_name(transfer: Transfer, number: int) -> str:
    """Return the name of the unit of a further seed, counted from 1."""
    return f"{name_of(transfer)}, seed {number}"


def repeat_path(run: Run, transfer: Transfer, number: int) -> Path:
    """Return the path of the result of a further seed, counted from 1."""
    return folder_of(run, transfer) / f"seed_{number}.json"


def path_of(run: Run, candidate: Candidate) -> Path:
    """Return the path of the result of a training run."""
    return folder_of(run, candidate.transfer) / f"{candidate.learning_rate:g}.json"


def seconds(run: Run) -> Iterator[tuple[str, float]]:
    """Iterate over the names and seconds of all finished training runs and rungs."""
    benchmark = run.benchmark
    made = [
        (rung_path(run, transfer, steps), rung_name(transfer, steps))
        for steps in rungs(benchmark)
        for transfer in transfers(benchmark)
    ]
    made += [(path_of(run, candidate), unit_name(candidate)) for candidate in candidates(run)]
    made += [
        (repeat_path(run, transfer, number), repeat_name(transfer, number))
        for number in range(1, benchmark.repeats)
        for transfer in transfers(benchmark)
    ]
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
            result = read_result(path_of(run, candidate), unit_name(candidate))
            found[transfer] = result["losses"]
    except FileNotFoundError:
        return found
    except ValueError as error:
        raise StageError(f"{error}; python -m experiments.finetune_all writes it") from error
    return found


def write_tables(run: Run) -> None:
    """Write oracle.csv, scratch.csv and grid.csv from the results that exist."""
    results: dict[Candidate, dict[str, Any]] = {}
    missing = set()
    for candidate in candidates(run):
        try:
            results[candidate] = outcome(run, candidate)
        except FileNotFoundError:
            missing.add(rate_key(candidate.transfer))
    # A rate is chosen for all sources together, so all of them must be done.
    whole = {c: r for c, r in results.items() if rate_key(c.transfer) not in missing}
    chosen = choose({c: r["validation"] for c, r in whole.items() if "losses" in r})
    repeats = run.benchmark.repeats
    seeds = [f"{read.SEED}{number}" for number in range(repeats if repeats > 1 else 0)]
    oracle: list[Sequence[object]] = [(*read.ORACLE, *seeds)]
    scratch = oracle.copy()
    tried: list[Sequence[object]] = [_GRID]
    for candidate, result in whole.items():
        transfer, rate = candidate
        accuracies = [_percent(result[name]) for name in ("validation", "test")]
        was_chosen = int(chosen[transfer] == rate)
        tried.append((*transfer, f"{rate:g}", result["steps"], *accuracies, was_chosen))
        if not was_chosen:
            continue
        tests = _tests(run, candidate, result["test"])
        if len(tests) < repeats:
            continue  # the others are yet to be trained
        # Without a seed that diverged, the mean would be of another number of seeds.
        mean = None if None in tests else float(np.mean([t for t in tests if t is not None]))
        row = (*transfer, _percent(mean), *map(_percent, tests if seeds else ()))
        (scratch if transfer.source == SCRATCH else oracle).append(row)
    for name, rows in (("oracle", oracle), ("scratch", scratch), ("grid", tried)):
        files.write_text(run.out / f"{name}.csv", files.table_text(rows))


def _tests(run: Run, chosen: Candidate, first: float | None) -> list[float | None]:
    """Return the test accuracies of the chosen rate, of the seeds that were trained."""
    found = [first]
    for number in range(1, run.benchmark.repeats):
        path = repeat_path(run, chosen.transfer, number)
        with contextlib.suppress(FileNotFoundError):
            result = read_result(path, repeat_name(chosen.transfer, number))
            if result["learning_rate"] == chosen.learning_rate:
                found.append(result["test"])
    return found


def outcome(run: Run, candidate: Candidate) -> dict[str, Any]:
    """Return the result of a training run, and its steps, all or those before it was stopped.

    Raises:
        FileNotFoundError: it is not done.
    """
    if candidate in last(run, candidate.transfer):
        result = read_result(path_of(run, candidate), unit_name(candidate))
        return result | {"steps": run.benchmark.transfer_recipe.steps}
    return _stopped(run, candidate)


def chosen_rate(run: Run, transfer: Transfer) -> float:
    """Return the learning rate that is chosen for a transfer.

    Raises:
        FileNotFoundError: a transfer for which it is chosen, too, is not done.
    """
    rates = remaining_rates(run, transfer, len(rungs(run.benchmark)))
    of = [Candidate(other, rate) for other in sharing_rate(run, transfer) for rate in rates]
    return choose({c: read_result(path_of(run, c), unit_name(c))["validation"] for c in of})[
        transfer
    ]


def _stopped(run: Run, candidate: Candidate) -> dict[str, Any]:
    """Return the result of a run that was stopped at a rung, and its steps."""
    key = f"{candidate.learning_rate:g}"
    for steps in reversed(rungs(run.benchmark)):
        found = _at_rung(run, candidate.transfer, steps)
        if key in found:
            return {"validation": found[key], "test": None, "steps": steps}
    raise FileNotFoundError(key)


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.4f}"
