"""Report any table of accuracies and scores: intervals, baselines, and the paper's tables."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

import jaxparc
from experiments import benchmarks
from experiments.settings import Benchmark
from experiments.tables import figures, paper, read, truth
from jaxparc import evaluation, files, models, report, selectors
from jaxparc.evaluation import baselines, controls, outcomes, summary
from jaxparc.evaluation.outcomes import Outcomes
from jaxparc.report import sheets
from jaxparc.report.sheets import Sheet
from jaxparc.units.progress import say

TITLES: Mapping[str, str] = {
    "layers": "layers alone",
    "others_mean": "mean z-score on the other targets",
    "best_source": "best source on the other targets",
}
_LAYERS = {name: float(spec.layers) for name, spec in models.MODELS.items()}


def title(label: str) -> str:
    """Return the title of a baseline or selector, or the name of any other method."""
    if label in TITLES:
        return TITLES[label]
    try:
        return selectors.method(label).title
    except ValueError:
        return label


def benchmark_of(found: Outcomes) -> Benchmark | None:
    """Return the published benchmark with these models and targets, or None."""
    known = set(found.models)
    controlled, crowd = benchmarks.CONTROLLED, set(benchmarks.CROWD_SOURCED.external)
    own = {(a, s) for a in controlled.architectures for s in controlled.source_names}
    if known <= own and set(found.targets) <= set(controlled.target_names):
        return controlled
    # The published table also has models that the authors left out of their evaluation.
    return benchmarks.CROWD_SOURCED if crowd <= known else None


def evaluated(
    found: Outcomes, benchmark: Benchmark | None = None
) -> tuple[Outcomes, Benchmark | None]:
    """Return the outcomes that count in a benchmark, with the baselines, and the benchmark.

    Args:
        found: all outcomes in the tables.
        benchmark: the benchmark of the tables; by default recognised by its models.
    """
    benchmark = benchmark or benchmark_of(found)
    if benchmark is not None and not benchmark.external_from_oracle:
        known = {*benchmark.external}
        known |= {(a, s) for a in benchmark.architectures for s in benchmark.source_names}
        found = found.only(
            [target for target in found.targets if target not in benchmark.extra_targets],
            [model for model in found.models if model in known],
        )
    return with_baselines(found, benchmark), benchmark


def with_baselines(
    found: Outcomes,
    benchmark: Benchmark | None = None,
    layers: Callable[[str, str], float] | None = None,
) -> Outcomes:
    """Return outcomes with those baselines added that can be computed and are not there yet.

    Args:
        found: the outcomes.
        benchmark: if it specifies the numbers of images, the heuristic is computed.
        layers: gives the number of layers of an (architecture, source); by default that of the
            architecture, if it is one of `models.MODELS`.
    """
    scores = {}
    if len(found.targets) > 1:
        scores["others_mean"] = baselines.others_mean(found)
        if any(source for _, source in found.models):
            scores["best_source"] = baselines.best_source(found)
    if layers is not None:
        column = np.array([float(layers(*model)) for model in found.models])
        scores["layers"] = np.broadcast_to(column[:, None], (1, *found.where.shape))
    if all(architecture in _LAYERS for architecture, _ in found.models):
        scores.setdefault("layers", baselines.depth(found, _LAYERS))
        images = {} if benchmark is None or benchmark.external else benchmark.published_images
        if images and {*found.targets, *(source for _, source in found.models)} <= images.keys():
            scores["heuristic"] = baselines.capacity(found, _LAYERS, images)
    return found.beside({m: s for m, s in scores.items() if m not in found.scores})


# Functions from a method to its values times 100, one per probe set; None if not applicable.
_Compute = Callable[[str], Sequence[float] | None]


def by_varying(found: Outcomes) -> Sheet:
    """Return Mean PC of every method by what varies among the models that are compared (eq. 5)."""
    accuracies = found.by_transfer(found.accuracies)

    def of(varying: str) -> _Compute:
        def compute(method: str) -> Sequence[float]:
            runs = map(found.by_transfer, found.scores[method])
            return [evaluation.mean_pc(run, accuracies, varying) for run in runs]

        return compute

    return _sheet("Mean PC by what varies", found, {v: of(v) for v in evaluation.VARYING})


def with_layers(found: Outcomes) -> Sheet:
    """Return Mean PC of every method without and with "+ layers" (eq. 6), and that pooled."""
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
    return _sheet("Mean PC with + layers (eq. 6)", found, columns)


def _sheet(name: str, found: Outcomes, columns: Mapping[str, _Compute]) -> Sheet:
    """Return a table with a row per method without "+ layers"."""
    rows = []
    for method in found.scores:
        if method.endswith("+l"):  # `with_layers` computes it
            continue
        values = (compute(method) for compute in columns.values())
        cells = ("–" if v is None else report.spread_of(v).text(".2f", ".2f") for v in values)
        rows.append((title(method), *cells))
    return Sheet(name, ("method", *columns), tuple(rows))


def write_files(result: summary.Summary, out: Path, more: Mapping[str, Sheet]) -> dict[str, Sheet]:
    """Write OUT/summary.csv, OUT/tables and, if matplotlib is installed, OUT/figures.

    Args:
        result: the summary of all methods.
        out: the folder to write to.
        more: file name -> further table.

    Returns:
        All tables by file name.
    """
    tables = {
        "mean_pc": sheets.intervals(result, "pearson", title),
        "measures": sheets.measures(result, title),
        "beyond": sheets.beyond(result, title, baselines.OF_OTHERS),
        **more,
    }
    write_sheets(tables, out)
    files.write_text(out / "summary.csv", sheets.long_csv(result))
    with contextlib.suppress(ImportError):  # matplotlib is optional
        figures.intervals(result, title, out / "figures" / "mean_pc")
        figures.accuracies(result, out / "figures" / "accuracies")
        best = next(iter(result.cells["pearson"]))
        figures.scatter(result, best, title, out / "figures" / "scores")
    return tables


def write_sheets(tables: Mapping[str, Sheet], out: Path) -> None:
    """Write tables by file name to OUT/tables, as Markdown and CSV."""
    for name, sheet in tables.items():
        files.write_text(out / "tables" / f"{name}.md", sheet.markdown())
        files.write_text(out / "tables" / f"{name}.csv", sheet.csv())


def report_tables(
    oracle: Path,
    scores: Path | None,
    out: Path,
    *,
    times: Path | None = None,
    linear: Path | None = None,
    benchmark: Benchmark | None = None,
    resamples: int = 2000,
) -> None:
    """Read and summarise tables; print and write the report to OUT.

    Args:
        oracle: the table of accuracies; see `read.read`.
        scores: a table of scores; None to report only the scores in `oracle` and the baselines.
        out: the folder of index.html, summary.csv, tables/ and figures/.
        times: times.csv of a results folder; None for none.
        linear: table of linear probes; None for none. With one, there are also the tables of
            `truth`.
        benchmark: the benchmark of the tables; by default recognised by its models.
        resamples: number of resamples for every interval.

    Raises:
        TableError: a table is malformed, or has no transfer of the benchmark or no scores.
        OSError: a file cannot be read or written.
    """
    tables = read.read(oracle, scores)
    stage_seconds, milliseconds = read.read_times(times) if times else ({}, {})
    found, benchmark = evaluated(tables, benchmark)
    if linear is not None:
        found = truth.with_parameters(found)
    if not found.where.any():
        name = "" if benchmark is None else f" of the benchmark {benchmark.name}"
        raise read.TableError(f"{oracle} has no transfer{name} with an accuracy and a score")
    if not found.scores:
        raise read.TableError(f"{oracle} has no scores and allows no baseline; expected --scores")
    result = summary.summarise(found, resamples=resamples)
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    printed, more = {}, {}
    if benchmark is not None:
        printed = paper.tables(benchmark, paper.Ours(found, milliseconds))
        if benchmark.name == "controlled":
            more = {"varying": by_varying(found), "layers": with_layers(found)}
    if linear is not None:
        more |= truth.tables(found, oracle, linear, title, resamples)
    for sheet in write_files(result, out, printed | more).values():
        console.print(sheet.rich())
    report.write_page(
        report.Results(
            name=oracle.stem,
            accuracies=found.by_transfer(found.accuracies),
            scratch={},
            scores={m: list(map(found.by_transfer, s)) for m, s in found.scores.items()},
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
        {paper.HEADING: list(printed.values()), truth.HEADING: list(more.values())},
    )
    say(f"report: {out / 'index.html'}")
