"""--layers: the features of every layer, and which of the best model's carries the target."""

import functools
import shlex
from collections.abc import Sequence

import numpy as np

from jaxparc import printing
from jaxparc.bank import layer_features, ranking, scoring
from jaxparc.bank.entry import Entry
from jaxparc.bank.features import unit_name
from jaxparc.bank.folder import arrays_of
from jaxparc.bank.scores import BankScores
from jaxparc.commands import jobs
from jaxparc.units.options import Execution
from jaxparc.units.run import run_units

TITLE = "layers"


def extract_layers(job: jobs.Job, entries: Sequence[Entry], execution: Execution) -> dict[str, str]:
    """Extract the missing features of all layers of models.

    Args:
        job: the job, whose folder the caller holds.
        entries: the models.
        execution: how to run it.

    Returns:
        As `jobs.run`.
    """
    listed = functools.partial(
        layer_features.list_units,
        entries,
        job.target,
        job.images,
        job.seed,
        job.data_dir,
        job.folder,
        job.batch_size,
    )
    return run_units(
        TITLE,
        layer_features.units(entries, job.probe, job.folder, batch_size=job.batch_size),
        job.folder / layer_features.FOLDER,
        execution=execution,
        listing=listed,
        noun="model",
    )


def print_layers(job: jobs.Job, found: ranking.Ranking, execution: Execution) -> str:
    """Print which layer of the best model scores best by the first method.

    Args:
        job: the job, whose folder the caller holds.
        found: the ranking of its models.
        execution: how to extract the features of the layers.

    Returns:
        One line with the reason if it failed; else "".
    """
    method = found.scores.methods[0]
    entry = next(entry for entry in job.entries if entry.name == found.best)
    failed = extract_layers(job, [entry], execution)
    if failed:
        return f"the layers of {entry.name}: {failed[unit_name(entry)]}"
    files = layer_features.of(entry, job.folder)
    scores = scoring.score_bank(
        {layer: arrays_of(path)["features"] for layer, path in files.items()},
        job.probe.labels,
        methods=method,
        num_classes=job.probe.num_classes,
        label_kind=job.probe.label_kind,
        intervals=found.scores.level,
    )
    if not np.isfinite(scores.values).any():
        return f"no layer of {entry.name} has a score"
    print()
    print(printing.shown(f"layers of {entry.name}, first to last, by {method}: {_listed(scores)}"))
    print(printing.shown(_verdict(entry.name, scores)))
    folder = shlex.quote(str(job.folder / layer_features.FOLDER))
    print(printing.shown(f"to rank them by other methods: jaxparc score {folder}"))
    return ""


def _listed(scores: BankScores) -> str:
    first = scores[scores.methods[0]]
    return ", ".join(f"{layer} {score:.2f}" for layer, score in first.items())


def _verdict(name: str, scores: BankScores) -> str:
    """Say which layer scores best, and whether the features are as good."""
    last = layer_features.FEATURES
    if scores.best == last:
        return f"no layer of {name} scores above its features"
    chance = " by no more than chance (95 %)" if last in scores.tied() else " by more than chance"
    return f"{scores.best} of {name} scores above its features,{chance}"
