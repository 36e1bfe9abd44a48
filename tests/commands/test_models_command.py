"""The command models."""

import json

import pytest

from jaxparc import models
from jaxparc.__main__ import main
from jaxparc.bank import hub
from jaxparc.commands import models as command


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    monkeypatch.setattr(hub, "repositories", lambda: ["timm/resnet18.a1_in1k"])
    monkeypatch.setenv("COLUMNS", "80")


def test_every_architecture_is_listed_within_80_columns(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for name in (*models.MODELS, "tiny", "small", "base", "hf://timm/resnet18.a1_in1k"):
        assert name in out


def test_patterns_choose_architectures(capsys):
    assert main(["models", "resnet18", "*net121", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in found["architectures"]]
    assert names == ["resnet18", "densenet121"]
    assert found["architectures"][0]["parameters"] == models.MODELS["resnet18"].parameters
    assert [row["models"] for row in found["banks"]] == [8, 25, 60]
    assert found["cached"] == ["timm/resnet18.a1_in1k"]


def test_a_pattern_without_a_match_is_refused(capsys):
    assert main(["models", "resnet18", "x*"]) == 2
    assert "'x*' matches no architecture" in capsys.readouterr().err


def test_an_extra_that_is_missing_comes_with_its_command(capsys, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda package: None)
    assert main(["models", "alexnet"]) == 0
    assert 'pip install "jaxparc[timm]"' in capsys.readouterr().out
