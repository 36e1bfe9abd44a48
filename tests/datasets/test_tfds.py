"""The sets that TFDS generates, from tiny made-up archives in the official layouts.

Generating them needs TensorFlow: pip install "jaxparc[test,prepare]". Reading them must not.
"""

import dataclasses
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from jaxparc import datasets
from jaxparc.datasets import DATASETS, DatasetError, prepared, specs

GENERATED = [name for name, spec in DATASETS.items() if spec.needs_tensorflow]


def photograph(seed, form="jpeg"):
    pixels = np.random.default_rng(seed).integers(0, 256, (14, 18, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] // 100 if form == "png" else pixels).save(file, form)
    return file.getvalue()


def tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# Each writes archives into a folder, and gives the images of each split: encoded, or pixels,
# with their label.


def cifar10(folder):
    rng = np.random.default_rng(0)
    files, expected = {}, {"train": [], "test": []}
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = b""
        for i in range(2):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            label = (2 * number + i) % 10
            content += bytes([label]) + pixels.transpose(2, 0, 1).tobytes()
            expected["test" if name == "test_batch" else "train"].append((pixels, label))
        files[f"cifar-10-batches-bin/{name}.bin"] = content
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    files["cifar-10-batches-bin/batches.meta.txt"] = names.replace(" ", "\n").encode()
    tar(folder / "cifar-10-binary.tar.gz", files, "w:gz")
    return expected


def oxford_iiit_pet(folder):
    names = ["Abyssinian_1", "Abyssinian_2", "beagle_1", "beagle_116", "pug_7"]
    labels = [1, 1, 5, 5, 26]  # from 1
    images = {name: photograph(i) for i, name in enumerate(names)}
    tar(folder / "images.tar.gz", {f"images/{n}.jpg": c for n, c in images.items()}, "w:gz")
    lines = [f"{n} {label} 1 1" for n, label in zip(names, labels, strict=True)]
    files = {f"annotations/trimaps/{n}.png": photograph(0, "png") for n in names}
    files["annotations/trainval.txt"] = "\n".join(lines[:4]).encode()
    files["annotations/test.txt"] = lines[4].encode()
    tar(folder / "annotations.tar.gz", files, "w:gz")
    rows = [(images[n], label - 1) for n, label in zip(names, labels, strict=True)]
    rows[3] = (None, 4)  # beagle_116 is a broken file in the original, and encoded anew
    return {"train": rows[:4], "test": rows[4:]}


def stanford_dogs(folder):
    from scipy.io import savemat

    classes = [f"n020{85620 + i}-Breed_{i}" for i in range(120)]
    images, boxes, lists, expected = {}, {}, {}, {}
    for number, (split, count) in enumerate({"train": 120, "test": 2}.items()):
        found, expected[split] = [], []
        for i in range(count):
            cls, name = classes[i], f"{classes[i][:9]}_{number}{i}"
            images[f"Images/{cls}/{name}.jpg"] = content = photograph(200 * number + i)
            box = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>10</ymax>"
            size = "<size><width>18</width><height>14</height></size>"
            xml = f"<annotation>{size}<object><bndbox>{box}</bndbox></object></annotation>"
            boxes[f"Annotation/{cls}/{name}"] = xml.encode()
            found.append(f"{cls}/{name}.jpg")
            expected[split].append((content, i))
        file = io.BytesIO()
        savemat(file, {"file_list": np.array(found, object)})
        lists[f"{split}_list.mat"] = file.getvalue()
    for name, members in {"images": images, "annotation": boxes, "lists": lists}.items():
        tar(folder / f"{name}.tar", members)
    return expected


def caltech_birds2011(folder):
    names = [f"00{1 + i % 3}.Bird_{i % 3}/Bird_{i % 3}_000{i}" for i in range(6)]
    images = [photograph(i) for i in range(6)]
    trained = [True, True, True, True, False, False]
    files = {f"CUB_200_2011/images/{n}.jpg": c for n, c in zip(names, images, strict=True)}
    tables = {
        "images": [f"{i + 1} {name}.jpg" for i, name in enumerate(names)],
        "train_test_split": [f"{i + 1} {int(train)}" for i, train in enumerate(trained)],
        "bounding_boxes": [f"{i + 1} 1.0 2.0 9.0 8.0" for i in range(6)],
    }
    for name, lines in tables.items():
        files[f"CUB_200_2011/{name}.txt"] = ("\n".join(lines) + "\n").encode()
    tar(folder / "CUB_200_2011.tgz", files, "w:gz")
    masks = {f"segmentations/{name}.png": photograph(0, "png") for name in names}
    tar(folder / "segmentations.tgz", masks, "w:gz")
    rows = [(content, i % 3) for i, content in enumerate(images)]
    return {"train": rows[:4], "test": rows[4:]}


def caltech101(folder):
    """Names as in the archive; the third is left out, and comes before the fourth."""
    classes = {"accordion": 0, "ant": 3, "BACKGROUND_Google": None, "yin_yang": 100, "beaver": 6}
    files, expected = {}, []
    for number, (name, label) in enumerate(classes.items()):
        # 30 of each are trained on, whichever; the others are tested on
        for i in range(32):
            content = photograph(100 * number + i)
            files[f"101_ObjectCategories/{name}/image_{i:04d}.jpg"] = content
            if label is not None:
                # beaver is 7 with the background class, which is 4
                expected.append((content, label))
    tar(folder / "101_ObjectCategories.tar.gz", files, "w:gz")
    with zipfile.ZipFile(folder / "caltech-101.zip", "w") as archive:
        archive.write(
            folder / "101_ObjectCategories.tar.gz", "caltech-101/101_ObjectCategories.tar.gz"
        )
    (folder / "101_ObjectCategories.tar.gz").unlink()
    return {"any": expected}


OBJECTS = {  # image -> its objects, of which the second of 000001 is of the same class as the first
    "000001": [("dog", (2, 3, 9, 12)), ("dog", (1, 1, 4, 4)), ("person", (5, 1, 17, 13))],
    "000002": [("aeroplane", (1, 2, 18, 14))],
    "000003": [("tvmonitor", (3, 3, 6, 6)), ("bird", (1, 2, 3, 4))],
    "000004": [("person", (1, 1, 2, 2))],
}


def voc2007(folder):
    numbers = {"aeroplane": 0, "bird": 2, "dog": 11, "person": 14, "tvmonitor": 19}
    sets = {"train": ["000001", "000002"], "val": ["000003"], "test": ["000004"]}
    expected = {}
    for archive, parts in {"trainval": ("train", "val"), "test": ("test",)}.items():
        files = {}
        for part in parts:
            split = "validation" if part == "val" else part
            expected[split] = []
            root = "VOCdevkit/VOC2007"
            files[f"{root}/ImageSets/Main/{part}.txt"] = "\n".join(sets[part]).encode()
            for name in sets[part]:
                files[f"{root}/JPEGImages/{name}.jpg"] = content = photograph(int(name))
                objects = "".join(
                    f"<object><name>{cls}</name><pose>Left</pose><truncated>0</truncated>"
                    f"<difficult>0</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
                    f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
                    for cls, box in OBJECTS[name]
                )
                size = "<size><width>18</width><height>14</height></size>"
                files[f"{root}/Annotations/{name}.xml"] = (
                    f"<annotation>{size}{objects}</annotation>".encode()
                )
                labels = tuple(sorted({numbers[cls] for cls, _ in OBJECTS[name]}))
                expected[split].append((content, labels))
        tar(folder / f"VOC{archive}_06-Nov-2007.tar", files)
    return expected


def imagenet2012(folder):
    """By hand: the archives go to the manual folder."""
    synsets = ["n01440764", "n01443537", "n15075141"]  # the first two and the last
    trained, inner = [], {}
    for number, (synset, label) in enumerate(zip(synsets, (0, 1, 999), strict=True)):
        members = {f"{synset}_{i}.JPEG": photograph(10 * number + i) for i in range(2)}
        tar(folder / "inner.tar", members)
        inner[f"{synset}.tar"] = (folder / "inner.tar").read_bytes()
        trained += [(content, label) for content in members.values()]
    (folder / "inner.tar").unlink()
    manual = folder.parent / "downloads" / "manual"
    tar(manual / "ILSVRC2012_img_train.tar", inner)
    tested = {f"ILSVRC2012_val_0000000{i}.JPEG": photograph(90 + i) for i in (1, 2)}
    tar(manual / "ILSVRC2012_img_val.tar", tested)
    # labels of the first two validation images, as published
    return {"train": trained, "test": list(zip(tested.values(), (65, 970), strict=True))}


ARCHIVES = {
    make.__name__: make
    for make in (
        cifar10,
        oxford_iiit_pet,
        stanford_dogs,
        caltech_birds2011,
        caltech101,
        voc2007,
        imagenet2012,
    )
}


def test_every_generated_set_has_a_made_up_archive():
    assert set(ARCHIVES) == set(GENERATED)


@pytest.mark.parametrize("name", GENERATED)
def test_versions_and_classes_are_those_of_tfds(name, tmp_path):
    import tensorflow_datasets as tfds

    spec = DATASETS[name]
    builder = tfds.builder(spec.builder, data_dir=tmp_path, file_format="array_record")
    assert str(builder.version) == spec.version
    assert prepared.folder_of(spec, tmp_path) == builder.data_path
    feature = builder.info.features[spec.label]
    if spec.multi_label:
        feature = feature.feature
    assert feature.num_classes == spec.num_classes + (spec.left_out is not None)
    if spec.left_out is not None:
        assert feature.int2str(spec.left_out) == "background_google"
    assert bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS) == bool(spec.manual)
    for file in spec.manual_files:
        assert file in builder.MANUAL_DOWNLOAD_INSTRUCTIONS


def small(monkeypatch, name, sizes):
    """The spec with the sizes of the made-up archives."""
    spec = dataclasses.replace(DATASETS[name], sizes=MappingProxyType(sizes))
    names = dict.fromkeys((name, *spec.aliases), spec)
    monkeypatch.setattr(specs, "_NAMES", MappingProxyType({**specs._NAMES, **names}))


def matching(found, expected):
    """Rows as a sorted list of bytes and labels."""
    rows = []
    for image, label in expected if found is None else found:
        rows.append((image.tobytes() if isinstance(image, np.ndarray) else image, label))
    return sorted(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.filterwarnings("default")  # TensorFlow's own
def test_made_up_archives_go_through_the_generator_and_the_reader(name, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow", reason='pip install "jaxparc[prepare]"')
    import tensorflow_datasets as tfds

    archives = tmp_path / "archives"
    archives.mkdir()
    expected = ARCHIVES[name](archives)
    asked = []

    def local(url):
        asked.append(url)
        (found,) = [f for f in archives.iterdir() if f.name == url.rsplit("/", 1)[1].split("?")[0]]
        return found

    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download", lambda self, urls: tree(local, urls))
    monkeypatch.setattr(
        manager, "download_and_extract", lambda self, urls: self.extract(tree(local, urls))
    )
    sizes = {split: len(rows) for split, rows in expected.items()}
    if name == "caltech101":
        sizes = {"train": 120, "test": 8}
    small(monkeypatch, name, sizes)
    alias = (DATASETS[name].aliases or (name,))[-1]
    folder = datasets.prepare(alias, data_dir=tmp_path)
    assert folder == prepared.folder_of(DATASETS[name], tmp_path)
    assert bool(asked) != bool(DATASETS[name].manual)
    seen = []
    for split in sizes:
        source = datasets.load(name, split, data_dir=tmp_path, decode=False)
        labels = source.labels()
        for record, row in zip(source, labels, strict=True):
            if DATASETS[name].multi_label:
                assert np.flatnonzero(row).tolist() == sorted(record["label"])
            else:
                assert row == record["label"]
        if name == "cifar10":
            source = datasets.load(name, split, data_dir=tmp_path)
        rows = [(record["image"], record["label"]) for record in source]
        if name == "caltech101":
            counts = np.bincount(labels, minlength=101)
            assert set(counts[counts > 0]) == {30 if split == "train" else 2}
            seen += rows
            continue
        if name == "oxford_iiit_pet" and split == "train":
            (encoded,) = {image for image, _ in rows} - {image for image, _ in expected["train"]}
            rows = [(None if image == encoded else image, label) for image, label in rows]
            key = lambda row: (row[0] or b"", row[1])  # noqa: E731
            assert sorted(rows, key=key) == sorted(expected[split], key=key)
            continue
        if DATASETS[name].multi_label:
            rows = [(image, tuple(sorted(label))) for image, label in rows]
        assert matching(rows, None) == matching(expected[split], None)
    if name == "caltech101":
        assert matching(seen, None) == matching(expected["any"], None)
    # read where TensorFlow cannot be imported, as it would be by anything that asked for it
    code = (
        "import sys; from jaxparc import datasets; from jaxparc.training import batches; "
        "from jaxparc.datasets import prepared; "
        "from pathlib import Path; import dataclasses; "
        f"spec = dataclasses.replace(datasets.DATASETS[{name!r}], sizes={sizes!r}); "
        f"rows = prepared.PreparedRows(spec, Path({str(folder)!r}), 'test'); "
        "rows[0]; rows.labels(); print(len(rows), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == [str(sizes["test"]), "False"]


def tree(function, value):
    if isinstance(value, dict):
        return {key: tree(function, item) for key, item in value.items()}
    if isinstance(value, list):
        return [tree(function, item) for item in value]
    return function(value)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_boxes_are_kept_for_detection(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow", reason='pip install "jaxparc[prepare]"')
    import tensorflow_datasets as tfds

    archives = tmp_path / "archives"
    voc2007(archives)
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(
        manager,
        "download_and_extract",
        lambda self, urls: self.extract(tree(lambda url: archives / url.rsplit("/")[-1], urls)),
    )
    small(monkeypatch, "voc2007", {"train": 2, "validation": 1, "test": 1})
    datasets.prepare("voc2007", data_dir=tmp_path)
    source = datasets.load("voc2007", "train", data_dir=tmp_path)
    (record,) = [r for r in source if len(r["boxes"]) == 3]
    assert record["box_labels"].tolist() == [11, 11, 14]
    xyxy = np.array([box for _, box in OBJECTS["000001"]], np.float32)
    expected = xyxy[:, [1, 0, 3, 2]] / np.array([14, 18, 14, 18], np.float32)
    np.testing.assert_allclose(record["boxes"], expected, rtol=1e-6)


# What goes wrong


@pytest.mark.parametrize("name", GENERATED)
def test_tensorflow_is_asked_for_before_anything_is_downloaded(name, tmp_path, monkeypatch):
    find = prepared.importlib.util.find_spec
    monkeypatch.setattr(
        prepared.importlib.util, "find_spec", lambda m: None if m == "tensorflow" else find(m)
    )
    with pytest.raises(
        DatasetError, match=r'needs TensorFlow .*: pip install "jaxparc\[prepare\]"$'
    ):
        datasets.prepare(name, data_dir=tmp_path)
    monkeypatch.setattr(prepared.sys, "version_info", (3, 15, 0))
    with pytest.raises(DatasetError) as error:
        datasets.load(name, "train", data_dir=tmp_path)
    folder = prepared.folder_of(DATASETS[name], tmp_path)
    assert "this is Python 3.15, and TensorFlow 2.21 supports up to Python 3.13" in str(error.value)
    assert f"prepare it with an older Python and copy {folder} here" in str(error.value)


def test_files_that_only_tensorflow_reads_are_left_alone(tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
    (folder / "cifar10-train.tfrecord-00000-of-00001").write_bytes(b"")
    before = sorted(os.listdir(folder))
    assert not datasets.is_prepared("cifar10", data_dir=tmp_path)
    for act in (datasets.prepare, lambda n, data_dir: datasets.load(n, "test", data_dir=data_dir)):
        with pytest.raises(
            DatasetError, match="holds cifar10 as tfrecord files, which only Tensor"
        ):
            act("cifar10", data_dir=tmp_path)
    assert sorted(os.listdir(folder)) == before


def test_archives_to_be_downloaded_by_hand_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda module: object())
    with pytest.raises(DatasetError) as error:
        datasets.prepare("imagenet", data_dir=tmp_path)
    for word in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "image-net.org"):
        assert word in str(error.value)
    assert f"into {tmp_path}/downloads/manual" in str(error.value)


def test_a_generator_that_fails_says_why_on_one_line(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class Builder:
        def download_and_prepare(self):
            raise ConnectionError(
                "Failed to get url https://example.org/x.tar. HTTP code: 404.\nMore"
            )

    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda module: object())
    monkeypatch.setattr(tfds, "builder", lambda *args, **kwargs: Builder())
    with pytest.raises(DatasetError) as error:
        datasets.prepare("cub200", data_dir=tmp_path)
    assert str(error.value) == (
        "caltech_birds2011 could not be prepared: ConnectionError: Failed to get url "
        "https://example.org/x.tar. HTTP code: 404.; downloads are kept, and the same "
        "command continues"
    )
