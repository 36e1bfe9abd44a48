"""Features of all layers, which are models of their own."""

import re

import jax
import numpy as np
import pytest
import tiny_bank
from commands.test_extract import draw_weights
from PIL import Image

from jaxparc import weights
from jaxparc.__main__ import main
from jaxparc.models import layers as model_layers

LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4", "features")
rank = tiny_bank.rank


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two narrow ResNets, and images of three hues."""
    draw_weights(tmp_path, "ab")
    (tmp_path / "bank.toml").write_text("\n".join(tiny_bank.MODEL.format(name) for name in "ab"))
    tiny_bank.hues(tmp_path / "x", 40, "k")
    tiny_bank.work_in(tmp_path, monkeypatch)
    return tmp_path


def arrays(path):
    with np.load(path) as held:
        return dict(held)


def test_the_best_layer_of_the_best_model_is_named(folder, capsys):
    words = ("--layers", "--methods", "knn", "--out", "f")
    assert rank(*words, target="folder:x/hues") == 0
    out = capsys.readouterr().out
    found = re.search(r"layers of (\w), first to last, by knn: (.+)\n(.+)\n", out)
    best, listed, verdict = found.groups()
    assert tuple(re.findall(r"(\w+) [\d.]+", listed)) == LAYERS
    scores = {layer: float(score) for layer, score in re.findall(r"(\w+) ([\d.]+)", listed)}
    top = max(scores, key=scores.get)
    expected = f"{top} of {best} scores above" if top != "features" else "no layer of"
    assert verdict.startswith(expected)
    assert sorted(p.name for p in (folder / "f" / "layers").glob("*.npz")) == sorted(
        f"{best}@{layer}.npz" for layer in LAYERS
    )
    np.testing.assert_array_equal(
        arrays(folder / "f" / "layers" / f"{best}@features.npz")["features"],
        arrays(folder / "f" / f"{best}.npz")["features"],
    )
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "f" / "layers").glob("*.npz")}
    assert rank(*words, target="folder:x/hues") == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in (folder / "f" / "layers").glob("*.npz")}
    (folder / "f" / "layers" / f"{best}@layer2.npz").write_bytes(b"damaged")
    assert rank(*words, target="folder:x/hues") == 0
    arrays(folder / "f" / "layers" / f"{best}@layer2.npz")


def test_activations_are_means_over_positions(folder):
    words = ("--layers", "--out", "f")
    assert rank(*words, command="extract", target="folder:x/hues", images="7") == 0
    loaded = weights.load("resnet18", folder / "a.bin")
    found = {layer: arrays(folder / "f/layers" / f"a@{layer}.npz") for layer in LAYERS}
    paths = sorted((folder / "x" / "hues").glob("*/*.png"))
    squares = [Image.open(p).resize((36, 36), Image.Resampling.BILINEAR) for p in paths]
    crops = np.stack([np.asarray(square)[2:34, 2:34] for square in squares])
    images = model_layers.normalise(jax.numpy.asarray(crops), loaded.spec.mean, loaded.spec.std)
    _, stages = jax.jit(loaded.module.apply)(loaded.variables, images)
    for layer in LAYERS:
        x = np.asarray(stages[layer])
        expected = x.reshape(len(x), -1, x.shape[-1]).mean(axis=1)
        rows = found[layer]["features"]
        # of each image of the probe set, the row of the file that it is
        distances = np.abs(rows[:, None] - expected).max(axis=2)
        assert (distances.min(axis=1) < 1e-4 * np.abs(expected).max()).all()
        np.testing.assert_array_equal(distances.argmin(axis=1) % 3 >= 0, True)


def test_every_layer_of_a_bank_is_ranked_as_a_model(folder, capsys):
    assert rank("--layers", "--out", "f", command="extract", target="folder:x/hues") == 0
    assert "jaxparc score f/layers" in capsys.readouterr().out
    assert main(["score", "f/layers", "--methods", "knn", "--out", "s"]) == 0
    assert set(tiny_bank.rows(folder / "s")) == {f"{m}@{layer}" for m in "ab" for layer in LAYERS}


def test_a_network_whose_layers_are_unknown(folder, monkeypatch, capsys):
    monkeypatch.syspath_prepend(folder)
    (folder / "user_network.py").write_text(
        "def network():\n    return (lambda v, x: x.mean((1, 2))), {}\n"
    )
    (folder / "one.toml").write_text(
        '[[model]]\nname = "u"\njax = "user_network:network"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
        "size = 16\n"
    )
    words = ("--layers", "--methods", "knn", "--out", "f")
    assert rank(*words, bank="one.toml", target="folder:x/hues") == 1
    out, err = capsys.readouterr()
    assert "Fine-tune u" in out
    assert "the layers of u: jax:user_network:network: only its features are known" in err
