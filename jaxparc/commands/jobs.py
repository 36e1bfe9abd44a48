"""Jobs of the commands extract and rank: the features of a bank for a target."""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxparc import datasets, printing
from jaxparc.bank import features, sources, toml_file
from jaxparc.bank.cuts import ALL, Cuts, apply
from jaxparc.bank.entry import Entry
from jaxparc.errors import InputError, OperationError
from jaxparc.units.options import Execution, flag_of
from jaxparc.units.run import run_units
from jaxparc.units.unit import Made, Unit

TITLE = "extract"  # of the units, and of the record of their failures


@dataclasses.dataclass(frozen=True)
class Job:
    """The models, the images and the folder of an extraction.

    Attributes:
        entries: the models.
        target: a data set, as `datasets.load` takes it.
        images: requested size of the probe set.
        seed: seed that the probe set is drawn with.
        data_dir: as `datasets.load` takes it.
        probe: the probe set.
        folder: folder of the features.
        batch_size: as `features.units` takes it.
        cut: what was left out of the bank, in words; "" if nothing.
    """

    entries: Sequence[Entry]
    target: str
    images: int
    seed: int
    data_dir: str | None
    probe: features.ProbeImages
    folder: Path
    batch_size: int
    cut: str = ""

    def with_seed(self, seed: int) -> "Job":
        """Return the same job on another probe set, in the subfolder seed-N.

        Raises:
            DatasetError: the target cannot be read.
        """
        probe = features.probe_images(self.target, self.images, seed, self.data_dir)
        folder = self.folder / f"seed-{seed}"
        return dataclasses.replace(self, seed=seed, probe=probe, folder=folder)

    def units(self, entries: Sequence[Entry] | None = None, first: int | None = None) -> list[Unit]:
        """List the features of models, by default of all, as units; see `features.units`."""
        entries = self.entries if entries is None else entries
        return features.units(
            entries, self.probe, self.folder, batch_size=self.batch_size, first=first
        )

    def folder_of(self, first: int | None) -> Path:
        """Return the folder of the features of the first images; None for all."""
        return features.folder_of_first(self.folder, self.probe, first)


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
    return Job(entries, target, images, seed, data_dir, probe, folder, batch_size, cut)


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Return models in an order that meets good and different ones early.

    Architectures take turns; each, and the models of each, in the order of their priors, the
    highest first, and then of the bank.
    """
    by_prior = sorted(entries, key=lambda e: math.inf if e.prior is None else -e.prior)
    turns: dict[str, int] = {}
    keyed = []
    for entry in by_prior:
        turn = turns[entry.address] = turns.get(entry.address, -1) + 1
        keyed.append((turn, entry))
    return [entry for _, entry in sorted(keyed, key=lambda one: one[0])]


def print_classes(job: Job) -> None:
    """Print, on stderr, the classes or range of values and the sizes of a target, and the cut."""
    classes = datasets.summary(job.target, data_dir=job.data_dir)
    print(printing.shown(f"{job.probe.target}: {classes}"), file=sys.stderr)
    if job.cut:
        print(printing.shown(job.cut), file=sys.stderr)


def run(
    job: Job,
    execution: Execution,
    *,
    entries: Sequence[Entry] | None = None,
    first: int | None = None,
    until: float = math.inf,
    watch: Callable[[Made], None] = lambda made: None,
) -> dict[str, str]:
    """Extract the missing features; the caller must hold the folder with `features.alone_in`.

    Args:
        job: the job.
        execution: how to run it.
        entries: the models, in the order of their units; by default, all of the job `in_order`.
        first: as `features.units` takes it.
        until: as `run_units` takes it.
        watch: as `run_units` takes it.

    Returns:
        Name of the unit of each model that failed -> the error, in one line.

    Raises:
        OperationError: the folder cannot be written.
        KeyboardInterrupt: the run was interrupted; the message has the number of finished models.
    """
    entries = in_order(job.entries) if entries is None else entries
    folder = job.folder_of(first)
    try:
        features.write_facts(entries, folder)
    except OSError as error:
        raise OperationError(f"cannot write {folder}: {error.strerror}") from error
    try:
        return run_units(
            TITLE if folder == job.folder else f"{TITLE} {first} images",
            job.units(entries, first),
            folder,
            execution=execution,
            listing=functools.partial(
                features.list_units,
                entries,
                job.target,
                job.images,
                job.seed,
                job.data_dir,
                job.folder,
                job.batch_size,
                first,
            ),
            noun="model",
            until=until,
            watch=watch,
        )
    except KeyboardInterrupt as interrupt:
        how = f"{interrupt} in {folder}; the same command continues"
        raise KeyboardInterrupt(how) from None


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
    reasons = printing.by_reason({name: failed[unit] for unit, name in models.items()})
    return f"all {line.partition(':')[0]}: {reasons}"
