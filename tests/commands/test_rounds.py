"""The command rank with --race and --budget: fewer images of models that are surely worse."""

import csv
import json
import time

import numpy as np
import pytest
import tiny_bank

from jaxparc import weights
from jaxparc.bank import features as bank_features
from jaxparc.bank import sources
from jaxparc.commands import jobs, rounds
from jaxparc.datasets import user_images
from jaxparc.errors import InputError

rank = tiny_bank.rank
STRENGTH = {"a": 3, "b": 0.3, "c": 3.3}  # how far a model keeps classes apart
MANY = {"images": "150"}


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """Three models, of which b is far worse; 150 images, in batches of 32."""
    made = tiny_bank.three_models(tmp_path, monkeypatch)
    tiny_bank.pictures(tmp_path / "x" / "pics", (80, 80, 80))
    user_images.open_set.cache_clear()
    made.parts = []

    def features_of(entry, probe, rows, batch_size, load, on_images):
        if entry.name in made.failing:
            raise InputError("no")
        made.parts.append((entry.name, rows.start, rows.stop))
        rng = np.random.default_rng([*entry.weights.read_bytes()])
        x = rng.normal(size=(len(probe.labels), 8)).astype(np.float32)
        x += STRENGTH[entry.name] * np.eye(3, 8, dtype=np.float32)[probe.labels]
        time.sleep(made.seconds * (rows.stop - rows.start))
        return {"features": x[rows]}, ()

    made.failing, made.seconds = set(), 0
    monkeypatch.setattr(bank_features, "_extract", features_of)
    return made


def table(folder):
    with (folder / "ranking.csv").open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def test_a_race_extracts_no_image_twice_and_makes_the_same_files(bank, capsys):
    assert rank("--race", "--out", "f", **MANY) == 0
    out = capsys.readouterr().out
    assert "Fine-tune " in out
    assert "surely worse" in out
    assert bank.parts == [
        *((name, 0, 64) for name in "abc"),
        ("c", 64, 150), ("a", 64, 150),
    ] or bank.parts == [
        *((name, 0, 64) for name in "abc"),
        ("a", 64, 150), ("c", 64, 150),
    ]  # fmt: skip
    found = table(bank.path / "f")
    assert (found["b"]["seen"], found["b"]["dropped"]) == ("64", "surely worse")
    assert found["b"]["rank"] == ""
    assert float(found["b"]["parc_f32"])
    assert {found[name]["seen"] for name in "ac"} == {"150"}
    assert not (bank.path / "f" / "b.npz").exists()
    models = json.loads((bank.path / "f" / "ranking.json").read_text())["models"]
    assert models[-1]["dropped"] == "surely worse"
    assert "surely worse" in (bank.path / "f" / "index.html").read_text()
    bank.parts.clear()
    assert rank("--out", "g", **MANY) == 0
    for name in "ac":
        same = [(bank.path / folder / f"{name}.npz").read_bytes() for folder in "fg"]
        assert same[0] == same[1]
    assert len(bank.parts) == 3


def test_a_race_is_resumed_and_goes_on_to_all_images(bank):
    assert rank("--race", "--out", "f", **MANY) == 0
    bank.parts.clear()
    assert rank("--race", "--out", "f", **MANY) == 0
    assert bank.parts == []
    assert rank("--out", "f", **MANY) == 0
    assert bank.parts == [("b", 64, 150)]
    assert table(bank.path / "f")["b"]["rank"] == "3"
    bank.parts.clear()
    (bank.path / "f" / "first-64" / "a.npz").unlink()
    assert rank("--race", "--out", "f", **MANY) == 0
    assert bank.parts == []  # the first images are those of the whole file


def test_a_model_that_fails_is_out_with_the_others_ranked(bank, capsys):
    bank.failing = {"a"}
    assert rank("--race", "--out", "f", **MANY) == 1
    out, err = capsys.readouterr()
    assert "Fine-tune c. " in out
    assert err.endswith("jaxparc: 1 model failed: a\n")
    assert table(bank.path / "f")["a"]["dropped"] == "failed"
    bank.failing = set("abc")
    assert rank("--race", "--out", "g", **MANY) == 1
    assert "all 3 models failed: no (a, b, c)" in capsys.readouterr().err


def test_a_budget_ends_with_what_is_known(bank, capsys):
    bank.seconds = 0.004  # 0.26 s for 64 images
    assert rank("--budget", str(0.9 / 60), "--out", "f", **MANY) == 0
    out, err = capsys.readouterr()
    assert "Fine-tune " in out
    assert "note: time ran out after 64 of 150 images" in err
    assert {row["seen"] for row in table(bank.path / "f").values()} == {"64"}
    bank.parts.clear()
    assert rank("--budget", str(0.3 / 60), "--out", "g", **MANY) == 0
    assert len(bank.parts) < 3
    last = table(bank.path / "g")
    assert [row["dropped"] for row in last.values()].count("no time left") == 3 - len(bank.parts)
    assert "had no time to be compared" in capsys.readouterr().out


def test_features_of_other_images_are_not_overwritten(bank, capsys):
    assert rank("--budget", "1e-9", "--out", "f", **MANY) == 1
    assert (
        tiny_bank.messages(capsys.readouterr().err)
        == "jaxparc: --budget 1e-09 left no time for any model\n"
    )
    assert rank("--race", "--out", "f", **MANY) == 0
    (bank.path / "f" / "a.npz").unlink()
    (bank.path / "f" / "c.npz").unlink()
    assert rank("--race", "--seed", "1", "--out", "f", **MANY) == 2
    assert "f/first-64/a.npz was extracted from other images (first 64 of 150 images" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--race", "--probe-sets", "2"], "--race compares all models on one probe set"),
        (["--race", "--shard", "1/2"], "cannot be used with --shard"),
        (["--budget", "0"], "--budget is 0; expected minutes, above 0"),
        (["--budget", "nan"], "--budget is nan; expected minutes"),
        (["--race", "--methods", "leep"], "method 'leep' cannot be raced"),
    ],
)
def test_what_cannot_be_raced_is_refused_before_anything_runs(words, said, bank, capsys):
    assert rank(*words, "--out", "f", **MANY) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not bank.parts


def test_different_architectures_and_high_priors_run_first(tmp_path):
    text = ""
    for name, architecture, prior in (
        ("a", "resnet18", None),
        ("b", "resnet18", 70),
        ("c", "resnet50", 60),
        ("d", "resnet18", 75),
        ("e", "alexnet", None),
    ):
        text += f'[[model]]\nname = "{name}"\narchitecture = "{architecture}"\nweights = "w"\n'
        text += f"prior = {prior}\n" if prior else ""
    (tmp_path / "bank.toml").write_text(text)
    entries = sources.read([str(tmp_path / "bank.toml")])
    assert [entry.name for entry in jobs.in_order(entries)] == ["d", "c", "e", "b", "a"]


def test_the_prior_of_a_bank_is_added(bank, capsys):
    text = (bank.path / "bank.toml").read_text()
    head, *models = text.split("size = 32")
    with_priors = [f"size = 32\nprior = {70 + i}{model}" for i, model in enumerate(models[1:])]
    (bank.path / "bank.toml").write_text("".join([head, "size = 32", models[0], *with_priors]))
    assert rank("--methods", "parc_f2+p", "--out", "f", **MANY) == 0
    assert "parc_f2+p is NaN for a, without prior" in capsys.readouterr().err
    assert {row["rank"] for row in table(bank.path / "f").values()} == {"1", "2", ""}


def test_the_time_left_is_divided_over_the_rounds_and_machines():
    now = time.monotonic()
    clock = rounds._Clock(now + 100)
    clock.record({"a": 10, "b": 10, "c": 0}, 64, 20)
    # 50 s for the next round; a and b take 10 s each, c, which was there, the mean.
    assert clock.affordable(["a", "b", "c"], 128, 2) == 3
    assert clock.affordable(["a", "b", "c"] * 2, 128, 2) == 4
    assert clock.affordable(["a", "b", "c"], 64 + 640, 2) == 0
    clock.record({"a": 10, "b": 10}, 128, 10)  # two machines
    assert clock.affordable(["a", "b", "c"] * 4, 192, 2) == 9
    assert rounds._Clock(float("inf")).affordable(["a"], 64, 1) == 1


def test_weights_are_hashed_once_in_a_race(bank, monkeypatch):
    hashed = []
    fingerprint = weights.fingerprint

    def counted(path):
        hashed.append(path)
        return fingerprint(path)

    monkeypatch.setattr(weights, "fingerprint", counted)
    assert rank("--race", "--out", "f", **MANY) == 0
    assert sorted(path.name for path in hashed) == ["a.bin", "b.bin", "c.bin"]
