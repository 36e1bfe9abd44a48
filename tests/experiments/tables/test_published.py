"""The published benchmarks: what they consist of, and how they run on what is there."""

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawn
from PIL import Image
from safetensors.numpy import save_file

from experiments import (
    benchmarks,
    extract_probes,
    finetune_all,
    import_probes,
    import_weights,
    probe_images,
    report,
    score_probes,
    train_sources,
)
from experiments.runner import command_line, data
from experiments.runner.run import Run
from experiments.tables.read import ORACLE, read_accuracies
from jaxparc import datasets, evaluation, labels, weights
from jaxparc.datasets import prepared, specs, user_images
from jaxparc.evaluation import Transfer
from jaxparc.units.unit import is_done
from jaxparc.weights import torchvision

CONTROLLED, CROWD_SOURCED = benchmarks.CONTROLLED, benchmarks.CROWD_SOURCED
SIX = {"cifar10", "oxford_pets", "cub200", "caltech101", "stanford_dogs", "nabird"}


@pytest.fixture
def published():
    folder = os.environ.get("JAXPARC_ORACLES")
    if folder is None:
        pytest.skip("JAXPARC_ORACLES names no folder of the published tables")
    return Path(folder)


def command(stage, *words, folder):
    environment = {**os.environ, "TFDS_DATA_DIR": str(folder / "tfds"), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{stage}", *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Runs a command line in this process; returns its exit code, and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(command_line, "cache_compilations", lambda: None)

    def run(main, *words):
        monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, "".join(capsys.readouterr())

    return run


def test_controlled_is_the_papers():
    transfers = list(CONTROLLED.transfers())
    assert len(transfers) == 196
    assert len([t for t in transfers if t.target in SIX]) == 168
    assert {t.target for t in transfers} - SIX == {"voc2007"}
    assert set(CONTROLLED.extra_targets) == {"voc2007"}
    assert (CONTROLLED.image_size, CONTROLLED.probe_images, CONTROLLED.probe_sets) == (224, 500, 5)
    assert set(CONTROLLED.widths.values()) == {1.0}
    assert set(CONTROLLED.published_images) == set(CONTROLLED.source_names)


def test_crowd_sourced_adds_33_models():
    assert len(CROWD_SOURCED.external) == len(set(CROWD_SOURCED.external)) == 33
    assert len(list(CROWD_SOURCED.external_transfers())) == 33 * 7
    assert len(list(CROWD_SOURCED.transfers())) == 196


def test_the_published_tables_are_of_these_models(published):
    """And of 65 models with 427 rows, 424 of them valid, once five sources are left out."""
    assert set(read_accuracies(published / "controlled.csv")) == set(CONTROLLED.transfers())
    found = read_accuracies(published / "crowd_sourced.csv")
    left_out = ("swav", "deepclusterv2", "npid", "moco", "simclr")
    kept = {t: a for t, a in found.items() if not t.source.startswith(left_out)}
    ours = {*CROWD_SOURCED.transfers(), *CROWD_SOURCED.external_transfers()}
    assert set(kept) == ours
    assert len({t[:2] for t in kept}) == 65
    assert (len(kept), np.isfinite(list(kept.values())).sum()) == (427, 424)


def test_images_of_eq_4_are_the_authors_or_of_the_training_split_or_unknown():
    assert CONTROLLED.images("oxford_pets") == 3669
    assert benchmarks.DEMO.images("digits") == 1297
    assert np.isnan(CROWD_SOURCED.images("pirl_imagenet"))


@pytest.mark.parametrize("name", ["controlled", "crowd_sourced"])
def test_what_is_missing_is_listed_before_anything_starts(name, tmp_path):
    done = command("benchmark", "--benchmark", name, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert "units need files that are not on this machine" in lines[0]
    assert lines[1] == f"  jaxparc data prepare {' '.join(CONTROLLED.source_names)}"
    assert "--allow-missing" not in done.stderr  # nothing could be run without them
    if name == "crowd_sourced":
        assert "import_probes" in lines[2]
        for architecture, source in CROWD_SOURCED.external:
            assert f"{architecture}/{source}" in lines[2]
    assert not list(tmp_path.glob("results/*"))
    assert not list(tmp_path.glob("checkpoints/*"))


def test_only_what_is_not_there_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder = prepared.folder_of(specs.registered("oxford_pets"), tmp_path)
    folder.mkdir(parents=True)
    weights = tmp_path / "checkpoints" / "controlled" / "alexnet"
    (weights / "imagenet").mkdir(parents=True)
    run = Run(CONTROLLED, tmp_path / "results", tmp_path / "checkpoints" / "controlled")
    of_source = {unit.name: set(unit.lacks) for unit in train_sources.units(run)}
    assert of_source["alexnet on oxford_pets"] == set()
    assert of_source["alexnet on cub200"] == {"cub200"}
    assert of_source["resnet18 on oxford_pets"] == {"imagenet"}  # which it starts from
    of_transfer = {unit.name: set(unit.lacks) for unit in finetune_all.units(run)}
    assert of_transfer["alexnet imagenet to oxford_pets"] == set()
    assert of_transfer["alexnet cub200 to oxford_pets"] == {"cub200"}
    assert of_transfer["alexnet imagenet to nabird"] == {"nabird"}
    # the sources that others start from come first
    names = [unit.name for unit in train_sources.units(run)]
    assert names[0] == "resnet50 on imagenet"


@pytest.mark.slow
def test_published_accuracies_and_probe_files_go_to_the_papers_heuristic_rows(
    published, here, tmp_path
):
    """With features drawn at random: the heuristic looks at none. No data set, no checkpoint."""
    rng = np.random.default_rng(0)
    classes = {name: min(CONTROLLED.data(name).num_classes, 15) for name in CONTROLLED.target_names}
    features = {"features": rng.normal(size=(30, 4)), "probs": rng.dirichlet(np.ones(5), 30)}
    given = tmp_path / "given"
    given.mkdir()
    for transfer in CONTROLLED.transfers():
        y = np.arange(30) % classes[transfer.target]
        names = dict(
            zip(("architecture", "source_dataset", "target_dataset"), transfer, strict=True)
        )
        np.savez(given / f"{'_'.join(transfer)}_0.npz", **features, **names, y=y)
    out = ("--out", "results/controlled")
    code, said = here(import_probes.main, given, published / "controlled.csv", *out)
    assert code == 0, said
    flags = ("--benchmark", "controlled", "--methods", "heuristic", "--probe_sets", "1")
    stages = (train_sources.STAGE, extract_probes.STAGE, score_probes.STAGE)

    def score():
        command_line.main(None, *stages)

    assert here(score, *flags)[0] == 2
    for run in (score, report.main):
        code, said = here(run, *flags, "--allow-missing")
        assert code == 0, said
    rows = [line for line in said.splitlines() if line.startswith("│ Heuristic")]
    # 51.06 from the published table; the paper prints 51.0 and 51.05
    numbers = [row.split("│")[2].strip(" ≈") for row in rows]
    of_table_1_and_2 = ["51.06", "51.0 ± 0.0", "51.06", "51.05 ± 0.0"]
    assert numbers == ["51.1", "51.1", *of_table_1_and_2]  # the second is with its interval
    assert "Mean PC without voc2007" in said
    with (tmp_path / "results/controlled/scores.csv").open() as file:
        scores = {
            Transfer(r["Architecture"], r["Source Dataset"], r["Target Dataset"]): float(
                r["heuristic"]
            )
            for r in csv.DictReader(file)
            if r["Target Dataset"] in SIX
        }
    accuracies = read_accuracies(published / "controlled.csv")
    for varying, expected in {
        "source and architecture": 51.06,
        "architecture": 61.27,
        "source": 7.13,
        "target": 13.63,
    }.items():
        found = evaluation.mean_pc(scores, accuracies, varying)
        assert found == pytest.approx(expected, abs=0.006)
    # and the accuracies that were brought in are left as they are
    again = command("benchmark", *flags, "--allow-missing", folder=tmp_path)
    assert again.returncode == 0, again.stderr + again.stdout
    table = (tmp_path / "results/controlled/oracle.csv").read_text()
    assert table == (published / "controlled.csv").read_text()


# Published weights as source models


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """torchvision's state dict of a ResNet-18 for 1,000 classes, with random weights."""
    shapes = torchvision.variable_shapes("resnet18", num_classes=1000)
    state = drawn.weights(
        {entry.key: entry.torch_shape for entry in torchvision.entries("resnet18", shapes)}
    )
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(state, path)
    return path, state


@pytest.mark.slow
def test_published_weights_take_the_place_of_training(resnet18, tmp_path):
    path, state = resnet18
    run = Run(CONTROLLED, tmp_path / "results", tmp_path / "checkpoints")
    folder = import_weights.import_weights(run, "resnet18", "imagenet", path)
    assert folder == tmp_path / "checkpoints/resnet18/imagenet"
    found = train_sources.source_model(run, "resnet18", "imagenet")
    expected = torchvision.from_torchvision("resnet18", state)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    # no longer missing, and what starts from it needs its own data alone
    of_source = {unit.name: set(unit.lacks) for unit in train_sources.units(run)}
    assert of_source["resnet18 on imagenet"] == set()
    assert of_source["resnet18 on cub200"] <= {"cub200"}
    assert "imagenet" in of_source["alexnet on cub200"]
    unit = next(u for u in train_sources.units(run) if u.name == "resnet18 on imagenet")
    assert is_done(unit)
    assert import_weights.import_weights(run, "resnet18", "imagenet", "not read") == folder


@pytest.mark.parametrize(
    ("architecture", "source", "reason"),
    [
        ("resnet101", "imagenet", "has no architecture 'resnet101'; it has resnet50"),
        ("resnet18", "digits", "has no source 'digits'; it has imagenet"),
        ("resnet18", "cub200", "has a head for 1000 classes; cub200 has 200"),
        ("resnet50", "imagenet", "it looks like resnet18"),
    ],
)
def test_weights_of_another_network_are_refused(architecture, source, reason, resnet18, tmp_path):
    run = Run(CONTROLLED, tmp_path / "results", tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=reason):
        import_weights.import_weights(run, architecture, source, resnet18[0])
    assert not list(tmp_path.iterdir())


def test_weights_for_other_images_are_refused(resnet18, tmp_path, monkeypatch):
    """And those without a head, or of less width."""
    path, state = resnet18
    run = Run(CONTROLLED, tmp_path / "results", tmp_path / "checkpoints")
    headless = tmp_path / "headless.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, headless)
    with pytest.raises(ValueError, match="has no head; expected one of 1000 classes"):
        import_weights.import_weights(run, "resnet18", "imagenet", headless)
    thin = dataclasses.replace(CONTROLLED, widths=CONTROLLED.widths | {"resnet18": 0.5})
    with pytest.raises(ValueError, match=r"of width 1 .*; controlled has width 0\.5"):
        import_weights.import_weights(
            dataclasses.replace(run, benchmark=thin), "resnet18", "imagenet", path
        )
    loaded = weights.load("resnet18", path)
    caffe = loaded._replace(spec=dataclasses.replace(loaded.spec, std=(1 / 255,) * 3))
    monkeypatch.setattr(weights, "load", lambda *_: caffe)
    with pytest.raises(
        ValueError, match="needs images with mean .* or another variant of resnet18"
    ):
        import_weights.import_weights(run, "resnet18", "imagenet", path)


# Detection

DETECTORS = {("resnet50", f"detector_{i}"): 60 + 3 * i for i in range(5)} | {("resnet101", "x"): 80}


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """VOC2007 as if prepared: 40 images whose boxes are of two of 20 classes."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(40):
        pixels = rng.integers(0, 256, (10, 12, 3), np.uint8)
        boxes = np.array([[0.0, 0.0, 0.5, 0.1 * (i % 9 + 1)], [0.5, 0.5, 1.0, 1.0]], np.float32)
        kinds = np.array([i % 20, (i + 3) % 20])
        records.append(
            {"image": pixels, "label": tuple(kinds), "boxes": boxes, "box_labels": kinds}
        )

    class Rows(list):
        def __init__(self, *_):
            super().__init__(records)

        def labels(self):
            return [record["label"] for record in records]

    spec = dataclasses.replace(specs.DATASETS["voc2007"], sizes={"train": 40, "test": 40})
    monkeypatch.setattr(specs, "_NAMES", {**specs._NAMES, "voc2007": spec})
    monkeypatch.setattr(prepared, "PreparedRows", Rows)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    prepared.folder_of(spec, tmp_path / "tfds").mkdir(parents=True)
    user_images.open_set.cache_clear()
    return records


def detection(tmp_path, monkeypatch, module, *words):
    """One command of the detection benchmark, in this process; its exit code."""
    monkeypatch.chdir(tmp_path)
    flags = ["--benchmark", "detection", "--probe_images", "20", "--probe_sets", "2", *words]
    monkeypatch.setattr(sys, "argv", [module.__name__, *flags])
    stages = [module.STAGE] if module is not score_probes else [extract_probes.STAGE, module.STAGE]
    with pytest.raises(SystemExit) as stop:
        command_line.main(None, *stages)
    return stop.value.code


@pytest.mark.slow
def test_detection_goes_from_images_to_features_to_a_report(voc, tmp_path, monkeypatch, capsys):
    data.labels.cache_clear()
    extract_probes.probe_of.cache_clear()
    # which detectors there are, their table of mAP says
    assert detection(tmp_path, monkeypatch, score_probes) == 2
    assert "oracle.csv is missing: a table with the columns Architecture" in capsys.readouterr().err
    assert detection(tmp_path, monkeypatch, probe_images) == 0
    out = tmp_path / "results" / "detection"
    vectors = {}
    for probe_set in range(2):
        folder = out / "probe_images" / f"voc2007_{probe_set}"
        y = vectors[probe_set] = np.load(folder / "labels.npy")
        assert y.shape == (20, 20)
        np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
        images = sorted(folder.glob("*.png"))
        assert [path.stem for path in images] == [f"{i:04d}" for i in range(20)]
        by_pixels = {record["image"].tobytes(): record for record in voc}
        for path, row in zip(images, y, strict=True):
            record = by_pixels[np.asarray(Image.open(path)).tobytes()]
            expected = labels.from_boxes([record["boxes"]], [record["box_labels"]], 20)[0]
            np.testing.assert_allclose(row, expected, rtol=1e-6)
    rows = [f"{a},{s},voc2007,{value}" for (a, s), value in DETECTORS.items()]
    (tmp_path / "map.csv").write_text("\n".join([",".join(ORACLE), *rows]) + "\n")
    import_probes.import_file(tmp_path / "map.csv", out)
    assert detection(tmp_path, monkeypatch, score_probes) == 2
    message = capsys.readouterr().err
    assert "12 units need files that are not on this machine" in message
    assert "with probe files of: resnet50/detector_0" in message
    # the better a detector, the closer its features follow the annotations
    rng = np.random.default_rng(1)
    for (architecture, source), value in DETECTORS.items():
        for probe_set, y in vectors.items():
            seen = np.tile(y, (1, 2)) + (100 - value) / 100 * rng.normal(size=(20, 40))
            path = tmp_path / f"{architecture}_{source}_voc2007_{probe_set}.npz"
            names = {"architecture": architecture, "source_dataset": source}
            np.savez(path, features=seen.astype(np.float32), target_dataset="voc2007", **names)
            if (architecture, probe_set) != ("resnet101", 1):
                import_probes.import_file(path, out)
    assert detection(tmp_path, monkeypatch, score_probes) == 2
    assert "1 unit needs files" in capsys.readouterr().err
    assert detection(tmp_path, monkeypatch, score_probes, "--allow-missing") == 0
    import_probes.import_file(path, out)
    assert detection(tmp_path, monkeypatch, score_probes) == 0
    assert detection(tmp_path, monkeypatch, report) == 0
    with (out / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    assert len(scores) == 2 * len(DETECTORS)
    (found,) = {row["parc"] for row in scores if row["Source Dataset"] == "x" and row["Run"] == "0"}
    assert float(found) > 0
    page = (out / "report" / "index.html").read_text()
    assert "detector_4" in page
    assert not datasets.is_prepared("cifar10")
