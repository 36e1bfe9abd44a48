import numpy as np
from made_up import IMAGES, ROWS, class_folders, table

from jaxparc import datasets
from jaxparc.__main__ import main

# Names that are paths


def test_the_path_of_a_folder_or_a_table_stands_for_its_address(tmp_path, data_dir, monkeypatch):
    class_folders(tmp_path / "fotos", {"a": 4, "b": 4})
    name = table(tmp_path, "\n".join(["path,label", *ROWS]))
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=[0, 1, 0, 1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, meant in {
        "fotos": "folder:fotos",
        "fotos/": "folder:fotos",
        "./fotos": "folder:fotos",
        "~/fotos": "folder:fotos",
        "fotos:test=0.5": "folder:fotos:test=0.5",
        "list.csv": name,
        str(tmp_path / "x.npz"): "npz:x.npz",
    }.items():
        assert datasets.short_name(given) == datasets.short_name(meant)
        assert datasets.folder_of(given) == datasets.folder_of(meant)
        assert datasets.is_prepared(given)
        found, expected = (datasets.spec_of(n, data_dir=data_dir) for n in (given, meant))
        assert found == expected
        assert datasets.prepare(given, data_dir=data_dir) == datasets.folder_of(meant)
        assert datasets.class_counts(given, data_dir=data_dir) == datasets.class_counts(
            meant, data_dir=data_dir
        )
        train = datasets.load(given, "train", data_dir=data_dir).labels()
        assert train.tolist() == datasets.labels(meant, "train", data_dir=data_dir).tolist()


def test_a_path_of_something_else_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fotos.zip").write_text("x")
    for name, reason in {
        "fotos.zip": f"fotos.zip: {tmp_path}/fotos.zip is a file; expected a folder, .csv or .npz",
        "fotos/": f"fotos/: {tmp_path}/fotos does not exist; expected a folder, .csv or .npz",
        "a" * 300: "unknown data set",
        "": "unknown data set ''",
    }.items():
        assert main(["data", "prepare", name]) == 2
        assert reason in capsys.readouterr().err


def test_a_registered_name_wins_over_a_folder_and_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    datasets._warn_ambiguous.cache_clear()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for _ in range(2):
        assert datasets.spec_of("digits") is datasets.DATASETS["digits"]
    said = "digits: the registered data set, not the folder folder:digits\n"
    assert capsys.readouterr().err == said
    datasets._warn_ambiguous.cache_clear()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # it is the set's own
    datasets.spec_of("digits")
    assert capsys.readouterr().err == ""


# Classes and their images


def test_classes_are_printed_with_their_images(tmp_path, data_dir, capsys):
    class_folders(tmp_path / "f/train", {"pear": 3, "a\x1b[31m": 2})
    class_folders(tmp_path / "f/test", {"pear": 1})
    name = f"folder:{tmp_path}/f"
    assert datasets.class_counts(name, data_dir=data_dir) == {
        "train": {"a\x1b[31m": 2, "pear": 3},
        "test": {"a\x1b[31m": 0, "pear": 1},
    }
    assert main(["data", "prepare", name, "--data-dir", str(data_dir)]) == 0
    classes = r"2 classes; images: train 5, test 1: a\x1b[31m 2 + 0, pear 3 + 1"
    assert capsys.readouterr().out.splitlines()[1] == f"{name}: {classes}"


def test_of_many_classes_some_are_printed(tmp_path, data_dir):
    labels = np.repeat(np.arange(1000), np.arange(1000) % 7 + 2)
    images = np.zeros((len(labels), 1, 1), np.uint8)
    few = {"test_images": images[:2], "test_labels": labels[:2]}
    np.savez(tmp_path / "a.npz", images=images, labels=labels, **few)
    text = datasets.summary(f"npz:{tmp_path}/a.npz", data_dir=data_dir)
    assert text.startswith(
        "1,000 classes; images: train 4,997, test 2: 0 2 + 2, 1 3 + 0, 2 4 + 0, "
    )
    assert text.endswith(", 11 6 + 0, and 988 more, of 2 to 8 to train on")
    assert len(text) < 250


def test_images_with_several_classes_count_in_each(tmp_path, data_dir):
    rows = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0]])
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=rows, test_images=IMAGES, test_labels=rows)
    counts = datasets.class_counts(f"npz:{tmp_path}/a.npz", data_dir=data_dir)
    assert counts["train"] == {"0": 2, "1": 3, "2": 1}
