"""Stages that are killed or asked to leave and started again, or run in several processes."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time

import clusters
import pytest
import tiny

pytestmark = pytest.mark.slow


def start(folder, *options, **env):
    """Start stages of a tiny benchmark in a folder, as a process."""
    return subprocess.Popen(
        [sys.executable, tiny.__file__, *options, str(folder)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "RAY_USAGE_STATS_ENABLED": "0", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process, status=0, timeout=400):
    """Return what a process has said at its end."""
    said, _ = process.communicate(timeout=timeout)
    assert process.returncode == status, said
    return said


def results_in(folder):
    return folder / "results" / "tiny"


def tables(folder):
    """The tables of training."""
    found = {}
    for name in ("oracle", "scratch", "grid"):
        with (results_in(folder) / f"{name}.csv").open(newline="") as file:
            found[name] = list(csv.DictReader(file))
    return found


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    """The folder of stages that nothing interrupts, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    end(start(folder))
    return folder


def test_killed_at_any_moment_and_started_again_ends_the_same(whole, tmp_path):
    """SIGKILL in several stages, within and between units; then the same files."""
    rng = random.Random(0)
    broken = tmp_path / "broken"
    broken.mkdir()
    # kept between kills, and none of the whole run
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    results = results_in(broken)
    patterns = (
        "checkpoints/tiny/*/*/manifest.json",
        "results/tiny/transfers/*/*.json",
        "results/tiny/scores/*.json",
        "results/tiny/probes/*.npz",
    )

    def made():
        return sum(len(list(broken.glob(pattern))) for pattern in patterns)

    # 3 sources, 6 training runs, 6 probe files, 2 score files: in a training of either stage, and
    # where the last probe file is made, or the first scores
    for files_there in (1, 6, 14):
        process = start(broken, **cache)
        while made() < files_there or not (results / "settings.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
    end(start(broken, "--scores", **cache))
    assert made() == 3 + 6 + 6 + 2
    assert tiny.outcome(results) == tiny.outcome(results_in(whole))
    # a kill leaves nothing half-written, neither under a final name nor a temporary one
    assert list(broken.rglob("*.damaged*")) == []
    assert list(broken.rglob("*.incomplete")) == []


def test_sigterm_within_a_training_run_saves_it_and_the_next_call_goes_on(whole, tmp_path):
    """As a cluster does before it takes a machine away."""
    results = results_in(tmp_path)
    process = start(tmp_path, "--slowly")
    while not (tmp_path / "slow").exists():  # within the first training run
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert "interrupted; finished work is kept" in end(process, status=130, timeout=30)
    (manifest,) = (results / "partial").rglob("manifest.json")
    history = json.loads(manifest.read_text())["content"]["metadata"]["history"]
    assert 1 <= len(history["loss"][0]) < 6
    end(start(tmp_path, "--scores"))
    assert tiny.outcome(results) == tiny.outcome(results_in(whole))
    assert list((results / "partial").rglob("manifest.json")) == []


def test_shards_at_the_same_time_make_what_one_process_makes(whole, tmp_path):
    for stage in ("--sources", "--training"):
        processes = [start(tmp_path, stage, "--shard", f"{i}/2") for i in (1, 2)]
        for process in processes:
            end(process)
    assert tables(tmp_path) == tables(whole)


@pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")  # Ray starts its own
def test_a_ray_cluster_that_loses_a_machine_makes_every_unit_once(whole, tmp_path, monkeypatch):
    results = results_in(tmp_path)
    seen = results / "metrics" / "train_sources"
    with clusters.two_nodes(monkeypatch) as lose_one:
        process = start(tmp_path, "--training", "--executor", "ray")
        # With one processor each, two units under way are on two machines.
        lose_one(process, lambda: seen.exists() and len(list(seen.glob("*.jsonl"))) >= 2)
        said = end(process)
    assert tables(tmp_path) == tables(whole)
    assert said.count("FAILED") == 0
    assert "train_sources: 3 made" in said
    assert "finetune_all: 3 made" in said
    assert len(list(results.glob("transfers/*/*.json"))) == 6
    assert list(results.rglob("*.damaged*")) == []


@pytest.fixture(scope="module")
def of_bank(bank):
    """The options of the benchmark of published networks, with halving and two seeds."""
    return "--benchmark", "tiny_real", "--bank", str(bank), "--halving"


@pytest.fixture(scope="module")
def whole_of_bank(of_bank, data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole_of_bank")
    end(start(folder, *of_bank))
    return folder / "results" / "tiny_real"


@pytest.mark.parametrize("asked", [False, True], ids=["SIGKILL", "SIGTERM"])
def test_stopped_within_a_further_seed_and_started_again(asked, whole_of_bank, of_bank, tmp_path):
    results = tmp_path / "results" / "tiny_real"
    shutil.copytree(whole_of_bank, results)
    (results / "oracle.csv").unlink()
    seeds = list(results.glob("transfers/*/seed_1.json"))
    assert len(seeds) == 2
    for path in seeds:
        path.unlink()
    process = start(tmp_path, "--training", "--slowly", *of_bank)
    while not (tmp_path / "slow").exists():
        assert process.poll() is None
        time.sleep(0.01)
    if asked:
        process.terminate()
        assert "interrupted; finished work is kept" in end(process, status=130, timeout=30)
        (manifest,) = (results / "partial").rglob("manifest.json")
        assert "seed_1" in str(manifest)
    else:
        process.kill()
        process.communicate()
    assert not (results / "oracle.csv").exists()
    end(start(tmp_path, "--training", *of_bank))
    assert (results / "oracle.csv").read_bytes() == (whole_of_bank / "oracle.csv").read_bytes()
    assert list((results / "partial").rglob("manifest.json")) == []


@pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")  # Ray starts its own
def test_published_networks_on_ray_have_the_same_results(whole_of_bank, of_bank, tmp_path):
    pytest.importorskip("ray")
    said = end(start(tmp_path, "--scores", "--executor", "ray", *of_bank))
    results = tmp_path / "results" / "tiny_real"
    for name in ("oracle.csv", "grid.csv", "linear.csv", "scores.csv"):
        assert (results / name).read_bytes() == (whole_of_bank / name).read_bytes()
    assert said.count("FAILED") == 0
    assert "linear_probes: 2 made" in said
