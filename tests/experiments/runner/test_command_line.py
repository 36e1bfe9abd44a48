"""The command line of the stages: which errors are one line, and which are defects."""

import sys

import jax
import pytest

from experiments.runner import command_line
from experiments.runner.run import Stage, StageError
from jaxparc.errors import InputError


@pytest.fixture
def main(tmp_path, monkeypatch, capsys):
    """Runs a stage that raises; returns the exit code and what stderr says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage", "--benchmark", "smoke"])
    monkeypatch.setattr(command_line, "cache_compilations", lambda: None)

    def run(error):
        def stage(run):
            raise error

        with pytest.raises(SystemExit) as stop:
            command_line.main(None, Stage(stage))
        return stop.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StageError("oracle.csv is missing"), "oracle.csv is missing"),
        (InputError("seed is -1"), "seed is -1"),
        (OSError(28, "No space left", "x"), "x: No space left; finished work is kept"),
        (MemoryError("2 TiB"), "out of memory: 2 TiB"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes"),
            "out of memory: RESOURCE_EXHAUSTED: 9 bytes",
        ),
    ],
)
def test_errors_for_the_user_are_one_line(error, said, main):
    code, err = main(error)
    assert code == 2
    assert err.endswith(f": {said}\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("defect", [ValueError("math"), RuntimeError("device"), KeyError("x")])
def test_defects_are_raised(defect, main):
    with pytest.raises(type(defect)):
        main(defect)
