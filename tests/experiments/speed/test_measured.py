"""Tables are written as they grow, failures are listed, and time that is short is kept to."""

import dataclasses
import json

import pytest

from experiments.speed import measured
from experiments.speed.measured import Budget, Case, Record, Section

pytestmark = pytest.mark.usefixtures("at_once")


@dataclasses.dataclass
class Row:
    what: str


@dataclasses.dataclass
class Sizes:
    n: int = 3


def section(*cases):
    return Section(
        name="x",
        packages=("jax",),
        sizes=Sizes(),
        cases=cases,
        header=("what", "length"),
        cells=lambda row: (row.what, str(len(row.what))),
        title="a table",
        note="A note.",
        about={"more": 1},
    )


def case(name, kind="x"):
    return Case(name, kind, lambda: [Row(name)])


def content(out):
    return json.loads(out.with_suffix(".json").read_text())


def test_tables_are_written_after_each_row(tmp_path):
    out = tmp_path / "folder" / "table"

    def second():
        assert [row["what"] for row in content(out)["rows"]] == ["first"]
        assert "| first | 5 |" in out.with_suffix(".md").read_text()
        yield Row("second")
        assert [row["what"] for row in content(out)["rows"]] == ["first", "second"]

    rows = measured.run(section(case("first"), Case("second", "x", second)), out, "the command")
    assert rows == [Row("first"), Row("second")]
    about = content(out)["about"]
    assert (about["command"], about["sizes"], about["more"]) == ("the command", {"n": 3}, 1)
    assert {"date", "device", "processor", "cores", "packages", "blas"} <= about.keys()
    text = out.with_suffix(".md").read_text()
    assert text.startswith("`the command`, ")
    assert "\n\nA note.\n\n| what | length |\n" in text


def test_a_case_that_fails_is_listed_and_the_others_go_on(tmp_path, capsys):
    def half():
        yield Row("half")
        raise MemoryError("out of\nmemory")

    out = tmp_path / "table"
    with pytest.raises(SystemExit, match=r"^1 case failed: half$"):
        measured.run(section(Case("half", "x", half), case("whole")), out)
    found = content(out)
    assert found["rows"] == [{"what": "half"}, {"what": "whole"}]
    assert found["about"]["failed"] == {"half": "MemoryError: out of; memory"}
    assert "Failed:\n\n- half: MemoryError: out of; memory\n" in out.with_suffix(".md").read_text()
    assert "failed: half: MemoryError: out of; memory" in capsys.readouterr().out


def test_interrupts_are_no_failures(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured.run(section(case("first"), Case("second", "x", interrupted)), tmp_path / "table")
    assert content(tmp_path / "table")["rows"] == [{"what": "first"}]


def test_cases_that_cannot_end_in_time_are_left_out(tmp_path):
    budget = Budget(100)
    budget.took("long", 1000)
    record = Record(section(), tmp_path / "table", "the command")
    for given in (case("known", "long"), case("unknown", "other")):
        record.measure(given, budget)
    record.measure(case("late"), Budget(0))
    assert record.rows == [Row("unknown")]
    assert record.left_out["known"].startswith("the last similar case took 1000 s; ")
    assert record.left_out["late"] == "the time is over"
    assert content(tmp_path / "table")["about"]["left_out"] == record.left_out
    assert "Left out:\n\n- known: the last" in (tmp_path / "table.md").read_text()


def test_a_case_that_fails_early_is_no_estimate():
    def fails():
        raise MemoryError

    budget = Budget(100)
    budget.took("x", 1000)
    record = Record(section(), None, "the command")
    record.measure(Case("fails", "y", fails), budget)
    assert budget.refusal("y") is None
    assert budget.refusal("x") is not None


def test_without_a_limit_every_case_is_measured():
    budget = Budget()
    budget.took("x", 1e9)
    assert budget.refusal("x") is None


def test_nothing_is_written_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert measured.run(section(case("first"))) == [Row("first")]
    assert not list(tmp_path.iterdir())
