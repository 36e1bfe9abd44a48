"""The commands finetune and convert, with trainings that take no time."""

import contextlib
import os
import subprocess
import types

import numpy as np
import pytest
import tiny_bank
from tiny_bank import pictures

from jaxparc import interrupts
from jaxparc.__main__ import main
from jaxparc.bank import features as bank_features
from jaxparc.bank import tuning
from jaxparc.commands.finetune import _alone_at
from jaxparc.finetuned import Finetuned
from jaxparc.training.history import Steps

bank = pytest.fixture(tiny_bank.three_models)


@contextlib.contextmanager
def tiny_disk(folder):
    """A file system of 64 KiB, where this process may make one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Weights(types.SimpleNamespace):
    """A loaded network, as far as writing it goes."""

    def __init__(self, megabytes=0.2):
        values = np.zeros(int(megabytes * 2**18), np.float32)
        super().__init__(
            variables={"params": {"w": values}},
            spec=types.SimpleNamespace(name="resnet18", mean=(0, 0, 0), std=(1, 1, 1)),
            module=types.SimpleNamespace(num_classes=3),
            scheme="jaxparc",
            left_out=(),
        )


def results(accuracy=90.0, largest=34.0, images=300):
    """What is measured on the test images."""
    right = round(accuracy * images / 100)
    return {
        "accuracy": accuracy,
        "interval": [*tuning.wilson(right, images)],
        "chance": largest,
        "test_images": images,
        "labels": [0] * images,
        "predictions": [0] * right + [1] * (images - right),
    }


def model_of(made_of="", **options):
    about = {"made_of": made_of, "learning_rate": 0.01, "seconds": 2.0}
    return Finetuned(Weights(**options), ("class0", "class1", "class2"), 32, about=about)


def training(monkeypatch, facts=None, **options):
    """Training takes no time, and gives this."""
    found = facts or results()

    def trained(entry, settings, *, made_of, **others):
        return model_of(made_of, **options)

    monkeypatch.setattr(tuning, "train", trained)
    monkeypatch.setattr(tuning, "evaluate", lambda model, settings: model.with_facts(**found))
    monkeypatch.setattr(tuning, "probe", lambda entry, settings: None)


def finetune(*words, target="folder:x/pics"):
    options = ["--steps", "4", "--batch-size", "8", "--learning-rate", "0.01"]
    return main(["finetune", "bank.toml", "a", target, *options, *words])


PLACES = {
    "a folder": (lambda path: path.mkdir(), "it is a folder"),
    "a pipe": (os.mkfifo, "it is not a regular file"),
    "in a file": (lambda path: path.parent.write_text(""), "Not a directory"),
    "a long name": (lambda path: None, "File name too long"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["finetune", "convert"])
def test_where_nothing_can_be_written_nothing_is_computed(
    place, command, bank, capsys, monkeypatch
):
    def computed(*args, **options):
        raise AssertionError

    monkeypatch.setattr(tuning, "train", computed)
    monkeypatch.setattr("jaxparc.weights.load", computed)
    make, reason = PLACES[place]
    path = bank.path / "out" / ("n" * 250 if place == "a long name" else "w")
    path = path.with_suffix(".safetensors")
    if place != "in a file":
        path.parent.mkdir()
    make(path)
    words = ["--out", str(path)] if command == "finetune" else []
    code = finetune(*words) if words else main(["convert", "a.bin", str(path)])
    assert code == 1
    assert capsys.readouterr().err == f"jaxparc: cannot write {path}: {reason}\n"


def test_weights_go_elsewhere_where_the_disk_fills_up_on_the_way(bank, capsys, monkeypatch):
    training(monkeypatch)
    monkeypatch.setattr("jaxparc.weights.load", lambda *args, **options: Weights())
    with tiny_disk(bank.path / "disk"):
        assert finetune("--out", "disk/w.safetensors") == 1
        out, err = capsys.readouterr()
        assert out.startswith("a on pics: 90.00 % of the test images, 95 % interval 86.1 to 92.9\n")
        other = bank.path / f"w-{os.getpid()}.safetensors"
        full = "cannot write disk/w.safetensors: No space left on device"
        said = f"{full}; the weights are in {other}"
        assert err == f"jaxparc: {said}\n"
        assert other.stat().st_size > 200_000
        assert list((bank.path / "disk").iterdir()) == []
        other.unlink()
        words = ["convert", "a.bin", "disk/w.safetensors", "--architecture", "resnet18"]
        assert main(words) == 1
        assert capsys.readouterr().err == f"jaxparc: {said}\n"
        # a full disk is seen before
        (bank.path / "disk" / "full").write_bytes(bytes(16 * 4096))
        assert main(words) == finetune("--out", "disk/w.safetensors") == 1
        assert capsys.readouterr().err == 2 * f"jaxparc: {full}\n"


def test_weights_that_fit_nowhere_are_one_line(bank, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    training(monkeypatch)
    monkeypatch.setattr("jaxparc.weights.native.save", full)
    assert finetune() == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"No space left on device; nor in {bank.path} or " in err
    assert not (bank.path / "finetuned").exists()


@pytest.mark.parametrize(
    ("accuracy", "largest", "images", "said"),
    [
        (10.8, 10.0, 500, True),
        (10.8, 10.0, 100_000, False),
        (9.0, 10.0, 100_000, True),
        (60.0, 58.0, 200, True),  # of unequal classes
        (90.0, 34.0, 10, False),
    ],
)
def test_accuracy_at_chance_level_is_said(
    accuracy, largest, images, said, bank, capsys, monkeypatch
):
    training(monkeypatch, results(accuracy, largest, images))
    assert finetune() == 0
    out = capsys.readouterr().out
    share = (
        f"chance level: {largest} %, the share of the largest class in the {images:,} test images"
    )
    assert share in out
    assert ("this is at chance level; another --learning-rate" in out) == said


def test_no_two_trainings_share_a_file(bank, capsys, monkeypatch):
    pictures(bank.path / "y" / "pics", seed=1)
    training(monkeypatch)
    assert finetune() == finetune(target="folder:y/pics") == finetune("--seed", "1") == 0
    assert len(list((bank.path / "finetuned").iterdir())) == 3
    assert finetune() == 0
    (bank.path / "a.bin").write_bytes(b"other weights")
    assert finetune() == 0
    assert len(list((bank.path / "finetuned").iterdir())) == 4


def test_two_trainings_at_once_do_not_write_one_file(bank, capsys):
    with _alone_at(
        bank.path / "w.safetensors", bank.path / ".w.safetensors.partial", bank.path / "none"
    ):
        assert finetune("--out", "w.safetensors") == 1
    said = (
        "another process is training weights for w.safetensors; wait for it, or give another --out"
    )
    assert capsys.readouterr().err == f"jaxparc: {said}\n"


def test_an_interrupted_training_that_cannot_be_kept_says_so(bank, capsys, monkeypatch):
    def full(*args, **options):
        interrupts._state["came"] = True
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(interrupts._state, "came", False)
    monkeypatch.setattr(tuning, "train", full)
    assert finetune() == 130
    said = "interrupted; 0 of 4 steps were done and cannot be saved: No space left on device"
    assert capsys.readouterr().err == f"jaxparc: {said}\n"


def test_an_interrupt_while_the_accuracy_is_measured_keeps_the_weights(bank, capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    training(monkeypatch)
    monkeypatch.setattr(tuning, "evaluate", interrupted)
    assert finetune("--out", "w.safetensors") == 130
    said = "interrupted; the weights were written to w.safetensors"
    assert capsys.readouterr().err == f"jaxparc: {said}\n"
    assert (bank.path / "w.safetensors").stat().st_size > 200_000
    assert not (bank.path / ".w.safetensors.partial").exists()


@pytest.mark.parametrize("saved", [False, True])
def test_an_interrupted_training_goes_on(saved, bank, capsys, monkeypatch):
    places = []

    def interrupted(entry, settings, *, made_of, partial, watch, **options):
        places.append(partial)
        if len(places) > 1:
            return model_of(made_of)
        watch(0.01, Steps(2, {"loss": np.zeros((1, 1))}, 8, 1.0))
        if saved:
            partial.mkdir()
        raise KeyboardInterrupt

    training(monkeypatch)
    monkeypatch.setattr(tuning, "train", interrupted)
    assert finetune() == 130
    said = "saved, and the same command resumes" if saved else "done"
    assert f"interrupted; 3 of 4 steps {'are' if saved else 'were'} {said}\n" in (
        capsys.readouterr().err
    )
    assert (bank.path / "finetuned").exists() == saved
    assert finetune() == 0
    assert places[0] == places[1]
    assert finetune() == 0  # already fine-tuned
    assert len(places) == 2
    (path,) = (bank.path / "finetuned").iterdir()
    path.unlink()
    monkeypatch.setattr(bank_features, "package", lambda: "another version")
    assert finetune() == 0
    assert places[0] != places[2]
    assert len(list((bank.path / "finetuned").iterdir())) == 1
