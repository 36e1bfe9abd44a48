"""rank, finetune --top, predict: narrow networks that are trained."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_bank import hues, weights_of, work_in

import jaxparc
from jaxparc.__main__ import main
from jaxparc.bank import sources, tuning
from jaxparc.bank.tuning import Settings

MODEL = '[[model]]\nname = "{0}"\narchitecture = "{1}"\nweights = "{0}.safetensors"\nsize = 32\n'
NETWORKS = {"a": "resnet18", "b": "squeezenet1_1", "c": "resnet18"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A bank of three narrow networks, and images of three hues."""
    for place, (name, architecture) in enumerate(NETWORKS.items()):
        save_file(weights_of(architecture, 5 + place), tmp_path / f"{name}.safetensors")
    models = [MODEL.format(*pair) for pair in NETWORKS.items()]
    (tmp_path / "bank.toml").write_text("\n".join(models))
    hues(tmp_path, 90, "hue")
    work_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.slow
def test_the_advice_of_a_ranking_is_followed(folder, capsys):
    assert main(["rank", "bank.toml", "hues", "--images", "30", "--out", "f"]) == 0
    words = ["finetune", "f", "--top", "2", "--steps", "40", "--batch-size", "16"]
    capsys.readouterr()
    assert main(words) == 0
    out, err = capsys.readouterr()
    # its progress alone
    shown = re.compile(r"[abc] to hues: (learning rate [\d.]+ after|step) \d+ of .*")
    assert all(map(shown.fullmatch, err.splitlines()))
    results = json.loads((folder / "f" / "finetuned.json").read_text())
    assert results["verdict"] in out
    best = max(results["models"], key=lambda model: model["accuracy"])
    assert best["accuracy"] > 60  # chance is 33
    assert best["train_images"] == 58
    assert best["validation_images"] == 14
    assert [tried["steps"] for tried in best["tried"]].count(40) == 1
    assert sorted(tried["steps"] for tried in best["tried"])[:2] == [10, 20]
    assert best["linear_probe"]["images"] == 72
    # the file classifies the test images as was said
    assert main(["predict", best["file"], "folder:hues", "--out", "o.csv"]) == 0
    assert f"18 labelled images: {best['accuracy']:.2f} % right" in capsys.readouterr().out
    # nothing is trained twice
    assert main(words) == 0
    assert capsys.readouterr().out.count("already fine-tuned") == 2


@pytest.mark.slow
def test_an_interrupted_search_ends_with_the_same_weights(folder):
    (entry, *_) = sources.read(["bank.toml"])
    settings = Settings("hues", 16, 16, (0.003, 0.03, 1e9))

    def train(partial, watch=None):
        return tuning.train(entry, settings, made_of="", partial=folder / partial, watch=watch)

    def interrupt(rate, steps):
        if rate == 0.03 and steps.first == 2:
            raise KeyboardInterrupt

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("parts", interrupt)
    seen = []
    resumed = train("parts", lambda rate, steps: seen.append((rate, steps.first, steps.images)))
    assert seen[0] == (0.03, 0, 0)  # restored, not computed
    assert all(rate != 0.003 or first >= 4 or not images for rate, first, images in seen)
    same = jax.tree.map(np.array_equal, whole.loaded.variables, resumed.loaded.variables)
    assert all(jax.tree.leaves(same))
    assert whole.about["tried"] == resumed.about["tried"]
    assert whole.about["tried"][2] == {"learning_rate": 1e9, "steps": 4, "validation": None}


@pytest.mark.slow
def test_a_training_that_was_not_tested_is_tested_alone(folder, capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    evaluate, train = tuning.evaluate, tuning.train
    monkeypatch.setattr(tuning, "evaluate", interrupted)
    words = ["finetune", "bank.toml", "a", "hues", "--steps", "8", "--batch-size", "16"]
    words += ["--out", "w.safetensors"]
    assert main(words) == 130
    assert "interrupted; the weights were written to w.safetensors\n" in capsys.readouterr().err
    assert jaxparc.load_finetuned("w.safetensors").accuracy is None
    monkeypatch.setattr(tuning, "evaluate", evaluate)
    monkeypatch.setattr(tuning, "train", interrupted)
    assert main(words) == 0
    assert jaxparc.load_finetuned("w.safetensors").accuracy is not None
    assert not (folder / ".w.safetensors.partial").exists()
    monkeypatch.setattr(tuning, "train", train)


@pytest.mark.slow
def test_images_of_several_classes(folder, capsys):
    lines = [
        f"hues/hue{i % 3}/{i}.png,{'dark|bright' if i % 3 == 1 else 'dark' if i % 3 else 'bright'}"
        for i in range(90)
    ]
    (folder / "hues.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    words = ["--steps", "30", "--batch-size", "16", "--out", "w.safetensors"]
    assert main(["finetune", "bank.toml", "a", "hues.csv", *words]) == 0
    out = capsys.readouterr().out
    assert "% of the labels, 95 % interval" in out
    assert "by predicting for each class what most of the" in out
    assert "images have several classes: the accuracy is the share of labels" in out
    assert "linear probe" not in out
    model = jaxparc.load_finetuned("w.safetensors")
    assert model.multi_label
    assert model.accuracy > 60
    assert main(["predict", "w.safetensors", "hues.csv", "--out", "o.csv"]) == 0
    assert f"{model.accuracy:.2f} % labels right, one for" in capsys.readouterr().out
