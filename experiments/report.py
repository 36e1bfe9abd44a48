"""Stage 5: report how well the scores predict the accuracies.

Reads oracle.csv, scratch.csv, scores.csv and times.csv of the results folder, and grid.csv and
transfers/ for the loss curves; prints tables and writes report/index.html. Of a benchmark that was
not run here, the published results are reported, if there are any (`--benchmark real`). With
--oracle FILE it reports any table of accuracies and scores instead:

    python -m experiments.report --oracle controlled.csv [--scores scores.csv] --out DIR
"""

import argparse
import dataclasses
import importlib.metadata
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from rich.console import Console

import jaxparc
from experiments import benchmarks, train_sources, transfer_results
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, StageError
from experiments.tables import paper, read, truth
from experiments.tables.published import TABLES as PUBLISHED
from experiments.tables.report import (
    report_tables,
    title,
    with_baselines,
    write_files,
    write_sheets,
)
from jaxparc import datasets, evaluation, printing, report
from jaxparc.errors import InputError
from jaxparc.evaluation import outcomes
from jaxparc.evaluation.outcomes import Outcomes
from jaxparc.evaluation.summary import summarise
from jaxparc.report import sheets
from jaxparc.units import options
from jaxparc.units.progress import say

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")
OPTIONS = ("oracle", "scores", "times", "resamples")  # options for reporting any table
RESAMPLES = 2000
DATA = Path(__file__).parent / "data"


def stage(run: Run) -> int:
    """Print and write the report; return 0.

    Raises:
        StageError: a table is missing or malformed.
    """
    results = read_results(run)
    # Without a terminal, rich's default of 80 columns would fold the tables.
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(report.accuracy_table(results))
    console.print(report.selector_table(results))
    published = run.benchmark.name in PUBLISHED
    printed = paper.tables(run.benchmark, ours(run, results)) if published else {}
    more = {}
    if results.summary is not None:
        found, linear = results.summary.outcomes, run.out / "linear.csv"
        oracle = run.out / "oracle.csv"
        if run.benchmark.linear_probes:
            more = truth.tables(found, oracle, linear, results.title, RESAMPLES)
        elif compared := truth.repeated(found, read.read_seeds(oracle), {}):
            more = {"truth": compared}
        console.print(sheets.intervals(results.summary, "pearson", results.title).rich())
        write_files(results.summary, run.out / "report", printed | more)
    else:
        write_sheets(printed, run.out / "report")
    for sheet in (printed | more).values():
        console.print(sheet.rich())
    page = run.out / "report" / "index.html"
    sections = {paper.HEADING: list(printed.values()), truth.HEADING: list(more.values())}
    report.write_page(results, page, sections)
    print(printing.shown(f"report: {page}"))
    return 0


def read_results(run: Run) -> report.Results:
    """Read the results that the earlier stages wrote.

    Raises:
        StageError: a table is missing or malformed; the message names the stage that writes it.
    """
    benchmark = run.benchmark
    try:
        found = read.read_accuracies(run.out / "oracle.csv")
    except FileNotFoundError as error:
        raise _missing(error, "finetune_all") from None
    except read.TableError as error:
        raise StageError(str(error)) from error
    # A transfer whose runs all failed or diverged has no accuracy and cannot be evaluated.
    accuracies = {transfer: value for transfer, value in found.items() if not math.isnan(value)}
    try:
        scores = read.read_scores(
            run.out / "scores.csv",
            accuracies,
            required=(read.RUN, *benchmark.methods),
            partial=True,
        )
        stage_seconds, milliseconds = read.read_times(run.out / "times.csv")
    except FileNotFoundError as error:
        raise _missing(error, "score_probes") from None
    except read.TableError as error:
        raise StageError(f"{error}; python -m experiments.score_probes writes it") from error
    scores = {method: scores[method] for method in benchmark.methods}
    counted = _outcomes(benchmark, accuracies, scores)
    scored = counted.scores and counted.where.any()
    if scored:
        counted = with_baselines(counted, layers=benchmark.layers if benchmark.bank else None)
    if scored and benchmark.linear_probes:
        counted = truth.with_parameters(counted)
    summary = summarise(counted) if scored else None
    return report.Results(
        titles={} if summary is None else {m: title(m) for m in summary.outcomes.scores},
        summary=summary,
        name=benchmark.name,
        accuracies=accuracies,
        scratch=_scratch(run),
        scores=scores,
        losses=transfer_results.losses(run),
        unavailable=[transfer for transfer in found if transfer not in accuracies],
        milliseconds=milliseconds,
        stage_seconds=stage_seconds,
        settings=benchmark.settings()
        | {
            f"images of {datasets.short_name(address)}": datasets.summary(address)
            for address in benchmark.addresses
        },
        extra=tuple(map(datasets.short_name, benchmark.extra_targets)),
        order=(*benchmark.architectures, *benchmark.source_names, *benchmark.target_names),
        versions={
            "jaxparc": jaxparc.__version__,
            **{package: importlib.metadata.version(package) for package in PACKAGES},
            "Python": platform.python_version(),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "machine": platform.platform(),
        },
    )


def _missing(error: FileNotFoundError, stage: str) -> StageError:
    return StageError(f"{error.filename} is missing; python -m experiments.{stage} writes it")


def _scratch(run: Run) -> dict[tuple[str, str], float]:
    """Return the accuracies of random initialisations; empty if accuracies were imported."""
    try:
        found = read.read_accuracies(run.out / "scratch.csv")
    except FileNotFoundError:
        return {}
    except read.TableError as error:
        raise StageError(f"{error}; python -m experiments.finetune_all writes it") from error
    return {(t.architecture, t.target): accuracy for t, accuracy in found.items()}


def _outcomes(
    benchmark: benchmarks.Benchmark,
    accuracies: Mapping[evaluation.Transfer, float],
    scores: Mapping[str, Sequence[Mapping[evaluation.Transfer, float]]],
) -> Outcomes:
    """Return the transfers that count in Mean PC, and the methods without "+ layers"."""
    targets = set(map(datasets.short_name, benchmark.targets))
    counted = {t: accuracy for t, accuracy in accuracies.items() if t.target in targets}
    plain = {
        method: [{t: score for t, score in run.items() if t in counted} for run in runs]
        for method, runs in scores.items()
        if runs and not method.endswith("+l")
    }
    return outcomes.collect(counted, plain)


def ours(run: Run, results: report.Results) -> paper.Ours:
    """Return the numbers of a results folder that the paper prints for its own.

    Raises:
        StageError: a table is malformed.
    """
    benchmark = run.benchmark
    found = _outcomes(benchmark, results.accuracies, results.scores)
    if not found.where.any():
        return paper.Ours()
    sweep = run.out / "sweeps" / "reference.csv"
    try:
        seconds = read.read_seconds(run.out / "times.csv", train_sources.STAGE.name)
        points = read.read_sweep(sweep) if sweep.exists() else {}
    except read.TableError as error:
        raise StageError(str(error)) from error
    swept = {}
    for key, of_key in points.items():
        mean_pcs, milliseconds = zip(*of_key, strict=True)
        swept[key] = paper.Swept(mean_pcs, statistics.median(milliseconds))
    hours = {}
    for architecture in benchmark.architectures:
        units = [train_sources.unit_name(architecture, target) for target in found.targets]
        if set(units) <= seconds.keys():
            hours[architecture] = statistics.mean(seconds[unit] for unit in units) / 3600
    return paper.Ours(
        with_baselines(found, benchmark),
        results.milliseconds,
        swept,
        hours,
    )


STAGE = Stage(stage, name="report")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line: the stage or, with --oracle, the report of any table."""
    parser = command_line.stage_parser(__doc__)
    default = parser.get_default("benchmark")
    parser.set_defaults(benchmark=None)
    group = parser.add_argument_group(
        "report of any table",
        "Needs --out. --benchmark adds the paper's tables for one of "
        f"{', '.join(PUBLISHED)}; the first two are recognised by their models.",
    )
    group.add_argument("--oracle", type=Path, metavar="FILE", help="table of accuracies")
    group.add_argument("--scores", type=Path, metavar="FILE", help="table of scores")
    group.add_argument("--times", type=Path, metavar="FILE", help="times.csv of a benchmark")
    group.add_argument(
        "--resamples", type=int, metavar="N", help=f"resamples of intervals [{RESAMPLES}]"
    )
    with printing.ending():
        args = parser.parse_args(argv)
        tables = {name: vars(args).pop(name) for name in OPTIONS}
        if tables["oracle"] is not None:
            _report(parser, args, tables)
            return
        if given := [name for name, value in tables.items() if value is not None]:
            _refuse(parser, f"--{given[0]} needs --oracle")
        args.benchmark = args.benchmark or default
        out = args.out or Path("results") / args.benchmark
        settings = {field.name for field in dataclasses.fields(benchmarks.Benchmark)}
        run_here = settings & vars(args).keys() or (out / "settings.json").exists()
        if not run_here and published_table(args.benchmark, "oracle").exists():
            say(f"{args.benchmark}: the published results, as it was not run in {out}")
            _report_published(parser, args.benchmark, out / "report")
            return
        command_line.run_stages(parser, args, [STAGE])


def published_table(benchmark: str, table: str) -> Path:
    """Return the path of a table that comes with the repository, whether it exists or not."""
    return DATA / f"{benchmark}_{table}.csv"


def _report_published(parser: argparse.ArgumentParser, benchmark: str, out: Path) -> None:
    """Report the tables that come with the repository, of a benchmark that was not run here."""
    try:
        report_tables(
            published_table(benchmark, "oracle"),
            published_table(benchmark, "scores"),
            out,
            linear=published_table(benchmark, "linear"),
            resamples=RESAMPLES,
        )
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        _refuse(parser, printing.line(error))


def _report(
    parser: argparse.ArgumentParser, args: argparse.Namespace, tables: dict[str, Any]
) -> None:
    """Report the tables of the command line, refusing options that apply only to the stage."""
    given = vars(args).copy()
    out, name = given.pop("out"), given.pop("benchmark")
    resamples = RESAMPLES if tables["resamples"] is None else tables["resamples"]
    if stray := [key for key, value in given.items() if value != parser.get_default(key)]:
        _refuse(
            parser,
            f"{options.flag_of(stray[0])} is an option for results folders; it excludes --oracle",
        )
    if out is None:
        _refuse(parser, "--oracle needs --out")
    if name not in (None, *PUBLISHED):
        _refuse(parser, f"--benchmark is {name!r}; expected one of {', '.join(PUBLISHED)}")
    if resamples < 1:
        _refuse(parser, f"--resamples is {resamples}; expected at least 1")
    try:
        report_tables(
            tables["oracle"],
            tables["scores"],
            out,
            times=tables["times"],
            benchmark=benchmarks.get(name) if name else None,
            resamples=resamples,
        )
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        _refuse(parser, printing.line(error))


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(2, f"{parser.prog}: {message}\n")


if __name__ == "__main__":
    main()
