"""Stage 5: how well the scores predict the accuracies; prints tables, writes report/index.html.

Reads oracle.csv, scratch.csv, scores.csv and times.csv of the results folder alone.
"""

import csv
import importlib.metadata
import math
import platform
import statistics
from collections import defaultdict
from pathlib import Path

import jax
from rich.console import Console

from experiments import _run
from jaxparc import report
from jaxparc.evaluation import Transfer

PACKAGES = ("jaxparc", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")


def stage(run: _run.Run) -> int:
    """Print and write the report; returns 0."""
    results = read_results(run)
    # A log has no width of its own; 80 columns would fold the tables.
    console = Console()
    console = console if console.is_terminal else Console(width=100)
    console.print(report.accuracy_table(results))
    console.print(report.selector_table(results))
    page = run.out / "report" / "index.html"
    report.write_page(results, page)
    _run.say(f"report: {page}")
    return 0


def read_results(run: _run.Run) -> report.Results:
    """What the earlier stages wrote.

    Raises:
        StageError: a file is missing; the message names the stage that writes it.
    """
    oracle = _read(run.out / "oracle.csv", "finetune_all")
    scores: dict[str, dict[str, dict[Transfer, float]]] = defaultdict(dict)
    accuracies = {_transfer(row): _number(row["Oracle"]) for row in oracle}
    for row in _read(run.out / "scores.csv", "score_probes"):
        # A transfer without an accuracy (its fine-tuning failed) cannot be evaluated.
        if (transfer := _transfer(row)) in accuracies:
            for method in run.benchmark.methods:
                of_run = scores[method].setdefault(row["Run"], {})
                of_run[transfer] = _number(row[method])
    times = _read(run.out / "times.csv", "score_probes")
    stage_seconds: dict[str, float] = defaultdict(float)
    per_transfer: dict[str, list[float]] = defaultdict(list)
    for row in times:
        stage_seconds[row["Stage"]] += float(row["Seconds"])
        if row["Method"]:
            per_transfer[row["Method"]].append(1e3 * float(row["Seconds"]) / int(row["Items"]))
    return report.Results(
        name=run.benchmark.name,
        accuracies=accuracies,
        scratch={
            (row["Architecture"], row["Target Dataset"]): _number(row["Oracle"])
            for row in _read(run.out / "scratch.csv", "finetune_all")
        },
        scores={method: list(scores[method].values()) for method in run.benchmark.methods},
        # The median leaves out the first units, which compile.
        milliseconds={method: statistics.median(ms) for method, ms in per_transfer.items()},
        stage_seconds=stage_seconds,
        settings=run.benchmark.settings(),
        order=(*run.benchmark.architectures, *run.benchmark.sources, *run.benchmark.targets),
        versions={
            **{package: importlib.metadata.version(package) for package in PACKAGES},
            "Python": platform.python_version(),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "machine": platform.platform(),
        },
    )


def _read(path: Path, stage: str) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise _run.StageError(
            f"{path} is missing; python -m experiments.{stage} writes it"
        ) from None


def _transfer(row: dict[str, str]) -> Transfer:
    return Transfer(row["Architecture"], row["Source Dataset"], row["Target Dataset"])


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan


if __name__ == "__main__":
    _run.main(__doc__, stage)
