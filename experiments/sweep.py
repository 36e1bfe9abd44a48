"""What the size of a probe set and the PCA dimension do to scores (the paper, figures 1 and 2).

    python -m experiments.sweep probe-size [--benchmark NAME]
    python -m experiments.sweep pca [--benchmark NAME]

Reads the probe files and oracle.csv of the results folder, makes what is missing first, and writes
sweeps/probe-size.csv or pca.csv, and the figures as SVG and PNG beside it. A smaller probe set is
the first images of a whole one: they are in the order of one image of each class in turn.
"""

import csv
import io
import itertools
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from experiments import (
    _run,
    extract_probes,
    figures,
    finetune_all,
    oracle,
    score_probes,
    train_sources,
)
from experiments.figures import Point
from jaxparc import datasets, evaluation, files, selectors
from jaxparc.evaluation import Transfer

SIZES = (50, 100, 200, 300, 400, 500)
DIMENSIONS = (2, 4, 8, 16, 32, 64, 128)
REDUCIBLE = tuple(name for name, selector in selectors.SELECTORS.items() if selector.reducible)
_HEAD = ("What", "Value", "Method", "Run", "Mean PC", "Milliseconds")


def probe_size(run: _run.Run) -> int:
    """Every method of the benchmark, without "+ layers", at every size; returns 0."""
    methods = [m for m in run.benchmark.methods if not m.endswith("+l") and m != "heuristic"]
    whole = run.benchmark.probe_images
    sizes = [*(n for n in SIZES if n < whole), whole]
    points = list(_points(run, [(n, n, {m: m for m in methods}) for n in sizes]))
    _write(run, "probe-size", points)
    figures.probe_size(points, run.out / "sweeps" / "probe-size")
    return 0


def pca(run: _run.Run) -> int:
    """Every method that looks at features, without PCA and at every dimension; returns 0."""
    steps = [(0, None, {m: m for m in REDUCIBLE})]
    steps += [(f, None, {m: f"{m}_f{f}" for m in REDUCIBLE}) for f in DIMENSIONS]
    points = list(_points(run, steps))
    _write(run, "pca", points)
    figures.pca(points, run.out / "sweeps" / "pca")
    return 0


def _points(
    run: _run.Run, steps: Sequence[tuple[int, int | None, dict[str, str]]]
) -> Iterator[Point]:
    """Points of (value, images of the probe set, method -> label) in turn."""
    benchmark = run.benchmark
    accuracies = {t: x for t, x in oracle.read(run.out / "oracle.csv").items() if np.isfinite(x)}
    targets = list(map(datasets.short_name, benchmark.targets))
    scores: dict[tuple[int, int, str], dict[Transfer, float]] = defaultdict(dict)
    spent: dict[tuple[int, int, str], list[float]] = defaultdict(list)
    for probe_set, target in itertools.product(range(benchmark.probe_sets), targets):
        looks = [
            t
            for t in extract_probes.looks(benchmark)
            if t.target == target and extract_probes.path_of(run, t, probe_set).exists()
        ]
        probes = score_probes.read(run, looks, probe_set)
        for value, images, labels in steps:
            score, given = score_probes.scorer(run, target, probes, images)
            for method, label in labels.items():
                if not _allows(given, label):
                    continue
                with warnings.catch_warnings(action="ignore"):
                    found, seconds = score_probes.timed(score, [label])
                spent[value, probe_set, method].append(1e3 * seconds / len(found.names))
                for name, number in zip(found.names, found.values[:, 0], strict=True):
                    transfer = Transfer(*name.split("/"))
                    if transfer in accuracies:
                        scores[value, probe_set, method][transfer] = float(number)
        _run.say(f"sweep: {target}, probe set {probe_set}")
    for value, _, labels in steps:
        for probe_set, method in itertools.product(range(benchmark.probe_sets), labels):
            if of_method := scores.get((value, probe_set, method)):
                mean_pc = evaluation.mean_pc(of_method, accuracies)
                milliseconds = float(np.mean(spent[value, probe_set, method]))
                yield Point(value, method, probe_set, mean_pc, milliseconds)


def _allows(given: score_probes.Given, label: str) -> bool:
    """Whether a method can be applied to what may be a small part of a probe set."""
    if given.kind == "classes" and selectors.method(label).selector.needs_two:
        lone = np.unique(given.labels, return_counts=True)[1].min() < 2
        return given.has_all_of(label) and not lone
    return given.has_all_of(label)


def _write(run: _run.Run, what: str, points: Sequence[Point]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    for p in points:
        pc = "" if np.isnan(p.mean_pc) else f"{p.mean_pc:.4f}"
        writer.writerow([what, p.value, p.method, p.run, pc, f"{p.milliseconds:.4f}"])
    path = run.out / "sweeps" / f"{what}.csv"
    files.write_text(path, text.getvalue())
    _run.say(f"sweep: {path}")


SWEEPS = {"probe-size": probe_size, "pca": pca}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in SWEEPS:
        sys.exit(f"python -m experiments.sweep: expected one of {', '.join(SWEEPS)} first")
    _run.main(
        __doc__,
        train_sources.STAGE,
        finetune_all.STAGE,
        extract_probes.STAGE,
        _run.Stage(SWEEPS[sys.argv.pop(1)]),
    )
