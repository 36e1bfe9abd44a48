"""CSV files with a column of numbers: csv:FILE:values=COLUMN."""

import numpy as np
import pytest
from made_up import class_folders, table

from jaxparc import datasets
from jaxparc.datasets import DatasetError
from jaxparc.errors import InputError

N = 20
AGES = np.random.default_rng(0).permutation(np.arange(N) // 2 * 3 + 0.5)
TEXT = "Path, Age ,name\n" + "".join(f"{i}.png,{age},x{i}\n" for i, age in enumerate(AGES))


@pytest.fixture
def ages(tmp_path):
    return table(tmp_path, TEXT, images=N) + ":values=age"


def images_of(source):
    """The number in the name of each file."""
    return [int(item.image.stem) for item in source._rows.items]


def test_values_are_read_in_place_of_classes(ages, data_dir):
    spec = datasets.spec_of(ages, data_dir=data_dir)
    assert (spec.num_classes, spec.values, spec.label_kind) == (0, "age", "values")
    assert dict(spec.sizes) == {"train": 16, "test": 4}
    seen = []
    for split in ("train", "test"):
        source = datasets.load(ages, split, data_dir=data_dir, decode=False)
        labels = source.labels()
        assert labels.dtype == np.float64
        assert labels.shape == (len(source), 1)
        np.testing.assert_array_equal(labels[:, 0], AGES[images_of(source)])
        assert source[1]["label"] == labels[1, 0]
        seen += images_of(source)
    assert sorted(seen) == list(range(N))
    part = datasets.labels(ages, "train[:5]", data_dir=data_dir)
    np.testing.assert_array_equal(part, datasets.labels(ages, "train", data_dir=data_dir)[:5])


def test_the_test_split_is_drawn_at_random_with_the_seed(ages, data_dir):
    held = [
        frozenset(images_of(datasets.load(f"{ages},seed={seed}", "test", data_dir=data_dir)))
        for seed in (0, 0, 1, 2)
    ]
    assert held[0] == held[1]
    assert len(set(held)) == 3


def test_a_summary_has_the_range_of_the_training_images(ages, data_dir):
    found = datasets.labels(ages, "train", data_dir=data_dir)
    line = datasets.summary(ages, data_dir=data_dir)
    start = f"age {found.min():g} to {found.max():g}, median {np.median(found):g}; "
    assert line == f"{start}images: train 16, test 4"
    assert datasets.class_counts(ages, data_dir=data_dir) == {"train": {}, "test": {}}


def test_another_column_is_another_version(tmp_path, data_dir):
    text = "path,a,label,split\n0.png,1,2,train\n1.png,2,4,train\n2.png,3,4,val\n"
    name = table(tmp_path, text, images=3)
    versions = set()
    for column in ("a", "label", "A"):
        spec = datasets.spec_of(f"{name}:values={column}", data_dir=data_dir)
        assert dict(spec.sizes) == {"train": 2, "test": 1}
        versions.add(spec.version)
    classes = datasets.spec_of(name, data_dir=data_dir)
    assert classes.label_kind == "classes"
    assert len(versions | {classes.version}) == 3


def test_columns_may_have_several_words(tmp_path, data_dir):
    name = table(tmp_path, "path,Body mass\n" + "".join(f"{i}.png,{i}e-3\n" for i in range(6)))
    found = datasets.labels(f"{name}:values=body mass,test=0.5", "train", data_dir=data_dir)
    assert len(found) == 3
    assert set(found[:, 0]) < {0, 0.001, 0.002, 0.003, 0.004, 0.005}


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("path,age\n0.png,3\n1.png,4\n", "height", "has the columns path, age; missing: height"),
        ("age\n3\n", "age", "has the columns age; missing: path"),
        ("path,age\n0.png,3\n1.png,old\n", "age", "line 3: age is 'old'; expected a finite number"),
        ("path,age\n0.png,3\n1.png,inf\n", "age", "line 3: age is 'inf'; expected a finite"),
        ("path,age\n0.png,1e999\n", "age", "line 2: age is '1e999'"),
        ("path,age\n0.png,3|4\n", "age", "line 2: age is '3|4'"),
        ('path,age\n0.png,"3,5"\n', "age", "line 2: age is '3,5'"),
        ("path,age\n0.png,3\n1.png,\n", "age", "line 3: path or age is empty"),
        ("path,age\n0.png,3\n1.png,NA\n", "age", "line 3: path or age is missing (1.png, NA)"),
        ("path,age\n0.png,3\n0.png,4\n", "age", "line 3: duplicate image 0.png, also in line 2"),
        ("path,age,AGE\n0.png,3,4\n", "age", "duplicate column 'age'"),
        ("path,age\n0.png,3\n1.png,3\n2.png,3\n", "age", "age is 3 for all 2 images to train on"),
        ("path,age\n0.png,3\n", "age", "no image can be held out"),
        ("path,age\n0.png,3\n1.png,4\n", "path", "line 2: path is '0.png'"),
    ],
)
def test_wrong_columns_and_cells_are_named(text, column, reason, tmp_path, data_dir):
    with pytest.raises(DatasetError) as error:
        datasets.spec_of(f"{table(tmp_path, text)}:values={column}", data_dir=data_dir)
    assert reason in str(error.value)
    assert "list.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_without_labels_says_how_to_name_a_column(tmp_path, data_dir):
    with pytest.raises(
        DatasetError, match=r"missing: label \(for a column of numbers .*values=COL"
    ):
        datasets.spec_of(table(tmp_path, "path,age\n0.png,3\n"), data_dir=data_dir)


def test_folders_have_no_columns(tmp_path, data_dir):
    class_folders(tmp_path / "x", {"a": 2, "b": 2})
    with pytest.raises(InputError, match="values is a column of csv:FILE; folder: has no columns"):
        datasets.spec_of(f"folder:{tmp_path}/x:values=age", data_dir=data_dir)
    with pytest.raises(InputError, match="values is ''; expected the name of a column"):
        datasets.spec_of(f"{table(tmp_path, TEXT)}:values=", data_dir=data_dir)


def test_classes_are_required_without_reading_an_image(tmp_path):
    name = table(tmp_path, "no table")
    datasets.require_classes(name, "training")
    datasets.require_classes("digits", "training")
    with pytest.raises(InputError, match="training needs classes; the values of 'age' are numbers"):
        datasets.require_classes(f"{name}:values=age", "training")
