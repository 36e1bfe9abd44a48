"""Benchmarks as they are registered, and what is refused before anything is trained."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tiny

from experiments import benchmarks, report, train_sources, transfer_results
from experiments.runner import command_line, data
from experiments.runner.run import StageError
from experiments.transfer_results import Candidate
from jaxparc import datasets
from jaxparc.evaluation import Transfer


def test_choose_takes_the_best_mean_per_target_and_architecture():
    """Against a plain loop, on validation accuracies with a tie, a diverged run and scratch."""
    rng = np.random.default_rng(0)
    rates = (0.1, 0.2, 0.3)
    validation = {
        Candidate(Transfer(a, s, t), r): float(rng.integers(0, 100))
        for a in "ab"
        for s in ("x", "y", "z", "scratch")
        for t in "tu"
        for r in rates
    }
    validation[Candidate(Transfer("a", "x", "t"), 0.3)] = None
    for source in "xyz":
        for rate in rates:
            validation[Candidate(Transfer("b", source, "u"), rate)] = 50.0
    chosen = transfer_results.choose(validation)
    for transfer, rate in chosen.items():
        group = ["scratch"] if transfer.source == "scratch" else list("xyz")
        totals = {
            r: sum(of_rate) if None not in of_rate else -1.0
            for r in rates
            for of_rate in [[validation[Candidate(transfer._replace(source=s), r)] for s in group]]
        }
        assert rate == max(rates, key=lambda r: (totals[r], -r))
    assert len(chosen) == 2 * 4 * 2


def test_splits_do_not_overlap():
    tuning, validation, test = data.transfer_splits(benchmarks.DEMO, "digits")
    assert (tuning, test) == (f"train[:{benchmarks.DEMO.transfer_images}]", "test")
    assert validation == f"train[-{benchmarks.DEMO.validation_images}:]"
    with pytest.raises(StageError, match="digits: 1200 images to fine-tune on and 250"):
        data.transfer_splits(dataclasses.replace(benchmarks.DEMO, transfer_images=1200), "digits")


def test_every_slice_is_kept_under_its_own_name():
    slices = ("train", "train[:400]", "train[400:]", "train[-400:]", "train[:-400]", "train[:40%]")
    assert len({data.part_name(split) for split in (*slices, "test", "train[:40]")}) == 8
    assert all(set(data.part_name(split)) <= set("trainestopc_-0123456789") for split in slices)


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
def test_registered_benchmarks_hold_together(name):
    benchmark = benchmarks.get(name)
    assert benchmark.name == name
    json.dumps(benchmark.settings())
    for target in benchmark.targets:
        data.transfer_splits(benchmark, target)
    for mapping in (
        benchmark.widths,
        benchmark.source_learning_rates,
        benchmark.learning_rates,
    ):
        assert mapping.keys() - {""} == set(benchmark.architectures) or benchmark.bank


def test_the_demo_is_what_the_readme_says():
    """16 sources, 36 transfers, two seeds, three probe sets of 500 images at 20 pixels."""
    demo = benchmarks.DEMO
    assert len(demo.architectures) * len(demo.sources) == 16
    assert len(list(demo.transfers())) == 36
    assert demo.repeats == 2
    assert (demo.probe_sets, demo.probe_images, demo.image_size) == (3, 500, 20)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("architectures", ("vgg15",), "unknown architecture 'vgg15'; the closest are vgg1"),
        ("sources", ("imagenet21k",), "unknown data set 'imagenet21k'; known: digits"),
        ("targets", ("imagenet21k",), "unknown data set"),
        ("methods", ("prac",), "unknown method 'prac'; known: parc"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(benchmarks.DEMO, **{field: value})


def test_a_reference_that_is_not_trained_is_refused():
    for change, message in [
        (
            {"reference": "alexnet"},
            "reference is 'alexnet'; expected one of its",
        ),
        ({"sources": ("glyph_digits",)}, "a model trained on each target; digits is not a source"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(tiny.TINY, **change)
    # and what needs none asks for none
    plain = dataclasses.replace(tiny.TINY, methods=("parc",), reference="alexnet")
    assert list(plain.references()) == []


def test_an_unknown_benchmark_is_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmark", "--benchmark", "nothing"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "unknown benchmark 'nothing'; known: demo, smoke, controlled, crowd_sourced, detection, "
        "real"
    )
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command line for the benchmark smoke; returns why it exits with 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "--benchmark", "smoke"])
    monkeypatch.setattr(command_line, "cache_compilations", lambda: None)

    def run(main, *stages):
        with pytest.raises(SystemExit) as stop:
            main(*stages)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return run


def test_a_report_without_results_names_the_stage_that_is_missing(refused):
    said = refused(report.main)
    assert "oracle.csv is missing; python -m experiments.finetune_all" in said


def test_a_results_folder_that_cannot_be_made_is_named(refused, tmp_path):
    (tmp_path / "results").write_text("a file is in the way")
    said = refused(command_line.main, None, train_sources.STAGE)
    assert "cannot write results/smoke: " in said


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(datasets.DatasetError, match="pip install"):
        datasets.load("mnist5k", "train")
