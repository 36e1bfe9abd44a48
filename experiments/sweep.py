"""Sweeps of probe set size, PCA dimension and reference (the paper, figures 1 and 2, table 1).

    python -m experiments.sweep probe-size [--benchmark NAME]
    python -m experiments.sweep pca [--benchmark NAME]
    python -m experiments.sweep reference [--benchmark NAME]

Reads the probe files and oracle.csv of the results folder, creating missing ones first, and writes
sweeps/probe-size.csv, pca.csv or reference.csv, with the figures as SVG and PNG or the table as
Markdown. A smaller probe set consists of the first images of the whole one, in which the classes
take turns.
"""

import dataclasses
import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from experiments import extract_probes, finetune_all, score_probes, train_sources
from experiments.benchmarks import Benchmark
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, StageError, run_units
from experiments.tables import figures, published, read
from experiments.tables.figures import Point
from jaxparc import datasets, evaluation, files, printing, report, selectors
from jaxparc.evaluation import Transfer
from jaxparc.labels import encode
from jaxparc.report import sheets
from jaxparc.units.progress import say

SIZES = (50, 100, 200, 300, 400, 500)
DIMENSIONS = (2, 4, 8, 16, 32, 64, 128)
REDUCIBLE = tuple(name for name, selector in selectors.SELECTORS.items() if selector.reducible)
COMPARING = ("rsa", "rsa_f32", "dds", "dds_f32")


class Case(NamedTuple):
    """The scoring for one value of the swept quantity.

    Attributes:
        value: the value; see `Point`.
        methods: name in the points -> label that `score_bank` takes.
        benchmark: the benchmark to score, with its reference.
        images: number of images to use, from the start of the probe set; None for all.
    """

    value: int
    methods: Mapping[str, str]
    benchmark: Benchmark
    images: int | None = None


def probe_size(run: Run) -> int:
    """Score by every method of the benchmark, without "+ layers", at every size; return 0."""
    methods = [m for m in run.benchmark.methods if not m.endswith("+l") and m != "heuristic"]
    whole = run.benchmark.probe_images
    sizes = [*(n for n in SIZES if n < whole), whole]
    same = {m: m for m in methods}
    points = _points(run, [Case(n, same, run.benchmark, images=n) for n in sizes])
    _write(run, "probe-size", [(p.value, p) for p in points])
    figures.probe_size(points, run.out / "sweeps" / "probe-size")
    return 0


def pca(run: Run) -> int:
    """Score by every reducible method, without PCA and with every dimension; return 0."""
    cases = [Case(0, {m: m for m in REDUCIBLE}, run.benchmark)]
    cases += [Case(f, {m: f"{m}_f{f}" for m in REDUCIBLE}, run.benchmark) for f in DIMENSIONS]
    points = _points(run, cases)
    _write(run, "pca", [(p.value, p) for p in points])
    figures.pca(points, run.out / "sweeps" / "pca")
    return 0


def reference(run: Run) -> int:
    """Score by RSA and DDS with a reference of every architecture; return the number of failures.

    Raises:
        StageError: a target is not a source, so no model was trained on it.
    """
    failures = 0
    cases = []
    architectures = run.benchmark.architectures
    for value, architecture in enumerate(architectures):
        try:
            compared = dataclasses.replace(run.benchmark, methods=COMPARING, reference=architecture)
        except ValueError as error:
            raise StageError(str(error)) from error
        comparing = dataclasses.replace(run, benchmark=compared)
        units = [
            extract_probes.unit_of(comparing, transfer, probe_set)
            for transfer in compared.references()
            for probe_set in range(compared.probe_sets)
        ]
        failures += run_units(comparing, f"references of {architecture}", units)
        cases.append(Case(value, {m: m for m in COMPARING}, compared))
    points = _points(run, cases)
    _write(run, "reference", [(architectures[p.value], p) for p in points])
    table = _by_reference(architectures, points)
    files.write_text(run.out / "sweeps" / "reference.md", table.markdown())
    print(printing.lines(table.markdown()))
    return failures


def _by_reference(architectures: Sequence[str], points: Sequence[Point]) -> sheets.Sheet:
    """Return Mean PC by reference, of which the paper's table 1 has two.

    The value of a point is the index of its architecture.
    """
    rows = []
    for method in COMPARING:
        of_method = (
            [p.mean_pc for p in points if (p.method, p.value) == (method, i)]
            for i in range(len(architectures))
        )
        cells = (report.spread_of(mean_pcs).text(".2f", ".2f") for mean_pcs in of_method)
        rows.append((selectors.method(method).title, *cells))
    note = "Mean PC ± standard deviation over probe sets. The reference is trained on the target."
    title = "Mean PC by the architecture of the reference"
    notes = (note, published.SWAPPED)
    return sheets.Sheet(title, ("method", *architectures), tuple(rows), notes)


def _points(run: Run, cases: Sequence[Case]) -> list[Point]:
    """Score all cases, and return a point per case, probe set and method that has scores."""
    benchmark = run.benchmark
    accuracies = _accuracies(run)
    targets = list(map(datasets.short_name, benchmark.targets))
    scores: dict[tuple[int, int, str], dict[Transfer, float]] = defaultdict(dict)
    spent: dict[tuple[int, int, str], list[float]] = defaultdict(list)
    for probe_set, target in itertools.product(range(benchmark.probe_sets), targets):
        # Models and the references of all cases are read together, so each file is read only once.
        transfers = dict.fromkeys(
            t for case in cases for t in extract_probes.probed_transfers(case.benchmark)
        )
        of_target = [t for t in transfers if t.target == target]
        probes = score_probes.read(run, of_target, probe_set)
        for case in cases:
            of_case = dataclasses.replace(run, benchmark=case.benchmark)
            score, given = score_probes.scorer(of_case, target, probes, case.images)
            for method, label in case.methods.items():
                if not _allows(given, label):
                    continue
                with warnings.catch_warnings(action="ignore"):
                    found, seconds = score_probes.timed(score, [label])
                key = (case.value, probe_set, method)
                spent[key].append(1e3 * seconds / len(found.names))
                for name, number in zip(found.names, found.values[:, 0], strict=True):
                    transfer = Transfer(*name.split("/"))
                    if transfer in accuracies:
                        scores[key][transfer] = float(number)
        say(f"sweep: {target}, probe set {probe_set}")
    return [
        Point(
            case.value,
            method,
            probe_set,
            evaluation.mean_pc(scores[key], accuracies),
            float(np.mean(spent[key])),
        )
        for case in cases
        for probe_set, method in itertools.product(range(benchmark.probe_sets), case.methods)
        if scores.get(key := (case.value, probe_set, method))
    ]


def _accuracies(run: Run) -> read.Accuracies:
    """Return the available accuracies."""
    try:
        found = read.read_accuracies(run.out / "oracle.csv")
    except read.TableError as error:
        raise StageError(str(error)) from error
    return {transfer: accuracy for transfer, accuracy in found.items() if np.isfinite(accuracy)}


def _allows(given: score_probes.Given, label: str) -> bool:
    """Return whether a method can be applied to a, possibly small, part of a probe set."""
    checks = [member.selector.check for member in selectors.method(label).members]
    encoded = encode(given.labels)
    return given.has_all_of(label) and not any(check and check(encoded) for check in checks)


def _write(run: Run, what: str, points: Iterable[tuple[int | str, Point]]) -> None:
    rows: list[tuple[object, ...]] = [read.SWEEP]
    for value, p in points:
        pc = "" if np.isnan(p.mean_pc) else f"{p.mean_pc:.4f}"
        rows.append((what, value, p.method, p.run, pc, f"{p.milliseconds:.4f}"))
    path = run.out / "sweeps" / f"{what}.csv"
    files.write_text(path, files.table_text(rows))
    print(printing.shown(f"sweep: {path}"))


SWEEPS: Mapping[str, Callable[[Run], int]] = MappingProxyType(
    {"probe-size": probe_size, "pca": pca, "reference": reference}
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line.stage_parser(__doc__)
    parser.add_argument("sweep", choices=SWEEPS, metavar="SWEEP", help=", ".join(SWEEPS))
    with printing.ending():
        args = parser.parse_args(argv)
        sweep = Stage(SWEEPS[vars(args).pop("sweep")], name="sweep")
        stages = [train_sources.STAGE, finetune_all.STAGE, extract_probes.STAGE, sweep]
        command_line.run_stages(parser, args, stages)


if __name__ == "__main__":
    main()
