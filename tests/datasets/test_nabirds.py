import dataclasses
import sys
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from jaxparc import datasets
from jaxparc.__main__ import main
from jaxparc.datasets import DATASETS, DatasetError, specs

CLASSES = {"0": "Birds", "295": "Common Eider (Adult male)", "1010": "Hawk", "7": "Duck (Female)"}
# image id -> class, and whether it is trained on
IMAGES = {f"00{i:02d}-e9": (("295", "1010", "7")[i % 3], i % 4 != 3) for i in range(12)}


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A made-up folder in the official layout, and a spec of its sizes."""
    sizes = MappingProxyType({"train": 9, "test": 3})
    small = dataclasses.replace(DATASETS["nabirds"], num_classes=3, sizes=sizes)
    patched = MappingProxyType({**DATASETS, "nabirds": small})
    import jaxparc.datasets.nabirds as module

    monkeypatch.setattr(module, "DATASETS", patched)
    monkeypatch.setattr(specs, "_NAMES", MappingProxyType({"nabirds": small, "nabird": small}))
    root = tmp_path / "downloads" / "manual" / "nabirds"
    for i, (image_id, (label, _)) in enumerate(IMAGES.items()):
        file = root / "images" / f"{int(label):04d}" / f"{image_id}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8)
        Image.fromarray(pixels).save(file)
    write(root)
    return tmp_path


def write(root, **changes):
    tables = {
        "images": [f"{i} {int(label):04d}/{i}.jpg" for i, (label, _) in IMAGES.items()],
        "image_class_labels": [f"{i} {label}" for i, (label, _) in IMAGES.items()],
        "train_test_split": [f"{i} {int(train)}" for i, (_, train) in IMAGES.items()],
        "classes": [f"{i} {name}" for i, name in CLASSES.items()],
    } | changes
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_every_image_goes_in_with_its_class_and_split(official):
    datasets.prepare("nabird", data_dir=official)
    root = official / "downloads/manual/nabirds/images"
    for split, train in (("train", True), ("test", False)):
        source = datasets.load("nabirds", split, data_dir=official, decode=False)
        expected = sorted(
            ((root / f"{int(label):04d}/{i}.jpg").read_bytes(), [7, 295, 1010].index(int(label)))
            for i, (label, trained) in IMAGES.items()
            if trained == train
        )
        assert sorted((record["image"], record["label"]) for record in source) == expected
        assert source.labels().tolist() == [record["label"] for record in source]
    assert "tensorflow" not in sys.modules
    decoded = datasets.load("nabird", "test", data_dir=official)[0]["image"]
    assert decoded.dtype == np.uint8
    assert decoded.shape[1:] == (30, 3)


def test_a_folder_in_a_folder_is_found(official):
    manual = official / "downloads/manual"
    (manual / "nabirds").rename(manual / "unpacked")
    (manual / "nabirds").mkdir()
    (manual / "unpacked").rename(manual / "nabirds" / "nabirds")
    datasets.prepare("nabirds", data_dir=official)
    assert len(datasets.load("nabirds", "train", data_dir=official)) == 9


def test_the_download_is_asked_for(tmp_path, capsys):
    assert main(["data", "prepare", "nabirds", "--data-dir", str(tmp_path)]) == 1
    folder = tmp_path / "downloads" / "manual" / "nabirds"
    assert capsys.readouterr().err == (
        "jaxparc: nabirds must be downloaded by hand: put nabirds.tar.gz, from "
        f"https://dl.allaboutbirds.org/nabirds, unpacked, into {folder}\n"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"images": ["0000-e9"]},
            "images.txt line 1: '0000-e9'; expected an id, a space and a value",
        ),
        ({"images": ["a 1.jpg", "a 2.jpg"]}, "images.txt line 2: duplicate id a"),
        ({"images": ["zz 0295/zz.jpg"]}, "list different images"),
        ({"classes": ["0 Birds"]}, "image 0000-e9 has class 295, not in classes.txt"),
        (
            {"train_test_split": [f"{i} yes" for i in IMAGES]},
            "has 'yes' for 0000-e9; expected 0",
        ),
        ({"images": [f"{i} gone/{i}.jpg" for i in IMAGES]}, "images/gone/0000-e9.jpg is missing"),
        (
            {"train_test_split": [f"{i} 1" for i in IMAGES]},
            "{'train': 12, 'test': 0} images; expected",
        ),
        ({"image_class_labels": [f"{i} 7" for i in IMAGES]}, "has 1 classes"),
    ],
)
def test_a_folder_that_is_not_as_published_is_refused(changes, reason, official, capsys):
    write(official / "downloads/manual/nabirds", **changes)
    with pytest.raises(DatasetError) as error:
        datasets.prepare("nabirds", data_dir=official)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert not datasets.is_prepared("nabirds", data_dir=official)


def test_a_missing_table_is_named(official):
    (official / "downloads/manual/nabirds/classes.txt").unlink()
    with pytest.raises(DatasetError, match=r"classes\.txt cannot be read"):
        datasets.prepare("nabirds", data_dir=official)
    (official / "downloads/manual/nabirds/images.txt").unlink()
    with pytest.raises(DatasetError, match=r"manual holds no images\.txt; put nabirds\.tar\.gz"):
        datasets.prepare("nabirds", data_dir=official)
