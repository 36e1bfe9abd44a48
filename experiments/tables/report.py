"""The report of any table of accuracies and scores: intervals, baselines, the paper's tables.

python -m experiments.report --oracle controlled.csv [--scores scores.csv] --out DIR
"""

import argparse
import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

import jaxparc
from experiments import benchmarks
from experiments.runner.settings import Benchmark
from experiments.tables import figures, published
from experiments.tables import read as outcome_files
from experiments.tables.oracle import OracleError
from jaxparc import evaluation, files, models, printing, report, selectors
from jaxparc.evaluation import Transfer, baselines, controls, outcomes, summary
from jaxparc.evaluation.outcomes import Outcomes
from jaxparc.report import sheets
from jaxparc.report.sheets import Sheet
from jaxparc.units.progress import say

TITLES: Mapping[str, str] = {
    "layers": "layers alone",
    "others_mean": "mean z-score on the other targets",
    "best_source": "best source on the other targets",
}
# The benchmarks of which the paper has tables.
PUBLISHED = ("controlled", "crowd_sourced", "detection")
_LAYERS = {name: float(spec.layers) for name, spec in models.MODELS.items()}


def title(label: str) -> str:
    """What a method is called: a baseline, one of this library's, or whatever the table says."""
    if label in TITLES:
        return TITLES[label]
    try:
        return selectors.method(label).title
    except ValueError:
        return label


def benchmark_of(transfers: Sequence[Transfer]) -> Benchmark | None:
    """The published benchmark that has these models, if one has."""
    there = {t[:2] for t in transfers}
    controlled, crowd = benchmarks.CONTROLLED, set(benchmarks.CROWD_SOURCED.external)
    own = {(a, s) for a in controlled.architectures for s in controlled.source_names}
    if there <= own and {t.target for t in transfers} <= set(controlled.target_names):
        return controlled
    # the published table has models that its authors left out of their evaluation
    return benchmarks.CROWD_SOURCED if crowd <= there else None


def collect(
    read: outcome_files.Read, benchmark: Benchmark | None = None
) -> tuple[Outcomes, Benchmark | None]:
    """The transfers that count, with the scores of every method and every baseline.

    Args:
        read: the tables.
        benchmark: of which they are; found by the models if not given.
    """
    accuracies, scores = read.accuracies, read.scores
    benchmark = benchmark or benchmark_of(list(accuracies))
    if benchmark is not None and not benchmark.external_from_oracle:
        left_out = set(benchmark.extra_targets)
        known = {*benchmark.external}
        known |= {(a, s) for a in benchmark.architectures for s in benchmark.source_names}

        accuracies = {
            t: x for t, x in accuracies.items() if t[:2] in known and t.target not in left_out
        }
    return _beside_baselines(accuracies, scores, benchmark), benchmark


def _beside_baselines(
    accuracies: Mapping[Transfer, float],
    scores: Mapping[str, Sequence[Mapping[Transfer, float]]],
    benchmark: Benchmark | None,
) -> Outcomes:
    """The outcomes of the transfers that have an accuracy, with every baseline."""
    of_these = {
        method: [{t: x for t, x in run.items() if t in accuracies} for run in runs]
        for method, runs in scores.items()
    }
    found = outcomes.collect(accuracies, of_these)
    return found.beside(blind(found, benchmark))


def trusted(
    accuracies: Mapping[Transfer, float],
    scores: Mapping[str, Sequence[Mapping[Transfer, float]]],
    targets: Sequence[str],
) -> tuple[summary.Summary | None, dict[str, str]]:
    """What a benchmark's numbers over some targets are worth, and what the methods are called.

    Methods stand without "+ layers", if they are there without, beside the baselines; None if there
    is no score.
    """
    plain = {m: runs for m, runs in scores.items() if runs and m.removesuffix("+l") == m}
    counted = {t: x for t, x in accuracies.items() if t.target in targets}
    if not plain or not counted:
        return None, {}
    found = _beside_baselines(counted, plain, None)
    return summary.summarise(found), {method: title(method) for method in found.scores}


def blind(found: Outcomes, benchmark: Benchmark | None) -> dict[str, np.ndarray]:
    """The baselines, which look at no image, that these outcomes allow and do not have already."""
    scores = {}
    if len(found.targets) > 1:
        scores["others_mean"] = baselines.others_mean(found)
        if any(source for _, source in found.models):
            scores["best_source"] = baselines.best_source(found)
    if all(architecture in _LAYERS for architecture, _ in found.models):
        scores["layers"] = baselines.depth(found, _LAYERS)
        if benchmark is not None and benchmark.published_images and not benchmark.external:
            images = benchmark.published_images
            scores["heuristic"] = baselines.capacity(found, _LAYERS, images)
    return {method: s for method, s in scores.items() if method not in found.scores}


def paper_tables(found: Outcomes, benchmark: Benchmark) -> dict[str, Sheet]:
    """The paper's tables that these outcomes can fill, its own number beside ours, by name."""
    if benchmark.name == "controlled":
        tables = (_by_target(1, found), _by_varying(found), _with_layers(found))
        return dict(zip(("table_1", "table_2", "table_4"), tables, strict=True))
    number = {"crowd_sourced": 5, "detection": 6}[benchmark.name]
    return {f"table_{number}": _by_target(number, found)}


# A method's numbers times 100, one for each probe set; None where a column has none.
_Compute = Callable[[str], Sequence[float] | None]


def _cells(table: int, found: Outcomes, columns: Mapping[str, _Compute], name: str) -> Sheet:
    """A row for each method, with the printed number where there is one."""
    rows = []
    for method in found.scores:
        if method.endswith("+l"):  # table 4 has its own
            continue
        cells = []
        for column, compute in columns.items():
            values = compute(method)
            cell = "–" if values is None else report.spread_of(values).text(".2f", ".2f")
            printed = published.PRINTED.get((table, method, column))
            cells.append(cell + ("" if printed is None else f" [{printed:g}]"))
        rows.append((title(method), *cells))
    notes = ("In brackets: what the paper prints.", *published.FOOTNOTES.get(table, ()))
    return Sheet(f"Table {table}: {name}", ("method", *columns), tuple(rows), notes)


def _by_target(table: int, found: Outcomes) -> Sheet:
    pearson = evaluation.MEASURES["pearson"]

    def of(j: int | None) -> _Compute:
        def compute(method: str) -> Sequence[float]:
            values = 100 * outcomes.by_target(found, method, pearson)
            return list(values.mean(1) if j is None else values[:, j])

        return compute

    columns = {"Mean PC": of(None)} | {name: of(j) for j, name in enumerate(found.targets)}
    names = {1: "source and architecture vary", 5: "crowd-sourced models", 6: "detectors"}
    return _cells(table, found, columns, names[table])


def _runs(found: Outcomes, scores: np.ndarray) -> list[dict[Transfer, float]]:
    """Scores as `evaluation.mean_pc` takes them, of each probe set."""
    places = [
        (Transfer(found.models[i][0], found.models[i][1], found.targets[j]), i, j)
        for i, j in zip(*np.nonzero(found.where), strict=True)
    ]
    return [{t: float(run[i, j]) for t, i, j in places} for run in scores]


def _by_varying(found: Outcomes) -> Sheet:
    (accuracies,) = _runs(found, found.accuracies[None])

    def of(varying: str) -> _Compute:
        def compute(method: str) -> Sequence[float]:
            runs = _runs(found, found.scores[method])
            return [evaluation.mean_pc(run, accuracies, varying) for run in runs]

        return compute

    return _cells(2, found, {v: of(v) for v in evaluation.VARYING}, "what varies")


def _with_layers(found: Outcomes) -> Sheet:
    pearson = evaluation.MEASURES["pearson"]

    def mean_pcs(of: Outcomes, method: str) -> Sequence[float]:
        return list(100 * outcomes.by_target(of, method, pearson).mean(1))

    def of(pooled: bool | None) -> _Compute:
        def compute(method: str) -> Sequence[float] | None:
            if pooled is None:
                return mean_pcs(found, method)
            if method == "layers":
                return None
            layered = controls.plus_layers(found, method, _LAYERS, pooled=pooled)
            return mean_pcs(found.beside({"layered": layered}), "layered")

        return compute

    columns = {"Mean PC": of(None), "+ layers": of(False), "+ layers, pooled": of(True)}
    return _cells(4, found, columns, "with + layers (eq. 6)")


def write(result: summary.Summary, out: Path, more: Mapping[str, Sheet]) -> dict[str, Sheet]:
    """Writes OUT/summary.csv, OUT/tables, and OUT/figures if there is matplotlib.

    Args:
        result: of all methods.
        out: folder.
        more: further tables, by the name of their files.

    Returns:
        All tables.
    """
    tables = {
        "mean_pc": sheets.intervals(result, "pearson", title),
        "measures": sheets.measures(result, title),
        "beyond": sheets.beyond(result, title, baselines.OF_OTHERS),
        **more,
    }
    for name, sheet in tables.items():
        files.write_text(out / "tables" / f"{name}.md", sheet.markdown())
        files.write_text(out / "tables" / f"{name}.csv", sheet.csv())
    files.write_text(out / "summary.csv", sheets.long_csv(result))
    with contextlib.suppress(ImportError):  # of matplotlib, which the page does without
        figures.intervals(result, title, out / "figures" / "mean_pc")
        figures.accuracies(result, out / "figures" / "accuracies")
        best = next(iter(result.cells["pearson"]))
        figures.scatter(result, best, title, out / "figures" / "scores")
    return tables


def run(
    oracle: Path,
    scores: Path | None,
    out: Path,
    *,
    times: Path | None = None,
    benchmark: Benchmark | None = None,
    resamples: int = 2000,
) -> None:
    """Reads, prints, and writes OUT/index.html, OUT/summary.csv, OUT/tables and OUT/figures.

    Raises:
        OracleError: a table cannot be taken, or has no transfer of the benchmark.
        OSError: a file cannot be read or written.
    """
    read = outcome_files.read(oracle, scores)
    stage_seconds, milliseconds = outcome_files.read_times(times) if times else ({}, {})
    found, benchmark = collect(read, benchmark)
    if not found.where.any():
        name = "" if benchmark is None else f" of the benchmark {benchmark.name}"
        raise OracleError(f"{oracle} has no transfer{name} with an accuracy and a score")
    if not found.scores:
        raise OracleError(f"{oracle} has no scores and no baseline: give --scores")
    result = summary.summarise(found, resamples=resamples)
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    more = {} if benchmark is None else paper_tables(found, benchmark)
    for sheet in write(result, out, more).values():
        console.print(sheet.rich())
    (accuracies,) = _runs(found, found.accuracies[None])
    report.write_page(
        report.Results(
            name=oracle.stem,
            accuracies=accuracies,
            scratch={},
            scores={method: _runs(found, s) for method, s in found.scores.items()},
            milliseconds=milliseconds,
            stage_seconds=stage_seconds,
            settings={
                "accuracies": oracle.name,
                "scores": scores.name if scores else "none but baselines",
                "resamples": resamples,
            },
            versions={
                "jaxparc": jaxparc.__version__,
                "numpy": importlib.metadata.version("numpy"),
                "Python": platform.python_version(),
            },
            titles={method: title(method) for method in found.scores},
            summary=result,
        ),
        out / "index.html",
    )
    say(f"report: {out / 'index.html'}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exits with 2 and one line if a file cannot be taken."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--oracle", type=Path, required=True, metavar="FILE", help="accuracies")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="of any methods")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the report")
    parser.add_argument("--times", type=Path, metavar="FILE", help="times.csv of a benchmark")
    parser.add_argument(
        "--benchmark",
        choices=PUBLISHED,
        help="whose tables they are; the first two are known by their models",
    )
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="[2000]")
    args = parser.parse_args(argv)
    if args.resamples < 1:
        parser.exit(2, f"{parser.prog}: --resamples is {args.resamples}; expected at least 1\n")
    with printing.ending():
        _report(parser, args)


def _report(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    try:
        run(
            args.oracle,
            args.scores,
            args.out,
            times=args.times,
            benchmark=benchmarks.get(args.benchmark) if args.benchmark else None,
            resamples=args.resamples,
        )
    except BrokenPipeError:
        raise
    except (OracleError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {printing.line(error)}\n")
