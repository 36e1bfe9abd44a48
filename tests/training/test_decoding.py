"""Decoded images: in memory, on disk, damaged and made again; and crops as they are read."""

import types

import numpy as np
import pytest
from records import SIZE, odd_source, same, square_source

from jaxparc.geometry import Geometry
from jaxparc.training import decoding
from jaxparc.training.batches import batches
from jaxparc.training.decoding import CentralCrops, Decoded, KeptCrops, Subset, decode, resized


@pytest.mark.parametrize("prepare", [lambda s: s, lambda s: decode(s, size=SIZE)])
def test_central_crops_are_the_images_of_evaluation(prepare):
    source = prepare(odd_source())
    (batch,) = batches(source, batch_size=11, size=SIZE, train=False)
    crops = CentralCrops(source, Geometry(SIZE))
    assert len(crops) == 11
    np.testing.assert_array_equal(crops[0:11], batch["image"])
    np.testing.assert_array_equal(crops[8:20], batch["image"][8:])
    np.testing.assert_array_equal(crops[3:5], batch["image"][3:5])


def test_a_central_crop_that_cannot_be_decoded_is_named():
    source = [*odd_source(), {"image": b"no image", "label": 0}]
    with pytest.raises(ValueError, match="image 11 of the source cannot be decoded: it has an unk"):
        CentralCrops(source, Geometry(SIZE))[8:12]


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_kept_crops_are_the_crops_and_decoded_once_within_the_limit(limit):
    read = []

    class Counting(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    crops = CentralCrops(Counting(odd_source()), Geometry(SIZE))
    kept = KeptCrops(crops, limit)
    assert len(kept) == 11
    parts = [kept[0:4], kept[2:6], kept[8:20], kept[0:4]]
    times = len(read)
    for part, rows in zip(parts, ((0, 4), (2, 6), (8, 20), (0, 4)), strict=True):
        np.testing.assert_array_equal(part, crops[slice(*rows)])
    again = len(read)
    np.testing.assert_array_equal(kept[0:4], crops[0:4])
    assert len(read) - again == (4 if limit else 8)
    assert times == (11 if limit else 15)  # 2 and 3 twice, beside 4 and 5


def test_a_subset_keeps_the_order_of_its_indices():
    subset = Subset(square_source(10), np.array([7, 2, 2]))
    assert [subset[i]["label"] for i in range(len(subset))] == [7 % 5, 2, 2]
    np.testing.assert_array_equal(
        CentralCrops(subset, Geometry(SIZE))[1:2], CentralCrops(subset, Geometry(SIZE))[2:3]
    )


def test_shrinking_averages():
    board = np.indices((32, 32)).sum(0) % 2 * np.uint8(255)
    source = [{"image": np.repeat(board[..., None], 3, 2).astype(np.uint8), "label": 0}]
    (batch,) = batches(source, batch_size=1, size=SIZE, train=False)
    # Sampling without averaging would find black and white squares.
    assert abs(batch["image"].astype(int) - 127).max() < 20


@pytest.mark.parametrize(("size", "side"), [(1, 1), (14, 16), (32, 36), (96, 110), (224, 256)])
def test_resized_leaves_an_even_margin(size, side):
    assert resized(size) == side
    assert (side - size) % 2 == 0


def test_decode_stops_at_its_limit():
    source = square_source(4)
    assert decode(source, size=SIZE, limit=4 * 16 * 16 * 3 - 1) is source
    decoded = decode(source, size=SIZE, limit=4 * 16 * 16 * 3)
    assert isinstance(decoded, Decoded)
    assert decoded.images.shape == (4, 16, 16, 3)
    assert decode(decoded, size=SIZE) is decoded


@pytest.mark.parametrize("labels", ["one", "several"])
def test_on_disk_as_in_memory_and_found_again(labels, tmp_path):
    source = odd_source()
    if labels == "several":
        source = [record | {"label": (i % 3, 3)} for i, record in enumerate(source)]
    options = {"batch_size": 4, "size": SIZE, "train": True}
    options["num_classes"] = 4 if labels == "several" else None
    expected = list(batches(decode(source, size=SIZE), **options))
    file = tmp_path / "cache" / "set-1.0-train"
    for given in (source, [None] * len(source)):  # the second time, no record is read
        kept = decode(given, size=SIZE, limit=0, file=file)
        assert isinstance(kept.images, np.memmap)
        same(batches(kept, **options), expected)
    other = decode(source, size=28, limit=0, file=file)
    assert other.images.shape[1] == 32
    assert len(list(file.parent.glob("*.npy"))) == 2


@pytest.mark.parametrize("damage", ["labels", "cut", "missing", "shape", "pixel", "head"])
def test_a_damaged_cache_is_made_again(damage, tmp_path):
    source = odd_source()
    file = tmp_path / "set"
    before = np.array(decode(source, size=SIZE, limit=0, file=file).images)
    (images,) = tmp_path.glob("*.npy")
    if damage == "labels":
        (path,) = tmp_path.glob("*.json")
        path.write_text(path.read_text()[:-20])
    elif damage == "cut":
        images.write_bytes(images.read_bytes()[:-100])
    elif damage == "missing":
        images.unlink()
    elif damage in ("pixel", "head"):  # one bit
        content = bytearray(images.read_bytes())
        content[-7 if damage == "pixel" else 60] ^= 2
        images.write_bytes(content)
    else:
        np.save(images, np.zeros((3, 16, 16, 3), np.uint8))
    again = decode(source, size=SIZE, limit=0, file=file)
    np.testing.assert_array_equal(again.images, before)
    assert again.labels == [record["label"] for record in source]


def test_what_killed_processes_left_beside_a_cache_goes(tmp_path):
    (tmp_path / ".set-old-16.npy.1234.incomplete").write_bytes(b"half of another set")
    decode(odd_source(), size=SIZE, limit=0, file=tmp_path / "set")
    assert not list(tmp_path.glob("*.incomplete"))


@pytest.mark.skipif(not hasattr(decoding.os, "posix_fallocate"), reason="POSIX")
def test_room_for_a_cache_is_taken_before_it_is_filled(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoding.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        decode(odd_source(), size=SIZE, limit=0, file=tmp_path / "set")
    assert caught.value.filename == str(tmp_path / f"set-{resized(SIZE)}.npy")
    assert not list(tmp_path.glob("*.npy"))


def test_a_source_is_left_as_it_is_without_room_for_it(tmp_path, monkeypatch):
    source = odd_source()
    monkeypatch.setattr(decoding.shutil, "disk_usage", lambda path: shutil_usage(free=1000))
    assert decode(source, size=SIZE, limit=0, file=tmp_path / "set") is source
    assert decode(source, size=SIZE, limit=0) is source
    assert not list(tmp_path.glob("*.npy"))


def shutil_usage(free):
    return types.SimpleNamespace(total=1, used=1, free=free)


def test_a_failure_while_decoding_leaves_nothing(tmp_path):
    source = [*odd_source(), {"image": b"no image", "label": 0}]
    with pytest.raises(ValueError, match="image 11 of the source cannot be decoded: it has an unk"):
        decode(source, size=SIZE, limit=0, file=tmp_path / "set")
    assert not [path for path in tmp_path.iterdir() if path.name != ".lock"]
