"""The stages: what is done stays done, what fails is recorded, what is damaged is made again."""

import csv
import dataclasses
import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import tiny

from experiments import extract_probes, finetune_all, score_probes, transfer_results
from experiments.runner.run import StageError, prepare
from jaxparc import evaluation, files, score_bank, selectors
from jaxparc.errors import OperationError
from jaxparc.evaluation import Transfer
from jaxparc.selectors import SELECTORS
from jaxparc.training import checkpoints, grid, loop
from jaxparc.units.unit import write_result

pytestmark = pytest.mark.slow  # a benchmark is run first


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A folder in which the tiny benchmark ran once, start to end."""
    folder = tmp_path_factory.mktemp("tiny")
    run = tiny.run_in(folder)
    assert [stage(run) for stage in tiny.STAGES] == [0] * len(tiny.STAGES)
    return run


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run's files, to break."""
    subprocess.run(["cp", "-r", finished.out.parent, tmp_path / "copy"], check=True)
    return tiny.run_in(tmp_path / "copy")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mean_pc_of_the_files(run, method, probe_set):
    """From oracle.csv and scores.csv, by hand."""
    oracle = {
        Transfer(*list(r.values())[:3]): float(r["Oracle"]) for r in rows(run.out / "oracle.csv")
    }
    scores = {
        Transfer(*list(r.values())[1:4]): float(r[method])
        for r in rows(run.out / "scores.csv")
        if r["Run"] == probe_set
    }
    return evaluation.mean_pc(scores, oracle)


def read_probe(run, transfer, probe_set):
    name = extract_probes.unit_name(transfer, probe_set)
    return extract_probes.read(extract_probes.path_of(run, transfer, probe_set), name)


def test_the_files_have_the_published_columns_and_every_transfer_once(finished):
    oracle = rows(finished.out / "oracle.csv")
    assert list(oracle[0]) == ["Architecture", "Source Dataset", "Target Dataset", "Oracle"]
    expected = {("resnet18", source, "digits") for source in ("glyph_digits", "glyph_letters")}
    assert {tuple(row.values())[:3] for row in oracle} == expected
    assert len(oracle) == 2
    scores = rows(finished.out / "scores.csv")
    assert list(scores[0]) == [
        "Run",
        "Architecture",
        "Source Dataset",
        "Target Dataset",
        *tiny.FEW.methods,
    ]
    assert len(scores) == 2 * 2
    assert {row["Run"] for row in scores} == {"0", "1"}
    assert all(row["parc"] for row in scores)
    assert [row["Source Dataset"] for row in rows(finished.out / "scratch.csv")] == ["scratch"]


def test_the_oracle_is_the_test_accuracy_of_the_chosen_rate(finished):
    table = rows(finished.out / "grid.csv")
    assert len(table) == 3 * 2
    chosen = {row["Source Dataset"]: row for row in table if row["Chosen"] == "1"}
    assert len(chosen) == 3
    for row in rows(finished.out / "oracle.csv"):
        assert row["Oracle"] == chosen[row["Source Dataset"]]["Test"]


def test_times_cover_every_unit_of_every_stage(finished):
    units = dict.fromkeys(("train_sources", "finetune_all", "extract_probes"), 0)
    times = rows(finished.out / "times.csv")
    for row in times:
        assert float(row["Seconds"]) > 0
        if row["Stage"] in units:
            units[row["Stage"]] += 1
    # two transfers, and the reference, on two probe sets
    assert units == {"train_sources": 3, "finetune_all": 6, "extract_probes": 6}
    assert {row["Method"] for row in times} == {"", *tiny.FEW.methods}


def test_what_is_done_is_not_done_again(finished, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(loop, "fit", refuse)
    monkeypatch.setattr("jaxparc.extraction.extract", refuse)
    monkeypatch.setattr("jaxparc.score_bank", refuse)
    before = tiny.outcome(finished.out)
    assert [stage(finished) for stage in tiny.STAGES] == [0] * len(tiny.STAGES)
    assert tiny.outcome(finished.out) == before


def test_the_page_names_every_model(finished):
    page = (finished.out / "report" / "index.html").read_text()
    for name in ("resnet18", "glyph_digits", "glyph_letters", "scratch"):
        assert name in page
    assert "Curves of 3 training runs" in page
    assert "10 classes; images: train 1,297, test 500" in page


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_damaged_units_are_moved_aside_and_made_again_the_same(copy, damage, capsys):
    before = tiny.outcome(copy.out)
    weights = max((copy.weights / "resnet18" / "glyph_digits").rglob("d/*"), key=os.path.getsize)
    broken = [
        weights,
        next((copy.out / "transfers").glob("resnet18_glyph_digits_digits/*.json")),
        next((copy.out / "probes").glob("resnet18_glyph_digits_digits_0.npz")),
        next((copy.out / "scores").glob("digits_1.json")),
    ]
    for file in broken:
        whole = file.read_bytes()
        half = len(whole) // 2
        flipped = bytes([whole[half] ^ 0x10]) + whole[half + 1 :]
        file.write_bytes(whole[:half] + (flipped if damage == "flip" else b""))
    for table in ("oracle.csv", "scores.csv"):
        (copy.out / table).unlink()
    assert [stage(copy) for stage in tiny.STAGES[:-1]] == [0] * (len(tiny.STAGES) - 1)
    assert tiny.outcome(copy.out) == before
    assert (copy.weights / "resnet18" / "glyph_digits.damaged").is_dir()
    assert (copy.out / "transfers" / "resnet18_glyph_digits_digits.damaged").is_dir()
    for file in broken[2:]:
        assert file.with_name(f"{file.name}.damaged").exists()
    assert capsys.readouterr().err.count("and recreated") == 4


def test_empty_files_are_made_again(copy):
    before = tiny.outcome(copy.out)
    transfer = next((copy.out / "transfers").glob("resnet18_glyph_digits_digits/*.json"))
    probe = next((copy.out / "probes").glob("resnet18_glyph_digits_digits_0.npz"))
    scores = copy.out / "scores" / "digits_1.json"
    weights = copy.weights / "resnet18" / "digits"
    for file in (weights / "manifest.json", transfer, probe, scores):
        file.write_bytes(b"")
    assert [stage(copy) for stage in tiny.STAGES[:-1]] == [0] * (len(tiny.STAGES) - 1)
    assert tiny.outcome(copy.out) == before
    for file in (probe, scores):
        assert file.with_name(f"{file.name}.damaged").read_bytes() == b""
    assert weights.with_name("digits.damaged").is_dir()


def test_a_failing_unit_is_recorded_and_the_others_go_on(copy, monkeypatch, capsys):
    empty(copy.out / "transfers")
    fit = loop.fit_together

    def fail(task, variables, source, points, **options):
        if points[0].recipe.learning_rate == tiny.TINY.learning_rates["resnet18"][1]:
            raise RuntimeError("out of luck")
        return fit(task, variables, source, points, **options)

    monkeypatch.setattr(loop, "fit_together", fail)
    assert finetune_all.stage(copy) == 3
    record = json.loads((copy.out / "failures" / "finetune_all.json").read_text())
    assert len(record) == 3
    assert record[0]["error"] == "RuntimeError: out of luck"
    assert "in fail" in record[0]["traceback"]
    first = f"{tiny.TINY.learning_rates['resnet18'][0]:g}.json"
    done = list((copy.out / "transfers").rglob("*.json"))
    assert [path.name for path in done] == [first] * 3
    # a choice waits for its whole grid
    assert rows(copy.out / "oracle.csv") == []
    assert "3 of 3 units failed" in capsys.readouterr().err

    def refuse(task, variables, source, points, **options):
        assert points[0].recipe.learning_rate != tiny.TINY.learning_rates["resnet18"][0]
        return fit(task, variables, source, points, **options)

    monkeypatch.setattr(loop, "fit_together", refuse)  # what is done of a grid stays
    assert finetune_all.stage(copy) == 0
    assert not (copy.out / "failures" / "finetune_all.json").exists()
    assert len(rows(copy.out / "oracle.csv")) == 2


def test_a_diverged_run_is_a_result_and_not_chosen(copy, monkeypatch):
    empty(copy.out / "transfers")
    fit = loop.fit_together

    def diverge(task, variables, source, points, **options):
        (point,) = points
        if point.recipe.learning_rate == tiny.TINY.learning_rates["resnet18"][1]:
            wild = dataclasses.replace(point.recipe, learning_rate=1e20, warmup=0.0)
            points = [point._replace(recipe=wild)]
        return fit(task, variables, source, points, **options)

    monkeypatch.setattr(loop, "fit_together", diverge)
    assert finetune_all.stage(copy) == 0
    for row in rows(copy.out / "grid.csv"):
        first = float(row["Learning Rate"]) == tiny.TINY.learning_rates["resnet18"][0]
        assert (row["Chosen"] == "1") == first
        assert bool(row["Test"]) == first
    lost = copy.out / "metrics" / "finetune_all" / "resnet18_scratch_digits_0.1.jsonl"
    assert None in [json.loads(line)["loss"] for line in lost.read_text().splitlines()]


def test_how_training_went_is_told_step_by_step(finished):
    lines = {}
    for stage in ("train_sources", "finetune_all"):
        for path in (finished.out / "metrics" / stage).iterdir():
            lines[path.stem] = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 3 + 3 * 2
    name = "resnet18_glyph_digits_digits"
    result = files.read_sealed(finished.out / "transfers" / name / "0.1.json")
    of_run = lines[f"{name}_0.1"]
    assert [line["step"] for line in of_run] == [0, 1, 2, 3]
    np.testing.assert_allclose([line["loss"] for line in of_run], result["losses"], atol=1e-4)
    recipe = dataclasses.replace(tiny.TINY.transfer_recipe, learning_rate=0.1)
    rates = [line["learning_rate"] for line in of_run]
    np.testing.assert_allclose(rates, recipe.learning_rates(), rtol=1e-6)
    assert all(0 <= line["accuracy"] <= 100 < 1e9 * line["images_per_second"] for line in of_run)


def halved(copy, tmp_path):
    """The tiny benchmark with a grid of three, of which the worse are given up."""
    rates = {"resnet18": (0.03, 0.1, 0.3)}
    benchmark = dataclasses.replace(tiny.TINY, halving=True, learning_rates=rates)
    run = dataclasses.replace(copy, benchmark=benchmark, out=tmp_path / "halved")
    assert transfer_results.rungs(benchmark) == (1, 2)
    return run


def test_halving_gives_up_the_worse_half_for_all_sources(copy, tmp_path):
    run = halved(copy, tmp_path)
    assert finetune_all.stage(run) == 0
    table = rows(run.out / "grid.csv")
    assert len(table) == 3 * 3
    for sources in (("glyph_digits", "glyph_letters"), ("scratch",)):
        of_group = [row for row in table if row["Source Dataset"] in sources]
        steps = {rate: set() for rate in ("0.03", "0.1", "0.3")}
        for row in of_group:
            steps[row["Learning Rate"]].add(row["Steps"])
        assert sorted(steps.values(), key=str) == [{"1"}, {"2"}, {"4"}]

        def mean(rate, after, sources=sources):
            found = [
                files.read_sealed(
                    run.out / "transfers" / f"resnet18_{source}_digits" / f"first_{after}.json"
                )
                for source in sources
            ]
            return np.mean([of_source["validation"][rate] for of_source in found])

        (first,) = (rate for rate, done in steps.items() if done == {"1"})
        (second,) = (rate for rate, done in steps.items() if done == {"2"})
        (last,) = (rate for rate, done in steps.items() if done == {"4"})
        assert mean(first, 1) <= min(mean(second, 1), mean(last, 1))
        assert mean(second, 2) <= mean(last, 2)
        assert all((row["Chosen"] == "1") == (row["Learning Rate"] == last) for row in of_group)
        assert all(bool(row["Test"]) == (row["Learning Rate"] == last) for row in of_group)
    # what was trained to the end ended as without halving
    expected = {tuple(row.values())[:4]: row["Test"] for row in rows(copy.out / "grid.csv")}
    shared = [row for row in table if tuple(row.values())[:4] in expected and row["Test"]]
    assert all(row["Test"] == expected[tuple(row.values())[:4]] for row in shared)
    assert len(rows(run.out / "oracle.csv")) == 2
    assert list((run.out / "partial").rglob("manifest.json")) == []
    # a second run finds everything done
    before = (run.out / "grid.csv").read_bytes()
    assert finetune_all.stage(run) == 0
    assert (run.out / "grid.csv").read_bytes() == before
    assert len(list(transfer_results.seconds(run))) == 3 * 2 + 3


def test_nothing_is_given_up_before_all_sources_have_come_to_a_rung(copy, tmp_path):
    run = halved(copy, tmp_path)
    one, other = (Transfer("resnet18", s, "digits") for s in ("glyph_digits", "glyph_letters"))
    rates = run.benchmark.learning_rates["resnet18"]

    def came_to(transfer, steps, *accuracies):
        path = transfer_results.rung_path(run, transfer, steps)
        validation = {f"{r:g}": v for r, v in zip(rates, accuracies, strict=True)}
        name = "{} {} to {}, first {} steps".format(*transfer, steps)
        write_result(path, name, {"validation": validation})

    came_to(one, 1, 10.0, 20.0, None)
    assert transfer_results.remaining_rates(run, one, 2) == rates
    came_to(other, 1, 30.0, 5.0, 90.0)
    assert transfer_results.remaining_rates(run, one, 0) == rates
    assert (
        transfer_results.remaining_rates(run, one, 1)
        == transfer_results.remaining_rates(run, other, 1)
        == rates[:2]
    )
    came_to(one, 2, 10.0, 20.0, 0.0)
    assert transfer_results.remaining_rates(run, other, 2) == rates[:2]
    came_to(other, 2, 10.0, 9.0, 0.0)
    assert transfer_results.remaining_rates(run, other, 2) == (0.1,)
    # another transfer's file is none of this one's
    shutil.copy(transfer_results.rung_path(run, one, 1), transfer_results.rung_path(run, other, 1))
    assert transfer_results.remaining_rates(run, one, 1) == rates


def test_a_grid_in_one_program_gives_the_same_table_and_event_files(copy):
    expected = rows(copy.out / "grid.csv")
    empty(copy.out / "transfers")
    together = dataclasses.replace(copy, grid="together", tensorboard=True)
    assert finetune_all.stage(together) == 0
    for row, other in zip(rows(copy.out / "grid.csv"), expected, strict=True):
        for key in ("Validation", "Test"):  # an image or two may fall on the other side
            assert abs(float(row[key]) - float(other[key])) < 4
    events = list((copy.out / "tensorboard" / "finetune_all").glob("*/events*"))
    assert len(events) == 6
    assert all(path.stat().st_size > 500 for path in events)


def test_a_grid_is_finished_by_the_plan_that_it_began_with(copy, monkeypatch):
    """Also if a plan would now be chosen otherwise: results of one grid are comparable."""
    empty(copy.out / "transfers")
    together = dataclasses.replace(copy, grid="together")
    assert finetune_all.stage(together) == 0
    expected = rows(copy.out / "grid.csv")
    for path in (copy.out / "transfers").glob("*/*.json"):
        result = files.read_sealed(path)
        assert result["grid"] == {"plan": "together", "runs_at_once": 2}
        if path.stem == "0.1":
            path.unlink()
    monkeypatch.setattr(grid, "runs_that_fit", lambda *_, **__: 1)
    assert finetune_all.stage(together) == 0
    assert rows(copy.out / "grid.csv") == expected


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_ends_the_stage_and_says_what_is_kept(copy, monkeypatch, code):
    shutil.rmtree(min((copy.out / "transfers").iterdir()))

    write = files.write_sealed

    def full(path, content):
        if path.is_relative_to(copy.out / "partial"):
            write(path, content)
        else:
            raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(files, "write_sealed", full)
    with pytest.raises(OperationError, match="2 of 3 units are done and kept") as caught:
        finetune_all.stage(copy)
    assert os.strerror(code) in str(caught.value)
    assert str(copy.out / "transfers") in str(caught.value)


def test_other_settings_are_refused_with_the_difference(finished):
    other = dataclasses.replace(tiny.FEW, seed=7)
    with pytest.raises(StageError, match=r"seed: 0 there, 7 now") as caught:
        prepare(dataclasses.replace(finished, benchmark=other))
    assert "methods" not in str(caught.value)
    # weights that were made with other settings are not built upon either
    elsewhere = dataclasses.replace(finished, out=finished.out.parent / "elsewhere")
    with pytest.raises(StageError, match="checkpoints was created with other settings"):
        prepare(dataclasses.replace(elsewhere, benchmark=other))
    # but what sources do not depend on may change
    fewer = dataclasses.replace(tiny.FEW, methods=("parc",), probe_images=20)
    shutil.rmtree(elsewhere.out)
    prepare(dataclasses.replace(elsewhere, benchmark=fewer))


def test_probe_files_are_what_the_network_sees(finished):
    transfer = Transfer("resnet18", "glyph_digits", "digits")
    probe = read_probe(finished, transfer, 0)
    assert probe["features"].shape == (40, 32)
    assert probe["probs"].shape == (40, 10)
    np.testing.assert_allclose(probe["probs"].sum(axis=1), 1, atol=1e-5)
    assert sorted(np.bincount(probe["y"])) == [4] * 10
    other = read_probe(finished, transfer, 1)
    assert not np.array_equal(probe["features"], other["features"])


def test_the_reports_mean_pc_is_that_of_the_files(finished):
    from experiments import report
    from jaxparc.report import correlations

    oracle = {
        Transfer(*list(r.values())[:3]): float(r["Oracle"])
        for r in rows(finished.out / "oracle.csv")
    }
    expected = []
    for run in "01":
        scores = {
            Transfer(*list(r.values())[1:4]): float(r["knn"])
            for r in rows(finished.out / "scores.csv")
            if r["Run"] == run
        }
        expected.append(evaluation.mean_pc(scores, oracle))
    found = correlations(report.read_results(finished), "knn")[0].mean
    np.testing.assert_allclose(found, np.mean(expected))


def test_the_report_has_intervals_and_baselines(finished):
    from experiments import report

    found = report.read_results(finished)
    methods = {m for m in tiny.FEW.methods if not m.endswith("+l")}
    assert set(found.summary.cells["pearson"]) == {*methods, "layers"}
    assert found.title("layers") == "layers alone"
    assert "What the numbers are worth" in (finished.out / "report" / "index.html").read_text()


@pytest.mark.parametrize("what", ["probe-size", "pca"])
def test_sweeps_score_parts_of_the_probe_files(what, copy, monkeypatch):
    from experiments import sweep

    monkeypatch.setattr(sweep, "SIZES", (20, 500))
    monkeypatch.setattr(sweep, "DIMENSIONS", (4,))
    assert set(sweep.REDUCIBLE) == {name for name, s in SELECTORS.items() if s.reducible}
    monkeypatch.setattr(sweep, "REDUCIBLE", ("parc", "rsa", "knn"))
    benchmark = dataclasses.replace(copy.benchmark, methods=("parc", "knn", "rsa", "parc+l"))
    run = dataclasses.replace(copy, benchmark=benchmark)
    assert sweep.SWEEPS[what](run) == 0
    found = rows(run.out / "sweeps" / f"{what}.csv")
    if what == "probe-size":
        points = {(v, m) for v in ("20", "40") for m in ("parc", "rsa", "knn")}
    else:
        points = {(v, m) for v in "04" for m in ("parc", "rsa", "knn")}
    assert {(row["Value"], row["Method"]) for row in found} == points
    assert len(found) == 2 * len(points)
    # the whole probe set is that of scores.csv
    whole = {"probe-size": "40", "pca": "0"}[what]
    for row in found:
        if (row["Value"], row["Method"]) != (whole, "parc"):
            continue
        expected = mean_pc_of_the_files(run, "parc", row["Run"])
        np.testing.assert_allclose(float(row["Mean PC"]), expected)
    for suffix in ("svg", "png"):
        assert (run.out / "sweeps" / f"{what}.{suffix}").stat().st_size > 1000


def test_the_sweep_of_references_agrees_with_the_scores_and_makes_what_is_missing(copy):
    """With the benchmark's reference the scores are those of scores.csv."""
    from experiments import sweep

    assert copy.benchmark.reference == "resnet18"
    missing = extract_probes.path_of(copy, Transfer("resnet18", "digits", "digits"), 1)
    missing.unlink()
    assert sweep.reference(copy) == 0
    found = {
        (r["Value"], r["Method"], r["Run"]): r for r in rows(copy.out / "sweeps/reference.csv")
    }
    assert set(found) == {("resnet18", m, run) for m in sweep.COMPARING for run in "01"}
    assert missing.exists()
    for run in "01":
        expected = mean_pc_of_the_files(copy, "rsa", run)
        assert float(found["resnet18", "rsa", run]["Mean PC"]) == pytest.approx(expected)
    table = (copy.out / "sweeps" / "reference.md").read_text()
    assert "by the architecture of the reference" in table

    apart = dataclasses.replace(copy.benchmark, sources=("glyph_digits",), methods=("parc",))
    with pytest.raises(StageError, match="RSA and DDS need a model trained on each target"):
        sweep.reference(dataclasses.replace(copy, benchmark=apart))


@pytest.mark.parametrize("kind", ["weights", "transfers", "probes", "scores"])
def test_another_units_file_is_not_taken_for_its_own(copy, kind):
    """Same shapes, right checksums, wrong content: it must be made again."""
    before = tiny.outcome(copy.out)
    a, b = {
        "weights": (copy.weights / "resnet18" / "digits", copy.weights / "resnet18/glyph_digits"),
        "transfers": sorted((copy.out / "transfers").iterdir())[:2],
        "probes": sorted((copy.out / "probes").glob("*glyph_digits*")),
        "scores": sorted((copy.out / "scores").glob("*")),
    }[kind]
    shutil.rmtree(b) if b.is_dir() else b.unlink()
    shutil.copytree(a, b) if a.is_dir() else shutil.copy(a, b)
    for path in (copy.out / "scores.csv", copy.out / "oracle.csv"):
        path.unlink()
    assert [stage(copy) for stage in tiny.STAGES[:-1]] == [0] * (len(tiny.STAGES) - 1)
    assert b.with_name(f"{b.name}.damaged").exists()
    assert tiny.outcome(copy.out) == before


def test_what_is_there_is_scored_and_what_lacks_is_said(copy, capsys):
    before = tiny.outcome(copy.out)
    transfer = Transfer("resnet18", "glyph_digits", "digits")
    path = extract_probes.path_of(copy, transfer, 0)
    path.rename(path.with_suffix(".away"))
    assert score_probes.stage(copy) == 1
    assert "not scored: resnet18 glyph_digits looks at digits, probe set 0" in (
        capsys.readouterr().err
    )
    assert len(rows(copy.out / "scores.csv")) == 3
    path.with_suffix(".away").rename(path)
    assert score_probes.stage(copy) == 0
    assert tiny.outcome(copy.out) == before


def test_the_reference_looks_at_its_own_target_and_is_no_transfer(finished):
    reference = Transfer("resnet18", "digits", "digits")
    assert list(tiny.TINY.references()) == [reference]
    probe = read_probe(finished, reference, 1)
    assert (str(probe["source_dataset"]), str(probe["target_dataset"])) == ("digits", "digits")
    assert str(probe["probs_kind"]) == "softmax of the logits"
    # the same images as the transfers'
    other = read_probe(finished, Transfer("resnet18", "glyph_digits", "digits"), 1)
    np.testing.assert_array_equal(probe["y"], other["y"])
    for name in ("oracle.csv", "scores.csv"):
        assert "digits" not in {row["Source Dataset"] for row in rows(finished.out / name)}


def test_every_method_scores_every_transfer(copy, tmp_path):
    run = dataclasses.replace(copy, benchmark=tiny.TINY, out=tmp_path / "all")
    shutil.copytree(copy.out / "probes", run.out / "probes")
    assert score_probes.stage(run) == 0
    scores = rows(run.out / "scores.csv")
    assert set(tiny.TINY.methods) <= set(scores[0])
    assert {m.removesuffix("+l").partition("_f")[0] for m in tiny.TINY.methods} == set(SELECTORS)
    # what the stage wrote is what score_bank gives of its files
    bank = [Transfer("resnet18", source, "digits") for source in ("glyph_digits", "glyph_letters")]
    probes = {"/".join(t): read_probe(copy, t, 0) for t in bank}
    methods = ("rsa", "dds_f32", "leep", "logistic")
    expected = score_bank(
        {name: probe["features"] for name, probe in probes.items()},
        probes["resnet18/glyph_digits/digits"]["y"],
        methods=methods,
        probs={name: probe["probs"] for name, probe in probes.items()},
        reference=read_probe(copy, Transfer("resnet18", "digits", "digits"), 0)["features"],
        num_classes=10,
    )
    got = [[float(row[m]) for m in methods] for row in scores if row["Run"] == "0"]
    np.testing.assert_allclose(got, expected.values, atol=1e-5)


def test_without_a_reference_the_methods_that_need_none_score(copy, capsys):
    before = tiny.outcome(copy.out)
    path = extract_probes.path_of(copy, Transfer("resnet18", "digits", "digits"), 0)
    path.rename(path.with_suffix(".away"))
    assert score_probes.stage(copy) == 1
    assert "not scored: resnet18 digits looks at digits, probe set 0" in capsys.readouterr().err
    for row in rows(copy.out / "scores.csv"):
        there = row["Run"] == "1"
        assert (row["rsa"] != "", row["dds_f32+l"] != "", row["parc"] != "") == (there, there, True)
    path.with_suffix(".away").rename(path)
    assert score_probes.stage(copy) == 0
    assert tiny.outcome(copy.out) == before


def test_a_damaged_reference_costs_the_methods_that_need_it_alone(copy, capsys):
    before = tiny.outcome(copy.out)
    path = extract_probes.path_of(copy, Transfer("resnet18", "digits", "digits"), 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    assert score_probes.stage(copy) == 1
    assert "not scored: resnet18 digits looks at digits, probe set 0" in capsys.readouterr().err
    assert path.with_name(f"{path.name}.damaged").exists()
    for row in rows(copy.out / "scores.csv"):
        there = row["Run"] == "1"
        assert (row["rsa"] != "", row["dds_f32+l"] != "", row["parc"] != "") == (there, there, True)
    assert [extract_probes.stage(copy), score_probes.stage(copy)] == [0, 0]
    assert tiny.outcome(copy.out) == before


def test_a_bank_with_its_reference_alone_fails_in_words(copy, capsys):
    for source in ("glyph_digits", "glyph_letters"):
        extract_probes.path_of(copy, Transfer("resnet18", source, "digits"), 0).unlink()
    assert score_probes.stage(copy) == 3  # two files and their unit
    said = capsys.readouterr().err
    assert "digits, probe set 0: no model has a probe file" in said


def test_a_method_that_does_not_take_a_kind_of_label_stays_empty(copy):
    for source in ("digits", "glyph_digits", "glyph_letters"):
        path = extract_probes.path_of(copy, Transfer("resnet18", source, "digits"), 0)
        probe = read_probe(copy, Transfer("resnet18", source, "digits"), 0)
        with path.open("wb") as file:
            np.savez(file, **probe | {"y": np.eye(10)[probe["y"]]})
    (copy.out / "scores" / "digits_0.json").unlink()
    assert score_probes.stage(copy) == 0
    row = next(r for r in rows(copy.out / "scores.csv") if r["Run"] == "0")
    empty = {name for name in tiny.FEW.methods if row[name] == ""}
    reads_classes = {m for m in tiny.FEW.methods if selectors.method(m).kinds == ("classes",)}
    assert empty == reads_classes == {"leep", "logistic+l"}


def test_a_failed_scratch_run_does_not_withhold_the_transfers(copy, monkeypatch):
    shutil.rmtree(copy.out / "transfers" / "resnet18_scratch_digits")
    monkeypatch.setattr(loop, "fit_together", lambda *_, **__: 1 / 0)
    assert finetune_all.stage(copy) == 1
    assert len(rows(copy.out / "oracle.csv")) == 2
    assert rows(copy.out / "scratch.csv") == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "oracle.csv",
            "a,b\n1,2\n",
            "oracle.csv has no column Architecture, Source Dataset, Target Dataset, Oracle",
        ),
        (
            "oracle.csv",
            "Architecture,Source Dataset,Target Dataset,Oracle\nalexnet,b,c,9x\n",
            "oracle.csv line 2: Oracle is '9x'",
        ),
        (
            "scratch.csv",
            "Architecture,Source Dataset,Target Dataset,Oracle\na,b\n",
            "scratch.csv line 2 has 2 cells; expected 4",
        ),
    ],
)
def test_a_foreign_table_is_named_with_its_line(copy, name, text, message):
    (copy.out / name).write_text(text)
    with pytest.raises(StageError, match=message):
        tiny.report.stage(copy)


def test_a_source_that_failed_fails_its_transfers_alone(copy):
    before = tiny.outcome(copy.out)
    empty(copy.out / "transfers")
    path = copy.weights / "resnet18" / "glyph_digits"
    path.rename(path.with_name("away"))
    # what was read in another test's folder is not mistaken for it: the cache is by path
    assert finetune_all.stage(copy) == 1
    record = json.loads((copy.out / "failures" / "finetune_all.json").read_text())
    assert all(
        "glyph_digits is missing: it has no manifest" in failure["error"] for failure in record
    )
    path.with_name("away").rename(path)
    assert finetune_all.stage(copy) == 0
    assert tiny.outcome(copy.out) == before
    assert checkpoints.metadata(path)["accuracy"] >= 0


def test_scores_of_undefined_features_stay_empty(copy, capsys):
    """NaN goes through as an empty cell, and is not scored as 0."""
    transfer = Transfer("resnet18", "glyph_digits", "digits")
    path = extract_probes.path_of(copy, transfer, 0)
    probe = read_probe(copy, transfer, 0)
    with path.open("wb") as file:
        np.savez(file, **{**probe, "features": np.ones_like(probe["features"])})
    (copy.out / "scores" / "digits_0.json").unlink()
    assert score_probes.stage(copy) == 0
    said = capsys.readouterr().err
    assert "digits, probe set 0: model 'resnet18/glyph_digits/digits': " in said
    assert "undefined (NaN): features are the same" in said
    row = next(r for r in rows(copy.out / "scores.csv") if r["Source Dataset"] == "glyph_digits")
    assert row["parc"] == ""
    assert row["heuristic"] != ""
