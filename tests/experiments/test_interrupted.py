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


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    """The results of stages that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    subprocess.run([sys.executable, tiny.__file__, str(folder)], env=env, check=True)
    return folder / "results" / "tiny"


def test_killed_at_any_moment_and_started_again_ends_the_same(whole, tmp_path):
    """SIGKILL in every stage, at its start, within and between units; then the same files."""
    rng = random.Random(0)

    broken = tmp_path / "broken"
    broken.mkdir()

    def start():
        cache = str(tmp_path / "compiled")  # kept between kills, and none of the whole run
        return subprocess.Popen(
            [sys.executable, tiny.__file__, str(broken)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache},
            stdout=subprocess.DEVNULL,
        )

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
    for files_there in (0, 4, 10, 16):
        process = start()
        while made() < files_there or not (results / "settings.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.wait()
    assert start().wait() == 0
    assert made() == 3 + 6 + 6 + 2
    assert tiny.outcome(results) == tiny.outcome(whole)
    # a kill leaves nothing half-written, neither under a final name nor a temporary one
    assert list(broken.rglob("*.damaged*")) == []
    assert list(broken.rglob("*.incomplete")) == []


def test_sigterm_within_a_training_run_saves_it_and_the_next_call_goes_on(whole, tmp_path):
    """As a cluster does before it takes a machine away."""

    broken = tmp_path / "broken"
    broken.mkdir()

    cache = str(whole.parents[1] / "cache")

    def start(*options):
        return subprocess.Popen(
            [sys.executable, tiny.__file__, *options, str(broken)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache},
            stderr=subprocess.PIPE,
            text=True,
        )

    results = broken / "results" / "tiny"
    process = start("--slowly")
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
    again = start()
    again.communicate()
    assert again.returncode == 0
    assert tiny.outcome(results) == tiny.outcome(whole)
    assert list((results / "partial").rglob("manifest.json")) == []
