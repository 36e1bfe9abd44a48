"""The command rank: extract the features of a bank for a target and score them."""

import sys
from collections.abc import Sequence
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
) -> None:
    """Rank the models of a bank for a target; print the ranking and write scores.csv.

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
        out: as `extract.open_job` takes it; scores.csv is written there too.
        executor: see `Execution`; used for the extraction.
        num_gpus: see `Execution`.
        shard: refused, as a ranking needs all models.
        methods: see `ranking.Choice`; None for `RANKED_BY`.
        probs: see `ranking.Choice`.
        reference: see `ranking.Choice`.

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
    probe = job.probe
    choice = ranking.Choice(methods, probs, reference, _SOURCES, RANKED_BY)
    facts = {
        "layers": {entry.name: features.layers(entry) for entry in job.entries},
        "source_images": {e.name: e.source_images for e in job.entries if e.source_images},
        "target_images": len(probe.split_labels),
    }
    # Inputs that no model can provide are refused now; whether one has a head is known only later.
    given = {**facts, "reference": _reference(reference, probe), "probs": True}
    ranking.plan(choice, probe.labels, probe.label_kind, probe.num_classes, given)
    extract.print_classes(job, target, data_dir)
    with features.alone_in(job.folder, probe, job.entries):
        failed = extract.run(job, Execution(executor, num_gpus))
        others = {path.stem for path in job.folder.glob("*.npz")} - {e.name for e in job.entries}
        if others:
            line = f"note: not in this bank: {printing.some(sorted(others))} in {job.folder}"
            print(printing.shown(line), file=sys.stderr)
        problems = [extract.failure(job.entries, failed)]
        extracted = features.read(job.entries, probe, job.folder, failed)
        if extracted.features:
            try:
                left_out = ranking.print_ranking(
                    choice, extracted, facts, num_classes=probe.num_classes, out=job.folder
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"features are kept in {job.folder}") from None
            problems.append(left_out and f"not scored: {left_out}")
    if problems := [problem for problem in problems if problem]:
        raise OperationError("; ".join(problems))


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
