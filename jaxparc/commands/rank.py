"""The command rank: extract the features of a bank for a target and score them."""

import contextlib
import sys
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from jaxparc import printing
from jaxparc.bank import arguments, features, folder
from jaxparc.bank.cuts import Cuts
from jaxparc.bank.folder import ArrayFile
from jaxparc.commands import RANKED_BY, extract, ranking
from jaxparc.errors import InputError, OperationError
from jaxparc.units.options import Execution

# Where this command gets the inputs of methods from.
_SOURCES = {
    "probs": "models whose weights have a head",
    "reference": "--reference FILE",
    "source_images": "the key source_images of models",
}


def rank(
    bank: str | None,
    target: str,
    *,
    models: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    licence: Sequence[str] = (),
    max_params: float | None = None,
    max_gmacs: float | None = None,
    images: int = 500,
    seed: int = 0,
    batch_size: int = 32,
    data_dir: str | None = None,
    out: Path | None = None,
    executor: str = "local",
    num_gpus: float | None = None,
    shard: tuple[int, int] | None = None,
    methods: Sequence[str] | None = None,
    probs: bool = False,
    reference: str | None = None,
    probe_sets: int = 1,
) -> None:
    """Rank the models of a bank for a target; print the answer and the ranking, and write them.

    Args:
        bank: as `extract.open_job` takes it.
        target: as `extract.open_job` takes it.
        models: as `extract.open_job` takes it.
        include: see `Cuts`.
        exclude: see `Cuts`.
        licence: see `Cuts`.
        max_params: see `Cuts`.
        max_gmacs: see `Cuts`.
        images: as `extract.open_job` takes it.
        seed: as `extract.open_job` takes it.
        batch_size: as `extract.open_job` takes it.
        data_dir: as `extract.open_job` takes it.
        out: as `extract.open_job` takes it; scores.csv, ranking.csv, .json and .md, and index.html
            are written there too.
        executor: see `Execution`; used for the extraction.
        num_gpus: see `Execution`.
        shard: refused, as a ranking needs all models.
        methods: see `ranking.Choice`; None for `RANKED_BY`.
        probs: see `ranking.Choice`.
        reference: see `ranking.Choice`.
        probe_sets: number of probe sets, drawn with seeds from `seed` on; scores are means over
            them. The features of all but the first are in the subfolders seed-N.

    Raises:
        InputError: an argument or the bank is wrong, or the folder holds features of other images.
        OperationError: a model failed or a method cannot be applied (the others are still ranked),
            or the folder is in use or cannot be written.
        DatasetError: the target cannot be read.
    """
    if shard is not None:
        raise InputError(
            "--shard: a ranking needs the features of all models; run extract with --shard, and "
            "rank without it once all shards are done"
        )
    if probe_sets < 1:
        raise InputError(f"--probe-sets is {probe_sets}; expected at least 1")
    if probe_sets > 1 and reference is not None:
        raise InputError(
            f"--reference has features of one probe set, but --probe-sets is {probe_sets}; "
            "expected 1"
        )
    job = extract.open_job(
        bank,
        target,
        models=models,
        cuts=Cuts(include, exclude, licence, max_params, max_gmacs),
        images=images,
        seed=seed,
        batch_size=batch_size,
        data_dir=data_dir,
        out=out,
    )
    jobs = [job]
    for further in range(seed + 1, seed + probe_sets):
        jobs.append(
            extract.further_job(job, target, images=images, seed=further, data_dir=data_dir)
        )
    available = len(job.probe.split_labels)
    if probe_sets > 1 and (drawn := probe_sets * len(job.probe.labels)) > available:
        raise InputError(
            f"--probe-sets {probe_sets} of {len(job.probe.labels)} images draw {drawn}, of the "
            f"{available} that there are; expected fewer sets, or a smaller --images"
        )
    choice = ranking.Choice(methods, probs, reference, _SOURCES, RANKED_BY)
    inputs = {
        "layers": {entry.name: features.layers(entry) for entry in job.entries},
        "source_images": {e.name: e.source_images for e in job.entries if e.source_images},
        "target_images": len(job.probe.split_labels),
    }
    # Inputs that no model can provide are refused now; whether one has a head is known only later.
    given = {**inputs, "reference": _reference(reference, job.probe), "probs": True}
    for one in jobs:
        ranking.plan(choice, one.probe.labels, one.probe.label_kind, one.probe.num_classes, given)
    extract.print_classes(job, target, data_dir)
    with contextlib.ExitStack() as held:
        for one in jobs:
            held.enter_context(features.alone_in(one.folder, one.probe, one.entries))
        banks, problems = _extracted(jobs, Execution(executor, num_gpus))
        if banks[0].features:
            settings = {
                "command": "rank",
                "bank": bank,
                "models": list(models),
                "target": target,
                "probe_images": images,
                "seed": seed,
                "probe_sets": probe_sets,
                "batch_size": batch_size,
            }
            facts = features.facts_of(job.entries, banks[0].features.keys(), job.folder)
            try:
                left_out = ranking.print_ranking(
                    choice,
                    banks,
                    inputs,
                    ranking.About(facts, settings, _overlap(jobs)),
                    num_classes=job.probe.num_classes,
                    out=job.folder,
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"features are kept in {job.folder}") from None
            problems.append(left_out and f"not scored: {left_out}")
    if problems := list(dict.fromkeys(filter(None, problems))):
        raise OperationError("; ".join(problems))


def _extracted(
    jobs: Sequence[extract.Job], execution: Execution
) -> tuple[list[folder.Bank], list[str]]:
    """Extract the features of every probe set.

    Returns:
        The features by probe set, of the models that failed for none; and what failed, in words.

    Raises:
        OperationError: as for `extract.run`.
    """
    banks, problems = [], []
    for job in jobs:
        failed = extract.run(job, execution)
        others = {path.stem for path in job.folder.glob("*.npz")} - {e.name for e in job.entries}
        if others:
            line = f"note: not in this bank: {printing.some(sorted(others))} in {job.folder}"
            print(printing.shown(line), file=sys.stderr)
        problems.append(extract.failure(job.entries, failed))
        banks.append(features.read(job.entries, job.probe, job.folder, failed))
    everywhere = set.intersection(*(set(bank.features) for bank in banks))
    return [_only(bank, everywhere) for bank in banks], problems


def _overlap(jobs: Sequence[extract.Job]) -> list[str]:
    """Return a note if probe sets share images, as their noise is then not independent."""
    drawn = np.concatenate([job.probe.images.indices for job in jobs])
    repeated = len(drawn) - len(np.unique(drawn))
    if not repeated:
        return []
    percent = f"{100 * repeated / len(drawn):.0f} %"
    return [
        f"{percent} of the images of the {len(jobs)} probe sets were drawn before: intervals, "
        "which take the sets as independent, are too narrow"
    ]


def _only(bank: folder.Bank, names: Set[str]) -> folder.Bank:
    """Return a bank without the models that are not named."""
    kept = {name: x for name, x in bank.features.items() if name in names}
    probs = {name: x for name, x in bank.probs.items() if name in names}
    return bank._replace(features=kept, probs=probs)


def _reference(path: str | None, probe: features.ProbeImages) -> ArrayFile | None:
    """Open the features of --reference.

    Raises:
        InputError: the features cannot be read, or belong to other images.
    """
    if path is None:
        return None
    found = folder.read_array(path, "features")
    try:
        arguments.reference(np.asarray(found), len(probe.labels))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    try:
        labels = folder.read_array(path, "labels") if Path(path).suffix == ".npz" else None
    except ValueError:  # labels are optional
        labels = None
    # Flat, as values may be (n,) or (n, 1).
    if labels is not None and not np.array_equal(np.ravel(labels), np.ravel(probe.labels)):
        raise InputError(
            f"{path} has other labels than the {probe}; expected features of the same images in "
            "the same order"
        )
    return found
