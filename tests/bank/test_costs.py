"""What a model costs."""

from jaxparc.bank import costs
from jaxparc.bank.toml_file import Entry


def test_a_stopwatch_leaves_out_the_first_call(monkeypatch):
    clock = iter([10.0, 30.0])  # at the second call, and at the end
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock))
    watch = costs.Stopwatch(lambda batch: 2 * batch)
    assert watch(1) == 2
    assert watch.rate(100) is None
    assert [watch(2), watch(3)] == [4, 6]
    assert watch.rate(100) == 5


def test_facts_are_known_as_far_as_they_are(tmp_path):
    entry = Entry("a", "resnet18", tmp_path / "w", licence="MIT", size=32)
    found = costs.facts_of(entry, tmp_path, "x")
    assert found[:1] + found[2:] == (11_689_512, None, None, "MIT", None)
    assert found.gmacs is not None
    entry.weights.write_bytes(bytes(2500))
    costs.write_speed(tmp_path, "a", "x", 3.5)
    assert costs.facts_of(entry, tmp_path, "x")[2:4] == (3.5, 0.0025)
    assert costs.facts_of(entry, tmp_path, "y")[2:4] == (None, 0.0025)
