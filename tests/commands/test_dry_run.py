"""--dry-run: what would be extracted, in what time and memory."""

import re

import pytest
import tiny_bank

from jaxparc.commands import dry_run

rank = tiny_bank.rank


@pytest.fixture
def bank(tmp_path, monkeypatch):
    return tiny_bank.three_models(tmp_path, monkeypatch)


@pytest.mark.parametrize("command", ["rank", "extract"])
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(command, bank, capsys, monkeypatch):
    rates = {"a": 2.0, "c": 8.0}
    monkeypatch.setattr(dry_run, "_rate", lambda entry, batch_size: rates[entry.name])
    monkeypatch.setattr(dry_run, "_gmacs", lambda entry: {"a": 1.0, "b": 4, "c": 5}[entry.name])
    (bank.path / "b.bin").unlink()
    assert rank("--dry-run", "--out", "f", command=command) == 0
    out, err = capsys.readouterr()
    assert "would extract 2 models, 30 images each, to f\n" in out
    assert "would fail: b: b.bin does not exist\n" in out
    # 180 billion multiply-adds, at 8 and at 2 billion a second.
    assert "about 0 to 2 min on this machine" in out
    assert re.search(r"memory: \d+\.\d GB, with a batch of c\n", out)
    assert not bank.extracted
    assert not (bank.path / "f").exists()
    assert tiny_bank.messages(err) == ""
    assert err.startswith("pics: 3 classes; ")


def test_what_is_done_is_not_counted(bank, capsys):
    assert rank("--out", "f") == 0
    capsys.readouterr()
    assert rank("--dry-run", "--out", "f") == 0
    out = capsys.readouterr().out
    assert "would extract 0 models" in out
    assert "3 already done\n" in out
    assert "about" not in out


@pytest.mark.slow
def test_the_time_is_measured_on_real_networks(bank, capsys):
    assert rank("--dry-run", "--probe-sets", "1", "--out", "f") == 0
    assert re.search(r"about \d+ s on this machine.*\n.* GMACs/s by a\n", capsys.readouterr().out)
