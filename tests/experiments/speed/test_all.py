"""All tables in a limited time: the order, what fails, and a whole run at tiny sizes."""

import dataclasses
import json

import pytest

from experiments.speed import __main__ as command
from experiments.speed import all as every
from experiments.speed.measured import Case, Section


@dataclasses.dataclass
class Row:
    what: str
    rates: list[float]


def section(name, cases, free):
    return Section(
        name=name,
        packages=(),
        sizes=None,
        cases=cases,
        header=("what",),
        cells=lambda row: (row.what,),
        title=name,
        free=free,
    )


@pytest.fixture
def measured_in_order(monkeypatch):
    """Sections of fake cases; returns the list that fills with what is measured and freed."""
    order = []

    def fake(name, quick):
        def case(priority):
            def measure():
                order.append(f"{name} {priority}")
                return [Row(f"{name} {priority}", [1.0])]

            return Case(f"{name} {priority}", name, measure, priority)

        if name == "extract":
            return every._failing(name, ImportError("No module named 'flax'"))
        cases = [case(0)] if name == "ceilings" else [case(1), case(0)]
        return section(name, cases, lambda: order.append(f"free {name}"))

    monkeypatch.setattr(every, "_section", fake)
    monkeypatch.setattr(every.goals, "write", lambda out: [])
    return order


def test_important_cases_of_all_tables_come_first(measured_in_order, tmp_path):
    records = every.run(tmp_path, minutes=1)
    assert measured_in_order == [
        "ceilings 0",
        *("bank 0", "free bank", "train 0", "free train", "input 0", "free input"),
        *("bank 1", "free bank", "train 1", "free train", "input 1", "free input"),
    ]
    assert [record.section.name for record in records] == ["ceilings", *every.SECTIONS]
    about = json.loads((tmp_path / "train.json").read_text())["about"]
    assert about["ceilings"] == {"ceilings 0": 1.0}


def test_a_table_that_cannot_be_imported_does_not_end_the_others(measured_in_order, tmp_path):
    with pytest.raises(SystemExit, match="1 case failed: extract: all"):
        command.main(["all", "--out", str(tmp_path), "--only", "input", "extract"])
    text = (tmp_path / "extract.md").read_text()
    assert "- all: ImportError: No module named 'flax'" in text
    assert not (tmp_path / "bank.md").exists()
    assert len(json.loads((tmp_path / "input.json").read_text())["rows"]) == 2


def test_modules_that_fail_to_import_are_sections_that_fail(monkeypatch):
    def fails(name):
        raise ImportError(name)

    monkeypatch.setattr(every.importlib, "import_module", fails)
    (case,) = every._section("bank", quick=True).cases
    with pytest.raises(ImportError, match=r"experiments\.speed\.bank"):
        case.measure()


def test_priorities_select_cases(measured_in_order, tmp_path):
    command.main(["all", "--out", str(tmp_path), "--priorities", "1", "--only", "train", "bank"])
    assert measured_in_order == ["ceilings 0", "bank 1", "free bank", "train 1", "free train"]


def test_no_time_leaves_everything_out(measured_in_order, tmp_path):
    records = every.run(tmp_path, minutes=0)
    assert measured_in_order == [f"free {name}" for name in ("bank", "train", "input") * 2]
    assert all(set(record.left_out.values()) == {"the time is over"} for record in records)


@pytest.mark.slow
def test_all_tables_are_measured_at_tiny_sizes(tmp_path):
    # Those of banks and extraction, the longest, are in test_speed_bank.py and test_speed.py.
    others = [name for name in every.SECTIONS if name not in ("bank", "extract")]
    records = every.run(tmp_path, minutes=10, only=others, quick=True, ran="the command")
    assert [record.section.name for record in records] == ["ceilings", *others]
    for record in records:
        name = record.section.name
        assert not record.failed | record.left_out, name
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(content["rows"]) == len(record.rows) > 0
        assert content["about"]["command"] == "the command"
        assert (tmp_path / f"{name}.md").read_text().startswith("`the command`, ")
    assert "float32 product" in content["about"]["ceilings"]
    assert "| not measured |" in (tmp_path / "goals.md").read_text()
