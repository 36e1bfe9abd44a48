"""The paper's printed numbers: as data, and beside ours in every form of the report."""

import csv
import dataclasses
import io
import re

import numpy as np
import pytest
from rich.console import Console

from experiments import benchmarks, report
from experiments.runner.run import Run, StageError
from experiments.tables import paper
from experiments.tables.paper import Ours, Swept
from experiments.tables.published import TABLES, printed
from experiments.tables.read import LONG, ORACLE, RUN, SWEEP, TableError, read_seconds, read_sweep
from jaxparc import evaluation, files, models, selectors
from jaxparc.evaluation import Transfer, outcomes

CONTROLLED = benchmarks.CONTROLLED
# Typed from the paper, apart from the data.
SAMPLE = [
    ("controlled", "table_1", "RSA AlexNet", "Mean PC", "-1.4 ± 0.6"),
    ("controlled", "table_1", "H-Score", "Time (ms)", "5049.3 ± 7200.2"),
    ("controlled", "table_1", "DDS ResNet-50", "Training time (h)", "3"),
    ("controlled", "table_1", "Heuristic", "Time (ms)", ""),
    ("controlled", "table_2", "Logistic", "Target Dataset", "81.0 ± 1.7"),
    ("controlled", "table_2", "Heuristic", "Source Dataset", "7.13 ± 0.0"),
    ("controlled", "table_2", "H-Score", "Target Dataset", "-51.7 ± 7.0"),
    ("controlled", "figure_2b", "RSA ResNet-50 f=64", "Mean PC", "66.2 ± 0.5"),
    ("controlled", "figure_2b", "Logistic f=256", "Time (ms)", "339.4 ± 155.9"),
    ("controlled", "table_3", "NCE", "With heuristic", "28.3 ± 0.5"),
    ("controlled", "table_4", "PARC + l, f=32", "Mean PC", "70.3 ± 0.5"),
    ("controlled", "table_4", "1-NN CV + l", "Mean PC", "68.0 ± 0.7"),
    ("crowd_sourced", "table_5", "1-NN CV + l, f=256", "Mean PC", "51.35 ± 0.67"),
    ("crowd_sourced", "table_5", "PARC + l, f=32", "Time (ms)", "122.9 ± 29.1"),
    ("detection", "table_6", "PARC", "PC", "92.20 ± 5.63"),
    ("detection", "table_6", "DDS F-RCNN", "Training time (h)", "12"),
]


def made_up(benchmark, methods=None, probe_sets=2):
    """Accuracies of the transfers that count, and scores that go with them."""
    if benchmark.external_from_oracle:
        of_it = [Transfer("resnet50", f"detector_{i}", "voc2007") for i in range(6)]
    else:
        of_it = [*benchmark.transfers(), *benchmark.external_transfers()]
    rng = np.random.default_rng(0)
    accuracies = {t: float(rng.uniform(50, 90)) for t in of_it if t.target in benchmark.targets}
    methods = methods or [m for m in benchmark.methods if not m.endswith("+l")]
    scores = {
        m: [
            {t: a + float(rng.normal(0, 9)) for t, a in accuracies.items()}
            for _ in range(probe_sets)
        ]
        for m in methods
    }
    return accuracies, scores


def rows_of(sheet):
    return {row[0]: dict(zip(sheet.head[1:], row[1:], strict=True)) for row in sheet.rows}


# The data


@pytest.mark.parametrize(("benchmark", "table", "method", "column", "expected"), SAMPLE)
def test_cells_are_those_of_the_paper(benchmark, table, method, column, expected):
    assert printed(benchmark, table, method, column) == expected
    row = rows_of(paper.tables(benchmarks.get(benchmark), Ours())[table])[f"{method} (paper)"]
    assert row[column] == expected


def test_all_119_cells_are_in_a_table_that_is_shown():
    sheets = [s for name in TABLES for s in paper.tables(benchmarks.get(name), Ours()).values()]
    assert [re.match(r"\w+ \w+", s.title).group() for s in sheets] == [
        *("Table 1", "Table 2", "Figure 2b", "Table 3", "Table 4"),
        *("Table 5", "Table 6"),
    ]
    cells = [c for s in sheets for row in s.rows if row[0].endswith(" (paper)") for c in row[1:]]
    cells = [cell for cell in cells if cell]
    assert len(cells) == 119
    for cell in cells:
        assert re.fullmatch(r"-?\d+(\.\d+)?( ± \d+\.\d+)?", cell)


def test_every_row_is_of_a_method_and_has_a_cell_per_column():
    for name, tables in TABLES.items():
        scored = {*benchmarks.get(name).methods, "rsa", "dds"}  # detectors have no reference
        for table in tables:
            assert len({row.name for row in table.rows}) == len(table.rows)
            for row in table.rows:
                assert selectors.method(row.method)
                assert row.method in scored
                assert len(row.cells) == len(table.columns)


def test_an_unknown_cell_is_an_error():
    with pytest.raises(KeyError, match="table_7"):
        printed("controlled", "table_7", "NCE", "Mean PC")
    with pytest.raises(KeyError):
        printed("controlled", "table_1", "NCE", "PC")
    with pytest.raises(KeyError, match="demo"):
        printed("demo", "table_1", "NCE", "Mean PC")


@pytest.mark.parametrize("name", sorted(set(benchmarks.BENCHMARKS) - set(TABLES)))
def test_other_benchmarks_have_no_printed_numbers(name):
    assert paper.tables(benchmarks.get(name), Ours()) == {}


def test_contradictions_of_the_paper_are_noted_below_their_tables():
    tables = paper.tables(CONTROLLED, Ours()) | paper.tables(benchmarks.CROWD_SOURCED, Ours())
    for name, part in [
        ("table_1", "swap the Mean PC of RSA and DDS"),
        ("table_3", "swap the Mean PC of RSA and DDS"),
        ("table_1", "51.0 for the heuristic here and 51.05 in table 2"),
        ("table_2", "51.05 for the heuristic here and 51.0 in table 1"),
        ("figure_2b", "rounding noise"),
        ("table_4", "has the time of RSA f=64 in figure 2b"),
        ("table_5", "423 transfers; its table has an accuracy for 424"),
    ]:
        assert any(part in note for note in tables[name].notes), name
    for sheet in tables.values():
        assert not any("\n" in note for note in sheet.notes)


# Ours


@pytest.mark.parametrize("name", sorted(TABLES))
def test_ours_is_computed_where_there_are_scores(name):
    benchmark = benchmarks.get(name)
    accuracies, scores = made_up(benchmark)
    ours = Ours(outcomes.collect(accuracies, scores), dict.fromkeys(scores, 1.5))
    lacking = set()
    for table, sheet in paper.tables(benchmark, ours).items():
        rows = rows_of(sheet)
        for method, cells in rows.items():
            theirs = rows.get(f"{method} (paper)", cells)
            assert [bool(cell) for cell in cells.values()] == [bool(c) for c in theirs.values()]
            lacking |= {(table, method, column) for column, c in cells.items() if c == "–"}
            assert cells.get("Time (ms)", "1.50") in ("1.50", "–", "") or "(paper)" in method
    expected = {
        "controlled": {
            ("table_1", f"{method} {of}", column)
            for method in ("RSA", "DDS")
            for of in ("AlexNet", "ResNet-50")
            for column in ("Mean PC", "Time (ms)", "Training time (h)")
            if of == "AlexNet" or column == "Training time (h)"
        },
        "crowd_sourced": set(),
        "detection": {
            ("table_6", f"{method} F-RCNN", column)
            for method in ("RSA", "DDS")
            for column in ("PC", "Training time (h)")
        },
    }
    assert lacking == expected[name]


def test_ours_is_the_mean_and_deviation_of_mean_pc_over_probe_sets():
    accuracies, scores = made_up(CONTROLLED, ["knn", "parc_f32"], probe_sets=3)
    tables = paper.tables(CONTROLLED, Ours(outcomes.collect(accuracies, scores)))

    def text(runs, varying="source and architecture"):
        values = [evaluation.mean_pc(run, accuracies, varying) for run in runs]
        return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"

    assert rows_of(tables["table_1"])["1-NN CV"]["Mean PC"] == text(scores["knn"])
    assert rows_of(tables["table_2"])["1-NN CV"] == {
        "Source Dataset & Arch": text(scores["knn"]),
        "Architecture": text(scores["knn"], "architecture"),
        "Source Dataset": text(scores["knn"], "source"),
        "Target Dataset": text(scores["knn"], "target"),
    }
    assert rows_of(tables["table_4"])["PARC f=32"]["Mean PC"] == text(scores["parc_f32"])
    # eq. 6, standardised over all targets and probe sets
    everything = [s for run in scores["knn"] for s in run.values()]
    mean, deviation = np.mean(everything), np.std(everything)
    layered = [
        {t: (s - mean) / deviation + models.get(t.architecture).layers / 50 for t, s in run.items()}
        for run in scores["knn"]
    ]
    assert rows_of(tables["table_3"])["1-NN CV"] == {
        "Original": text(scores["knn"]),
        "With heuristic": text(layered),
    }
    assert rows_of(tables["table_4"])["1-NN CV + l"]["Mean PC"] == text(layered)
    assert rows_of(tables["table_4"])["PARC"] == {"Mean PC": "–", "Time (ms)": "–"}


def test_an_undefined_score_is_not_taken_for_a_missing_one():
    accuracies, scores = made_up(CONTROLLED, ["knn"])
    scores["knn"][0][next(iter(accuracies))] = float("nan")
    tables = paper.tables(CONTROLLED, Ours(outcomes.collect(accuracies, scores)))
    assert rows_of(tables["table_1"])["1-NN CV"]["Mean PC"] == "undefined (NaN)"
    assert rows_of(tables["table_4"])["1-NN CV + l"]["Mean PC"] == "undefined (NaN)"


def test_rows_with_another_reference_are_those_of_the_sweep():
    accuracies, scores = made_up(CONTROLLED, ["rsa"])
    ours = Ours(
        outcomes.collect(accuracies, scores),
        {"rsa": 7.0},
        {("rsa", "alexnet"): Swept([10.0, 14.0], 3.25), ("rsa", "resnet50"): Swept([1.0], 1.0)},
        {"resnet50": 2.5},
    )
    table = paper.tables(CONTROLLED, ours)["table_1"]
    rows = rows_of(table)
    assert list(rows["RSA AlexNet"].values()) == ["12.00 ± 2.83", "3.25", "–"]
    assert list(rows["RSA ResNet-50"].values())[1:] == ["7.00", "2.50"]
    assert list(rows["DDS AlexNet"].values()) == ["–", "–", "–"]
    assert any("python -m experiments.sweep reference" in note for note in table.notes)
    # with AlexNet as the benchmark's own reference it is the other way round
    turned = dataclasses.replace(CONTROLLED, reference="alexnet")
    tables = paper.tables(turned, ours)
    rows = rows_of(tables["table_1"])
    assert rows["RSA AlexNet"]["Time (ms)"] == "7.00"
    assert list(rows["RSA ResNet-50"].values()) == ["1.00", "1.00", "2.50"]
    assert set(rows_of(tables["table_2"])["RSA ResNet-50"].values()) == {"–"}


# How it is shown


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_fit_a_terminal_of_100_columns(name):
    benchmark = benchmarks.get(name)
    ours = Ours(outcomes.collect(*made_up(benchmark)))
    for sheet in paper.tables(benchmark, ours).values():
        console = Console(width=100, color_system=None, file=io.StringIO())
        console.print(sheet.rich())
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= 100
        shown = [tuple(c.strip() for c in line.split("│")[1:-1]) for line in lines if "│" in line]
        assert shown == list(sheet.rows)  # nothing is folded or cut


def folder(tmp_path, benchmark, accuracies, scores):
    """A results folder of stages 2 and 4."""
    out = tmp_path / "results"
    out.mkdir()
    (out / "oracle.csv").write_text(
        files.table_text([ORACLE, *((*t, f"{a:.4f}") for t, a in accuracies.items())])
    )
    rows = [(RUN, *ORACLE[:3], *benchmark.methods)]
    for r in range(max(map(len, scores.values()), default=0)):
        rows += [
            (r, *t, *(f"{scores[m][r][t]:.6f}" if m in scores else "" for m in benchmark.methods))
            for t in accuracies
        ]
    (out / "scores.csv").write_text(files.table_text(rows))
    times = [("Stage", "Unit", "Method", "Items", "Seconds")]
    if scores:
        times += [("train_sources", f"resnet50 on {t}", "", 1, 1800) for t in benchmark.targets]
        times += [("score_probes", f"{t}, probe set 0", "knn", 4, 0.1) for t in benchmark.targets]
    (out / "times.csv").write_text(files.table_text(times))
    return Run(benchmark, out, tmp_path / "weights")


@pytest.fixture
def quick(monkeypatch):
    """Few resamples for the intervals, which have their own tests."""
    full = report.summarise
    monkeypatch.setattr(report, "summarise", lambda found: full(found, resamples=20))


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_stage_shows_them_everywhere(tmp_path, quick, capsys):
    methods = ("heuristic", "knn", "knn+l", "rsa")
    benchmark = dataclasses.replace(CONTROLLED, methods=methods)
    accuracies, scores = made_up(benchmark)
    run = folder(tmp_path, benchmark, accuracies, scores)
    (run.out / "sweeps").mkdir()
    points = [
        ("reference", "alexnet", "dds", 0, "20.0", 5),
        ("reference", "alexnet", "dds", 1, "", 6),
        ("reference", "alexnet", "rsa", 0, "20.0", 5),
    ]
    (run.out / "sweeps" / "reference.csv").write_text(files.table_text([SWEEP, *points]))
    assert report.stage(run) == 0
    terminal = capsys.readouterr().out
    page = (run.out / "report" / "index.html").read_text()
    assert page.count("<h2>The paper’s tables</h2>") == 1
    for name, sheet in paper.tables(benchmark, report.ours(run, report.read_results(run))).items():
        table = read_csv(run.out / "report" / "tables" / f"{name}.csv")
        assert table == [list(sheet.head), *map(list, sheet.rows)]
        assert (run.out / "report" / "tables" / f"{name}.md").read_text() == sheet.markdown()
        assert sheet.title in terminal
        for row in sheet.rows:
            assert f'<th scope="row">{row[0]}</th><td class="n">{row[1]}</td>' in page
            line = re.escape(row[0]) + r" +│ +" + re.escape(row[1]) + " │"
            assert re.search(line, terminal)
    first = {row[0]: row[1:] for row in read_csv(run.out / "report" / "tables" / "table_1.csv")}
    knn = [evaluation.mean_pc(s, accuracies) for s in scores["knn"]]
    assert first["1-NN CV"] == [f"{np.mean(knn):.2f} ± {np.std(knn, ddof=1):.2f}", "25.00", ""]
    assert first["1-NN CV (paper)"] == ["60.8 ± 1.2", "42.1 ± 8.3", ""]
    assert first["RSA AlexNet"] == ["20.00", "5.00", "–"]
    assert first["DDS AlexNet"] == ["undefined (NaN)", "5.50", "–"]
    assert first["RSA ResNet-50"][2] == "0.50"
    assert first["NCE"] == ["–", "–", ""]

    (run.out / "sweeps" / "reference.csv").write_text("Method\nrsa\n")
    with pytest.raises(StageError, match=r"reference\.csv has no column What, Value"):
        report.stage(run)


def test_the_stage_shows_how_well_one_seed_predicts_another(tmp_path, quick, capsys):
    benchmark = dataclasses.replace(CONTROLLED, methods=("heuristic", "knn"))
    accuracies, scores = made_up(benchmark)
    run = folder(tmp_path, benchmark, accuracies, scores)
    assert report.stage(run) == 0
    assert "How well accuracies predict" not in capsys.readouterr().out  # of one seed
    seeds = np.random.default_rng(0).uniform(10, 90, (len(accuracies), 2))
    head, *rows = read_csv(run.out / "oracle.csv")
    rows = [[*row, *of_seeds] for row, of_seeds in zip(rows, seeds.tolist(), strict=True)]
    columns = [*head, "Seed 0", "Seed 1"]
    (run.out / "oracle.csv").write_text(files.table_text([columns, *rows]))
    assert report.stage(run) == 0
    head, row = read_csv(run.out / "report" / "tables" / "truth.csv")
    assert row[0] == "seed 0 predicts seed 1"
    names = np.array([target for _, _, target, *_ in rows])
    for column in head[4:]:
        of_target = seeds[names == column.removeprefix("PC ")]
        expected = 100 * np.corrcoef(of_target.T)[0, 1]
        assert float(row[head.index(column)]) == pytest.approx(expected, abs=0.051)
    assert len(head[4:]) == len(set(names))
    assert "seed 0 predicts seed 1" in capsys.readouterr().out
    assert "seed 0 predicts seed 1" in (run.out / "report" / "index.html").read_text()

    assert report.read_results(run).unavailable == []
    rows[0][3] = ""  # every run diverged
    (run.out / "oracle.csv").write_text(files.table_text([columns, *rows]))
    assert report.read_results(run).unavailable == [evaluation.Transfer(*rows[0][:3])]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_without_scores_the_printed_numbers_and_what_ours_would_need(name, tmp_path, capsys):
    benchmark = benchmarks.get(name)
    run = folder(tmp_path, benchmark, made_up(benchmark)[0], {})
    assert report.stage(run) == 0
    sentence = "– not computed here: needs the published probe files."
    assert sentence in capsys.readouterr().out
    assert f"<p>{sentence}</p>" in (run.out / "report" / "index.html").read_text()
    for table in TABLES[name]:
        rows = read_csv(run.out / "report" / "tables" / f"{table.name}.csv")[1:]
        for row, (ours, theirs) in zip(
            table.rows, zip(*[iter(rows)] * 2, strict=True), strict=True
        ):
            assert theirs == [f"{row.name} (paper)", *row.cells]
            if row.method == "heuristic":  # which needs the numbers of images alone
                assert re.fullmatch(r"-?\d+\.\d\d", ours[1])
            else:
                assert set(ours[1:]) <= {"–", ""}
        assert f"\n{sentence}\n" in (run.out / f"report/tables/{table.name}.md").read_text()


def test_a_table_of_accuracies_has_them_on_its_page_too(tmp_path):
    accuracies, _ = made_up(CONTROLLED)
    rows = [ORACLE, *((*t, f"{a:.4f}") for t, a in accuracies.items())]
    (tmp_path / "o.csv").write_text(files.table_text(rows))
    out = tmp_path / "out"
    report.main(["--oracle", str(tmp_path / "o.csv"), "--out", str(out), "--resamples", "20"])
    page = (out / "index.html").read_text()
    assert "<h2>The paper’s tables</h2>" in page
    assert '<th scope="row">NCE (paper)</th><td class="n">2.1 ± 0.7</td>' in page
    names = {path.stem for path in (out / "tables").glob("*.csv")}
    assert names > {"table_1", "table_2", "figure_2b", "table_3", "table_4", "varying", "layers"}


def test_any_other_table_has_none(tmp_path):
    rows = [LONG, *((f"m{i}", t, 50 + 3 * i) for i in range(4) for t in "ab")]
    (tmp_path / "o.csv").write_text(files.table_text(rows))
    out = tmp_path / "out"
    report.main(["--oracle", str(tmp_path / "o.csv"), "--out", str(out), "--resamples", "20"])
    assert "The paper’s tables" not in (out / "index.html").read_text()
    assert not list((out / "tables").glob("table_*"))


def test_sources_without_a_published_number_of_images_have_no_heuristic(tmp_path):
    """Eq. 4 then cannot be computed as in the paper; the other numbers can."""
    changed = dataclasses.replace(
        CONTROLLED, sources=("digits",), targets=("cifar10",), source_start="", methods=("knn",)
    )
    accuracies = {Transfer(a, "digits", "cifar10"): 50.0 + i for i, a in enumerate(changed.widths)}
    run = folder(tmp_path, changed, accuracies, {})
    assert report.stage(run) == 0
    first = {row[0]: row[1:] for row in read_csv(run.out / "report" / "tables" / "table_1.csv")}
    assert first["Heuristic"] == ["–", "", ""]


# Reading


def test_seconds_and_sweeps_are_read_and_checked(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Stage,Unit,Method,Items,Seconds\na,x,,1,2.5\nb,x,,1,3\na,y,,1,4\n")
    assert read_seconds(path, "a") == {"x": 2.5, "y": 4.0}
    path.write_text("Stage,Method,Items,Seconds\n")
    with pytest.raises(TableError, match="has no column Unit"):
        read_seconds(path, "a")
    path.write_text(
        files.table_text([SWEEP, ("w", 32, "rsa", 0, "1.5", 2), ("w", 32, "rsa", 1, "x", 2)])
    )
    with pytest.raises(TableError, match="line 3: Mean PC is 'x'; expected a number"):
        read_sweep(path)
