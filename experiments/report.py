"""Stage 5: how well the scores predict the accuracies; prints tables, writes report/index.html.

Reads oracle.csv, scratch.csv, scores.csv and times.csv of the results folder, and for the curves of
the losses grid.csv and transfers/. With --oracle FILE it reports any table of accuracies and scores
instead: see `experiments.tables.report`.
"""

import importlib.metadata
import math
import platform
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

import jaxparc
from experiments import finetune_all
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, StageError
from experiments.tables import oracle
from experiments.tables import read as outcome_files
from experiments.tables import report as report_files
from jaxparc import datasets, files, report
from jaxparc.evaluation import Transfer
from jaxparc.report import sheets
from jaxparc.units.progress import say

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")

_TRANSFER = ("Architecture", "Source Dataset", "Target Dataset")
_NAMES = ("Run", *_TRANSFER)  # the other columns hold numbers


def stage(run: Run) -> int:
    """Print and write the report; returns 0."""
    results = read_results(run)
    # A log has no width of its own; 80 columns would fold the tables.
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(report.accuracy_table(results))
    console.print(report.selector_table(results))
    if results.summary is not None:
        console.print(sheets.intervals(results.summary, "pearson", results.title).rich())
        report_files.write(results.summary, run.out / "report", {})
    page = run.out / "report" / "index.html"
    report.write_page(results, page)
    say(f"report: {page}")
    return 0


def read_results(run: Run) -> report.Results:
    """What the earlier stages wrote.

    Raises:
        StageError: a file is missing; the message names the stage that writes it.
    """
    try:
        found = oracle.read(run.out / "oracle.csv")
    except FileNotFoundError as error:
        raise StageError(
            f"{error.filename} is missing; python -m experiments.finetune_all writes it"
        ) from None
    except oracle.OracleError as error:
        raise StageError(str(error)) from error
    scores: dict[str, dict[str, dict[Transfer, float]]] = defaultdict(dict)
    # A transfer without an accuracy, as its runs failed or diverged, cannot be evaluated.
    accuracies = {transfer: value for transfer, value in found.items() if not math.isnan(value)}
    for row in _read(
        run.out / "scores.csv", "score_probes", ("Run", *_TRANSFER, *run.benchmark.methods)
    ):
        if (transfer := _transfer(row)) in accuracies:
            for method in run.benchmark.methods:
                of_run = scores[method].setdefault(row["Run"], {})
                of_run[transfer] = _number(row[method])
    stage_seconds, milliseconds = _times(run.out / "times.csv")
    summary, titles = report_files.trusted(
        accuracies,
        {method: list(scores[method].values()) for method in run.benchmark.methods},
        tuple(map(datasets.short_name, run.benchmark.targets)),
    )
    return report.Results(
        titles=titles,
        summary=summary,
        name=run.benchmark.name,
        accuracies=accuracies,
        scratch={
            (row["Architecture"], row["Target Dataset"]): _number(row["Oracle"])
            for row in _scratch(run)
        },
        scores={method: list(scores[method].values()) for method in run.benchmark.methods},
        losses=finetune_all.losses(run),
        milliseconds=milliseconds,
        stage_seconds=stage_seconds,
        settings=run.benchmark.settings()
        | {
            f"images of {datasets.short_name(address)}": datasets.summary(address)
            for address in run.benchmark.addresses
        },
        extra=tuple(map(datasets.short_name, run.benchmark.extra_targets)),
        order=(
            *run.benchmark.architectures,
            *run.benchmark.source_names,
            *run.benchmark.target_names,
        ),
        versions={
            "jaxparc": jaxparc.__version__,
            **{package: importlib.metadata.version(package) for package in PACKAGES},
            "Python": platform.python_version(),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "machine": platform.platform(),
        },
    )


def _times(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    try:
        return outcome_files.read_times(path)
    except FileNotFoundError:
        raise StageError(
            f"{path} is missing; python -m experiments.score_probes writes it"
        ) from None
    except oracle.OracleError as error:
        raise StageError(f"{error}; python -m experiments.score_probes writes it") from error


def _scratch(run: Run) -> list[dict[str, str]]:
    """Accuracies of random initialisations; none where accuracies were brought in."""
    path = run.out / "scratch.csv"
    return _read(path, "finetune_all", (*_TRANSFER, "Oracle")) if path.exists() else []


def _read(path: Path, stage: str, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table; every cell of `needed` columns is there."""
    hint = f"python -m experiments.{stage} writes it"
    try:
        head, rows = files.read_table(path, ours=True)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; {hint}") from None
    except ValueError as error:
        raise StageError(f"{error}; {hint}") from error
    if lacking := set(needed) - set(head):
        raise StageError(f"{path} has no column {', '.join(sorted(lacking))}; {hint}")
    for line, row in rows:
        for column in needed:
            if column not in _NAMES and not _is_number(row[column]):
                raise StageError(f"{path} line {line}: {column} is {row[column]!r}; {hint}")
    return [row.cells for row in rows]


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _transfer(row: dict[str, str]) -> Transfer:
    return Transfer(row["Architecture"], row["Source Dataset"], row["Target Dataset"])


def _number(cell: str) -> float:
    return files.number(cell) if cell else math.nan


STAGE = Stage(stage, name="report")

if __name__ == "__main__":
    if any(word.partition("=")[0] == "--oracle" for word in sys.argv[1:]):
        report_files.main()
    else:
        command_line.main(__doc__, STAGE)
