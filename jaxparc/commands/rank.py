"""The command rank: extract the features of a bank for a target and score them."""

import contextlib
import itertools
import math
import shlex
import sys
import time
from collections.abc import Collection, Sequence, Set
from pathlib import Path

import numpy as np

from jaxparc import printing
from jaxparc.bank import arguments, features, folder, racing
from jaxparc.bank.costs import Facts
from jaxparc.bank.cuts import Cuts
from jaxparc.bank.entry import Entry
from jaxparc.bank.folder import ArrayFile
from jaxparc.bank.ranked import Ranked
from jaxparc.commands import RANKED_BY, jobs, ranking, rounds
from jaxparc.commands.dry_run import print_plan
from jaxparc.commands.layers import print_layers
from jaxparc.errors import InputError, OperationError
from jaxparc.geometry import Geometry
from jaxparc.report.thumbnails import SIDE, Thumbnails, thumbnails
from jaxparc.units.options import Execution
from jaxparc.units.run import recorded_failures
from jaxparc.units.unit import is_done

# Where this command gets the inputs of methods from.
_SOURCES = {
    "probs": "models whose weights have a head",
    "reference": "--reference FILE",
    "source_images": "the key source_images of models",
    "prior": "the key prior of models",
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
    shard: tuple[int, int] = (1, 1),
    methods: Sequence[str] | None = None,
    probs: bool = False,
    reference: str | None = None,
    probe_sets: int = 1,
    race: bool = False,
    budget: float | None = None,
    layers: bool = False,
    dry_run: bool = False,
) -> None:
    """Rank the models of a bank for a target; print the answer and the ranking, and write them.

    Args:
        bank: as `jobs.open_job` takes it.
        target: as `jobs.open_job` takes it.
        models: as `jobs.open_job` takes it.
        include: see `Cuts`.
        exclude: see `Cuts`.
        licence: see `Cuts`.
        max_params: see `Cuts`.
        max_gmacs: see `Cuts`.
        images: as `jobs.open_job` takes it.
        seed: as `jobs.open_job` takes it.
        batch_size: as `jobs.open_job` takes it.
        data_dir: as `jobs.open_job` takes it.
        out: as `jobs.open_job` takes it; scores.csv, ranking.csv, .json and .md, and index.html
            are written there too.
        executor: see `Execution`; used for the extraction.
        num_gpus: see `Execution`.
        shard: see `Execution`; used for the extraction. The shard that finds the features of all
            models ranks them.
        methods: see `ranking.Choice`; None for `RANKED_BY`.
        probs: see `ranking.Choice`.
        reference: see `ranking.Choice`.
        probe_sets: number of probe sets, drawn with seeds from `seed` on; scores are means over
            them. The features of all but the first are in the subfolders seed-N.
        race: whether to extract fewer images of models that are surely worse, as `racing.run` does.
        budget: minutes after which to stop with what is known, extracting ever more images of ever
            fewer models, the best so far; implies `race`. None for no limit.
        layers: whether to say which layer of the best model scores best.
        dry_run: whether to print what would be extracted, and to end.

    Raises:
        InputError: an argument or the bank is wrong, or the folder holds features of other images.
        OperationError: a model failed or a method cannot be applied (the others are still ranked),
            or the folder is in use or cannot be written.
        DatasetError: the target cannot be read.
    """
    started = time.monotonic()
    if probe_sets < 1:
        raise InputError(f"--probe-sets is {probe_sets}; expected at least 1")
    if probe_sets > 1 and reference is not None:
        raise InputError(
            f"--reference has features of one probe set, but --probe-sets is {probe_sets}; "
            "expected 1"
        )
    if budget is not None and not 0 < budget < math.inf:
        raise InputError(f"--budget is {budget:g}; expected minutes, above 0")
    if race or budget is not None:
        flag = "--race" if race else "--budget"
        if probe_sets > 1 or shard != (1, 1):
            other = "--probe-sets" if probe_sets > 1 else "--shard"
            raise InputError(
                f"{flag} compares all models on one probe set as they run; it cannot be used with "
                f"{other}"
            )
    job = jobs.open_job(
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
    sets = [job, *(job.with_seed(further) for further in range(seed + 1, seed + probe_sets))]
    available = len(job.probe.split_labels)
    if probe_sets > 1 and (drawn := probe_sets * len(job.probe.labels)) > available:
        raise InputError(
            f"--probe-sets {probe_sets} of {len(job.probe.labels)} images draw {drawn}, of the "
            f"{available} that there are; expected fewer sets, or a smaller --images"
        )
    choice = ranking.Choice(methods, probs, reference, _SOURCES, RANKED_BY)
    inputs = {
        "layers": features.layers(job.entries, job.folder),
        "source_images": {e.name: e.source_images for e in job.entries if e.source_images},
        "prior": {e.name: e.prior for e in job.entries if e.prior is not None},
        "target_images": len(job.probe.split_labels),
    }
    # Inputs that no model can provide are refused now; whether one has a head is known only later.
    given = {**inputs, "reference": _reference(reference, job.probe), "probs": True}
    given["layers"] = True  # of some kinds of networks, loading them tells
    plans = [
        ranking.plan(choice, one.probe.labels, one.probe.label_kind, one.probe.num_classes, given)
        for one in sets
    ]
    if race or budget is not None:
        racing.check_method(plans[0].methods[0])
    jobs.print_classes(job)
    if dry_run:
        print_plan(sets)
        return
    execution = Execution(executor, num_gpus, shard)
    settings = {
        "command": "rank",
        "bank": bank,
        "models": list(models),
        "target": target,
        "probe_images": len(job.probe.labels),
        "seed": seed,
        "probe_sets": probe_sets,
        "batch_size": batch_size,
        "data_dir": data_dir,
    }
    with contextlib.ExitStack() as held:
        for one in sets:
            held.enter_context(features.alone_in(one.folder, one.probe, one.entries, shard=shard))
        raced: rounds.Raced | None = None
        left = 0
        if race or budget is not None:
            until = math.inf if budget is None else started + 60 * budget
            raced = rounds.run(job, plans[0].methods[0], execution, until)
            banks, problems = [raced.bank], [jobs.failure(job.entries, raced.failed)]
            if not raced.bank.features and not raced.failed:
                problems.append(f"--budget {budget:g} left no time for any model")
        else:
            banks, problems, left = _extracted(sets, execution)
        if left:
            models_left = printing.count(left, "model")
            print(f"{models_left} left to the other shards; the last of them prints the ranking")
        elif banks[0].features:
            notes = _overlap(sets)
            if raced and (last := raced.rounds[-1].images) < len(job.probe.labels):
                notes.append(f"time ran out after {last} of {len(job.probe.labels)} images")
            facts = _facts(job, banks[0].features.keys(), raced)
            inputs["layers"] = features.layers(job.entries, job.folder)
            found = raced.rounds if raced else ()
            about = ranking.About(facts, settings, notes, found, _thumbnails(job))
            try:
                ranked, left_out = ranking.print_ranking(
                    choice,
                    banks,
                    inputs,
                    about,
                    num_classes=job.probe.num_classes,
                    out=job.folder,
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"features are kept in {job.folder}") from None
            problems.append(left_out and f"not scored: {left_out}")
            if layers:
                problems.append(print_layers(job, ranked, execution))
            top = _tunable(ranked, job.entries)
            if top and job.probe.label_kind != "values":
                command = f"jaxparc finetune {shlex.quote(str(job.folder))} --top {top}"
                print(printing.shown(f"to fine-tune the best: {command}"))
    if problems := list(dict.fromkeys(filter(None, problems))):
        raise OperationError("; ".join(problems))


def _tunable(ranked: Ranked, entries: Sequence[Entry]) -> int:
    """Return how many of the best three can be fine-tuned here, up to the first that cannot."""
    tunable = {entry.name for entry in entries if entry.native}
    scored = (row.name for row in ranked.rows if row.rank is not None)
    return sum(1 for _ in itertools.takewhile(tunable.__contains__, itertools.islice(scored, 3)))


def _thumbnails(job: jobs.Job) -> Thumbnails:
    """Return thumbnails of the probe set."""
    from jaxparc import datasets
    from jaxparc.training import decoding

    probe = job.probe
    names: list[str] = []
    if probe.label_kind != "values":
        names = [*datasets.class_counts(job.target, data_dir=job.data_dir)["train"]]
    crops = decoding.CentralCrops(probe.images, Geometry(SIDE))
    return thumbnails(crops, probe.labels, probe.label_kind, names)


def _extracted(
    sets: Sequence[jobs.Job], execution: Execution
) -> tuple[list[folder.Bank], list[str], int]:
    """Extract the features of every probe set.

    Returns:
        The features by probe set, of the models that have them for all; what failed, in words; and
        the number of models that are left to other shards.

    Raises:
        OperationError: as for `jobs.run`.
    """
    banks, problems, left = [], [], set[str]()
    for job in sets:
        failed = jobs.run(job, execution)
        there = list(job.entries)
        if execution.shard != (1, 1):
            done = {unit.name for unit in job.units() if is_done(unit)}
            recorded = recorded_failures(job.folder, jobs.TITLE, execution.shard[1])
            failed = {unit: error for unit, error in recorded.items() if unit not in done}
            there = [entry for entry in there if features.unit_name(entry) in done]
            left |= {features.unit_name(entry) for entry in job.entries} - done - failed.keys()
        others = {path.stem for path in job.folder.glob("*.npz")} - {e.name for e in job.entries}
        if others:
            line = f"note: not in this bank: {printing.some(sorted(others))} in {job.folder}"
            print(printing.shown(line), file=sys.stderr)
        problems.append(jobs.failure(job.entries, failed))
        banks.append(features.read(there, job.probe, job.folder, failed))
    everywhere = set.intersection(*(set(bank.features) for bank in banks))
    return [_only(bank, everywhere) for bank in banks], problems, len(left)


def _facts(job: jobs.Job, names: Collection[str], raced: rounds.Raced | None) -> dict[str, Facts]:
    """Return the facts about the models that are ranked, dropped ones included."""
    if raced is None:
        return features.facts_of(job.entries, names, job.folder)
    found: dict[str, Facts] = {}
    for one in raced.rounds:  # the later, the more images its speed was measured on
        if one.images:
            found |= features.facts_of(job.entries, one.scores, job.folder_of(one.images))
    return found


def _overlap(sets: Sequence[jobs.Job]) -> list[str]:
    """Return a note if probe sets share images."""
    drawn = np.concatenate([job.probe.images.indices for job in sets])
    repeated = len(drawn) - len(np.unique(drawn))
    if not repeated:
        return []
    percent = f"{100 * repeated / len(drawn):.0f} %"
    return [
        f"{percent} of the images of the {len(sets)} probe sets were drawn before; intervals take "
        "this into account"
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
