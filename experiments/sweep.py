"""What probe set size, PCA and the reference do to scores (the paper, figures 1 and 2, table 3).

    python -m experiments.sweep probe-size [--benchmark NAME]
    python -m experiments.sweep pca [--benchmark NAME]
    python -m experiments.sweep reference [--benchmark NAME]

Reads the probe files and oracle.csv of the results folder, makes what is missing first, and writes
sweeps/probe-size.csv, pca.csv or reference.csv, and beside it the figures as SVG and PNG, or the
table as Markdown. A smaller probe set is the first images of a whole one: they are in the order of
one image of each class in turn.
"""

import dataclasses
import itertools
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from experiments import extract_probes, finetune_all, score_probes, train_sources
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, StageError, run_units
from experiments.tables import figures, oracle, published
from experiments.tables.figures import Point
from jaxparc import datasets, evaluation, files, report, selectors
from jaxparc.evaluation import Transfer
from jaxparc.labels import encode
from jaxparc.report import sheets
from jaxparc.units.progress import say

SIZES = (50, 100, 200, 300, 400, 500)
DIMENSIONS = (2, 4, 8, 16, 32, 64, 128)
REDUCIBLE = tuple(name for name, selector in selectors.SELECTORS.items() if selector.reducible)
COMPARING = ("rsa", "rsa_f32", "dds", "dds_f32")
_HEAD = ("What", "Value", "Method", "Run", "Mean PC", "Milliseconds")


def probe_size(run: Run) -> int:
    """Every method of the benchmark, without "+ layers", at every size; returns 0."""
    methods = [m for m in run.benchmark.methods if not m.endswith("+l") and m != "heuristic"]
    whole = run.benchmark.probe_images
    sizes = [*(n for n in SIZES if n < whole), whole]
    points = list(_points(run, [(n, n, {m: m for m in methods}) for n in sizes]))
    _write(run, "probe-size", [(p.value, p) for p in points])
    figures.probe_size(points, run.out / "sweeps" / "probe-size")
    return 0


def pca(run: Run) -> int:
    """Every method that looks at features, without PCA and at every dimension; returns 0."""
    steps = [(0, None, {m: m for m in REDUCIBLE})]
    steps += [(f, None, {m: f"{m}_f{f}" for m in REDUCIBLE}) for f in DIMENSIONS]
    points = list(_points(run, steps))
    _write(run, "pca", [(p.value, p) for p in points])
    figures.pca(points, run.out / "sweeps" / "pca")
    return 0


def reference(run: Run) -> int:
    """RSA and DDS with a reference of every architecture; returns the number of failures.

    Raises:
        StageError: a target is no source, so that no model was trained on it.
    """
    failures = 0
    points: dict[str, list[Point]] = {}
    for architecture in run.benchmark.architectures:
        try:
            compared = dataclasses.replace(run.benchmark, methods=COMPARING, reference=architecture)
        except ValueError as error:
            raise StageError(str(error)) from error
        comparing = dataclasses.replace(run, benchmark=compared)
        units = [
            extract_probes.unit_of(comparing, look, probe_set)
            for look in compared.references()
            for probe_set in range(compared.probe_sets)
        ]
        failures += run_units(comparing, f"references of {architecture}", units)
        points[architecture] = list(_points(comparing, [(0, None, {m: m for m in COMPARING})]))
    _write(run, "reference", [(a, p) for a, of_one in points.items() for p in of_one])
    table = _by_reference(points)
    files.write_text(run.out / "sweeps" / "reference.md", table.markdown())
    say(table.markdown())
    return failures


def _by_reference(points: dict[str, list[Point]]) -> sheets.Sheet:
    """The paper's table 3."""
    rows = []
    for method in COMPARING:
        of_method = ([p.mean_pc for p in found if p.method == method] for found in points.values())
        cells = (report.spread_of(mean_pcs).text(".2f", ".2f") for mean_pcs in of_method)
        rows.append((selectors.method(method).title, *cells))
    note = "Mean PC, ± over probe sets. The reference is trained on the target."
    title = "Table 3: by the architecture of the reference"
    notes = (note, *published.FOOTNOTES[3])
    return sheets.Sheet(title, ("method", *points), tuple(rows), notes)


def _points(run: Run, steps: Sequence[tuple[int, int | None, dict[str, str]]]) -> Iterator[Point]:
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
        say(f"sweep: {target}, probe set {probe_set}")
    for value, _, labels in steps:
        for probe_set, method in itertools.product(range(benchmark.probe_sets), labels):
            if of_method := scores.get((value, probe_set, method)):
                mean_pc = evaluation.mean_pc(of_method, accuracies)
                milliseconds = float(np.mean(spent[value, probe_set, method]))
                yield Point(value, method, probe_set, mean_pc, milliseconds)


def _allows(given: score_probes.Given, label: str) -> bool:
    """Whether a method can be applied to what may be a small part of a probe set."""
    check = selectors.method(label).selector.check
    return given.has_all_of(label) and not (check and check(encode(given.labels)))


def _write(run: Run, what: str, points: Sequence[tuple[int | str, Point]]) -> None:
    rows: list[tuple[object, ...]] = [_HEAD]
    for value, p in points:
        pc = "" if np.isnan(p.mean_pc) else f"{p.mean_pc:.4f}"
        rows.append((what, value, p.method, p.run, pc, f"{p.milliseconds:.4f}"))
    path = run.out / "sweeps" / f"{what}.csv"
    files.write_text(path, files.table_text(rows))
    say(f"sweep: {path}")


SWEEPS = {"probe-size": probe_size, "pca": pca, "reference": reference}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in SWEEPS:
        sys.exit(f"python -m experiments.sweep: expected one of {', '.join(SWEEPS)} first")
    command_line.main(
        __doc__,
        train_sources.STAGE,
        finetune_all.STAGE,
        extract_probes.STAGE,
        Stage(SWEEPS[sys.argv.pop(1)]),
    )
