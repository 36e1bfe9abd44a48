"""Ready-made banks."""

import functools

import pytest

from jaxparc.bank import ready_made, sources, toml_file

COUNTS = {"tiny": 8, "small": 25, "base": 60}


def test_banks_are_read_without_the_hub_and_each_holds_the_one_before():
    entries = {name: sources.read([name]) for name in ready_made.NAMES}
    assert {name: len(found) for name, found in entries.items()} == COUNTS
    names = [{entry.name for entry in entries[name]} for name in ready_made.NAMES]
    assert names[0] < names[1] < names[2]
    for entry in entries["base"]:
        assert entry.hub == f"timm/{entry.name}"
        assert entry.source
        assert entry.licence
    assert sources.folder_of(["tiny"]) == ready_made.path_of("tiny")


def test_a_file_or_folder_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ValueError, match="tiny holds no weight files"):
        sources.read(["tiny"])


@pytest.mark.slow
def test_timm_has_the_networks_with_these_weights_and_licences():
    timm = pytest.importorskip("timm")
    known = set(timm.list_pretrained())
    for entry in toml_file.read(ready_made.path_of("base")):
        assert entry.name in known
        config = timm.get_pretrained_cfg(entry.name)
        assert config.hf_hub_id == entry.hub
        assert config.license == entry.licence


@pytest.mark.slow
@pytest.mark.parametrize("name", ready_made.NAMES)
def test_the_numbers_of_parameters_are_those_of_timm(name):
    pytest.importorskip("timm")
    found = [_parameters(entry.name) for entry in toml_file.read(ready_made.path_of(name))]
    said = [
        float(line.partition("# ")[2].split()[0])
        for line in ready_made.path_of(name).read_text().splitlines()
        if line.startswith("name = ")
    ]
    assert said == [round(count / 1e6, 1) for count in found]
    assert max(found) <= {"tiny": 30e6, "small": 150e6, "base": 330e6}[name]


@functools.cache
def _parameters(name):
    import timm
    import torch

    with torch.device("meta"):
        module = timm.create_model(name, pretrained=False)
    return sum(parameter.numel() for parameter in module.parameters())
