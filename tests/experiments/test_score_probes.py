"""Scores from probe files that were written by hand: nothing is trained or extracted."""

import collections
import csv
import dataclasses
import time

import jax
import numpy as np
import pytest
import tiny

from experiments import extract_probes, score_probes, sweep
from experiments.runner.run import Run
from jaxparc import array_files
from jaxparc.evaluation import Transfer

N = 40
REFERENCE = Transfer("resnet18", "digits", "digits")


@pytest.fixture
def run(tmp_path):
    """The tiny benchmark with two probe sets of random features, and its accuracies."""
    benchmark = dataclasses.replace(tiny.TINY, methods=("rsa", "heuristic"))
    made = Run(benchmark, tmp_path / "results", tmp_path / "checkpoints")
    rng = np.random.default_rng(0)
    for transfer in extract_probes.probed_transfers(benchmark):
        for probe_set in range(benchmark.probe_sets):
            arrays = {
                "features": rng.normal(size=(N, 8)).astype(np.float32),
                "probs": rng.dirichlet(np.ones(5), N).astype(np.float32),
                "y": np.arange(N) % 10,
            }
            path = extract_probes.path_of(made, transfer, probe_set)
            extract_probes.write(path, transfer, probe_set, arrays, 1.5)
    rows = ["Architecture,Source Dataset,Target Dataset,Oracle"]
    rows += [f"{a},{s},{t},{50 + i}" for i, (a, s, t) in enumerate(benchmark.transfers())]
    (made.out / "oracle.csv").write_text("\n".join(rows) + "\n")
    return made


@pytest.fixture
def reads(monkeypatch):
    """How often each array of each file was read."""
    found = collections.Counter()
    read = array_files.Archive.__getitem__

    def count(archive, name):
        found[archive.path.name, name] += 1
        return read(archive, name)

    monkeypatch.setattr(array_files.Archive, "__getitem__", count)
    return found


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(benchmark):
    return {
        extract_probes.file_name(transfer, probe_set)
        for transfer in extract_probes.probed_transfers(benchmark)
        for probe_set in range(benchmark.probe_sets)
    }


def arrays_read(reads):
    """The number of reads of what is scored, by file."""
    return {(file, name): n for (file, name), n in reads.items() if name != "seconds"}


def test_scoring_reads_every_probe_file_once(run, reads):
    assert score_probes.stage(run) == 0
    assert {file for file, _ in reads} == files_of(run.benchmark)
    assert set(arrays_read(reads).values()) == {1}
    found = rows(run.out / "scores.csv")
    assert len(found) == 2 * run.benchmark.probe_sets
    assert all(row[method] for row in found for method in run.benchmark.methods)
    times = rows(run.out / "times.csv")
    extracted = [row for row in times if row["Stage"] == "extract_probes"]
    assert [float(row["Seconds"]) for row in extracted] == [1.5] * len(files_of(run.benchmark))


def test_scores_that_are_there_are_checked_with_one_read(run, reads):
    score_probes.stage(run)
    before = (run.out / "scores.csv").read_bytes()
    reads.clear()
    assert score_probes.stage(run) == 0
    assert {file for file, _ in reads} == files_of(run.benchmark)
    assert set(arrays_read(reads).values()) == {1}
    assert (run.out / "scores.csv").read_bytes() == before


def test_another_model_is_noticed_before_anything_is_read_twice(run, reads):
    path = extract_probes.path_of(run, Transfer("resnet18", "glyph_digits", "digits"), 0)
    content = path.read_bytes()
    path.unlink()
    assert score_probes.stage(run) == 1
    path.write_bytes(content)
    reads.clear()
    assert score_probes.stage(run) == 0
    assert set(arrays_read(reads).values()) == {1}
    assert len(rows(run.out / "scores.csv")) == 2 * run.benchmark.probe_sets


def test_a_damaged_model_is_moved_aside_and_the_others_are_scored(run, capsys):
    path = extract_probes.path_of(run, Transfer("resnet18", "glyph_digits", "digits"), 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    assert score_probes.stage(run) == 1
    assert path.with_name(f"{path.name}.damaged").exists()
    assert "not scored: resnet18 glyph_digits" in capsys.readouterr().err
    found = {(row["Run"], row["Source Dataset"]) for row in rows(run.out / "scores.csv")}
    assert found == {("0", "glyph_digits"), ("0", "glyph_letters"), ("1", "glyph_letters")}


def test_with_allow_missing_a_probe_set_without_models_is_left_out(run):
    for source in ("glyph_digits", "glyph_letters"):
        extract_probes.path_of(run, Transfer("resnet18", source, "digits"), 0).unlink()
    assert score_probes.stage(dataclasses.replace(run, allow_missing=True)) == 0
    assert {row["Run"] for row in rows(run.out / "scores.csv")} == {"1"}


@pytest.mark.slow
def test_a_sweep_of_references_reads_every_probe_file_once(run, reads, monkeypatch):
    """As many architectures as there are: the models are not read again for each."""
    widths = {"resnet18": 0.0625, "alexnet": 0.0625}
    rates = {"resnet18": 0.1, "alexnet": 0.1}
    two = dataclasses.replace(
        run.benchmark,
        architectures=("resnet18", "alexnet"),
        widths=widths,
        source_learning_rates=rates,
        learning_rates={name: (rate,) for name, rate in rates.items()},
    )
    monkeypatch.setattr(sweep, "run_units", lambda *_: 0)  # which checks the references
    monkeypatch.setattr(sweep, "COMPARING", ("rsa",))
    rng = np.random.default_rng(1)
    for transfer in [*two.transfers(), Transfer("alexnet", "digits", "digits")]:
        for probe_set in range(two.probe_sets):
            arrays = {"features": rng.normal(size=(N, 8)), "y": np.arange(N) % 10}
            path = extract_probes.path_of(run, transfer, probe_set)
            extract_probes.write(path, transfer, probe_set, arrays, 1.0)
    table = ["Architecture,Source Dataset,Target Dataset,Oracle"]
    table += [f"{a},{s},{t},{50 + i}" for i, (a, s, t) in enumerate(two.transfers())]
    (run.out / "oracle.csv").write_text("\n".join(table) + "\n")
    assert sweep.reference(dataclasses.replace(run, benchmark=two)) == 0
    assert {file for file, _ in reads} >= files_of(two)
    assert set(reads.values()) == {1}
    found = rows(run.out / "sweeps" / "reference.csv")
    assert {row["Value"] for row in found} == {"resnet18", "alexnet"}
    assert len(found) == 2 * two.probe_sets
    by_reference = {
        value: [row["Mean PC"] for row in found if (row["Value"], row["Method"]) == (value, "rsa")]
        for value in ("resnet18", "alexnet")
    }
    assert by_reference["resnet18"] != by_reference["alexnet"]


def test_the_sweeps_command_names_its_sweeps(capsys):
    for words in ([], ["everything"]):
        with pytest.raises(SystemExit) as stopped:
            sweep.main(words)
        assert stopped.value.code == 2
        assert "SWEEP" in capsys.readouterr().err


def test_the_sweep_is_the_last_stage(monkeypatch):
    called = []
    monkeypatch.setattr(sweep.command_line, "run_stages", lambda *args: called.append(args[1:]))
    sweep.main(["pca", "--benchmark", "smoke"])
    ((args, stages),) = called
    assert args.benchmark == "smoke"
    assert not hasattr(args, "sweep")
    assert stages[-1].run is sweep.pca
    assert len(stages) == 4


def test_a_call_that_compiles_is_made_again_for_its_time():
    program, calls = jax.jit(lambda x: x + 1), []

    def score(methods):
        calls.append(tuple(methods))
        if len(calls) == 1:
            time.sleep(0.5)
        return program(np.zeros(3, np.float32))

    scored, seconds = score_probes.timed(score, ["parc"])
    assert len(calls) == 2
    np.testing.assert_array_equal(scored, np.ones(3))
    assert seconds < 0.5
    score_probes.timed(score, ["parc"])
    assert len(calls) == 3
