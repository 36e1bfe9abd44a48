"""All tables in a limited time: the order, what fails, and a whole run at tiny sizes."""

import dataclasses
import json

import pytest

from experiments.speed import __main__ as command
from experiments.speed import all as every
from experiments.speed import extract, input, measured, originals
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
def measured_in_order(at_once, monkeypatch):
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records of a whole run, by table, and its folder; banks are in test_speed_bank.py."""
    folder = tmp_path_factory.mktemp("speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "_PAUSE", 0)
        patch.setattr(input, "SIZE", 64)
        patch.setattr(originals, "installed", lambda _: False)
        others = [name for name in every.SECTIONS if name != "bank"]
        records = every.run(folder, minutes=10, only=others, quick=True, ran="the command")
    assert [record.section.name for record in records] == ["ceilings", *others]
    return {record.section.name: record for record in records}, folder


@pytest.mark.slow
def test_all_tables_are_measured_at_tiny_sizes(whole):
    records, folder = whole
    for name, record in records.items():
        assert not record.failed | record.left_out, name
        content = json.loads((folder / f"{name}.json").read_text())
        assert len(content["rows"]) == len(record.rows) > 0
        assert content["about"]["command"] == "the command"
        assert (folder / f"{name}.md").read_text().startswith("`the command`, ")
    assert "float32 product" in content["about"]["ceilings"]
    assert "| not measured |" in (folder / "goals.md").read_text()


@pytest.mark.slow
def test_extraction_has_a_row_for_every_place(whole):
    records, folder = whole
    rows = records["extract"].rows
    assert [(r.architecture, r.batch_size, r.place) for r in rows] == [
        ("squeezenet1_1", 4, "device"),
        ("squeezenet1_1", 4, "host"),
    ]
    for row in rows:
        assert set(row.images_per_second) == {"jaxparc", "Flax as it is"}
        assert all(len(r) == 2 and min(r) > 0 for r in row.images_per_second.values())
    assert extract.cells(rows[0])[-4:] == ("–", "–", "–", "–")
    lines = (folder / "extract.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(rows)


@pytest.mark.slow
def test_training_is_measured_and_written(whole):
    records, folder = whole
    (row,) = records["train"].rows
    assert row.images_per_second.keys() == {"jaxparc", "grid"}
    assert all(len(rates) == 2 and min(rates) > 0 for rates in row.images_per_second.values())
    assert row.compile_seconds > 0 < row.peak_bytes
    assert row.grid == 2
    # ResNet-18 an eighth as wide, with the small stem: by hand from its table 1
    # (what multiplies padding is not counted: along a side it is 2 of 3 x 16, and 1 at stride 2)
    operations, side, before = 2 * 46**2 * 3 * 8, 16, 8
    for stage in range(4):
        channels, first = 8 * 2**stage, 3 * side - 2
        if stage:
            side //= 2
            first = 3 * side - 1
            operations += 2 * side**2 * before * channels
        operations += 2 * first**2 * before * channels
        operations += 2 * 3 * (3 * side - 2) ** 2 * channels**2
        before = channels
    operations += 2 * 64 * 10
    assert 1 <= row.operations / (3 * operations) < 1.1  # batch norm and the rest
    content = json.loads((folder / "train.json").read_text())
    assert content["rows"][0]["architecture"] == "resnet18"
    assert "resnet18 | 16 |" in (folder / "train.md").read_text()


@pytest.mark.slow
def test_the_input_table_has_every_side(whole):
    rows = whole[0]["input"].rows
    trained = [row for row in rows if row.waiting is not None]
    assert [row.what for row in trained] == [
        f"squeezenet1_1 training, {source}"
        for source in ("images on the device", "from decoded images", "from JPEGs")
    ]
    assert all(0 <= row.waiting < 1 for row in trained)
    assert all(min(row.images_per_second) > 0 for row in rows)
    assert "plain PIL loop" in {row.what for row in rows}
