"""A ranking for the terminal and as CSV, JSON and Markdown."""

import csv
import dataclasses
import io
import json
import math
import re

import numpy as np

from jaxparc.bank import ranked_page, ranked_tables
from jaxparc.bank.costs import Facts
from jaxparc.bank.racing import Round
from jaxparc.bank.ranking import Ranking
from jaxparc.bank.scores import BankScores

NAMES = ("resnet18-imagenet", "mobilenetv2-imagenet", "lite0-birds", "alexnet-places365")
FACTS = {
    NAMES[0]: Facts(11_176_512, 1.94, 96.85, 44.8, "BSD-3-Clause", "imagenet2012"),
    NAMES[1]: Facts(2_223_872, 4.72, 235.9, 9.1, "Apache-2.0", "imagenet2012"),
    NAMES[2]: Facts(722_496, 10.53, 526.4, 2.9, "Apache-2.0", "nabirds"),
}


def ranking(facts=FACTS, names=NAMES, **options):
    values = np.array([[17.03, 60], [16.5, 85], [12.8, 50], [math.nan, 40]])[None]
    noise = np.random.default_rng(0).normal(size=(4, 2, 100)).astype(np.float32) * 8
    noise -= noise.mean(axis=-1, keepdims=True)
    undefined = {(names[3], "parc_f32"): "features are the same for every image"}
    scores = BankScores(names, ("parc_f32", "ridge"), values, undefined, (noise,))
    return Ranking(scores, facts, **options)


def test_the_table_fits_80_columns_for_ordinary_names():
    lines = ranked_tables.terminal(ranking(evidence="because"), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    head, _, first, second, third, last = lines[:6]
    assert head.split() == [
        *("model", "parc_f32", "by", "ridge", "params", "GMACs", "images/s", "MB")
    ]
    assert first.split() == ["1", NAMES[0], "17.03", "±", *first.split()[4:]]
    assert first.split()[5:] == ["2", "11.2", "M", "1.9", "*", "97", "45"]
    assert second.split()[:3] == ["=", "2", NAMES[1]]
    assert "  ^ 1   2.2 M" in second  # its rank by ridge, which puts it above the best one
    assert third.split()[-7:] == ["3", "722", "k", "11", "*", "526", "2.9"]
    assert last.split() == [NAMES[3], "undefined", "4"]
    assert "by ridge: rank by it; ^: above the best one by more than chance (95 %)" in lines
    assert lines[6] == ""
    assert lines[-2:] == [
        "because",
        "too wide for this terminal: licence and source, in ranking.csv",
    ]
    wide = ranked_tables.terminal(ranking(), width=120)
    assert "BSD-3-Clause  imagenet2012" in wide
    assert "too wide" not in wide


def test_multiply_adds_have_two_digits():
    numbers = (0.4, 3.98, 9.96, 15.4)
    of = ranking({name: Facts(gmacs=x) for name, x in zip(NAMES, numbers, strict=True)})
    [column] = [column for column in ranked_tables.columns_of(of) if column.head == "GMACs"]
    assert [column.cell(row) for row in of.rows] == ["0.40", "4.0", "10", "15"]


def test_columns_that_are_empty_are_left_out():
    head = ranked_tables.terminal(ranking({}), width=80).splitlines()[0]
    assert head.split() == ["model", "parc_f32", "by", "ridge"]
    some = {NAMES[0]: Facts(licence="MIT")}
    assert ranked_tables.terminal(ranking(some), width=80).splitlines()[0].split()[-1] == "licence"


def test_numbers_are_whole_in_a_narrow_terminal_with_long_names():
    names = ("q" * 90, *NAMES[1:])
    text = ranked_tables.terminal(ranking({}, names), width=40)
    assert "17.03 ± " in text
    assert re.sub("[^q]", "", text.split("\n\n")[0]) == "q" * 90


def test_a_second_method_that_agrees_is_shown_as_well():
    scores = dataclasses.replace(
        ranking().scores, values_per_run=np.array([[[17.0, 60], [16, 50], [12, 40], [11, 30]]])
    )
    text = ranked_tables.terminal(Ranking(scores), width=80)
    assert [line.split()[-1] for line in text.splitlines()[2:6]] == ["1", "2", "3", "4"]
    assert "by ridge: rank by it; none is above the best one by more than chance (95 %)" in text


def test_intervals_do_not_leave_the_bounds_of_a_score():
    scores = dataclasses.replace(
        ranking().scores,
        methods=("knn", "ridge"),
        values_per_run=np.array([[[99.5, 60], [50, 50], [0.25, 40], [math.nan, 30]]]),
    )
    of = Ranking(scores, bounds={"knn": (0.0, 100.0)}, detailed=True)
    best, middle, worst, none = of.rows
    assert best.high == 100.0
    assert worst.low == 0.0
    assert math.isnan(none.low)
    half = f"{99.5 - best.low:.2f}"
    assert half == f"{99.5 - scores.interval()[best.name][0]:.2f}"
    text = ranked_tables.text(of, width=120)
    assert text.count(f"99.50 +0.50 -{half}") == 2  # in the ranking, and among all scores
    assert f"50.00 ± {middle.high - 50:.2f}" in text
    assert text.count(f"0.25 +{worst.high - 0.25:.2f} -0.25") == 2
    [first, *_] = csv.DictReader(io.StringIO(ranked_tables.csv(of)))
    assert first["knn_high"] == "100.000000"


def test_the_scores_of_many_methods_fit_the_terminal():
    scores, k = ranking().scores, 9
    many = dataclasses.replace(
        scores,
        methods=tuple(f"method_{i}" for i in range(k)),
        values_per_run=np.repeat(scores.values_per_run[..., :1], k, axis=-1),
        contributions=(np.repeat(scores.contributions[0][:, :1], k, axis=1),),
    )
    text = ranked_tables.all_scores(Ranking(many, detailed=True), width=80)
    lines = text.splitlines()
    assert lines[0] == "All scores, of 1 probe set; ±: 95 % interval"
    assert max(map(len, lines[:-1])) <= 80
    assert lines[2].split() == ["model", *many.methods[:4]]
    assert lines[-1] == f"5 more methods in ranking.csv: {', '.join(many.methods[4:])}"
    wide = ranked_tables.all_scores(Ranking(many, detailed=True), width=200)
    assert wide.splitlines()[2].split() == ["model", *many.methods]
    assert "more methods" not in wide
    narrow = ranked_tables.all_scores(Ranking(many), width=10)  # one method at least
    assert narrow.splitlines()[2].split() == ["model", many.methods[0]]
    assert "All scores" not in ranked_tables.text(Ranking(many), width=80)


def test_odd_names_are_escaped_everywhere():
    names = ("\x1b[2Ja|b", "=1+1", "<b>", "d\n")
    of = ranking({}, names)
    text = ranked_tables.terminal(of, width=80)
    assert r"\x1b[2Ja|b" in text
    assert "\x1b" not in text
    markdown = ranked_tables.markdown(of)
    assert "\x1b" not in markdown
    assert r"a\|b" in markdown
    assert "&lt;b&gt;" in markdown
    assert "'=1+1" in ranked_tables.csv(of)
    assert [model["name"] for model in json.loads(ranked_tables.json_text(of))["models"]] == [
        *names
    ]


def test_csv_has_every_method_and_number():
    rows = [*csv.DictReader(io.StringIO(ranked_tables.csv(ranking())))]
    assert [row["model"] for row in rows] == list(NAMES)
    assert [row["rank"] for row in rows] == ["1", "2", "3", ""]
    assert [row["tied"] for row in rows] == ["1", "1", "0", "0"]
    assert [row["ridge_rank"] for row in rows] == ["2", "1", "3", "4"]
    assert [row["better_by"] for row in rows] == ["", "ridge", "", ""]
    assert rows[0]["parameters"] == "11176512"
    assert (rows[3]["parc_f32"], rows[3]["parc_f32_low"], rows[3]["licence"]) == ("", "", "")
    assert float(rows[0]["parc_f32_low"]) < 17.03 < float(rows[0]["parc_f32_high"])


def test_json_has_everything():
    of = ranking(evidence="because", settings={"seed": 3}, notes=["a note"])
    found = json.loads(ranked_tables.json_text(of))
    assert found["answer"] == of.answer
    assert (found["method"], found["methods"]) == ("parc_f32", ["parc_f32", "ridge"])
    assert (found["level"], found["probe_sets"], found["evidence"]) == (0.95, 1, "because")
    assert (found["settings"], found["notes"]) == ({"seed": 3}, ["a note"])
    assert {"jaxparc", "python", "jax", "numpy"} <= found["versions"].keys()
    first, *_, last = found["models"]
    assert first["scores"]["parc_f32"]["interval"] == list(of.scores.interval()[NAMES[0]])
    assert (first["images_per_second"], first["frontier"]) == (96.85, True)
    assert last["scores"]["parc_f32"] == {
        "score": None,
        "interval": [None, None],
        "rank": None,
        "undefined": "features are the same for every image",
    }


def test_markdown_has_the_answer_and_the_table():
    lines = ranked_tables.markdown(ranking(notes=["a note"])).splitlines()
    assert lines[0] == f"### {ranking().answer}"
    assert lines[2].startswith("| model | rank | parc_f32 | by ridge |")
    assert lines[4].startswith(f"| {NAMES[0]} | 1 | 17.03 ± ")
    assert lines[-1] == "a note"


def test_files_are_written(tmp_path):
    ranked_tables.write(ranking(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("ranking.csv", "ranking.json", "ranking.md")
    }


def test_models_that_a_race_dropped_have_the_scores_that_were_computed():
    rounds = (
        Round(64, {"slow": 9.5, NAMES[0]: 16.0}, {"slow": "surely worse"}),
        Round(100, {NAMES[0]: 17.03}, {}),
    )
    of = ranking(rounds=rounds, detailed=True)
    text = ranked_tables.all_scores(of, width=120)
    assert [line for line in text.splitlines() if line.startswith("slow")][0].split() == [
        *("slow", "9.50")  # ridge was not computed, which is not undefined
    ]
    row = of.rows[-1]
    assert (row.name, row.images, row.dropped) == ("slow", 64, "surely worse")
    assert ranked_tables.cell_of(of, row, "ridge") == ""
    assert '<td class="n">9.50</td><td class="n"></td>' in ranked_page.page(of)
