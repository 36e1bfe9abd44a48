"""A bank of models that take no time, images for them, and the commands on it."""

import re
import types

import numpy as np
from golden import drawn
from PIL import Image

from jaxparc.__main__ import main
from jaxparc.bank import features as bank_features
from jaxparc.datasets import user_images
from jaxparc.weights import torchvision

MODEL = """[[model]]
name = "{0}"
architecture = "resnet18"
weights = "{0}.bin"
size = 32
"""


def weights_of(name, num_classes):
    """The state dict of a narrow network, with drawn weights."""
    shapes = torchvision.variable_shapes(name, num_classes=num_classes, width=0.0625)
    entries = torchvision.entries(name, shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


def pictures(folder, counts=(16, 16, 16), seed=0):
    rng = np.random.default_rng(seed)
    for k, count in enumerate(counts):
        for i in range(count):
            file = folder / f"class{k}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).save(file)


def hues(folder, count, name):
    """Write images of three classes that differ in hue, named `name` and a number."""
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / "hues" / f"{name}{i % 3}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(80 * (i % 3) + rng.normal(0, 40, (20, 24, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(file)


def work_in(folder, monkeypatch):
    """Make a folder with new images the working directory."""
    user_images.open_set.cache_clear()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "tfds"))


def three_models(tmp_path, monkeypatch):
    """Three models, of which the last has no head; their features follow from their weights."""
    for i, name in enumerate("abc"):
        (tmp_path / f"{name}.bin").write_bytes(bytes([i]))
    (tmp_path / "bank.toml").write_text("\n".join(MODEL.format(name) for name in "abc"))
    pictures(tmp_path / "x" / "pics")
    extracted = []

    def extract(entry, probe, rows, batch_size, load, on_images):
        extracted.append(entry.name)
        rng = np.random.default_rng([*entry.weights.read_bytes(), len(probe.labels)])
        features = rng.normal(size=(len(probe.labels), 8)).astype(np.float32)
        features += 3 * np.eye(3, 8, dtype=np.float32)[probe.labels]
        probs = rng.dirichlet(np.ones(4), len(probe.labels)).astype(np.float32)
        arrays = {"features": features} | ({} if entry.name == "c" else {"probs": probs})
        return {key: x[rows] for key, x in arrays.items()}, ()

    monkeypatch.setattr(bank_features, "_extract", extract)
    work_in(tmp_path, monkeypatch)
    return types.SimpleNamespace(path=tmp_path, extracted=extracted)


def rank(*words, bank="bank.toml", target="folder:x/pics", command="rank", images="30"):
    return main([command, bank, target, "--images", images, *words])


def rows(folder):
    lines = (folder / "scores.csv").read_text().splitlines()
    return {line.split(",")[0]: [float(cell) for cell in line.split(",")[1:]] for line in lines[1:]}


def messages(err):
    """Return stderr without the classes of the target and the progress of the extraction."""
    shown = re.compile(r"extract( \d+ images)?( \d+/\d+ \S+)?: |\w+: (\d+ classes; images: |age )")
    return "".join(line for line in err.splitlines(keepends=True) if not shown.match(line))
