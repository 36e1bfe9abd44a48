import importlib
import inspect
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

from jaxparc import datasets
from jaxparc.datasets import DATASETS, DatasetError, prepared

EMBEDDED = [name for name, spec in DATASETS.items() if spec.embedded]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """All sets that installed packages carry, prepared once for this file."""
    folder = tmp_path_factory.mktemp("data")
    for name in EMBEDDED:
        datasets.prepare(name, data_dir=folder)
    return folder


def python(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Every member


def test_registry_holds_every_builder():
    from jaxparc.datasets.embedded import EmbeddedBuilder

    found = set()
    for module in pkgutil.walk_packages(datasets.__path__, "jaxparc.datasets."):
        for name, value in inspect.getmembers(importlib.import_module(module.name)):
            if inspect.isclass(value) and issubclass(value, EmbeddedBuilder):
                found.add(f"{value.__module__}:{name}")
    found.remove("jaxparc.datasets.embedded:EmbeddedBuilder")
    assert found == {spec.builder for spec in DATASETS.values() if spec.embedded}


@pytest.mark.parametrize("name", EMBEDDED)
def test_members_match_their_spec(name, data_dir):
    spec = DATASETS[name]
    assert spec.name == name
    for split, size in spec.sizes.items():
        source = datasets.load(name, split, data_dir=data_dir)
        labels = datasets.labels(name, split, data_dir=data_dir)
        assert len(source) == size
        assert labels.shape == (size,)
        assert labels.dtype == np.int32
        assert set(labels.tolist()) == set(range(spec.num_classes))
        for i in (0, 1, size // 2, size - 1, -1):
            record = source[i]
            assert record["image"].dtype == np.uint8
            assert record["image"].ndim == 3
            assert record["image"].shape[2] == 3
            assert record["label"] == labels[i]
        with pytest.raises(IndexError, match=f"record {size}"):
            source[size]


@pytest.mark.parametrize("name", EMBEDDED)
def test_splits_are_balanced(name, data_dir):
    for split in DATASETS[name].sizes:
        counts = np.bincount(datasets.labels(name, split, data_dir=data_dir))
        assert counts.max() <= 1.1 * counts.min()


@pytest.mark.parametrize("name", EMBEDDED)
def test_train_and_test_share_no_image(name, data_dir):
    seen = [
        {record["image"].tobytes() for record in datasets.load(name, split, data_dir=data_dir)}
        for split in ("train", "test")
    ]
    assert not seen[0] & seen[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_preparing_again_gives_the_same_bytes(name, data_dir, tmp_path):
    again = datasets.prepare(name, data_dir=tmp_path)
    first = datasets.folder_of(name, data_dir=data_dir)
    files = sorted(path.name for path in first.glob("*.array_record*"))
    assert len(files) == 2
    for file in files:
        assert (first / file).read_bytes() == (again / file).read_bytes()


def test_slices_follow_tfds(data_dir):
    whole = datasets.labels("digits", "train", data_dir=data_dir)
    head = datasets.labels("digits", "train[:80%]", data_dir=data_dir)
    tail = datasets.labels("digits", "train[80%:]", data_dir=data_dir)
    assert len(head) == 1038
    np.testing.assert_array_equal(np.concatenate([head, tail]), whole)
    assert set(head.tolist()) == set(range(10))  # order is shuffled, so a slice has every class


def test_digits_are_the_ones_of_scikit_learn(data_dir):
    from sklearn.datasets import load_digits

    published = load_digits()
    records = [r for s in ("train", "test") for r in datasets.load("digits", s, data_dir=data_dir)]
    ours = sorted((r["label"], np.rint(r["image"][..., 0] / (255 / 16)).tolist()) for r in records)
    pairs = zip(published.target.tolist(), published.images.tolist(), strict=True)
    theirs = sorted(pairs)
    assert ours == theirs
    assert all(np.ptp(r["image"], axis=2).max() == 0 for r in records)  # grey, repeated


# Glyphs


def test_glyph_fonts_are_split_by_family():
    import matplotlib
    from matplotlib.ft2font import FT2Font

    from jaxparc.datasets.glyphs import render

    def family(font):
        name = FT2Font(str(font)).family_name
        # Each Computer Modern file calls itself a family; together they are one.
        return "Computer Modern" if name.startswith("cm") else name

    sides = {split: {family(font) for font in render.font_files(split)} for split in render.SPLITS}
    assert sides == {
        "train": {"DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif", "STIXGeneral"},
        "test": {"Computer Modern"},
    }
    assert matplotlib.get_data_path() in str(render.font_files("test")[0])


def test_glyph_fonts_have_the_latin_characters():
    from matplotlib.ft2font import FT2Font

    from jaxparc.datasets.glyphs import GlyphDigits, GlyphLetters, render

    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for font in (*render.font_files("train"), *render.font_files("test")):
        face = FT2Font(str(font))
        glyphs = face.get_charmap()
        for letter in GlyphLetters.NAMES:
            assert face.get_glyph_name(glyphs[ord(letter)]) == letter
        for digit, name in zip(GlyphDigits.NAMES, digits, strict=True):
            assert face.get_glyph_name(glyphs[ord(digit)]).startswith(name)  # zerooldstyle


def test_each_split_draws_with_its_own_fonts(monkeypatch):
    from jaxparc.datasets import glyphs

    used = {}
    shape_of = glyphs.render.shape_of
    for split in glyphs.render.SPLITS:
        fonts = used[split] = set()

        def spy(character, font, fonts=fonts):
            fonts.add(font.name)
            return shape_of(character, font)

        monkeypatch.setattr(glyphs.render, "shape_of", spy)
        assert len(list(glyphs.draw("AB", split, 4))) == 8
    assert len(used["train"]) == 16
    assert len(used["test"]) == 6
    assert not used["train"] & used["test"]


def test_glyphs_stay_inside_and_are_visible():
    from jaxparc.datasets.glyphs import render

    for font in (*render.font_files("train"), *render.font_files("test")):
        for character in "WIJQM08":
            shape = np.asarray(render.shape_of(character, font))
            rows, columns = np.nonzero(shape)
            assert rows.min() > 10
            assert columns.min() > 10
            assert rows.max() < 117
            assert columns.max() < 117
            assert shape.max() == 255


# What goes wrong


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'mnist'; known: digits, mnist5k"):
        datasets.load("mnist", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="unknown split 'valid'; known: train, test"):
        datasets.load("digits", "valid", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EMBEDDED)
def test_missing_package_is_named(name, tmp_path, monkeypatch):
    spec = DATASETS[name]
    monkeypatch.setitem(sys.modules, spec.module, None)
    message = rf'{name}: {spec.package} is not installed: pip install "jaxparc\[demo\]"'
    with pytest.raises(DatasetError, match=message):
        datasets.load(name, "train", data_dir=tmp_path)


def test_a_prepared_set_needs_no_package(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert len(datasets.load("digits", "test", data_dir=data_dir)) == 500
    datasets.prepare("digits", data_dir=data_dir)


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match=f"cannot prepare digits in {tmp_path}/file"):
        datasets.load("digits", "train", data_dir=tmp_path / "file")


def test_environment_gives_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert datasets.folder_of("digits") == tmp_path / "digits" / "1.0.0"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert datasets.folder_of("digits").parts[-3] == "tensorflow_datasets"


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "info"])
def test_damage_is_reported_and_repaired(damage, tmp_path):
    folder = datasets.prepare("digits", data_dir=tmp_path)
    (file,) = folder.glob("*train.array_record*")
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "empty":
        os.truncate(file, 0)
    else:
        (folder / "dataset_info.json").write_text("{")
    with pytest.raises(DatasetError, match="run: jaxparc data prepare digits"):
        list(datasets.load("digits", "train", data_dir=tmp_path))
    datasets.prepare("digits", data_dir=tmp_path)
    assert len(list(datasets.load("digits", "train", data_dir=tmp_path))) == 1297


def test_interruption_leaves_nothing_to_read(tmp_path, monkeypatch):
    from jaxparc.datasets.digits import Digits

    def interrupted(self, split, examples=Digits.examples):
        for i, example in enumerate(examples(self, split)):
            if split == "test" and i == 100:
                raise KeyboardInterrupt
            yield example

    with monkeypatch.context() as patch:
        patch.setattr(Digits, "examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            datasets.load("digits", "train", data_dir=tmp_path)
    assert not datasets.is_prepared("digits", data_dir=tmp_path)
    assert len(datasets.load("digits", "test", data_dir=tmp_path)) == 500


@pytest.mark.slow
def test_kill_leaves_nothing_to_read(tmp_path):
    process = python(
        """
import os, signal, sys
from jaxparc import datasets
from jaxparc.datasets.digits import Digits

def killed(self, split, examples=Digits.examples):
    for i, example in enumerate(examples(self, split)):
        if split == "test" and i == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example

Digits.examples = killed
datasets.prepare("digits", data_dir=sys.argv[1])
""",
        tmp_path,
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list((tmp_path / "digits").glob("incomplete.*"))
    assert not datasets.is_prepared("digits", data_dir=tmp_path)
    assert len(datasets.load("digits", "test", data_dir=tmp_path)) == 500
    assert not list((tmp_path / "digits").glob("incomplete.*"))


def test_preparations_at_once_wait_for_each_other(tmp_path, monkeypatch):
    built = []
    build = prepared._build

    def counted(spec, root):
        built.append(spec.name)
        build(spec, root)

    monkeypatch.setattr(prepared, "_build", counted)
    threads = [
        threading.Thread(target=datasets.prepare, args=["digits"], kwargs={"data_dir": tmp_path})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["digits"]
    assert len(datasets.load("digits", "train", data_dir=tmp_path)) == 1297


@pytest.mark.slow
def test_processes_at_once_wait_for_each_other(tmp_path):
    code = "import sys, jaxparc.datasets as d; d.prepare('glyph_digits', data_dir=sys.argv[1])"
    processes = [python(code, tmp_path) for _ in range(2)]
    for process in processes:
        out, err = process.communicate()
        assert (process.returncode, out, err) == (0, "", "")
    assert len(datasets.load("glyph_digits", "train", data_dir=tmp_path)) == 2000


def test_preparing_is_silent_without_a_terminal(tmp_path, capfd):
    datasets.prepare("digits", data_dir=tmp_path)
    list(datasets.load("digits", "train", data_dir=tmp_path))
    assert capfd.readouterr() == ("", "")


def test_import_is_light():
    heavy = "{'tensorflow_datasets', 'grain', 'sklearn', 'mlxtend', 'matplotlib', 'tensorflow'}"
    process = python(f"import sys, jaxparc.datasets; print({heavy} & set(sys.modules))")
    assert process.communicate()[0] == "set()\n"


def test_train_and_test_crops_share_no_column_of_a_photograph(monkeypatch):
    import sklearn.datasets

    from jaxparc.datasets.photo_crops import PhotoCrops

    columns = np.arange(640) % 213  # of a part
    photograph = np.broadcast_to(columns.astype(np.uint8)[:, None], (427, 640, 3))
    monkeypatch.setattr(
        sklearn.datasets,
        "load_sample_images",
        lambda: types.SimpleNamespace(images=[photograph, photograph]),
    )
    seen = {"train": set(), "test": set()}
    for split, found in seen.items():
        for image, _ in PhotoCrops.examples(PhotoCrops, split):
            assert (np.diff(image[0].astype(int)) == 1).all()  # within one part
            found.update(image[0].tolist())
    assert not seen["train"] & seen["test"]
    assert len(seen["train"]) > len(seen["test"]) > 80
