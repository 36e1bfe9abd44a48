"""finetune FOLDER --top K: the models that a ranking advises, with trainings that take no time."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_bank
from PIL import Image
from safetensors.numpy import save_file
from tiny_bank import rank, weights_of

import jaxparc
from jaxparc import files, weights
from jaxparc.__main__ import main
from jaxparc.bank import tuning
from jaxparc.datasets import user_images
from jaxparc.errors import OperationError
from jaxparc.finetuned import Finetuned
from jaxparc.training.loop import DivergedError

CLASSES = ("class0", "class1", "class2")
RIGHT = {"a": 200, "b": 260, "c": 250}  # of 300 test images


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """A ranking of three models in f; `trained` has the names of those that were trained."""
    found = tiny_bank.three_models(tmp_path, monkeypatch)
    assert rank("--out", "f") == 0
    path = tmp_path / "w.safetensors"
    save_file(weights_of("resnet18", 3), path)
    loaded = weights.load("resnet18", path)
    found.trained, found.rates = [], []

    def train(entry, settings, *, made_of, report, **options):
        found.trained.append(entry.name)
        found.rates.append(settings.rates)
        about = {"made_of": made_of, "learning_rate": 0.01, "seconds": 2.0, "validation": 80.0}
        return Finetuned(loaded, CLASSES, 32, False, settings.target, about)

    def evaluate(model, settings):
        n, right = 300, RIGHT[found.trained[-1]]
        labels = np.arange(n) % 3
        predictions = np.where(np.arange(n) < right, labels, (labels + 1) % 3)
        return model.with_facts(
            accuracy=100 * right / n,
            interval=[*tuning.wilson(right, n)],
            chance=100 / 3,
            test_images=n,
            labels=labels.tolist(),
            predictions=predictions.tolist(),
        )

    def probe(entry, settings):
        return {"accuracy": 70.0, "images": 40}

    monkeypatch.setattr(tuning, "train", train)
    monkeypatch.setattr(tuning, "evaluate", evaluate)
    monkeypatch.setattr(tuning, "probe", probe)
    return found


def finetune(*words, folder="f", top="2"):
    return main(["finetune", folder, "--top", top, "--batch-size", "8", *words])


def order():
    content = json.loads(Path("f/ranking.json").read_text())
    return [model["name"] for model in content["models"]]


def test_the_best_models_are_fine_tuned_and_compared(bank, capsys):
    names = order()[:2]
    capsys.readouterr()
    assert finetune() == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert bank.trained == names
    assert set(bank.rates) == {(0.003, 0.01, 0.03)}
    for name in names:
        assert f"{name} on pics: {RIGHT[name] / 3:.2f} % of the test images, 95 % interval" in out
    assert "chance level: 33.3 %, the share of the largest class in the 300 test images" in out
    assert "a linear probe reaches 70.00 %" in out
    content = json.loads((bank.path / "f" / "finetuned.json").read_text())
    assert content["verdict"] in out
    assert [model["name"] for model in content["models"]] == names
    assert content["models"][0]["rank"] == 1
    assert content["target"] == "folder:x/pics"
    page = (bank.path / "f" / "index.html").read_text()
    assert page.count("Was the advice right?") == 1
    paths = [bank.path / model["file"] for model in content["models"]]
    assert paths == sorted((bank.path / "f" / "finetuned").iterdir(), key=paths.index)
    assert jaxparc.load_finetuned(paths[0]).classes == CLASSES


def test_a_second_command_trains_what_is_missing(bank, capsys):
    assert finetune(top="1") == 0
    assert finetune(top="3") == 0
    assert bank.trained == order()
    out = capsys.readouterr().out
    assert out.count("already fine-tuned") == 1
    page = (bank.path / "f" / "index.html").read_text()
    assert page.count("Was the advice right?") == 1
    (bank.path / f"{order()[1]}.bin").write_bytes(b"other weights")
    assert finetune(top="3") == 0
    assert bank.trained == [*order(), order()[1]]
    assert finetune("--learning-rate", "0.01", top="1") == 0
    assert bank.rates[-1] == (0.01,)


SECTION = "Was the advice right?"


def test_the_section_stays_on_the_page_when_the_models_are_ranked_again(bank, capsys):
    assert finetune() == 0
    page = bank.path / "f" / "index.html"
    before, names = page.read_text(), order()
    for words in (["rank", "bank.toml", "x/pics", "--images", "30"], ["score", "f"]):
        capsys.readouterr()
        assert main([*words, "--out", "f"]) == 0
        assert "finetuned.json" not in capsys.readouterr().err
        text = page.read_text()
        assert text.count(SECTION) == 1
        assert (
            text[text.index(SECTION) :].split("<h2>Settings")[0]
            == (before[before.index(SECTION) :].split("<h2>Settings")[0])
        )
    assert main(["score", "f", "--out", "elsewhere"]) == 0
    assert SECTION not in (bank.path / "elsewhere" / "index.html").read_text()
    # ranks are those of the new ranking
    content = json.loads((bank.path / "f" / "finetuned.json").read_text())
    content["models"] = [{**model, "rank": 3} for model in content["models"][::-1]]
    (bank.path / "f" / "finetuned.json").write_text(json.dumps(content))
    assert rank("--out", "f") == 0
    assert order() == names
    assert page.read_text().count(SECTION) == 1
    assert page.read_text()[page.read_text().index(SECTION) :].startswith(
        before[before.index(SECTION) :].split("<h2>Settings")[0]
    )


def test_fine_tuned_models_that_are_no_longer_ranked_are_left_out_of_the_page(bank, capsys):
    assert finetune() == 0
    first, second = order()[:2]
    capsys.readouterr()
    assert rank("--out", "f", "--exclude", first) == 0
    assert (
        f"note: {first} of f/finetuned.json left out of the page: this ranking has no rank for it\n"
    ) in capsys.readouterr().err
    text = (bank.path / "f" / "index.html").read_text()
    assert f"{second} alone was fine-tuned" in text
    assert rank("--out", "f", "--exclude", first, second) == 0
    said = f"{first}, {second} of f/finetuned.json left out of the page: this ranking has no rank"
    assert f"note: {said} for them\n" in capsys.readouterr().err
    assert SECTION not in (bank.path / "f" / "index.html").read_text()
    # nothing is lost
    assert rank("--out", "f") == 0
    assert (bank.path / "f" / "index.html").read_text().count(SECTION) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x.update(target="y/pics"), "is of models fine-tuned on y/pics; it is left out"),
        (lambda x: x.update(target="gone/pics"), "is of models fine-tuned on gone/pics; it is"),
        (lambda x: x.pop("target"), "cannot be read (KeyError: 'target'); run `jaxparc finetune`"),
        (lambda x: x["models"][0].pop("accuracy"), "cannot be read (KeyError: 'accuracy'); run"),
        (lambda x: x["models"][0].update(classes=[]), "cannot be read (IndexError: "),
    ],
)
def test_results_that_are_not_of_this_ranking_are_noted(change, reason, bank, capsys):
    tiny_bank.pictures(bank.path / "y" / "pics", seed=1)
    assert finetune() == 0
    path = bank.path / "f" / "finetuned.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert rank("--out", "f") == 0
    err = tiny_bank.messages(capsys.readouterr().err)
    assert err.startswith(f"note: f/finetuned.json {reason}")
    assert err.count("\n") == 1
    assert SECTION not in (bank.path / "f" / "index.html").read_text()
    assert json.loads(path.read_text()) == content


def test_weights_and_page_may_go_elsewhere_or_be_gone(bank):
    (bank.path / "f" / "index.html").unlink()
    assert finetune("--out", "elsewhere", top="1") == 0
    assert len(list((bank.path / "elsewhere").iterdir())) == 1
    assert not (bank.path / "f" / "finetuned").exists()
    assert "Was the advice right?" in (bank.path / "f" / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["f", "--top", "0"], 2, "--top is 0; expected at least 1"),
        (["f", "--top", "-1"], 2, "--top is -1; expected at least 1"),
        (["f", "--top", "x"], 2, "invalid int value: 'x'"),
        (["x", "--top", "2"], 2, "x/ranking.json: No such file or directory; expected a folder"),
        (["f"], 2, "arguments are required: NAME, TARGET (expected FOLDER --top K, or BANK NAME"),
        (["f", "a", "folder:x/pics", "--top", "2"], 2, "unrecognized arguments: a folder:x/pics"),
        (["f", "--top", "2", "--steps", "0"], 2, "--steps is 0; expected a number above 0"),
        (["f", "--top", "2", "--learning-rate", "-1"], 2, "--learning-rate is -1.0; expected a"),
        (["f", "--top", "2", "--out", "bank.toml"], 1, "cannot write bank.toml/"),
    ],
)
def test_wrong_usage_is_one_line(words, code, reason, bank, capsys):
    capsys.readouterr()
    try:
        found = main(["finetune", *words])
    except SystemExit as error:
        found = error.code
    assert found == code
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert bank.trained == []


def test_more_models_than_there_are_is_a_note(bank, capsys):
    assert finetune(top="9") == 0
    assert "note: f ranks 3 models; --top is 9\n" in capsys.readouterr().err
    assert len(bank.trained) == 3


def test_other_rankings_are_refused(bank, capsys):
    assert main(["score", "f", "--out", "s"]) == 0
    capsys.readouterr()
    assert finetune(folder="s") == 2
    assert (
        "s/ranking.json was written by `score`, which knows no weights" in capsys.readouterr().err
    )
    lines = [f"x/pics/class{k}/{i}.png,{i}" for k in range(3) for i in range(16)]
    (bank.path / "ages.csv").write_text("\n".join(["path,age", *lines]) + "\n")
    content = json.loads((bank.path / "f" / "ranking.json").read_text())
    content["settings"]["target"] = "csv:ages.csv:values=age"
    (bank.path / "f" / "ranking.json").write_text(json.dumps(content))
    assert finetune() == 2
    assert "fine-tuning needs classes; the values of 'age' are numbers" in capsys.readouterr().err


def test_a_bank_that_has_moved_is_named(bank, capsys):
    capsys.readouterr()
    first = order()[0]
    text = (bank.path / "bank.toml").read_text()
    (bank.path / "bank.toml").write_text(text.replace(f'name = "{first}"', 'name = "z"'))
    assert finetune() == 2
    said = f"bank.toml: {first} of f/ranking.json no longer there; run `jaxparc rank` again"
    assert said in capsys.readouterr().err
    (bank.path / "bank.toml").unlink()
    assert finetune() == 2
    err = capsys.readouterr().err
    assert "bank.toml cannot be read: No such file or directory; paths in f/ranking.json are" in err
    assert err.count("\n") == 1


def test_one_model_that_fails_leaves_the_others(bank, capsys):
    first, second = order()[:2]
    (bank.path / f"{first}.bin").unlink()
    capsys.readouterr()
    assert finetune() == 1
    out, err = capsys.readouterr()
    assert bank.trained == [second]
    assert f"{first} failed: " in err
    assert f"{first}.bin: No such file or directory\n" in err
    assert err.endswith(f"jaxparc: 1 model failed: {first}\n")
    assert "alone was fine-tuned" in out


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DivergedError("the loss is not finite"), "the loss is not finite"),
        (OperationError("no"), "no"),
        (MemoryError("2 TiB"), "out of memory; a smaller --batch-size may help"),
    ],
)
def test_all_failures_are_named(error, reason, bank, capsys, monkeypatch):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr(tuning, "train", fails)
    capsys.readouterr()
    assert finetune() == 1
    first, second = order()[:2]
    expected = [f"{first} failed: {reason}", f"{second} failed: {reason}"]
    line = f"jaxparc: 2 models failed: {first}, {second}"
    assert capsys.readouterr().err.splitlines() == [*expected, line]
    assert not (bank.path / "f" / "finetuned.json").exists()


def test_an_interrupt_says_how_far_it_came_and_goes_on(bank, capsys, monkeypatch):
    train = tuning.train

    def interrupted(entry, settings, **options):
        if entry.name == order()[1]:
            raise KeyboardInterrupt
        return train(entry, settings, **options)

    monkeypatch.setattr(tuning, "train", interrupted)
    capsys.readouterr()
    assert finetune("--steps", "100") == 130
    far = f"1 of 2 models are done, and {order()[1]}: 0 of 175 steps were done"
    said = f"jaxparc: interrupted; {far}; the same command goes on\n"
    assert said in capsys.readouterr().err
    assert (bank.path / "f" / "finetuned.json").exists()
    monkeypatch.setattr(tuning, "train", train)
    assert finetune("--steps", "100") == 0
    assert bank.trained == order()[:2]


def test_a_page_that_cannot_be_written_is_one_line(bank, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "f/finetuned.json")

    monkeypatch.setattr(files, "write_text", full)
    capsys.readouterr()
    assert finetune() == 1
    line = "jaxparc: cannot write f/finetuned.json: No space left on device\n"
    assert capsys.readouterr().err == line


def test_images_that_differ_a_lot_are_noted_once(bank, capsys):
    Image.fromarray(np.zeros((6, 6), np.uint8)).save("x/pics/class2/gray.png")
    user_images.open_set.cache_clear()
    capsys.readouterr()
    assert finetune() == 0
    assert capsys.readouterr().err == (
        "folder:x/pics: of 49 images, 1 is grayscale (first: class2/gray.png); all are read as "
        "RGB\n"
    )


def test_one_image_per_class_is_one_line(bank, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(bank.path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(bank.path / "tfds"))
    for split in ("train", "test"):
        shutil.copytree("x/pics", f"few/{split}")
    for k in range(3):
        for path in (bank.path / "few" / "train" / f"class{k}").glob("*"):
            if path.stem != "0":
                path.unlink()
    save_file(weights_of("resnet18", 3), "a.safetensors")
    user_images.open_set.cache_clear()
    capsys.readouterr()
    words = ["--batch-size", "8", "--out", "w.safetensors"]
    table = (bank.path / "bank.toml").read_text().replace("a.bin", "a.safetensors")
    (bank.path / "bank.toml").write_text(table)
    assert main(["finetune", "bank.toml", "a", "folder:few", *words]) == 2
    err = capsys.readouterr().err
    said = "folder:few: every class has one image to train on, so that none can be held out"
    assert said in err
    assert err.count("\n") == 1


def test_the_form_is_told_by_top(bank):
    assert finetune("--seed=1", top="1") == 0
    assert main(["finetune", "--top=1", "f", "--batch-size", "8"]) == 0
    assert main(["finetune", "--to", "1", "f", "--batch-size", "8"]) == 0
