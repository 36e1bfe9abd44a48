import io
import json
import os

import numpy as np
import pytest
from made_up import IMAGES, class_folders, picture
from PIL import Image

from jaxparc import datasets
from jaxparc.__main__ import main
from jaxparc.datasets import DatasetError, scan, user_images


def pixels_of(source):
    return sorted((record["image"].tobytes(), record["label"]) for record in source)


# The forms


def test_class_folders_are_split_by_class_and_lose_nothing(tmp_path, data_dir):
    root = class_folders(tmp_path / "fruit", {"pear": 10, "apple": 20, "plum": 5})
    name = f"folder:{root}"
    spec = datasets.spec_of(name, data_dir=data_dir)
    assert (spec.name, spec.num_classes, spec.mirror) == ("fruit", 3, True)
    assert dict(spec.sizes) == {"train": 28, "test": 7}
    train, test = (datasets.load(name, s, data_dir=data_dir) for s in ("train", "test"))
    expected = sorted(
        (np.asarray(Image.open(path)).tobytes(), ["apple", "pear", "plum"].index(path.parent.name))
        for path in root.rglob("*.png")
    )
    assert sorted(pixels_of(train) + pixels_of(test)) == expected
    assert np.bincount(test.labels()).tolist() == [4, 2, 1]
    assert train.labels().dtype == np.int32
    assert train.labels().tolist() == [record["label"] for record in train]
    # shuffled, so that a slice has every class
    assert (np.diff(train.labels()) < 0).any()


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_given_splits_are_kept(test_name, tmp_path, data_dir):
    class_folders(tmp_path / "train", {"a": 6, "b": 6})
    class_folders(tmp_path / test_name, {"a": 2, "b": 3})
    spec = datasets.spec_of(f"folder:{tmp_path}", data_dir=data_dir)
    assert dict(spec.sizes) == {"train": 12, "test": 5}


def test_a_class_may_be_called_train(tmp_path, data_dir):
    class_folders(tmp_path / "vehicles", {"train": 5, "bus": 5})
    spec = datasets.spec_of(f"folder:{tmp_path}/vehicles", data_dir=data_dir)
    assert spec.num_classes == 2


def test_numbered_classes_are_in_numeric_order(tmp_path, data_dir):
    root = class_folders(tmp_path / "n", {"10": 4, "9": 4, "2": 4})
    opened = user_images.open_set(f"folder:{root}", data_dir)
    assert opened.class_names == ("2", "9", "10")


def test_csv_with_splits_and_words(tmp_path, data_dir):
    for i in range(6):
        picture(i).save(tmp_path / f"{i}.png")
    lines = ["path,label,split", *(f"{i}.png,{'dog' if i % 2 else 'cat'},train" for i in range(4))]
    lines += [f"{tmp_path}/4.png,cat,test", "5.png,dog,Test"]
    (tmp_path / "list.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    name = f"csv:{tmp_path}/list.csv"
    test = datasets.load(name, "test", data_dir=data_dir)
    assert pixels_of(test) == sorted(
        (np.asarray(picture(i)).tobytes(), label) for i, label in ((4, 0), (5, 1))
    )
    assert len(datasets.load(name, "train", data_dir=data_dir)) == 4
    assert datasets.short_name(name) == "list"


def test_csv_of_several_labels_is_multi_label(tmp_path, data_dir):
    sets = ["cat|dog", "dog", "cat", "bird|cat", "bird", "dog|bird"]
    lines = ["label,path"]
    for i, labels in enumerate(sets):
        picture(i).save(tmp_path / f"{i}.png")
        lines.append(f"{labels},{i}.png")
    (tmp_path / "many.csv").write_text("\n".join(lines))
    name = f"csv:{tmp_path}/many.csv:test=0.4"
    spec = datasets.spec_of(name, data_dir=data_dir)
    assert (spec.multi_label, spec.num_classes) == (True, 3)
    found = {}
    for split in ("train", "test"):
        source = datasets.load(name, split, data_dir=data_dir)
        labels = source.labels()
        assert labels.dtype == np.float32
        for record, row in zip(source, labels, strict=True):
            assert np.flatnonzero(row).tolist() == sorted(record["label"])
            found[record["image"].tobytes()] = {("bird", "cat", "dog")[c] for c in record["label"]}
    assert found == {
        np.asarray(picture(i)).tobytes(): set(labels.split("|")) for i, labels in enumerate(sets)
    }


@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train")])
def test_npz_grey_and_colour(names, tmp_path, data_dir):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (20, 8, 9), np.uint8)
    np.savez(tmp_path / "a.npz", **{names[0]: grey, names[1]: np.arange(20)[:, None] % 4})
    name = f"npz:{tmp_path}/a.npz"
    records = [r for s in ("train", "test") for r in datasets.load(name, s, data_dir=data_dir)]
    expected = sorted(
        (np.repeat(image[..., None], 3, 2).tobytes(), i % 4) for i, image in enumerate(grey)
    )
    assert pixels_of(records) == expected


def test_npz_of_zeros_and_ones_is_multi_label(tmp_path, data_dir):
    rows = np.random.default_rng(0).integers(0, 2, (30, 5))
    rows[:, 0] |= ~rows.any(axis=1)
    images = np.random.default_rng(1).integers(0, 256, (30, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "m.npz", images=images, labels=rows, test_images=images, test_labels=rows)
    name = f"npz:{tmp_path}/m.npz"
    source = datasets.load(name, "test", data_dir=data_dir)
    by_image = {image.tobytes(): row.tolist() for image, row in zip(images, rows, strict=True)}
    for record, row in zip(source, source.labels(), strict=True):
        assert by_image[record["image"].tobytes()] == row.tolist()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_kind_of_file_gives_rgb(suffix, mode, tmp_path, data_dir):
    for name in "ab":
        (tmp_path / "f" / name).mkdir(parents=True)
        for i in range(2):
            picture(i, mode=mode).save(tmp_path / "f" / name / f"{i}{suffix}")
    for record in datasets.load(f"folder:{tmp_path}/f", "train", data_dir=data_dir):
        assert record["image"].shape == (10, 12, 3)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "1", "LA"])
def test_every_mode_gives_rgb(mode, tmp_path, data_dir):
    suffix = ".tif" if mode == "CMYK" else ".png"
    for name in "ab":
        (tmp_path / "f" / name).mkdir(parents=True)
        for i in range(2):
            picture(i).convert(mode).save(tmp_path / "f" / name / f"{i}{suffix}")
    for record in datasets.load(f"folder:{tmp_path}/f", "train", data_dir=data_dir):
        assert record["image"].shape == (10, 12, 3)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, data_dir):
    values = np.array([[0, 257, 25700, 65535]], np.uint16)
    for name in "ab":
        (tmp_path / "f" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(values).save(tmp_path / "f" / name / f"{i}.png")
    image = datasets.load(f"folder:{tmp_path}/f", "train", data_dir=data_dir)[0]["image"]
    assert image[0, :, 0].tolist() == [0, 1, 100, 255]


def test_undecoded_records_are_the_files(tmp_path, data_dir):
    root = class_folders(tmp_path / "f", {"a": 3, "b": 3}, ".jpg")
    source = datasets.load(f"folder:{root}", "train", data_dir=data_dir, decode=False)
    files = {path.read_bytes() for path in root.rglob("*.jpg")}
    assert {record["image"] for record in source} <= files


# What decides the split and the order


def test_seed_test_share_and_mirror_are_options(tmp_path, data_dir):
    root = class_folders(tmp_path / "f", {"a": 20, "b": 20})

    def opened(options):
        return user_images.open_set(f"folder:{root}{options}", data_dir)

    first, again, other = opened(""), opened(":seed=0"), opened(":seed=1")
    names = [[str(item.image) for item in o.splits["test"].items] for o in (first, again, other)]
    assert names[0] == names[1]
    assert set(names[0]) != set(names[2])
    assert first.spec.version == again.spec.version != other.spec.version
    half = opened(":test=0.5,mirror=no")
    assert dict(half.spec.sizes) == {"train": 20, "test": 20}
    assert not half.spec.mirror


def test_the_version_follows_the_content(tmp_path, data_dir):
    class_folders(tmp_path / "f", {"a": 5, "b": 5}, ".bmp")

    def version():
        user_images.open_set.cache_clear()
        return datasets.spec_of(f"folder:{tmp_path}/f", data_dir=data_dir).version

    before = version()
    os.rename(tmp_path / "f", tmp_path / "moved")
    os.rename(tmp_path / "moved", tmp_path / "f")
    assert version() == before
    size = (tmp_path / "f/a/0.bmp").stat().st_size
    picture(999).save(tmp_path / "f/a/0.bmp")
    assert (tmp_path / "f/a/0.bmp").stat().st_size == size
    changed = version()
    os.rename(tmp_path / "f/a/1.bmp", tmp_path / "f/b/new.bmp")
    assert len({before, changed, version()}) == 3


def test_every_class_keeps_an_image_to_train_on(tmp_path, data_dir):
    root = class_folders(tmp_path / "f", {"a": 8, "b": 8, "rare": 1})
    train, test = (
        datasets.labels(f"folder:{root}:test=0.9", split, data_dir=data_dir)
        for split in ("train", "test")
    )
    assert np.bincount(train).tolist() == [1, 1, 1]
    assert np.bincount(test).tolist() == [7, 7]


def test_no_class_is_lost_where_every_image_has_its_own_labels(tmp_path, data_dir):
    rows = np.unpackbits(np.arange(1, 31, dtype=np.uint8)[:, None], axis=1, count=8)[:, 3:]
    images = np.arange(30, dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8)
    np.savez(tmp_path / "m.npz", images=images, labels=rows)
    for seed in range(20):
        name = f"npz:{tmp_path}/m.npz:test=0.9,seed={seed}"
        assert datasets.labels(name, "train", data_dir=data_dir).any(axis=0).all()
        assert len(datasets.load(name, "test", data_dir=data_dir)) >= 20


def test_nothing_to_hold_out_is_refused(tmp_path, data_dir):
    root = class_folders(tmp_path / "f", {"a": 1, "b": 1, "c": 1})
    with pytest.raises(DatasetError, match="no image can be held out for a test split"):
        datasets.spec_of(f"folder:{root}", data_dir=data_dir)


def test_slices(tmp_path, data_dir):
    root = class_folders(tmp_path / "f", {"a": 10, "b": 5})
    name = f"folder:{root}:test=0.2"
    whole = datasets.labels(name, "train", data_dir=data_dir).tolist()
    assert len(whole) == 12
    for split, expected in {
        "train[:5]": whole[:5],
        "train[-5:]": whole[-5:],
        "train[2:-3]": whole[2:-3],
        "train[:30%]": whole[:4],  # 3.6
        "train[30%:]": whole[4:],
        "train[:]": whole,
    }.items():
        source = datasets.load(name, split, data_dir=data_dir)
        assert source.labels().tolist() == [record["label"] for record in source] == expected
    for wrong in ("train[:13]", "train[-13:]", "train[:120%]"):
        with pytest.raises(ValueError, match=r"'train\[.*\]' asks for 1[34] images; train has 12"):
            datasets.load(name, wrong, data_dir=data_dir)
    for wrong in ("valid", "train[", "train[::2]", "train+test", ""):
        with pytest.raises(ValueError, match="unknown split"):
            datasets.load(name, wrong, data_dir=data_dir)


# What cannot be read


def broken(root):
    """A folder with 10 good images and four that are not."""
    class_folders(root, {"a": 5, "b": 5})
    (root / "a" / "page.jpg").write_text("<html>not found</html>")
    (root / "a" / "empty.png").write_bytes(b"")
    whole = io.BytesIO()
    picture(0, (200, 200)).save(whole, "jpeg")
    (root / "b" / "cut.jpg").write_bytes(whole.getvalue()[:2000])
    (root / "b" / "gone.png").symlink_to(root / "nowhere.png")
    return root


def test_unreadable_images_are_named_and_refused_beyond_the_limit(tmp_path, data_dir):
    root = broken(tmp_path / "f")
    with pytest.raises(DatasetError) as error:
        datasets.load(f"folder:{root}:skip=3", "train", data_dir=data_dir)
    message = str(error.value)
    assert (
        "4 of 14 images cannot be decoded; expected at most 3 (allow them with skip=4)" in message
    )
    for file in ("a/page.jpg", "a/empty.png", "b/cut.jpg", "b/gone.png"):
        assert f"{root}/{file} (" in message
    assert "\n" not in message


def test_unreadable_images_are_named_and_left_out_within_the_limit(tmp_path, data_dir, capsys):
    root = broken(tmp_path / "f")
    spec = datasets.spec_of(f"folder:{root}:skip=4", data_dir=data_dir)
    assert sum(spec.sizes.values()) == 10
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"folder:{root}:skip=4: 4 of 14 images skipped: ")
    assert f"{root}/b/cut.jpg (" in err


def test_no_readable_image_is_an_error_whatever_the_limit(tmp_path, data_dir):
    for name in "ab":
        (tmp_path / "f" / name).mkdir(parents=True)
        (tmp_path / "f" / name / "x.jpg").write_text("no image")
    with pytest.raises(DatasetError, match="none of 2 images can be decoded"):
        datasets.load(f"folder:{tmp_path}/f:skip=99", "train", data_dir=data_dir)


def test_what_was_read_is_not_read_again_until_it_changes(tmp_path, data_dir, monkeypatch):
    root = broken(tmp_path / "f")
    name = f"folder:{root}:skip=4"
    looked = []
    look = scan._decode
    monkeypatch.setattr(scan, "_decode", lambda path: (looked.append(path), look(path))[1])
    datasets.spec_of(name, data_dir=data_dir)
    assert len(looked) == 14
    user_images.open_set.cache_clear()
    datasets.spec_of(name, data_dir=data_dir)
    assert len(looked) == 14
    picture(0).save(root / "a" / "page.jpg")
    user_images.open_set.cache_clear()
    assert sum(datasets.spec_of(name, data_dir=data_dir).sizes.values()) == 11
    assert len(looked) == 28
    (memory,) = (data_dir / "own").glob("*.json")
    memory.write_text("{")
    user_images.open_set.cache_clear()
    datasets.spec_of(name, data_dir=data_dir)
    assert len(looked) == 42


def test_an_image_that_vanishes_later_is_named(tmp_path, data_dir):
    root = class_folders(tmp_path / "f", {"a": 4, "b": 4})
    source = datasets.load(f"folder:{root}", "train", data_dir=data_dir)
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"f/[ab]/\d.png can no longer be read"):
        source[0]


# Wrong addresses and wrong content


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("skp=1", "unknown option 'skp'; known: skip, test, seed, mirror"),
        ("skip=some", "skip is 'some'; expected an integer of at least 0"),
        ("test=1.5", "test is '1.5'; expected a number above 0 and below 1"),
        ("seed=-1", "seed is '-1'; expected an integer of at least 0"),
        ("mirror=perhaps", "mirror is 'perhaps'; expected yes or no"),
    ],
)
def test_wrong_options_are_named(options, reason, tmp_path, capsys):
    (tmp_path / "f").mkdir()
    name = f"folder:{tmp_path}/f:{options}"
    with pytest.raises(ValueError, match=r"^folder:.*: ") as error:
        user_images.parse(name)
    assert reason in str(error.value)
    assert main(["data", "prepare", name]) == 2
    assert reason in capsys.readouterr().err


def test_paths_may_hold_colons_and_start_at_home(tmp_path, monkeypatch):
    (tmp_path / "a:b").mkdir()
    assert user_images.parse(f"folder:{tmp_path}/a:b").path == tmp_path / "a:b"
    assert user_images.parse(f"folder:{tmp_path}/a:b:skip=1").skip == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_images.parse("folder:~/a:b").path == tmp_path / "a:b"
    assert user_images.short_name(f"folder:{tmp_path}/a:b/") == "a-b"


@pytest.mark.parametrize("kind", ["folder", "csv", "npz"])
def test_nothing_there_is_named(kind, tmp_path):
    for name in (f"{kind}:{tmp_path}/nothing", f"{kind}:"):
        with pytest.raises(ValueError, match=r"is not a (folder|file)$"):
            datasets.short_name(name)


def test_folders_without_classes_are_refused(tmp_path, data_dir):
    (tmp_path / "flat").mkdir()
    picture(0).save(tmp_path / "flat" / "0.png")
    with pytest.raises(DatasetError, match="flat holds no folders; expected one per class"):
        datasets.spec_of(f"folder:{tmp_path}/flat", data_dir=data_dir)
    root = class_folders(tmp_path / "f", {"a": 3, "b": 3})
    (root / "c").mkdir()
    with pytest.raises(DatasetError, match="f: c holds no image"):
        datasets.spec_of(f"folder:{root}", data_dir=data_dir)
    one = class_folders(tmp_path / "one", {"a": 3})
    with pytest.raises(
        DatasetError, match="all images are of class 'a'; expected at least 2 classes"
    ):
        datasets.spec_of(f"folder:{one}", data_dir=data_dir)


def test_a_class_without_training_images_is_refused(tmp_path, data_dir):
    class_folders(tmp_path / "train", {"a": 3, "b": 3})
    class_folders(tmp_path / "test", {"a": 1, "c": 1})
    with pytest.raises(
        DatasetError, match="class 'c' has images in the test split and none in train"
    ):
        datasets.spec_of(f"folder:{tmp_path}", data_dir=data_dir)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has the columns none; missing: label and path"),
        ("file,label\n1.png,a\n", "has the columns file, label; missing: path"),
        ("path,label\n0.png,a\n1.png,\n", "line 3: path or label is empty"),
        ("path,label\n0.png,a|\n", "line 2: path or label is empty"),
        (
            "path,label\n0.png,a\n1.png,b\n0.png,b\n",
            "line 4: duplicate image 0.png, also in line 2",
        ),
        ("path,label,split\n0.png,a,trian\n", "line 2: split is 'trian'; known: train, training, "),
        ("path,label,split\n0.png,a,test\n", "has no images in the split train"),
        ("path,label\n", "has no images in the split train"),
    ],
)
def test_wrong_lines_of_a_csv_are_named(text, reason, tmp_path, data_dir):
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(DatasetError) as error:
        datasets.spec_of(f"csv:{file}", data_dir=data_dir)
    assert reason in str(error.value)
    assert str(file) in str(error.value)


def test_a_csv_that_is_no_text_is_refused(tmp_path, data_dir):
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    with pytest.raises(DatasetError, match=r"list\.csv cannot be read"):
        datasets.spec_of(f"csv:{tmp_path}/list.csv", data_dir=data_dir)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"pictures": IMAGES}, "holds pictures; expected images and labels"),
        ({"images": IMAGES / 2, "labels": np.arange(4)}, "images is float64 (4, 5, 5)"),
        ({"images": IMAGES[0], "labels": np.arange(5)}, "images is uint8 (5, 5)"),
        ({"images": IMAGES, "labels": np.arange(3)}, "labels is int64 (3,), for 4 images"),
        ({"images": IMAGES, "labels": np.zeros(4)}, "labels is float64 (4,)"),
        (
            {"images": IMAGES, "labels": np.eye(4, dtype=int) * 2},
            "is not multi-hot; expected zeros and ones",
        ),
        ({"images": IMAGES[:0], "labels": np.arange(0)}, "images holds no image"),
        ({"images": IMAGES, "labels": np.array([None] * 4)}, "cannot be read"),
    ],
)
def test_wrong_arrays_are_named(arrays, reason, tmp_path, data_dir):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DatasetError) as error:
        datasets.spec_of(f"npz:{tmp_path}/a.npz", data_dir=data_dir)
    assert reason in str(error.value)
    assert f"npz:{tmp_path}/a.npz" in str(error.value)


def test_what_is_no_archive_is_refused(tmp_path, data_dir):
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(DatasetError, match=r"it starts with b'text'; expected a .npy"):
        datasets.spec_of(f"npz:{tmp_path}/a.npz", data_dir=data_dir)
    np.save(tmp_path / "b.npy", IMAGES)
    with pytest.raises(DatasetError, match="is a single array; expected images and labels"):
        datasets.spec_of(f"npz:{tmp_path}/b.npy", data_dir=data_dir)


def test_the_command_line_takes_addresses(tmp_path, data_dir, capsys):
    root = class_folders(tmp_path / "f", {"a": 4, "b": 4})
    name = f"folder:{root}"
    assert main(["data", "prepare", name, "--data-dir", str(data_dir)]) == 0
    classes = "2 classes; images: train 6, test 2: a 3 + 1, b 3 + 1"
    assert capsys.readouterr() == (f"{name}: {root}\n{name}: {classes}\n", "")
    assert json.loads(next((data_dir / "own").glob("f-*.json")).read_text())


# Images that are no 8-bit images


@pytest.mark.parametrize(("largest", "bits"), [(4095, 12), (255, 8), (32767, 15)])
def test_fewer_bits_than_a_file_states_are_said(largest, bits, tmp_path, data_dir, capsys):
    for c in "ab":
        (tmp_path / "f" / c).mkdir(parents=True)
        for i in range(2):
            values = np.array([[i, largest]], np.uint16)
            Image.fromarray(values).save(tmp_path / "f" / c / f"{i}.png")
    name = f"folder:{tmp_path}/f"
    said = (
        f"{name}: 4 images of 16 bits have no value above {largest:,} and are dark, because "
        f"65,535 is white: if they have {bits} bits, scale them\n"
    )
    for _ in range(2):  # also when they are not looked at again
        user_images.open_set.cache_clear()
        datasets.spec_of(name, data_dir=data_dir)
        assert capsys.readouterr().err == said
    Image.fromarray(np.array([[0, 40000]], np.uint16)).save(tmp_path / "f/a/2.png")
    user_images.open_set.cache_clear()
    datasets.spec_of(name, data_dir=data_dir)
    assert capsys.readouterr().err == ""


def test_images_of_no_known_range_are_named_with_it(tmp_path, data_dir):
    root = class_folders(tmp_path / "f", {"a": 3, "b": 3})
    Image.fromarray(np.array([[-1000, 3000]], np.int32)).save(root / "a" / "ct.tif")
    with pytest.raises(DatasetError) as error:
        datasets.spec_of(f"folder:{root}", data_dir=data_dir)
    assert "1 of 7 images cannot be decoded" in str(error.value)
    assert (
        f"{root}/a/ct.tif (its pixels are signed 32-bit integers from -1000 to 3000; expected 8 "
        "or 16 bits, unsigned)"
    ) in str(error.value)


def test_what_may_be_read_next_time_is_not_remembered_as_unreadable(
    tmp_path, data_dir, monkeypatch
):
    root = class_folders(tmp_path / "f", {"a": 3, "b": 3})
    require = scan.images.require

    def failing(path):
        if path.name == "0.png":
            raise OSError(24, "Too many open files")
        return require(path)

    monkeypatch.setattr(scan.images, "require", failing)
    with pytest.raises(DatasetError, match="Too many open files"):
        datasets.spec_of(f"folder:{root}", data_dir=data_dir)
    monkeypatch.setattr(scan.images, "require", require)
    assert sum(datasets.spec_of(f"folder:{root}", data_dir=data_dir).sizes.values()) == 6


def test_a_file_that_is_replaced_without_a_trace_in_its_date_is_read_again(tmp_path, data_dir):
    root = class_folders(tmp_path / "f", {"a": 3, "b": 3}, ".bmp")
    version = datasets.spec_of(f"folder:{root}", data_dir=data_dir).version
    dates = os.stat(root / "a/0.bmp")
    picture(99).save(root / "a/0.bmp")
    os.utime(root / "a/0.bmp", ns=(dates.st_atime_ns, dates.st_mtime_ns))
    user_images.open_set.cache_clear()
    assert datasets.spec_of(f"folder:{root}", data_dir=data_dir).version != version
