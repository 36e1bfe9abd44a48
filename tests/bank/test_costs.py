"""What a model costs."""

import numpy as np

from jaxparc import models
from jaxparc.bank import costs
from jaxparc.bank.entry import Counts, Entry
from jaxparc.bank.folder import arrays_of


def test_a_stopwatch_leaves_out_the_first_call(monkeypatch):
    clock = iter([0.0, 90.0, 91.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock))
    watch = costs.Stopwatch(lambda batch: 2 * batch)
    for _ in range(5):  # the first compiles, and two more start before it is finished
        assert list(watch(np.ones(40))) == [2] * 40
        assert watch.rate() is None
    watch(np.ones(7))  # the rest, whose end is not seen
    assert watch.rate() == 80 / 20


def test_facts_are_known_as_far_as_they_are(tmp_path):
    entry = Entry("a", "resnet18", tmp_path / "w", licence="MIT", size=32)
    found = costs.facts_of(entry, tmp_path, "x")
    assert found[:1] + found[2:] == (11_689_512, None, None, "MIT", None)
    assert found.gmacs is not None
    entry.weights.write_bytes(bytes(2500))
    costs.record(tmp_path, "a", "x", 3.5, Counts())
    assert costs.facts_of(entry, tmp_path, "x")[2:4] == (3.5, 0.0025)
    assert costs.facts_of(entry, tmp_path, "y")[2:4] == (None, 0.0025)


def test_a_folder_of_weights_is_as_large_as_its_files(tmp_path):
    entry = Entry("a", "resnet18", tmp_path / "hub", licence="MIT", size=32)
    entry.weights.mkdir()
    for name, size in (("model.json", 500), ("shard1", 1000), ("shard2", 1000)):
        (entry.weights / name).write_bytes(bytes(size))
    assert costs.facts_of(entry, tmp_path, "x").megabytes == 0.0025


def test_images_measure_how_fast_they_are_read(monkeypatch):
    clock = iter([0.0, 90.0, 91.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock))
    images = costs.TimedImages(np.ones((207, 2)))
    assert len(images) == 207
    for start in range(0, 200, 40):
        assert images[start : start + 40].shape == (40, 2)
        assert images.rate() is None
    assert images[200:].shape == (7, 2)
    assert images.rate() == 80 / 20


def test_a_network_is_counted_where_its_features_were_extracted(tmp_path, monkeypatch):
    """`score` imports no library that only the extraction needed."""
    (tmp_path / "models.csv").write_text("model,architecture,size\na,timm:x,\nb,resnet18,224\n")
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", features=np.ones((3, 2)), made_of="x")
    features = {name: arrays_of(tmp_path / f"{name}.npz")["features"] for name in "ab"}
    costs.record(tmp_path, "a", "x", None, Counts(7, 5_000_000, 0.25))
    counted, asked = costs._counted, []
    monkeypatch.setattr(costs, "_counted", lambda *cells: asked.append(cells) or counted(*cells))
    found = costs.recorded(tmp_path, features)
    assert found["a"][:2] == (5_000_000, 0.25)
    assert found["b"][:2] == (11_689_512, models.get("resnet18").gmacs)
    assert asked == [("resnet18", "224")]
