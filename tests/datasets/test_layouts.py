import numpy as np
import pytest
from made_up import IMAGES, ROWS, picture, table

from jaxparc import datasets
from jaxparc.datasets import DatasetError, user_images

# Tables as people have them


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["path,label", *ROWS]),
        "\ufeff" + "\r\n".join(["path,label", *ROWS, ""]),
        "\n\n" + "\n\n".join(["path,label", *ROWS]) + "\n\n\n",
        "\n".join(["Path, LABEL", *(row.replace(",", " , ") for row in ROWS)]),
        "\n".join(["path,label,", *(f"{row},," for row in ROWS)]),  # as spreadsheets add columns
        "\n".join(["label,note,path", *(f'{r[6:]},"a, ""b""\nc",{r[:5]}' for r in ROWS)]),
    ],
)
def test_usual_tables_are_read_alike(text, tmp_path, data_dir):
    opened = user_images.open_set(table(tmp_path, text), data_dir)
    assert opened.class_names == ("cat", "dog")
    labels = {item.image.name: item.label for r in opened.splits.values() for item in r.items}
    assert labels == dict(row.split(",") for row in ROWS)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["a0.png,tabby, grey"], "line 2 has 3 cells; expected 2: path, label"),
        (["0.png,cat", "", "1.png"], "line 4 has 1 cells; expected 2: path, label"),
        (['0.png,"cat', "1.png,dog"], "line 2: unexpected end of data"),
        (["0.png,cat", "./0.png,dog"], "line 3: duplicate image ./0.png, also in line 2"),
        (["0.png,cat", "x/../0.png,cat"], "line 3: duplicate image x/../0.png, also in line 2"),
        (["0.png,cat", "link.png,dog"], "line 3: duplicate image link.png, also in line 2"),
        (["0.png,cat", "1.png,NaN", "2.png,None"], "line 3: path or label is missing (1.png, NaN)"),
        (["0.png,cat", "1.png,cat| nan"], "line 3: path or label is missing (1.png, cat| nan)"),
        (["0.png,c\0t"], "line 2 holds a NUL character; expected text"),
    ],
)
def test_wrong_rows_are_refused_by_the_line_that_an_editor_shows(rows, reason, tmp_path, data_dir):
    name = table(tmp_path, "\n".join(["path,label", *rows]))
    (tmp_path / "link.png").symlink_to("0.png")
    with pytest.raises(DatasetError) as error:
        datasets.spec_of(name, data_dir=data_dir)
    assert str(error.value).startswith(name)
    assert reason in str(error.value)


def test_how_many_labels_are_missing_is_said(tmp_path, data_dir):
    text = "\n".join(["path,label", *ROWS[:2], "2.png,NA", "3.png,<NA>", "4.png,null"])
    with pytest.raises(DatasetError, match=r"\(2.png, NA\); likewise in 2 more of 5 rows$"):
        datasets.spec_of(table(tmp_path, text), data_dir=data_dir)


def test_two_columns_of_one_name_are_refused(tmp_path, data_dir):
    name = table(tmp_path, "path,label, Label\n0.png,a,b\n")
    with pytest.raises(DatasetError, match="duplicate column 'label'"):
        datasets.spec_of(name, data_dir=data_dir)


def test_splits_of_a_table_have_the_names_of_folders(tmp_path, data_dir, capsys):
    splits = ["Training", "train_set", "test", "Testing", "dev", "val"]
    rows = [f"{row},{split}" for row, split in zip(ROWS, splits, strict=True)]
    name = table(tmp_path, "\n".join(["path,label,split", *rows]))
    assert dict(datasets.spec_of(name, data_dir=data_dir).sizes) == {"train": 2, "test": 2}
    assert capsys.readouterr().err == (f"{name}: skipped: images of val beside a test split (2)\n")


def test_labels_that_are_spelt_differently_stay_apart_and_in_one_order(tmp_path, data_dir, capsys):
    labels = ["1_0", "1", "01", "001", "10", "9", "1.0", "9" * 5000, "٣", "Cat", "cat", "b"]
    rows = [f"{i}.png,{label}" for i, label in enumerate(labels)]
    name = table(tmp_path, "\n".join(["path,label", *rows]), images=12)
    for item in range(12, 24):  # a second image of each
        picture(item).save(tmp_path / f"{item}.png")
        rows.append(f"{item}.png,{labels[item - 12]}")
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    found = user_images.open_set(name, data_dir).class_names
    assert found == (
        *("001", "01", "1", "9", "10", "9" * 5000),
        *("1.0", "1_0", "Cat", "b", "cat", "٣"),
    )
    assert "classes that only differ in spelling are kept separate: 'Cat' and 'cat'\n" in (
        capsys.readouterr().err
    )


# Arrays as people have them


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (
            {"images": IMAGES, "labels": np.arange(4.0)},
            "multi-hot; convert with labels.astype(int)",
        ),
        ({"images": IMAGES, "labels": np.array([0, 1, np.nan, 1])}, "multi-hot; 1 are NaN"),
        ({"images": IMAGES, "labels": np.array(3)}, "labels is int64 (), for 4 images"),
        (
            {"images": IMAGES, "labels": np.array(["a", "nan", "b", "None"])},
            "labels has 2 missi",
        ),
        ({"images": IMAGES, "labels": np.array([b"a", b"\xff", b"b", b"c"])}, "is not UTF-8"),
        ({"images": IMAGES[:, :0], "labels": np.arange(4)}, "images holds no image"),
        (
            {"images": np.array([IMAGES[0], IMAGES[0, :2]], object), "labels": np.arange(2)},
            "images holds Python objects, such as images of several sizes",
        ),
    ],
)
def test_wrong_arrays_are_refused_with_the_form_that_works(arrays, reason, tmp_path, data_dir):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DatasetError) as error:
        datasets.spec_of(f"npz:{tmp_path}/a.npz", data_dir=data_dir)
    assert reason in str(error.value)


def test_one_column_of_labels_is_taken_as_classes_and_unused_arrays_are_said(
    tmp_path, data_dir, capsys
):
    arrays = {f"{split}_images": IMAGES for split in ("train", "val", "test")}
    labels = {f"{split}_labels": np.arange(4)[:, None] % 2 for split in ("train", "val")}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    name = f"npz:{tmp_path}/a.npz:test=0.5"
    assert datasets.labels(name, "train", data_dir=data_dir).shape == (2,)
    said = f"{name}: skipped: array val_images (1), array test_images (1), array val_labels (1)\n"
    assert capsys.readouterr().err == said
