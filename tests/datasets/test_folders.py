import os

import pytest
from PIL import Image

from jaxparc import datasets
from jaxparc.datasets import DatasetError, folders


def tree(root, *paths):
    """A folder with small images of different pixels, and whatever else is named."""
    for number, name in enumerate(paths):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif path.suffix == ".png":
            Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(path)
        else:
            path.write_bytes(b"text")
    return root


def classes(*names, n=2):
    return [f"{name}/{i}.png" for name in names for i in range(n)]


def found(root):
    """Split -> class -> images, as they lie."""
    listing = folders.read(root)
    counts = {}
    for split, items in listing.groups.items():
        for item in items:
            counts.setdefault(split, {}).setdefault(item.label, []).append(
                str(item.image.relative_to(root))
            )
    return counts, dict(listing.skipped)


def refused(root):
    with pytest.raises(DatasetError) as error:
        folders.read(root)
    message = str(error.value)
    assert message.startswith(f"folder:{root}"), message
    assert "\n" not in message
    return message


# Splits and classes


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("Training", "train"), ("TRAIN_SET", "train"), ("trainset", "train")),
        *(("train-images", "train"), ("01_train", "train"), ("train2017", "train")),
        *(("trainval", "train"), ("test", "test"), ("Testing Set", "test"), ("hold_out", "test")),
        *(("held-out", "test"), ("val", "val"), ("valid", "val"), ("validation_data", "val")),
        *(("dev", "val"), ("eval", "val"), ("Dev-Set", "val"), ("testdata", "test")),
        *(("tests", None), ("cat", None), ("set", None), ("", None), ("1", None), ("тест", None)),
        *(("invalid", None), ("trains", None), ("steam_train", None), ("devon", None)),
    ],
)
def test_names_of_splits(name, split):
    assert folders.split_of(name) == split


@pytest.mark.parametrize("train", ["train", "Training", "train_set"])
@pytest.mark.parametrize("test", ["test", "dev", "holdout", "eval", "Validation", "val2017"])
def test_usual_names_are_splits(train, test, tmp_path):
    tree(tmp_path, *classes(f"{train}/a", f"{train}/b", f"{test}/a", f"{test}/b"))
    counts, skipped = found(tmp_path)
    assert [(split, sorted(of)) for split, of in counts.items()] == [
        ("train", ["a", "b"]),  # in this order, whatever that of the folders
        ("test", ["a", "b"]),
    ]
    assert skipped == {}


@pytest.mark.parametrize("first", ["test", "Testing", "holdout"])
def test_beside_a_test_split_validation_images_are_skipped_and_counted(first, tmp_path, capsys):
    tree(tmp_path, *classes("train/a", "train/b", f"{first}/a", "dev/a", "dev/b"))
    counts, skipped = found(tmp_path)
    assert counts["test"] == {"a": [f"{first}/a/0.png", f"{first}/a/1.png"]}
    assert skipped == {"images of dev beside a test split": 4}
    datasets.spec_of(f"folder:{tmp_path}", data_dir=tmp_path / ".tfds")
    assert capsys.readouterr().err == (
        f"folder:{tmp_path}: skipped: images of dev beside a test split (4)\n"
    )


@pytest.mark.parametrize(
    "names",
    [
        ("train", "extra"),  # one is no split that we know
        ("fold1", "fold2"),
        ("dev", "test"),  # none to train on
        ("indoor", "outdoor"),
        ("train", "training"),
        ("train", "test", "Test_set"),
    ],
)
def test_two_levels_that_are_not_splits_are_refused(names, tmp_path):
    tree(tmp_path, *classes(*(f"{name}/{cls}" for name in names for cls in "ab")))
    message = refused(tmp_path)
    assert all(name in message for name in names)
    assert "one per split with these inside (train, training, " in message
    assert "dev, " in message


def test_a_folder_around_the_classes_is_named(tmp_path):
    tree(tmp_path, *classes("pets/cat", "pets/dog"), "__MACOSX/pets/._0.png")
    assert f"did you mean folder:{tmp_path}/pets?" in refused(tmp_path)


def test_levels_that_are_mixed_are_refused(tmp_path):
    tree(tmp_path, *classes("cat", "dog/poodle", "dog/collie"))
    assert "cat holds images, and dog only folders of images" in refused(tmp_path)
    tree(tmp_path / "k", *classes("train/cat", "train/dog"), "test/0.png")
    message = refused(tmp_path / "k")
    assert "test holds images, and train only folders of images" in message
    assert f"folder:{tmp_path}/k/train reads only that split" in message
    tree(tmp_path / "deep", *classes("train/cat/x", "train/dog"))
    assert "train/cat only holds images in its folders" in refused(tmp_path / "deep")
    tree(tmp_path / "vehicles", *classes("train", "train/steam", "plane"))
    assert sorted(found(tmp_path / "vehicles")[0]["train"]) == ["plane", "train"]


def test_splits_without_classes_are_refused(tmp_path):
    tree(tmp_path, "train/0.png", "train/1.png", "test/2.png")
    assert "the splits test, train hold images; expected one folder per class in each" in refused(
        tmp_path
    )
    tree(tmp_path, *classes("unlabeled"))
    assert "the splits test, train hold images; expected one folder per class in each" in refused(
        tmp_path
    )


@pytest.mark.parametrize("names", [("train", "plane", "car"), ("dev1", "dev2"), ("test1", "test2")])
def test_classes_may_have_names_of_splits(names, tmp_path):
    tree(tmp_path, *classes(*names))
    counts, skipped = found(tmp_path)
    assert sorted(counts["train"]) == sorted(names)
    assert list(counts) == ["train"]
    assert not skipped


def test_what_lies_beside_the_folders_is_counted(tmp_path):
    tree(tmp_path, *classes("cat", "dog"), "0.png", "1.png", "README.md", "labels")
    counts, skipped = found(tmp_path)
    assert sorted(counts["train"]) == ["cat", "dog"]
    assert skipped == {
        "images beside the folders of classes": 2,
        ".md files": 1,
        "files without extension": 1,
    }
    tree(tmp_path / "s", *classes("train/cat", "train/dog"), "train/0.png", "1.png", "notes/a.txt")
    _, skipped = found(tmp_path / "s")
    assert skipped == {
        "images beside the folders of classes": 1,
        "images beside the folders of splits": 1,
        "folders without images": 1,
        ".txt files": 1,
    }


def test_folders_inside_a_class_belong_to_it(tmp_path):
    tree(tmp_path, *classes("cat", "cat/more", "cat/cat", "cat/a/b/c", "dog"))
    counts, _ = found(tmp_path)
    assert {label: len(of) for label, of in counts["train"].items()} == {"cat": 8, "dog": 2}


@pytest.mark.parametrize("inner", ["train", "test", "x/dev", "dog"])
def test_splits_and_classes_inside_a_class_are_refused(inner, tmp_path):
    tree(tmp_path, *classes("cat", f"cat/{inner}", "dog"))
    assert f"cat/{inner} is in a class and named like " in refused(tmp_path)
    tree(tmp_path / "classfirst", *classes("cat/train", "cat/test", "dog/train", "dog/test"))
    assert "cat, dog hold folders of images, and are not splits that include train" in refused(
        tmp_path / "classfirst"
    )


def test_a_class_of_which_nothing_is_read_is_refused_with_what_it_holds(tmp_path):
    tree(tmp_path, *classes("cat"), "dog/0.heic", "dog/1.HEIC", "dog/2.heic", "dog/.x")
    assert (
        "dog holds no images, but hidden files (1), .heic files (2), .HEIC files (1); "
        in refused(tmp_path)
    )
    tree(tmp_path / "s", *classes("train/cat", "train/dog"), "test/cat/0.heic")
    assert "test holds no images, but .heic files (1)" in refused(tmp_path / "s")


# What is skipped


@pytest.mark.parametrize(
    "left",
    [
        "cat/.ipynb_checkpoints/0-checkpoint.png",
        "cat/sub/.cache/deep/0.png",
        ".git/x/0.png",
        "__MACOSX/cat/0.png",
        "cat/__MACOSX/0.png",
        "cat/@eaDir/0.png/SYNO.png",
        "$RECYCLE.BIN/0.png",
        "lost+found/0.png",
        "System Volume Information/0.png",
        ".Trash-1000/files/0.png",
        "cat/._0.png",
        "cat/.0.png.swp",
        "cat/Thumbs.db",
        "cat/.DS_Store",
        "desktop.ini",
    ],
)
def test_what_is_hidden_or_left_by_systems_is_no_data(left, tmp_path):
    tree(tmp_path, *classes("cat", "cat/sub", "dog"), left)
    counts, skipped = found(tmp_path)
    assert {label: len(of) for label, of in counts["train"].items()} == {"cat": 4, "dog": 2}
    assert skipped == {"hidden files": 1}


def test_what_is_skipped_is_said_once_and_by_kind(tmp_path, capsys):
    others = [f"cat/{i}.x{i}" for i in range(9)]
    tree(tmp_path, *classes("cat", "dog"), "cat/.a", "dog/a.txt", "dog/b.txt", *others)
    name = f"folder:{tmp_path}"
    for _ in range(3):
        datasets.load(name, "train", data_dir=tmp_path / ".tfds")
        datasets.short_name(name)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"{name}: skipped: hidden files (1), .txt files (2), .x0 files (1), "
        ".x1 files (1), .x2 files (1), .x3 files (1), files of other types (5)\n"
    )


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".jp2", ".avif", ".pnm", ".apng"])
def test_every_ending_of_a_listed_format_is_read(suffix, tmp_path):
    form = {".jp2": "JPEG2000", ".avif": "AVIF", ".pnm": "PPM", ".apng": "PNG"}.get(suffix, "JPEG")
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"Pillow without {form}")
    for path in ("a/0", "a/1", "b/0"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (9, 99, 199)).save(tmp_path / f"{path}{suffix}", form)
    assert datasets.spec_of(f"folder:{tmp_path}", data_dir=tmp_path / ".tfds").sizes["train"] == 2


# Links


def test_links_are_followed(tmp_path):
    tree(tmp_path, *classes("store/x", "store/y"), *classes("set/dog", "set/cat"), "one.png")
    root = tmp_path / "set"
    (root / "cat" / "more").symlink_to(tmp_path / "store/x")
    (root / "cow").symlink_to("../store/y")
    (root / "dog" / "one.png").symlink_to(tmp_path / "one.png")
    counts, skipped = found(root)
    assert {label: len(of) for label, of in counts["train"].items()} == {
        "cat": 4,
        "cow": 2,
        "dog": 3,
    }
    assert not skipped


def test_circles_of_links_end(tmp_path):
    tree(tmp_path, *classes("cat", "cat/sub", "dog"))
    (tmp_path / "cat" / "up").symlink_to("..")
    (tmp_path / "cat" / "sub" / "self").symlink_to(".")
    (tmp_path / "dog" / "root").symlink_to(tmp_path)
    counts, skipped = found(tmp_path)
    assert {label: len(of) for label, of in counts["train"].items()} == {"cat": 4, "dog": 2}
    assert skipped == {"links to a folder above": 3}


def test_links_out_of_the_set_do_not_lead_back_around_it(tmp_path):
    tree(tmp_path / "set", *classes("cat", "dog"))
    for number, target in enumerate(("/", tmp_path, "/proc/self/root")):
        (tmp_path / "set" / "cat" / f"x{number}").symlink_to(target)
    counts, skipped = found(tmp_path / "set")
    assert len(counts["train"]["cat"]) == 2
    assert skipped == {"links to a folder above": 3}


def test_many_links_to_each_other_are_each_followed_once(tmp_path):
    tree(tmp_path, *classes("cat", "dog"), *classes(*(f"cat/{i}" for i in range(12))))
    for i in range(12):
        for j in range(12):
            (tmp_path / "cat" / str(i) / f"to{j}").symlink_to(f"../{j}")
    counts, skipped = found(tmp_path)
    assert len(counts["train"]["cat"]) == 26
    assert sum(skipped.values()) == 144


@pytest.mark.parametrize("order", ["a", "z"])
def test_an_image_in_two_classes_by_a_link_is_refused(order, tmp_path):
    tree(tmp_path, *classes("cat", "dog"))
    (tmp_path / f"{order}ll").symlink_to("cat")
    assert "are linked to each other" in refused(tmp_path)
    (tmp_path / f"{order}ll").unlink()
    (tmp_path / "dog" / f"{order}.png").symlink_to("../cat/0.png")
    message = refused(tmp_path)
    assert f"dog/{order}.png" in message
    assert "cat/0.png" in message


def test_an_image_in_two_splits_by_a_link_is_refused(tmp_path):
    tree(tmp_path, *classes("train/cat", "train/dog"))
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(DatasetError, match="linked to each other"):
        folders.read(tmp_path)


def test_links_to_nothing_are_named_or_counted(tmp_path, capsys):
    tree(tmp_path, *classes("cat", "dog"))
    (tmp_path / "cat" / "more").symlink_to("/nowhere")
    (tmp_path / "cat" / "self").symlink_to("self")
    (tmp_path / "cat" / "gone.png").symlink_to("/nowhere.png")
    counts, skipped = found(tmp_path)
    assert skipped == {"broken links": 2}
    assert "cat/gone.png" in counts["train"]["cat"]  # and found unreadable
    (tmp_path / "cow").symlink_to("/nowhere")
    with pytest.raises(DatasetError, match="cow cannot be followed: No such file"):
        folders.read(tmp_path)


def test_pipes_and_devices_are_unreadable_images(tmp_path, capsys):
    tree(tmp_path, *classes("cat", "dog", n=4))
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "dog" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "dog" / "d.png").mkdir()
    name = f"folder:{tmp_path}"
    with pytest.raises(DatasetError) as error:
        datasets.spec_of(name, data_dir=tmp_path / ".tfds")
    assert "2 of 10 images cannot be decoded" in str(error.value)
    assert f"{tmp_path}/cat/pipe.png (is a pipe; expected a file)" in str(error.value)
    assert f"{tmp_path}/dog/zero.png (is a device; expected a file)" in str(error.value)
    spec = datasets.spec_of(f"{name}:skip=2", data_dir=tmp_path / ".tfds")
    assert sum(spec.sizes.values()) == 8


def test_names_that_are_not_utf_8_are_read(tmp_path, capsys):
    tree(tmp_path, *classes("cat", "dog"))
    os.rename(tmp_path / "cat" / "0.png", os.fsencode(tmp_path / "cat") + b"/\xff.png")
    os.rename(tmp_path / "dog", os.fsencode(tmp_path) + b"/d\xff")
    assert datasets.summary(f"folder:{tmp_path}", data_dir=tmp_path / ".tfds").isascii()


def test_folders_too_deep_or_unreadable_are_refused(tmp_path, monkeypatch):
    tree(tmp_path, *classes("cat", "dog", "cat/" + "/".join("d" * 80)))
    with pytest.raises(DatasetError, match="more than 64 folders deep"):
        folders.read(tmp_path)
    scandir = os.scandir

    def forbidden(path):
        if str(path).endswith("/dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    tree(tmp_path / "f", *classes("cat", "dog"))
    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(DatasetError, match="f/dog cannot be listed: Permission denied"):
        folders.read(tmp_path / "f")
