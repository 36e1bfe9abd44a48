"""Train a linear classifier on the features of every source model, for benchmarks that ask for it.

Fine-tuning trains on the same images. Writes a file for each transfer to linear/, and from these
linear.csv, with the accuracies on the test images.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments import extract_probes, train_sources
from experiments.runner import command_line, data
from experiments.runner.run import Run, Stage, list_by_name, run_units
from experiments.tables import read
from jaxparc import extraction, files, locks
from jaxparc.bank import linear_probe
from jaxparc.evaluation import Transfer
from jaxparc.geometry import Geometry
from jaxparc.training.decoding import CentralCrops
from jaxparc.units.unit import Unit, read_result, write_result


def stage(run: Run) -> int:
    """Train the classifiers that are missing; return the number of failures."""
    if not run.benchmark.linear_probes:
        return 0
    data.prepare(run.benchmark)
    listing = list_by_name("experiments.linear_probes", run)
    failures = run_units(run, "linear_probes", units(run), listing)
    with locks.folder(run.out / "metrics", wait=True):  # the last of several shards finds all
        _write_table(run)
    return failures


def units(run: Run) -> list[Unit]:
    """Return the units of all transfers; none if the benchmark asks for none."""
    return [
        Unit(
            _name(transfer),
            _path(run, transfer),
            read_result,
            functools.partial(_fit, run, transfer),
            extract_probes.lacking(run, transfer),
        )
        for transfer in _transfers(run)
    ]


def _transfers(run: Run) -> list[Transfer]:
    """Return the transfers to targets of which each image has one class."""
    benchmark = run.benchmark
    found = benchmark.transfers() if benchmark.linear_probes else ()
    return [t for t in found if not benchmark.data(t.target).multi_label]


def _name(transfer: Transfer) -> str:
    return "linear probe of {} {} on {}".format(*transfer)


def _path(run: Run, transfer: Transfer) -> Path:
    return run.out / "linear" / f"{'_'.join(transfer)}.json"


def _fit(run: Run, transfer: Transfer, on_images: Callable[[int], None]) -> None:
    started = time.monotonic()
    benchmark = run.benchmark
    network = extract_probes.network_of(run, transfer)
    tuning, _, test = data.transfer_splits(benchmark, transfer.target)
    features = {}
    for split in (tuning, test):
        images = data.images(benchmark, transfer.target, split)
        found = extraction.extract(
            network,
            CentralCrops(images, Geometry(benchmark.image_size)),
            batch_size=benchmark.eval_batch_size,
            jit=False,
        )
        features[split] = np.asarray(found.features)
        on_images(len(images))
    accuracy = linear_probe.accuracy(
        features[tuning],
        data.labels(benchmark, transfer.target, tuning),
        features[test],
        data.labels(benchmark, transfer.target, test),
        benchmark.data(transfer.target).num_classes,
    )
    result = {"accuracy": accuracy, "seconds": time.monotonic() - started}
    write_result(_path(run, transfer), _name(transfer), result)


def _write_table(run: Run) -> None:
    rows: list[Sequence[object]] = [(*read.TRANSFER, read.LINEAR)]
    for transfer in _transfers(run):
        if (path := _path(run, transfer)).exists():
            accuracy = read_result(path, _name(transfer))["accuracy"]
            rows.append((*transfer, "" if accuracy is None else f"{accuracy:.4f}"))
    files.write_text(run.out / "linear.csv", files.table_text(rows))


STAGE = Stage(stage, units, "linear_probes", divisible=True)

if __name__ == "__main__":
    command_line.main(__doc__, train_sources.STAGE, STAGE)
