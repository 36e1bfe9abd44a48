import ctypes
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import memory


@pytest.fixture
def started(monkeypatch):
    """The command lines that this process would have become."""
    found = []
    monkeypatch.setattr(os, "execv", lambda path, words: found.append((path, words)))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.benchmark", "--out", "a b"])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.35"))
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: None)
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
    memory.use_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == after
    memory.use_huge_pages()
    words = [sys.executable, "-m", "experiments.benchmark", "--out", "a b"]
    assert started == [(sys.executable, words)]


@pytest.mark.parametrize(
    "found", [("glibc", "2.34"), ("glibc", "2.9"), ("musl", "2.40"), ("", ""), ("glibc", "x.y")]
)
def test_other_libraries_have_no_such_tunable(started, monkeypatch, found):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: found)
    memory.use_huge_pages()
    assert started == []


def test_small_pages_can_be_kept(started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    memory.use_huge_pages()
    assert started == []


@pytest.mark.parametrize(("platforms", "again"), [(None, False), ("cpu", True), ("cuda", False)])
def test_accelerators_need_none(started, monkeypatch, platforms, again):
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: object())
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    memory.use_huge_pages()
    assert bool(started) == again


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not memory._glibc(), reason="malloc is not glibc's")
def test_freed_memory_is_returned():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size, blocks = 2**14, []
    for _ in range(4096):  # 64 MiB in pieces that malloc takes from its heap
        blocks.append(libc.malloc(size))
        ctypes.memset(blocks[-1], 1, size)
    for block in blocks[:-1]:  # the last keeps the heap from shrinking by itself
        libc.free(block)
    before = resident()
    memory.release()
    after = resident()
    libc.free(blocks[-1])
    assert before - after > 48 * 2**20


@pytest.mark.parametrize("found", [("musl", "2.40"), ("", "")])
def test_only_glibc_is_asked_for_freed_memory(monkeypatch, found):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: found)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("a library was opened"))
    memory.release()


def test_memory_is_returned_after_long_compilations(monkeypatch):
    returned = []
    monkeypatch.setattr(memory, "release", lambda: returned.append(True))
    for _ in range(2):  # a process may run the stages again
        memory.release_after_compiling()
    for seconds, expected in [(0.0, 1), (math.inf, 0)]:
        monkeypatch.setattr(memory, "LONG", seconds)
        returned.clear()
        jax.jit(lambda x, factor=seconds: factor + x).lower(np.float32(1)).compile()
        assert len(returned) == expected


def test_a_command_that_started_again_does_its_work(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    words = [sys.executable, "-m", "experiments.report", "--benchmark", "nothing"]
    result = subprocess.run(
        words, env={**env, "JAX_PLATFORMS": "cpu"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "unknown benchmark 'nothing'" in result.stderr
