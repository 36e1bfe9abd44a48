"""The other speed tables: what is compared, and the commands; whole tables are in test_all.py."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from experiments.speed import __main__ as command
from experiments.speed import (
    bank,
    banks,
    ceilings,
    extract,
    machine,
    measured,
    originals,
    train,
)


def test_extraction_has_a_case_for_every_network_and_batch(monkeypatch):
    monkeypatch.setattr(extract, "measure", lambda name, batch_size, _: (name, batch_size))
    cases = extract.cases(extract.Sizes(("squeezenet1_1", "alexnet"), (4, 8)))
    assert [(case.name, case.measure()) for case in cases] == [
        (f"{name}, batch {size}", (name, size))
        for name in ("squeezenet1_1", "alexnet")
        for size in (4, 8)
    ]


def test_a_side_that_sees_something_else_is_no_comparison(monkeypatch):
    monkeypatch.setattr(extract.steps, "initial", lambda *_: {})
    monkeypatch.setattr(
        extract,
        "ours",
        lambda *_, **__: {
            "jaxparc": lambda batches: batches[0][:, 0, 0] * 2.0,
            "Flax as it is": lambda batches: batches[0][:, 0, 0],
        },
    )
    monkeypatch.setattr(originals, "installed", lambda _: False)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        next(extract.measure("resnet18", 1, extract.Sizes()))


def test_torch_that_fails_costs_its_own_side_alone(at_once, monkeypatch):
    def fails(name, variables, how):
        if how.compiled:
            raise MemoryError(name)
        return lambda batches: np.concatenate(batches)[:, 0, 0] + 0.0

    def ours(name, variables, *, flax):
        return {"jaxparc": lambda batches: np.concatenate(batches)[:, 0, 0] + 0.0}

    monkeypatch.setattr(extract.steps, "initial", lambda *_: {})
    monkeypatch.setattr(extract, "ours", ours)
    monkeypatch.setattr(extract, "original", fails)
    monkeypatch.setattr(extract, "placed", lambda images, *_: images)
    monkeypatch.setattr(originals, "installed", lambda _: True)
    sizes = extract.Sizes(images=1, repeats=1, flax=False, torch=("torch, compiled", "torch"))
    found = extract.measure("resnet18", 1, sizes)
    assert next(found).images_per_second.keys() == {"jaxparc", "torch"}
    with pytest.raises(MemoryError):
        next(found)


def test_torch_that_computes_something_else_is_no_comparison(at_once, monkeypatch):
    class Training:
        def __init__(self, *_):
            pass

        def side(self, *_, **__):
            return lambda: np.array([123.0])

    monkeypatch.setattr(originals, "installed", lambda _: True)
    monkeypatch.setattr(originals, "training_network", lambda *_: None)
    monkeypatch.setattr(train, "Training", Training)
    monkeypatch.setattr(train.steps, "initial", lambda *_: {})
    monkeypatch.setattr(train, "Ours", FakeOurs)
    monkeypatch.setattr(train, "forward_operations", lambda *_: 1.0)
    shape = train.Shape(32, ("resnet18",), (4,), images=1, torch=("torch",))
    found = train.measure("resnet18", shape, 4, train.Sizes((shape,), repeats=1))
    assert next(found).images_per_second.keys() == {"jaxparc"}
    with pytest.raises(AssertionError, match="torch"):
        next(found)


class FakeOurs:
    compile_seconds, peak_bytes = 1.0, 1

    def __init__(self, *_):
        pass

    def __call__(self):
        return np.array([2.3])


def test_the_ratio_is_to_the_fastest_side_of_torch():
    rates = {
        "jaxparc": [30, 10, 20],
        "Flax as it is": [50],
        "torch": [8],
        "torch, channels last": [10],
    }
    assert extract.cells(extract.Row("x", 1, "host", rates))[-1] == "2.00"


def test_sides_alternate_and_the_first_call_of_each_repeat_is_not_counted(monkeypatch):
    monkeypatch.setattr(measured, "_PAUSE", 0)
    called = []
    sides = {"a": (lambda: called.append("a"), 4), "b": (lambda: called.append("b"), 10)}
    rates = measured.alternate(sides, images=10, repeats=2)
    assert "".join(called) == 2 * ("aaaa" + "bb")  # 1 + 3 calls of 4 images, 1 + 1 of 10
    assert {what: len(found) for what, found in rates.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("name", list(command.COMMANDS))
def test_the_command_line_has_every_table(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m experiments.speed {name}" in capsys.readouterr().out


def test_the_command_line_passes_its_flags_on(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(bank, "section", lambda sizes: sizes)
    monkeypatch.setattr(train, "section", lambda sizes: sizes)
    monkeypatch.setattr(measured, "run", lambda *given: called.append(given))
    command.main(["bank", "--quick", "--skip-slow", "--out", str(tmp_path / "x y")])
    command.main(["train", "--pixels", "32", "--architectures", "alexnet"])
    name = "python -m experiments.speed"
    assert called == [
        (
            dataclasses.replace(banks.default(quick=True), slow=False),
            tmp_path / "x y",
            f"{name} bank --quick --skip-slow --out '{tmp_path / 'x y'}'",
        ),
        (called[1][0], None, f"{name} train --pixels 32 --architectures alexnet"),
    ]
    monkeypatch.setattr(extract, "section", lambda sizes: sizes)
    command.main(["extract", "--architectures", "vit_small_patch16_224", "alexnet"])
    assert called.pop()[0].architectures == ("vit_small_patch16_224", "alexnet")
    (shape,) = called[1][0].shapes
    assert (shape.pixels, shape.architectures) == (32, ("alexnet",))
    command.main(["train", "--pixels", "96"])
    (shape,) = called.pop()[0].shapes
    assert (shape.pixels, shape.grid, shape.architectures) == (96, 1, train.FOUR)  # as at 224


@pytest.mark.parametrize("words", [[], ["everything"]])
def test_an_unknown_table_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_ceilings_are_positive_and_in_their_units():
    rows = measured.run(ceilings.section(ceilings.TINY))
    names = ["float32 product", "bfloat16 product", "copy on the device"]
    assert [row.what for row in rows[:3]] == names
    if jax.default_backend() == "cpu":
        assert len(rows) == 3
        assert ceilings.host_copy_rate() is None
    assert all(len(row.rates) == ceilings.TINY.repeats and min(row.rates) > 0 for row in rows)
    assert ceilings.cells(ceilings.Row("x", "operations", [2e12])) == (
        "x",
        "2.00 (2.00–2.00)",
        "TFLOP/s",
    )
    assert ceilings.best(rows)["float32 product"] == max(rows[0].rates)


def test_copies_count_the_bytes_of_all_arrays(monkeypatch):
    monkeypatch.setattr(ceilings, "_times", lambda run, repeats: [float(len(run()))] * repeats)
    sizes = ceilings.Sizes(bytes=4000, repeats=2)
    assert ceilings.host_copy(sizes) == [4000, 4000]
    assert ceilings.host_copy(sizes, 1000) == [1000, 1000]  # "4 s" for four arrays
    if ceilings.has_pinned():
        assert ceilings.pinned_copy(sizes) == [4, 4]  # 1,000 numbers


def test_memory_that_torch_does_not_use_is_released_without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    machine.release()
    assert "torch" not in sys.modules
