"""Files of fine-tuned models, and their use from Python."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_bank import weights_of

import jaxparc
from jaxparc import finetuned, weights
from jaxparc.errors import InputError
from jaxparc.finetuned import Finetuned
from jaxparc.weights import WeightsError, formats, native

CLASSES = ("ant", "bee", "cat")
SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fine-tuned model in a file, and what is in memory."""
    folder = tmp_path_factory.mktemp("finetuned")
    save_file(weights_of("resnet18", 3), folder / "w.safetensors")
    loaded = weights.load("resnet18", folder / "w.safetensors")
    loaded = loaded._replace(spec=jaxparc.models.get("resnet18"))
    model = Finetuned(loaded, CLASSES, SIZE, False, "folder:x", {"accuracy": 90.0, "steps": 3})
    native.save(loaded, folder / "m.safetensors", model.header())
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return jaxparc.load_finetuned(folder / "m.safetensors")


def images(n=5, size=SIZE):
    return np.random.default_rng(0).integers(0, 255, (n, size, size, 3), np.uint8)


def test_the_file_says_how_to_use_it(model, folder):
    assert (model.classes, model.size, model.multi_label) == (CLASSES, SIZE, False)
    assert (model.target, model.accuracy) == ("folder:x", 90.0)
    assert model.about == {"accuracy": 90.0, "steps": 3}
    facts = finetuned.read_facts(folder / "m.safetensors")
    assert facts == model.facts()
    assert (facts["num_classes"], facts["resized"], facts["interpolation"]) == (3, 36, "bilinear")
    assert weights.load("resnet18", folder / "m.safetensors").module.num_classes == 3


def test_probabilities_are_those_of_the_network(model):
    found = model.apply(images())
    loaded = model.loaded
    given = (images() / np.float32(255) - np.float32(loaded.spec.mean)) / np.float32(
        loaded.spec.std
    )
    logits, _ = loaded.module.apply(loaded.variables, given)
    powers = np.exp(np.asarray(logits, float) - np.max(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(found, powers / powers.sum(1, keepdims=True), atol=1e-4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(model(images(), batch_size=2), found, atol=1e-6)


def test_of_several_classes_probabilities_are_independent(model):
    several = Finetuned(model.loaded, CLASSES, SIZE, multi_label=True)
    found, one = several.apply(images()), model.apply(images())
    odds = found / (1 - found)
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), one, atol=1e-4)
    assert not np.allclose(found.sum(1), 1, atol=0.01)


def test_images_of_any_size_are_preprocessed_as_in_tests(model, tmp_path):
    large = images(3, 50)
    paths = []
    for i, pixels in enumerate(large):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    squares = [np.asarray(Image.fromarray(x).resize((36, 36), Image.BILINEAR)) for x in large]
    expected = model.apply(np.stack(squares)[:, 2:-2, 2:-2])
    np.testing.assert_allclose(model.predict(list(large)), expected, atol=1e-6)
    np.testing.assert_allclose(model.predict(paths), expected, atol=1e-6)
    np.testing.assert_allclose(model.predict([p.read_bytes() for p in paths]), expected, atol=1e-6)
    grey = model.predict([large[0, ..., 0]])
    np.testing.assert_allclose(grey, model.predict([large[0][..., :1].repeat(3, -1)]))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            images().astype(np.float32),
            r"images are float32 \(5, 32, 32, 3\); expected uint8 \(b, 32",
        ),
        (images(size=30), r"images are uint8 \(5, 30, 30, 3\); expected .*`predict` for images of"),
        (images(0), r"images are uint8 \(0, 32"),
    ],
)
def test_other_arrays_are_refused(given, reason, model):
    with pytest.raises(InputError, match=reason):
        model.apply(given)


def test_an_image_that_cannot_be_read_is_named(model, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match=r"a.png cannot be read: .*unknown format"):
        model.predict([images()[0], tmp_path / "a.png"])
    with pytest.raises(InputError, match=r"image 1 cannot be read: it is float64 \(3,\)"):
        model.predict([images()[0], np.zeros(3)])
    with pytest.raises(InputError, match=r"none.png cannot be read: No such file"):
        model.predict([str(tmp_path / "none.png")])


def rewritten(folder, path, change):
    """The file with another header."""
    header = native.read_header(folder / "m.safetensors")
    change(header)
    save_file(load_file(folder / "m.safetensors"), path, {formats.KEY: json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x["finetuned"].pop("size"), "size is None in the header; expected an integer"),
        (lambda x: x["finetuned"].update(size=True), "size is True in the header"),
        (lambda x: x["finetuned"].update(classes=["a", 1, "c"]), "classes is .*; expected a list"),
        (
            lambda x: x["finetuned"].update(interpolation="cubic"),
            "cubic in the header; expected bi",
        ),
        (lambda x: x["finetuned"].update(multi_label=1), "multi_label is 1 in the header"),
        (lambda x: x["finetuned"].update(classes=["a", "b"]), "the head has 3 classes, and the h"),
    ],
)
def test_a_wrong_header_is_one_line(change, reason, folder, tmp_path):
    path = rewritten(folder, tmp_path / "m.safetensors", change)
    with pytest.raises(WeightsError, match=reason) as error:
        jaxparc.load_finetuned(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_other_files_are_one_line(folder, tmp_path):
    without = rewritten(folder, tmp_path / "m.safetensors", lambda x: x.pop("finetuned"))
    other = tmp_path / "x.npz"
    np.savez(other, a=np.zeros(3))
    for path in (without, folder / "w.safetensors", other):
        with pytest.raises(InputError, match="does not record classes and preprocessing; expected"):
            jaxparc.load_finetuned(path)
    with pytest.raises(InputError, match="is a folder; expected a file"):
        jaxparc.load_finetuned(tmp_path)
    with pytest.raises(FileNotFoundError):
        jaxparc.load_finetuned(tmp_path / "none")
    whole = (folder / "m.safetensors").read_bytes()
    for end in (300, 5000):
        (tmp_path / "part.safetensors").write_bytes(whole[:end])
        with pytest.raises(WeightsError, match=r"part.safetensors is damaged: "):
            jaxparc.load_finetuned(tmp_path / "part.safetensors")
