"""What tests of the speed tables share."""

import pytest

from experiments.speed import bank, ceilings, machine, measured


@pytest.fixture
def at_once(monkeypatch):
    """No pauses between the sides, and nothing of the machine measured or released."""
    monkeypatch.setattr(machine, "release", lambda: None)
    monkeypatch.setattr(measured, "_PAUSE", 0)
    monkeypatch.setattr(bank, "PAUSE", 0)
    monkeypatch.setattr(ceilings, "matrix_rate", lambda dtype: 1e9)
