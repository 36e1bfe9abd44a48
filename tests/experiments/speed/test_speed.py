"""The speed command: that it measures what it says, at sizes that take seconds. No times."""

import json

import numpy as np
import pytest

from experiments.speed import __main__ as command
from experiments.speed import bank, extract, measured, plain, train
from jaxparc import selectors

TINY = bank.Sizes(
    n=40,
    models=(1, 3),
    widths=(24,),
    classes=(4, 5),
    m=3,
    d=24,
    c=4,
    z=6,
    plain_models=2,
    repeats=2,
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(bank, "PAUSE", 0)
    patch.setattr(bank, "POOL", 2)
    patch.setattr(measured, "matrix_rate", lambda dtype: 1e9)
    patch.setattr(bank, "first_call", lambda _: 1.0)
    out = tmp_path_factory.mktemp("speed") / "table"
    rows = bank.bank(TINY, out=out)
    patch.undo()
    return rows, out


@pytest.mark.slow
def test_every_case_has_a_row(tables):
    rows, _ = tables
    assert [(r.what, r.m, r.d, r.c) for r in rows] == [
        ("parc_f32", 1, 24, 4),
        ("parc_f32", 3, 24, 4),
        ("parc_f32", 3, 24, 5),
        *((method, 3, 24, 4) for method in bank.ALONE),
        ("all but hscore", 3, 24, 4),
        ("hscore", 3, 24, 4),
    ]
    assert all(len(r.ours) == 2 and min(r.ours) > 0 for r in rows)
    assert all(len(r.plain) == len(r.plain_one_thread) == 2 for r in rows[:-1])
    assert len(rows[-1].plain) == 1  # it takes a minute


def test_every_method_is_measured():
    named = {method.partition("_")[0] for method in (*bank.ALONE, *bank.TOGETHER, "hscore")}
    assert named == set(selectors.SELECTORS)


@pytest.mark.slow
def test_both_files_hold_all_rows(tables):
    rows, out = tables
    content = json.loads(out.with_suffix(".json").read_text())
    assert [row["what"] for row in content["rows"]] == [row.what for row in rows]
    assert content["about"]["sizes"]["n"] == 40
    assert {"date", "device", "processor", "cores", "packages", "blas"} <= set(content["about"])
    assert content["about"]["first_call_seconds"] == 1.0
    text = out.with_suffix(".md").read_text()
    assert (
        "\n\nFloat32 matrix rate 1 GFLOP/s. The first call of the default method takes 1.00 s"
        in text
    )
    table = [line for line in text.splitlines() if line[:1] == "|"]
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1


def test_ratio_is_to_the_median_and_to_the_faster_side():
    row = bank.Row("x", 1, 1, 1, [1, 2, 9], [10, 20, 30], [8, 8, 8], None, 0, 0, 0)
    assert (row.ratio(), row.ratio_best()) == (10, 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*bank.ALONE, "parc_f32", "hscore"])
def test_both_sides_compute_the_same(method):
    # not of what they are timed on alone: the scores themselves
    model = bank.synthetic(TINY, 24, 4, seed=0)
    got = bank.score_bank([model], 2, [method])
    expected = plain.score(method, model)
    tolerance = {"logistic": 10, "hscore": 1e-2}.get(method.partition("_")[0], 0.5)
    np.testing.assert_allclose(got.values[:, 0], expected, atol=tolerance)


def test_what_methods_share_is_counted_once():
    sizes = (500, 2048, 10, 1000)
    alone = bank.least_work(["parc"], *sizes)
    assert bank.least_work(["parc", "rsa", "dds"], *sizes) == alone
    assert bank.least_work(["heuristic"], *sizes) == (0, 0)
    assert bank.least_work(["knn", "nce"], *sizes) > alone


@pytest.mark.slow
def test_extraction_has_a_row_for_every_network_and_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "_PAUSE", 0)
    monkeypatch.setattr(extract, "original", lambda name, variables: {})
    sizes = extract.Sizes(("squeezenet1_1", "resnet18"), (4, 8), images=8, repeats=2)
    rows = extract.run(sizes, tmp_path / "table")
    assert [(r.architecture, r.batch_size) for r in rows] == [
        ("squeezenet1_1", 4),
        ("squeezenet1_1", 8),
        ("resnet18", 4),
        ("resnet18", 8),
    ]
    for row in rows:
        assert set(row.images_per_second) == {"jaxparc", "Flax as it is"}
        assert all(len(r) == 2 and min(r) > 0 for r in row.images_per_second.values())
    assert extract.cells(rows[0])[-3:] == ("–", "–", "–")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(rows)


def test_a_side_that_sees_something_else_is_no_comparison(monkeypatch):
    monkeypatch.setattr(extract.steps, "initial", lambda *_: {})
    monkeypatch.setattr(
        extract,
        "ours",
        lambda *_: {"jaxparc": lambda x: x[:, 0, 0] * 2.0, "Flax as it is": lambda x: x[:, 0, 0]},
    )
    monkeypatch.setattr(extract, "original", lambda name, variables: {})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        next(extract.measure(extract.Sizes(("resnet18",), (1,))))


def test_the_ratio_is_to_the_faster_layout():
    rates = {
        "jaxparc": [30, 10, 20],
        "Flax as it is": [5],
        "torch": [8],
        "torch, channels last": [10],
    }
    assert extract.cells(extract.Row("x", 1, rates))[-1] == "2.00"


def test_sides_alternate_and_the_first_call_of_each_repeat_is_not_counted(monkeypatch):
    monkeypatch.setattr(measured, "_PAUSE", 0)
    called = []
    sides = {"a": (lambda: called.append("a"), 4), "b": (lambda: called.append("b"), 10)}
    rates = measured.alternate(sides, images=10, repeats=2)
    assert "".join(called) == 2 * ("aaaa" + "bb")  # 1 + 3 calls of 4 images, 1 + 1 of 10
    assert {what: len(found) for what, found in rates.items()} == {"a": 2, "b": 2}


@pytest.mark.slow
def test_training_is_measured_and_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measured, "_PAUSE", 0)
    monkeypatch.setattr(measured, "matrix_rate", lambda dtype: 1e9)
    sizes = train.Sizes(
        architectures=("resnet18",), pixels=(32,), batch_size=4, images=(8,), repeats=2, grid=(2,)
    )
    (row,) = train.run(sizes, tmp_path / "train")
    assert row.images_per_second.keys() >= {"jaxparc", "grid"}
    assert all(len(rates) == 2 and min(rates) > 0 for rates in row.images_per_second.values())
    assert row.compile_seconds > 0 < row.peak_bytes
    # ResNet-18 an eighth as wide, with the small stem: by hand from its table 1
    # (what multiplies padding is not counted: along a side it is 2 of 3 x 32, and 1 at stride 2)
    operations, side, before = 2 * 94**2 * 3 * 8, 32, 8
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
    assert (
        json.loads((tmp_path / "train.json").read_text())["rows"][0]["architecture"] == "resnet18"
    )
    assert "resnet18 | 32 |" in (tmp_path / "train.md").read_text()


@pytest.mark.parametrize("name", ["bank", "input", "extract", "train"])
def test_the_command_line_has_every_table(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m experiments.speed {name}" in capsys.readouterr().out


def test_the_command_line_passes_its_flags_on(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(bank, "bank", lambda sizes, **options: called.append((sizes, options)))
    command.main(["bank", "--quick", "--skip-slow", "--out", str(tmp_path / "x")])
    command.main(["bank"])
    assert called == [
        (bank.QUICK, {"slow": False, "out": tmp_path / "x"}),
        (bank.Sizes(), {"slow": True, "out": None}),
    ]


@pytest.mark.parametrize("words", [[], ["everything"]])
def test_an_unknown_table_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
