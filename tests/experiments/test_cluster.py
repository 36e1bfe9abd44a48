"""Several processes at one benchmark: how it is divided; they run in test_interrupted.py."""

import pickle
import sys

import pytest

from experiments import benchmarks, extract_probes, finetune_all, train_sources
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, list_by_name
from jaxparc.errors import OperationError
from jaxparc.units.run import of_shard


@pytest.mark.parametrize("name", ["demo", "controlled"])
@pytest.mark.parametrize("stage", [train_sources, finetune_all])
def test_shards_have_every_unit_once_and_keep_together_what_belongs_together(
    name, stage, tmp_path, monkeypatch
):
    monkeypatch.setattr(finetune_all.data, "transfer_splits", lambda *_: None)
    run = Run(benchmarks.get(name), tmp_path, tmp_path)
    all_units = stage.units(run)
    for n in (1, 3, 8):
        shards = [of_shard(all_units, (i, n)) for i in range(1, n + 1)]
        names = [[unit.name for unit in shard] for shard in shards]
        assert sorted(sum(names, [])) == sorted(unit.name for unit in all_units)
        for shard, own in zip(shards, names, strict=True):
            for i, unit in enumerate(shard):
                assert not unit.after or unit.after in own[:i]
    start = run.benchmark.source_start
    if stage is train_sources and start:
        assert {unit.after for unit in all_units if f"on {start}" not in unit.name} == {
            f"{a} on {start}" for a in run.benchmark.architectures
        }


@pytest.mark.parametrize("stage", [train_sources, finetune_all, extract_probes])
def test_a_divisible_stage_is_listed_in_another_process(stage, tmp_path, monkeypatch):
    """As a worker does it, which cannot import what is `__main__` here."""
    monkeypatch.setattr(finetune_all.data, "transfer_splits", lambda *_: None)
    run = Run(benchmarks.get("smoke"), tmp_path, tmp_path)
    listing = pickle.loads(pickle.dumps(list_by_name(f"experiments.{stage.STAGE.name}", run)))
    assert stage.STAGE.divisible
    assert [unit.name for unit in listing()] == [unit.name for unit in stage.units(run)]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "-1/2", "1/0"])
def test_a_shard_that_there_is_not_is_refused(text, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", f"--shard={text}"])
    with pytest.raises(SystemExit) as caught:
        command_line.main(None)
    assert caught.value.code == 2
    assert repr(text) in capsys.readouterr().err


def test_what_needs_all_units_refuses_a_shard(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--shard", "1/2"])
    with pytest.raises(SystemExit) as caught:
        command_line.main(None, train_sources.STAGE, Stage(lambda run: 0, name="score_probes"))
    assert caught.value.code == 2
    assert "--shard: score_probes cannot be divided; use it with" in capsys.readouterr().err


def test_shards_share_a_folder_and_a_whole_run_does_not(tmp_path):
    half = tmp_path / ".x.1.incomplete"
    half.touch()
    with command_line._alone_in(tmp_path, (1, 2)):
        with command_line._alone_in(tmp_path, (2, 2)):
            assert half.exists()  # it may be the other's
        for shard in ((1, 2), (1, 1)):
            with (
                pytest.raises(OperationError, match="another process is using"),
                command_line._alone_in(tmp_path, shard),
            ):
                pass
    with command_line._alone_in(tmp_path, (1, 1)):
        assert not half.exists()
