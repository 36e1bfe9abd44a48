"""Results of fine-tuning: reading rankings, the verdict and the tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxparc.bank import tuned, tuned_page, tuning
from jaxparc.bank.tuned import Ranked, Tuned
from jaxparc.errors import InputError

RANKING = {
    "settings": {"command": "rank", "bank": "bank.toml", "models": [], "target": "pics"},
    "models": [
        {"name": "b", "rank": 1, "tied": True},
        {"name": "a", "rank": 2, "tied": False},
        {"name": "c", "rank": None, "tied": False},
    ],
}


def result(name, rank, right, n=200, classes=4, tied=False, shift=1):
    """A model that is right on all images from a place on, by the number of these."""
    labels = np.arange(n) % classes
    predictions = labels.copy()
    predictions[: n - right] = (predictions[: n - right] + shift) % classes
    low, high = tuning.wilson(right, n)
    facts = {
        "labels": labels.tolist(),
        "predictions": predictions.tolist(),
        "accuracy": 100 * right / n,
        "interval": [low, high],
        "chance": 100 / classes,
        "test_images": n,
        "multi_label": False,
        "learning_rate": 0.01,
        "validation": None,
        "seconds": 12.3,
        "linear_probe": {"accuracy": 70.0, "images": 400},
    }
    return Tuned(Ranked(name, rank, tied), Path(f"f/{name}.safetensors"), facts)


def written(folder, change=lambda content: None):
    content = json.loads(json.dumps(RANKING))
    change(content)
    folder.joinpath("ranking.json").write_text(json.dumps(content))
    return folder


def test_a_ranking_is_read_without_models_that_have_no_score(tmp_path):
    found = tuned.read_ranking(written(tmp_path))
    assert found.addresses == ("bank.toml",)
    assert (found.target, found.data_dir) == ("pics", None)
    assert found.models == (Ranked("b", 1, True), Ranked("a", 2, False))
    files = written(tmp_path, lambda x: x["settings"].update(models=["a.pth", "b=c.pth"]))
    assert tuned.read_ranking(files).addresses == ("a.pth", "b=c.pth")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x["settings"].update(command="score"), "was written by `score`"),
        (lambda x: x["models"].clear(), "no model has a score"),
        (lambda x: x.pop("settings"), "cannot be read"),
        (lambda x: x.update(models=3), "cannot be read"),
        (lambda x: x["settings"].pop("target"), "cannot be read"),
    ],
)
def test_other_rankings_are_one_line(change, reason, tmp_path):
    with pytest.raises(InputError, match=reason) as error:
        tuned.read_ranking(written(tmp_path, change))
    assert str(error.value).startswith(str(tmp_path / "ranking.json"))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_ranking_is_named(tmp_path):
    with pytest.raises(InputError, match="No such file or directory; expected a folder that"):
        tuned.read_ranking(tmp_path)
    (tmp_path / "ranking.json").write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        tuned.read_ranking(tmp_path)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([("a", 1, 190), ("b", 2, 150)], "The advice was right: a is the most accurate of the 2"),
        ([("a", 1, 190), ("b", 2, 188)], "b cannot be told from it"),
        ([("a", 1, 188), ("b", 2, 190)], "The advice holds within chance: b is 1.00 points more"),
        ([("a", 1, 188), ("b", 2, 188)], "The advice was right: a"),
        ([("a", 1, 150), ("b", 2, 190)], "The advice was wrong: b, rank 2, is 20.00 points more"),
        ([("a", 1, 150), ("b", 2, 190, 200, 4, True)], "The advice was one of several: b, which"),
        ([("a", 1, 150)], "a alone was fine-tuned"),
        ([("a", 2, 150)], "a alone was fine-tuned"),
        (
            [("a", 2, 150), ("b", 4, 190)],
            "The model that is ranked first was not fine-tuned; of the 2 that were, b, rank 4, is",
        ),
    ],
)
def test_the_verdict(models, said):
    assert said in tuned.verdict([result(*model) for model in models])


def test_models_are_compared_on_the_same_images():
    one, other = result("a", 1, 150), result("b", 2, 150)
    other.facts["predictions"][:100], other.facts["predictions"][100:] = (
        other.facts["predictions"][100:],
        other.facts["predictions"][:100],
    )
    assert not tuned.differs(one, one)
    assert not tuned.differs(one, other)  # as many images either way
    assert tuned.differs(one, result("b", 2, 156))  # six images, all one way
    assert not tuned.differs(one, result("b", 2, 155))


def test_the_results_are_a_table_and_json():
    models = [result("a", 1, 150), result("b", 2, 190)]
    sheet = tuned.sheet(models)
    assert sheet.rows[0] == ("a", "1", "0.01", "", "75.00 ± 5.96", "70.00", "12")
    assert "chance level: 25.0 %, the share of the largest class in the 200 test images" in (
        sheet.notes
    )
    content = json.loads(tuned.json_text(models, "pics"))
    assert [model["name"] for model in content["models"]] == ["a", "b"]
    assert content["verdict"] == tuned.verdict(models)


def test_results_are_read_as_they_were_written(tmp_path):
    models = (result("a", 1, 150), result("b", 2, 190, tied=True))
    (tmp_path / "finetuned.json").write_text(tuned.json_text(models, "pics"))
    assert tuned.read_results(tmp_path) == ("pics", models)


@pytest.mark.parametrize("text", ["[", "[]", "{}", '{"models": 1}', '{"models": [{"name": "a"}]}'])
def test_results_that_cannot_be_read_are_one_line(text, tmp_path):
    (tmp_path / "finetuned.json").write_text(text)
    with pytest.raises(InputError, match=r"finetuned.json cannot be read \(.*finetune` again$"):
        tuned.read_results(tmp_path)


def test_of_several_classes_the_measure_is_named():
    facts = {**result("a", 1, 150).facts, "multi_label": True, "linear_probe": None}
    notes = tuned.sheet([Tuned(Ranked("a", 1, True), Path("a"), facts)]).notes
    assert any("the accuracy is the share of labels" in note for note in notes)
    assert any("by predicting for each class what most" in note for note in notes)


def section(path):
    text = path.read_text()
    assert text.count("Was the advice right?") == 1
    return text


def test_the_section_is_written_once_and_before_the_settings(tmp_path):
    page = tmp_path / "index.html"
    page.write_text("<main><h1>x</h1><h2>Settings and versions</h2></main></body>")
    names = ["<b>", "dog", "cat", "bird"]
    models = [result("a<i>", 1, 150)]
    tuned_page.write(page, models, names)
    first = section(page)
    tuned_page.write(page, models, names)
    assert section(page) == first
    assert first.startswith("<main><h1>x</h1><!-- fine-tuning -->")
    assert first.endswith("<h2>Settings and versions</h2></main></body>")
    assert "a<i>" not in first
    assert "<b>" not in first
    assert '<th scope="row">&lt;b&gt;</th>' in first
    assert "a&lt;i&gt;: f/a&lt;i&gt;.safetensors" in first
    tuned_page.write(page, [*models, result("b", 2, 190)], names)
    assert "The advice was wrong: b" in section(page)


def test_without_a_page_there_is_a_new_one(tmp_path):
    tuned_page.write(tmp_path / "index.html", [result("a", 1, 150)], list("wxyz"))
    assert section(tmp_path / "index.html").startswith("<!DOCTYPE html>")


def test_of_many_classes_the_most_confused_pairs_are_shown(tmp_path):
    classes = 100
    names = [f"class {k}" for k in range(classes)]
    model = result("a", 1, 920, n=1000, classes=classes)
    tuned_page.write(tmp_path / "index.html", [model], names)
    text = section(tmp_path / "index.html")
    assert '<table class="confusion">' not in text
    assert text.replace("(scroll →)", "").count("→") == 1 + tuned_page.PAIRS
    assert "90 other classes" in text
    assert "class 0 → class 1" in text
    tuned_page.write(tmp_path / "b.html", [result("a", 1, 1000, 1000, classes)], names)
    assert "all test images are classified correctly" in section(tmp_path / "b.html")


def test_several_classes_per_image_have_no_confusion_matrix(tmp_path):
    facts = {**result("a", 1, 150).facts, "multi_label": True, "linear_probe": None}
    del facts["predictions"], facts["labels"]
    facts["right"] = [0.5] * 200
    tuned_page.write(
        tmp_path / "index.html", [Tuned(Ranked("a", 1, True), Path("a"), facts)], list("wx")
    )
    assert "by class" not in section(tmp_path / "index.html")
