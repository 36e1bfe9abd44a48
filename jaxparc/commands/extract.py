"""The command extract: extract the features of every model of a bank for a target."""

import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxparc import datasets, printing
from jaxparc.bank import features, sources, toml_file
from jaxparc.bank.cuts import ALL, Cuts, apply
from jaxparc.bank.toml_file import Entry
from jaxparc.errors import InputError, OperationError
from jaxparc.units.options import Execution, flag_of
from jaxparc.units.run import run_units


@dataclasses.dataclass(frozen=True)
class Job:
    """The models, the images and the folder of an extraction.

    Attributes:
        entries: the models.
        probe: the probe set.
        folder: folder of the features.
        batch_size: as `features.units` takes it.
        list_units: as `run_units` takes `listing`.
        cut: what was left out of the bank, in words; "" if nothing.
    """

    entries: Sequence[Entry]
    probe: features.ProbeImages
    folder: Path
    batch_size: int
    list_units: functools.partial
    cut: str = ""


def open_job(
    bank: str | None,
    target: str,
    *,
    models: Sequence[str] = (),
    cuts: Cuts = ALL,
    images: int,
    seed: int,
    batch_size: int,
    data_dir: str | None,
    out: Path | None,
) -> Job:
    """Read a bank and draw a probe set.

    Args:
        bank: an address of models, as `sources.read` takes it; None for `models`.
        target: a data set, as `datasets.load` takes it.
        models: addresses of models, in place of a bank.
        cuts: which models are left in.
        images: size of the probe set.
        seed: seed that the probe set is drawn with.
        batch_size: images per batch, over all devices.
        data_dir: as `datasets.load` takes it.
        out: folder of the features; None for a default that is unique to bank and probe set.

    Raises:
        InputError: an argument or the bank is wrong, or the cuts leave no model.
        DatasetError: the target cannot be read.
    """
    if (bank is None) == (not models):
        raise InputError("the bank is given as BANK or by --models; expected one of them")
    at_least = {"images": (images, 1), "batch_size": (batch_size, 1), "seed": (seed, 0)}
    for name, (value, least) in at_least.items():
        if value < least:
            raise InputError(f"{flag_of(name)} is {value}; expected at least {least}")
    addresses = models if bank is None else [bank]
    entries, cut = apply(sources.read(addresses), cuts)
    probe = features.probe_images(target, images, seed, data_dir)
    folder = out or features.folder_for(sources.folder_of(addresses), probe)
    listing = functools.partial(
        features.list_units, entries, target, images, seed, data_dir, folder, batch_size
    )
    return Job(entries, probe, folder, batch_size, listing, cut)


def further_job(job: Job, target: str, *, images: int, seed: int, data_dir: str | None) -> Job:
    """Return the same job on another probe set, in the folder seed-N of the job's.

    Args:
        job: a job of `open_job`.
        target: as `open_job` takes it.
        images: as `open_job` takes it.
        seed: as `open_job` takes it.
        data_dir: as `open_job` takes it.

    Raises:
        DatasetError: the target cannot be read.
    """
    probe = features.probe_images(target, images, seed, data_dir)
    folder = job.folder / f"seed-{seed}"
    listing = functools.partial(
        features.list_units,
        job.entries,
        target,
        images,
        seed,
        data_dir,
        folder,
        job.batch_size,
    )
    return dataclasses.replace(job, probe=probe, folder=folder, list_units=listing)


def print_classes(job: Job, target: str, data_dir: str | None) -> None:
    """Print the classes, or the range of values, and the sizes of a target, and what was cut."""
    classes = datasets.summary(target, data_dir=data_dir)
    print(printing.shown(f"{job.probe.target}: {classes}"))
    if job.cut:
        print(printing.shown(job.cut))


def run(job: Job, execution: Execution) -> dict[str, str]:
    """Extract the missing features; the caller must hold the folder with `features.alone_in`.

    Returns:
        Name of the unit of each model that failed -> the error, in one line.

    Raises:
        OperationError: the folder cannot be written.
        KeyboardInterrupt: the run was interrupted; the message has the number of finished models.
    """
    try:
        features.write_facts(job.entries, job.folder)
    except OSError as error:
        raise OperationError(f"cannot write {job.folder}: {error.strerror}") from error
    units = features.units(job.entries, job.probe, job.folder, batch_size=job.batch_size)
    try:
        return run_units(
            "extract",
            units,
            job.folder,
            execution=execution,
            listing=job.list_units,
            noun="model",
        )
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"{interrupt} in {job.folder}") from None


def failure(entries: Sequence[Entry], failed: Mapping[str, str]) -> str:
    """Return one line that names the models that failed; "" if none did.

    If all failed, it has each reason once, as nothing else is left to look at.
    """
    models = {features.unit_name(e): toml_file.printable_name(e) for e in entries}
    names = [name for unit, name in models.items() if unit in failed]
    if not names:
        return ""
    line = f"{printing.count(len(names), 'model')} failed: {', '.join(names)}"
    if len(names) < len(entries) or len(names) == 1:
        return line
    reasons: dict[str, list[str]] = {}
    for unit, name in models.items():
        reasons.setdefault(failed[unit], []).append(name)
    each = (f"{reason} ({', '.join(names)})" for reason, names in reasons.items())
    return f"all {line.partition(':')[0]}: {'; '.join(each)}"


def extract(
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
) -> None:
    """Extract the features of every model of a bank for a target.

    Args:
        bank: as `open_job` takes it.
        target: as `open_job` takes it.
        models: as `open_job` takes it.
        include: see `Cuts`.
        exclude: see `Cuts`.
        licence: see `Cuts`.
        max_params: see `Cuts`.
        max_gmacs: see `Cuts`.
        images: as `open_job` takes it.
        seed: as `open_job` takes it.
        batch_size: as `open_job` takes it.
        data_dir: as `open_job` takes it.
        out: as `open_job` takes it.
        executor: see `Execution`.
        num_gpus: see `Execution`.
        shard: see `Execution`.

    Raises:
        InputError: an argument or the bank is wrong, or the folder holds features of other images.
        OperationError: a model failed, or the folder is in use or cannot be written.
        DatasetError: the target cannot be read.
    """
    job = open_job(
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
    print_classes(job, target, data_dir)
    with features.alone_in(job.folder, job.probe, job.entries, shard=shard):
        failed = run(job, Execution(executor, num_gpus, shard))
    command = f"jaxparc score {shlex.quote(str(job.folder))}"
    if shard != (1, 1):
        command += " (once all shards are done)"
    print(printing.shown(f"features are in {job.folder}: {command}"))
    if failed:
        raise OperationError(failure(job.entries, failed))
