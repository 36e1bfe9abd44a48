import os
import subprocess
import sys

import pytest

from experiments import huge_pages


@pytest.fixture
def started(monkeypatch):
    """The command lines that this process would have become."""
    found = []
    monkeypatch.setattr(os, "execv", lambda path, words: found.append((path, words)))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.benchmark", "--out", "a b"])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.35"))
    monkeypatch.setattr(huge_pages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
    ],
)
def test_the_same_command_starts_again_once(started, monkeypatch, before, after):
    monkeypatch.setenv("GLIBC_TUNABLES", before)
    huge_pages.use()
    assert os.environ["GLIBC_TUNABLES"] == after
    huge_pages.use()
    words = [sys.executable, "-m", "experiments.benchmark", "--out", "a b"]
    assert started == [(sys.executable, words)]


@pytest.mark.parametrize(
    "found", [("glibc", "2.34"), ("glibc", "2.9"), ("musl", "2.40"), ("", ""), ("glibc", "x.y")]
)
def test_other_libraries_have_no_such_tunable(started, monkeypatch, found):
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: found)
    huge_pages.use()
    assert started == []


def test_small_pages_can_be_kept(started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    huge_pages.use()
    assert started == []


@pytest.mark.parametrize(("platforms", "again"), [(None, False), ("cpu", True), ("cuda", False)])
def test_accelerators_need_none(started, monkeypatch, platforms, again):
    monkeypatch.setattr(huge_pages.importlib.util, "find_spec", lambda name: object())
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    huge_pages.use()
    assert bool(started) == again


def test_a_command_that_started_again_does_its_work(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    words = [sys.executable, "-m", "experiments.report", "--benchmark", "nothing"]
    result = subprocess.run(
        words, env={**env, "JAX_PLATFORMS": "cpu"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "unknown benchmark 'nothing'" in result.stderr
