"""`jaxparc.rank`: models and arrays in, the ranking that the command prints out."""

import io
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bank
from golden import drawn
from PIL import Image
from safetensors.numpy import save_file

import jaxparc
from jaxparc import weights
from jaxparc.__main__ import main
from jaxparc.bank import features as bank_features
from jaxparc.bank.costs import Facts
from jaxparc.datasets import user_images
from jaxparc.errors import InputError, OperationError
from jaxparc.weights import torchvision

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 20)
IMAGES = RNG.normal(size=(60, 5)).astype(np.float32) + np.eye(3, 5, dtype=np.float32)[LABELS]
FEATURES = {
    name: (IMAGES @ RNG.normal(size=(5, width)) * 0.1**noise).astype(np.float32)
    for name, width, noise in (("a", 4, 0), ("b", 6, 1), ("c", 7, 0))
}


def doubled(images):
    return 2 * images


def failing(images):
    raise RuntimeError("no\nsuch weights")


def test_features_are_ranked_as_score_bank_scores_them():
    ranking = jaxparc.rank(FEATURES, None, LABELS)
    scores = jaxparc.score_bank(FEATURES, LABELS, methods=("parc_f32", "ridge"), intervals=0.95)
    np.testing.assert_array_equal(ranking.scores.values, scores.values)
    assert ranking.scores.tied() == scores.tied()
    assert [row.name for row in ranking.rows] == [name for name, _ in scores.ranking()]
    assert ranking.best == scores.best
    assert ranking.answer.startswith(f"Fine-tune {scores.best}")
    assert "docs/evaluation.md" in ranking.evidence
    strings = np.array(["cat", "dog", "emu"])[LABELS]
    again = jaxparc.rank(FEATURES, None, strings)
    np.testing.assert_array_equal(again.scores.values, scores.values)
    assert again.settings["images"] == "60 images, 3 classes"


def test_functions_are_run_over_the_images():
    kernel = RNG.normal(size=(5, 4)).astype(np.float32)
    module = nn.Dense(4)
    variables = module.init(jax.random.key(0), IMAGES)
    found = jaxparc.rank(
        {
            "plain": lambda images: images @ kernel,
            "with variables": (module.apply, variables),
            "with logits": lambda images: (images, images[:, :3]),
            "features": IMAGES @ kernel,
        },
        IMAGES,
        LABELS,
        methods=["parc", "nce"],
        batch_size=4,
        facts={"features": Facts(licence="MIT")},
    )
    expected = jaxparc.score_bank(
        {"plain": IMAGES @ kernel, "with variables": np.asarray(module.apply(variables, IMAGES))},
        LABELS,
        methods="parc",
    )
    for name, score in expected["parc"].items():
        assert found.scores["parc"][name] == pytest.approx(score, abs=1e-3)
    assert found.scores["parc"]["features"] == pytest.approx(
        found.scores["parc"]["plain"], abs=1e-3
    )
    assert found.scores.undefined["plain", "nce"] == "it has no probs"
    assert np.isfinite(found.scores["nce"]["with logits"])
    facts = {row.name: row.facts for row in found.rows}
    assert facts["with variables"].parameters == 5 * 4 + 4
    assert facts["plain"].images_per_second > 0
    assert facts["features"] == Facts(licence="MIT")
    assert "All scores" in str(found)


def test_functions_that_are_not_jax_get_numpy_batches():
    seen = []

    def apply_fn(images):
        seen.append(type(images))
        return images[:, ::-1]

    found = jaxparc.rank({"a": apply_fn, "b": doubled}, IMAGES, LABELS, jit=False)
    assert set(seen) == {np.ndarray}
    assert len(found.rows) == 2


def test_a_model_that_fails_is_undefined_and_the_others_go_on():
    models = {"bad": failing, "good": doubled, "nan": lambda images: images * jnp.nan}
    found = jaxparc.rank(models, IMAGES, LABELS)
    assert [(row.name, row.rank) for row in found.rows] == [
        ("good", 1),
        ("bad", None),
        ("nan", None),
    ]
    assert found.answer == "Fine-tune good, the only model with a score."
    assert found.notes == (
        "model 'bad' failed: no; such weights",
        "model 'nan' failed: its features are not finite",
    )
    assert found.scores.undefined["bad", "ridge"] == "no; such weights"
    lines = str(found).splitlines()
    assert "note: model 'bad' failed: no; such weights" in lines
    assert lines[0] == found.answer
    with pytest.raises(OperationError, match=r"^all 2 models failed: no; such weights \(x, y\)$"):
        jaxparc.rank({"x": failing, "y": failing}, IMAGES, LABELS)
    with pytest.raises(
        OperationError, match="^the only model failed: apply_fn is the module Dense"
    ):
        jaxparc.rank({"x": nn.Dense(4)}, IMAGES, LABELS)


@pytest.mark.parametrize(
    ("models", "images", "options", "reason"),
    [
        ({}, IMAGES, {}, "models is empty; expected at least one"),
        ({"a": "resnet50"}, IMAGES, {}, "model 'a' is a str; expected a function, a pair"),
        ({1: doubled, "1": doubled}, IMAGES, {}, "duplicate model '1'"),
        ({"a": doubled}, None, {}, "images: None for 60 labels; model 'a' needs 60"),
        ({"a": doubled}, IMAGES[:9], {}, "images: 9 for 60 labels; model 'a' needs 60"),
        (
            {"a": IMAGES[:9]},
            None,
            {},
            r"features of model 'a' have shape \(9, 5\); expected \(60, d",
        ),
        ({"a": failing}, IMAGES, {"methods": "nonsense"}, "nonsense"),
        ({"a": failing}, IMAGES, {"methods": "rsa"}, "rsa needs reference, from the argument"),
        (
            {"a": doubled},
            IMAGES,
            {"methods": "nce"},
            "nce needs probs, from models that return log",
        ),
    ],
)
def test_wrong_arguments_are_refused(models, images, options, reason):
    with pytest.raises(InputError, match=reason):
        jaxparc.rank(models, images, LABELS, **options)


def test_the_ranking_is_shown_in_notebooks_and_written(tmp_path):
    found = jaxparc.rank({"<b>": FEATURES["a"], "b": FEATURES["b"]}, None, LABELS)
    fragment = found._repr_html_()
    assert "<b>" not in fragment
    assert fragment.startswith("<div>")
    assert fragment.count("<td") == 2 * 4
    for outer in ("<html", "<style", "<script", ":root"):  # the notebook's own
        assert outer not in fragment
    found.write(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("index.html", "ranking.csv", "ranking.json", "ranking.md", "scores.csv")
    }


@pytest.fixture
def network(tmp_path):
    """A file of weights of a thin network."""
    shapes = torchvision.variable_shapes("resnet18", num_classes=3, width=0.0625)
    entries = torchvision.entries("resnet18", shapes)
    path = tmp_path / "thin.safetensors"
    save_file(drawn.weights({entry.key: entry.torch_shape for entry in entries}), path)
    return path


def test_a_loaded_network_ranks_as_by_the_command(network, tmp_path, monkeypatch):
    tiny_bank.pictures(tmp_path / "pics")
    user_images.open_set.cache_clear()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    words = ["rank", str(tmp_path / "pics"), "--images", "24", "--out", str(tmp_path / "out")]
    assert main([*words, "--models", f"thin={network}"]) == 0
    command = json.loads((tmp_path / "out" / "ranking.json").read_text())
    probe = bank_features.probe_images(str(tmp_path / "pics"), 24, 0)
    encoded = [probe.images[i]["image"] for i in range(24)]
    images = np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in encoded])
    found = jaxparc.rank({"thin": weights.load(None, network)}, images, probe.labels)
    found.write(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "ranking.json").read_text())
    for one in (command, again):
        del one["settings"], one["models"][0]["megabytes"]
    assert again == command
    with pytest.raises(
        InputError, match="images are float32 .*; the network of model 'thin' needs"
    ):
        jaxparc.rank({"thin": weights.load(None, network)}, images / np.float32(255), probe.labels)


@pytest.mark.slow
def test_ranking_features_needs_no_flax():
    code = """
import sys
sys.modules["flax"] = sys.modules["optax"] = sys.modules["grain"] = None
import numpy as np, jaxparc
x = np.random.default_rng(0).normal(size=(2, 30, 4))
print(jaxparc.rank({"a": x[0], "b": x[1]}, None, np.arange(30) % 3).answer)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Fine-tune ")
