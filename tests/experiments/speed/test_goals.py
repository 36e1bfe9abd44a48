"""Goals: the right rows decide, and what was not measured is neither met nor missed."""

import json

import pytest

from experiments.speed import bank, banks, goals, train


def bank_row(place, milliseconds, what="parc_f32", d=2048, copy_share=None):
    return {
        "what": what,
        "m": 1000,
        "d": d,
        "place": place,
        "ours": [milliseconds] * 3,
        "copy_share": copy_share,
    }


def train_row(architecture, batch_size, ours, torch=None, pixels=224, **more):
    sides = {"jaxparc": [ours]} | ({"torch, compiled": [torch]} if torch else {})
    row = {"architecture": architecture, "batch_size": batch_size, "pixels": pixels, "grid": 1}
    return {**row, "dtype": "bfloat16", "images_per_second": sides, **more}


def states(**tables):
    """Return the last two cells of every goal that has a figure."""
    found = goals.lines(tables)
    return [line[2:] for line in found if line[3] != "not measured"]


def test_nothing_is_met_without_rows():
    assert states() == []
    assert {line[2:] for line in goals.lines({})} == {("–", "not measured")}


def test_rows_of_the_bank_decide_by_place_and_width():
    rows = [
        bank_row("device", 0.05),
        bank_row("host", 1.0, copy_share=0.79),
        bank_row("device", 0.5, what=bank.NINE),
        bank_row("device", 100, d=512),
    ]
    assert states(bank=rows) == [("20,000", "met"), ("0.79", "missed"), ("2,000", "met")]


def test_the_goals_name_rows_that_are_measured():
    sizes = banks.ACCELERATOR
    cases = [case.name for case in bank.cases(sizes, banks.Banks(sizes)) if case.priority == 0]
    assert cases == [
        "parc_f32, m=1000, d=2048, c=10, device",
        "parc_f32, m=1000, d=2048, c=10, host",
        f"{bank.NINE}, m=1000, d=2048, c=10, device",
    ]
    names = [case.name for case in train.cases(train.ACCELERATOR) if case.priority == 0]
    assert names == ["resnet50, 224 px, batch 256", "resnet18, 32 px, batch 32"]
    assert {shape.grid for shape in train.ACCELERATOR.shapes if shape.pixels == 32} == {8}


def test_networks_are_compared_at_the_best_batch_of_each_side():
    rows = [
        train_row("resnet50", 128, 3000, 4000),
        train_row("resnet50", 256, 3600, 3900),
        train_row("resnet50", 512, 9999),  # not measured in torch
        train_row("alexnet", 256, 30, 20),
        train_row("resnet18", 32, 500, pixels=32, dtype="bfloat16"),
    ]
    assert states(train=rows) == [("9,999", "met"), ("0.90", "missed"), ("1.50", "met")]


def test_a_grid_of_another_size_does_not_count():
    def row(grid):
        sides = {"jaxparc": [100], "grid": [450]}
        return train_row("resnet18", 32, 1, pixels=32, grid=grid, images_per_second=sides)

    assert states(train=[row(3)]) == []
    assert states(train=[row(8)]) == [("4.50", "met")]


@pytest.mark.parametrize(("fed", "state"), [(91, "met"), (89, "missed")])
def test_training_from_the_cache_is_compared_with_images_on_the_device(fed, state):
    rows = [
        {"what": f"resnet50 training, {source}", "images_per_second": [rate]}
        for source, rate in (("images on the device", 100), ("from decoded images", fed))
    ]
    assert states(input=rows) == [(f"{fed / 100:.2f}", state)]
    assert states(input=rows[:1]) == []


def test_features_of_images_on_the_device_decide():
    sides = {"jaxparc": [9000], "torch, compiled": [8000]}
    row = {"architecture": "resnet50", "place": "device", "images_per_second": sides}
    assert states(extract=[row]) == [("9,000", "met"), ("1.12", "met")]
    assert states(extract=[row | {"place": "host"}]) == []


def test_goals_are_read_from_the_tables_in_a_folder(tmp_path):
    about = {
        "command": "c",
        "date": "d",
        "device": "1 x H100",
        "processor": "p",
        "cores": 16,
        "python": "3.12",
        "packages": {"jax": "0.11"},
        "blas": [],
    }
    content = {"about": about, "rows": [bank_row("device", 1.0)]}
    (tmp_path / "bank.json").write_text(json.dumps(content))
    found = goals.write(tmp_path)
    assert found[0][2:] == ("1,000", "missed")
    text = (tmp_path / "goals.md").read_text()
    assert text.startswith("bank: `c`, d: 1 x H100, p, 16 cores; Python 3.12, jax 0.11; ")
    assert "| 1,000 | missed |" in text
