"""Reports of any table: the two forms, the published ones, and what is refused."""

import csv
import io
import os
import re
import sys
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from experiments import benchmarks, report
from experiments.tables import paper
from experiments.tables.read import TableError, read, read_scores, read_times
from experiments.tables.report import by_varying, evaluated, report_tables, with_layers
from jaxparc import files
from jaxparc.evaluation import MEASURES, Transfer, baselines, outcomes, summary

LONG = "model,target,accuracy,ours,theirs\n"
SHORT = "Architecture,Source Dataset,Target Dataset,Oracle\n"


def long_table(path, models=6, targets=3):
    rng = np.random.default_rng(0)
    lines = [
        f"m{i},t{j},{a:.2f},{a + rng.normal(0, 3):.3f},{rng.normal():.3f}"
        for i in range(models)
        for j in range(targets)
        for a in [rng.normal(70 + i, 5)]
    ]
    path.write_text(LONG + "\n".join(lines) + "\n")
    return path


# Reading


def test_the_long_form_has_scores_in_further_columns(tmp_path):
    path = long_table(tmp_path / "a.csv")
    found = read(path)
    assert list(found.scores) == ["ours", "theirs"]
    assert [s.shape for s in found.scores.values()] == [(1, 6, 3), (1, 6, 3)]
    assert found.where.sum() == 18
    with path.open() as file:
        for row in csv.DictReader(file):
            i, j = found.models.index((row["model"], "")), found.targets.index(row["target"])
            assert found.accuracies[i, j] == float(row["accuracy"])
            assert found.scores["theirs"][0, i, j] == float(row["theirs"])


def test_scores_of_several_runs_in_a_second_table(tmp_path):
    (tmp_path / "o.csv").write_text(SHORT + "resnet18,x,y,50\nresnet50,x,y,-1\n")
    head = "Run,Architecture,Source Dataset,Target Dataset,parc,knn\n"
    (tmp_path / "s.csv").write_text(
        head + "0,resnet18,x,y,1,2\n0,resnet50,x,y,3,\n1,resnet18,x,y,5,6\n1,resnet50,x,y,7,8\n"
    )
    found = read(tmp_path / "o.csv", tmp_path / "s.csv")
    assert found.models == (("resnet18", "x"), ("resnet50", "x"))
    np.testing.assert_array_equal(found.accuracies, [[50], [np.nan]])
    np.testing.assert_array_equal(found.where, [[True], [False]])
    np.testing.assert_array_equal(found.scores["parc"], [[[1], [3]], [[5], [7]]])
    np.testing.assert_array_equal(found.scores["knn"], [[[2], [np.nan]], [[6], [8]]])


def test_the_scores_of_an_unfinished_benchmark(tmp_path):
    """A transfer that has no accuracy yet is skipped, and all may still be missing."""
    first, second = Transfer("resnet18", "x", "y"), Transfer("resnet50", "x", "y")
    path = tmp_path / "s.csv"
    head = "Run,Architecture,Source Dataset,Target Dataset,parc,knn\n"
    path.write_text(head + "0,resnet18,x,y,1,2\n0,resnet50,x,y,3,\n1,resnet50,x,y,7,8\n")
    accuracies = {first: 50.0}
    assert read_scores(path, accuracies, partial=True) == {
        "parc": [{first: 1}],
        "knn": [{first: 2}],
    }
    with pytest.raises(TableError, match="line 3: no accuracy for 'resnet50/x/y', which has a sc"):
        read_scores(path, accuracies)
    with pytest.raises(TableError, match="has no column rsa"):
        read_scores(path, accuracies, required=("Run", "parc", "rsa"), partial=True)
    path.write_text(head)
    assert read_scores(path, accuracies, partial=True) == {"parc": [], "knn": []}
    with pytest.raises(TableError, match="has no row"):
        read_scores(path, {second: 1.0})


def test_one_run_has_a_transfer_once_and_another_run_again(tmp_path):
    transfer = Transfer("resnet18", "x", "y")
    path = tmp_path / "s.csv"
    rows = (
        "Run,Architecture,Source Dataset,Target Dataset,parc\n3,resnet18,x,y,1\n4,resnet18,x,y,2\n"
    )
    path.write_text(rows)
    assert read_scores(path, [transfer]) == {"parc": [{transfer: 1}, {transfer: 2}]}
    path.write_text(rows + "3,resnet18,x,y,5\n")
    with pytest.raises(TableError, match="line 4: duplicate transfer 'resnet18/x/y', first on l"):
        read_scores(path, [transfer])


def test_the_scores_of_a_second_table_stand_for_those_of_the_first(tmp_path):
    (tmp_path / "o.csv").write_text(LONG + "m,t,50,1,2\nn,t,60,3,4\n")
    (tmp_path / "s.csv").write_text("model,target,theirs,new\nm,t,7,8\nn,t,9,10\n")
    found = read(tmp_path / "o.csv", tmp_path / "s.csv")
    assert {m: s.ravel().tolist() for m, s in found.scores.items()} == {
        "ours": [1, 3],
        "theirs": [7, 9],
        "new": [8, 10],
    }


@pytest.mark.parametrize(
    ("accuracies", "scores", "reason"),
    [
        ("a,b\n1,2\n", None, "o.csv has the columns a, b; expected Architecture, "),
        ("", None, "o.csv has the columns none"),
        (LONG, None, "o.csv has no row"),
        (LONG + "m,t,x,1,1\n", None, "o.csv line 2: accuracy is 'x'; expected a number"),
        (LONG + "m,t,1,1,?\n", None, "o.csv line 2: theirs is '?'; expected a number"),
        (
            LONG + "m,t,1,1,1\nm,t,2,1,1\n",
            None,
            "o.csv line 3: duplicate transfer 'm/t', first on line 2",
        ),
        (LONG + ",t,1,1,1\n", None, "o.csv line 2: model is empty"),
        (LONG + "m,t,1\n", None, "o.csv line 2 has 3 cells; expected 5: model"),
        (
            LONG + "m,t,1,1,1\n",
            "model,target,s\nn,t,1\n",
            "s.csv line 2: no accuracy for 'n/t', wh",
        ),
        (LONG + "m,t,1,1,1\n", "model,s\nm,1\n", "s.csv has no column target"),
        (LONG + "m,t,1,1,1\n", "model,target\nm,t\n", "s.csv has no column of scores"),
        (LONG + "m,t,1,1,1\n", "model,target,s\n", "s.csv has no row"),
        (
            LONG + "m,t,1,1,1\n",
            "model,target,s\nm,t,1\nm,t,2\n",
            "s.csv line 3: duplicate transfer 'm/t', first on line 2",
        ),
    ],
)
def test_what_cannot_be_taken_is_one_line(accuracies, scores, reason, tmp_path, capsys):
    (tmp_path / "o.csv").write_text(accuracies)
    words = ["--oracle", str(tmp_path / "o.csv"), "--out", str(tmp_path / "out")]
    if scores is not None:
        (tmp_path / "s.csv").write_text(scores)
        words += ["--scores", str(tmp_path / "s.csv")]
    with pytest.raises(SystemExit) as stopped:
        report.main(words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_times_are_read_and_checked(tmp_path):
    table = tmp_path / "times.csv"
    table.write_text(
        "Stage,Unit,Method,Items,Seconds\ntrain,a,,1,2.5\ntrain,b,,1,1.5\n"
        "score,x,parc,4,0.4\nscore,y,parc,4,0.8\n"
    )
    stages, milliseconds = read_times(table)
    assert stages == {"train": 4.0, "score": pytest.approx(1.2)}
    assert milliseconds == {"parc": pytest.approx(150)}
    table.write_text("Stage,Method,Items,Seconds\ntrain,,1,soon\n")
    with pytest.raises(TableError, match="line 2: Seconds is 'soon'; expected a number"):
        read_times(table)
    table.write_text("Stage,Items\n")
    with pytest.raises(TableError, match="has no column Method, Seconds"):
        read_times(table)


# The report


def test_the_report_of_a_long_table(tmp_path, capsys):
    table = long_table(tmp_path / "peers.csv")
    report.main(["--oracle", str(table), "--out", str(tmp_path / "out"), "--resamples", "200"])
    said = capsys.readouterr().out
    assert "mean z-score on the other targets" in said
    assert "a random order" in said
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<h2>What the numbers are worth</h2>" in page
    assert "m0: score" in page
    assert "http" not in page.replace("http-equiv", "")
    with (tmp_path / "out" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    methods = {"ours", "theirs", "others_mean"}
    assert {row["method"] for row in rows} == {*methods, "random order"}
    assert {row["measure"] for row in rows} == set(MEASURES)
    for row in rows:
        assert float(row["low"]) <= float(row["high"])
        if row["method"] not in methods:
            continue
        values = [float(row[f"t{j}"]) for j in range(3)]
        np.testing.assert_allclose(np.mean(values), float(row["mean"]), atol=1e-4)
    assert {p.name for p in (tmp_path / "out" / "tables").iterdir()} == {
        f"{name}.{suffix}" for name in ("mean_pc", "measures", "beyond") for suffix in ("md", "csv")
    }
    assert {p.name for p in (tmp_path / "out" / "figures").iterdir()} == {
        f"{name}.{suffix}"
        for name in ("mean_pc", "accuracies", "scores")
        for suffix in ("svg", "png")
    }
    markdown = (tmp_path / "out" / "tables" / "mean_pc.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_one_target_and_no_scores_is_nothing_to_report(tmp_path):
    (tmp_path / "o.csv").write_text("model,target,accuracy\nm,t,1\nn,t,2\n")
    with pytest.raises(TableError, match="no scores and allows no baseline; expected --scores"):
        report_tables(tmp_path / "o.csv", None, tmp_path / "out")


def test_names_of_the_paper_with_other_targets_are_no_published_benchmark(tmp_path):
    table = tmp_path / "o.csv"
    rows = [
        f"resnet{n},{s},{t},{n + len(s)}"
        for n in (18, 50)
        for s in ("cub200", "voc2007")
        for t in "ab"
    ]
    table.write_text(SHORT + "\n".join(rows) + "\n")
    found, benchmark = evaluated(read(table))
    assert benchmark is None
    assert set(found.scores) == {"others_mean", "best_source", "layers"}


def test_scores_that_are_given_are_not_replaced_by_a_baseline(tmp_path):
    (tmp_path / "o.csv").write_text(
        "model,target,accuracy,others_mean\nm,t,1,5\nn,t,2,6\nm,u,3,7\nn,u,4,8\n"
    )
    found, _ = evaluated(read(tmp_path / "o.csv"))
    np.testing.assert_array_equal(found.scores["others_mean"], [[[5, 7], [6, 8]]])


def test_detectors_fill_table_6(tmp_path):
    """mAP of models of any name, on one target; annotations stay with whoever scored."""
    rng = np.random.default_rng(0)
    lines = [f"d{i},voc2007,{m:.1f},{m + rng.normal():.2f}" for i, m in enumerate(range(40, 46))]
    (tmp_path / "map.csv").write_text("model,target,accuracy,parc\n" + "\n".join(lines) + "\n")
    words = ["--oracle", str(tmp_path / "map.csv"), "--out", str(tmp_path / "out")]
    report.main([*words, "--benchmark", "detection", "--resamples", "50"])
    table = (tmp_path / "out" / "tables" / "table_6.md").read_text()
    assert table.startswith("### Table 6: detectors\n")
    assert "| PARC |" in table
    with pytest.raises(SystemExit) as stopped:
        report.main([*words, "--benchmark", "controlled"])
    assert stopped.value.code == 2


# The published tables


@pytest.fixture
def oracles():
    folder = os.environ.get("JAXPARC_ORACLES")
    if not folder:
        pytest.skip("JAXPARC_ORACLES names no folder of the published tables")
    return Path(folder)


def dict_of(sheet):
    return {row[0]: row[1:] for row in sheet.rows}


def test_the_controlled_benchmark(oracles):
    found, benchmark = evaluated(read(oracles / "controlled.csv"))
    assert benchmark is benchmarks.CONTROLLED
    assert found.where.sum() == 168
    tables = paper.tables(benchmark, paper.Ours(found))
    first, second = (dict_of(tables[f"table_{n}"]) for n in (1, 2))
    assert first["Heuristic"] == ("51.06", "", "")
    assert first["Heuristic (paper)"] == ("51.0 ± 0.0", "", "")
    assert second["Heuristic"] == ("51.06", "61.27", "7.13", "13.63")
    assert second["Heuristic (paper)"] == (
        "51.05 ± 0.0",
        "61.27 ± 0.0",
        "7.13 ± 0.0",
        "13.63 ± 0.0",
    )
    assert dict_of(by_varying(found))["Heuristic"] == second["Heuristic"]
    assert with_layers(found).head[-1] == "+ layers, pooled"
    assert dict_of(with_layers(found))["Heuristic"][0] == "51.06"
    pearson = MEASURES["pearson"]
    static = 100 * outcomes.by_target(found, "others_mean", pearson).mean()
    assert static == pytest.approx(65, abs=0.5)


def test_the_static_baseline_with_voc_among_the_others(oracles):
    seven = read(oracles / "controlled.csv")
    scores = baselines.others_mean(seven)
    six = seven.beside({"others": scores}).only([t for t in seven.targets if t != "voc2007"])
    value = 100 * outcomes.by_target(six, "others", MEASURES["pearson"]).mean()
    assert value == pytest.approx(67.5, abs=0.1)


def test_the_crowd_sourced_benchmark_has_424_transfers(oracles):
    found, benchmark = evaluated(read(oracles / "crowd_sourced.csv"))
    assert benchmark is benchmarks.CROWD_SOURCED
    assert found.where.sum() == 424
    tables = paper.tables(benchmark, paper.Ours(found))
    assert "424" in tables["table_5"].notes[-1]
    assert "the others are of 424 transfers here" in tables["table_5"].notes[0]


def test_published_scores_of_others(oracles):
    found = read(oracles / "peers" / "tllib_cnn10_full.csv")
    tau = MEASURES["weighted_tau"]
    values = {m: outcomes.by_target(found, m, tau).mean() for m in found.scores}
    expected = {"hscore": 0.65, "logme": 0.67, "nce": 0.69, "leep": 0.42}
    for method, value in expected.items():
        assert values[method] == pytest.approx(value, abs=0.006)
    z = np.mean(
        [outcomes.standardised(found.scores[m][0], found.where) for m in found.scores], axis=0
    )
    mean = outcomes.by_target(found.beside({"mean": z[None]}), "mean", tau).mean()
    assert mean == pytest.approx(0.71, abs=0.006)


@pytest.mark.parametrize("name", ["cnn11_full", "cnn11_head", "ssl12_full", "vit13_full"])
def test_tables_of_peers_without_scores_have_the_static_baseline(oracles, name):
    found, benchmark = evaluated(read(oracles / "peers" / f"{name}.csv"))
    assert benchmark is None
    assert "others_mean" in found.scores
    result = summary.summarise(found, ["pearson"], resamples=100)
    cell = result.cells["pearson"]["others_mean"]
    assert np.isfinite(cell.interval.value)


def test_scipy_agrees_on_a_target_of_the_controlled_benchmark(oracles):
    found, _ = evaluated(read(oracles / "controlled.csv"))
    j = found.targets.index("cub200")
    there = found.where[:, j]
    for name, reference in (
        ("kendall", scipy.stats.kendalltau),
        ("spearman", scipy.stats.spearmanr),
    ):
        value = outcomes.by_target(found, "heuristic", MEASURES[name])[0, j]
        expected = reference(found.scores["heuristic"][0, there, j], found.accuracies[there, j])
        np.testing.assert_allclose(value, expected.statistic, rtol=1e-12)


# What anybody named

HOSTILE = ("=cmd|x", "a\x1b[31mb", "<svg onload=x>", "$\\frac$", "[x](y)|z", "modèle-日本")


def test_names_are_text_in_every_file_of_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    rows = [["model", "target", "accuracy", "=m<b>", "a\x9bb"]]
    rng = np.random.default_rng(0)
    rows += [[n, t, *rng.uniform(50, 90, 3)] for n in HOSTILE for t in ("t<1>\x1b", "+u")]
    (tmp_path / "o.csv").write_text(files.table_text(rows), encoding="utf-8")
    words = ["--oracle", str(tmp_path / "o.csv"), "--out", str(tmp_path / "out")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        report.main([*words, "--resamples", "20"])
    sys.stdout.flush()
    printed = sys.stdout.buffer.getvalue().decode("ascii")
    assert "\x1b" not in printed
    assert r"t<1>\x1b" in printed
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".md", ".csv", ".html"}
    for path in written:
        if path.suffix == ".svg":
            ET.parse(path)
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                for cell in (cell for row in csv.reader(file) for cell in row):
                    assert cell[:1] not in ("=", "+", "@", "\t", "\r")
        if path.suffix in (".md", ".html"):
            text = path.read_text(encoding="utf-8")
            assert "<svg onload" not in text
            assert "m<b>" not in text
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LONG + "m,t,1,1,1,7\n", "line 2 has 6 cells; expected 5"),
        (LONG + "m,t,1_0,1,1\n", "line 2: accuracy is '1_0'; expected a number"),
        (LONG + 'm,"t\nu",1,1,1\n\nm,x,1,no,1\n', "line 5: ours is 'no'; expected a number"),
        (LONG.encode("utf-16"), "is UTF-16; expected UTF-8"),
        (b"\xff" + LONG.encode(), "line 1 is not UTF-8"),
    ],
)
def test_tables_lose_no_cell_and_name_the_line(content, reason, tmp_path):
    path = tmp_path / "o.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TableError) as caught:
        read(path)
    assert reason in str(caught.value)


def test_the_index_of_a_data_frame_is_no_method(tmp_path):
    (tmp_path / "o.csv").write_text(",model,target,accuracy,ours\n0,m,t,1,2\n1,n,t,3,4\n")
    assert list(read(tmp_path / "o.csv").scores) == ["ours"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "--oracle needs --out"),
        (("--out", "o", "--resamples", "0"), "--resamples is 0; expected at least 1"),
        (
            ("--out", "o", "--benchmark", "demo"),
            "--benchmark is 'demo'; expected one of controlled",
        ),
        (("--out", "o", "--probe-sets", "3"), "--probe-sets is an option for results folders"),
        (("--out", "o", "--workers", "3"), "workers is an option for results folders"),
        (("--out", "o", "--no-scratch"), "scratch is an option for results folders"),
    ],
)
def test_options_that_do_not_go_with_a_table_are_refused(words, reason, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        report.main(["--oracle", str(tmp_path / "none.csv"), *words])
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--scores", "--times", "--resamples"])
def test_options_of_a_table_need_the_table(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        report.main([flag, "3"])
    assert stopped.value.code == 2
    assert f"{flag} needs --oracle\n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_table_the_stage_runs(monkeypatch):
    called = []
    monkeypatch.setattr(
        report.command_line,
        "run_stages",
        lambda parser, args, stages: called.append((args, stages)),
    )
    report.main(["--benchmark", "smoke", "--probe-sets", "2"])
    report.main([])
    (args, stages), (default, _) = called
    assert stages == [report.STAGE]
    assert (args.benchmark, args.probe_sets, args.out) == ("smoke", 2, None)
    assert default.benchmark == "demo"
    assert not {"oracle", "scores", "times", "resamples"} & vars(args).keys()


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "o.csv")
    with pytest.raises(SystemExit) as stopped:
        report.main(["--oracle", str(tmp_path / "o.csv"), "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "o.csv is a pipe; expected a file\n" in capsys.readouterr().err


def test_times_of_no_transfer_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("Stage,Method,Items,Seconds\nscore,parc,0,1\n")
    with pytest.raises(TableError, match="line 2: Items is '0'; expected above 0"):
        read_times(tmp_path / "t.csv")
