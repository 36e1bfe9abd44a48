"""The bank of a command: a file, a folder, or --models; and what is left out of it."""

import re

import numpy as np
import pytest
import tiny_bank
from golden import drawn
from safetensors.numpy import save_file
from tiny_bank import MODEL, rank, rows

from jaxparc.__main__ import main
from jaxparc.bank import features as bank_features
from jaxparc.errors import InputError
from jaxparc.weights import torchvision

bank = pytest.fixture(tiny_bank.three_models)

IMAGES = ("--images", "30")


@pytest.fixture
def folder(bank):
    """The weights of two real networks beside the bank, whose features take no time."""
    for name, architecture in {"s": "squeezenet1_1", "r": "resnet18"}.items():
        shapes = torchvision.variable_shapes(architecture, num_classes=3, width=0.0625)
        entries = torchvision.entries(architecture, shapes)
        (bank.path / "w").mkdir(exist_ok=True)
        state = drawn.weights({entry.key: entry.torch_shape for entry in entries})
        save_file(state, bank.path / "w" / f"{name}.safetensors")
    return bank


FILES = ("w/s.safetensors", "w/r.safetensors")


@pytest.mark.parametrize(
    "words",
    [
        ["w", "x/pics"],
        ["w/", *IMAGES, "x/pics/"],
        [*IMAGES, "w", "folder:x/pics"],
        ["x/pics", "--models", *FILES],
        ["x/pics", "--models", "s=w/s.safetensors", "r=w/r.safetensors", "--seed", "0"],
        ["--models", *FILES, "--seed", "0", "x/pics"],
        ["--models", "w", "--", "x/pics"],
        ["x/pics", "--models=w"],
        ["--seed", "0", "x/pics", "--model", "w"],
    ],
)
def test_a_bank_is_a_folder_or_files(words, folder, capsys):
    for command in ("extract", "rank"):
        assert main([command, "--images", "30", *words]) == 0, capsys.readouterr().err
    (out,) = (folder.path / "features").iterdir()
    assert re.fullmatch(r"w-pics-[0-9a-f]{6}", out.name)
    assert sorted(rows(out)) == ["r", "s"]
    assert sorted(folder.extracted) == ["r", "s"]


def test_a_model_that_is_added_reuses_the_features_of_the_others(folder, capsys):
    assert main(["rank", "x/pics", *IMAGES, "--models", FILES[0]]) == 0
    assert main(["rank", "x/pics", *IMAGES, "--models", *FILES]) == 0
    assert main(["rank", "w", "x/pics", *IMAGES]) == 0
    assert folder.extracted == ["s", "r"]


def test_banks_and_images_are_files_or_folders(folder):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (30, 6, 6, 3), np.uint8)
    np.savez("z.npz", images=pixels, labels=np.arange(30) % 3)
    listing = [f"x/pics/class{k}/{i}.png,{k}" for k in range(3) for i in range(16)]
    (folder.path / "list.csv").write_text("path,label\n" + "\n".join(listing) + "\n")
    for number, target in enumerate(("z.npz", "list.csv")):
        assert rank("--out", f"f{number}", images="12", target=target) == 0
        assert list(rows(folder.path / f"f{number}")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["x/pics"],
            "arguments are required: TARGET (expected BANK TARGET, or TARGET --models",
        ),
        (["--models", *FILES, "x/pics"], "required: TARGET (expected BANK TARGET, or TARGET --mod"),
        (["x/pics", "--models"], "argument --models: expected at least one argument (expected"),
        (
            ["bank.toml", "x/pics", "--models", *FILES],
            "unrecognized arguments: x/pics (expected BANK TARGET, or",
        ),
        (["x/pics", "--models", "w", "--max-params", "5X"], "such as 5M, got '5X'"),
        (["x/pics", "--models", "w", "--max-gmacs", "0"], "expected a number above 0"),
        (["x/pics", "--models", "w", "--max-gmacs", "nan"], "expected a number above 0"),
    ],
)
def test_wrong_forms_are_refused_in_one_line(words, reason, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["rank", *words])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["x/pics", "w"], "jaxparc: x/pics holds no weight files that can be read"),
        (["x/pics", "--models", "a.bin"], "a.bin begins with b'\\x00'; expected a file of PyTorch"),
        (["x/pics", "--models", "w", "w"], "--models: duplicate model 'r': w/r.safetensors and"),
        (["w", "x/pics", "--include", "q*"], "none of 2 models is left: --include q* took 2"),
        (["w", "y/pics"], "y/pics does not exist; expected a folder, .csv or .npz"),
    ],
)
def test_what_cannot_be_read_ends_before_any_work(words, reason, folder, capsys):
    assert main(["rank", *words]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert not (folder.path / "features").exists()


def test_models_are_left_out_before_anything_is_run(folder, capsys):
    assert main(["rank", "w", "x/pics", *IMAGES, "--max-params", "2M", "--out", "f"]) == 0
    out, err = capsys.readouterr()
    assert "1 of 2 models left: --max-params 2M took 1\n" in err
    assert out.startswith("Fine-tune s")
    assert folder.extracted == list(rows(folder.path / "f")) == ["s"]
    assert main(["extract", "w", "x/pics", *IMAGES, "--exclude", "s", "--out", "g"]) == 0
    assert folder.extracted == ["s", "r"]


def test_a_bank_whose_every_model_fails_says_each_reason_once(bank, capsys, monkeypatch):
    def failing(entry, probe, rows, batch_size, load, on_images):
        raise InputError("no memory" if entry.name == "b" else "its features are not finite")

    monkeypatch.setattr(bank_features, "_extract", failing)
    assert rank("--out", "f") == rank("--out", "f", command="extract") == 1
    line = "all 3 models failed: its features are not finite (a, c); no memory (b)\n"
    assert tiny_bank.messages(capsys.readouterr().err) == 2 * f"jaxparc: {line}"
    assert not (bank.path / "f" / "scores.csv").exists()


def test_two_models_of_one_name_are_refused(bank, capsys):
    (bank.path / "bank.toml").write_text(MODEL.format("a") + MODEL.format("a"))
    assert rank() == 2
    said = "jaxparc: bank.toml: duplicate model 'a': a.bin and a.bin\n"
    assert capsys.readouterr().err == said
