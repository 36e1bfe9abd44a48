"""Batches: every example once, the same whatever the threads, processes and batch sizes."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from records import SIZE, odd_source, same, square_source

from jaxparc.training.batches import batches, prefetch
from jaxparc.training.decoding import decode


def rows(source, **options):
    """One epoch as {index: image}, checking batches on the way."""
    options = {"batch_size": 8, "size": SIZE, "train": True, **options}
    found = {}
    for batch in batches(source, **options):
        for image, label, mask, index in zip(
            batch["image"], batch["label"], batch["mask"], batch["index"], strict=True
        ):
            if mask:
                assert index not in found
                assert label == source[index]["label"]
                found[int(index)] = image
            else:
                assert index == -1
                assert label == 0
                assert not image.any()
    return found


def crops_of(image):
    """The nine crops of a 16 px image, by corner, unflipped and flipped."""
    for top in range(3):
        for left in range(3):
            crop = image[top : top + SIZE, left : left + SIZE]
            yield (top, left, False), crop
            yield (top, left, True), crop[:, ::-1]


def choice_of(image, crop):
    """Which crop was taken."""
    (found,) = [choice for choice, option in crops_of(image) if np.array_equal(option, crop)]
    return found


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("n", [1, 8, 16, 37])
def test_every_example_once_and_the_tail_padded(n, train):
    source = square_source(n)
    epoch = list(batches(source, batch_size=8, size=SIZE, train=train))
    assert len(epoch) == -(-n // 8)
    for batch in epoch:
        assert batch["image"].shape == (8, SIZE, SIZE, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].shape == (8,)
        assert batch["label"].dtype == np.int32
        assert batch["mask"].dtype == bool
        assert batch["index"].dtype == np.int32
    assert all(batch["mask"].all() for batch in epoch[:-1])
    assert sum(batch["mask"].sum() for batch in epoch) == n
    assert sorted(rows(source, train=train)) == list(range(n))


def test_empty_source_gives_no_batch():
    assert list(batches([], batch_size=8, size=SIZE, train=True)) == []


def test_evaluation_keeps_order_and_takes_the_centre():
    source = square_source()
    found = rows(source, train=False, seed=3, epoch=4, mirror=True)
    assert list(found) == list(range(len(source)))
    for index, crop in found.items():
        np.testing.assert_array_equal(crop, source[index]["image"][1:15, 1:15])


def test_training_takes_a_crop_of_the_resized_image():
    source = square_source()
    chosen = [
        choice_of(source[index]["image"], crop)
        for epoch in range(8)
        for index, crop in rows(source, epoch=epoch).items()
    ]
    corners = {(top, left) for top, left, _ in chosen}
    assert len(corners) == 9
    assert not any(flip for *_, flip in chosen)


def test_crops_vary_by_epoch_and_seed():
    source = square_source()

    def choices(**options):
        return [
            choice_of(source[i]["image"], crop)
            for i, crop in sorted(rows(source, **options).items())
        ]

    assert choices(epoch=0) != choices(epoch=1)
    assert choices(seed=0) != choices(seed=1)
    # One seed's epoch is not another seed's.
    assert choices(seed=0, epoch=1) != choices(seed=1, epoch=0)


def test_half_are_flipped_where_a_mirror_image_keeps_its_meaning():
    source = square_source(200)
    flips = [
        choice_of(source[index]["image"], crop)[2]
        for index, crop in rows(source, mirror=True).items()
    ]
    assert 70 < sum(flips) < 130


def test_mirror_changes_nothing_else():
    source = square_source()
    plain, mirrored = rows(source), rows(source, mirror=True)
    assert list(plain) == list(mirrored)
    for index, crop in plain.items():
        assert any(np.array_equal(crop[:, ::step], mirrored[index]) for step in (1, -1))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("prepare", [lambda s: s, lambda s: decode(s, size=SIZE, threads=3)])
def test_an_epoch_depends_on_seed_and_epoch_alone(threads, prepare):
    source = odd_source()
    options = {"batch_size": 4, "size": SIZE, "train": True, "mirror": True, "seed": 5, "epoch": 2}
    expected = list(batches(source, **options, threads=2))
    for _ in range(2):
        again = list(batches(prepare(source), **options, threads=threads))
        assert len(again) == len(expected)
        for one, other in zip(again, expected, strict=True):
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])


def test_batch_size_changes_neither_order_nor_crops():
    source = square_source()
    small, large = rows(source, batch_size=3), rows(source, batch_size=64)
    assert list(small) == list(large)
    for index in small:
        np.testing.assert_array_equal(small[index], large[index])


def test_order_is_a_fresh_permutation_each_epoch():
    source = square_source()
    orders = [tuple(rows(source, epoch=epoch)) for epoch in range(3)]
    assert len(set(orders)) == 3
    assert tuple(range(len(source))) not in orders


def test_global_numpy_seed_is_neither_used_nor_changed():
    source = square_source()
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    rows(source)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_several_classes_become_zeros_and_ones():
    labels = [[0, 2], [], [1], np.array([0, 1, 2]), (2,)]
    source = [
        {"image": record["image"], "label": label}
        for record, label in zip(square_source(5), labels, strict=True)
    ]
    (batch,) = batches(source, batch_size=6, size=SIZE, train=False, num_classes=3)
    assert batch["label"].dtype == np.float32
    np.testing.assert_array_equal(
        batch["label"], [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]]
    )


def test_wrong_sizes_are_refused():
    decoded = decode(square_source(4), size=SIZE)
    with pytest.raises(ValueError, match="decoded to 16 px; size 32 needs 36 px"):
        batches(decoded, batch_size=2, size=32, train=True)
    with pytest.raises(ValueError, match="batch_size is 0 and size 14; expected at least 1"):
        batches(decoded, batch_size=0, size=SIZE, train=True)
    with pytest.raises(ValueError, match="seed is -1 and epoch 0; expected at least 0"):
        batches(decoded, batch_size=2, size=SIZE, train=True, seed=-1)


class Broken(list):
    def __getitem__(self, index):
        if index == 9:
            raise RuntimeError("record 9 cannot be read")
        return super().__getitem__(index)


def test_errors_of_the_source_reach_the_caller():
    source = Broken(square_source())
    with pytest.raises(RuntimeError, match="record 9"):
        list(batches(source, batch_size=4, size=SIZE, train=False))
    with pytest.raises(RuntimeError, match="record 9"):
        decode(source, size=SIZE)


def test_an_abandoned_epoch_leaves_no_thread():
    before = threading.active_count()
    for epoch in range(5):
        iterator = batches(square_source(200), batch_size=4, size=SIZE, train=True, epoch=epoch)
        next(iterator)
        del iterator
    assert threading.active_count() <= before + 2


@pytest.mark.parametrize("size", [0, 1, 2, 10])
def test_prefetch_places_ahead(size):
    placed = []

    def place(batch):
        placed.append(batch)
        return batch * 10

    for held, result in enumerate(prefetch(range(5), place, size), start=1):
        assert result == (held - 1) * 10
        assert len(placed) == min(5, held + size)
    assert placed == list(range(5))


def test_prefetch_raises_what_its_parts_raise():
    def failing():
        yield 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(prefetch(failing(), lambda batch: batch))
    with pytest.raises(ZeroDivisionError):
        list(prefetch([1], lambda batch: batch / 0))


def test_prefetch_puts_arrays_on_the_device():
    import jax

    epoch = batches(square_source(10), batch_size=4, size=SIZE, train=False)
    placed = list(prefetch(epoch, jax.device_put))
    assert [int(batch["mask"].sum()) for batch in placed] == [4, 4, 2]
    assert all(isinstance(batch["image"], jax.Array) for batch in placed)


def test_import_needs_no_tfds():
    code = "import sys, jaxparc.training.batches; print('tensorflow_datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# On disk, in other processes


def test_epochs_follow_one_another():
    source = square_source(20)
    options = {"batch_size": 8, "size": SIZE, "train": True, "mirror": True, "seed": 3}
    apart = [batch for epoch in (2, 3, 4) for batch in batches(source, epoch=epoch, **options)]
    same(batches(source, epoch=2, epochs=3, **options), apart)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["list", "own", "prepared"])
def test_workers_give_the_same_batches(kind, tmp_path):
    from jaxparc import datasets

    if kind == "list":
        source = odd_source(30)
    elif kind == "own":
        images = np.random.default_rng(0).integers(0, 256, (50, 20, 24, 3), np.uint8)
        for i, image in enumerate(images):
            path = tmp_path / "set" / f"class{i % 3}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        name = f"folder:{tmp_path}/set"
        source = datasets.load(name, "train", data_dir=tmp_path / "tfds", decode=False)
    else:
        source = datasets.load("digits", "test[:50]", data_dir=tmp_path, decode=False)
    options = {"batch_size": 8, "size": SIZE, "train": True, "mirror": True, "epochs": 2}
    same(batches(source, workers=2, **options), batches(source, **options))
