"""Stage 3: extract the features of every target's probe sets with every source model.

Trains missing sources first. Writes probes/<architecture>_<source>_<target>_<run>.npz with
features (n, d), probs (n, z), y (n,), or (n, c) for multi-label targets, source_dataset,
target_dataset and architecture. This includes the reference of RSA and DDS, the model trained on
the target itself, whose source is the target.
"""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import train_sources
from experiments.benchmarks import Benchmark
from experiments.runner import command_line, data
from experiments.runner.run import Run, Stage, StageError, list_by_name, run_units
from experiments.tables.read import ORACLE
from jaxparc import array_files, extraction, files, sampling
from jaxparc.evaluation import Transfer
from jaxparc.geometry import Geometry
from jaxparc.training.decoding import CentralCrops, Subset
from jaxparc.units.run import NAMES
from jaxparc.units.unit import Unit


def stage(run: Run) -> int:
    """Extract the features that are missing; return the number of failures."""
    data.prepare(run.benchmark)
    listing = list_by_name("experiments.extract_probes", run)
    return run_units(run, "extract_probes", units(run), listing)


def units(run: Run) -> list[Unit]:
    """Return the units of all probe files.

    Raises:
        StageError: the table that lists the models is missing.
    """
    if run.benchmark.external_from_oracle and not run.benchmark.external:
        raise StageError(
            f"{run.out / 'oracle.csv'} is missing: a table with the columns "
            f"{', '.join(ORACLE)}, which lists the models and their mAP; "
            f"python -m experiments.import_probes FILE.csv --out {run.out} imports it"
        )
    return [
        unit_of(run, transfer, probe_set)
        for transfer in probed_transfers(run.benchmark)
        for probe_set in range(run.benchmark.probe_sets)
    ]


def probed_transfers(benchmark: Benchmark) -> list[Transfer]:
    """Return the pairs of model and target whose features are extracted, references included."""
    transfers = (*benchmark.transfers(), *benchmark.external_transfers(), *benchmark.references())
    return list(transfers)


def unit_of(run: Run, transfer: Transfer, probe_set: int) -> Unit:
    """Return the unit of a probe file."""
    return Unit(
        unit_name(transfer, probe_set),
        path_of(run, transfer, probe_set),
        read,
        functools.partial(_extract, run, transfer, probe_set),
        lacking(run, transfer),
    )


def lacking(run: Run, transfer: Transfer) -> dict[str, str]:
    """Return the missing prerequisites of a probe file -> the command that gets each."""
    architecture, source, target = transfer
    if (architecture, source) in run.benchmark.external:
        command = f"python -m experiments.import_probes FILES --out {run.out}"
        return {f"{architecture}/{source}": f"{command}, with probe files of: {NAMES}"}
    found = train_sources.lacking(run, architecture, source)
    return found | data.lacking(run.benchmark, target)


def path_of(run: Run, transfer: Transfer, probe_set: int) -> Path:
    """Return the path of a probe file."""
    return files.path_of(run.out / "probes", file_name(transfer, probe_set))


def file_name(transfer: Transfer, probe_set: int) -> str:
    """Return the name of a probe file."""
    return f"{'_'.join(transfer)}_{probe_set}.npz"


def unit_name(transfer: Transfer, probe_set: int) -> str:
    """Return the name of the unit of a probe file, which the file records."""
    architecture, source, target = transfer
    return f"{architecture} {source} looks at {target}, probe set {probe_set}"


def read(path: Path, name: str) -> dict[str, Any]:
    """Return the arrays of a probe file, verifying every byte.

    Raises:
        FileNotFoundError: the file is missing.
        DamagedFileError: the file is damaged, or belongs to another unit.
    """
    try:
        probe = array_files.read(path)
    except ValueError as error:
        raise files.DamagedFileError(f"{path} is damaged: {error.__cause__ or error}") from error
    if str(probe.get("unit")) != name:
        raise files.DamagedFileError(f"{path} is damaged: it does not belong to the unit {name!r}")
    return probe


def _extract(
    run: Run, transfer: Transfer, probe_set: int, on_images: Callable[[int], None]
) -> None:
    started = time.monotonic()
    benchmark = run.benchmark
    probe = probe_of(run, transfer.target, probe_set)
    labels = data.labels(benchmark, transfer.target, "train")[probe.indices]
    found = extraction.extract(
        network_of(run, transfer),
        CentralCrops(probe, Geometry(benchmark.image_size)),
        batch_size=benchmark.eval_batch_size,
        jit=False,
    )
    on_images(len(probe))
    arrays = {"features": found.features, "y": labels}
    if found.probs is not None:  # a published network may have no head
        arrays["probs"] = found.probs
    path, seconds = path_of(run, transfer, probe_set), time.monotonic() - started
    write(path, transfer, probe_set, arrays, seconds)


def network_of(run: Run, transfer: Transfer) -> Callable[..., Any]:
    """Return the network of a source model, as `extraction.compile_network` does."""
    task = train_sources.task_of(run.benchmark, transfer.architecture, transfer.source)
    return extraction.compile_network(
        task.module,
        train_sources.source_model(run, transfer.architecture, transfer.source),
        mean=task.mean,
        std=task.std,
    )


def write(
    path: Path,
    transfer: Transfer,
    probe_set: int,
    arrays: Mapping[str, Any],
    seconds: float,
) -> None:
    """Write a probe file for `read`.

    Args:
        path: path of the file.
        transfer: the source model and the target.
        probe_set: number of the probe set.
        arrays: features (n, d), y (n,) or (n, c), and optionally probs (n, z).
        seconds: duration of the extraction; NaN if unknown.
    """
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            **arrays,
            probs_kind="softmax of the logits",  # also for a multi-label source
            unit=unit_name(transfer, probe_set),
            architecture=transfer.architecture,
            source_dataset=transfer.source,
            target_dataset=transfer.target,
            seconds=seconds,
        )


@functools.lru_cache(maxsize=32)
def probe_of(run: Run, target: str, probe_set: int) -> Subset:
    """Return the images of a probe set, in its order."""
    source = data.images(run.benchmark, target, "train")
    seed = run.seed("probe", target, probe_set)
    labels = data.labels(run.benchmark, target, "train")
    return Subset(source, sampling.probe_indices(labels, run.benchmark.probe_images, seed))


STAGE = Stage(stage, units, "extract_probes", divisible=True)

if __name__ == "__main__":
    command_line.main(__doc__, train_sources.STAGE, STAGE)
