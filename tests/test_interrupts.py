"""Ctrl-C and SIGTERM, whatever becomes of them, at commands and in processes that watch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bank
from tiny_bank import rank

from jaxparc import interrupts
from jaxparc.__main__ import main
from jaxparc.bank import features as bank_features

bank = pytest.fixture(tiny_bank.three_models)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ImportError])
def test_an_interrupt_is_one_line_and_keeps_what_is_done(raised, bank, capsys, monkeypatch):
    """Also where a library makes another error of it."""
    extract = bank_features._extract

    def interrupted(entry, probe, rows, batch_size, load, on_images):
        if entry.name == "b":
            monkeypatch.setitem(interrupts._state, "came", True)
            raise raised
        return extract(entry, probe, rows, batch_size, load, on_images)

    monkeypatch.setitem(interrupts._state, "came", False)
    with monkeypatch.context() as patch:
        patch.setattr(bank_features, "_extract", interrupted)
        assert rank("--out", "f") == 130
    said = "interrupted; 1 of 3 models are done and kept in f; the same command continues"
    assert tiny_bank.messages(capsys.readouterr().err) == f"jaxparc: {said}\n"
    monkeypatch.setitem(interrupts._state, "came", False)
    bank.extracted.clear()
    assert rank("--out", "f") == 0
    assert bank.extracted == ["b", "c"]


def test_an_interrupt_while_scoring_keeps_the_features(bank, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxparc.bank.ranking.score", interrupted)
        assert rank("--out", "f") == 130
        assert "interrupted; features are kept in f" in capsys.readouterr().err
        assert main(["score", "f"]) == 130
        assert capsys.readouterr().err == ("jaxparc: interrupted; finished work is kept\n")
    assert not list(bank.path.rglob("*.incomplete"))


def test_an_interrupt_of_data_prepare_says_how_far_it_was(capsys, monkeypatch, bank):
    calls = []

    def prepare(name, **options):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("jaxparc.datasets.prepare", prepare)
    assert main(["data", "prepare", "digits", "folder:x/pics"]) == 130
    assert "interrupted; 1 of 2 are prepared" in capsys.readouterr().err


WATCHED = """
import signal, sys, time
from jaxparc import interrupts
interrupts.GRACE = 0.3
interrupts.watch("program")
{}
print("went on")
"""
SWALLOWED = {
    "while it waits": "signal.raise_signal(signal.SIGINT)",
    "at the end": "signal.raise_signal(signal.SIGTERM)",
    "by a library": "try: signal.raise_signal(signal.SIGINT)\nexcept BaseException: time.sleep(9)",
    "twice": "try: signal.raise_signal(signal.SIGINT)\n"
    "except BaseException: signal.raise_signal(signal.SIGINT)",
    "as another error": "try: signal.raise_signal(signal.SIGINT)\n"
    "except BaseException: raise ImportError",
    "in a callback": "class Callback:\n  def __del__(self): signal.raise_signal(signal.SIGINT)\n"
    "Callback()\ntime.sleep(9)",
    "beside a thread": "import threading as t\nt.Thread(target=time.sleep, args=(9,)).start()\n"
    "signal.raise_signal(signal.SIGINT)",
}


@pytest.mark.parametrize("how", SWALLOWED)
def test_an_interrupt_ends_the_process_whatever_is_made_of_it(how):
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(SWALLOWED[how])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "program: interrupted; finished work is kept\n")


def test_an_interrupt_while_modules_are_imported_is_one_line(tmp_path):
    (tmp_path / "torn.py").write_text(
        "import signal\ntry: signal.raise_signal(signal.SIGINT)\nexcept BaseException: pass\n"
    )
    code = WATCHED.format(f"sys.path.insert(0, {str(tmp_path)!r})\nimport torn")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "program: interrupted; finished work is kept\n"


def test_commands_import_little_before_they_watch():
    code = "import sys, jaxparc.__main__; print({'jax', 'numpy', 'rich'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "words",
    [
        ("jaxparc", "data", "list"),
        ("experiments.benchmark", "--benchmark", "smoke"),
        ("experiments.import_probes", "none", "--out", "o"),
        ("experiments.report", "--oracle", "none", "--out", "o"),
        ("experiments.speed", "bank", "--quick"),
    ],
)
def test_commands_can_be_interrupted_as_soon_as_they_start(words, tmp_path):
    root = str(Path(__file__).parents[1])  # not all of sys.path: tests/ has its own experiments/
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONVERBOSE": "1"}
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as process:
        for line in process.stderr:
            if line.startswith("import 'numpy"):
                process.send_signal(signal.SIGINT)
                break
        said = process.stderr.read()
    assert process.returncode == 130
    program = "jaxparc" if words[0] == "jaxparc" else f"python -m {words[0]}"
    assert f"{program}: interrupted" in said
    assert "Traceback" not in said
