"""Source models from a bank file: published networks with their weights, each of its own kind."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import benchmarks, real_data
from experiments.settings import Benchmark
from jaxparc import files
from jaxparc.bank import hub, toml_file
from jaxparc.bank.entry import Entry
from jaxparc.bank.kinds import native
from jaxparc.errors import InputError, OperationError
from jaxparc.evaluation import SCRATCH
from jaxparc.units.progress import say
from jaxparc.weights.loaded import Loaded


class ChangedError(OperationError):
    """The weights of a network differ from those of the results; the message is for the user."""


def with_networks(benchmark: Benchmark) -> Benchmark:
    """Return a benchmark with the networks of its bank file, if it has one.

    Those of other libraries are left out, with a note.

    Without targets, it gets those of `real_data`, beside the file.

    Raises:
        InputError: the file cannot be read or has no network of `jaxparc.models`, a name cannot be
            used in file names, or an image set is missing.
    """
    if not benchmark.bank:
        return benchmark
    path = Path(benchmark.bank)
    ours = benchmark.bank == benchmarks.REAL.bank
    if not path.exists():
        hint = f"; {real_data.command(path.parent)} writes it" if ours else ""
        raise InputError(f"{path}: no such file{hint}")
    entries = toml_file.read(path)
    found = tuple(entry for entry in entries if entry.native and not entry.refused)
    for entry in entries:
        if entry not in found:
            reason = entry.refused or "not a network of jaxparc.models (docs/models.md)"
            say(f"{benchmark.bank}: {toml_file.printable_name(entry)} is left out: {reason}")
    if not found:
        raise InputError(f"{benchmark.bank} has no network of jaxparc.models (docs/models.md)")
    try:
        targets = benchmark.targets or real_data.targets(path.parent)
    except InputError:
        if ours:
            raise
        raise InputError(
            f"{path}: --targets is missing; expected image sets to fine-tune to"
        ) from None
    made = dataclasses.replace(benchmark, networks=found, targets=targets)
    models = made.models()
    for architecture, source in models:
        where = f"{benchmark.bank}: {architecture} of source {source!r}"
        try:
            files.check_name(f"{architecture}_{source}")
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        if source == SCRATCH or models.count((architecture, source)) > 1:
            raise InputError(f"{where}: the name of other results; expected another source or name")
    return made


def lacking(entry: Entry) -> dict[str, str]:
    """Return the missing weights of a network -> their path, or the command that gets them.

    A hub's are downloaded when needed, and missing where it does not answer.
    """
    if entry.hub is None:
        if entry.weights is None or entry.weights.exists():
            return {}
        return {entry.name: f"{entry.weights}, the weights of {entry.name} in the bank file"}
    try:
        here = entry.cached_weights() is not None
    except InputError as error:  # no huggingface_hub, or a damaged index of shards
        return {entry.name: str(error)}
    return {} if here or hub.reachable() else {entry.name: f"hf download {entry.hub}"}


@functools.lru_cache(maxsize=2)
def loaded(entry: Entry) -> Loaded:
    """Return a network with its weights.

    Raises:
        InputError: the weights do not fit the network.
        OSError: they cannot be read.
    """
    found: Loaded = native.load_network(entry)
    return found


def write_record(entry: Entry, path: Path, name: str, on_images: Callable[[int], None]) -> None:
    """Write what determines a network, for `check_record`, after loading it once.

    Raises:
        InputError: as for `loaded`.
        OSError: likewise, or the record cannot be written.
    """
    del on_images
    loaded(entry)
    files.write_sealed(path, {"unit": name, "made_of": _made_of(entry)})


def check_record(entry: Entry, path: Path, name: str) -> None:
    """Check that a network is still the one of a record.

    Raises:
        FileNotFoundError: there is no record.
        DamagedFileError: it is damaged.
        ChangedError: the network has other weights or settings now.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    recorded: Any = files.read_sealed(path)
    if recorded != {"unit": name, "made_of": _made_of(entry)}:
        raise ChangedError(
            f"{path} is of other weights or settings than {entry.where} has now; expected the "
            "same, or another --name"
        )


def _made_of(entry: Entry) -> str:
    return files.digest(entry.settings)
