"""Stages that are killed or asked to leave, and started again."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
import tiny

pytestmark = pytest.mark.slow


def test_killed_at_any_moment_and_started_again_ends_the_same(data_dir, tmp_path):
    """SIGKILL in every stage, at its start, within and between units; then the same files."""
    rng = random.Random(0)

    def start(name):
        # Compiled programs are kept between kills, and not shared with the uninterrupted run.
        (tmp_path / name).mkdir(exist_ok=True)
        cache = str(tmp_path / f"{name}_compiled")
        return subprocess.Popen(
            [sys.executable, tiny.__file__, str(tmp_path / name)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache},
            stdout=subprocess.DEVNULL,
        )

    assert start("whole").wait() == 0

    broken = tmp_path / "broken"
    results = broken / "results" / "tiny"
    patterns = (
        "checkpoints/tiny/*/*/manifest.json",
        "results/tiny/transfers/*/*.json",
        "results/tiny/scores/*.json",
        "results/tiny/probes/*.npz",
    )

    def made():
        return sum(len(list(broken.glob(pattern))) for pattern in patterns)

    # 3 sources, 6 training runs, 6 probe files, 2 score files
    for files_there in (0, 1, 2, 3, 6, 9, 12, 16):
        process = start("broken")
        while made() < files_there or not (results / "settings.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.wait()
    assert start("broken").wait() == 0
    assert made() == 3 + 6 + 6 + 2
    assert tiny.outcome(results) == tiny.outcome(tmp_path / "whole" / "results" / "tiny")
    # a kill leaves nothing half-written, neither under a final name nor a temporary one
    assert list(broken.rglob("*.damaged*")) == []
    assert list(broken.rglob("*.incomplete")) == []


def test_sigterm_within_a_training_run_saves_it_and_the_next_call_goes_on(data_dir, tmp_path):
    """As a cluster does before it takes a machine away."""

    def start(name, *options):
        (tmp_path / name).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, tiny.__file__, *options, str(tmp_path / name)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )

    whole = start("whole")
    whole.communicate()
    assert whole.returncode == 0
    results = tmp_path / "broken" / "results" / "tiny"
    process = start("broken", "--slowly")
    while not (results / "slow").exists():  # within the first training run
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; finished work is kept" in said
    (manifest,) = (results / "partial").rglob("manifest.json")
    history = json.loads(manifest.read_text())["content"]["metadata"]["history"]
    assert 1 <= len(history["loss"][0]) < 6
    again = start("broken")
    again.communicate()
    assert again.returncode == 0
    assert tiny.outcome(results) == tiny.outcome(tmp_path / "whole" / "results" / "tiny")
    assert list((results / "partial").rglob("manifest.json")) == []
