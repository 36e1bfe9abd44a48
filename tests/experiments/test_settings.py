"""People's own images in a benchmark, and settings from the command line."""

import dataclasses
import sys

import numpy as np
import pytest
import tiny
from PIL import Image

from experiments import extract_probes
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, prepare


@pytest.fixture
def own_images(data_dir, tmp_path):
    """Class folders, and a CSV file of images with several labels."""
    rng = np.random.default_rng(0)
    hues = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 210)}
    lines = ["path,label"]
    for i in range(90):
        name = list(hues)[i % 3]
        noise = rng.normal(0, 40, (16, 20, 3))
        file = tmp_path / "hues" / name / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(hues[name] + noise, 0, 255).astype(np.uint8)).save(file)
        lines.append(f"{file.relative_to(tmp_path)},{name}{'|late' if i % 2 else ''}")
    (tmp_path / "several.csv").write_text("\n".join(lines))
    return f"folder:{tmp_path}/hues", f"csv:{tmp_path}/several.csv"


@pytest.mark.slow
def test_own_images_are_sources_targets_and_probes(own_images, tmp_path):
    hues, several = own_images
    benchmark = dataclasses.replace(
        tiny.TINY,
        name="own",
        sources=("digits", hues),
        targets=(hues, several),
        learning_rates={"resnet18": (0.1,)},
        transfer_images=48,
        validation_images=16,
        probe_images=30,
        methods=("parc", "knn", "nce"),
    )
    run = Run(benchmark, tmp_path / "results", tmp_path / "checkpoints")
    prepare(run)
    assert [stage(run) for stage in tiny.STAGES] == [0] * len(tiny.STAGES)
    rows = [line.split(",") for line in (run.out / "oracle.csv").read_text().splitlines()[1:]]
    assert [row[:3] for row in rows] == [
        ["resnet18", "digits", "hues"],
        ["resnet18", "digits", "several"],
        ["resnet18", "hues", "several"],
    ]
    unit = extract_probes.unit_name(("resnet18", "hues", "several"), 0)
    probe = extract_probes.read(run.out / "probes/resnet18_hues_several_0.npz", unit)
    assert probe["y"].shape == (30, 4)
    assert set(np.unique(probe["y"])) == {0, 1}
    scores = (run.out / "scores.csv").read_text().splitlines()
    assert scores[0].split(",")[4:] == ["parc", "knn", "nce"]
    for row in (line.split(",") for line in scores[1:]):
        assert (row[6] == "") == (row[3] == "several")  # nce is for one class per image
        assert float(row[4]) == float(row[4])
    # the same images at another place are the same benchmark
    settings = benchmark.settings()
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in ("hues", "several.csv"):
        (tmp_path / path).rename(moved / path)
    again = dataclasses.replace(
        benchmark,
        sources=("digits", f"folder:{moved}/hues"),
        targets=(f"folder:{moved}/hues", f"csv:{moved}/several.csv"),
    )
    assert again.settings() == settings
    prepare(Run(again, run.out, run.weights))


def test_targets_of_numbers_are_refused(own_images, tmp_path):
    hues, _ = own_images
    (tmp_path / "ages.csv").write_text("path,age\n0.png,3\n")
    name = f"csv:{tmp_path}/ages.csv:values=age"
    with pytest.raises(ValueError, match=r"benchmark tiny needs classes; the values of 'age' are"):
        dataclasses.replace(tiny.TINY, targets=(hues, name))


def test_own_images_that_cannot_be_told_apart_are_refused(own_images, tmp_path):
    hues, several = own_images
    with pytest.raises(ValueError, match="are the same data set"):
        dataclasses.replace(tiny.TINY, sources=(hues, "digits"), targets=(f"{hues}:seed=1",))
    with pytest.raises(ValueError, match="cub200 and caltech_birds2011 are the same data set"):
        dataclasses.replace(tiny.TINY, sources=("cub200",), targets=("caltech_birds2011",))
    (tmp_path / "other").mkdir()
    (tmp_path / "hues").rename(tmp_path / "other" / "several")
    with pytest.raises(ValueError, match="both have the name several"):
        dataclasses.replace(tiny.TINY, targets=(f"folder:{tmp_path}/other/several", several))


def test_flags_are_made_from_the_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "cache_compilations", lambda: None)
    seen = []

    def words(*flags):
        monkeypatch.setattr(sys, "argv", ["stage", "--benchmark", "smoke", *flags])
        with pytest.raises(SystemExit) as stop:
            command_line.main(None, Stage(lambda run: seen.append(run.benchmark) or 0))
        return stop.value.code, capsys.readouterr().err

    done = words("--name", "mine", "--probe_images", "50", "--no-scratch", "--targets", "digits")
    assert done == (0, "")
    (benchmark,) = seen
    assert (benchmark.name, benchmark.probe_images, benchmark.scratch) == ("mine", 50, False)
    assert benchmark.targets == ("digits",)
    assert (tmp_path / "results" / "mine" / "settings.json").exists()
    for flags, reason in {
        ("--targets", "folder:nothing"): f"folder:nothing: {tmp_path}/nothing is not a folder",
        ("--targets", "mnist"): "unknown data set 'mnist'; known: digits",
        ("--architectures", "resnet50"): "widths has no value for resnet50",
        ("--probe-images", "many"): "invalid int value: 'many'",
    }.items():
        code, said = words("--name", "wrong", *flags)
        assert code == 2
        assert reason in said
    assert not (tmp_path / "results" / "wrong").exists()
